"""Reads settings of elements from the environment."""

from __future__ import annotations

from collections.abc import Mapping


class SettingError(Exception):
    """A variable has a value that means nothing, or what it names is not there."""


def number(environment: Mapping[str, str], name: str, default: float) -> float:
    """The value of a variable that is a number from 0 on, such as seconds or days. Raises SettingError."""
    text = environment.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise SettingError(f"{name} is {text!r}, but shall be a number")
    return value
