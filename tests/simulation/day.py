"""A day of work in simulated time: all diskimages fall due at once, and go to every provider.

Yesterday's builds are there and in every region. At 14:14 all diskimages are due; some builds fail, some
requests of clouds fail, some regions are away for a while, one daemon dies and comes back. The day is over
when every image of today is in every region and yesterday's are cleaned up.
"""

from __future__ import annotations

import gc
import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import psutil
import pytest

from builder import bounded
from builder.cloud import ownership
from builder.cloudimage import CloudImage, GlanceStatus
from builder.dib.output import artifacts
from builder.dib.output.artifacts import Proof, Publication
from builder.model import Artifact, Build, BuildState, ImageFormat, Upload, UploadState
from builder.planning.breakers import breakers
from builder.planning.builds import decide_builds
from builder.planning.cleanup import plan_cleanup
from builder.planning.promotion import plan_promotions
from builder.planning.uploads import decide_uploads
from builder.workers.base import Worker
from tests.simulation import store
from tests.simulation.cloud import Pace
from tests.simulation.world import Simulation, simulated
from tests.unit.planning_world import claimable

MINUTE = 60.0
#: Seconds after midnight at which the daemons start, and at which all is due.
START, DUE = 14 * 3600.0, 14 * 3600.0 + 14 * MINUTE
#: Seconds between two looks of whoever waits for a cloud, and until a change is seen: on a day with a hundred
#: thousand changes it makes no difference, and is quicker to simulate.
LOOK, LAG = 10.0, 2.0
SEED = 20261121


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How large the day is."""

    images: int
    providers: int
    machines: int = 3
    build_workers: int = 8
    upload_workers: int = 100
    shares: int = 2  #: uploads at a time that a provider takes
    build_seconds: float = 600.0
    upload_seconds: float = 60.0
    trouble: bool = True
    longest: float = 20 * 3600.0  #: seconds after which it is given up

    @property
    def limit(self) -> float:
        """Seconds that it takes at least, if nothing fails: until the last build is done, or until the
        regions have taken one image after the other from the first build on."""
        workers = self.machines * self.build_workers
        building = -(-self.images // workers) * self.build_seconds + self.upload_seconds
        sending = self.build_seconds + -(-self.images // self.shares) * self.upload_seconds
        return max(building, sending)


@dataclass(kw_only=True)
class Cost:
    """What passes of a role have cost."""

    passes: int = 0
    seconds: float = 0.0  #: of the processor
    longest: float = 0.0


@dataclass(kw_only=True)
class Day:
    """What the day came to; times are seconds."""

    plan: Plan
    took: float = 0.0  #: simulated, from the tick until all is in every region
    tidy: float = 0.0  #: and until yesterday's images are gone
    longest_wait: float = 0.0  #: of an image for a region, from the end of its build
    by_provider: dict[str, float] = field(default_factory=dict)  #: until a region had all
    by_image: dict[str, float] = field(default_factory=dict)  #: from the tick until all regions had it
    built: int = 0
    uploaded: int = 0
    failed: int = 0  #: builds and uploads
    changes: int = 0  #: of the tree
    wall: float = 0.0  #: real, of all of it
    costs: dict[str, Cost] = field(default_factory=dict)  #: by role
    full: dict[str, float] = field(default_factory=dict)  #: seconds of planning everything once, by role
    memory_before: int = 0  #: bytes of this process, before the tick and at the end
    memory_after: int = 0
    unsettled: list[str] = field(default_factory=list)


def live(plan: Plan, root: Path, say: Callable[[str], None] = lambda text: None) -> Day:
    """Live through the day; AssertionError when a promise is broken."""
    day, begun = Day(plan=plan), time.perf_counter()
    with (
        simulated(
            root,
            seed=SEED,
            images=plan.images,
            providers=plan.providers,
            machines=plan.machines,
            pace=Pace(request=0.2, send=plan.upload_seconds - 1.0),
            build_workers=plan.build_workers,
            upload_workers=plan.upload_workers,
            leak_sweep=timedelta(hours=3),
        ) as world,
        _quickly(world),
        _measured(day),
    ):
        _prepare(world, plan)
        world.kernel.now = START
        world.start()
        world.run(DUE - START - 1.0)
        gc.collect()
        day.memory_before = psutil.Process().memory_info().rss
        changes = world.tree.clock
        _go_on(world, day, say)
        day.changes = world.tree.clock - changes
        day.built = world.promises.built - plan.images  # yesterday's were put there
        day.uploaded = world.promises.uploaded - plan.images * plan.providers
        gc.collect()
        day.memory_after = psutil.Process().memory_info().rss
        world.promises.check()
        _plan_in_full(world, day)
    day.wall = time.perf_counter() - begun
    return day


def _go_on(world: Simulation, day: Day, say: Callable[[str], None]) -> None:
    plan, kernel = day.plan, world.kernel
    if plan.trouble:
        _trouble(world)
    today = _today(world)
    while kernel.now < DUE + plan.longest:
        world.run(minutes=5)
        there = _uploads_of_today(world, today)
        say(
            f"{kernel.clock():%H:%M} {world.promises.built - plan.images} of {plan.images} built,"
            f" {len(there)} of {plan.images * plan.providers} uploaded, {kernel.switches} switches"
        )
        if not day.took and len(there) == plan.images * plan.providers:
            _sum_up(day, there, world)
        if day.took:
            day.unsettled = list(world.promises.unsettled())
            if not day.unsettled:
                day.tidy = kernel.now - DUE
                return
    day.unsettled = list(world.promises.unsettled())


def _today(world: Simulation) -> datetime:
    return world.kernel.clock() - timedelta(hours=1)


def _uploads_of_today(world: Simulation, today: datetime) -> list[tuple[Build, Upload]]:
    builds = {b.id: b for b in world.tree.builds.values() if b.state is BuildState.READY and b.began > today}
    ready = (u for u in world.tree.uploads.values() if u.state is UploadState.READY and u.build_id in builds)
    newest = {(u.image, u.provider): (builds[u.build_id], u) for u in ready}
    return list(newest.values())


def _sum_up(day: Day, there: list[tuple[Build, Upload]], world: Simulation) -> None:
    due = world.kernel.clock() - timedelta(seconds=world.kernel.now - DUE)
    by_provider: defaultdict[str, float] = defaultdict(float)
    by_image: defaultdict[str, float] = defaultdict(float)
    for build, upload in there:
        since = (upload.state_time - due).total_seconds()
        by_provider[upload.provider] = max(by_provider[upload.provider], since)
        by_image[upload.image] = max(by_image[upload.image], since)
        wait = (upload.state_time - build.state_time).total_seconds()
        day.longest_wait = max(day.longest_wait, wait)
    day.took = max(by_provider.values())
    day.by_provider, day.by_image = dict(by_provider), dict(by_image)
    states = [*world.tree.builds.values(), *world.tree.uploads.values()]
    day.failed = sum(record.state in (BuildState.FAILED, UploadState.FAILED) for record in states)


# -- what there is before -------------------------------------------------------------------------


def _prepare(world: Simulation, plan: Plan) -> None:
    """Yesterday's builds, each on one of the machines, and in every region."""
    world.config = replace(
        world.config,
        diskimages={name: replace(i, keep=1) for name, i in world.config.diskimages.items()},
        providers={
            name: replace(
                provider,
                max_uploads=plan.shares,
                images={i: replace(each, keep=1) for i, each in provider.images.items()},
            )
            for name, provider in world.config.providers.items()
        },
    )
    world.engine.seconds = plan.build_seconds
    yesterday = world.kernel.clock() - timedelta(hours=9)
    for number, name in enumerate(world.config.diskimages):
        machine = world.machines[number % len(world.machines)]
        build = _build_of_yesterday(world, machine.name, machine.builder_id, name, number, yesterday)
        _publish(machine.config().images_dir, build, world.installation_id, machine.root)
        world.outside.put(build)
        for cloud in world.clouds.values():
            _put_upload(world, build, cloud.name)


def _content(build_id: str) -> bytes:
    return build_id.encode().ljust(64, b".")


def _build_of_yesterday(
    world: Simulation, host: str, builder_id: str, image: str, number: int, time: datetime
) -> Build:
    build_id = f"{number:032x}"
    content = _content(build_id)
    artifact = Artifact(
        format=ImageFormat.RAW,
        size=len(content),
        virtual_size=len(content),
        md5=hashlib.md5(content, usedforsecurity=False).hexdigest(),
        sha256=hashlib.sha256(content).hexdigest(),
        sha512=hashlib.sha512(content).hexdigest(),
    )
    return Build(
        id=build_id,
        image=image,
        state=BuildState.READY,
        state_time=time + timedelta(minutes=10),
        started=time,
        ended=time + timedelta(minutes=10),
        builder=host,
        builder_id=builder_id,
        formats=("raw",),
        artifacts=(artifact,),
        inputs={"packages": "0"},
    )


def _publish(images_dir: Path, build: Build, installation_id: str, root: Path) -> None:
    proof = Proof(
        installation_id=installation_id,
        image=build.image,
        build_id=build.id,
        created=build.state_time,
        environment={},
        tools={},
    )
    publication = Publication(images_dir, proof)
    publication.begin()
    artifacts.path(images_dir, build.image, build.id, ImageFormat.RAW).write_bytes(_content(build.id))
    publication.finish(root / "none", None, build.artifacts, build.state_time)


def _put_upload(world: Simulation, build: Build, provider: str) -> None:
    upload = Upload(
        id="0000000001",
        build_id=build.id,
        image=build.image,
        provider=provider,
        state=UploadState.READY,
        state_time=build.state_time,
        started=build.state_time,
        ended=build.state_time,
        external_id=f"{build.id}-{provider}",
        external_name=f"{build.image}-yesterday",
        format="raw",
        cloud="simulated",
        region=provider,
    )
    marks = ownership.marks(upload, world.installation_id)
    cloud = world.clouds[provider]
    cloud.images[f"{build.id}-{provider}"] = CloudImage(
        id=f"{build.id}-{provider}",
        name=f"{build.image}-yesterday",
        status=GlanceStatus.ACTIVE,
        size=64,
        hash_algorithm="sha512",
        hash_value=build.artifacts[0].sha512,
        checksum=None,
        visibility="private",
        properties=marks,
        created=build.state_time,
    )
    cloud.contents[f"{build.id}-{provider}"] = _content(build.id)
    world.outside.put(upload)


def _trouble(world: Simulation) -> None:
    """One build in twenty fails; one request of a cloud in five hundred; every tenth region is away for half
    an hour; a daemon dies and is back after five minutes."""
    world.engine.fails = lambda image: 0.05
    for number, cloud in enumerate(world.clouds.values()):
        cloud.trouble = ("broken", 0.002)
        if number % 10 == 3:
            world.kernel.later(20 * MINUTE, lambda cloud=cloud: setattr(cloud, "trouble", ("away", 1.0)))
            world.kernel.later(50 * MINUTE, lambda cloud=cloud: setattr(cloud, "trouble", None))
    victim = world.machines[-1]
    world.kernel.later(30 * MINUTE, victim.crash)
    world.kernel.later(35 * MINUTE, victim.start)


# -- what it costs --------------------------------------------------------------------------------


@contextmanager
def _quickly(world: Simulation) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounded, "_LOOK", LOOK)
        patch.setattr(store, "LAG", LAG)
        for machine in world.machines:
            machine.interleave = 0.0
        yield


@contextmanager
def _measured(day: Day) -> Iterator[None]:
    """Count what the passes of all workers cost; what they give to others to do is not in it."""

    def step(worker: Worker):
        cost = day.costs.setdefault(type(worker).__name__.lower(), Cost())
        # A builder's pass is a whole build.
        begun = time.perf_counter()
        cost.passes += 1
        world, act = worker.world, worker.act
        done = act(world.config(), world.store.snapshot(), world.clock())
        seconds = time.perf_counter() - begun
        if type(worker).__name__ != "Builder":
            cost.seconds += seconds
            cost.longest = max(cost.longest, seconds)
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worker, "step", step)
        yield


def _plan_in_full(world: Simulation, day: Day) -> None:
    """What it costs to decide everything once, on the records of the end."""
    config, snapshot, now = world.config, world.outside.snapshot(), world.kernel.clock()
    machine = world.machines[0].builder_id

    def uploads() -> None:
        breakers(config, snapshot, now)
        claimable(decide_uploads(config, snapshot, now), machine)

    for role, decide in {
        "scheduler": lambda: decide_builds(config, snapshot, now),
        "uploader": uploads,
        "janitor": lambda: plan_cleanup(config, snapshot, now, builder_id=machine, active=frozenset()),
        "promoter": lambda: plan_promotions(config, snapshot, now),
    }.items():
        begun = time.perf_counter()
        decide()
        day.full[role] = time.perf_counter() - begun
