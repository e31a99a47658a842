"""Files hashed once, whatever holes they have."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from builder.dib.limits import Limits
from builder.dib.output import hashing, sparse
from builder.dib.output.hashing import hash_file
from builder.errors import ActionFailedError
from builder.model import Failure, FailureClass

MB = 1 << 20

#: The file's size, and where there is data in it.
LAYOUTS: dict[str, tuple[int, list[tuple[int, int]]]] = {
    "nothing": (0, []),
    "one byte": (1, [(0, 1)]),
    "all hole": (5 * MB, []),
    "a hole no chunk fits": (3 * MB + 12345, []),
    "all data": (2 * MB + 1, [(0, 2 * MB + 1)]),
    "a hole first": (3 * MB, [(2 * MB, 3 * MB)]),
    "a hole last": (4 * MB, [(0, MB + 17)]),
    "data between holes": (40 * MB + 3, [(MB + 4096, 2 * MB), (30 * MB, 31 * MB + 100)]),
    "more chunks than are kept": (12 * MB + 7, [(0, 12 * MB + 7)]),
}


def write(file: Path, size: int, data: Sequence[tuple[int, int]]) -> bytes:
    with file.open("wb") as stream:
        stream.truncate(size)
        for begin, end in data:
            stream.seek(begin)
            stream.write(os.urandom(end - begin))
    return file.read_bytes()


@pytest.mark.parametrize(("size", "data"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_the_hashes_are_those_of_the_whole_content(
    tmp_path: Path, size: int, data: list[tuple[int, int]]
) -> None:
    content = write(tmp_path / "file", size, data)
    told: list[int] = []
    assert hash_file(tmp_path / "file", on_bytes=told.append) == hashing.Hashes(
        size=len(content),
        md5=hashlib.md5(content, usedforsecurity=False).hexdigest(),
        sha256=hashlib.sha256(content).hexdigest(),
        sha512=hashlib.sha512(content).hexdigest(),
    )
    assert told == sorted(told)
    assert told[-1:] == ([size] if size else [])


def test_hashing_ends_when_the_build_is_stopped(tmp_path: Path) -> None:
    write(tmp_path / "file", 4 * MB, [(0, MB)])
    told: list[int] = []
    failure = Failure(failure_class=FailureClass.CANCELLED, message="cancelled by an admin")
    limits = Limits(stop=lambda: failure if told else None)
    with pytest.raises(ActionFailedError) as caught:
        hash_file(tmp_path / "file", limits, on_bytes=told.append)
    assert caught.value.failure == failure
    assert told == [MB]


def test_a_file_that_shrinks_meanwhile_has_no_hashes(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write(file, 4 * MB, [(0, 4 * MB)])
    with pytest.raises(OSError, match="became shorter"):
        hash_file(file, on_bytes=lambda done: os.truncate(file, done))


@pytest.mark.parametrize(("size", "data"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_a_disk_is_its_whole_content(tmp_path: Path, size: int, data: list[tuple[int, int]]) -> None:
    content = write(tmp_path / "file", size, data)
    found = hashing.hash_disk(tmp_path / "file", Limits())
    assert found == hashing.Disk(sha256=hashlib.sha256(content).hexdigest(), size=size)


def test_hashing_a_disk_ends_when_the_build_is_stopped(tmp_path: Path) -> None:
    write(tmp_path / "file", 4 * MB, [(0, MB)])
    failure = Failure(failure_class=FailureClass.CANCELLED, message="cancelled by an admin")
    with pytest.raises(ActionFailedError):
        hashing.hash_disk(tmp_path / "file", Limits(stop=lambda: failure))


def test_only_data_counts_as_data(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write(file, 8 * MB, [(MB, 2 * MB), (4 * MB, 4 * MB + 4096)])
    with file.open("rb") as stream:
        assert list(sparse.extents(stream.fileno(), 8 * MB)) == [(MB, 2 * MB), (4 * MB, 4 * MB + 4096)]
        assert list(sparse.extents(stream.fileno(), 3 * MB // 2)) == [(MB, 3 * MB // 2)]
        assert list(sparse.extents(stream.fileno(), MB)) == []
    assert sparse.data_size(file) == MB + 4096
