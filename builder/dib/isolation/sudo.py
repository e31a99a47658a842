"""What a daemon that is not root has done by root: through sudo and the one program it allows."""

from __future__ import annotations

import json
import os
import pwd
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from builder.errors import ToolMissingError, UnavailableError
from builder.process.child import Completed, find_tool, run

#: The program that sudo has to allow; asroot.py is what it does.
PROGRAM: Final = "imagepool-root"
#: Seconds for sudo to find out who may do what, which may take a directory service.
_CHECK_TIMEOUT: Final = 30.0
#: How much of an answer that makes no sense goes into a message, in characters.
_SHOWN: Final = 200


def needed() -> bool:
    """Whether this process needs it at all."""
    return os.geteuid() != 0


def command(*words: str) -> list[str]:
    """The command line that has root do something. Raises ToolMissingError."""
    return [find_tool("sudo", package="sudo"), "--non-interactive", program(), *words]


def ask(*words: str, members: Collection[str], timeout: float) -> Mapping[str, Any]:
    """What the program answers within `timeout` seconds: a JSON object of just these `members`.

    Raises OSError with what it or sudo said when it fails or answers something else (TimeoutError
    when nothing), and ToolMissingError.
    """
    answer = run(command(*words), timeout=timeout)
    if answer.code != 0:
        raise OSError(first_line(answer))
    try:
        told = json.loads(answer.stdout)
    except ValueError as error:
        raise OSError(_unexpected(answer)) from error
    if not isinstance(told, dict) or told.keys() != set(members):
        raise OSError(_unexpected(answer))
    return told


def _unexpected(answer: Completed) -> str:
    said = answer.stdout[:_SHOWN]
    return f"{PROGRAM} answers {said!r}; is it, or are its files, of another version of imagepool?"


def program() -> str:
    """The path of the program, as sudo's rule must name it. Raises ToolMissingError."""
    # First of all beside this Python: another installation's would be another version.
    beside = Path(sys.executable).parent / PROGRAM
    return str(beside) if beside.is_file() else find_tool(PROGRAM)


def require() -> None:
    """Check that sudo lets us. Raises UnavailableError, whose hint is the rule that is missing."""
    path = _program_or_explain()
    try:
        answer = run(command("check"), timeout=_CHECK_TIMEOUT)
    except TimeoutError as error:
        raise UnavailableError(f"sudo does not answer: {error}", hint=_hint(path)) from error
    if answer.code != 0:
        raise UnavailableError(
            f"building images needs root, and sudo does not run {path}: {first_line(answer)}",
            hint=_hint(path),
        )


def first_line(answer: Completed) -> str:
    """What a program that failed said first, or else its exit code."""
    lines = f"{answer.stderr}\n{answer.stdout}".split("\n")
    return next((line.strip() for line in lines if line.strip()), f"exit code {answer.code}")


def _program_or_explain() -> str:
    try:
        return program()
    except ToolMissingError as error:
        raise UnavailableError(
            f"building images needs root, and the program {PROGRAM} that sudo would run is not installed",
            hint=f"Install imagepool with its programs, so that {PROGRAM} is beside {sys.executable}.",
        ) from error


def _hint(path: str) -> str:
    return (
        f"Allow it with a line in /etc/sudoers.d/imagepool: `{_user()} ALL=(root) NOPASSWD: {path}`;"
        " see docs/service-user.md. Or run imagepool as root, or leave the builder to another machine"
        " (--roles)."
    )


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"#{os.geteuid()}"
