"""What a person has to read when the development cloud can't do as asked."""


class DevCloudError(Exception):
    """Says what failed, where, and what to do about it."""


def refusal(error: PermissionError) -> str:
    """What to do when the system denies access, which it does to another user than the one who began."""
    what = error.filename or "a process of another user"
    return f"{what}: permission denied; run this as the user who started it, or as root"
