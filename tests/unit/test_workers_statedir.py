"""What the state directory keeps about its daemon, and whom it keeps out."""

from __future__ import annotations

import os
import subprocess
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.doctor import daemon
from builder.errors import RefusedError, UnavailableError
from builder.findings import Level
from builder.workers import statedir
from tests.fakes.store import FakeStore
from tests.unit.dib_world import need_root
from tests.unit.planning_world import config
from tests.unit.worker_world import daemon_of


def test_one_daemon_has_it_and_the_next_is_refused_until_it_ends(tmp_path: Path) -> None:
    with (
        statedir.locked(tmp_path),
        pytest.raises(RefusedError, match=str(os.getpid())),
        statedir.locked(tmp_path),
    ):
        pass
    with statedir.locked(tmp_path):
        pass


def test_nobody_else_can_open_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "daemon.lock"
    lock.touch(0o644)
    with statedir.locked(tmp_path):
        assert lock.stat().st_mode & 0o777 == 0o600


def test_a_state_directory_that_can_not_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnavailableError, match=r"file.*can't be used"), statedir.locked(tmp_path / "file"):
        pass
    with pytest.raises(UnavailableError, match=r"file.*can't be used"), statedir.alone_in(tmp_path / "file"):
        pass


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A directory on a disk that has room for names, and none for what is in files."""
    need_root()
    place = tmp_path / "full"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "imagepool-test", str(place)], check=True)
    try:
        (place / "filler").write_bytes(b"x" * 4096)
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_said_to_be_full(full: Path) -> None:
    said = rf"the state directory {full} can't be written: No space left on device"
    with pytest.raises(UnavailableError, match=said) as refusal, statedir.locked(full):
        pass
    assert refusal.value.hint
    with pytest.raises(UnavailableError, match=said):
        statedir.check_installation(full, "ours")
    with pytest.raises(UnavailableError, match=r"the images directory .* No space left"):
        statedir.builder_id(full)


def test_the_doctor_says_what_is_free_and_that_nothing_is(full: Path, tmp_path: Path) -> None:
    (found,) = daemon.state_directory(config(state_dir=full))
    assert found.level is Level.PROBLEM and f"0 bytes are free on {full}" in found.text
    (found,) = daemon.state_directory(config(state_dir=tmp_path))
    assert found.level is Level.OK and " free on " in found.text


def test_a_directory_that_two_daemons_name_belongs_to_the_first(tmp_path: Path) -> None:
    shared = tmp_path / "work"
    with statedir.alone_in(shared), pytest.raises(RefusedError, match="work"), statedir.alone_in(shared):
        pass
    with statedir.alone_in(shared):
        assert not list(shared.iterdir())


def test_the_builder_id_is_made_once_and_nodepools_is_taken_over(tmp_path: Path) -> None:
    made = statedir.builder_id(tmp_path / "images")
    assert str(uuid.UUID(made)) == made
    assert statedir.builder_id(tmp_path / "images") == made
    # nodepool-builder takes all of the file for the id.
    assert (tmp_path / "images" / "builder_id.txt").read_text() == made
    (tmp_path / "images" / "builder_id.txt").write_text("nodepools-own\n")
    assert statedir.builder_id(tmp_path / "images") == "nodepools-own"


def test_another_installation_is_refused_and_the_hint_says_how_to_go_on(tmp_path: Path) -> None:
    statedir.check_installation(tmp_path, "ours")
    statedir.check_installation(tmp_path, "ours")
    with pytest.raises(RefusedError) as refusal:
        statedir.check_installation(tmp_path, "theirs")
    assert str(tmp_path / "installation") in refusal.value.hint
    (tmp_path / "installation").unlink()
    statedir.check_installation(tmp_path, "theirs")


def test_a_machine_remembers_its_installation_and_is_told_what_to_do_with_another(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert statedir.known_installation(state) is None
    statedir.check_installation(state, "a" * 32)
    assert statedir.known_installation(state) == "a" * 32
    with pytest.raises(RefusedError, match="b" * 32) as refused:
        statedir.check_installation(state, "b" * 32)
    assert "imagepool recover" in refused.value.hint
    statedir.remember_installation(state, "b" * 32)
    statedir.check_installation(state, "b" * 32)


def test_an_installation_that_can_not_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / statedir.INSTALLATION).mkdir()
    with pytest.raises(UnavailableError, match="can't be read"):
        statedir.known_installation(tmp_path)


# -- a copy of a machine ----------------------------------------------------------------------------


def test_a_copy_of_a_builder_that_is_alive_is_refused() -> None:
    store = FakeStore()
    store.another_daemon().register(daemon_of("there.test", "mine"))
    with pytest.raises(RefusedError, match=r"there\.test has the id of this builder"):
        statedir.check_twin(store, "mine", "here.test", patience=0)
    statedir.check_twin(store, "another", "here.test", patience=0)


def test_what_a_machine_left_behind_of_itself_is_no_copy() -> None:
    store = FakeStore()
    store.another_daemon().register(daemon_of("here.test", "mine"))
    statedir.check_twin(store, "mine", "here.test", patience=0)


def test_a_session_under_an_earlier_name_is_waited_for() -> None:
    store = FakeStore()
    left = store.another_daemon()
    left.register(daemon_of("old.test", "mine"))
    end = threading.Timer(0.1, left.close)
    end.start()
    statedir.check_twin(store, "mine", "here.test", patience=60)
    assert not store.snapshot().daemons
    end.join()
