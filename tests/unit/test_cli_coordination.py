"""What `imagepool doctor` tells of all daemons: who leads, who builds, clocks, what waits, what stands."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from builder.doctor.coordination import look
from builder.findings import Finding, Level
from builder.model import Pause, Snapshot, UploadState
from tests.unit.planning_world import (
    DAY,
    ELSEWHERE,
    HOUR,
    IMAGE,
    MINUTE,
    NOW,
    asked,
    building,
    config,
    diskimage,
    provider,
    ready,
    records,
    snapshot,
    upload,
)
from tests.unit.test_cli_builders import daemon

CONFIG = config(diskimage(), provider())
BY_ANN = Pause(by="ann@nb01", time=NOW - HOUR, why="release day")
TOLD = "by ann@nb01 at 2026-11-21 13:30 UTC: release day"


def seen(records_: Snapshot | None = None, *, conf: Any = CONFIG, **changes: Any) -> list[Finding]:
    """What is found with one daemon that leads and builds, unless said otherwise."""
    whole = {"daemons": (daemon(),), "leader": "host-a", **changes}
    return list(look(conf, replace(records_ or Snapshot(), **whole), NOW))


def worse(found: list[Finding], name: str) -> list[str]:
    """What is said under that name, of what is not fine."""
    return [finding.text for finding in found if finding.name == name and finding.level is not Level.OK]


def test_where_all_is_well_it_says_who_leads() -> None:
    (found,) = seen()
    assert (found.level, found.text) == (Level.OK, "host-a leads; 1 daemon: host-a")


# -- daemons --------------------------------------------------------------------------------------


def test_that_no_daemon_runs_is_told() -> None:
    (found,) = seen(daemons=(), leader=None)
    assert (found.level, found.text) == (Level.WARNING, "no daemon runs anywhere")
    assert found.hint


def test_without_a_scheduler_nothing_is_built_by_schedule() -> None:
    (found,) = seen(daemons=(daemon(roles=("builder",)),), leader=None)
    assert (found.name, found.level) == ("scheduler", Level.PROBLEM)
    assert "none of 1 daemon: host-a has the role scheduler" in found.text


def test_schedulers_of_which_none_leads() -> None:
    (found,) = seen(leader=None)
    assert (found.name, found.level) == ("scheduler", Level.WARNING)


def test_without_a_builder_nothing_is_built() -> None:
    found = seen(daemons=(daemon(roles=("scheduler", "uploader")),))
    assert worse(found, "builders") == ["no daemon that runs has the role builder"]


@pytest.mark.parametrize(("others", "level"), [(0, Level.PROBLEM), (1, Level.WARNING)])
def test_a_builder_that_takes_no_builds_says_why(others: int, level: Level) -> None:
    unfit = daemon(unfit="qemu-img is missing")
    fit = [daemon("host-b", ELSEWHERE)] * others
    (found,) = [each for each in seen(daemons=(unfit, *fit)) if each.name == "builders"]
    assert (found.level, found.text) == (level, "host-a takes no builds: qemu-img is missing")


def test_a_daemon_that_stops_is_told() -> None:
    assert "host-a is stopping" in worse(seen(daemons=(daemon(draining=True),)), "builders")[0]


def test_a_builder_that_is_gone_with_files_is_told() -> None:
    theirs = snapshot(records(ready(1, NOW - HOUR, builder="host-b", builder_id=ELSEWHERE)))
    (said,) = worse(seen(theirs), "builders")
    assert said == "no daemon runs on host-b, which has the files of 1 ready build"
    assert not worse(seen(theirs, daemons=(daemon(), daemon("host-b", ELSEWHERE))), "builders")
    assert not worse(seen(theirs, forgotten={ELSEWHERE: BY_ANN}), "builders")
    assert not worse(seen(theirs, daemons=(daemon(), daemon("host-b", None))), "builders")


# -- clocks ---------------------------------------------------------------------------------------


def test_a_daemon_that_started_later_than_now() -> None:
    (found,) = worse(seen(daemons=(daemon(started=NOW + HOUR),)), "clocks")
    assert "host-a started 3600 s from now, by our clock" in found


def test_a_request_of_later_than_now() -> None:
    (found,) = worse(seen(snapshot(records(asked(NOW + HOUR, by="ann@nb03")))), "clocks")
    assert f"ann@nb03 asked for {IMAGE} 3600 s from now, by our clock" in found


def test_a_build_that_began_before_it_was_asked_for() -> None:
    early = ready(1, NOW - HOUR, took=10 * MINUTE, request=asked(NOW - HOUR))
    (found,) = worse(seen(snapshot(records(early))), "clocks")
    assert "host-a began a build 600 s before ann asked for it" in found


def test_an_upload_that_began_before_its_build() -> None:
    build = ready(1, NOW - HOUR, took=10 * MINUTE)
    early = upload(1, UploadState.READY, NOW, started=NOW - 2 * HOUR, uploader="host-b")
    (found,) = worse(seen(snapshot(records(build, early))), "clocks")
    assert "host-b began an upload 3000 s before host-a began the build" in found


def test_clocks_that_agree_within_a_minute_are_no_matter() -> None:
    build = ready(1, NOW - HOUR, took=MINUTE, request=asked(NOW - HOUR))
    late = upload(1, UploadState.READY, NOW, started=NOW - HOUR - 2 * MINUTE)
    started = daemon(started=NOW + MINUTE)
    assert not worse(seen(snapshot(records(build, late)), daemons=(started,)), "clocks")


def test_records_that_do_not_say_when_they_began_tell_nothing_of_clocks() -> None:
    """nodepool's have no beginning; when their state changed says nothing of it."""
    build = ready(1, NOW, started=None, request=asked(NOW))
    early = upload(1, UploadState.READY, NOW - DAY)
    assert not worse(seen(snapshot(records(build, early))), "clocks")


def test_of_many_such_records_a_few_are_named() -> None:
    early = [ready(n, NOW - n * HOUR, took=MINUTE * n, request=asked(NOW - n * HOUR)) for n in range(2, 12)]
    (found,) = worse(seen(snapshot(records(*early))), "clocks")
    assert found.endswith("and 5 more")


# -- what stands still, and what waits ------------------------------------------------------------


def test_since_when_everything_is_frozen_and_for_whom() -> None:
    assert worse(seen(frozen=BY_ANN), "frozen") == [f"nothing begins by itself: frozen {TOLD}"]


def test_what_is_paused_by_hand_is_told_with_who_and_why() -> None:
    found = seen(snapshot(records(pause=BY_ANN)), paused_providers={"north": BY_ANN})
    assert worse(found, "paused") == [
        f"paused by hand: {IMAGE} {TOLD}",
        f"paused by hand: north {TOLD}",
    ]


ARM = config(diskimage(requires=frozenset({"arm64"})), provider())


@pytest.mark.parametrize(("waits", "told"), [(9 * MINUTE, 0), (11 * MINUTE, 1)])
def test_a_request_that_no_builder_can_take(waits: Any, told: int) -> None:
    found = worse(seen(snapshot(records(asked(NOW - waits))), conf=ARM), "requests")
    assert len(found) == told
    assert all("ann asked for" in text and "arm64" in text for text in found)


@pytest.mark.parametrize(("waits", "told"), [(9 * MINUTE, 0), (11 * MINUTE, 1)])
def test_a_request_that_a_free_builder_does_not_take(waits: Any, told: int) -> None:
    found = worse(seen(snapshot(records(asked(NOW - waits)))), "requests")
    assert len(found) == told and all("host-a takes it" in text for text in found)


@pytest.mark.parametrize(("waits", "told"), [(23 * HOUR, 0), (25 * HOUR, 1)])
def test_a_request_whose_builders_are_busy_has_more_time(waits: Any, told: int) -> None:
    busy = records(building(1, NOW - HOUR, image="other"), name="other", build_claimed=True)
    one = daemon(build_workers=1)
    found = worse(seen(snapshot(records(asked(NOW - waits)), busy), daemons=(one,)), "requests")
    assert len(found) == told


def test_what_waits_since_all_is_frozen_is_said_once() -> None:
    found = seen(snapshot(records(asked(NOW - DAY))), frozen=BY_ANN)
    assert worse(found, "frozen") and not worse(found, "requests")


def test_a_build_that_runs_is_waited_for_by_nobody() -> None:
    request = asked(NOW - DAY)
    running = records(building(1, NOW - HOUR, request=request), request, build_claimed=True)
    assert not worse(seen(snapshot(running)), "requests")


def test_what_waits_is_told_with_what_to_do() -> None:
    every = seen(
        snapshot(records(asked(NOW - DAY), pause=BY_ANN)),
        conf=ARM,
        daemons=(daemon(unfit="x", draining=True, started=NOW + DAY),),
        leader=None,
    )
    assert {each.name for each in every} >= {"clocks", "scheduler", "builders", "paused", "requests"}
    assert all(each.hint for each in every)
