"""Keeps what was found out about commits and files, so that a build asks only about what is new."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from project_packages.asking import Answer


@dataclass(frozen=True)
class Found:
    """The bindep file of a commit: its name and hash, or why it can't be read; no name for none."""

    name: str = ""
    sha256: str = ""
    trouble: str = ""


class Kept:
    """Results of earlier builds of the same platform, by the same bindep, in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.answers: dict[str, Answer] = {}  #: by hash of the bindep file
        self.commits: dict[str, Found] = {}
        try:
            kept = json.loads(file.read_text())
            self.answers = {sha256: Answer(**answer) for sha256, answer in kept["answers"].items()}
            commits = {commit: Found(**found) for commit, found in kept["commits"].items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return  # as if nothing had been kept
        self.commits = {
            commit: found
            for commit, found in commits.items()
            if not found.sha256 or found.sha256 in self.answers
        }

    def save(self, commits: Mapping[str, Found], answers: Mapping[str, Answer]) -> None:
        """Keep the results of this build and no others."""
        good = {commit: asdict(found) for commit, found in commits.items() if not found.trouble}
        text = json.dumps(
            {"commits": good, "answers": {sha256: asdict(answer) for sha256, answer in answers.items()}}
        )
        new = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        new.write_text(text)
        new.replace(self._file)
