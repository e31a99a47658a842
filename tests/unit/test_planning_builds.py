"""Which diskimages are built, when, and what an operator is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from builder.config.model import DiskImage
from builder.model import FailureClass, ImageFormat, ImageRecords
from builder.planning.actions import BuildDecision, Trigger, Verdict
from builder.planning.builds import answers, decide_builds
from builder.planning.retry import delay
from tests.unit.planning_world import (
    DAY,
    HOUR,
    IMAGE,
    MINUTE,
    NEXT_TICK,
    NOW,
    TICK,
    asked,
    build_id,
    building,
    config,
    decide,
    diskimage,
    doomed,
    every,
    failed,
    paused,
    ready,
    records,
    snapshot,
)

YESTERDAY = TICK - DAY + 10 * MINUTE
UNSCHEDULED = diskimage(schedule=())
DAILY = diskimage()
LIMIT_PASSED = [failed(n, TICK + n * MINUTE, took=timedelta()) for n in (5, 4, 3, 2, 1)]


def after(failures: int, last: int) -> timedelta:
    """The wait after so many failures, the last of which was the build of that number."""
    wait = delay(config().build_retry, failures, build_id(last))
    assert wait is not None
    return wait


def now(trigger: Trigger, reason: str, due=NOW) -> BuildDecision:
    return BuildDecision(image=IMAGE, verdict=Verdict.NOW, trigger=trigger, due=due, reason=reason)


def fires(decision: BuildDecision) -> BuildDecision:
    """The same, as the first build that is asked for because of the tick."""
    return replace(decision, tick=TICK, ticks={"14 14 * * *": TICK})


def again(decision: BuildDecision) -> BuildDecision:
    """The same, for a tick for which a build was asked before."""
    return replace(decision, tick=TICK)


def later(trigger: Trigger, reason: str, due) -> BuildDecision:
    return BuildDecision(image=IMAGE, verdict=Verdict.LATER, trigger=trigger, due=due, reason=reason)


def no(reason: str, verdict: Verdict = Verdict.NO) -> BuildDecision:
    return BuildDecision(image=IMAGE, verdict=verdict, reason=reason)


def held(reason: str) -> BuildDecision:
    return replace(no(reason), held=True)


MISSING = "There is no ready build."
TICKED = "The schedule `14 14 * * *` ticked at 2026-11-21 14:14 UTC and no ready build began since."
ASKED = "A build was asked by ann at 2026-11-21 14:29 UTC: new kernel."
WAITS = " The build asked by ann at 2026-11-21 14:29 UTC: new kernel, waits."

STORIES: dict[str, tuple[DiskImage, ImageRecords, BuildDecision]] = {
    "an image nobody ever built is due at once": (DAILY, records(), fires(now(Trigger.MISSING, MISSING))),
    "without formats nothing is built, whoever asks": (
        diskimage(formats=()),
        records(asked()),
        no(f"No provider lists it and it names no formats.{WAITS}"),
    ),
    "a build of today is followed by tomorrow's": (
        DAILY,
        records(ready(1, TICK + 10 * MINUTE)),
        later(
            Trigger.SCHEDULE,
            "The newest build 00000001 is ready since 2026-11-21 14:24 UTC;"
            " the next is due at 2026-11-22 14:14 UTC by the schedule `14 14 * * *`.",
            NEXT_TICK,
        ),
    ),
    "a build that began before the tick does not serve it": (
        DAILY,
        records(ready(1, TICK + 9 * MINUTE)),
        fires(now(Trigger.SCHEDULE, TICKED, TICK)),
    ),
    "a build that began at the tick and was told to go since still serves it": (
        DAILY,
        records(doomed(ready(2, TICK + 10 * MINUTE)), ready(1, YESTERDAY)),
        later(
            Trigger.SCHEDULE,
            "The newest build 00000001 is ready since 2026-11-20 14:24 UTC;"
            " the next is due at 2026-11-22 14:14 UTC by the schedule `14 14 * * *`.",
            NEXT_TICK,
        ),
    ),
    "a failed build that was told to go does not serve the tick": (
        DAILY,
        records(doomed(failed(2, TICK + 10 * MINUTE)), ready(1, YESTERDAY)),
        fires(now(Trigger.SCHEDULE, TICKED, TICK)),
    ),
    "a format that is needed now is due at once": (
        diskimage(formats=(ImageFormat.QCOW2, ImageFormat.RAW, ImageFormat.VHD)),
        records(ready(1, TICK + 10 * MINUTE)),
        now(Trigger.FORMAT, "The newest ready build 00000001 has no raw and vhd, which is needed now."),
    ),
    "an image over its rebuild-age is due since then": (
        diskimage(schedule=(), rebuild_age=DAY),
        records(ready(1, NOW - DAY - HOUR)),
        now(
            Trigger.AGE,
            "The newest ready build 00000001 of 2026-11-20 13:30 UTC"
            " is older than the rebuild-age since 2026-11-21 13:30 UTC.",
            NOW - HOUR,
        ),
    ),
    "exactly at the rebuild-age it is due": (
        diskimage(schedule=(), rebuild_age=DAY),
        records(ready(1, NOW - DAY)),
        now(
            Trigger.AGE,
            "The newest ready build 00000001 of 2026-11-20 14:30 UTC"
            " is older than the rebuild-age since 2026-11-21 14:30 UTC.",
        ),
    ),
    "the rebuild-age is over before the next tick": (
        diskimage(rebuild_age=3 * HOUR),
        records(ready(1, TICK + 10 * MINUTE)),
        later(
            Trigger.AGE,
            "The newest build 00000001 is ready since 2026-11-21 14:24 UTC;"
            " the next is due at 2026-11-21 17:24 UTC when the rebuild-age is over.",
            TICK + 10 * MINUTE + 3 * HOUR,
        ),
    ),
    "without a clock of any kind it is built when asked": (
        UNSCHEDULED,
        records(ready(1, NOW - 300 * DAY)),
        no(
            "The newest build 00000001 is ready since 2026-01-25 14:30 UTC;"
            " it has neither a schedule nor a rebuild-age, so it is built when asked."
        ),
    ),
    # -- running and abandoned
    "a build that runs is not begun again, even if somebody asks": (
        DAILY,
        records(building(1, NOW - HOUR), asked(), build_claimed=True),
        no("Build 00000001 runs on host-a since 2026-11-21 13:30 UTC, phase packages.", Verdict.RUNNING),
    ),
    "of two that say they run the newer is alive": (
        DAILY,
        records(building(1, NOW - DAY), building(2, NOW - HOUR), build_claimed=True),
        no("Build 00000002 runs on host-a since 2026-11-21 13:30 UTC, phase packages.", Verdict.RUNNING),
    ),
    "a build whose builder is gone does not stand in the way": (
        DAILY,
        records(building(1, NOW - HOUR)),
        fires(now(Trigger.MISSING, MISSING)),
    ),
    "a claim alone is no build: it may be our own": (
        DAILY,
        records(build_claimed=True),
        fires(now(Trigger.MISSING, MISSING)),
    ),
    # -- pauses and wishes
    "somebody asked": (
        DAILY,
        records(ready(1, TICK + 10 * MINUTE), asked()),
        now(Trigger.MANUAL, ASKED, NOW - MINUTE),
    ),
    "somebody whose clock is ahead asked": (
        DAILY,
        records(asked(NOW + HOUR, by="", why="")),
        now(Trigger.MANUAL, "A build was asked by somebody at 2026-11-21 15:30 UTC."),
    ),
    "the scheduler's own request is no reason": (
        DAILY,
        records(ready(1, TICK + 10 * MINUTE), asked(manual=False)),
        later(
            Trigger.SCHEDULE,
            "The newest build 00000001 is ready since 2026-11-21 14:24 UTC;"
            " the next is due at 2026-11-22 14:14 UTC by the schedule `14 14 * * *`.",
            NEXT_TICK,
        ),
    ),
    "paused in the configuration": (
        diskimage(pause=True),
        records(),
        held("It is paused in the configuration (`pause: true`)."),
    ),
    "paused in the configuration, the wish waits": (
        diskimage(pause=True),
        records(asked()),
        held(f"It is paused in the configuration (`pause: true`).{WAITS}"),
    ),
    "paused by hand": (
        DAILY,
        records(pause=paused()),
        held(
            "It is paused by hand, by ann at 2026-11-21 13:30 UTC: mirror moves;"
            " `imagepool image unpause debian-bookworm` lets it go on."
        ),
    ),
    "paused by hand, but somebody asked": (
        DAILY,
        records(asked(), pause=paused()),
        now(Trigger.MANUAL, ASKED, NOW - MINUTE),
    ),
    "a wish is served once: its builder died before taking it away": (
        DAILY,
        records(ready(1, TICK + 10 * MINUTE, request=asked()), asked()),
        later(
            Trigger.SCHEDULE,
            "The newest build 00000001 is ready since 2026-11-21 14:24 UTC;"
            " the next is due at 2026-11-22 14:14 UTC by the schedule `14 14 * * *`.",
            NEXT_TICK,
        ),
    ),
    "a wish whose build was interrupted is still to be served": (
        DAILY,
        records(failed(1, NOW, FailureClass.INTERRUPTED, request=asked()), asked()),
        now(Trigger.MANUAL, ASKED, NOW - MINUTE),
    ),
    # -- failures
    "what a person asked for and failed is not tried again, and that is said": (
        diskimage(schedule=()),
        records(failed(2, NOW - MINUTE, request=asked()), ready(1, NOW - HOUR)),
        no(
            "The newest build 00000001 is ready since 2026-11-21 13:30 UTC;"
            " it has neither a schedule nor a rebuild-age, so it is built when asked."
            " Build 00000002 failed since, and is not tried again by itself."
        ),
    ),
    "after a failure it waits a while": (
        DAILY,
        records(failed(2, NOW - MINUTE), ready(1, YESTERDAY)),
        later(
            Trigger.SCHEDULE,
            f"{TICKED} The last build failed, mirror: it broke."
            f" The next try is at {NOW - MINUTE + after(1, 2):%Y-%m-%d %H:%M} UTC.",
            NOW - MINUTE + after(1, 2),
        ),
    ),
    "the wait is over": (
        DAILY,
        records(failed(2, TICK + MINUTE), ready(1, YESTERDAY)),
        again(
            now(
                Trigger.SCHEDULE,
                f"{TICKED} The last build failed, mirror: it broke.",
                TICK + MINUTE + after(1, 2),
            )
        ),
    ),
    "it is due since the wait or its cause, whichever came later": (
        diskimage(schedule=(), rebuild_age=DAY),
        records(failed(2, NOW - 2 * HOUR), ready(1, NOW - DAY - MINUTE)),
        now(
            Trigger.AGE,
            "The newest ready build 00000001 of 2026-11-20 14:29 UTC is older than the rebuild-age"
            " since 2026-11-21 14:29 UTC. The last build failed, mirror: it broke.",
            NOW - MINUTE,
        ),
    ),
    "the second wait is longer": (
        DAILY,
        records(failed(2, NOW - 10 * MINUTE), failed(1, NOW - 12 * MINUTE)),
        later(
            Trigger.MISSING,
            f"{MISSING} 2 builds in a row failed, last: mirror: it broke."
            f" The next try is at {NOW - 10 * MINUTE + after(2, 2):%Y-%m-%d %H:%M} UTC.",
            NOW - 10 * MINUTE + after(2, 2),
        ),
    ),
    "a tick that comes before the wait is over is the next try": (
        diskimage(schedule=every("32 14 * * *")),
        records(failed(1, NOW - MINUTE)),
        later(
            Trigger.MISSING,
            f"{MISSING} The last build failed, mirror: it broke. The next try is at 2026-11-21 14:32 UTC.",
            NOW + 2 * MINUTE,
        ),
    ),
    "at the limit it waits for the next tick": (
        DAILY,
        records(*LIMIT_PASSED),
        later(
            Trigger.SCHEDULE,
            "5 builds in a row failed, last: mirror: it broke. That is the limit; the next try is"
            " at 2026-11-22 14:14 UTC, or with `imagepool image build debian-bookworm`.",
            NEXT_TICK,
        ),
    ),
    "at the limit without a schedule only a human helps": (
        UNSCHEDULED,
        records(*LIMIT_PASSED),
        no(
            "5 builds in a row failed, last: mirror: it broke. That is the limit; there is no next try"
            " before somebody asks for it with `imagepool image build debian-bookworm`."
        ),
    ),
    "a new tick is a new try, however many failed before it": (
        DAILY,
        records(*(failed(n, TICK - n * MINUTE) for n in range(1, 8))),
        fires(now(Trigger.MISSING, MISSING)),
    ),
    "a ready build ends the row of failures": (
        diskimage(formats=(ImageFormat.RAW,)),
        records(ready(9, TICK + 15 * MINUTE, took=MINUTE), *LIMIT_PASSED),
        now(Trigger.FORMAT, "The newest ready build 00000009 has no raw, which is needed now."),
    ),
    "what somebody asked for begins a new row": (
        UNSCHEDULED,
        records(failed(6, NOW, request=asked()), *LIMIT_PASSED),
        later(
            Trigger.MISSING,
            f"{MISSING} The last build failed, mirror: it broke."
            f" The next try is at {NOW + after(1, 6):%Y-%m-%d %H:%M} UTC.",
            NOW + after(1, 6),
        ),
    ),
    "somebody who asks is not put off by failures": (
        DAILY,
        records(asked(), *LIMIT_PASSED),
        now(Trigger.MANUAL, ASKED, NOW - MINUTE),
    ),
    "what can't be cured waits for the tick": (
        DAILY,
        records(failed(1, NOW, FailureClass.TOOL)),
        later(
            Trigger.SCHEDULE,
            "The last build failed, tool: it broke. Another try by itself would not help; the next try is"
            " at 2026-11-22 14:14 UTC, or with `imagepool image build debian-bookworm`.",
            NEXT_TICK,
        ),
    ),
    "an interrupted build is due again at once": (
        DAILY,
        records(failed(1, NOW, FailureClass.INTERRUPTED)),
        again(now(Trigger.MISSING, MISSING)),
    ),
    "a failure nodepool left without a reason counts too": (
        UNSCHEDULED,
        records(failed(1, NOW, reason=None, started=None, ended=None)),
        later(
            Trigger.MISSING,
            f"{MISSING} The last build failed, no reason is on record."
            f" The next try is at {NOW + after(1, 1):%Y-%m-%d %H:%M} UTC.",
            NOW + after(1, 1),
        ),
    ),
}


@pytest.mark.parametrize("story", STORIES)
def test_decision(story: str) -> None:
    image, known, expected = STORIES[story]
    assert decide(image, known, config(image), NOW) == expected


@pytest.mark.parametrize("kind", [FailureClass.CONFIG, FailureClass.TOOL, FailureClass.CANCELLED])
def test_no_retry_by_itself_after(kind: FailureClass) -> None:
    decision = decide(UNSCHEDULED, records(failed(1, NOW - DAY, kind)), config(), NOW)
    assert decision.verdict is Verdict.NO
    assert "imagepool image build debian-bookworm" in decision.reason


def test_a_whole_bad_day_from_the_tick_to_the_limit() -> None:
    """Each failure is followed by its own wait, the limit by the next day's tick."""
    known, time, image = records(ready(1, YESTERDAY)), TICK, DAILY
    for number in range(2, 7):
        decision = decide(image, known, config(), time)
        assert decision.verdict is Verdict.NOW, decision.reason
        known = replace(known, builds=(failed(number, time + MINUTE), *known.builds))
        decision = decide(image, known, config(), time + MINUTE)
        assert decision.verdict is Verdict.LATER
        assert decision.due is not None
        time = decision.due
    assert time == NEXT_TICK
    assert decide(image, known, config(), time).verdict is Verdict.NOW


def test_what_is_due_comes_first_wishes_before_all_then_the_oldest() -> None:
    names = ("idle", "old", "missing", "older", "wished", "wished and older", "paused")
    images = [diskimage(name, pause=name == "paused") for name in names]
    snap = snapshot(
        records(ready(1, TICK + 12 * MINUTE), name="idle"),
        records(ready(2, TICK - 2 * DAY), name="old"),
        records(ready(3, TICK - 3 * DAY), name="older"),
        records(ready(4, TICK + 12 * MINUTE), asked(), name="wished"),
        records(ready(5, TICK - 5 * DAY), asked(), name="wished and older"),
    )
    order = [d.image for d in decide_builds(config(*images), snap, NOW)]
    assert order == ["wished and older", "wished", "missing", "older", "old", "idle", "paused"]


@pytest.mark.parametrize(
    ("build", "answered"),
    [
        (ready(1, NOW, request=asked()), True),
        (doomed(ready(1, NOW, request=asked())), True),
        (failed(1, NOW, request=asked()), True),
        (failed(1, NOW, FailureClass.CANCELLED, request=asked()), True),
        (failed(1, NOW, FailureClass.INTERRUPTED, request=asked()), False),
        (building(1, NOW, request=asked()), False),
        (ready(1, NOW, request=asked(NOW - HOUR)), False),
        (ready(1, NOW), False),
    ],
)
def test_a_build_answers_the_request_it_was_made_for(build, answered: bool) -> None:
    assert answers(build, asked()) is answered


def test_a_tick_that_a_builder_ahead_of_us_has_served_is_not_waited_for() -> None:
    hourly = diskimage(schedule=every("0 * * * *"))
    ahead = ready(1, NOW + 90 * MINUTE)
    decision = decide(hourly, records(ahead), config(hourly), NOW)
    assert decision.verdict is Verdict.LATER
    assert decision.due is not None and decision.due > ahead.began
    assert decide(hourly, records(ahead), config(hourly), decision.due).verdict is Verdict.NOW
