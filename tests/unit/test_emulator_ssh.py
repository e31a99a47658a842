"""Logging in: once for each try, and what the server or the client says is not lost."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from builder.emulator import ssh
from builder.emulator.ssh import Login

REFUSAL = "Not allowed at this time"


class Server:
    """Says one thing to everybody, and counts them."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        self.visitors = 0

    def serve(self) -> None:
        while True:
            try:
                visitor, _ = self.socket.accept()
            except OSError:
                return  # it is closed
            self.visitors += 1
            with visitor:
                visitor.sendall(f"{REFUSAL}\r\n".encode())


@contextmanager
def refusing() -> Iterator[Server]:
    """A server that lets nobody in."""
    server = Server()
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.socket.shutdown(socket.SHUT_RDWR)
        server.socket.close()
        thread.join()


def heard(port: int) -> str:
    with closing(ssh.Greeting(port)) as greeting:
        return greeting.heard()


def test_a_key_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    public = ssh.make_key(tmp_path / "key")
    assert public.startswith("ssh-ed25519 ")
    assert (tmp_path / "key").stat().st_mode & 0o077 == 0


def test_who_is_refused_is_told_why_and_counts_once(tmp_path: Path) -> None:
    ssh.make_key(tmp_path / "key")
    with refusing() as server:
        assert heard(server.port) == REFUSAL
        login = Login("zuul", server.port, key=tmp_path / "key", directory=tmp_path)
        done = login.run("true", timeout=30.0)
        login.close()
    assert done.code == 255
    assert done.stderr.strip()
    assert server.visitors == 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["key", "key.pub"]


def program(directory: Path, monkeypatch: pytest.MonkeyPatch, connecting: str, running: str) -> Login:
    """A login by another ssh: in shell, how it makes the connection, and how it runs a command."""
    script = directory / "bin" / "ssh"
    script.parent.mkdir()
    master = f'for word; do [ "$word" != -M ] || {{ {connecting}; exec /bin/sleep 60; }}; done'
    script.write_text(f"#!/bin/sh\n{master}\n{running}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=":")
    return Login("zuul", 1, key=directory / "key", directory=directory)


def test_a_guest_that_never_stops_talking_is_not_listened_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "_ANSWER", 1 << 20)
    login = program(tmp_path, monkeypatch, ": >ssh-zuul", "exec /usr/bin/yes")
    done = login.run("true", timeout=60.0)
    login.close()
    assert (done.code, done.stdout, done.stderr) == (255, "", "the guest said more than 1 MiB")


def test_who_has_little_time_waits_no_longer_to_be_let_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = program(tmp_path, monkeypatch, ":", "exit 0")
    began = time.monotonic()
    assert login.run("true", timeout=0.5).code == 255
    assert time.monotonic() - began < 30


def test_where_nobody_is_nothing_is_heard(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert heard(port) == ""


def test_a_guest_that_is_slow_to_answer_is_not_asked_anew_each_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ssh, "_LOOK", 0.01)
    visitors: list[socket.socket] = []
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        closing(ssh.Greeting(server.getsockname()[1])) as greeting,
        ExitStack() as kept,
    ):
        server.setblocking(False)

        def look() -> str:
            said = greeting.heard()
            with suppress(BlockingIOError):
                visitors.append(kept.enter_context(server.accept()[0]))
            return said

        assert [look() for _ in range(60)] == [""] * 60
        assert 1 < len(visitors) <= 20

        said, deadline = "", time.monotonic() + 60
        while not said and time.monotonic() < deadline:
            with suppress(OSError):  # it has just hung up, to ask anew
                visitors[-1].sendall(b"SSH-2.0-late\r\n")
            said = look()
        assert said.startswith("SSH-2.0-late")


def test_how_to_log_in_by_hand_names_key_port_and_user(tmp_path: Path) -> None:
    words = Login("zuul", 2222, key=tmp_path / "key", directory=tmp_path).words
    assert words[0] == "ssh" and words[-1] == "127.0.0.1"
    assert {str(tmp_path / "key"), "2222", "zuul"} <= set(words)
