"""Reads the lists of what is to be cached, as lines or YAML; what an entry is, its element knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

#: Bytes; a thousand repositories take a hundred thousand.
LARGEST = 8 * 1024 * 1024


class ListError(Exception):
    """A list can't be read at all."""


def load(path: Path) -> str:
    """The text of a list in a file. Raises ListError."""
    try:
        with path.open("rb") as file:
            return decoded(file.read(LARGEST + 1), f"the list {path}")
    except OSError as error:
        raise ListError(f"the list {path} can't be read: {error.strerror}") from None


def decoded(content: bytes, name: str) -> str:
    """The text of a list of which at least LARGEST + 1 bytes were read. Raises ListError, with its name."""
    if len(content) > LARGEST:
        raise ListError(f"{name} is larger than {LARGEST} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ListError(f"{name} is not text in UTF-8") from None


def entries(text: str) -> list[Any]:
    """The lines that are no comments, or, where the first of them looks like YAML, the items of its list.

    Raises ListError for YAML that is not a list.
    """
    lines = [line.strip(" \t\r") for line in text.split("\n")]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines or not lines[0].startswith(("- ", "[", "---")):
        return lines
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        raise ListError(f"the list is not YAML{f', line {place.line + 1}' if place else ''}") from None
    if not isinstance(found, list):
        raise ListError("the list is YAML, but not a list")
    return found
