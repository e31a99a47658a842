"""Puts many questions to a guest's shell in one go, and tells the answers apart."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True)
class Said:
    """How a command ended in the guest, and what it printed on both streams, without the last newlines."""

    code: int
    text: str

    @property
    def lines(self) -> tuple[str, ...]:
        """The lines that say something."""
        return tuple(line.rstrip() for line in self.text.splitlines() if line.strip())


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
    pattern = rf"^{re.escape(mark)} ([a-z].*)\n((?:.*\n)*?){re.escape(mark)} (\d+)$"
    found = re.findall(pattern, text, re.MULTILINE)
    return MappingProxyType({name: Said(code=int(code), text=said.strip("\n")) for name, said, code in found})


def as_root(command: str) -> str:
    """A command line by which a user who may use sudo without a password has root's shell run it."""
    return f"sudo -n sh -c {shlex.quote(command)}"
