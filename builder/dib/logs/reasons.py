"""Know from what disk-image-create prints where it is, and why it failed.

dib runs with tracing on (-x), so its own steps are in its output as lines such as
"+ diskimage_builder/lib/disk-image-create:main:532 :   sudo cp -ra ..." beside what its scripts print
(lib/disk-image-create, lib/img-functions, lib/common-functions and lib/dib-run-parts of
diskimage-builder 3).
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from builder.model import BuildPhase, Failure, FailureClass

LINES_THAT_MATTER: Final = 20
#: Around a cause far from the end: lines before it, it and those after, and the last of all.
_BEFORE, _AROUND, _LAST = 4, 10, 9
#: Lines of a step that are looked at.
_MEMORY: Final = 400
_LINE_LIMIT: Final = 400
_MESSAGE_LIMIT: Final = 240

BLOCK_DEVICE: Final = "block-device"
COPY: Final = "copy"

#: dib's hook directories, in its order, and the phase each belongs to.
_HOOKS: Final = {
    "root": BuildPhase.BOOTSTRAP,
    "extra-data": BuildPhase.PACKAGES,
    "pre-install": BuildPhase.PACKAGES,
    "install": BuildPhase.PACKAGES,
    "post-install": BuildPhase.PACKAGES,
    "post-root": BuildPhase.PACKAGES,
    "block-device": BuildPhase.IMAGE,
    "pre-finalise": BuildPhase.FINALISE,
    "finalise": BuildPhase.FINALISE,
    "cleanup": BuildPhase.FINALISE,
}
_ORDER: Final = tuple(BuildPhase)

_STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \| ")
_COPYING = re.compile(r"Copying hooks (?:\S*/)?([^/\s]+)/([a-z-]+\.d)/([^/\s]+)$")
_COPYING_OF = re.compile(r"Copying hooks for (\S+)$")
_HOOKS_FROM = re.compile(r"Running hooks from \S+/([a-z-]+)\.d$")
_RUNNING = re.compile(r"dib-run-parts Running (?:\S*/)?([a-z-]+)\.d/([^/\s]+)$")
_SOURCING = re.compile(r"dib-run-parts Sourcing environment file (?:\S*/)?environment\.d/([^/\s]+)$")
_COMPLETED = re.compile(r"dib-run-parts \S+ completed$")
_SIZING = re.compile(r"Calculating image size|INFO \S+\.blockdevice \[-\] create\(\) called")

#: dib's own trace: the function it is in, and the command.
_DIB_TRACE = re.compile(r"\++ \S*diskimage_builder/lib/[\w.-]+:(\w+):\d+ +: +(.*)$")
_RUN_HOOKS = re.compile(r"(?:eval_)?run_d(?:_in_target)? ([a-z-]+)\b")
_BLOCK_DEVICE_COMMAND = re.compile(r"\S+ \S*dib-block-device\.py (\w+)$")
_TRACE = re.compile(r"\++ ")
#: Says nothing about what failed: the end of a script that knew it, and its own tracing.
_EMPTY_COMMAND = re.compile(r"\++ (?:exit|return|set|trap)\b")

#: A path in the directories that dib makes for this build alone; what is before them says nothing.
_OWN_PATH = re.compile(r"(?<![\w.-])/[^\s'\"\[]*/(dib_(?:build|image))\.\w{8}(?!\w)")

#: dib's chatter about itself, its timing tables and what package tools say about each package that is
#: well: never the cause.
_NOISE = re.compile(
    r"dib-run-parts |Copying hooks |\s*$|(?:INFO|DEBUG) diskimage_builder\.|Get:\d+ "
    r"|Selecting previously |\(Reading database |egrep: warning: egrep is obsolescent"
)

#: A Python traceback: its head, its frames (of dib's own code or not), and how it ends.
_TRACEBACK: Final = "Traceback (most recent call last):"
_FRAME = re.compile(r'\s+File "')
_DIB_FRAME = re.compile(r'\s+File "[^"]*/diskimage_builder/(?!elements/)')
_LIBRARY_FRAME = re.compile(r'\s+File "[^"]*/(?:site|dist)-packages/')
_DIB_EXCEPTION = re.compile(r"diskimage_builder\.\S+?: (?:exec_sudo failed: ?)?(?=\S)")
#: The commands that dib's own Python runs, and that it takes back what they did after one failed: what
#: it says from there on is no cause.
_CALLING = re.compile(r"INFO diskimage_builder\.\S+ \[-\] (Calling \[.*)")
_ROLLBACK: Final = "Create failed; rollback initiated"
_ROLLED_BACK: Final = "Rollback complete, exiting"
_DUPLICATE: Final = "There is a duplicated hook in your elements: "

#: Of no consequence. sudo works all the same; its "name resolution" is no mirror's.
_HARMLESS: Final = re.compile(r"sudo: unable to resolve host |Calling \[")
_WARNING: Final = re.compile(r"\s*(?:W:|[\w./-]*:? ?warning:|WARNING)", re.I)
_ERROR: Final = re.compile(r"(?:E: |fatal: |ERROR|Error: |curl: |cp: |tar: |dpkg: error|grub\S*: error)")
#: A line that says what went wrong, against one that only came last.
_COMPLAINT: Final = re.compile(
    r"error|fail|fatal|cannot|can't|could not|couldn't|unable|not found|no such|denied|unexpected|invalid"
    r"|missing|not there|unbound|refused|Killed",
    re.I,
)
_KILLED: Final = re.compile(r"line \d+: +\d+ Killed ")
#: What a file that is no YAML is told by: the error, and, lines below it, which file and where.
_YAML_ERROR: Final = re.compile(r"yaml\.\w+\.\w+Error")
_YAML_PLACE: Final = re.compile(r'\s+in "([^"]+)", line (\d+)')


@dataclass(frozen=True, kw_only=True)
class _Sign:
    """What lines give a failure of a class away; `last` lines only, when it may be harmless before."""

    failure_class: FailureClass
    pattern: re.Pattern[str]
    last: int = _MEMORY


#: How an element says that a variable is wrong, which only whoever set it can mend: docs/elements.md.
_WRONG_VARIABLE: Final = re.compile(r"^[a-z][a-z0-9-]*: (?:DIB_[A-Z0-9_]+ |(?:error|ERROR): .*\bDIB_[A-Z])")

#: The plainest cause first. All are matched against single lines.
_SIGNS: Final[Sequence[_Sign]] = (
    _Sign(
        failure_class=FailureClass.CONFIG,
        pattern=re.compile(
            r"Element '[^']*' not found|already provided by|include an operating system element"
            r"|ELEMENTS_PATH entry '[^']*' is not a directory|There is a duplicated hook in your elements"
            r"|At least one distribution root element|yaml\.\w+\.\w+Error"
        ),
    ),
    _Sign(failure_class=FailureClass.CONFIG, pattern=_WRONG_VARIABLE, last=3),
    _Sign(
        failure_class=FailureClass.DISK,
        pattern=re.compile(
            r"No space left on device|Disk quota exceeded|don't have enough free space|ENOSPC"
            r"|Input/output error|Total journal size too big for filesystem",
            re.I,
        ),
    ),
    _Sign(
        failure_class=FailureClass.MIRROR,
        pattern=re.compile(
            r"Failed to fetch|Temporary failure (resolving|in name resolution)|Could not resolve"
            r"|Name or service not known|Unable to connect to|(Could not|Failed to|Couldn't) connect to"
            r"|Connection (timed out|refused|failed|reset by peer)|No route to host|Network is unreachable"
            r"|Hash Sum mismatch|File has unexpected size|Clearsigned file isn't valid"
            r"|does not have a Release file|Release file for \S+ is (not valid yet|expired)|NO_PUBKEY"
            r"|is not signed|Couldn't download|unable to access '|curl: \(\d+\)|HTTP Error \d{3}"
            r"|The requested URL returned error|SSL certificate problem|certificate verify failed"
            r"|All mirrors were tried|Cannot download|Cannot retrieve .*metalink"
            r"|Failed to download metadata|download failed|Invalid Release (file|signature)"
            r"|Failed getting release file|git clone command failed after",
            re.I,
        ),
    ),
    _Sign(
        failure_class=FailureClass.PACKAGE,
        pattern=re.compile(
            r"Unable to locate package|has no installation candidate|unmet dependencies|held broken packages"
            r"|dpkg: error|dpkg-deb: error|dpkg returned an error code|Version '.*' for '.*' was not found"
            r"|No match for argument|Unable to find a match|nothing provides|Couldn't find these debs"
            r"|conflicting requests|Transaction test error|No matching distribution found for",
            re.I,
        ),
    ),
    _Sign(
        failure_class=FailureClass.TOOL,
        pattern=re.compile(
            r"mkfs: failed to execute|executable (specified but|not found)|utility is not found"
            r"|bad interpreter: |cannot execute: required file not found"
            r"|sudo: (a password|a terminal) is required|is not in the sudoers file"
        ),
    ),
    _Sign(
        failure_class=FailureClass.BOOTLOADER,
        pattern=re.compile(
            r"grub-\S+: error|grub2-\S+: error|/dev/mapper/control|device-mapper:|kpartx|losetup: "
            r"|BlockDeviceSetupException|sgdisk|partx: |mkfs\.\S+: |mke2fs: "
        ),
    ),
    # A script may ask for a program and do well without it.
    _Sign(failure_class=FailureClass.TOOL, pattern=re.compile(r"command not found"), last=3),
)


class Reader:
    """Knows from the lines so far which phase and step a disk-image-create is in, and what it said.

    `phase` is None until dib begins. `step` is "element/hook.d/script", without the element where dib
    did not say whose script it is; "block-device" and "copy" where dib makes the partitions and copies
    the tree into them. Both stay as they are once dib cleans up after a failure. All of it may be
    asked from any thread.
    """

    def __init__(self) -> None:
        self.phase: BuildPhase | None = None
        self.step: str | None = None
        self._owner: dict[str, str] = {}
        self._lock = threading.Lock()
        #: Lines without noise: since the step began, and at all.
        self._recent: deque[str] = deque(maxlen=_MEMORY)
        self._tail: deque[str] = deque(maxlen=LINES_THAT_MATTER)
        self._command = ""  #: the last that the trace tells: of the step's script, or of dib without a step
        self._element: str | None = None  #: whose hooks dib copies
        self._frames: list[str] | None = None  #: while a traceback goes on
        self._rolls_back = False  #: dib takes back what it made of a block device
        self._exception = ""  #: how a traceback of dib's own code ended
        self._over = False  #: dib has failed and cleans up

    @staticmethod
    def bare(line: str) -> str:
        """A line without dib's own time, which it has when the diskimage asks for it."""
        return _STAMP.sub("", line, count=1) if _STAMP.match(line) else line

    def feed(self, line: str, shown: str | None = None) -> None:
        """Take the next line, without a time before it; `shown` is what of it may be told."""
        if shown is None:
            shown = line
        with self._lock:
            if not self._over and not self._place(line, shown):
                self._remember(shown)

    def diagnose(self, exit_code: int, *, oom_killed: bool = False) -> Failure:
        """Why a disk-image-create that ended with `exit_code` failed, as far as its lines tell.

        `oom_killed`: the kernel has killed a process of it because its memory limit was reached.
        """
        with self._lock:
            return _diagnose(self._evidence(), exit_code, oom_killed)

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines that may matter: of the step it is in, if that said anything."""
        with self._lock:
            return _last_lines(self._evidence())

    def _evidence(self) -> _Evidence:
        return _Evidence(
            phase=self.phase,
            step=self.step,
            lines=tuple(self._recent) if self.step or self._recent else tuple(self._tail),
            command=self._command,
            exception=self._exception,
        )

    # -- where it is ---------------------------------------------------------------------------

    def _place(self, line: str, shown: str) -> bool:
        """Follow a line that tells where dib is; whether it was one."""
        if trace := _DIB_TRACE.match(line):
            self._follow(trace[1], trace[2], shown)
        elif copying := _COPYING.match(line):
            element, hook, script = copying.groups()
            self._owner[f"{hook}/{script}"] = element
        elif whose := _COPYING_OF.match(line):
            self._element = whose[1]
        elif hooks := _HOOKS_FROM.match(line):
            self._enter(_HOOKS.get(hooks[1]))
        elif running := _RUNNING.match(line):
            self._enter(_HOOKS.get(running[1]))
            self._begin_script(f"{running[1]}.d/{running[2]}")
        elif sourcing := _SOURCING.match(line):
            self._begin_script(f"environment.d/{sourcing[1]}")
        elif _COMPLETED.match(line):
            self._begin(None)
        elif _SIZING.match(line):
            self._enter(BuildPhase.IMAGE)
            self._begin(BLOCK_DEVICE)
        else:
            return False
        return True

    def _follow(self, function: str, command: str, shown: str) -> None:
        """Follow dib's own trace."""
        if command == "trap_cleanup":
            self._over = True
            return
        if hooks := _RUN_HOOKS.match(command):
            self._enter(_HOOKS.get(hooks[1]))
            self._begin(None)
        elif block_device := _BLOCK_DEVICE_COMMAND.match(command):
            self._enter(BuildPhase.IMAGE if block_device[1] == "create" else None)
            if self.step != BLOCK_DEVICE:
                self._begin(BLOCK_DEVICE)
        elif function == "create_base":
            self._enter(BuildPhase.BOOTSTRAP)
        elif function == "main" and command.startswith("sudo cp -ra "):
            self._enter(BuildPhase.IMAGE)
            self._begin(COPY)
        if self.step in (None, COPY) and function != "check_break":
            self._command = _OWN_PATH.sub(r"\1", shown.rpartition(" :   ")[2])

    def _enter(self, phase: BuildPhase | None) -> None:
        if phase is not None and (self.phase is None or _ORDER.index(phase) > _ORDER.index(self.phase)):
            self.phase = phase

    def _begin_script(self, where: str) -> None:
        owner = self._owner.get(where)
        self._begin(f"{owner}/{where}" if owner else where)

    def _begin(self, step: str | None) -> None:
        self.step = step
        self._recent.clear()
        self._command = self._exception = ""
        self._frames = None

    # -- what it said --------------------------------------------------------------------------

    def _remember(self, shown: str) -> None:
        # Of what draws over itself, as progress does, the last is what is seen.
        shown = shown.rstrip().rpartition("\r")[2]
        if self._frames is not None and shown.startswith(" "):
            self._frames.append(shown)
        elif shown == _TRACEBACK:
            self._frames = []
        elif _TRACE.match(shown):
            if self.step is not None and not _EMPTY_COMMAND.match(shown):
                self._command = shown.lstrip("+ ")
        elif _ROLLED_BACK in shown:
            self._over = True
        elif calling := _CALLING.match(shown):
            if not self._rolls_back:
                self._append(calling[1])
        elif not _NOISE.match(shown):
            self._keep(shown)

    def _keep(self, shown: str) -> None:
        if _ROLLBACK in shown:
            self._rolls_back = True
        elif self._frames is not None:
            self._end_traceback(self._frames, shown)
        elif self._exception.endswith("failed:"):
            # What a tool said begins in the next line.
            self._exception = self._recent[-1] = self._tail[-1] = f"{self._exception} {shown}"
        elif shown.startswith(_DUPLICATE):
            owner = self._owner.get(shown.removeprefix(f"{_DUPLICATE}/"))
            self._append(f"{shown} (of {owner} and {self._element})" if owner else shown)
        else:
            self._append(shown)

    def _end_traceback(self, frames: Sequence[str], exception: str) -> None:
        """Of a traceback, keep how it ends, and where if that is in the code of an element."""
        self._frames = None
        places = [line for line in frames if _FRAME.match(line)]
        if any(_DIB_FRAME.match(place) for place in places):
            self._exception = _OWN_PATH.sub(r"\1", exception)
        elif places and not _LIBRARY_FRAME.match(places[-1]):
            self._append(places[-1])
        self._append(exception)

    def _append(self, shown: str) -> None:
        line = _cut(_OWN_PATH.sub(r"\1", shown), _LINE_LIMIT)
        self._recent.append(line)
        self._tail.append(line)
        # What speaks is the command that was traced before; it needs no mention.
        self._command = ""


# -- why it failed -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Evidence:
    """What is known of a run of dib that ended: `lines` of the step it was in, or the last at all."""

    phase: BuildPhase | None
    step: str | None
    lines: tuple[str, ...]
    command: str
    exception: str


def _diagnose(seen: _Evidence, exit_code: int, oom_killed: bool) -> Failure:
    """A step that did not complete is the element's fault unless a line shows a plainer cause."""
    found = _find_sign(seen)
    killed = oom_killed or exit_code in (-9, 137) or any(_KILLED.search(line) for line in seen.lines[-3:])
    if killed and (found is None or oom_killed):
        failure_class, message, cause = _was_killed(seen, oom_killed)
    elif found is not None:
        failure_class, cause = found
        message = _DIB_EXCEPTION.sub("", cause, count=1) + _yaml_place(seen.lines, cause)
        if failure_class is FailureClass.DISK and _in_the_image(seen):
            failure_class, message = FailureClass.CONFIG, f"the image is too small for its content: {message}"
    else:
        failure_class, message, cause = _of_the_step(seen)
    return Failure(
        failure_class=failure_class,
        message=_cut(message.strip(), _MESSAGE_LIMIT),
        phase=seen.phase,
        step=seen.step,
        exit_code=exit_code,
        lines=_around(seen, cause) if found else _last_lines(seen),
    )


def _find_sign(seen: _Evidence) -> tuple[FailureClass, str] | None:
    """The plainest cause among the lines: its class and the line."""
    for sign in _SIGNS:
        lines = [line for line in seen.lines[-sign.last :] if sign.pattern.search(line)]
        lines = [line for line in lines if not _HARMLESS.match(line)]
        if lines:
            # What follows the first is what came of it; but who says "error" means it.
            cause = min(lines, key=_weight)
            if sign.failure_class is FailureClass.BOOTLOADER and seen.phase is None:
                # No device was touched yet: what dib was given makes no sense.
                return FailureClass.CONFIG, cause
            return sign.failure_class, cause
    if seen.exception:
        own = FailureClass.BOOTLOADER if seen.step == BLOCK_DEVICE else FailureClass.TOOL
        return own, seen.exception
    return None


def _yaml_place(lines: Sequence[str], cause: str) -> str:
    """Where the file is wrong that `cause` says is no YAML; else nothing."""
    if not _YAML_ERROR.search(cause):
        return ""
    places = [place for line in lines[lines.index(cause) :] if (place := _YAML_PLACE.match(line))]
    return f" in {places[-1][1]}, line {places[-1][2]}" if places else ""


def _weight(line: str) -> int:
    if _ERROR.match(line):
        return 0
    return 2 if _WARNING.match(line) else 1


def _in_the_image(seen: _Evidence) -> bool:
    """Whether what had no space was the image's own file system.

    A full disk below it shows as an input/output error there, if at all.
    """
    if seen.step == BLOCK_DEVICE:
        return any("Total journal size too big" in line for line in seen.lines)
    inside = seen.step == COPY or "finalise.d" in (seen.step or "").split("/")
    return inside and any("No space left on device" in line for line in seen.lines)


def _was_killed(seen: _Evidence, oom_killed: bool) -> tuple[FailureClass, str, str]:
    what = f"the script {seen.step}" if seen.step else "disk-image-create"
    why = "its memory limit was reached" if oom_killed else "perhaps because memory ran out"
    own = FailureClass.ELEMENT if seen.step else FailureClass.UNKNOWN
    return own, f"{what} was killed, {why}", ""


def _of_the_step(seen: _Evidence) -> tuple[FailureClass, str, str]:
    """The class and message where no line shows a cause."""
    what = f"the script {seen.step}" if seen.step else "disk-image-create"
    if seen.command:
        how = f" at: {seen.command}"
    elif seen.lines:
        how = f": {_complaint(seen.lines)}"
    else:
        how = " and said nothing"
    if seen.step is None:
        return FailureClass.UNKNOWN, f"{what} failed{how}", ""
    own = FailureClass.BOOTLOADER if _makes_bootable(seen.step) else FailureClass.ELEMENT
    return own, f"{what} failed{how}", ""


def _makes_bootable(step: str) -> bool:
    return step == BLOCK_DEVICE or step.split("/")[0] in ("bootloader", "grub2")


def _complaint(lines: Sequence[str]) -> str:
    """The last line that complains, near the end; else the last."""
    near = lines[-10:]
    return next((line for line in reversed(near) if _COMPLAINT.search(line)), near[-1] if near else "")


def _last_lines(seen: _Evidence) -> tuple[str, ...]:
    commands = (_cut(f"+ {seen.command}", _LINE_LIMIT),) if seen.command else ()
    return (*seen.lines[-(LINES_THAT_MATTER - len(commands)) :], *commands)


def _around(seen: _Evidence, cause: str) -> tuple[str, ...]:
    """The last lines; when the cause is not among them, those around it and the last."""
    if cause in seen.lines[-LINES_THAT_MATTER:]:
        return seen.lines[-LINES_THAT_MATTER:]
    first = max(seen.lines.index(cause) - _BEFORE, 0)
    after = len(seen.lines) - _LAST
    around = seen.lines[first : min(first + _AROUND, after)]
    return (*around, f"[{after - first - len(around)} lines]", *seen.lines[after:])


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
