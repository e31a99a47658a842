"""The files of finished builds: where they are, how they get there, and how they may go.

    <images_dir>/<image>-<build_id>.<format>        an artifact
    <images_dir>/<image>-<build_id>.d/build.json    proof whose it is, and how it was made
    <images_dir>/<image>-<build_id>.d/...           dib's manifests

The proof comes first and goes last, so no file of ours is ever without it; and a file whose proof
is not there is not ours to delete. Artifacts follow one by one, as they are made, and the manifests
when there is nothing left to make. Whatever appears under its name is all on disk by then; what is
under way has a name that begins with a dot and ends in ".partial".
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from builder.dib.limits import Limits
from builder.dib.output import hashing, sparse
from builder.dib.output.hashing import Disk
from builder.errors import RefusedError
from builder.model import Artifact, ImageFormat, is_build_id, name_problem

PROOF: Final = "build.json"
_COPY: Final = 8 << 20
#: An image holds what its elements put in, passwords included: it is not for everybody to read.
_FILE_MODE: Final = 0o640
_DIRECTORY_MODE: Final = 0o750
#: How the text of an OSError begins.
_ERRNO: Final = re.compile(r"\[Errno (\d+)\]")
#: What build.json tells of a file.
_ARTIFACT_FIELDS: Final = ("format", "size", "virtual_size", "md5", "sha256", "sha512")
#: Another file system, or one without links.
_ELSEWHERE: Final = (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK)


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What build.json says: whose build it is and how it was made; nothing secret."""

    installation_id: str
    image: str
    build_id: str
    created: datetime
    command: tuple[str, ...] = ()
    environment: Mapping[str, str]
    tools: Mapping[str, str]
    started: datetime | None = None  #: when the build began
    #: The rest is known once all files are there, and says so: without `finished`, it may be half a build.
    finished: datetime | None = None
    disk: Disk | None = None  #: what is in all its files
    artifacts: tuple[Artifact, ...] = ()  #: its files, whatever became of them since
    failed: datetime | None = None  #: when it was judged to go nowhere: its files stay to be looked at alone


def path(images_dir: Path, image: str, build_id: str, image_format: ImageFormat) -> Path:
    """Where an artifact is. Raises RefusedError for names that can't be file names of ours."""
    return images_dir / f"{_base(image, build_id)}.{image_format}"


def directory(images_dir: Path, image: str, build_id: str) -> Path:
    """Where the proof and the manifests of a build are; RefusedError as for `path`."""
    return images_dir / f"{_base(image, build_id)}.d"


def _base(image: str, build_id: str) -> str:
    if name_problem(image) or not is_build_id(build_id):
        raise RefusedError(f"{image!r} and {build_id!r} can't name files of a build; nothing is touched")
    return f"{image}-{build_id}"


# -- coming ------------------------------------------------------------------------------------


class Publication:
    """The files of one build on their way into the images directory; all for owner and group to read.

    Every step raises OSError, and RefusedError as `path`; what is there by then is for `delete`.
    """

    def __init__(self, images_dir: Path, proof: Proof) -> None:
        self._images_dir = images_dir
        self._proof = proof
        self._home = directory(images_dir, proof.image, proof.build_id)

    def begin(self) -> None:
        """The proof appears: from here on whatever else there is of the build can be deleted."""
        self._images_dir.mkdir(parents=True, exist_ok=True)
        draft = _partial(self._home)
        draft.mkdir(mode=0o700)
        draft.chmod(_DIRECTORY_MODE)
        _write_proof(draft / PROOF, self._proof)
        _sync_tree(draft)
        draft.rename(self._home)
        _sync(self._images_dir)

    def add(self, file: Path, image_format: ImageFormat, limits: Limits, *, stays: bool = False) -> None:
        """An artifact appears; its file is gone from where it was, unless it `stays` there as well.

        From the same file system it is renamed (or linked), else copied beside its final name and
        renamed; several may come at a time, from any thread. Raises ActionFailedError when the
        limits end it.
        """
        final = path(self._images_dir, self._proof.image, self._proof.build_id, image_format)
        file.chmod(_FILE_MODE)
        _sync(file)
        _bring(file, final, limits, stays=stays)
        _sync(self._images_dir)

    def finish(self, manifests: Path, disk: Disk | None, files: tuple[Artifact, ...], now: datetime) -> None:
        """The build is described, and the proof tells what its files are: from here on it counts as whole."""
        self._describe(manifests)
        self._renew(replace(self._proof, disk=disk, artifacts=files, finished=now))

    def fail(self, manifests: Path, now: datetime) -> None:
        """The build is described, and the proof tells that it failed: it never counts as whole."""
        self._describe(manifests)
        self._renew(replace(self._proof, failed=now))

    def _describe(self, manifests: Path) -> None:
        """The manifests, if there are any, appear beside the proof."""
        if manifests.is_dir():
            draft = self._home / ".manifests.partial"
            _copy_tree(manifests, draft)
            _sync_tree(draft)
            for each in sorted(draft.iterdir()):
                each.rename(self._home / each.name)
            draft.rmdir()

    def _renew(self, proof: Proof) -> None:
        renewed = _partial(self._home / PROOF)
        _write_proof(renewed, proof)
        _sync(renewed)
        renewed.rename(self._home / PROOF)
        _sync(self._home)


def _copy_tree(tree: Path, target: Path) -> None:
    """Copy a tree; OSError with the errno of what went wrong first, which copytree tells in words."""
    try:
        shutil.copytree(tree, target, symlinks=True)
    except shutil.Error as error:
        _, file, why = error.args[0][0]
        number = _ERRNO.match(why)
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(file)) from error


def _write_proof(file: Path, proof: Proof) -> None:
    record: dict[str, Any] = {
        "installation_id": proof.installation_id,
        "image": proof.image,
        "build_id": proof.build_id,
        "created": proof.created.isoformat(),
        "command": list(proof.command),
        "environment": dict(proof.environment),
        "tools": dict(proof.tools),
    }
    if proof.started is not None:
        record["started"] = proof.started.isoformat()
    if proof.finished is not None:
        record |= {"finished": proof.finished.isoformat(), "artifacts": list(map(_told, proof.artifacts))}
    if proof.failed is not None:
        record["failed"] = proof.failed.isoformat()
    if proof.disk is not None:
        record |= {"raw_sha256": proof.disk.sha256, "raw_size": proof.disk.size}
    with file.open("w") as stream:
        json.dump(record, stream, indent=1, sort_keys=True)
        stream.write("\n")


def _told(artifact: Artifact) -> dict[str, Any]:
    return {name: getattr(artifact, name) for name in _ARTIFACT_FIELDS}


def _bring(file: Path, final: Path, limits: Limits, *, stays: bool) -> None:
    try:
        if stays:
            final.hardlink_to(file)
        else:
            file.rename(final)
        return
    except OSError as error:
        if error.errno not in _ELSEWHERE:
            raise
    draft = _partial(final)
    _copy(file, draft, limits)
    draft.rename(final)
    if not stays:
        file.unlink()


def _copy(source: Path, target: Path, limits: Limits) -> None:
    """Copy a file with its holes, and have it on disk."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _FILE_MODE)
    with os.fdopen(descriptor, "wb") as writing, source.open("rb") as reading:
        os.fchmod(descriptor, _FILE_MODE)  # whatever the umask
        size = os.fstat(reading.fileno()).st_size
        for begin, end in sparse.extents(reading.fileno(), size):
            _copy_range(reading.fileno(), writing.fileno(), begin, end, limits)
        writing.truncate(size)
        os.fsync(writing.fileno())


def _copy_range(source: int, target: int, begin: int, end: int, limits: Limits) -> None:
    while begin < end:
        limits.check()
        chunk = os.pread(source, min(_COPY, end - begin), begin)
        if not chunk:
            raise OSError(errno.EIO, "the file became shorter while it was copied")
        begin += os.pwrite(target, chunk, begin)


def _partial(final: Path) -> Path:
    return final.with_name(f".{final.name}.partial")


def _sync_tree(tree: Path) -> None:
    for parent, _, names in os.walk(tree, topdown=False):
        for file in (Path(parent, name) for name in names):
            if not file.is_symlink():  # a link is on disk with its directory
                _sync(file)
        _sync(Path(parent))


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- staying -----------------------------------------------------------------------------------


def check(file: Path, artifact: Artifact, *, hashes: bool = False) -> str | None:
    """What is wrong with an artifact's file, None if nothing; with `hashes`, all of it is read."""
    try:
        size = file.stat().st_size
        if size != artifact.size:
            return f"{file} has {size} bytes, {artifact.size} are on record"
        if hashes and hashing.hash_file(file).sha512 != artifact.sha512:
            return f"{file} does not have the sha512 on record"
    except OSError as error:
        return f"{file}: {error.strerror}"
    return None


# -- going -------------------------------------------------------------------------------------


def delete(images_dir: Path, image: str, build_id: str, installation_id: str) -> None:
    """Delete all files of one build, artifacts first, the proof last; fine when all are gone.

    Raises RefusedError, and touches nothing, unless build.json proves that this installation made
    this build; OSError when the disk won't.
    """
    home = directory(images_dir, image, build_id)
    files = [path(images_dir, image, build_id, each) for each in ImageFormat]
    present = [file for file in files if os.path.lexists(file)]
    if os.path.lexists(home):
        _demand_proof(home, image, build_id, installation_id)
    elif present:
        raise RefusedError(
            f"{present[0]} has no {home.name}/{PROOF} beside it that proves whose it is",
            hint="Remove it by hand if it is not needed.",
        )
    # A crash while publishing leaves drafts; a draft of the proof is there before anything else is.
    for file in [*files, *map(_partial, files)]:
        file.unlink(missing_ok=True)
    for tree in (_partial(home), home):
        _delete_tree(tree)


def delete_artifact(
    images_dir: Path, image: str, build_id: str, image_format: ImageFormat, installation_id: str
) -> None:
    """Delete one file of a build, and leave all else of it; fine when it is gone already.

    Raises RefusedError, and touches nothing, as `delete` does; OSError when the disk won't.
    """
    file = path(images_dir, image, build_id, image_format)
    if os.path.lexists(file):
        _demand_proof(directory(images_dir, image, build_id), image, build_id, installation_id)
        file.unlink(missing_ok=True)


def _demand_proof(home: Path, image: str, build_id: str, installation_id: str) -> None:
    record = _read_proof(home / PROOF)
    wanted = {"installation_id": installation_id, "image": image, "build_id": build_id}
    if record is None:
        raise RefusedError(
            f"{home} has no readable {PROOF} that proves whose it is",
            hint="Remove it and its image files by hand if they are not needed.",
        )
    for key, value in wanted.items():
        if record.get(key) != value:
            raise RefusedError(
                f"{home / PROOF} says {key} {record.get(key)!r}, not {value!r}",
                hint="These are somebody else's files; nothing was deleted.",
            )


def _read_proof(file: Path) -> Mapping[str, Any] | None:
    try:
        record = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def _delete_tree(tree: Path) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for each in tree.iterdir():
            if each.name == PROOF:
                continue
            if each.is_dir() and not each.is_symlink():
                shutil.rmtree(each)
            else:
                each.unlink(missing_ok=True)
        (tree / PROOF).unlink(missing_ok=True)
        tree.rmdir()
