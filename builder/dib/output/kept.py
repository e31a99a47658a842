"""Finds the builds of which an images directory holds the proof, and says what their files are now.

build.json was written by us, but whoever restores records from it reads what may be years old or was
edited since: what makes no sense in it is left out, and nothing in it ever becomes a path.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from builder.dib.output import artifacts, hashing, inspect, withheld
from builder.errors import ActionFailedError
from builder.model import Artifact, ImageFormat, Withholding, is_build_id, name_problem

_SUFFIX: Final = ".d"
#: What may be beside the proof of a build that was never finished.
_NO_MANIFESTS: Final = frozenset({artifacts.PROOF, withheld.NAME, withheld.DRAFT})
_HEX: Final = frozenset("0123456789abcdef")
#: Bytes; ours are a few kilobytes.
_PROOF_LIMIT: Final = 4 << 20


@dataclass(frozen=True, kw_only=True)
class Found:
    """A build with a proof. `finished` is None when it was not, or the proof is of before that was noted."""

    installation_id: str
    image: str
    build_id: str
    created: datetime | None
    started: datetime | None
    finished: datetime | None
    failed: datetime | None  #: when it was judged to go nowhere; only its files stayed, to be looked at
    described: bool  #: whether there is more than the proof in its directory: it got as far as that
    tools: Mapping[str, str]
    raw_sha256: str | None
    raw_size: int | None
    artifacts: tuple[Artifact, ...]  #: as the proof has them
    formats: tuple[ImageFormat, ...]  #: of the files that are there
    withheld: tuple[Withholding, ...] = ()  #: who does not want it to serve


def find(images_dir: Path) -> tuple[Found, ...]:
    """The builds in an images directory that have a readable proof, by their names; OSError."""
    try:
        names = sorted(each.name for each in images_dir.iterdir())
    except FileNotFoundError:
        return ()
    found = []
    for name in names:
        image, _, build_id = name.removesuffix(_SUFFIX).rpartition("-")
        if name.endswith(_SUFFIX) and name_problem(image) is None and is_build_id(build_id):
            build = _read(images_dir, image, build_id)
            found += [build] if build is not None else []
    return tuple(found)


def measure(
    images_dir: Path,
    build: Found,
    image_format: ImageFormat,
    *,
    on_bytes: Callable[[int], None] = lambda done: None,
) -> Artifact:
    """What a file of a build is now: all of it is read.

    `on_bytes` gets the number of bytes read so far. Raises OSError, and ActionFailedError when it is no
    whole image of that format; ToolMissingError without qemu-img.
    """
    file = artifacts.path(images_dir, build.image, build.build_id, image_format)
    size = inspect.whole_virtual_size(file, image_format)
    hashes = hashing.hash_file(file, on_bytes=on_bytes)
    return Artifact(
        format=image_format,
        size=hashes.size,
        virtual_size=size,
        md5=hashes.md5,
        sha256=hashes.sha256,
        sha512=hashes.sha512,
    )


def trouble_with(error: ActionFailedError | OSError) -> str:
    """Why a file could not be measured, in a few words."""
    return error.message if isinstance(error, ActionFailedError) else error.strerror or str(error)


def _read(images_dir: Path, image: str, build_id: str) -> Found | None:
    home = artifacts.directory(images_dir, image, build_id)
    record = _proof(home / artifacts.PROOF)
    if home.is_symlink() or (record.get("image"), record.get("build_id")) != (image, build_id):
        return None
    return Found(
        installation_id=str(record.get("installation_id")),
        image=image,
        build_id=build_id,
        created=_time(record.get("created")),
        started=_time(record.get("started")),
        finished=_time(record.get("finished")),
        failed=_time(record.get("failed")),
        described=any(each.name not in _NO_MANIFESTS for each in home.iterdir()),
        tools=_texts(record.get("tools")),
        raw_sha256=_hex(record.get("raw_sha256"), 64),
        raw_size=_count(record.get("raw_size")),
        artifacts=tuple(_artifacts(record.get("artifacts"))),
        formats=tuple(
            each for each in ImageFormat if artifacts.path(images_dir, image, build_id, each).is_file()
        ),
        withheld=withheld.read(images_dir, image, build_id),
    )


def _proof(file: Path) -> Mapping[str, Any]:
    try:
        with file.open("rb") as stream:
            record = json.loads(stream.read(_PROOF_LIMIT))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _artifacts(value: object) -> Iterator[Artifact]:
    for each in value if isinstance(value, list) else ():
        if isinstance(each, dict) and (artifact := _artifact(each)):
            yield artifact


def _artifact(fields: Mapping[str, Any]) -> Artifact | None:
    known = str(fields.get("format")) in tuple(ImageFormat)
    size, virtual_size = _count(fields.get("size")), _count(fields.get("virtual_size"))
    md5, sha256, sha512 = (
        _hex(fields.get(name), digits) for name, digits in (("md5", 32), ("sha256", 64), ("sha512", 128))
    )
    if not known or size is None or virtual_size is None or not (md5 and sha256 and sha512):
        return None
    return Artifact(
        format=ImageFormat(fields["format"]),
        size=size,
        virtual_size=virtual_size,
        md5=md5,
        sha256=sha256,
        sha512=sha512,
    )


def _time(value: object) -> datetime | None:
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
        return None if time is None or time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _hex(value: object, digits: int) -> str | None:
    good = isinstance(value, str) and len(value) == digits and _HEX.issuperset(value)
    return str(value) if good else None


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _texts(value: object) -> Mapping[str, str]:
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else {}
