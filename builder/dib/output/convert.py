"""Make every wanted format from the raw image, at the same time, and describe what was made.

qemu-img reads the raw image once for each format; a file is hashed as soon as it is whole, while
its pages are still in memory, and raw itself while others are made from it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from builder.config.model import FormatOptions
from builder.dib.limits import LOOK, Limits
from builder.dib.output import sparse
from builder.dib.output.hashing import hash_file
from builder.errors import ActionFailedError
from builder.model import Artifact, BuildPhase, Failure, FailureClass, ImageFormat
from builder.process.child import Child, Completed, find_tool, run

#: Formats count in sectors: a raw image that ends within one gets its zeros up to the end of it.
_SECTOR: Final = 512
#: What `qemu-img info` and `check` take is milliseconds, however large the image.
_LOOK_TIMEOUT: Final = 60.0
_GRACE: Final = 5.0
_LINES: Final = 20

_QEMU_NAMES: Final[Mapping[ImageFormat, str]] = {ImageFormat.VHD: "vpc"}
_CHECKABLE: Final = frozenset({ImageFormat.QCOW2, ImageFormat.VHDX, ImageFormat.VMDK})
#: Many clusters at a time, in whatever order they get done.
_COMPRESSED: Final = ("-c", "-m", "16", "-W")
_DEFAULTS: Final = FormatOptions()
_NO_OPTIONS: Final[Mapping[str, FormatOptions]] = MappingProxyType({})

_FULL: Final = re.compile(r"No space left on device|Disk quota exceeded")
_UNSUPPORTED: Final = re.compile(
    r"Invalid parameter|Unknown option|does not accept value|compression.type|Unknown file format", re.I
)


@dataclass(frozen=True, kw_only=True)
class Made:
    """The files that were made, and the seconds each step took, as "convert qcow2" or "hash raw"."""

    artifacts: Mapping[Path, Artifact]
    timings: Mapping[str, float]


def arguments(
    raw: Path, target: Path, wanted: ImageFormat, options: FormatOptions = _DEFAULTS
) -> tuple[str, ...]:
    """The qemu-img command line that makes `target` in a format from a raw image."""
    return (
        "qemu-img",
        "convert",
        "-f",
        "raw",
        "-O",
        _qemu_name(wanted),
        *_settings(wanted, options),
        str(raw),
        str(target),
    )


def make(
    raw: Path,
    wanted: Sequence[ImageFormat],
    *,
    options: Mapping[str, FormatOptions] = _NO_OPTIONS,
    limits: Limits,
    on_phase: Callable[[BuildPhase], None] = lambda phase: None,
    on_bytes: Callable[[int, int], None] = lambda done, total: None,
    prefix: Sequence[str] = (),
    nice: int = 0,
) -> Made:
    """Make and describe every wanted format beside the raw image.

    The raw image is itself the artifact when it is wanted, and removed once nothing is made from it
    any more when it is not. `on_phase` is told HASH when the last conversion has ended; `on_bytes`
    how many bytes are done, and of how many, first of all conversions together (bytes of raw that
    are no holes), then of all hashes: both on the caller's thread, at most each LOOK seconds.
    qemu-img runs behind `prefix` (such as ionice's command line), it and the hashing with at least
    the niceness `nice`.

    Raises ToolMissingError without qemu-img; OSError; and ActionFailedError when qemu-img fails,
    when what it made is not what was asked for, or when the limits end it. What the callbacks raise
    passes through. All work has ended by then, but unfinished files are there.
    """
    if not wanted:
        return Made(artifacts={}, timings={})
    return _Making(raw, wanted, options, limits, tuple(prefix), on_phase, on_bytes).run(nice)


def inspect(path: Path, wanted: ImageFormat) -> int:
    """The virtual size in bytes of an image in a known format.

    The format is never guessed: a raw image whose content looks like another format is raw all the
    same. Raises ActionFailedError when it is not readable as that format.
    """
    answer = _ask("info", path, wanted)
    if answer.code != 0:
        raise _failed(f"{path.name} is no usable {wanted} image", answer.code, answer.stderr.splitlines())
    return int(json.loads(answer.stdout)["virtual-size"])


# -- one format ---------------------------------------------------------------------------------


def _qemu_name(wanted: ImageFormat) -> str:
    return _QEMU_NAMES.get(wanted, str(wanted))


def _settings(wanted: ImageFormat, options: FormatOptions) -> tuple[str, ...]:
    match wanted:
        case ImageFormat.QCOW2:
            return _qcow2_settings(options)
        case ImageFormat.VHD:
            # With force_size the guest's disk is as large as raw and the file a footer of 512 bytes
            # larger; without, qemu rounds up to what cylinders, heads and sectors can express. Readers
            # that go by those instead of by the footer's size are told the largest there are, 127 GB
            # (QEMU, block/vpc.c, and qemu-img's own help).
            return ("-o", "subformat=fixed,force_size=on")
        case ImageFormat.VHDX:
            # Holes are counted in blocks. Smaller ones make a tenth less to send; Microsoft asks for
            # 1 MB where ext4 is in it ("Best practices for running Linux on Hyper-V").
            return ("-o", "subformat=dynamic,block_size=1M")
        case ImageFormat.VMDK:
            return ("-o", "subformat=streamOptimized")
        case ImageFormat.RAW:
            return ()


def _qcow2_settings(options: FormatOptions) -> tuple[str, ...]:
    compat = options.compat or "1.1"
    # On two cores zstd takes a sixth of the time of zlib, and a little less room; QEMU reads it
    # from 5.1 on.
    compression = options.compression or ("zlib" if compat == "0.10" else "zstd")
    if compression == "none":
        return ("-o", f"compat={compat}")
    # zlib is what qemu-img takes by itself; an old one does not even know the option.
    chosen = "" if compression == "zlib" else f",compression_type={compression}"
    return (*_COMPRESSED, "-o", f"compat={compat}{chosen}")


def _convert(
    argv: Sequence[str],
    target: Path,
    wanted: ImageFormat,
    *,
    prefix: Sequence[str],
    limits: Limits,
    on_read: Callable[[int], None],
) -> None:
    said: deque[str] = deque(maxlen=_LINES)
    program = find_tool(argv[0], package="qemu-utils")
    child = Child(
        [*prefix, program, *argv[1:]],
        env={**os.environ, "LC_ALL": "C"},
        cwd=target.parent,
        on_line=said.append,
    )
    code = limits.watch(child, grace=_GRACE, on_look=lambda: on_read(_bytes_read(child.pid)))
    if code != 0:
        raise _failed(f"qemu-img could not make {wanted} from raw", code, said)


def _bytes_read(pid: int) -> int:
    """Bytes a process has read so far; 0 where the kernel does not tell (proc(5), /proc/pid/io)."""
    try:
        found = re.search(r"^rchar: (\d+)$", Path(f"/proc/{pid}/io").read_text(), re.M)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def _verify(target: Path, wanted: ImageFormat, raw_size: int) -> int:
    """The virtual size of what was made from a raw image of that size; raises unless it is that."""
    expected = -(-raw_size // _SECTOR) * _SECTOR
    size = inspect(target, wanted)
    if size != expected:
        raise _failed(f"{target.name} has a disk of {size} bytes, not of {expected}", 0, ())
    if wanted in _CHECKABLE:
        answer = _ask("check", target, wanted)
        if answer.code != 0:
            lines = [*answer.stdout.splitlines(), *answer.stderr.splitlines()]
            raise _failed(f"qemu-img check finds {target.name} broken", answer.code, lines)
    return size


def _ask(verb: str, path: Path, wanted: ImageFormat) -> Completed:
    program = find_tool("qemu-img", package="qemu-utils")
    argv = [program, verb, "--output=json", "-f", _qemu_name(wanted), str(path)]
    try:
        return run(argv, timeout=_LOOK_TIMEOUT)
    except TimeoutError as error:
        message = f"qemu-img {verb} of {path.name} did not end within {_LOOK_TIMEOUT:.0f} s"
        raise _action_failed(FailureClass.TIMEOUT, message) from error


# -- all formats --------------------------------------------------------------------------------


class _Progress:
    """How far one format is; written by its thread, read by the caller's."""

    def __init__(self, to_convert: int) -> None:
        self.to_convert = to_convert  #: bytes; 0 for raw
        self.converted = 0
        self.to_hash = 0  #: bytes; known once it is converted
        self.hashed = 0
        self.is_whole = False  #: the file is made and checked


class _Making:
    """One call of `make`: a thread for each format, watched from the caller's."""

    def __init__(
        self,
        raw: Path,
        wanted: Sequence[ImageFormat],
        options: Mapping[str, FormatOptions],
        limits: Limits,
        prefix: tuple[str, ...],
        on_phase: Callable[[BuildPhase], None],
        on_bytes: Callable[[int, int], None],
    ) -> None:
        self._raw = raw
        self._options = options
        self._prefix = prefix
        self._stop = limits.stop
        self._limits = replace(limits, stop=self._why_stop)
        self._on_phase = on_phase
        self._on_bytes = on_bytes
        self._given_up = threading.Event()
        self._hashing = False
        data = sparse.data_size(raw)
        self._raw_size = raw.stat().st_size
        self._progress = {each: _Progress(0 if each is ImageFormat.RAW else data) for each in wanted}

    def run(self, nice: int) -> Made:
        with ThreadPoolExecutor(
            len(self._progress), thread_name_prefix="convert", initializer=_stand_back, initargs=(nice,)
        ) as pool:
            jobs = [pool.submit(self._make_one, each) for each in self._progress]
            try:
                self._follow(jobs)
            finally:
                # One that failed must not wait for the others; nor must a callback that raised.
                self._given_up.set()
        made = [job.result() for job in jobs]
        return Made(
            artifacts={file: artifact for file, artifact, _timings in made},
            timings={name: taken for _file, _artifact, timings in made for name, taken in timings.items()},
        )

    # -- on the caller's thread -----------------------------------------------------------------

    def _follow(self, jobs: Sequence[Future[tuple[Path, Artifact, Mapping[str, float]]]]) -> None:
        """Report until all jobs are done; raises what the first one raises that fails."""
        rest = set(jobs)
        while rest:
            self._report()
            done, rest = wait(rest, timeout=LOOK, return_when=FIRST_EXCEPTION)
            for job in done:
                job.result()
        self._report()

    def _report(self) -> None:
        states = self._progress.values()
        if not self._hashing and all(state.is_whole for state in states):
            self._hashing = True
            self._on_phase(BuildPhase.HASH)
            if ImageFormat.RAW not in self._progress:
                self._raw.unlink()
        if self._hashing:
            done, total = sum(s.hashed for s in states), sum(s.to_hash for s in states)
        else:
            done, total = sum(s.converted for s in states), sum(s.to_convert for s in states)
        if total:  # raw alone has nothing to convert
            self._on_bytes(done, total)

    # -- on a format's own thread ---------------------------------------------------------------

    def _why_stop(self) -> Failure | None:
        if self._given_up.is_set():
            return Failure(failure_class=FailureClass.CANCELLED, message="another format was not made")
        return self._stop()

    def _make_one(self, wanted: ImageFormat) -> tuple[Path, Artifact, Mapping[str, float]]:
        target = self._raw.with_name(f"{self._raw.name.removesuffix('.raw')}.{wanted}")
        progress = self._progress[wanted]
        timings: dict[str, float] = {}
        began = time.monotonic()
        if wanted is not ImageFormat.RAW:
            self._convert_one(target, wanted, progress)
            timings[f"convert {wanted}"] = time.monotonic() - began
        virtual_size = _verify(target, wanted, self._raw_size)
        progress.converted, progress.to_hash = progress.to_convert, target.stat().st_size
        progress.is_whole = True

        began = time.monotonic()

        def on_hashed(done: int) -> None:
            progress.hashed = done

        hashes = hash_file(target, self._limits, on_bytes=on_hashed)
        timings[f"hash {wanted}"] = time.monotonic() - began
        artifact = Artifact(
            format=wanted,
            size=hashes.size,
            virtual_size=virtual_size,
            md5=hashes.md5,
            sha256=hashes.sha256,
            sha512=hashes.sha512,
        )
        return target, artifact, timings

    def _convert_one(self, target: Path, wanted: ImageFormat, progress: _Progress) -> None:
        def on_read(count: int) -> None:
            # It reads a little more than the image: itself, and what it has written.
            progress.converted = min(count, progress.to_convert)

        _convert(
            arguments(self._raw, target, wanted, self._options.get(wanted, _DEFAULTS)),
            target,
            wanted,
            prefix=self._prefix,
            limits=self._limits,
            on_read=on_read,
        )


def _stand_back(nice: int) -> None:
    # Linux means the calling thread alone, and what it starts: threads and processes (setpriority(2)).
    os.setpriority(os.PRIO_PROCESS, 0, max(nice, os.getpriority(os.PRIO_PROCESS, 0)))


# -- failures -----------------------------------------------------------------------------------


def _failed(what: str, code: int, lines: Sequence[str] | deque[str]) -> ActionFailedError:
    """qemu-img's failure, with the reason that can be seen in what it said and how it ended."""
    text = "\n".join(lines)
    failure_class, why = FailureClass.TOOL, ""
    if _FULL.search(text):
        failure_class, why = FailureClass.DISK, "the disk is full"
    elif code < 0:
        # Whoever did it, the kernel when memory ran out or an operator, may not do it again.
        failure_class, why = FailureClass.UNKNOWN, f"it was ended by {_signal_name(-code)}"
    elif _UNSUPPORTED.search(text):
        why = _what_is_unsupported(text)
    return _action_failed(failure_class, f"{what}: {why}" if why else what, code, lines)


def _signal_name(number: int) -> str:
    name = signal.Signals(number).name
    return f"{name}, as the kernel does when memory runs out" if number == signal.SIGKILL else name


def _what_is_unsupported(text: str) -> str:
    if "compression" in text or "zstd" in text:
        return (
            "this qemu-img can't compress with zstd; install QEMU 5.1 or newer built with zstd,"
            " or set format-options: {qcow2: {compression: zlib}}"
        )
    return "this qemu-img does not know the format or an option of it; install a newer one (qemu-utils)"


def _action_failed(
    failure_class: FailureClass, message: str, code: int | None = None, lines: Sequence[str] | deque[str] = ()
) -> ActionFailedError:
    failure = Failure(
        failure_class=failure_class,
        message=message,
        step="qemu-img",
        exit_code=code,
        lines=tuple(lines)[-_LINES:],
    )
    return ActionFailedError(message, failure)
