"""Which builder takes which build: fairly, by one answer on every machine, and nobody starves."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.config.model import BOOT_TEST_LABEL, BootTest, Config
from builder.model import BuildState, Daemon, ImageRecords, Snapshot
from builder.planning.actions import BuildDecision, Verdict
from builder.planning.assignment import HANDOVER, assign, look_again, takeable, why_not
from builder.planning.builds import decide_builds
from tests.unit.planning_world import (
    DAY,
    HOUR,
    MINUTE,
    NOW,
    TICK,
    asked,
    building,
    config,
    daemon,
    diskimage,
    paused,
    ready,
    records,
    snapshot,
    unhurried,
)

SECOND = timedelta(seconds=1)
ARM = frozenset({"arm64"})


def builder(name: str, **changes) -> Daemon:
    return daemon(name, f"host-{name}", **changes)


def wanted(name: str, **changes) -> ImageRecords:
    """An image that somebody asked for just now."""
    return records(ready(1, TICK - DAY), replace(asked(NOW), image=name), name=name, **changes)


def settled(config: Config, known: Snapshot, now=NOW) -> dict[str, str | None]:
    return {n: a.hostname for n, a in assign(config, known, now, decide_builds(config, known, now)).items()}


def mine(config: Config, known: Snapshot, builder_id: str, now=NOW) -> list[str]:
    return [d.image for d in takeable(config, known, now, decide_builds(config, known, now), builder_id)]


IMAGES = [diskimage(name) for name in ("a", "b", "c", "d")]
CONFIG = config(*IMAGES)
ALL = [wanted(image.name) for image in IMAGES]


# -- who may ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"labels": ARM | {"kvm"}}, None),
        ({"labels": frozenset()}, "it lacks the labels arm64 and kvm"),
        ({"labels": ARM}, "it lacks the label kvm"),
        ({"roles": ("uploader",)}, "it builds nothing (`--roles`)"),
        ({"draining": True}, "it is about to stop"),
        ({"unfit": "/var is full."}, "it takes no builds now: /var is full"),
        ({"builder_id": None, "labels": frozenset()}, None),
    ],
)
def test_why_a_daemon_does_not_take_an_image(changes: dict, reason: str | None) -> None:
    image = diskimage(requires=ARM | {"kvm"})
    whole = {"labels": ARM | {"kvm"}, **changes}
    assert why_not(image, replace(builder("x"), **whole)) == reason


def test_each_builder_gets_what_it_has_workers_for_and_the_rest_waits() -> None:
    known = snapshot(*ALL, daemons=(builder("x", build_workers=2), builder("y")))
    to_whom = assign(CONFIG, known, NOW, decide_builds(CONFIG, known, NOW))
    assert Counter(each.hostname for each in to_whom.values()) == {"host-x": 2, "host-y": 1, None: 1}
    waits = next(each for each in to_whom.values() if each.hostname is None)
    assert waits.reason == "It waits for a free worker on host-x and host-y."


def test_builds_that_run_take_workers() -> None:
    busy = records(building(2, NOW, builder_id="x"), name="d", build_claimed=True)
    known = snapshot(*ALL[:2], busy, daemons=(builder("x"), builder("y")))
    assert sorted(map(str, settled(config(*IMAGES[:2]), known).values())) == ["None", "host-y"]


def test_a_build_whose_builder_died_takes_no_worker() -> None:
    left = records(building(2, NOW, builder_id="x"), name="d")
    known = snapshot(ALL[0], left, daemons=(builder("x"),))
    assert settled(config(IMAGES[0]), known) == {"a": "host-x"}


def test_an_image_that_is_booted_goes_to_who_can_boot_it() -> None:
    tested = diskimage(boot_test=BootTest(mode="report-only"))
    lacking = why_not(tested, builder("x"))
    assert lacking is not None
    assert lacking.startswith("it can't boot images")
    assert why_not(tested, builder("x", labels=ARM)) == lacking
    both = replace(tested, requires=ARM)
    assert why_not(both, builder("x")) == "it lacks the labels arm64 and boot-test"
    assert why_not(tested, builder("x", labels=frozenset({BOOT_TEST_LABEL}))) is None


def test_labels_decide_before_load() -> None:
    images = (diskimage("a", requires=ARM), diskimage("b"))
    known = snapshot(*ALL[:2], daemons=(builder("x", build_workers=9), builder("y", labels=ARM)))
    assert settled(config(*images), known) == {"a": "host-y", "b": "host-x"}


def test_a_builder_that_is_gone_for_good_gets_nothing() -> None:
    known = snapshot(ALL[0], daemons=(builder("x"),), forgotten={"x": paused()})
    (assigned,) = assign(CONFIG, known, NOW, decide_builds(config(IMAGES[0]), known, NOW)).values()
    assert assigned.hostname is None
    assert assigned.reason.startswith("No builder can take it: host-x: it was declared gone for good by ann")


# -- who tries what ---------------------------------------------------------------------------------


def test_a_builder_takes_its_own_and_after_a_while_what_nobody_took() -> None:
    known = snapshot(*ALL[:2], daemons=(builder("x"), builder("y")))
    settings = config(*IMAGES[:2])
    first, second = mine(settings, known, "x"), mine(settings, known, "y")
    assert len(first) == len(second) == 1
    assert {*first, *second} == {"a", "b"}
    decisions = decide_builds(settings, known, NOW)
    assert look_again(settings, known, NOW, decisions, "x") == NOW + HANDOVER
    assert mine(settings, known, "x", NOW + HANDOVER - SECOND) == first
    assert mine(settings, known, "x", NOW + HANDOVER) == [*first, *second]
    assert look_again(settings, known, NOW + HANDOVER, decisions, "x") is None


def test_what_a_builder_can_never_build_it_never_tries() -> None:
    images = (diskimage("a", requires=ARM), diskimage("b"))
    known = snapshot(*ALL[:2], daemons=(builder("x", build_workers=2), builder("y", labels=ARM)))
    assert mine(config(*images), known, "x", NOW + HOUR) == ["b"]
    ill = snapshot(*ALL[:2], daemons=(builder("x", unfit="/var is full"), builder("y")))
    assert mine(CONFIG, ill, "x", NOW + HOUR) == []


def test_only_what_is_asked_for_is_taken() -> None:
    """The scheduler marks the tick with its request; without one, nobody has."""
    known = snapshot(records(ready(1, TICK - DAY), name="a"), daemons=(builder("x"),))
    assert settled(config(IMAGES[0]), known) == {"a": "host-x"}
    assert mine(config(IMAGES[0]), known, "x", NOW + HOUR) == []


def test_a_builder_that_does_not_show_itself_takes_nothing() -> None:
    known = snapshot(*ALL, daemons=(builder("y"),))
    assert mine(CONFIG, known, "x", NOW + HOUR) == []
    assert look_again(CONFIG, known, NOW, decide_builds(CONFIG, known, NOW), "x") is None


def test_beside_a_daemon_of_an_earlier_version_everybody_takes_what_there_is() -> None:
    old = daemon(None, "host-old")
    known = snapshot(*ALL, daemons=(builder("x"), builder("y"), old))
    assert sorted(mine(CONFIG, known, "x")) == sorted(mine(CONFIG, known, "y")) == ["a", "b", "c", "d"]
    alone = snapshot(ALL[0], daemons=(old,))
    (assigned,) = assign(CONFIG, alone, NOW, decide_builds(config(IMAGES[0]), alone, NOW)).values()
    assert assigned.reason == "A builder of an earlier version may take it."


# -- what holds for any builders and builds ---------------------------------------------------------

LABELS = st.frozensets(st.sampled_from(["arm64", "kvm"]))


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Config, Snapshot]:
    images = [
        diskimage(f"image-{n}", requires=draw(LABELS) if draw(st.booleans()) else frozenset())
        for n in range(draw(st.integers(0, 12)))
    ]
    builders = [
        builder(
            f"{n}",
            labels=draw(LABELS),
            build_workers=draw(st.integers(0, 3)),
            unfit=draw(st.sampled_from([None, None, None, "ill"])),
        )
        for n in range(draw(st.integers(0, 4)))
    ]
    known = []
    for image in images:
        if draw(st.booleans()) or draw(st.booleans()):
            known.append(wanted(image.name))
        else:
            who = draw(st.sampled_from(["0", "1", None]))
            known.append(records(building(3, NOW, builder_id=who), name=image.name, build_claimed=True))
    return config(*images), snapshot(*known, daemons=tuple(builders))


@unhurried
@given(worlds())
def test_nobody_gets_too_much_what_it_can_not_build_or_less_than_is_fair(world) -> None:
    settings, known = world
    decisions = decide_builds(settings, known, NOW)
    to_whom = assign(settings, known, NOW, decisions)
    assert to_whom == assign(settings, known, NOW, decisions)
    assert set(to_whom) == {d.image for d in decisions if d.verdict is Verdict.NOW}
    run = Counter(r.builds[0].builder_id for r in known.images.values() if r.build_claimed)
    given_to = Counter(a.builder_id for a in to_whom.values() if a.builder_id is not None)
    by_id = {d.builder_id: d for d in known.daemons}
    free = {i: d.build_workers - run[i] - given_to[i] for i, d in by_id.items()}
    for builder_id, count in given_to.items():
        assert count + run[builder_id] <= by_id[builder_id].build_workers
    for name, assigned in to_whom.items():
        able = [i for i, d in by_id.items() if why_not(settings.diskimages[name], d) is None]
        if assigned.builder_id is None:
            assert all(free[i] <= 0 for i in able), "a worker is free that could build it"
        else:
            assert assigned.builder_id in able
            assert all(free[assigned.builder_id] + 1 >= free[i] for i in able), "another has more free"


@unhurried
@given(worlds())
def test_no_two_builders_try_the_same_before_the_handover(world) -> None:
    settings, known = world
    tried = [name for d in known.daemons for name in mine(settings, known, d.builder_id or "")]
    assert len(tried) == len(set(tried))


@unhurried
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 20))
def test_equal_builders_are_loaded_within_one(builders: int, workers: int, images: int) -> None:
    settings = config(*(diskimage(f"image-{n}") for n in range(images)))
    daemons = tuple(builder(str(n), build_workers=workers) for n in range(builders))
    known = snapshot(*(wanted(name) for name in settings.diskimages), daemons=daemons)
    load = Counter({d.hostname: 0 for d in daemons})
    load.update(host for host in settled(settings, known).values() if host is not None)
    assert max(load.values()) - min(load.values()) <= 1
    assert sum(load.values()) == min(images, builders * workers)


@unhurried
@given(
    st.lists(st.booleans(), min_size=1, max_size=12),
    st.lists(st.tuples(st.booleans(), st.integers(1, 2)), min_size=1, max_size=3),
)
def test_nobody_starves_while_others_are_asked_for_again_and_again(
    needs_arm: list[bool], builders: list[tuple[bool, int]]
) -> None:
    """Whoever was built is asked for again at once; each image still gets its turn, round after round."""
    images = [
        diskimage(f"image-{n}", requires=ARM if arm else frozenset()) for n, arm in enumerate(needs_arm)
    ]
    daemons = [
        builder(str(n), labels=ARM if arm else frozenset(), build_workers=workers)
        for n, (arm, workers) in enumerate(builders)
    ]
    daemons.append(builder("spare", labels=ARM))
    settings, now = config(*images), NOW
    known = snapshot(*(wanted(image.name) for image in images), daemons=tuple(daemons))
    built: Counter[str] = Counter()
    for number in range(2, 2 + 2 * len(images)):
        now += 10 * MINUTE
        for name, host in settled(settings, known, now).items():
            if host is not None:
                built[name] += 1
                again = replace(asked(now), image=name, why=f"round {number}")
                known = known.with_image(records(ready(number, now), again, name=name))
    assert all(built[image.name] >= 2 for image in images), built


def test_an_image_that_is_built_is_given_to_nobody() -> None:
    runs = records(building(3, NOW, builder_id="x"), name="a", build_claimed=True)
    assert runs.builds[0].state is BuildState.BUILDING
    known = snapshot(runs, daemons=(builder("x", build_workers=2),))
    decisions: tuple[BuildDecision, ...] = decide_builds(config(IMAGES[0]), known, NOW)
    assert assign(config(IMAGES[0]), known, NOW, decisions) == {}
