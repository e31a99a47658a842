"""What a daemon keeps in its state directory about itself: the lock, the builder's id, the installation.

<state-dir>/daemon.lock         held for as long as a daemon runs, with its process id in it
<state-dir>/installation        id of the ZooKeeper tree this directory belongs to
<images-dir>/builder_id.txt     id of these files' owner (nodepool-builder's own file and format)
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from builder.errors import RefusedError, UnavailableError
from builder.model import Daemon
from builder.store.base import Store

LOG = logging.getLogger(__name__)

INSTALLATION: Final = "installation"
#: Seconds between two looks at who is alive.
_LOOK: Final = 0.5


@contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    """Hold the state directory while the block runs; RefusedError when another daemon does,
    UnavailableError when it can't be made or written.

    The kernel drops the lock with the process, however it ends, so there are no stale locks.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o755)
        descriptor = os.open(state_dir / "daemon.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UnavailableError(
            f"the state directory {state_dir} can't be used: {error.strerror}",
            hint="Name another one with state-dir, or run imagepool as a user who may write there.",
        ) from error
    try:
        # Whoever can open it, if only to read, can lock it and keep every daemon out.
        os.fchmod(descriptor, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            raise RefusedError(
                f"another imagepool daemon (process {holder}) uses the state directory {state_dir}",
                hint="Stop it first, or give this one a state-dir of its own.",
            ) from None
        with _writing("state", state_dir):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _writing(kind: str, directory: Path) -> Iterator[None]:
    """What can't be written below the directory, on a full disk for instance, as UnavailableError."""
    try:
        yield
    except OSError as error:
        raise UnavailableError(
            f"the {kind} directory {directory} can't be written: {error.strerror}",
            hint="Free some of its disk, or name a directory on another one; `imagepool doctor` looks at it.",
        ) from error


@contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """Hold a directory itself, without a file in it; RefusedError when another daemon does, and
    UnavailableError when it can't be made."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UnavailableError(
            f"the directory {directory} can't be used: {error.strerror}",
            hint="Name another one, or run imagepool as a user who may write there.",
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RefusedError(
                f"another imagepool daemon uses the directory {directory}",
                hint="Give each daemon an images-dir and a work-dir of its own.",
            ) from None
        yield
    finally:
        os.close(descriptor)


def builder_id(images_dir: Path) -> str:
    """The id of this images directory's owner; made at the first call, then always the same.

    Raises UnavailableError when it can't be written.
    """
    file = images_dir / "builder_id.txt"
    if not file.exists():
        with _writing("images", images_dir):
            # nodepool-builder takes a line end for a part of the id.
            write_atomically(file, str(uuid.uuid4()), end="")
    return file.read_text().strip()


def check_twin(store: Store, builder_id: str, hostname: str, patience: float) -> None:
    """Refuse to be a second builder with the id of one that is alive on another machine, as a copy of a whole
    machine is: each would take the other's files for its own, and miss them.

    What this machine has left behind under an earlier name is gone within `patience` seconds, the time that
    a session lasts. RefusedError says how to go on.
    """
    give_up, seen = time.monotonic() + patience, -1
    while twin := _twin(store, builder_id, hostname):
        if time.monotonic() >= give_up:
            raise RefusedError(
                f"a daemon on {twin.hostname} has the id of this builder, {builder_id}",
                hint="Is this machine a copy of that one? Then remove the images directory here, with"
                " builder_id.txt in it, and start again. If it shall take its place, stop that one first.",
            )
        if seen < 0:
            LOG.warning("a daemon on %s has the id of this builder; waiting for its end", twin.hostname)
        seen = store.wait(seen, _LOOK)


def _twin(store: Store, builder_id: str, hostname: str) -> Daemon | None:
    alive = store.snapshot().daemons
    return next((each for each in alive if each.builder_id == builder_id and each.hostname != hostname), None)


def check_installation(state_dir: Path, installation_id: str) -> None:
    """Refuse to work on a ZooKeeper tree that is not the one this machine has always worked on.

    An emptied server or a wrong chroot looks like a world without images: everything would be
    built and uploaded a second time beside what is there. RefusedError says how to go on.
    """
    file, known = state_dir / INSTALLATION, known_installation(state_dir)
    if known is None:
        remember_installation(state_dir, installation_id)
    elif known != installation_id:
        raise RefusedError(
            f"this machine belongs to the installation {known}, but ZooKeeper holds the installation"
            f" {installation_id}: another server or chroot, or one that lost its data",
            hint="Nothing was touched. Mend zookeeper-servers; or, if the old tree is gone for good, make its"
            " records again with `imagepool recover`. If this machine shall start anew instead, remove"
            f" {file} and start again.",
        )


def known_installation(state_dir: Path) -> str | None:
    """The installation this machine belongs to; None for a machine that never worked on any.

    Raises UnavailableError when that can't be read.
    """
    file = state_dir / INSTALLATION
    try:
        return file.read_text().strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnavailableError(
            f"{file} can't be read: {error.strerror}", hint="Run this as the user that the daemon runs as."
        ) from error


def remember_installation(state_dir: Path, installation_id: str) -> None:
    """From now on this machine belongs to that installation; UnavailableError when it can't be written."""
    with _writing("state", state_dir):
        write_atomically(state_dir / INSTALLATION, installation_id)


def write_atomically(file: Path, text: str, *, end: str = "\n") -> None:
    """Write a small file so that a crash leaves the old one or the new one, never half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    with draft.open("w") as stream:
        stream.write(text + end)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(file)
