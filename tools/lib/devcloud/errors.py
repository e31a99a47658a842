"""The one error of the development cloud: something a person has to read."""


class DevCloudError(Exception):
    """Says what failed, where, and what to do about it."""
