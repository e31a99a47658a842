"""A change of a configuration file is noticed however it is made, once, and nothing else is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.config.watch import ConfigWatch

#: How long a change may take to be told; only a failing test waits so long.
PATIENCE = 10.0
#: How long to listen for what must not come.
QUIET = 0.5
SETTLE = 0.1


class Ear:
    """Counts the changes it is told of."""

    def __init__(self) -> None:
        self._heard = threading.Condition()
        self.count = 0

    def hear(self) -> None:
        with self._heard:
            self.count += 1
            self._heard.notify_all()

    def wait_for(self, count: int, timeout: float = PATIENCE) -> bool:
        with self._heard:
            return self._heard.wait_for(lambda: self.count >= count, timeout)


@pytest.fixture
def ear() -> Ear:
    return Ear()


@pytest.fixture
def main(tmp_path: Path) -> Path:
    file = tmp_path / "imagepool.yaml"
    file.write_text("keep: 1")
    return file


@pytest.fixture
def secure(tmp_path: Path) -> Path:
    directory = tmp_path / "secret"
    directory.mkdir()
    file = directory / "secure.yaml"
    file.write_text("{}")
    return file


@pytest.fixture
def watch(main: Path, secure: Path, ear: Ear) -> Iterator[ConfigWatch]:
    with ConfigWatch(lambda: [main, secure], ear.hear, settle=SETTLE) as watching:
        yield watching


@pytest.mark.usefixtures("watch")
def test_a_file_that_is_written_again_is_told(main: Path, ear: Ear) -> None:
    main.write_text("keep: 22")
    assert ear.wait_for(1)


@pytest.mark.usefixtures("watch")
def test_the_second_file_counts_too(secure: Path, ear: Ear) -> None:
    secure.write_text("diskimages: []")
    assert ear.wait_for(1)


@pytest.mark.usefixtures("watch")
def test_a_file_that_is_replaced_is_told_every_time(main: Path, ear: Ear) -> None:
    for times in (1, 2):
        new = main.with_name("new")
        new.write_text("keep: 1")
        new.rename(main)
        assert ear.wait_for(times)


@pytest.mark.usefixtures("watch")
def test_a_file_that_goes_and_comes_back_is_told(main: Path, ear: Ear) -> None:
    main.unlink()
    assert ear.wait_for(1)
    main.write_text("keep: 1")
    assert ear.wait_for(2)


def test_a_link_that_is_set_anew_is_told_and_so_is_its_new_target(tmp_path: Path, ear: Ear) -> None:
    # How Kubernetes mounts a ConfigMap: file -> ..data/file, ..data -> a directory with a date.
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "imagepool.yaml").write_text(f"# {name}")
    data = tmp_path / "..data"
    data.symlink_to("first")
    file = tmp_path / "imagepool.yaml"
    file.symlink_to("..data/imagepool.yaml")
    with ConfigWatch(lambda: [file], ear.hear, settle=SETTLE):
        (tmp_path / "..data_tmp").symlink_to("second")
        (tmp_path / "..data_tmp").rename(data)
        assert ear.wait_for(1)
        (tmp_path / "second" / "imagepool.yaml").write_text("# changed in place")
        assert ear.wait_for(2)


def test_a_burst_of_writes_is_told_once(main: Path, ear: Ear) -> None:
    with ConfigWatch(lambda: [main], ear.hear, settle=2 * QUIET):
        for count in range(20):
            main.write_text(f"keep: {count}")
        assert ear.wait_for(1)
        assert not ear.wait_for(2, timeout=3 * QUIET)


@pytest.mark.usefixtures("watch")
def test_reading_and_the_neighbours_are_no_change(main: Path, ear: Ear) -> None:
    main.read_text()
    main.with_name("neighbour").write_text("x")
    assert not ear.wait_for(1, timeout=QUIET)


def test_what_changes_before_anybody_listens_is_told(main: Path, ear: Ear) -> None:
    watching = ConfigWatch(lambda: [main], ear.hear, settle=SETTLE)
    main.write_text("changed meanwhile")
    with watching:
        assert ear.wait_for(1)


def test_nothing_is_told_after_the_end(watch: ConfigWatch, main: Path, ear: Ear) -> None:
    watch.stop()
    main.write_text("keep: 3")
    assert not ear.wait_for(1, timeout=QUIET)


def test_a_watch_that_never_began_can_be_stopped(main: Path, ear: Ear) -> None:
    ConfigWatch(lambda: [main], ear.hear).stop()
    assert ear.count == 0
