"""Read what a build prints as it comes: keep it in a file, know where it is, tell why it failed."""

from __future__ import annotations

import json
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from builder.config.model import MASK
from builder.model import BuildPhase, Failure, FailureClass

_LINES_THAT_MATTER: Final = 20
_MESSAGE_LIMIT: Final = 240

#: dib's hook directories, in its order, and the phase each belongs to.
_HOOKS: Final = {
    "root": BuildPhase.BOOTSTRAP,
    "extra-data": BuildPhase.PACKAGES,
    "pre-install": BuildPhase.PACKAGES,
    "install": BuildPhase.PACKAGES,
    "post-install": BuildPhase.PACKAGES,
    "post-root": BuildPhase.PACKAGES,
    "block-device": BuildPhase.FINALISE,
    "pre-finalise": BuildPhase.FINALISE,
    "finalise": BuildPhase.FINALISE,
    "cleanup": BuildPhase.FINALISE,
}
_ORDER: Final = tuple(BuildPhase)

_STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \| ")
_COPYING = re.compile(r"Copying hooks (?:\S*/)?([^/\s]+)/([a-z-]+\.d)/([^/\s]+)$")
_HOOKS_FROM = re.compile(r"Running hooks from \S+/([a-z-]+)\.d$")
_RUNNING = re.compile(r"dib-run-parts Running (?:\S*/)?([a-z-]+)\.d/([^/\s]+)$")
_COMPLETED = re.compile(r"dib-run-parts \S+ completed$")
_BLOCK_DEVICE = re.compile(r"Calculating image size|blockdevice \[-\] create\(\) called")
#: The shell's trace, dib's chatter about itself and its timing tables: never the cause.
_NOISE = re.compile(r"\++ |dib-run-parts |(INFO|DEBUG) diskimage_builder\.|Copying hooks |\s*$")

#: What lines give a failure away, the plainest cause first. All are matched against single lines.
_SIGNS: Final[Sequence[tuple[FailureClass, re.Pattern[str]]]] = (
    (
        FailureClass.DISK,
        re.compile(r"No space left on device|Disk quota exceeded|don't have enough free space|ENOSPC", re.I),
    ),
    (
        FailureClass.MIRROR,
        re.compile(
            r"Failed to fetch|Temporary failure (resolving|in name resolution)|Could not resolve"
            r"|Unable to connect to|Connection (timed out|refused|failed)|Hash Sum mismatch"
            r"|does not have a Release file|is not (yet )?valid|is expired|NO_PUBKEY|is not signed"
            r"|Couldn't download|unable to access '|curl: \(\d+\)|All mirrors were tried|Cannot download"
            r"|Cannot retrieve .*metalink|Failed to download metadata|download failed"
            r"|Invalid Release (file|signature)|Failed getting release file",
            re.I,
        ),
    ),
    (
        FailureClass.PACKAGE,
        re.compile(
            r"Unable to locate package|has no installation candidate|unmet dependencies|held broken packages"
            r"|dpkg: error|dpkg returned an error code|No match for argument|Unable to find a match"
            r"|nothing provides|Couldn't find these debs|conflicting requests",
            re.I,
        ),
    ),
    (
        FailureClass.CONFIG,
        re.compile(
            r"Element '[^']*' not found|already provided by|include an operating system element"
            r"|element-info failed|InvalidElementDir|At least one distribution root element"
        ),
    ),
    (
        FailureClass.BOOTLOADER,
        re.compile(
            r"grub-\S+: error|grub2-\S+: error|/dev/mapper/control|device-mapper:|kpartx|losetup: "
            r"|BlockDeviceSetupException|sgdisk|partx: |mkfs\.\S+: |mke2fs: ",
        ),
    ),
    (
        FailureClass.TOOL,
        re.compile(r"command not found|executable (specified but|not found)|utility is not found"),
    ),
)

#: sudo works all the same; its "name resolution" is no mirror's.
_WARNING: Final = re.compile(r"sudo: unable to resolve host ")
#: A traceback of dib's own Python, dib-block-device above all, and how it ends.
_DIB_FRAME: Final = re.compile(r'\s+File "[^"]*/diskimage_builder/(?!elements/)')
_EXCEPTION: Final = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception)(?::|$)")

#: What $'...' of bash has a letter for, and neither JSON nor Python.
_ANSI_C: Final = {"\a": r"\a", "\v": r"\v", "\x1b": r"\E"}


class Masker:
    """Replaces secret values in text, in each way a shell's trace may write them."""

    def __init__(self, secrets: Iterable[str]) -> None:
        parts = {part for secret in secrets for part in (secret, *secret.splitlines()) if part.strip()}
        longest_first = ["".join(map(_written, part)) for part in sorted(parts, key=len, reverse=True)]
        self._pattern = re.compile("|".join(longest_first)) if longest_first else None

    def __call__(self, text: str) -> str:
        """`text` with every secret value replaced by stars."""
        return self._pattern.sub(MASK, text) if self._pattern else text


def _written(character: str) -> str:
    """A pattern for a character as shells, JSON and Python write it between quotes of theirs."""
    forms = [rf"\\?{re.escape(character)}"]
    if character == "'":
        forms += [re.escape(form) for form in ("'\\''", "'\"'\"'")]
    elif not (character.isascii() and character.isprintable()):
        octal = "".join(f"\\{byte:03o}" for byte in character.encode(errors="surrogateescape"))
        escapes = {octal, json.dumps(character)[1:-1], repr(character)[1:-1], _ANSI_C.get(character, octal)}
        forms += [re.escape(form) for form in sorted(escapes)]
    return f"(?:{'|'.join(forms)})"


class LogFile:
    """A log that can be read while it grows: a UTC time on each line, each line written at once."""

    def __init__(self, path: Path, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Open for appending, readable for owner and group. Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._stream = os.fdopen(descriptor, "a", encoding="utf-8", errors="replace", buffering=1)
        self._clock = clock
        self._lock = threading.Lock()
        self.broken: OSError | None = None

    def write(self, line: str) -> None:
        """Add a line. Never raises: a log that can't be written ends no build, `broken` tells of it."""
        stamp = self._clock().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        with self._lock:
            try:
                self._stream.write(f"{stamp} | {line}\n")
            except OSError as error:
                self.broken = error

    def close(self, ending: str) -> None:
        """Write the last line, which says how it ended, and close."""
        self.write(ending)
        try:
            self._stream.close()
        except OSError as error:
            self.broken = error


class Reader:
    """Knows from the lines so far which phase and step a disk-image-create is in.

    `step` is "element/hook.d/script", without the element where dib did not say whose script it is.
    """

    def __init__(self) -> None:
        self.phase = BuildPhase.PREPARE
        self.step: str | None = None
        self._owner: dict[str, str] = {}
        #: Lines without noise: since the step began, and at all.
        self._recent: deque[str] = deque(maxlen=300)
        self._tail: deque[str] = deque(maxlen=_LINES_THAT_MATTER)

    @staticmethod
    def bare(line: str) -> str:
        """A line without dib's own time, which it has when the diskimage asks for it."""
        return _STAMP.sub("", line, count=1) if _STAMP.match(line) else line

    def feed(self, line: str) -> None:
        """Take the next line, without a time before it."""
        if copying := _COPYING.match(line):
            element, hook, script = copying.groups()
            self._owner[f"{hook}/{script}"] = element
        elif hooks := _HOOKS_FROM.match(line):
            self._enter(_HOOKS.get(hooks[1]))
        elif running := _RUNNING.match(line):
            self._enter(_HOOKS.get(running[1]))
            where = f"{running[1]}.d/{running[2]}"
            owner = self._owner.get(where)
            self._begin(f"{owner}/{where}" if owner else where)
        elif _COMPLETED.match(line):
            self._begin(None)
        elif _BLOCK_DEVICE.search(line):
            self._enter(BuildPhase.FINALISE)
            self._begin("block-device")
        if not _NOISE.match(line):
            self._recent.append(line)
            self._tail.append(line)

    def diagnose(self, exit_code: int) -> Failure:
        """Why a disk-image-create that ended with `exit_code` failed, as far as its lines tell."""
        return diagnose(
            exit_code, phase=self.phase, step=self.step, recent=tuple(self._recent), tail=tuple(self._tail)
        )

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines that may matter."""
        return tuple(self._tail)

    def _enter(self, phase: BuildPhase | None) -> None:
        if phase is not None and _ORDER.index(phase) > _ORDER.index(self.phase):
            self.phase = phase

    def _begin(self, step: str | None) -> None:
        self.step = step
        self._recent.clear()


def diagnose(
    exit_code: int,
    *,
    phase: BuildPhase,
    step: str | None,
    recent: Sequence[str],
    tail: Sequence[str],
) -> Failure:
    """Why a disk-image-create failed: `recent` are the lines of the step it failed in, `tail` its last.

    A step that did not complete is the element's fault unless a line shows a plainer cause.
    """
    found = _find_sign(recent) or (_find_sign(tail) if step is None else None)
    if found is not None:
        failure_class, message = found
    elif step is not None:
        failure_class, message = FailureClass.ELEMENT, f"the script {step} failed"
    else:
        failure_class, message = FailureClass.UNKNOWN, "disk-image-create failed"
    if found is None and exit_code in (-9, 137):
        message += ": it was killed, perhaps because memory ran out"
    lines = tuple(recent or tail)[-_LINES_THAT_MATTER:]
    if found is not None and found[1] not in lines:
        lines = (found[1], *lines[1:])
    return Failure(
        failure_class=failure_class,
        message=message.strip()[:_MESSAGE_LIMIT],
        phase=phase,
        step=step,
        exit_code=exit_code,
        lines=lines,
    )


def _find_sign(lines: Sequence[str]) -> tuple[FailureClass, str] | None:
    latest_first = [line for line in reversed(lines) if not _WARNING.match(line)]
    for failure_class, sign in _SIGNS:
        for line in latest_first:
            if sign.search(line):
                return failure_class, line
    if any(_DIB_FRAME.match(line) for line in latest_first):
        for line in latest_first:
            if _EXCEPTION.match(line):
                return FailureClass.TOOL, line
    return None
