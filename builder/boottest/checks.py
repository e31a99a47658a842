"""Runs scripts of an operator's or an element's own in the guest, as root, and judges how they end.

A script tells what it found by its exit code (0: all is well), or in TAP, the Test Anything Protocol
(https://testanything.org, versions 12 to 14).
"""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from builder.bootorder import Check, Proof
from builder.boottest import proofs

#: Where scripts are in the guest: not /run, from which Debian executes nothing.
DIRECTORY: Final = "/var/tmp/imagepool-boot-test"
#: Seconds for one script.
LIMIT: Final = 180.0
#: Bytes of a script.
LARGEST: Final = 1 << 20
#: Bytes of a command line that carries a part of one; Linux takes 128 KiB in one word.
_PART: Final = 48 << 10

_PLAN: Final = re.compile(r"1\.\.(\d{1,9})\b")
_RESULT: Final = re.compile(r"(not )?ok\b(?:\s+(\d+))?(.*)")
_BAIL: Final = re.compile(r"Bail out!(.*)")
#: A test that need not pass, or was left out.
_EXCUSED: Final = re.compile(r"#\s*(?:todo|skip)", re.IGNORECASE)


def name_of(check: Check) -> str:
    """What the proof of a check is called."""
    return f"{proofs.CHECK} {check.name}"


def copying(check: Check, number: int) -> Iterator[str]:
    """Commands of root's shell that put the script of the n-th check into the guest; OSError when it can't
    be read or is too large."""
    with Path(check.path).open("rb") as stream:
        content = stream.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise OSError(27, f"a check has at most {LARGEST >> 10} KiB", check.path)
    target = shlex.quote(_target(number))
    yield f"install -d -m 0700 {DIRECTORY} && : >{target} && chmod 0700 {target}"
    encoded = base64.b64encode(content).decode()
    for start in range(0, len(encoded), _PART):
        yield f"printf %s {encoded[start : start + _PART]} | base64 -d >>{target}"


def running(number: int) -> str:
    """The command of root's shell that runs the n-th check."""
    return f"cd {DIRECTORY} && exec {shlex.quote(_target(number))} 2>&1 </dev/null"


def judge(check: Check, code: int, output: str) -> Proof:
    """Whether a script that ended so, and printed that, found all well."""
    lines = [line.rstrip() for line in output.splitlines() if line.strip()]
    name = name_of(check)
    problem = _tap_problem(lines) if _is_tap(lines) else None
    if problem is not None:
        return proofs.proof(name, False, problem, _telling(lines))
    if code != 0:
        return proofs.proof(name, False, f"it ended with exit code {code}", lines)
    return proofs.proof(name, True, "it found all well")


def not_in_time(check: Check, seconds: float) -> Proof:
    """The proof of a script that did not end."""
    return proofs.proof(name_of(check), False, f"it did not end within {seconds:.0f} s")


def not_copied(check: Check, why: str) -> Proof:
    """The proof of a script that could not be run."""
    return proofs.proof(name_of(check), False, f"it could not be copied into the guest: {why}")


def _target(number: int) -> str:
    return f"{DIRECTORY}/check-{number}"


def _is_tap(lines: list[str]) -> bool:
    return any(line.startswith("TAP version ") or _PLAN.match(line) for line in lines)


def _tap_problem(lines: list[str]) -> str | None:
    """What TAP says is wrong; None when nothing is."""
    bail = next((found for line in lines if (found := _BAIL.match(line))), None)
    if bail is not None:
        return f"it gave up: {bail[1].strip() or 'it does not say why'}"
    results = [found for line in lines if (found := _RESULT.match(line))]
    failed = [found for found in results if found[1] and not _EXCUSED.search(found[3])]
    if failed:
        told = ", ".join(_called(found, number) for number, found in enumerate(failed, 1))
        return f"{len(failed)} of its {len(results)} tests failed: {told}"
    planned = next((int(found[1]) for line in lines if (found := _PLAN.match(line))), len(results))
    if planned != len(results):
        return f"it planned {planned} tests and did {len(results)}"
    return None


def _called(result: re.Match[str], number: int) -> str:
    return result[3].strip(" -") or f"test {result[2] or number}"


def _telling(lines: list[str]) -> list[str]:
    """The results that are not ok with what is said of them, else the last lines."""
    found: list[str] = []
    telling = False
    for line in lines:
        result = _RESULT.match(line)
        if result is not None:
            telling = bool(result[1]) and not _EXCUSED.search(result[3])
        if telling or _BAIL.match(line):
            found.append(line)
    return found or lines
