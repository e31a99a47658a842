"""Puts many questions to a guest's shell in one go, and tells the answers apart."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Said:
    """How a command ended in the guest, and what it printed on both streams, without the last newlines."""

    code: int
    text: str

    @property
    def lines(self) -> tuple[str, ...]:
        """The lines that say something."""
        return tuple(line.rstrip() for line in self.text.splitlines() if line.strip())


#: How a command ends, in the line that ends its answer.
_CODE: Final = re.compile(r"[0-9]{1,3}\Z")


def script(questions: Mapping[str, str], mark: str) -> str:
    """A script for any POSIX shell that answers every question, whatever becomes of one of them.

    Lines that begin with `mark` divide the answers: nobody in the guest can know it beforehand.
    """
    return "\n".join(
        f"echo {shlex.quote(f'{mark} {name}')}; ( {question}\n) 2>&1 </dev/null; code=$?; echo;"
        f' echo "{mark} $code"'
        for name, question in questions.items()
    )


def answers(text: str, mark: str) -> Mapping[str, Said]:
    """The answers by the names of the questions; those that are missing were not given."""
    found: dict[str, Said] = {}
    name, lines = "", list[str]()
    for line in text.split("\n"):
        if not line.startswith(f"{mark} "):
            lines.append(line)
            continue
        word = line.removeprefix(f"{mark} ")
        if name and _CODE.match(word):
            found[name] = Said(code=int(word), text="\n".join(lines).strip("\n"))
            name = ""
        else:
            name, lines = word, []
    return MappingProxyType(found)


def as_root(command: str) -> str:
    """A command line by which a user who may use sudo without a password has root's shell run it."""
    return f"sudo -n sh -c {shlex.quote(command)}"
