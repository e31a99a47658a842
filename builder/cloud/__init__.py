"""Bringing an image into a cloud: the Cloud contract, its openstacksdk implementation, the transfer."""
