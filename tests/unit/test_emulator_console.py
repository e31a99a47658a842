"""The serial console: what is kept of it, what is noted, and what people are shown."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.emulator import console
from builder.emulator.console import Console
from builder.process.child import wait_for

PATIENCE = 10.0


@pytest.fixture
def line() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A serial line: the machine's end and ours."""
    theirs, ours = socket.socketpair()
    with theirs, ours:
        yield theirs, ours


def heard(theirs: socket.socket, listener: Console, text: bytes, last: str) -> None:
    """Say something, and wait until its last line is there."""
    theirs.sendall(text)
    assert wait_for(lambda: listener.tail(1)[-1:] == (last,), timeout=PATIENCE), listener.tail(5)


def test_markers_are_noted_once_and_in_order(
    line: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    theirs, ours = line
    listener = Console(ours, tmp_path / "console.log")
    assert listener.seen() == {}
    # In two parts, as a slow line has it.
    theirs.sendall(b"SeaBIOS\r\n[    0.000000] Linux ver")
    heard(theirs, listener, b"sion 6.1.0\r\n", "[    0.000000] Linux version 6.1.0")
    first = listener.seen()
    assert first.keys() == {"kernel"}
    heard(theirs, listener, b"Welcome to Debian!\r\nLinux version 7\r\n\r\nhost login: ", "host login:")
    assert listener.seen().keys() == {"kernel", "userspace"}
    assert listener.seen()["kernel"] == first["kernel"] <= listener.seen()["userspace"]
    listener.forget()
    assert listener.seen() == {}
    listener.close()
    assert b"SeaBIOS" in (tmp_path / "console.log").read_bytes()


@pytest.mark.parametrize("quiet", [b"Loading Linux 6.12.117 ...\r\n", b"EFI stub: Decompressing Linux\r\n"])
def test_a_quiet_kernel_is_noted_by_who_loads_it(
    quiet: bytes, line: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    theirs, ours = line
    listener = Console(ours, tmp_path / "console.log")
    theirs.sendall(quiet)
    heard(theirs, listener, b"\r\nhost login: ", "host login:")
    assert listener.seen().keys() == {"kernel", "userspace"}
    listener.close()


def test_what_terminals_obey_is_not_shown(line: tuple[socket.socket, socket.socket], tmp_path: Path) -> None:
    theirs, ours = line
    listener = Console(ours, tmp_path / "console.log")
    text = b"\x1b[2J\x1b[01;32mgood\x1b[0m\r\n\x1b]0;title\x07\r\nwait\rdone \xff\r\n\r\n"
    theirs.sendall(text)
    assert wait_for(lambda: any("done" in each for each in listener.tail(9)), timeout=PATIENCE)
    assert listener.tail(9)[0] == "good"
    assert listener.tail(1) == ("done \ufffd",)
    assert not any("\x1b" in each or "\x07" in each for each in listener.tail(9))
    listener.close()


def test_a_machine_that_never_stops_talking_fills_no_disk(
    line: tuple[socket.socket, socket.socket], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "LIMIT", 1000)
    monkeypatch.setattr(console, "TAIL", 100)
    theirs, ours = line
    listener = Console(ours, tmp_path / "console.log")
    heard(theirs, listener, b"chatter\n" * 500 + b"the end\n", "the end")
    listener.close()
    assert (tmp_path / "console.log").stat().st_size == 1000
    assert len(listener.tail(1000)) < 20


def test_a_full_disk_ends_no_listening(line: tuple[socket.socket, socket.socket]) -> None:
    theirs, ours = line
    listener = Console(ours, Path("/dev/full"))
    heard(theirs, listener, b"Linux version 6.1\n", "Linux version 6.1")
    heard(theirs, listener, b"host login: ", "host login:")
    assert listener.seen().keys() == {"kernel", "userspace"}
    listener.close()


def test_a_line_that_breaks_off_ends_the_listening(
    line: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    theirs, ours = line
    listener = Console(ours, tmp_path / "console.log")
    heard(theirs, listener, b"last words", "last words")
    theirs.close()
    listener.close()
    assert listener.tail(3) == ("last words",)
