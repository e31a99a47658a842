"""The steps of the quickstart: cloud, configuration, daemon, waiting, and the way back."""

from __future__ import annotations

import time
from collections.abc import Callable

from devcloud import cloud, processes
from devcloud.clouds import CLOUD
from devcloud.errors import DevCloudError
from devcloud.place import Running, State

from quickstart.place import Memory, Quickstart, export
from quickstart.status import Imagepool
from quickstart.waiting import wait_for_image

IMAGE = "debian-bookworm"
PROVIDERS = ("devcloud-one", "devcloud-two")

_ZOOKEEPER_TIMEOUT = 60.0
_STOP_TIMEOUT = 60.0  #: the daemon gives its workers half of it

Say = Callable[[str], None]


def up(place: Quickstart, say: Say, *, started: float, deadline: float) -> None:
    """Everything up to an image that is ready in every provider, before the clock shows `deadline`."""
    memory = Memory.load(place)
    _start_cloud(place, memory, say)
    place.create()
    imagepool = Imagepool(str(place.project / ".venv" / "bin" / "imagepool"), place.environment())
    imagepool.run("config", "validate", str(place.config))
    daemon = _start_daemon(place, memory, say)

    def check() -> None:
        """Raise when the daemon is gone: nobody is left to wait for."""
        if not processes.is_alive(daemon):
            raise DevCloudError(f"the daemon ended\n{processes.tail(place.log)}")

    _wait_for_zookeeper(place, check)
    wait_for_image(
        imagepool,
        IMAGE,
        PROVIDERS,
        check=check,
        say=say,
        started=started,
        deadline=deadline,
        uptime=processes.uptime(daemon),
    )
    _show(place, imagepool, say, time.time() - started)


def stop(place: Quickstart, say: Say) -> None:
    """Stop the daemon and, if this tool started it, the cloud. What they keep stays."""
    memory = Memory.load(place)
    if memory.daemon is not None and processes.is_alive(memory.daemon):
        processes.stop([memory.daemon], timeout=_STOP_TIMEOUT)
        say("daemon: stopped")
    else:
        say("daemon: not running")
    if memory.started_cloud:
        cloud.down(place.cloud, purge=False, say=lambda text: say(f"cloud: {text}"))
    if memory != Memory():
        Memory().save(place)


def exports(place: Quickstart) -> list[str]:
    """Lines for a shell's `eval`; DevCloudError when nothing runs that they could lead to."""
    memory = Memory.load(place)
    if memory.daemon is None or not processes.is_alive(memory.daemon) or not place.endpoint.exists():
        raise DevCloudError("nothing is running; start it with ./tools/quickstart")
    zookeeper = place.endpoint.read_text().strip()
    variables = {**place.variables(), "OS_CLOUD": CLOUD, "IMAGEPOOL_ZOOKEEPER": zookeeper}
    lines = [export(name, value) for name, value in variables.items()]
    return [*lines, export("PATH", place.path()) + ':"$PATH"']


def _start_cloud(place: Quickstart, memory: Memory, say: Say) -> None:
    state = State.load(place.cloud)
    if state is None or any(one.trouble for one in cloud.health(place.cloud, state)):
        say("cloud: starting")
        place.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Written first, so that `stop` finds it even when this command is interrupted.
        memory.started_cloud = True
        memory.save(place)
    cloud.up(place.cloud, lambda text: say(f"cloud: {text}"))
    say("cloud: up")


def _start_daemon(place: Quickstart, memory: Memory, say: Say) -> Running:
    """Start `imagepool run` unless it runs; returns its process."""
    if memory.daemon is not None and processes.is_alive(memory.daemon):
        say(f"daemon: runs already, log {place.log}")
        return memory.daemon
    memory.daemon = processes.start(
        [str(place.project / ".venv" / "bin" / "imagepool"), "run", "--config", str(place.config)],
        place.environment(),
        place.log,
        place.root,
    )
    memory.save(place)
    say(f"daemon: started, log {place.log}")
    return memory.daemon


def _wait_for_zookeeper(place: Quickstart, check: Callable[[], None]) -> None:
    deadline = time.monotonic() + _ZOOKEEPER_TIMEOUT
    while not place.endpoint.exists():
        check()
        if time.monotonic() > deadline:
            raise DevCloudError(
                f"ZooKeeper isn't up after {_ZOOKEEPER_TIMEOUT:.0f} s\n{processes.tail(place.log)}"
            )
        time.sleep(0.2)


def _show(place: Quickstart, imagepool: Imagepool, say: Say, seconds: float) -> None:
    say("")
    say(imagepool.run("build", "list", "--image", IMAGE).rstrip())
    say(imagepool.run("upload", "list", "--image", IMAGE).rstrip())
    say(f"""
{IMAGE} is ready in {" and ".join(PROVIDERS)}, after {seconds:.0f} s.

The daemon's log: {place.log}
The configuration: {place.config}
(the daemon takes changes of it at once; directories, ZooKeeper and numbers of workers at its next start)

What to try next:
  eval "$(./tools/quickstart env)"
  imagepool image list
  imagepool image explain {IMAGE}
  imagepool image build {IMAGE} --wait
  openstack image list
  ./tools/quickstart stop""")
