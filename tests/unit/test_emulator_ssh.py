"""Logging in: once for each try, and what the server or the client says is not lost."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


def test_a_key_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    public = ssh.make_key(tmp_path / "key")
    assert public.startswith("ssh-ed25519 ")
    assert (tmp_path / "key").stat().st_mode & 0o077 == 0


def test_who_is_refused_is_told_why_and_counts_once(tmp_path: Path) -> None:
    ssh.make_key(tmp_path / "key")
    with refusing() as server:
        assert ssh.banner(server.port) == REFUSAL
        login = Login("zuul", server.port, key=tmp_path / "key", directory=tmp_path)
        done = login.run("true", timeout=30.0)
        login.close()
    assert done.code == 255
    assert done.stderr.strip()
    assert server.visitors == 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["key", "key.pub"]


def test_where_nobody_is_nothing_is_heard(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert ssh.banner(port) == ""


def test_how_to_log_in_by_hand_names_key_port_and_user(tmp_path: Path) -> None:
    words = Login("zuul", 2222, key=tmp_path / "key", directory=tmp_path).words
    assert words[0] == "ssh" and words[-1] == "127.0.0.1"
    assert {str(tmp_path / "key"), "2222", "zuul"} <= set(words)
