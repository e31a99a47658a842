"""A command asks the daemon of its machine: what it is told, and whom it does not believe."""

from __future__ import annotations

import os
import resource
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.config.model import Config
from builder.errors import StoreUnavailableError
from builder.model import Build, Snapshot
from builder.store import asking, codec, paths, wire
from builder.store.answering import AnswerServer
from builder.store.asking import SOCKET, Told, ask
from builder.store.fields import Stored
from builder.store.wire import Answer, Question, WireError
from tests.contract.records import NOON, a_full_build, a_full_upload
from tests.contract.worlds import eventually
from tests.unit.planning_world import config, diskimage, provider

FINGERPRINT = "f" * 64
QUESTION = Question(config=FINGERPRINT)
#: Far more than a command may wait for a daemon that does not answer.
TOO_LONG = 5.0


class Tree:
    """The daemon's view: one image, with a build, an upload and somebody who builds."""

    def __init__(self) -> None:
        self.build = a_full_build()
        self.upload = replace(a_full_upload(self.build), id="0000000001")
        self.up_to_date = True
        self.reachable = True

    def fresh_nodes(self, timeout: float, *, uploads: bool = True) -> list[tuple[str, Stored | None]] | None:
        if not self.reachable:
            raise StoreUnavailableError("ZooKeeper can't be reached")
        return list(self.nodes()) if self.up_to_date else None

    def nodes(self) -> Iterator[tuple[str, Stored | None]]:
        build, upload = self.build, self.upload
        yield paths.image(build.image), None
        yield f"{paths.image_lock(build.image)}/{'0' * 32}__lock__0000000001", None
        yield paths.build(build.image, build.id), stored(codec.encode_build(build))
        where = paths.upload(upload.image, upload.build_id, upload.provider, upload.id)
        yield where, stored(codec.encode_upload(upload))


def stored(data: bytes) -> Stored:
    return Stored(data=data, version=3, written_by=77, created=NOON, modified=NOON)


@pytest.fixture
def tree() -> Tree:
    return Tree()


@pytest.fixture
def in_force() -> Config:
    return replace(config(diskimage(), provider("north"), provider("south")), fingerprint=FINGERPRINT)


@pytest.fixture
def daemon(tmp_path: Path, tree: Tree, in_force: Config) -> Iterator[AnswerServer]:
    with AnswerServer(tmp_path, tree, lambda: in_force, "") as server:
        yield server


@contextmanager
def listening(state_dir: Path, act: Callable[[socket.socket], None]) -> Iterator[None]:
    """Somebody who has taken the daemon's place, and does that to the first who connects."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(state_dir / SOCKET))
    listener.listen(1)

    def serve() -> None:
        connection, _ = listener.accept()
        # Who asks may have heard enough.
        with connection, suppress(BrokenPipeError, ConnectionResetError):
            act(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.close()
        thread.join(TOO_LONG)


class TestWhatItTells:
    def test_the_whole_tree_and_the_names_of_the_configuration(
        self, tmp_path: Path, daemon: AnswerServer, tree: Tree
    ) -> None:
        told = ask(tmp_path, QUESTION)
        assert told is not None
        assert list(told.snapshot.builds()) == [replace(tree.build, version=3)]
        assert list(told.snapshot.uploads()) == [replace(tree.upload, version=3)]
        assert told.snapshot.image(tree.build.image).build_claimed
        assert (told.images, told.providers) == (("debian-bookworm",), ("north", "south"))

    def test_many_at_once_are_told_or_sent_on(self, tmp_path: Path, daemon: AnswerServer) -> None:
        told: list[Told | None] = []
        threads = [threading.Thread(target=lambda: told.append(ask(tmp_path, QUESTION))) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TOO_LONG)
        assert len(told) == 20
        assert any(told)
        assert ask(tmp_path, QUESTION) is not None

    def test_it_goes_on_when_it_could_not_let_one_in(
        self, tmp_path: Path, daemon: AnswerServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        asking_for = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with asking_for:
            lowest = os.dup(asking_for.fileno())
            os.close(lowest)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
            try:
                asking_for.connect(str(tmp_path / SOCKET))
                eventually(lambda: "not answered for now" in caplog.text, "it could not let one in")
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        eventually(lambda: ask(tmp_path, QUESTION) is not None, "it answers again")

    def test_its_directory_may_have_a_long_name(self, tmp_path: Path, tree: Tree, in_force: Config) -> None:
        far = tmp_path / ("d" * 120)
        far.mkdir()
        with AnswerServer(far, tree, lambda: in_force, ""):
            assert ask(far, QUESTION) is not None

    def test_only_its_user_may_ask(self, tmp_path: Path, daemon: AnswerServer) -> None:
        assert stat.S_IMODE((tmp_path / SOCKET).stat().st_mode) == 0o600

    def test_a_daemon_takes_the_place_of_one_that_was_killed(
        self, tmp_path: Path, tree: Tree, in_force: Config
    ) -> None:
        left = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        left.bind(str(tmp_path / SOCKET))
        left.close()
        assert ask(tmp_path, QUESTION) is None
        with AnswerServer(tmp_path, tree, lambda: in_force, ""):
            assert ask(tmp_path, QUESTION) is not None
        assert not (tmp_path / SOCKET).exists()

    def test_a_daemon_that_can_not_listen_runs_all_the_same(
        self, tmp_path: Path, tree: Tree, in_force: Config, caplog: pytest.LogCaptureFixture
    ) -> None:
        with AnswerServer(tmp_path / "missing", tree, lambda: in_force, ""):
            assert "are not answered" in caplog.text


class TestWhenItDoesNotTell:
    def test_there_is_none(self, tmp_path: Path) -> None:
        assert ask(tmp_path, QUESTION) is None
        assert ask(tmp_path / "missing", QUESTION) is None

    @pytest.mark.parametrize(
        "question", [Question(config="0" * 64), Question(config=FINGERPRINT, servers="other:2181")]
    )
    def test_it_works_with_another_configuration(
        self, tmp_path: Path, daemon: AnswerServer, question: Question
    ) -> None:
        assert ask(tmp_path, question) is None

    def test_nobody_knows_what_its_configuration_was(
        self, tmp_path: Path, tree: Tree, in_force: Config
    ) -> None:
        with AnswerServer(tmp_path, tree, lambda: replace(in_force, fingerprint=""), ""):
            assert ask(tmp_path, Question(config="")) is None

    def test_it_has_lost_zookeeper(
        self, tmp_path: Path, daemon: AnswerServer, tree: Tree, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("DEBUG")
        tree.up_to_date = False
        assert ask(tmp_path, QUESTION) is None
        assert "it does not know the latest" in caplog.text
        tree.reachable = False
        assert ask(tmp_path, QUESTION) is None
        assert "ZooKeeper can't be reached" in caplog.text

    def test_it_hangs(self, tmp_path: Path) -> None:
        over = threading.Event()
        with listening(tmp_path, lambda connection: over.wait(TOO_LONG) and None):
            began = time.monotonic()
            assert ask(tmp_path, QUESTION) is None
            assert time.monotonic() - began < TOO_LONG / 2
            over.set()

    def test_it_trickles(self, tmp_path: Path) -> None:
        over = threading.Event()

        def trickle(connection: socket.socket) -> None:
            while not over.wait(0.05):
                connection.send(b" ")

        with listening(tmp_path, trickle):
            began = time.monotonic()
            assert ask(tmp_path, QUESTION) is None
            assert time.monotonic() - began < TOO_LONG / 2
            over.set()

    @pytest.mark.parametrize(
        "said",
        [
            b"",
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b'{"imagepool": 2, "images": [], "providers": [], "bytes": 0}\n',
            b'{"imagepool": 1, "images": [], "providers": [], "bytes": 9}\n123',
            b'{"imagepool": 1, "images": [], "providers": [], "bytes": 2}\n1234',
            b'{"imagepool": 1, "images": [], "providers": [], "bytes": 99999999999}\n',
            b'{"imagepool": 1, "images": [7], "providers": [], "bytes": 0}\n',
            b'{"imagepool": 1, "images": [], "providers": [], "bytes": 40}\n' + b"\xff" * 40,
            b'{"imagepool": 1, "images": [], "providers": [], "bytes": 37}\n'
            + wire._NODE.pack(1, 0, 0, 0, 1 << 60, 0)
            + b"/",
            pytest.param(b"x" * (wire.MOST_ANSWERED + asking._CHUNK), id="no end of it"),
        ],
    )
    def test_it_talks_nonsense(self, tmp_path: Path, said: bytes) -> None:
        def talk(connection: socket.socket) -> None:
            connection.recv(4096)
            connection.sendall(said)

        with listening(tmp_path, talk):
            assert ask(tmp_path, QUESTION) is None

    def test_it_is_somebody_elses(
        self, tmp_path: Path, daemon: AnswerServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if os.geteuid() != 0:
            pytest.skip("needs root, to be somebody else")
        # The daemon is root in any case here, so let root be nobody to be trusted.
        monkeypatch.setattr(asking, "_trusted", lambda state_dir: {4711})
        assert ask(tmp_path, QUESTION) is None


def test_a_command_that_talks_nonsense_is_not_answered(
    tmp_path: Path, daemon: AnswerServer, tree: Tree
) -> None:
    for said in (b"\n", b"GET / HTTP/1.1\r\n", b"[]\n", b"x" * (wire.MOST_ASKED * 2)):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(TOO_LONG)
            connection.connect(str(tmp_path / SOCKET))
            connection.sendall(said)
            try:
                assert connection.recv(1) == b""
            except ConnectionResetError:
                continue
    assert ask(tmp_path, QUESTION) is not None


@given(st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.none() | st.binary())))
def test_nodes_arrive_as_they_were_sent(nodes: list[tuple[str, bytes | None]]) -> None:
    time = datetime(2026, 11, 21, 14, 14, 0, 123000, tzinfo=UTC)
    sent = [
        (
            path,
            None
            if data is None
            else Stored(data=data, version=2**31 - 1, written_by=2**40, created=time, modified=NOON),
        )
        for path, data in nodes
    ]
    encoded = b"".join(wire.encode_nodes(sent))
    assert list(wire.decode_nodes(encoded)) == sent
    assert wire.size_of(sent) == len(encoded)


@given(st.binary(max_size=200))
def test_any_bytes_are_nodes_or_an_error(data: bytes) -> None:
    try:
        list(wire.decode_nodes(data))
    except WireError as error:
        assert str(error)


def test_questions_and_answers_arrive_as_they_were_sent() -> None:
    for question in (Question(config="ä", servers="a:1"), Question(config="", uploads=False)):
        assert wire.decode_question(wire.encode_question(question)) == question
    for answer in (Answer(images=("a",), providers=("b", "c"), size=7), Answer(refused="no")):
        assert wire.decode_answer(wire.encode_answer(answer)) == answer


def test_an_unreadable_record_is_left_out(tmp_path: Path, tree: Tree, in_force: Config) -> None:
    def nodes() -> Iterator[tuple[str, Stored | None]]:
        yield paths.image("img"), None
        yield paths.build("img", Build.__name__.encode().hex().zfill(32)), stored(b"{")
        yield "/elsewhere", stored(b"{}")

    tree.nodes = nodes  # type: ignore[method-assign]
    with AnswerServer(tmp_path, tree, lambda: in_force, ""):
        told = ask(tmp_path, QUESTION)
    assert told is not None
    assert isinstance(told.snapshot, Snapshot)
    assert list(told.snapshot.images) == ["img"]
    assert list(told.snapshot.builds()) == []
