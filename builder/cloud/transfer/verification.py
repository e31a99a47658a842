"""Compares what a cloud has with what was sent, and names every difference with both values."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

from builder.cloud.base import NewImage
from builder.cloud.transfer.run import Run
from builder.cloudimage import CloudImage
from builder.model import FailureClass

_BLOCK: Final = 1 << 20


def verify(run: Run, image: CloudImage, wanted: NewImage) -> None:
    """TransferError when an active image is not the artifact, or not described as `wanted`."""
    wrong = [*wrong_content(run, image), *_wrong_description(image, wanted)]
    if wrong:
        _check_own_file(run, image)
        raise run.failure(
            FailureClass.CLOUD, "what the cloud stored is not what was sent: " + "; ".join(wrong)
        )


def wrong_content(run: Run, image: CloudImage) -> Iterator[str]:
    """How an image's bytes differ from the artifact's, as far as size and hash tell."""
    if image.size != run.order.artifact.size:
        yield f"size {image.size}, not {run.order.artifact.size}"
    named = _hash_of(image)
    if named is None:
        # A `checksum` may be null for ever; then only trust could say that it is right.
        yield "the cloud gives no hash, so it can't be verified"
        return
    algorithm, theirs = named
    ours = run.order.artifact.digest(algorithm) or _digest(run, algorithm)
    if ours is None:
        yield f"the cloud's hash is {algorithm!r}, which this Python can't compute: it can't be verified"
    elif ours.lower() != theirs.lower():
        yield f"{algorithm} {theirs}, not {ours}"


def _hash_of(image: CloudImage) -> tuple[str, str] | None:
    """The algorithm and the value by which an image can be verified."""
    if image.hash_algorithm and image.hash_value:
        return image.hash_algorithm, image.hash_value
    return ("md5", image.checksum) if image.checksum else None


def _digest(run: Run, algorithm: str) -> str | None:
    """The file's hash as it is now; None for an algorithm that can't be computed."""
    try:
        state = hashlib.new(algorithm, usedforsecurity=False)
    except ValueError:
        return None
    if not state.digest_size:  # a SHAKE has any length
        return None
    try:
        with run.order.path.open("rb", buffering=0) as stream:
            while chunk := stream.read(_BLOCK):
                state.update(chunk)
                run.check()
    except OSError as error:
        raise run.failure(FailureClass.DISK, f"{run.order.path}: {error.strerror}") from error
    return state.hexdigest()


def _check_own_file(run: Run, image: CloudImage) -> None:
    """TransferError when the bytes are wrong since the file here is: no cloud can mend that."""
    named = _hash_of(image)
    recorded = run.order.artifact.digest(named[0]) if named else None
    if named is None or recorded is None or recorded.lower() == named[1].lower():
        return
    now = _digest(run, named[0])
    if now != recorded:
        raise run.failure(
            FailureClass.DISK,
            f"{run.order.path} is not what was built: its {named[0]} is {now}, {recorded} is on record",
        )


def _wrong_description(image: CloudImage, wanted: NewImage) -> Iterator[str]:
    if image.name != wanted.name:
        yield f"name {image.name!r}, not {wanted.name!r}"
    if image.visibility != wanted.visibility:
        yield f"visibility {image.visibility!r}, not {wanted.visibility!r}"
    if image.hidden != wanted.hidden:
        yield f"hidden {image.hidden}, not {wanted.hidden}"
    if image.disk_format not in (None, wanted.disk_format):
        yield f"disk format {image.disk_format!r}, not {wanted.disk_format!r}"
    if not wanted.tags <= image.tags:
        yield f"tags {sorted(image.tags)}, without {sorted(wanted.tags - image.tags)}"
    for name, value in wanted.properties.items():
        # Glance makes a string of everything.
        if image.properties.get(name) != str(value):
            yield f"property {name} {image.properties.get(name)!r}, not {value!r}"
