"""A Planner remembers, and says what is said by whoever looks at everything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.config.model import Config, ScheduleEntry
from builder.model import FailureClass, ImageFormat, ImageRecords, Pause, Snapshot, UploadPhase, UploadState
from builder.planning import planner as remembering
from builder.planning import remembered
from builder.planning.actions import BreakerState, Verdict
from builder.planning.breakers import breakers
from builder.planning.builds import decide_builds
from builder.planning.cleanup import plan_cleanup
from builder.planning.marking import plan_markings
from builder.planning.planner import Planner
from builder.planning.promotion import plan_promotions
from builder.planning.uploads import decide_uploads
from builder.ways import Capabilities
from tests.unit.planning_world import (
    DAY,
    ELSEWHERE,
    HERE,
    HOUR,
    IMAGE,
    MINUTE,
    NOW,
    build_id,
    builds,
    cancellations,
    claimable,
    config,
    diskimage,
    held,
    provider,
    ready,
    records,
    requests,
    times,
    unhurried,
    upload,
    uploads,
)

IMAGES, CLOUDS = ("a", "b", "c"), ("north", "south", "gone")
WORD = Pause(by="ann", time=NOW - HOUR, why="moving house")
#: Far enough for each wait to end, and back as a clock may be set.
PROMOTED: Any = {"stable_name": "newest", "promote": "all", "rebuild_age": 3 * HOUR, "keep_for": DAY}
FOLLOWING: Any = {
    "schedule": (
        ScheduleEntry(text="@after a", after="a"),
        ScheduleEntry(text="*/10 * * * * Europe/Berlin", cron="*/10 * * * *", zone="Europe/Berlin"),
    ),
    "delete_after_upload": True,
    "max_age": 7 * DAY,
    "keep": 1,
}
STEPS = (timedelta(), timedelta(seconds=1), MINUTE, 10 * MINUTE, HOUR, DAY, -HOUR)


@dataclass
class World:
    """Everything that decisions are made of."""

    config: Config
    now: datetime = NOW
    snapshot: Snapshot = field(default_factory=Snapshot)
    told: dict[str, Capabilities] = field(default_factory=dict)

    def put(self, there: ImageRecords) -> None:
        self.snapshot = self.snapshot.with_image(there)

    def check(self, planner: Planner) -> None:
        """The Planner says what everybody says."""
        assert planner.breakers(self.config, self.snapshot, self.now) == breakers(
            self.config, self.snapshot, self.now
        )
        every = decide_uploads(self.config, self.snapshot, self.now, capabilities=self.told)
        plan = planner.upload_plan(self.config, self.snapshot, self.now, self.told)
        assert plan.decisions() == every
        later = (decision.due for decision in every if decision.verdict is Verdict.LATER)
        assert plan.due == min((due for due in later if due), default=None)
        for machine in (HERE, ELSEWHERE):
            assert tuple(plan.claimable(machine)) == claimable(every, machine)
        made_of = (self.config, self.snapshot, self.now)
        assert planner.builds(*made_of) == decide_builds(*made_of)
        assert planner.promotions(*made_of) == plan_promotions(*made_of)
        assert planner.markings(*made_of) == plan_markings(*made_of[:2])
        here: Any = {"builder_id": HERE, "active": frozenset({build_id(2)})}
        assert planner.cleanup(*made_of, **here) == plan_cleanup(*made_of, **here)


def configuration(**changes: object) -> Config:
    """Three diskimages in three regions, of which one wants another format."""
    clouds = [provider(name, *IMAGES) for name in CLOUDS]
    clouds[1] = replace(clouds[1], image_format=ImageFormat.RAW)
    images = [diskimage("a"), diskimage("b", **PROMOTED), diskimage("c", **FOLLOWING)]
    return config(*images, *clouds, **changes)


@st.composite
def some_records(draw: st.DrawFn) -> ImageRecords:
    name = draw(st.sampled_from(IMAGES))
    made = [replace(draw(builds(n)), image=name) for n in range(1, draw(st.integers(0, 3)) + 1)]
    sent = [replace(draw(uploads(n)), image=name) for n in range(1, draw(st.integers(0, 6)) + 1)]
    return ImageRecords(
        name=name,
        request=draw(st.none() | requests.map(lambda each: replace(each, image=name))),
        ticks=draw(st.dictionaries(st.sampled_from(["14 14 * * *", "@after a"]), times, max_size=2)),
        cancellation=draw(st.none() | cancellations),
        builds=tuple(made),
        uploads=tuple(sent),
        build_claimed=draw(st.booleans()),
        uploads_claimed=frozenset((u.build_id, u.provider) for u in sent if draw(st.booleans())),
    )


@st.composite
def changed(draw: st.DrawFn, world: World) -> str:
    """Something happens; what it was."""
    what = draw(st.sampled_from(["records", "records", "time", "time", "one upload", "wake", "rest"]))
    if what == "records":
        world.put(draw(some_records()))
    elif what == "time":
        world.now += draw(st.sampled_from(STEPS))
    elif what == "one upload":
        name = draw(st.sampled_from(IMAGES))
        there = world.snapshot.image(name)
        world.put(replace(there, uploads=(replace(draw(uploads(99)), image=name), *there.uploads)))
    elif what == "rest":
        draw(st.sampled_from([_pause, _freeze, _forget, _tell, _configure, _vanish]))(world)
    return what


def _pause(world: World) -> None:
    paused = {} if world.snapshot.paused_providers else {"north": WORD}
    world.snapshot = replace(world.snapshot, paused_providers=paused)


def _freeze(world: World) -> None:
    world.snapshot = replace(world.snapshot, frozen=None if world.snapshot.frozen else WORD)


def _forget(world: World) -> None:
    world.snapshot = replace(world.snapshot, forgotten={} if world.snapshot.forgotten else {HERE: WORD})


def _tell(world: World) -> None:
    formats = frozenset() if world.told else frozenset({"raw"})
    world.told = {"north": Capabilities(checked=NOW, disk_formats=formats)}


def _configure(world: World) -> None:
    world.config = configuration() if len(world.config.providers) < 3 else config(*_fewer(world.config))


def _fewer(before: Config):
    return (*before.diskimages.values(), before.providers["south"])


def _vanish(world: World) -> None:
    world.snapshot = replace(world.snapshot, images=dict(list(world.snapshot.images.items())[1:]))


@settings(unhurried, max_examples=40)
@given(st.data())
def test_what_is_remembered_is_what_would_be_decided(data: st.DataObject) -> None:
    world, planner = World(configuration()), Planner()
    world.check(planner)
    for _ in range(data.draw(st.integers(1, 12))):
        data.draw(changed(world))
        world.check(planner)


FAILED = [
    upload(
        1,
        UploadState.FAILED,
        NOW - minutes * MINUTE,
        kind=FailureClass.QUOTA,
        id=f"{minutes:010}",
        during=UploadPhase.CREATE,
    )
    for minutes in (1, 2, 3)
]


def test_a_breaker_opens_and_lets_one_through_as_time_goes_by() -> None:
    build = ready(1, NOW - HOUR)
    world, planner = World(config(diskimage(), provider("north"))), Planner()
    world.put(records(build, *FAILED))
    seen = []
    for _ in range(4):
        world.check(planner)
        plan = planner.upload_plan(world.config, world.snapshot, world.now)
        seen.append((plan.breakers["north"].state, [d.probe for d in plan.claimable(HERE)]))
        world.now += 5 * MINUTE
    assert seen[0] == (BreakerState.OPEN, [])
    assert seen[-1] == (BreakerState.HALF_OPEN, [True])


def test_what_is_forgotten_has_no_files() -> None:
    world = World(config(diskimage(), provider("north")))
    world.put(records(ready(1, NOW - HOUR)))
    world.snapshot = replace(world.snapshot, forgotten={HERE: WORD})
    (decision,) = decide_uploads(world.config, world.snapshot, NOW)
    assert decision.verdict is Verdict.NO
    assert decision.reason == (
        "Nothing can be sent: the files of build 00000001 were on host-a, declared gone for good by ann"
        " at 2026-11-21 13:30 UTC: moving house; a new build is due."
    )


def test_one_change_is_decided_at_the_cost_of_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    names, regions = [f"image-{n}" for n in range(20)], [f"region-{n}" for n in range(10)]
    world = World(config(*(diskimage(name) for name in names), *(provider(name, *names) for name in regions)))
    for name in names:
        build = replace(ready(1, NOW - HOUR), image=name)
        world.put(ImageRecords(name=name, builds=(build,)))
    planner, decided = Planner(), []
    decide = remembered.decide_upload

    def counted(image, *more, **facts):
        decided.append(image.name)
        return decide(image, *more, **facts)

    monkeypatch.setattr(remembered, "decide_upload", counted)
    planner.upload_plan(world.config, world.snapshot, world.now)
    assert len(decided) == 200
    decided.clear()
    there = world.snapshot.image("image-7")
    begun = replace(upload(1, UploadState.UPLOADING, NOW, to="region-3"), image="image-7")
    world.put(replace(there, uploads=(begun,), uploads_claimed=frozenset({(build_id(1), "region-3")})))
    plan = planner.upload_plan(world.config, world.snapshot, world.now + MINUTE)
    assert decided == ["image-7"]
    assert sum(d.verdict is Verdict.RUNNING for d in plan.decisions()) == 1


def test_what_serves_is_not_decided_anew_while_bytes_move(monkeypatch: pytest.MonkeyPatch) -> None:
    world, planner, decided = World(config(diskimage(), provider())), Planner(), []
    promote = remembering.promotions_of

    def counted(image, *more):
        decided.append(image.name)
        return promote(image, *more)

    def told() -> list[str]:
        """The images on which it was decided; what comes of it is always what everybody says."""
        decided.clear()
        plan = planner.promotions(world.config, world.snapshot, world.now)
        assert plan == plan_promotions(world.config, world.snapshot, world.now)
        return list(decided)

    monkeypatch.setattr(remembering, "promotions_of", counted)
    new, old = ready(2, NOW - HOUR), ready(1, NOW - DAY)
    serving = upload(1, UploadState.READY, NOW - DAY, serving=NOW - DAY)
    moving = upload(2, UploadState.UPLOADING, NOW, sent=0)
    world.put(records(new, old, serving, moving))
    assert told() == [IMAGE]
    world.put(records(new, old, serving, replace(moving, sent=7)))
    assert told() == []
    arrived = replace(moving, state=UploadState.READY, state_time=NOW - 2 * DAY, ended=NOW)
    world.put(records(new, old, serving, arrived))
    assert told() == [IMAGE]
    world.put(records(held(new), old, serving, arrived))
    assert told() == [IMAGE]
    assert told() == []


def test_who_waits_for_a_full_provider_is_passed_over() -> None:
    names = ("a", "b", "c")
    world = World(
        config(*(diskimage(name) for name in names), *(provider(name, *names) for name in CLOUDS[:2]))
    )
    for name in names:
        world.put(ImageRecords(name=name, builds=(replace(ready(1, NOW - HOUR), image=name),)))
    plan, full, taken = Planner().upload_plan(world.config, world.snapshot, NOW), set(), []
    for decision in plan.claimable(HERE, lambda name: name in full):
        taken.append((decision.image, decision.provider))
        if decision.provider == "north":
            full.add("north")
    assert taken == [("a", "north"), ("a", "south"), ("b", "south"), ("c", "south")]


def test_what_is_later_comes_when_time_passes() -> None:
    """A retry, a tick, and what retention keeps for a while."""
    listed = provider("north", keep=1, keep_for=DAY)
    world, planner = World(config(diskimage(keep=1, keep_for=DAY), listed)), Planner()
    world.put(
        records(
            ready(3, NOW - HOUR),
            ready(2, NOW - 2 * HOUR),
            upload(3, UploadState.FAILED, NOW, kind=FailureClass.CLOUD, during=UploadPhase.SEND),
            upload(2, UploadState.READY, NOW - HOUR, id="0000000002"),
            upload(1, UploadState.READY, NOW - 2 * HOUR, id="0000000003"),
        )
    )
    for _ in range(3 * 24 * 6):
        world.check(planner)
        world.now += 10 * MINUTE


@pytest.mark.parametrize("happens", [_pause, _freeze, _forget, _tell, _configure, _vanish])
def test_whatever_happens_is_seen_at_once(happens: Callable[[World], None]) -> None:
    world, planner = World(configuration()), Planner()
    for name in IMAGES:
        build = ready(1, NOW - HOUR, ImageFormat.QCOW2, ImageFormat.RAW)
        world.put(ImageRecords(name=name, builds=(replace(build, image=name),)))
    for _ in range(3):
        world.check(planner)
        happens(world)
