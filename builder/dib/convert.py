"""Make every other format from the raw image, and take the hashes of what was made."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builder.dib.limits import Limits
from builder.errors import ActionFailedError
from builder.model import Artifact, Failure, FailureClass, ImageFormat
from builder.process.child import Child, find_tool, run

_CHUNK: Final = 4 << 20
_INFO_TIMEOUT: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class _Format:
    qemu: str  #: qemu-img's name of it
    options: tuple[str, ...] = ()


_FORMATS: Final[Mapping[ImageFormat, _Format]] = {
    # Compressed with zstd on many coroutines, ten times as fast as zlib on one and no larger; any
    # QEMU since 5.1 reads it.
    ImageFormat.QCOW2: _Format(qemu="qcow2", options=("-c", "-m", "16", "-W", "-o", "compression_type=zstd")),
    ImageFormat.RAW: _Format(qemu="raw"),
    # Without force_size, qemu-img rounds the size to a disk geometry, and clouds refuse the image.
    ImageFormat.VHD: _Format(qemu="vpc", options=("-o", "subformat=fixed,force_size=on")),
    ImageFormat.VHDX: _Format(qemu="vhdx", options=("-o", "subformat=dynamic")),
    ImageFormat.VMDK: _Format(qemu="vmdk", options=("-o", "subformat=streamOptimized")),
}


@dataclass(frozen=True, kw_only=True)
class Hashes:
    """Hex digests of one file."""

    size: int  #: bytes that were hashed
    md5: str
    sha256: str
    sha512: str


def arguments(raw: Path, target: Path, wanted: ImageFormat) -> tuple[str, ...]:
    """The qemu-img command line that makes `target` in a format from a raw image."""
    spec = _FORMATS[wanted]
    return ("qemu-img", "convert", "-f", "raw", "-O", spec.qemu, *spec.options, str(raw), str(target))


def convert(raw: Path, target: Path, wanted: ImageFormat, limits: Limits) -> None:
    """Make `target` in a format from a raw image.

    Raises ToolMissingError without qemu-img, and ActionFailedError when it fails or the limits end it.
    """
    said: deque[str] = deque(maxlen=20)
    argv = arguments(raw, target, wanted)
    program = find_tool(argv[0], package="qemu-utils")
    child = Child([program, *argv[1:]], env=os.environ, cwd=target.parent, on_line=said.append)
    code = limits.watch(child, grace=5.0)
    if code != 0:
        raise _conversion_failed(f"qemu-img could not make {wanted} from raw", code, said)


def inspect(path: Path, wanted: ImageFormat) -> int:
    """The virtual size in bytes of an image in a known format.

    The format is never guessed: a raw image whose content looks like another format is raw all the
    same. Raises ActionFailedError when it is not readable as that format.
    """
    program = find_tool("qemu-img", package="qemu-utils")
    answer = run(
        [program, "info", "--output=json", "-f", _FORMATS[wanted].qemu, str(path)], timeout=_INFO_TIMEOUT
    )
    if answer.code != 0:
        raise _conversion_failed(
            f"{path.name} is no usable {wanted} image", answer.code, answer.stderr.splitlines()
        )
    return int(json.loads(answer.stdout)["virtual-size"])


def hash_file(path: Path, limits: Limits | None = None) -> Hashes:
    """All hashes of a file in one read, each on a thread of its own.

    Raises OSError, and ActionFailedError when the limits end it.
    """
    sums = [hashlib.md5(usedforsecurity=False), hashlib.sha256(), hashlib.sha512()]
    size = 0
    with path.open("rb", buffering=0) as stream, ThreadPoolExecutor(len(sums)) as pool:
        while chunk := stream.read(_CHUNK):
            if limits is not None:
                limits.check()
            size += len(chunk)
            for update in [pool.submit(one.update, chunk) for one in sums]:
                update.result()
    md5, sha256, sha512 = (one.hexdigest() for one in sums)
    return Hashes(size=size, md5=md5, sha256=sha256, sha512=sha512)


def make(raw: Path, wanted: Sequence[ImageFormat], limits: Limits) -> Mapping[Path, Artifact]:
    """Make and describe every wanted format beside the raw image, in parallel; files to artifacts.

    The raw image itself is used as it is. Raises what `convert` and `inspect` raise, once all of
    them have ended.
    """
    with ThreadPoolExecutor(max(len(wanted), 1), thread_name_prefix="convert") as pool:
        return dict(pool.map(lambda one: _make_one(raw, one, limits), wanted))


def _make_one(raw: Path, wanted: ImageFormat, limits: Limits) -> tuple[Path, Artifact]:
    target = raw.with_name(f"{raw.name.removesuffix('.raw')}.{wanted}")
    if wanted is not ImageFormat.RAW:
        convert(raw, target, wanted, limits)
    virtual_size = inspect(target, wanted)
    hashes = hash_file(target, limits)
    return target, Artifact(
        format=wanted,
        size=hashes.size,
        virtual_size=virtual_size,
        md5=hashes.md5,
        sha256=hashes.sha256,
        sha512=hashes.sha512,
    )


def _conversion_failed(message: str, code: int, lines: Sequence[str] | deque[str]) -> ActionFailedError:
    full = any("No space left on device" in line for line in lines)
    failure = Failure(
        failure_class=FailureClass.DISK if full else FailureClass.TOOL,
        message=f"{message}: the disk is full" if full else message,
        step="qemu-img",
        exit_code=code,
        lines=tuple(lines)[-20:],
    )
    return ActionFailedError(message, failure)
