"""A whole imagepool in a directory of its own: configuration, clouds, scripted dib, daemons, CLI.

Only the image tool and the clouds are stand-ins (tests/fakes); the daemon is the real command in
a process of its own, the store a real ZooKeeper. A test tells a story with it:

    place.start()
    place.until(lambda s: s.image("img").ready_builds)
    place.stop()
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml
from kazoo.client import KazooClient

from builder.config.model import ZooKeeper
from builder.model import Build, BuildState, Snapshot, Upload, UploadState
from builder.store import embedded
from builder.store.zookeeper import ZooKeeperStore
from tests.fakes.glance import FakeGlance

FAKE_DIB = Path(__file__).parents[1] / "fakes" / "disk-image-create"
IMAGEPOOL = Path(sys.executable).with_name("imagepool")
#: Seconds a condition may take on a busy machine; nothing waits so long when all is well.
DEADLINE = 60.0
Value = TypeVar("Value")


class Daemon:
    """One `imagepool run` in a process of its own; its log is a file."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                argv, env=dict(environment), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
            )

    def kill(self) -> None:
        """kill -9, as the kernel's out-of-memory killer or a power cut would."""
        self.process.kill()
        self.process.wait(DEADLINE)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        """Wait for it to end by itself; the exit code."""
        return self.process.wait(DEADLINE)

    def text(self) -> str:
        """What it logged so far."""
        return self.log.read_text(errors="replace")


class Installation:
    """Everything one test needs, and what it started; `close` stops all of it."""

    def __init__(self, root: Path, zookeeper: ZooKeeper, glance: FakeGlance) -> None:
        self.root = root
        self.zookeeper = zookeeper
        self.glance = glance
        self.control = root / "control"
        self.control.mkdir()
        self.clouds = root / "clouds.yaml"
        glance.clouds_yaml(self.clouds)
        self.daemons: list[Daemon] = []
        self.path = os.environ["PATH"]
        self.variables: dict[str, str] = {}  #: of the environment, besides
        self.settings: dict[str, Any] = {
            "state-dir": str(root / "state"),
            "build-log-dir": str(root / "logs"),
            "zookeeper-servers": self._servers(),
            "diskimages": [
                {
                    "name": "img",
                    "elements": ["fake", "vm"],
                    "formats": ["qcow2"],
                    "dib-cmd": str(FAKE_DIB),
                    "schedule": "never",
                    "env-vars": {"FAKE_DIB_CONTROL": str(self.control)},
                }
            ],
            "providers": [self._provider("one", "RegionOne"), self._provider("two", "RegionTwo")],
            "upload-retries": {"first": 1, "longest": 2, "limit": 3},
            "build-retries": {"first": 1, "longest": 2, "limit": 3},
        }
        self.config = root / "imagepool.yaml"
        self.write()
        self._store: ZooKeeperStore | None = None

    # -- configuration --------------------------------------------------------------------------

    @property
    def image(self) -> dict[str, Any]:
        """The settings of the one diskimage, to be changed before `write`."""
        found: dict[str, Any] = self.settings["diskimages"][0]
        return found

    def write(self) -> None:
        """Put the settings into force, atomically as an operator's editor would."""
        draft = self.config.with_suffix(".new")
        draft.write_text(yaml.safe_dump(self.settings))
        draft.replace(self.config)

    def no_other_way(self) -> None:
        """Let an upload whose plain PUT fails be a failed one, instead of being tried in another way."""
        for provider in self.settings["providers"]:
            provider["upload-method"] = "put"
        self.write()

    def knob(self, name: str, text: str = "") -> Path:
        """Set a knob of the scripted disk-image-create; returns its file, which may be removed."""
        file = self.control / name
        file.write_text(text)
        return file

    def slow_tool(self, name: str, word: str) -> tuple[Path, Path]:
        """Put a tool before the real one that waits when its arguments have `word`.

        Returns the file that exists once it waits, and the file that, removed, lets it go on.
        """
        programs, started, hold = self.root / "programs", self.root / "started", self.root / "hold"
        programs.mkdir()
        hold.touch()
        real = shutil.which(name)
        script = programs / name
        script.write_text(
            f'#!/bin/bash\ncase " $* " in *" {word} "*) touch {started}; '
            f'while [ -e {hold} ]; do sleep 0.1; done;; esac\nexec {real} "$@"\n'
        )
        script.chmod(0o755)
        self.path = f"{programs}:{os.environ['PATH']}"
        return started, hold

    # -- daemons and commands ---------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        """A clean environment for the daemon and the CLI."""
        return {
            "PATH": self.path,
            "HOME": str(self.root),
            "OS_CLIENT_CONFIG_FILE": str(self.clouds),
            "IMAGEPOOL_CONFIG": str(self.config),
            **self.variables,
        }

    def command(self, *arguments: str) -> Sequence[str]:
        """The command line of the program with these arguments."""
        return [str(IMAGEPOOL), *arguments]

    def start(self, *arguments: str, config: Path | None = None) -> Daemon:
        """Start a daemon."""
        environment = self.environment()
        if config is not None:
            environment["IMAGEPOOL_CONFIG"] = str(config)
        log = self.root / f"daemon-{len(self.daemons)}.log"
        daemon = Daemon(self.command("run", *arguments), environment, log)
        self.daemons.append(daemon)
        return daemon

    def cli(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.command(*arguments),
            env={**self.environment(), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

    def json(self, *arguments: str) -> Any:
        """The JSON a command prints; it must end with 0."""
        done = self.cli(*arguments, "-f", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    # -- the tree ---------------------------------------------------------------------------------

    @property
    def store(self) -> ZooKeeperStore:
        """A session of the test's own, kept current by watches."""
        if self._store is None:
            self._store = ZooKeeperStore(self.zookeeper, watch=True)
            self._store.start()
        return self._store

    def use_private_zookeeper(self) -> None:
        """Look at the tree in the daemon's own server, as soon as that answers."""
        if self._store is not None:
            self._store.close()
            self._store = None
        state = self.root / "state"
        wait_until(lambda: embedded.find_endpoint(state) is not None, self.story)
        endpoint = embedded.find_endpoint(state)
        assert endpoint is not None
        self.zookeeper = endpoint

    def lose_records(self) -> None:
        """Lose everything that is in ZooKeeper, while no daemon runs."""
        if self._store is not None:
            self._store.close()
            self._store = None
        with raw_session(self.zookeeper) as client:
            for top in ("/nodepool", "/imagepool"):
                client.delete(top, recursive=True)

    def snapshot(self) -> Snapshot:
        """The tree now."""
        return self.store.snapshot()

    def until(self, ask: Callable[[Snapshot], Value | None], timeout: float = DEADLINE) -> Value:
        """Wait until `ask` finds in the tree what it looks for; fails with the daemons' logs."""
        deadline, seen = time.monotonic() + timeout, -1
        while True:
            found = ask(self.snapshot())
            if found:
                return found
            left = deadline - time.monotonic()
            alive = [d for d in self.daemons if d.process.poll() in (None, 0)]
            assert alive or not self.daemons, f"the daemon ended\n{self.story()}"
            assert left > 0, f"it did not happen within {timeout:.0f} s\n{self.story()}"
            seen = self.store.wait(seen, min(left, 0.5))

    def ready_build(self, after: str = "") -> Build:
        """Wait for the newest build to be ready, and another one than `after`."""

        def ask(snapshot: Snapshot) -> Build | None:
            ready = snapshot.image("img").ready_builds
            return ready[0] if ready and ready[0].id != after else None

        return self.until(ask)

    def ready_uploads(self, build: Build, count: int = 2) -> tuple[Upload, ...]:
        """Wait until a build is ready in so many providers or more."""

        def ask(snapshot: Snapshot) -> tuple[Upload, ...]:
            ready = [u for u in snapshot.image("img").uploads_of(build.id) if u.state is UploadState.READY]
            return tuple(ready) if len(ready) >= count else ()

        return self.until(ask)

    def serving_uploads(self, build: Build, count: int = 2) -> tuple[Upload, ...]:
        """Wait until a build serves in so many providers, all that is ready of it; nothing more is to be done
        about them then."""

        def ask(snapshot: Snapshot) -> tuple[Upload, ...]:
            ready = [u for u in snapshot.image("img").uploads_of(build.id) if u.state is UploadState.READY]
            return tuple(ready) if len([u for u in ready if u.serving]) == len(ready) >= count else ()

        return self.until(ask)

    def failed_build(self) -> Build:
        """Wait for a build to be recorded as failed."""
        return self.until(
            lambda s: next((b for b in s.image("img").builds if b.state is BuildState.FAILED), None)
        )

    def failed_upload(self, provider: str = "one") -> Upload:
        """Wait for an upload to a provider to be recorded as failed."""
        return self.until(
            lambda s: next(
                (u for u in s.image("img").uploads_to(provider) if u.state is UploadState.FAILED), None
            )
        )

    def paused_at(self, phase: str) -> None:
        """Wait until the scripted disk-image-create waits in that phase."""
        wait_until(lambda: _text(self.control / "paused").strip() == phase, self.story)

    def runs(self) -> int:
        """How often disk-image-create was started."""
        return len(_text(self.control / "runs").splitlines())

    def files(self) -> set[str]:
        """Everything below the images directory and the work directory, by relative path."""
        state = self.root / "state"
        return {
            str(path.relative_to(state))
            for top in ("images", "work")
            for path in (state / top).rglob("*")
            if path.name != "builder_id.txt"
        }

    def story(self) -> str:
        """What the daemons said, for a test that failed."""
        return "\n".join(f"--- {d.log.name}\n{d.text()[-4000:]}" for d in self.daemons)

    def close(self) -> None:
        """Stop what was started; a daemon that does not stop is killed, and the test fails."""
        late = []
        running = [daemon for daemon in self.daemons if daemon.process.poll() is None]
        for daemon in running:
            daemon.process.terminate()
        for daemon in running:
            try:
                daemon.wait()
            except subprocess.TimeoutExpired:
                daemon.kill()
                late.append(daemon)
        if self._store is not None:
            self._store.close()
        assert not late, f"a daemon did not stop within {DEADLINE:.0f} s\n{self.story()}"

    def _servers(self) -> list[dict[str, Any]]:
        chroot = {"chroot": self.zookeeper.chroot} if self.zookeeper.chroot else {}
        pairs = [each.rsplit(":", 1) for each in self.zookeeper.hosts.split(",")]
        return [{"host": host, "port": int(port), **chroot} for host, port in pairs]

    def _provider(self, name: str, region: str) -> dict[str, Any]:
        return {
            "name": name,
            "cloud": "fake",
            "region-name": region,
            "image-upload-timeout": 60,
            "diskimages": [{"name": "img"}],
        }


def wait_until(
    condition: Callable[[], bool], story: Callable[[], str] = str, timeout: float = DEADLINE
) -> None:
    """Wait for the world outside the tree; fails with what `story` tells."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen within {timeout:.0f} s\n{story()}"
        time.sleep(0.02)


def command_lines() -> Iterator[tuple[int, str]]:
    """Process id and command line of every process of this machine but this one."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue  # it ended while we looked
            yield int(entry.name), line


def processes_mentioning(text: str) -> list[str]:
    """Command lines of all processes that mention a text."""
    return [line for _, line in command_lines() if text in line]


@contextmanager
def raw_session(zookeeper: ZooKeeper) -> Iterator[KazooClient]:
    """A session that knows nothing of imagepool: what nodepool's own programs would see."""
    client = KazooClient(hosts=f"{zookeeper.hosts}{zookeeper.chroot}")
    client.start(timeout=DEADLINE)
    try:
        yield client
    finally:
        client.stop()
        client.close()


@contextmanager
def suspended(process: int) -> Iterator[None]:
    """Hold a process still while the block runs."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except FileNotFoundError:
        return ""
