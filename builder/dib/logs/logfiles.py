"""Where the logs of builds are: compressed once they are finished, and pruned by number and by bytes.

A log is "<image>-<build id>.log" while it grows and has ".gz" added afterwards. Only a whole build id
after the image's own name counts, so pruning `ubuntu-noble` never touches a log of
`ubuntu-noble-arm64` (nodepool's does). Records have the first name, for good: whoever reads takes
what is there.

How a log is compressed, so that a crash loses nothing:
    .log                    whole, and not locked any more (log.LogFile locks what it writes)
    .log and .log.gz.new    half compressed: begun anew by the next `finish`
    .log and .log.gz        both whole: the next `finish` makes the second again and drops the first
    .log.gz                 done
"""

from __future__ import annotations

import errno
import fcntl
import gzip
import io
import logging
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, TextIO, cast

from builder.model import is_build_id

LOG = logging.getLogger(__name__)

SUFFIX: Final = ".log"
COMPRESSED: Final = ".log.gz"
_UNFINISHED: Final = ".log.gz.new"
#: The fast half of zlib's levels: most of the gain for a fraction of the time.
_LEVEL: Final = 4


def path(log_dir: Path, image: str, build_id: str) -> Path:
    """The log of a build, as its record names it."""
    return log_dir / f"{image}-{build_id}{SUFFIX}"


def compressed(log: Path) -> Path:
    """What becomes of a log when it is finished."""
    return log.with_name(f"{log.name.removesuffix(SUFFIX)}{COMPRESSED}")


# -- reading -------------------------------------------------------------------------------------


def open_bytes(log: Path) -> BinaryIO:
    """The log that a record names, from its beginning, compressed or not; it may still grow.

    Follows no symbolic link. Raises OSError: FileNotFoundError when there is none in either form,
    ELOOP when it is anything but a plain file.
    """
    try:
        return _open_plain_file(log)
    except FileNotFoundError:
        # Compressed files take their place before plain ones go, so one of them is always there.
        return cast(BinaryIO, _Packed(_open_plain_file(compressed(log))))


def open_text(log: Path) -> TextIO:
    """The same as text; what is no UTF-8 is replaced."""
    return io.TextIOWrapper(open_bytes(log), encoding="utf-8", errors="replace", newline="\n")


class _Packed(gzip.GzipFile):
    """A compressed file that closes what it reads from."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(fileobj=stream, mode="rb")
        self._stream = stream

    def close(self) -> None:
        """Close both."""
        try:
            super().close()
        finally:
            self._stream.close()


def _open_plain_file(file: Path) -> BinaryIO:
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise OSError(errno.ELOOP, "no plain file", str(file))


# -- compressing ---------------------------------------------------------------------------------


def finish(log: Path) -> bool:
    """Compress a log that nobody writes any more; whether it is compressed now.

    It keeps its mode, owner and times. False when it is still being written or is not there. Raises
    OSError, a full disk above all; the log is then as it was.
    """
    try:
        with _open_plain_file(log) as source, _held(source) as free:
            if free:
                _compress(source, log)
            return free
    except FileNotFoundError:
        return compressed(log).exists()


def finish_all(log_dir: Path) -> None:
    """Compress what an earlier daemon left plain; what can't be is logged."""
    for file in sorted(log_dir.glob(f"*{SUFFIX}")):
        if _image_of(file.name):
            _try_to_finish(file)


@contextmanager
def _held(stream: BinaryIO) -> Iterator[bool]:
    """Lock a log against its writer, if it has none."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True


def _compress(source: BinaryIO, log: Path) -> None:
    draft = log.with_name(f"{log.name.removesuffix(SUFFIX)}{_UNFINISHED}")
    status = os.fstat(source.fileno())
    draft.unlink(missing_ok=True)
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as target:
            with gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=target) as packed:
                shutil.copyfileobj(source, packed, 1 << 20)
            target.flush()
            os.fchown(target.fileno(), status.st_uid, status.st_gid)
            os.fchmod(target.fileno(), stat.S_IMODE(status.st_mode))
            # Which is the newest is told by these.
            os.utime(target.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
            os.fsync(target.fileno())
        draft.rename(compressed(log))
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    _sync_directory(log.parent)
    log.unlink()


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- pruning -------------------------------------------------------------------------------------


def prune(log_dir: Path, image: str, *, keep: int, limit: int) -> tuple[Path, ...]:
    """Delete an image's oldest logs, so that `keep` are left (-1: any number) of `limit` bytes at most.

    The newest always stays, and so does one that is being written. Logs that are finished but still
    plain are compressed before; where that fails they stay plain, and the next time it is tried again.
    Returns the files that went; raises OSError when one can't be deleted.
    """
    own = [file for file in sorted(log_dir.glob("*")) if _image_of(file.name) == image]
    for file in own:
        if file.name.endswith(SUFFIX):
            _try_to_finish(file)
    packed = [(file.stat(), file) for file in map(compressed, _plain_names(own)) if file.exists()]
    packed.sort(key=lambda found: found[0].st_mtime_ns, reverse=True)
    size, gone = 0, _abandoned(own)
    for number, (status, file) in enumerate(packed):
        size += status.st_size
        too_many = keep >= 0 and number >= max(keep, 1)
        if too_many or (number > 0 and size > limit):
            gone.append(file)
    for file in gone:
        file.unlink(missing_ok=True)
    return tuple(gone)


def _plain_names(files: Sequence[Path]) -> list[Path]:
    """The logs that files belong to, by the name on record; without those that are still plain."""
    plain = dict.fromkeys(file.with_name(f"{_stem(file.name)}{SUFFIX}") for file in files)
    return [log for log in plain if not log.exists()]


def _abandoned(files: Sequence[Path]) -> list[Path]:
    """Half compressed logs of which there is no plain one any more."""
    drafts = [file for file in files if file.name.endswith(_UNFINISHED)]
    return [file for file in drafts if not file.with_name(f"{_stem(file.name)}{SUFFIX}").exists()]


def _try_to_finish(log: Path) -> None:
    try:
        finish(log)
    except OSError as error:
        LOG.warning("the log %s stays as it is: it can't be compressed: %s", log, error)


def _image_of(name: str) -> str:
    """The image whose log has that file name; "" when it is no log's."""
    image, _, build_id = _stem(name).rpartition("-")
    return image if is_build_id(build_id) else ""


def _stem(name: str) -> str:
    """The file name of a log without what tells its form; "" when it is none."""
    for suffix in (SUFFIX, COMPRESSED, _UNFINISHED):
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return ""
