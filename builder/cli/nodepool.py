"""Reads a command line as nodepool's users type it: `-c FILE` and `-s FILE` before one of its verbs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from builder.cli.registry import NODEPOOL

#: What `imagepool help` lists nodepool's commands under.
GROUP: Final = "nodepool"

_OPTIONS: Final = {"-c": "--config", "-s": "--secure"}
_VERBS: Final = frozenset(entry.name for entry in NODEPOOL)


def in_our_words(argv: Sequence[str]) -> list[str]:
    """The same command line with our options for nodepool's, if one of nodepool's verbs comes after them.

    After a verb, and before any command of ours, `-c` means what it always meant here.
    """
    ours: list[str] = []
    rest = list(argv)
    while rest and rest[0].startswith("-"):
        word = rest.pop(0)
        option = _OPTIONS.get(word[:2])
        if option is not None:
            ours += [option, word[2:]] if len(word) > 2 else [option, *rest[:1]]
            rest = rest if len(word) > 2 else rest[1:]
        else:
            ours.append(word)
            if word in _OPTIONS.values():
                ours += rest[:1]
                rest = rest[1:]
    return [*ours, *rest] if rest and rest[0] in _VERBS else list(argv)
