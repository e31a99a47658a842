"""Several machines of one installation on one: each with a host name, a disk, a clock and cables of its own.

A machine is an installation of which ZooKeeper and the clouds are shared with others. Its daemon runs in
a host name space of its own, reaches both through links that a test can cut, and keeps to a control
directory of its own for the scripted disk-image-create, so that a test sees who built what.

    fleet.start_all("a", "b")
    fleet.until(lambda s: s.leader == "a")
    fleet["a"].cut_off_zookeeper()
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from builder.config.model import ZooKeeper
from builder.model import Build, Snapshot
from tests.fakes.glance import FakeGlance
from tests.functional.installation import DEADLINE, Daemon, Installation, Value
from tests.realparts.link import Link

#: Seconds that a session outlives its daemon: what takes over has to wait for so long.
SESSION = 2
WRONG_CLOCK = Path(__file__).parents[1] / "fakes" / "wrong_clock"


class Machine(Installation):
    """One machine. Its `settings` are its own copy, `links` its cables."""

    def __init__(self, root: Path, name: str, zookeeper: ZooKeeper, glance: FakeGlance) -> None:
        self.name = name
        self.links = ExitStack()
        self.to_zookeeper = [self._link(each) for each in zookeeper.hosts.split(",")]
        self.to_clouds = self._link(f"127.0.0.1:{glance.port}")
        self.clock_ahead = timedelta(0)
        super().__init__(root, zookeeper, glance)
        self._point_clouds()
        self.settings["zookeeper-timeout"] = SESSION
        self.write()

    def _link(self, address: str) -> Link:
        host, port = address.rsplit(":", 1)
        return self.links.enter_context(Link.to((host, int(port))))

    def _point_clouds(self) -> None:
        """Let clouds.yaml name our end of the cable."""
        there, here = f":{self.glance.port}/", f":{self.to_clouds.port}/"
        self.clouds.write_text(self.clouds.read_text().replace(there, here))

    def _servers(self) -> list[dict[str, Any]]:
        servers = super()._servers()
        return [
            {**server, "port": link.port} for server, link in zip(servers, self.to_zookeeper, strict=True)
        ]

    # -- what befalls it ---------------------------------------------------------------------------

    def cut_off_zookeeper(self, *, silently: bool = False) -> None:
        """No way to ZooKeeper: connections break, or with `silently` nothing comes through them."""
        for link in self.to_zookeeper:
            link.hang() if silently else link.cut()

    def cut_off_clouds(self) -> None:
        """No way to any cloud."""
        self.to_clouds.cut()

    def mend_cables(self) -> None:
        """All ways are open again."""
        for link in (*self.to_zookeeper, self.to_clouds):
            link.mend()

    @property
    def daemon(self) -> Daemon:
        """The daemon started last."""
        return self.daemons[-1]

    @property
    def builder_id(self) -> str:
        """Whose files are on its disk."""
        return (self.root / "state" / "images" / "builder_id.txt").read_text().strip()

    def published(self) -> set[str]:
        """The finished files of builds on its disk."""
        return {file.name for file in (self.root / "state" / "images").glob("img*")}

    def own_programs(self) -> None:
        """Have the programs of this machine in a directory from which one may be taken away."""
        programs = self.root / "programs"
        programs.mkdir()
        for directory in os.environ["PATH"].split(os.pathsep):
            for program in Path(directory).glob("*"):
                if not (programs / program.name).is_symlink():
                    (programs / program.name).symlink_to(program)
        self.path = str(programs)

    # -- its daemon ----------------------------------------------------------------------------------

    def command(self, *arguments: str) -> Sequence[str]:
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.name]
        return [*named, *super().command(*arguments)]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), **self._clock()}

    def _clock(self) -> Mapping[str, str]:
        seconds = self.clock_ahead.total_seconds()
        return {"PYTHONPATH": str(WRONG_CLOCK), "CLOCK_AHEAD": str(seconds)} if seconds else {}

    def close(self) -> None:
        self.mend_cables()
        try:
            super().close()
        finally:
            self.links.close()


class Fleet(Installation):
    """The machines, and an operator's own look at what they share, by other ways than theirs."""

    def __init__(self, root: Path, zookeeper: ZooKeeper, glance: FakeGlance) -> None:
        operator = root / "operator"
        operator.mkdir()
        super().__init__(operator, zookeeper, glance)
        self._home = root
        self.machines: dict[str, Machine] = {}

    def __getitem__(self, name: str) -> Machine:
        """A machine, which is made when it is named for the first time."""
        if name not in self.machines:
            root = self._home / name
            root.mkdir()
            self.machines[name] = Machine(root, name, self.zookeeper, self.glance)
        return self.machines[name]

    def start_all(self, *names: str) -> None:
        """Start the daemons of machines, with all roles."""
        for name in names:
            self.run(name)

    def run(self, name: str, *roles: str) -> Daemon:
        """Start the daemon of a machine; all roles when none is given."""
        machine = self[name]
        daemon = machine.start(*(["--roles", ",".join(roles)] if roles else []))
        self.daemons.append(daemon)
        return daemon

    def until(self, ask: Callable[[Snapshot], Value | None], timeout: float = DEADLINE) -> Value:
        """As ever; and no daemon may end by itself meanwhile."""

        def ask_while_all_run(snapshot: Snapshot) -> Value | None:
            ended = [daemon for daemon in self.daemons if (daemon.process.poll() or 0) > 0]
            assert not ended, f"a daemon ended\n{self.story()}"
            return ask(snapshot)

        return super().until(ask_while_all_run, timeout)

    def configure(self, **keys: Any) -> None:
        """Change settings of every machine there is, and the operator's; `_` stands for `-`."""
        for each in (self, *self.machines.values()):
            each.settings.update({key.replace("_", "-"): value for key, value in keys.items()})
            each.write()

    def configure_images(self, **keys: Any) -> None:
        """Change settings of every diskimage, everywhere."""
        for each in (self, *self.machines.values()):
            for image in each.settings["diskimages"]:
                image.update({key.replace("_", "-"): value for key, value in keys.items()})
            each.write()

    def images(self, count: int) -> list[str]:
        """Have so many diskimages instead of the one, alike but for their names; their names."""
        names = [f"img-{number}" for number in range(count)]
        for each in (self, *self.machines.values()):
            each.settings["diskimages"] = [{**each.image, "name": name} for name in names]
            for provider in each.settings["providers"]:
                provider["diskimages"] = [{"name": name} for name in names]
            each.write()
        return names

    def all_runs(self) -> dict[str, int]:
        """How often disk-image-create was started on each machine."""
        return {name: machine.runs() for name, machine in self.machines.items()}

    def cloud_images(self) -> set[str]:
        """What is in the clouds now."""
        return {image["id"] for image in self.glance.images()}

    def other_than(self, name: str) -> str:
        """The other machine, of two."""
        (other,) = self.machines.keys() - {name}
        return other

    # -- builds of one day and the next -------------------------------------------------------------

    def build_of_yesterday(self) -> Build:
        """Wait for the first build and its uploads, and make it so old that it serves no tick of today."""
        build = self.ready_build()
        self.ready_uploads(build)
        self.until(lambda s: s.image("img").request is None)
        return self.aged(build)

    def aged(self, build: Build) -> Build:
        """The same build, a day older, and without a word on what it was made for."""
        day, now = timedelta(days=1), self.store.get_build(build.image, build.id)
        times = {name: getattr(now, name) - day for name in ("started", "ended") if getattr(now, name)}
        return self.store.update_build(replace(now, state_time=now.state_time - day, request=None, **times))

    def next_build(self, why: str) -> Build:
        """Ask for a build as a person does, and wait until it is ready and nobody asks for another."""
        asked = self.cli("image", "build", "img", "--why", why)
        assert asked.returncode == 0, asked.stderr

        def ask(snapshot: Snapshot) -> Build | None:
            records = snapshot.image("img")
            made = [b for b in records.ready_builds if b.request is not None and b.request.why == why]
            return made[0] if made and records.request is None else None

        return self.until(ask)

    def close(self) -> None:
        self.glance.released.set()
        with ExitStack() as stack:
            for machine in self.machines.values():
                stack.callback(machine.close)
        super().close()


def builds_of(snapshot: Snapshot) -> Iterator[Build]:
    """All builds of the one image, newest first."""
    yield from snapshot.image("img").builds


def alive(snapshot: Snapshot) -> set[str]:
    """Host names of the daemons that show themselves."""
    return {daemon.hostname for daemon in snapshot.daemons}


def ticked(ago: timedelta) -> str:
    """A cron expression that ticked for the last time about so long ago, on a clock that is right."""
    moment = datetime.now(UTC) - ago
    return f"{moment.minute} {moment.hour} * * *"
