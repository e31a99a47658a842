"""What is pruned from the build cache, in which order, and what never is."""

from __future__ import annotations

import fcntl
import itertools
import os
import threading
from pathlib import Path

import pytest

from builder.dib import cache
from builder.dib.limits import Limits
from builder.errors import ActionFailedError
from builder.model import Failure, FailureClass

BLOCK = 4096


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty cache directory."""
    directory = tmp_path / "cache"
    directory.mkdir()
    return directory


def keep(path: Path, *, day: int, blocks: int = 1) -> Path:
    """A file of some blocks in the cache, last used on a day."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * blocks * BLOCK)
    os.utime(path, (day * 86400, day * 86400))
    return path


def archive(place: Path, image: str, name: str, *, day: int) -> Path:
    """A package archive that apt downloaded for an image, last used on a day."""
    return keep(place / "image-create" / image / "apt" / "debian" / f"{name}.deb", day=day)


def left(place: Path) -> set[str]:
    """The names of all files of a cache."""
    return {path.name for path in place.rglob("*") if path.is_symlink() or not path.is_dir()}


def test_nothing_is_removed_below_the_limit(place: Path) -> None:
    for day in range(3):
        archive(place, "debian", f"p{day}_1_amd64", day=day)

    assert cache.prune(place, 3 * BLOCK) == cache.Pruned(left=3 * BLOCK)
    assert len(left(place)) == 3


def test_what_was_not_used_for_longest_goes_first_until_the_limit_is_reached(place: Path) -> None:
    keep(place / "base-cache" / "old.tar.zst", day=1, blocks=4)
    keep(place / "image-create" / "debian" / "middle", day=2, blocks=4)
    keep(place / "base-cache" / "new.tar.zst", day=3, blocks=4)

    pruned = cache.prune(place, 5 * BLOCK)

    assert pruned == cache.Pruned(removed=2, freed=8 * BLOCK, left=4 * BLOCK)
    assert left(place) == {"new.tar.zst"}


def test_reading_a_file_is_using_it(place: Path) -> None:
    read = keep(place / "base-cache" / "read", day=1)
    keep(place / "base-cache" / "not read", day=2)
    os.utime(read, (3 * 86400, 1 * 86400))

    cache.prune(place, BLOCK)

    assert left(place) == {"read"}


def test_archives_of_superseded_versions_go_before_everything_else(place: Path) -> None:
    archive(place, "debian", "bash_5.1_amd64", day=8)
    archive(place, "debian", "bash_5.2_amd64", day=9)
    archive(place, "debian", "bash_5.1_arm64", day=2)
    archive(place, "other", "bash_5.1_amd64", day=2)
    keep(place / "base-cache" / "tree", day=1)

    cache.prune(place, 4 * BLOCK)

    assert not (place / "image-create/debian/apt/debian/bash_5.1_amd64.deb").exists()
    assert len(left(place)) == 4


def test_what_a_running_build_uses_stays_even_above_the_limit(place: Path) -> None:
    archive(place, "running", "p_1_amd64", day=1)
    archive(place, "idle", "p_1_amd64", day=9)

    with cache.in_use(place / "image-create" / "running", Limits()):
        pruned = cache.prune(place, 0)

    assert pruned == cache.Pruned(removed=1, freed=BLOCK, left=BLOCK)
    assert [path.parts[-4] for path in place.rglob("*.deb")] == ["running"]
    assert cache.prune(place, 0).removed == 1


def test_two_builds_use_one_directory_and_both_have_to_end(place: Path) -> None:
    archive(place, "debian", "p_1_amd64", day=1)
    directory = place / "image-create" / "debian"

    with cache.in_use(directory, Limits()):
        with cache.in_use(directory, Limits()):
            pass
        assert cache.prune(place, 0).removed == 0
    assert cache.prune(place, 0).removed == 1


def test_a_build_that_begins_while_its_cache_is_pruned_waits(place: Path) -> None:
    began = threading.Event()

    def build() -> None:
        with cache.in_use(place / "image-create" / "debian", Limits()):
            began.set()

    (place / "image-create" / "debian").mkdir(parents=True)
    descriptor = os.open(place / "image-create" / "debian", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # as prune does
    thread = threading.Thread(target=build)
    thread.start()
    assert not began.wait(0.2)
    os.close(descriptor)

    assert began.wait(10)
    thread.join()


def test_a_build_that_waits_for_its_cache_can_be_stopped(place: Path) -> None:
    failure = Failure(failure_class=FailureClass.CANCELLED, message="cancelled")
    asked = itertools.count()
    limits = Limits(stop=lambda: failure if next(asked) >= 2 else None)
    directory = place / "image-create" / "debian"
    directory.mkdir(parents=True)
    descriptor = os.open(directory, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # as prune does
    # Lets go in the end, so that a build that waits for ever fails the test and does not hang it.
    rescue = threading.Timer(10, os.close, (descriptor,))
    rescue.start()

    with pytest.raises(ActionFailedError, match="cancelled"), cache.in_use(directory, limits):
        pytest.fail("the cache is in use while it is pruned")

    rescue.cancel()
    rescue.join()
    os.close(descriptor)
    with cache.in_use(directory, Limits()):
        assert cache.prune(place, 0) == cache.Pruned()


def test_only_one_prunes_at_a_time(place: Path) -> None:
    keep(place / "tree", day=1)
    descriptor = os.open(place, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)

    assert cache.prune(place, 0) == cache.Pruned()
    os.close(descriptor)
    assert cache.prune(place, 0).removed == 1


def test_links_are_not_followed_and_nothing_outside_is_touched(place: Path, tmp_path: Path) -> None:
    keep(tmp_path / "outside" / "precious", day=1)
    (place / "image-create").mkdir()
    (place / "image-create" / "debian").symlink_to(tmp_path / "outside")
    (place / "link").symlink_to(tmp_path / "outside" / "precious")
    keep(place / "tree", day=2)

    cache.prune(place, 0)

    assert (tmp_path / "outside" / "precious").exists()
    assert left(place) == {"link", "debian"}


def test_the_cache_itself_may_be_a_link(place: Path, tmp_path: Path) -> None:
    keep(place / "tree", day=1)
    (tmp_path / "link").symlink_to(place)

    assert cache.prune(tmp_path / "link", 0).removed == 1


def test_lock_files_stay(place: Path) -> None:
    keep(place / "locks" / "dib.lock", day=1)

    cache.prune(place, 0)

    assert left(place) == {"dib.lock"}


@pytest.mark.parametrize("inside", ["", ".git"])
def test_a_git_repository_stays_or_goes_as_a_whole(place: Path, inside: str) -> None:
    repository = place / "image-create" / "debian" / "source-repositories" / "glean"
    for name in ("HEAD", "objects/pack/one", "refs/heads/master"):
        keep(repository / inside / name, day=1)
    os.utime(repository / inside / "HEAD", (9 * 86400, 9 * 86400))
    keep(place / "tree", day=5)

    assert cache.prune(place, 3 * BLOCK).removed == 1
    assert "tree" not in left(place)
    assert len(left(place)) == 3
    assert cache.prune(place, 2 * BLOCK) == cache.Pruned(removed=1, freed=3 * BLOCK)
    assert not repository.exists()


def test_a_file_that_can_not_be_removed_is_told_and_the_others_go(
    place: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(place / "stuck", day=1)
    keep(place / "loose", day=2)
    unlink = os.unlink

    def refuse(path: str, *, dir_fd: int) -> None:
        if path == "stuck":
            raise PermissionError(1, "Operation not permitted", path)
        unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", refuse)

    assert cache.prune(place, 0) == cache.Pruned(removed=1, freed=BLOCK, left=BLOCK)
    assert "stuck can't be removed from the cache" in caplog.text


def test_no_cache_is_an_empty_one(tmp_path: Path) -> None:
    assert cache.prune(tmp_path / "nowhere", 0) == cache.Pruned()


def test_builds_and_prunes_at_once_never_take_from_a_running_build(place: Path) -> None:
    problems: list[str] = []
    stop = threading.Event()

    def build(name: str) -> None:
        while not stop.is_set():
            with cache.in_use(place / "image-create" / name, Limits()):
                mine = [archive(place, name, f"p{n}_1_amd64", day=n) for n in range(5)]
                problems.extend(str(path) for path in mine if not path.exists())

    threads = [threading.Thread(target=build, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    removed = sum(cache.prune(place, 0).removed for _ in range(50))
    stop.set()
    for thread in threads:
        thread.join()

    assert problems == []
    assert removed + cache.prune(place, 0).removed > 0
    assert left(place) == set()
