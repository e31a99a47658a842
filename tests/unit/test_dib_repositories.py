"""Repositories are asked for their heads, and nobody on the machine sees with which password."""

from __future__ import annotations

import base64
from pathlib import Path

from builder.dib.contents.deadline import Deadline
from builder.dib.contents.repositories import Repository, head

COMMIT = "c" * 40
#: A git that writes down how it was called, and knows one branch.
GIT = f"""#!/bin/bash
printf '%s\\n' "$@" > "${{0%/*}}/argv"
env > "${{0%/*}}/env"
printf '{COMMIT}\\trefs/heads/master\\n'
"""


def test_credentials_of_a_repository_are_in_no_argument(tmp_path: Path) -> None:
    git = tmp_path / "git"
    git.write_text(GIT)
    git.chmod(0o755)
    repository = Repository(
        name="thing", location="https://ci:tok%21en@git.test:8443/thing.git", reference="master"
    )
    deadline = Deadline(seconds=30, stop=lambda: None)

    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    assert head(repository, recorded=None, environment=environment, deadline=deadline) == COMMIT

    argv, passed = (tmp_path / "argv").read_text(), (tmp_path / "env").read_text()
    assert "https://git.test:8443/thing.git" in argv.splitlines()
    assert "tok" not in argv
    assert f"Basic {base64.b64encode(b'ci:tok!en').decode()}" in passed
