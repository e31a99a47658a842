"""Keep the elements of a build that don't come with diskimage-builder, so that it can be made again."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from builder.dib.contents import inputs

FILE: Final = "elements.tar.gz"
#: Bytes of all files together; elements are scripts, and what is larger belongs elsewhere.
LIMIT: Final = 16 << 20


def own(elements: Mapping[str, Path], theirs: Path) -> Mapping[str, Path]:
    """Those of the elements that are not in `theirs`, the directory of diskimage-builder's own."""
    return {name: where for name, where in elements.items() if where.resolve().parent != theirs.resolve()}


def save(directory: Path, elements: Mapping[str, Path]) -> str | None:
    """Write them into a build's directory as elements.tar.gz; why not, when they are too large.

    The archive has a directory for each element, links replaced by what they lead to, and neither
    times nor owners. Raises OSError.
    """
    packed, size = io.BytesIO(), 0
    with (
        # tarfile's own has the time of day in its header.
        gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=6, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, top in sorted(elements.items()):
            for file in inputs.files_of(top):
                size += file.stat().st_size
                if size > LIMIT:
                    return f"elements of its own are not kept: over {LIMIT} bytes"
                archive.addfile(*_member(f"{name}/{file.relative_to(top).as_posix()}", file))
    (directory / FILE).write_bytes(packed.getvalue())
    return None


def _member(name: str, file: Path) -> tuple[tarfile.TarInfo, io.BytesIO]:
    content = file.read_bytes()
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mode = 0o755 if file.stat().st_mode & 0o100 else 0o644
    return member, io.BytesIO(content)
