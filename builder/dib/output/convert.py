"""Make every wanted format from the raw image, at the same time, and describe what was made.

qemu-img reads the raw image once for each format; a file is hashed as soon as it is whole, while
its pages are still in memory, and raw itself while others are made from it. What is made and hashed
is handed on at once, however long the others take.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from builder.config.model import FormatOptions
from builder.dib.limits import LOOK, Limits
from builder.dib.output import inspect, parts, qemu, sparse
from builder.dib.output.hashing import Disk, hash_disk, hash_file
from builder.model import Artifact, BuildPhase, Failure, FailureClass, ImageFormat
from builder.process.child import Child, find_tool

#: Formats count in sectors: a raw image that ends within one gets its zeros up to the end of it.
_SECTOR: Final = 512
_GRACE: Final = 5.0

_CHECKABLE: Final = frozenset({ImageFormat.QCOW2, ImageFormat.VHDX, ImageFormat.VMDK})
#: Many clusters at a time, in whatever order they get done.
_COMPRESSED: Final = ("-c", "-m", "16", "-W")
_DEFAULTS: Final = FormatOptions()
_NO_OPTIONS: Final[Mapping[str, FormatOptions]] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Made:
    """The files that were made, and the seconds each step took, as "convert qcow2" or "hash raw"."""

    artifacts: Mapping[Path, Artifact]
    timings: Mapping[str, float]
    disk: Disk | None  #: None when nothing was wanted


@dataclass(frozen=True, kw_only=True)
class Listener:
    """What `make` tells while it works: on its caller's thread, but for `keep`."""

    on_phase: Callable[[BuildPhase], None] = lambda phase: None
    on_bytes: Callable[[int, int], None] = lambda done, total: None
    on_disk: Callable[[Disk], None] = lambda disk: None
    on_artifact: Callable[[Artifact], None] = lambda artifact: None
    #: Takes a file over as soon as it is made and hashed, on any thread, and several at a time.
    keep: Callable[[Path, Artifact, Limits], None] = lambda file, artifact, limits: None


_DEAF: Final = Listener()


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
        qemu.name_of(wanted),
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
    listener: Listener = _DEAF,
    prefix: Sequence[str] = (),
    nice: int = 0,
) -> Made:
    """Make and describe every wanted format beside the raw image.

    The raw image is itself the artifact when it is wanted, as a disk or as a root file system, and removed
    once nothing is made from it any more when it is not. One that ends within a sector gets its zeros first,
    as every format has them. What a format has for parts is described as it lies beside the raw image.

    The listener's `on_phase` is told HASH when the last conversion has ended; `on_bytes` how many bytes
    are done, and of how many, first of all conversions together (bytes of raw that are no holes), then
    of all hashes, at most each LOOK seconds; `on_disk` what they all hold, before the first
    `on_artifact`; `on_artifact` each file that `keep` has taken. Raw may still be read while `keep` has it.
    qemu-img runs behind `prefix` (such as ionice's command line), it and the hashing with at least
    the niceness `nice`.

    Raises ToolMissingError without qemu-img; OSError; and ActionFailedError when qemu-img fails,
    when what it made is not what was asked for, when a part is missing, or when the limits end it. What the
    callbacks raise passes through. All work has ended by then, but unfinished files are there.
    """
    if not wanted:
        return Made(artifacts={}, timings={}, disk=None)
    parts.require(raw, wanted)
    _fill_up(raw)
    return _Making(raw, parts.all_files(wanted), options, limits, tuple(prefix), listener).run(nice)


def _fill_up(raw: Path) -> None:
    rest = raw.stat().st_size % _SECTOR
    if rest:
        os.truncate(raw, raw.stat().st_size - rest + _SECTOR)


# -- one format ---------------------------------------------------------------------------------


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
        case _:
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
    said: deque[str] = deque(maxlen=qemu.LINES)
    program = find_tool(argv[0], package=qemu.PACKAGE)
    child = Child(
        [*prefix, program, *argv[1:]],
        env={**os.environ, "LC_ALL": "C"},
        cwd=target.parent,
        on_line=said.append,
    )
    code = limits.watch(child, grace=_GRACE, on_look=lambda: on_read(_bytes_read(child.pid)))
    if code != 0:
        raise qemu.gave_up(f"qemu-img could not make {wanted} from raw", code, said)


def _bytes_read(pid: int) -> int:
    """Bytes a process has read so far; 0 where the kernel does not tell (proc(5), /proc/pid/io)."""
    try:
        found = re.search(r"^rchar: (\d+)$", Path(f"/proc/{pid}/io").read_text(), re.M)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def _verify(target: Path, wanted: ImageFormat, expected: int) -> None:
    """Raise unless what was made has a disk of `expected` bytes and nothing broken in it."""
    size = inspect.virtual_size(target, wanted)
    if size != expected:
        raise qemu.gave_up(f"{target.name} has a disk of {size} bytes, not of {expected}", 0, ())
    if wanted in _CHECKABLE:
        answer = qemu.ask("check", target, wanted)
        if answer.code != 0:
            lines = [*answer.stdout.splitlines(), *answer.stderr.splitlines()]
            raise qemu.gave_up(f"qemu-img check finds {target.name} broken", answer.code, lines)


# -- all formats --------------------------------------------------------------------------------


class _Progress:
    """How far one format is; written by its thread, read by the caller's."""

    def __init__(self, to_convert: int) -> None:
        self.to_convert = to_convert  #: bytes; 0 for what is there already
        self.converted = 0
        self.to_hash = 0  #: bytes; known once it is converted
        self.hashed = 0
        self.is_whole = False  #: the file is made and checked


@dataclass(frozen=True, kw_only=True)
class _One:
    """What one thread has done."""

    file: Path
    timings: Mapping[str, float]
    artifact: Artifact | None = None
    disk: Disk | None = None


class _Making:
    """One call of `make`: a thread for each format, and one for the disk, watched from the caller's."""

    def __init__(
        self,
        raw: Path,
        wanted: Sequence[ImageFormat],
        options: Mapping[str, FormatOptions],
        limits: Limits,
        prefix: tuple[str, ...],
        listener: Listener,
    ) -> None:
        self._raw = raw
        self._options = options
        self._prefix = prefix
        self._stop = limits.stop
        self._limits = replace(limits, stop=self._why_stop)
        self._listener = listener
        self._given_up = threading.Event()
        self._hashing = False
        data = sparse.data_size(raw)
        self._size = raw.stat().st_size
        self._progress = {each: _Progress(data if _is_converted(each) else 0) for each in wanted}
        self._raw_is_wanted = any(each.is_verbatim for each in wanted)
        self._disk: Disk | None = None
        self._done: list[_One] = []
        self._told = 0

    def run(self, nice: int) -> Made:
        with ThreadPoolExecutor(
            len(self._progress) + 1, thread_name_prefix="convert", initializer=_stand_back, initargs=(nice,)
        ) as pool:
            jobs = [pool.submit(self._make_one, each) for each in self._progress]
            if not self._raw_is_wanted:
                jobs.append(pool.submit(self._hash_disk))
            try:
                self._follow(jobs)
            finally:
                # One that failed must not wait for the others; nor must a callback that raised.
                self._given_up.set()
        made = [job.result() for job in jobs]
        return Made(
            artifacts={one.file: one.artifact for one in made if one.artifact},
            timings={name: taken for one in made for name, taken in one.timings.items()},
            disk=self._disk,
        )

    # -- on the caller's thread -----------------------------------------------------------------

    def _follow(self, jobs: Sequence[Future[_One]]) -> None:
        """Report until all jobs are done; raises what the first one raises that fails."""
        rest = set(jobs)
        while rest:
            self._report()
            done, rest = wait(rest, timeout=LOOK, return_when=FIRST_COMPLETED)
            self._done += [job.result() for job in done]
            self._tell()
        self._report()

    def _tell(self) -> None:
        """Tell of files that are there, once it is known what is in them."""
        if self._disk is None:
            self._disk = next((one.disk for one in self._done if one.disk), None)
            if self._disk is None:
                return
            self._listener.on_disk(self._disk)
        for one in self._done[self._told :]:
            self._told += 1
            if one.artifact:
                self._listener.on_artifact(one.artifact)

    def _report(self) -> None:
        states = self._progress.values()
        if not self._hashing and all(state.is_whole for state in states):
            self._hashing = True
            self._listener.on_phase(BuildPhase.HASH)
        if self._hashing:
            done, total = sum(s.hashed for s in states), sum(s.to_hash for s in states)
        else:
            done, total = sum(s.converted for s in states), sum(s.to_convert for s in states)
        if self._hashing and self._disk and not self._raw_is_wanted:
            self._raw.unlink(missing_ok=True)
        if total:  # raw alone has nothing to convert
            self._listener.on_bytes(done, total)

    # -- on threads of their own ----------------------------------------------------------------

    def _why_stop(self) -> Failure | None:
        if self._given_up.is_set():
            return Failure(failure_class=FailureClass.CANCELLED, message="another format was not made")
        return self._stop()

    def _hash_disk(self) -> _One:
        began = time.monotonic()
        disk = hash_disk(self._raw, self._limits)
        return _One(file=self._raw, timings={"hash disk": time.monotonic() - began}, disk=disk)

    def _make_one(self, wanted: ImageFormat) -> _One:
        target = parts.beside(self._raw, wanted)
        progress = self._progress[wanted]
        timings: dict[str, float] = {}
        began = time.monotonic()
        if _is_converted(wanted):
            self._convert_one(target, wanted, progress)
            timings[f"convert {wanted}"] = time.monotonic() - began
        if not wanted.is_part:
            _verify(target, wanted, self._size)
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
            virtual_size=hashes.size if wanted.is_part else self._size,
            md5=hashes.md5,
            sha256=hashes.sha256,
            sha512=hashes.sha512,
        )
        self._listener.keep(target, artifact, self._limits)
        disk = Disk(sha256=hashes.sha256, size=self._size) if wanted.is_verbatim else None
        return _One(file=target, timings=timings, artifact=artifact, disk=disk)

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


def _is_converted(wanted: ImageFormat) -> bool:
    """Whether qemu-img makes it."""
    return not (wanted.is_verbatim or wanted.is_part)


def _stand_back(nice: int) -> None:
    # Linux means the calling thread alone, and what it starts: threads and processes (setpriority(2)).
    os.setpriority(os.PRIO_PROCESS, 0, max(nice, os.getpriority(os.PRIO_PROCESS, 0)))
