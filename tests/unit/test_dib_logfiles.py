"""The files of logs: compressed when finished, whatever happens meanwhile, and kept within bounds."""

from __future__ import annotations

import errno
import gzip
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from builder.dib.logs import logfiles
from builder.dib.logs.log import LogFile

ARM, PLAIN = "ubuntu-noble-arm64", "ubuntu-noble"


def build_id(number: int) -> str:
    return f"{number:032x}"


def written(directory: Path, number: int, image: str = PLAIN, text: str = "some text\n") -> Path:
    """A finished log, the newer the higher its number."""
    log = logfiles.path(directory, image, build_id(number))
    log.write_text(text)
    os.utime(log, (number, number))
    return log


def names(directory: Path) -> set[str]:
    return {file.name for file in directory.iterdir()}


def test_a_finished_log_is_compressed_and_read_as_before(tmp_path: Path) -> None:
    log = written(tmp_path, 1, text="ä line\n" * 1000)
    log.chmod(0o640)
    assert logfiles.finish(log)
    (packed,) = tmp_path.iterdir()
    assert packed.name == f"{log.name}.gz"
    assert packed.stat().st_size < 1000
    assert stat.S_IMODE(packed.stat().st_mode) == 0o640
    assert packed.stat().st_mtime == 1
    with logfiles.open_text(log) as text:
        assert text.read() == "ä line\n" * 1000
    assert logfiles.finish(log), "it is done already"


def test_a_log_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    path = logfiles.path(tmp_path, PLAIN, build_id(1))
    log = LogFile(path)
    log.write("first")
    assert not logfiles.finish(path)
    assert logfiles.prune(tmp_path, PLAIN, keep=1, limit=0) == ()
    with logfiles.open_text(path) as text:
        assert text.read().endswith("first\n")
    log.close("done")
    assert logfiles.finish(path)


def test_no_log_is_no_log(tmp_path: Path) -> None:
    log = logfiles.path(tmp_path, PLAIN, build_id(1))
    assert not logfiles.finish(log)
    with pytest.raises(FileNotFoundError):
        logfiles.open_text(log)
    assert logfiles.prune(tmp_path / "nowhere", PLAIN, keep=1, limit=0) == ()


def test_who_reads_a_log_while_it_is_compressed_reads_all_of_it(tmp_path: Path) -> None:
    log = written(tmp_path, 1, text="first\nsecond\n")
    with logfiles.open_bytes(log) as reader:
        assert reader.read(6) == b"first\n"
        logfiles.finish(log)
        assert reader.read() == b"second\n"


class Crash(BaseException):
    """The power goes."""


@contextmanager
def crashing(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, after: bool) -> Iterator[None]:
    real = getattr(owner, name)

    def crash(*arguments: Any, **options: Any) -> None:
        if after:
            real(*arguments, **options)
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, crash)
        with pytest.raises(Crash):
            yield


@pytest.mark.parametrize(
    ("owner", "name", "after"),
    [
        (logfiles.shutil, "copyfileobj", False),
        (logfiles.os, "fsync", False),
        (Path, "rename", False),
        (Path, "rename", True),
        (logfiles, "_sync_directory", True),
    ],
)
def test_a_crash_while_compressing_loses_nothing_and_the_next_start_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, after: bool
) -> None:
    log = written(tmp_path, 1, text="precious\n")
    with crashing(monkeypatch, owner, name, after=after):
        logfiles.finish(log)
    with logfiles.open_text(log) as text:
        assert text.read() == "precious\n"

    logfiles.finish_all(tmp_path)

    assert names(tmp_path) == {f"{log.name}.gz"}
    with logfiles.open_text(log) as text:
        assert text.read() == "precious\n"


def test_a_full_disk_leaves_the_log_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(source: IO[bytes], target: IO[bytes], length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    log = written(tmp_path, 1)
    monkeypatch.setattr(logfiles.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        logfiles.finish(log)
    assert names(tmp_path) == {log.name}
    logfiles.prune(tmp_path, PLAIN, keep=1, limit=0)
    assert names(tmp_path) == {log.name}
    assert "can't be compressed: [Errno 28]" in caplog.text


def test_the_newest_logs_of_an_image_stay(tmp_path: Path) -> None:
    for number in range(1, 6):
        written(tmp_path, number)
    gone = logfiles.prune(tmp_path, PLAIN, keep=2, limit=1 << 20)
    assert {file.name for file in gone} == {f"{PLAIN}-{build_id(n)}.log.gz" for n in (1, 2, 3)}
    assert names(tmp_path) == {f"{PLAIN}-{build_id(n)}.log.gz" for n in (4, 5)}


@pytest.mark.parametrize("keep", [0, 1])
def test_the_newest_log_always_stays(tmp_path: Path, keep: int) -> None:
    for number in (1, 2):
        written(tmp_path, number)
    logfiles.prune(tmp_path, PLAIN, keep=keep, limit=0)
    assert names(tmp_path) == {f"{PLAIN}-{build_id(2)}.log.gz"}


def test_all_logs_stay_where_no_number_is_given_and_they_are_small(tmp_path: Path) -> None:
    for number in range(1, 6):
        written(tmp_path, number)
    assert logfiles.prune(tmp_path, PLAIN, keep=-1, limit=1 << 20) == ()
    assert len(names(tmp_path)) == 5


def test_logs_take_no_more_bytes_than_allowed(tmp_path: Path) -> None:
    for number in range(1, 6):
        log = written(tmp_path, number)
        log.unlink()
        logfiles.compressed(log).write_bytes(bytes(100))
        os.utime(logfiles.compressed(log), (number, number))
    logfiles.prune(tmp_path, PLAIN, keep=-1, limit=399)
    assert names(tmp_path) == {f"{PLAIN}-{build_id(n)}.log.gz" for n in (3, 4, 5)}


def test_an_image_never_loses_a_log_to_another(tmp_path: Path) -> None:
    mine = [written(tmp_path, number) for number in (1, 2)]
    others = {written(tmp_path, 3, image=ARM).name, written(tmp_path, 4, image="noble").name}
    foreign = {"ubuntu-noble-notes.log", "ubuntu-noble.log", f"x{PLAIN}-{build_id(9)}.log"}
    for name in foreign:
        (tmp_path / name).write_text("keep me")
    logfiles.prune(tmp_path, PLAIN, keep=1, limit=0)
    assert names(tmp_path) == {f"{mine[1].name}.gz"} | others | foreign


def test_what_a_crash_left_of_an_old_log_goes_with_it(tmp_path: Path) -> None:
    written(tmp_path, 1)
    logfiles.prune(tmp_path, PLAIN, keep=1, limit=0)
    draft = tmp_path / f"{PLAIN}-{build_id(1)}.log.gz.new"
    draft.write_bytes(b"half")
    written(tmp_path, 2)
    logfiles.prune(tmp_path, PLAIN, keep=1, limit=0)
    assert names(tmp_path) == {f"{PLAIN}-{build_id(2)}.log.gz"}


def test_a_link_is_no_log(tmp_path: Path) -> None:
    other = tmp_path / "secret"
    other.write_text("sesame")
    log = logfiles.path(tmp_path, PLAIN, build_id(1))
    packed = logfiles.compressed(log)
    packed.symlink_to(other)
    with pytest.raises(OSError, match=str(packed)) as caught:
        logfiles.open_bytes(log)
    assert caught.value.errno == errno.ELOOP


def test_the_files_can_be_read_by_anybodys_gzip(tmp_path: Path) -> None:
    log = written(tmp_path, 1)
    logfiles.finish(log)
    assert gzip.decompress(logfiles.compressed(log).read_bytes()) == b"some text\n"
