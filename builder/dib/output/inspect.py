"""Find out what an image file is, without trusting what is in it.

Neither question lets the file choose: `qemu-img` is always told which format to read it as, for a raw
disk may begin with anything, also with what looks like a qcow2 that backs onto /etc/shadow. What a
file looks like is read here, from its first and last bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from builder.dib.output import qemu
from builder.errors import ActionFailedError
from builder.model import Artifact, Failure, FailureClass, ImageFormat

#: How much of a file's begin and end tells what it is.
_HEAD: Final = 512
#: What a file begins with -> what readers that probe take it for. From the formats' specifications:
#: QEMU's docs/interop and block drivers, Microsoft's VHD and VHDX, VMware's Virtual Disk Format 5.0.
_BEGINNINGS: Final[Mapping[bytes, str]] = {
    b"QFI\xfb": "qcow2",
    b"vhdxfile": "vhdx",
    b"conectix": "vhd",
    b"KDMV": "vmdk",
    b"COWD": "vmdk",
    b"# Disk DescriptorFile": "vmdk",
    b"QED\0": "qed",
    b"LUKS\xba\xbe": "luks",
    b"WithoutFreeSpace": "parallels",
    b"WithouFreSpacExt": "parallels",
}
#: A VHD has its footer at the end; one of fixed size, as ours, there alone.
_VHD_FOOTER: Final = b"conectix"
_VDI: Final = b"\x7f\x10\xda\xbe"
_VDI_AT: Final = 64
#: Bit 2 of a qcow2's incompatible features: its data is in another file (QEMU, docs/interop/qcow2.txt).
_DATA_ELSEWHERE: Final = 4


def virtual_size(path: Path, wanted: ImageFormat) -> int:
    """The size in bytes of the disk in an image of a known format.

    The format is never guessed: a raw image whose content looks like another format is raw all the
    same. Raises ActionFailedError when it is not readable as that format.
    """
    return int(_info(path, wanted)["virtual-size"])


def whole_virtual_size(path: Path, wanted: ImageFormat) -> int:
    """The same, of a file of which nothing is on record: that it looks like the format, and needs no other
    file, is checked first.

    Raises as `check` does, and OSError.
    """
    size, head, tail = _ends_of(path)
    _check_outside(path, wanted, head, tail)
    if wanted.is_part:
        return size
    known = _info(path, wanted)
    _check_backing(path, known)
    return int(known["virtual-size"])


def check(path: Path, artifact: Artifact, image_format: ImageFormat) -> None:
    """Raise unless a file is what its record says, in the format that is wanted, and whole by itself.

    Takes some milliseconds: no content is hashed. Raises ActionFailedError, whose Failure names both
    values: of class CONFIG when the record is of another format than is wanted, of class DISK when the
    file is not what the record says (size, what it looks like, virtual size), is not there, or needs
    another file (a backing file, external data); ToolMissingError without qemu-img.
    """
    if artifact.format != image_format:
        message = f"{path.name} is on record as {artifact.format}, {image_format} is wanted"
        raise ActionFailedError(message, Failure(failure_class=FailureClass.CONFIG, message=message))
    try:
        size, head, tail = _ends_of(path)
    except OSError as error:
        raise _differs(f"{path}: {error.strerror}") from error
    if size != artifact.size:
        raise _differs(f"{path} has {size} bytes, {artifact.size} are on record")
    _check_outside(path, image_format, head, tail)
    if not image_format.is_part:
        _check_inside(path, artifact)


def _check_outside(path: Path, image_format: ImageFormat, head: bytes, tail: bytes) -> None:
    found = _looks_like(head, tail)
    # A root file system, a kernel and a ramdisk look like nothing in particular, as a raw disk may.
    expected = ImageFormat.RAW if image_format.is_verbatim or image_format.is_part else image_format
    if found != expected:
        raise _differs(f"{path} looks like {found}, {image_format} is on record")
    if elsewhere := _needs(found, head):
        raise _differs(f"{path} {elsewhere}: it is not whole by itself")


def _check_backing(path: Path, known: Mapping[str, Any]) -> None:
    if "backing-filename" in known:
        raise _differs(f"{path} backs onto {known['backing-filename']!r}: it is not whole by itself")


def _check_inside(path: Path, artifact: Artifact) -> None:
    try:
        known = _info(path, artifact.format)
    except ActionFailedError as error:
        if error.failure is None or error.failure.failure_class is not FailureClass.TOOL:
            raise
        # The qemu-img that made the file can't read it any more: it is not the tool's fault.
        raise _differs(f"{path}: {error.message}", error.failure.lines) from error
    _check_backing(path, known)
    size = int(known["virtual-size"])
    if size != artifact.virtual_size:
        raise _differs(f"{path} has a disk of {size} bytes, {artifact.virtual_size} are on record")


def _info(path: Path, wanted: ImageFormat) -> Mapping[str, Any]:
    answer = qemu.ask("info", path, wanted)
    if answer.code != 0:
        lines = answer.stderr.splitlines()
        raise qemu.gave_up(f"{path.name} is no usable {wanted} image", answer.code, lines)
    known: Mapping[str, Any] = json.loads(answer.stdout)
    return known


def _ends_of(path: Path) -> tuple[int, bytes, bytes]:
    """A file's size, its first bytes and its last ones."""
    with path.open("rb", buffering=0) as stream:
        size = os.fstat(stream.fileno()).st_size
        head = os.pread(stream.fileno(), _HEAD, 0)
        return size, head, os.pread(stream.fileno(), _HEAD, max(0, size - _HEAD))


def _looks_like(head: bytes, tail: bytes) -> str:
    for beginning, name in _BEGINNINGS.items():
        if head.startswith(beginning):
            return name
    if head[_VDI_AT:].startswith(_VDI):
        return "vdi"
    return "vhd" if tail.startswith(_VHD_FOOTER) else "raw"


def _needs(found: str, head: bytes) -> str:
    """Which other file an image would make qemu-img open, as seen in its header; "" for none."""
    if found == ImageFormat.QCOW2:
        if int.from_bytes(head[8:16], "big"):
            return "names a backing file"
        if int.from_bytes(head[4:8], "big") >= 3 and int.from_bytes(head[72:80], "big") & _DATA_ELSEWHERE:
            return "has its data in another file"
    # Without a capacity of its own it is a description of others (QEMU, block/vmdk.c).
    if found == ImageFormat.VMDK and not (head.startswith(b"KDMV") and int.from_bytes(head[12:20], "little")):
        return "is a description of other files"
    return ""


def _differs(message: str, lines: tuple[str, ...] = ()) -> ActionFailedError:
    return ActionFailedError(message, Failure(failure_class=FailureClass.DISK, message=message, lines=lines))
