"""Says what a three-part format is made of, and whether a build has left that.

Its root is the raw image itself, when that is a file system without partitions; the kernel and the ramdisk
lie beside it, each under the suffix of its format, where the element `ami` puts them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from builder.errors import ActionFailedError
from builder.model import Failure, FailureClass, ImageFormat

_WORDS: Final = {ImageFormat.AKI: "kernel", ImageFormat.ARI: "ramdisk"}
#: Where a boot sector says that it is one, and how; every partition table begins with one.
_SIGNATURE_AT: Final = 510
_SIGNATURE: Final = b"\x55\xaa"


def all_files(wanted: Iterable[ImageFormat]) -> tuple[ImageFormat, ...]:
    """The formats of all files that are made when these are wanted."""
    return tuple(dict.fromkeys(file for each in wanted for file in (each, *each.parts)))


def beside(raw: Path, wanted: ImageFormat) -> Path:
    """Where the file of a format is, or will be, in the directory of the raw image."""
    return raw if wanted.is_verbatim else raw.with_name(f"{raw.name.removesuffix('.raw')}.{wanted}")


def require(raw: Path, wanted: Iterable[ImageFormat]) -> None:
    """ActionFailedError of class CONFIG unless these can be made of the raw image, parts and all; OSError."""
    wanted = tuple(wanted)
    if ImageFormat.AMI in wanted and _boots_by_itself(raw):
        raise _wrong(
            f"{ImageFormat.AMI} is a root file system alone, and this image begins with a boot sector or"
            " a partition table: take `vm` and the block-device elements out of its elements"
        )
    if wanted and ImageFormat.AMI not in wanted and beside(raw, ImageFormat.AKI).is_file():
        # Nothing else leaves a kernel there. As a disk it would be ready, and never boot.
        raise _wrong(
            f"{' and '.join(wanted)} would not boot: the element `ami` makes a root file system without boot"
            f" loader; give the diskimage or its providers the format {ImageFormat.AMI}, or take `vm` instead"
        )
    for part in (part for each in wanted for part in each.parts):
        file = beside(raw, part)
        if not file.is_file() or not file.stat().st_size:
            raise _wrong(
                f"the build left no {_WORDS[part]} ({file.suffix}) beside the image: an image in the format"
                f" {ImageFormat.AMI} needs the element `ami`, and a kernel among its packages"
            )


def _boots_by_itself(raw: Path) -> bool:
    with raw.open("rb", buffering=0) as stream:
        stream.seek(_SIGNATURE_AT)
        return stream.read(len(_SIGNATURE)) == _SIGNATURE


def _wrong(message: str) -> ActionFailedError:
    return ActionFailedError(message, Failure(failure_class=FailureClass.CONFIG, message=message))
