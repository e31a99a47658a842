"""Builds that serve by hand, or go through the canaries: who takes over where, and what others wait for."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from builder.errors import RefusedError
from builder.model import (
    Build,
    Checked,
    CheckVerdict,
    Upload,
    Withholding,
)
from builder.planning.actions import IMAGEPOOL, Verdict
from builder.planning.byhand import plan_promote
from builder.planning.checking import Checking, refused_where
from builder.planning.planner import Planner
from builder.planning.promotion import plan_promotions
from builder.planning.retention import superseded_uploads
from builder.planning.rollback import MoveFate, plan_quarantine
from tests.unit.canary_world import (
    BEFORE,
    CHECKED,
    CLOUDS,
    FAILED,
    GOOD,
    NEXT,
    OLD,
    READY,
    SOAK,
    TODAY,
    UPLOADING,
    YESTERDAY,
    B,
    N,
    T,
    Y,
    checkings,
    cleared,
    clearing,
    known,
    moves,
    plan,
    settings,
    steps,
    there,
)
from tests.unit.planning_world import (
    DAY,
    HOUR,
    IMAGE,
    MINUTE,
    NOW,
    config,
    diskimage,
    doomed,
    held,
    paused,
    provider,
    ready,
    records,
    snapshot,
    wish,
)

# -- by hand ----------------------------------------------------------------------------------------


def test_by_hand_what_is_ready_waits_behind_what_serves() -> None:
    parts = (TODAY, YESTERDAY, OLD, there(TODAY, *CLOUDS))
    assert moves(settings("manual"), *parts) == {}
    reason = plan(settings("manual"), known(*parts))["north"].reason
    assert reason.endswith(
        f"Build {T} waits for `imagepool image promote {IMAGE} --build {T}` (`promote: manual`)."
    )


def test_somebody_s_word_lets_it_serve_where_they_said() -> None:
    rest = (YESTERDAY, OLD, there(TODAY, *CLOUDS))
    assert moves(settings("manual"), cleared(TODAY, by="ann"), *rest) == dict.fromkeys(CLOUDS, T)
    assert moves(settings("manual"), cleared(TODAY, "west", by="ann"), *rest) == {"west": T}
    promotion = plan(settings("manual"), known(cleared(TODAY, by="ann"), *rest))["north"]
    assert promotion.by == "ann"
    assert promotion.reason == (
        f"Build {T} goes into service in north: it was promoted by ann at 2026-11-21 14:30 UTC:"
        " It was served by north."
    )


@pytest.mark.parametrize("promote", ["manual", SOAK, CHECKED])
def test_where_nothing_serves_the_first_does_at_once(promote: object) -> None:
    assert moves(settings(promote), TODAY, there(TODAY, "west")) == {"west": T}


def test_where_nothing_serves_yet_what_nodepool_takes_goes_on() -> None:
    """The first was taken by nodepool's launcher before the second was ready behind it."""
    first, second = there(YESTERDAY, "west"), there(TODAY, "west")
    first = [replace(each, state_time=NOW) for each in first]
    assert moves(settings("manual"), TODAY, YESTERDAY, first, second) == {"west": Y}


def test_by_hand_it_goes_back_to_what_served_not_on_to_what_waits() -> None:
    bad = held(cleared(TODAY, by="ann"))
    parts = (NEXT, bad, YESTERDAY, there(NEXT, "north"), there(YESTERDAY, "north"))
    assert moves(settings("manual"), *parts, there(TODAY, "north", serving=NOW - HOUR)) == {"north": Y}


def test_by_hand_it_goes_back_to_what_somebody_let_serve_before_others() -> None:
    bad, before = held(cleared(TODAY, by="ann")), cleared(BEFORE, by="ann")
    parts = (bad, YESTERDAY, before, there(YESTERDAY, "north"), there(BEFORE, "north"))
    assert moves(settings("manual"), *parts, there(TODAY, "north", serving=NOW - HOUR)) == {"north": B}


def test_by_hand_better_one_that_waits_than_none() -> None:
    bad = held(cleared(TODAY, by="ann"))
    parts = (NEXT, bad, there(NEXT, "north"), there(TODAY, "north", serving=NOW - HOUR))
    assert moves(settings("manual"), *parts) == {"north": N}


@pytest.mark.parametrize("promote", ["all", 4])
def test_somebody_s_word_goes_before_those_that_are_missing(promote: object) -> None:
    parts = (YESTERDAY, OLD, there(TODAY, "north"))
    assert moves(settings(promote), TODAY, *parts) == {}
    assert moves(settings(promote), cleared(TODAY, by="ann"), *parts) == {"north": T}


def test_what_is_withheld_does_not_serve_whoever_let_it() -> None:
    bad = held(cleared(TODAY, by="ann"))
    assert moves(settings("manual"), bad, YESTERDAY, OLD, there(TODAY, *CLOUDS)) == {}


def test_frozen_a_word_that_was_said_since_counts() -> None:
    rest = (YESTERDAY, OLD, there(TODAY, *CLOUDS))
    frozen = paused(time=NOW - HOUR)
    for by, time, verdict in (
        ("ann", NOW, Verdict.NOW),
        ("ann", NOW - 2 * HOUR, Verdict.NO),
        (IMAGEPOOL, NOW, Verdict.NO),
    ):
        world = known(cleared(TODAY, by=by, time=time), *rest, frozen=frozen)
        assert plan(settings("manual"), world)["north"].verdict is verdict


# -- the canaries -----------------------------------------------------------------------------------


def test_the_canaries_take_over_at_once_and_the_others_wait() -> None:
    parts = (TODAY, YESTERDAY, OLD, there(TODAY, "north", "west"))
    assert moves(settings(), *parts) == {"north": T}
    reason = plan(settings(), known(*parts))["west"].reason
    assert reason.endswith(
        f"Build {T} takes over once north and south served it for 2 h (`promote: canary`)."
    )


def soaking(since: datetime = NOW - HOUR, checked: Checked | None = None) -> list[Upload]:
    """Today's build serves in the canaries, in south since then, and is ready in the others."""
    return [
        *there(TODAY, "north", serving=NOW - 5 * HOUR, checked=checked),
        *there(TODAY, "south", serving=since, checked=checked),
        *there(TODAY, "west", "east"),
        *there(YESTERDAY, "west", "east", serving=NOW - DAY),
    ]


def test_it_soaks_from_when_the_last_canary_serves_it() -> None:
    parts = (TODAY, YESTERDAY, soaking())
    found = clearing(settings(), *parts)
    assert found is not None and (found.verdict, found.due) == (Verdict.LATER, NOW + HOUR)
    assert found.reason == f"Build {T} soaks in north and south until 2026-11-21 15:30 UTC."
    assert moves(settings(), *parts) == {}
    assert plan(settings(), known(*parts))["west"].reason.endswith(
        f"Build {T} waits for its soak in north and south: it soaks until 2026-11-21 15:30 UTC."
    )


@pytest.mark.parametrize(("after", "verdict"), [(2 * HOUR - MINUTE, Verdict.LATER), (2 * HOUR, Verdict.NOW)])
def test_it_is_let_out_when_the_time_is_over(after: timedelta, verdict: Verdict) -> None:
    found = clearing(settings(), TODAY, YESTERDAY, soaking(NOW - after))
    assert found is not None and found.verdict is verdict and found.build == TODAY


def test_once_it_is_let_out_the_others_take_over_and_say_why() -> None:
    parts = (cleared(TODAY), YESTERDAY, soaking())
    assert clearing(settings(), *parts) is None
    assert moves(settings(), *parts) == {"west": T, "east": T}
    promotion = plan(settings(), known(*parts))["west"]
    assert promotion.by == IMAGEPOOL
    assert promotion.reason == f"Build {T} goes into service in west: it was served by north."


def test_somebody_s_word_ends_the_wait_where_they_said() -> None:
    assert moves(settings(), cleared(TODAY, "west", by="ann"), YESTERDAY, soaking()) == {"west": T}
    everywhere = cleared(TODAY, by="ann")
    assert moves(settings(CHECKED), everywhere, YESTERDAY, soaking()) == {"west": T, "east": T}


MISSING = {
    "not sent yet": ([], {}, "to which it was not sent yet"),
    "being sent": (there(TODAY, "south", state=UPLOADING), {}, "to which it is being sent"),
    "ready": (there(TODAY, "south"), {}, "where it takes over"),
    "failed": (there(TODAY, "south", state=FAILED), {}, "where its upload failed: no reason is on record"),
    "paused": (
        [],
        {"paused_providers": {"south": paused()}},
        "to which uploads are paused by ann at 2026-11-21 13:30 UTC: mirror moves",
    ),
}


@pytest.mark.parametrize(("parts", "changes", "why"), MISSING.values(), ids=MISSING.keys())
def test_a_canary_that_does_not_serve_it_is_named(parts: list[Upload], changes: dict, why: str) -> None:
    only = there(TODAY, "north", serving=NOW - 5 * HOUR)
    found = clearing(settings(), TODAY, YESTERDAY, only, parts, there(TODAY, "west"), **changes)
    assert found is not None and (found.verdict, found.due) == (Verdict.NO, None)
    assert found.reason == f"Build {T} waits for south, {why}."


def test_a_canary_that_is_paused_or_refuses_the_build_is_named() -> None:
    only = there(TODAY, "north", serving=NOW - 5 * HOUR)
    base = settings()
    shut = replace(base, providers={**base.providers, "south": provider("south", pause=True)})
    found = clearing(shut, TODAY, only)
    assert found is not None and found.reason.endswith("south, where the configuration pauses the image.")
    away = replace(TODAY, wishes=(wish(wanted=False, to="south"),))
    found = clearing(settings(), away, only)
    assert found is not None and "south, from which it is kept away by ann" in found.reason


@pytest.mark.parametrize("why", ["quarantine", "withheld from a canary", "to go"])
def test_what_is_taken_back_soaks_no_more(why: str) -> None:
    bad = {
        "quarantine": held(TODAY),
        "withheld from a canary": held(TODAY, "south"),
        "to go": doomed(TODAY),
    }[why]
    assert clearing(settings(), bad, YESTERDAY, soaking(NOW - 3 * HOUR)) is None


def test_frozen_nothing_is_let_out() -> None:
    found = clearing(settings(), TODAY, YESTERDAY, soaking(NOW - 3 * HOUR), frozen=paused())
    assert found is not None and found.verdict is Verdict.NO and "frozen" in found.reason


# -- one after the other ----------------------------------------------------------------------------


def test_what_soaks_is_not_displaced_by_the_next() -> None:
    parts = (NEXT, TODAY, YESTERDAY, soaking(), there(NEXT, *CLOUDS))
    assert moves(settings(), *parts) == {}
    reason = plan(settings(), known(*parts))["north"].reason
    assert reason.endswith(
        f"Build {N} takes over once build {T} has gone through the canaries, or is withheld:"
        " it soaks until 2026-11-21 15:30 UTC."
    )


def test_the_next_begins_when_the_one_before_was_let_out() -> None:
    parts = (NEXT, cleared(TODAY), YESTERDAY, soaking(), there(NEXT, *CLOUDS))
    assert moves(settings(), *parts) == {"north": N, "south": N, "west": T, "east": T}


@pytest.mark.parametrize("where", [None, "south"])
def test_the_next_begins_when_the_one_before_was_withheld(where: str | None) -> None:
    parts = (NEXT, held(TODAY, where), YESTERDAY, soaking(), there(NEXT, *CLOUDS))
    assert {name: moves(settings(), *parts).get(name) for name in ("north", "south")} == {
        "north": N,
        "south": N,
    }


def test_the_next_begins_when_the_one_before_can_not_get_into_all_canaries_any_more() -> None:
    """A canary gets the newest build alone, so one that lacks the one before never has both the same."""
    alone = there(TODAY, "north", serving=NOW - 5 * HOUR)
    rest = (NEXT, TODAY, YESTERDAY, there(TODAY, "west"), there(YESTERDAY, "west", serving=NOW - DAY))
    assert moves(settings(), *rest, alone, there(NEXT, "north")) == {"north": N}
    for state in (UPLOADING, READY):
        coming = there(TODAY, "south", state=state)
        assert "north" not in moves(settings(), *rest, alone, coming, there(NEXT, "north"))


def test_the_next_waits_for_nothing_that_is_to_go_nowhere() -> None:
    """`promote` was changed while all regions served the same."""
    everywhere = there(TODAY, *CLOUDS, serving=NOW - HOUR)
    assert moves(settings(), NEXT, TODAY, everywhere, there(NEXT, *CLOUDS)) == {"north": N, "south": N}


def test_somebody_s_word_displaces_what_soaks() -> None:
    parts = (cleared(NEXT, "north", by="ann"), TODAY, YESTERDAY, soaking(), there(NEXT, *CLOUDS))
    assert moves(settings(), *parts) == {"north": N}


def test_the_others_go_back_to_what_was_let_out_not_on_to_what_soaks() -> None:
    bad, good = held(cleared(TODAY)), cleared(YESTERDAY)
    everywhere = [*there(TODAY, "west", serving=NOW - HOUR), *there(YESTERDAY, "west")]
    parts = (NEXT, bad, good, there(NEXT, "north", "south", serving=NOW - MINUTE), there(NEXT, "west"))
    assert moves(settings(), *parts, everywhere) == {"west": Y}


def test_what_soaks_is_kept_where_it_is_to_serve_however_many_are_newer() -> None:
    newer = [ready(n, NOW - HOUR + n * MINUTE) for n in range(5, 9)]
    uploads = [u for build in newer for u in there(build, *CLOUDS)]
    parts = [*newer, TODAY, YESTERDAY, *soaking(), *uploads]
    going = {
        (a.upload.build_id[:8], a.upload.provider)
        for a in superseded_uploads(settings(), records(*parts), NOW)
        if a.upload is not None and a.verdict is Verdict.NOW
    }
    assert ("00000005", "west") in going
    assert not {(T, name) for name in CLOUDS} & going


@pytest.mark.parametrize(("promote", "by"), [(SOAK, IMAGEPOOL), (CHECKED, IMAGEPOOL), ("manual", "ann")])
def test_what_was_let_out_is_kept_until_it_serves_however_many_are_newer(promote: object, by: str) -> None:
    """A build a day that soaks for a week: without that, the janitor comes before the check has told."""
    newer = [ready(n, NOW - HOUR + n * MINUTE) for n in range(5, 9)]
    rest = [YESTERDAY, *soaking(), *(u for build in newer for u in there(build, *CLOUDS))]

    def going(*builds: Build) -> set[str]:
        plan = superseded_uploads(settings(promote), records(*builds, *rest), NOW)
        return {
            a.upload.build_id[:8]
            for a in plan
            if a.upload is not None and a.upload.provider == "west" and a.verdict is Verdict.NOW
        }

    assert going(*newer, cleared(TODAY, by=by)) == {"00000005", "00000006"}
    assert T in going(*newer[:-1], cleared(newer[-1], by=by), cleared(TODAY, by=by))
    assert T in going(*newer, held(cleared(TODAY, by=by)))


# -- the check --------------------------------------------------------------------------------------


def said(verdict: CheckVerdict, ago: timedelta = MINUTE, tries: int = 0) -> Checked:
    return Checked(verdict=verdict, time=NOW - ago, why="no quota", tries=tries)


def test_the_canaries_are_checked_while_it_soaks_and_the_others_are_not() -> None:
    parts = (TODAY, YESTERDAY, soaking())
    assert checkings(settings(CHECKED), *parts) == {"north": Verdict.NOW, "south": Verdict.NOW}
    assert checkings(settings(), *parts) == {}


def test_it_is_not_let_out_before_the_check_found_it_good_in_each_canary() -> None:
    late = soaking(NOW - 3 * HOUR)
    found = clearing(settings(CHECKED), TODAY, YESTERDAY, late)
    assert found is not None and found.verdict is Verdict.NO
    assert found.reason == f"Build {T} waits for the check in north: it is about to begin."
    one = [replace(u, checked=GOOD) if u.provider == "north" else u for u in late]
    found = clearing(settings(CHECKED), TODAY, YESTERDAY, one)
    assert found is not None and "the check in south" in found.reason
    found = clearing(settings(CHECKED), TODAY, YESTERDAY, soaking(NOW - 3 * HOUR, GOOD))
    assert found is not None and found.verdict is Verdict.NOW and "found it good" in found.reason


def test_the_others_are_checked_once_it_is_let_out_and_serve_it_when_it_is_good() -> None:
    base = (cleared(TODAY), YESTERDAY)
    assert checkings(settings(CHECKED), *base, soaking()) == {"west": Verdict.NOW, "east": Verdict.NOW}
    assert moves(settings(CHECKED), *base, soaking()) == {}
    good = [replace(u, checked=GOOD) if u.provider == "west" else u for u in soaking()]
    assert moves(settings(CHECKED), *base, good) == {"west": T}
    reason = plan(settings(CHECKED), known(*base, good))["east"].reason
    assert reason.endswith(f"Build {T} waits for the check there: it is about to begin.")


def test_nobody_checks_what_somebody_let_serve() -> None:
    assert checkings(settings(CHECKED), cleared(TODAY, by="ann"), YESTERDAY, soaking()) == {}
    canary = cleared(TODAY, "north", by="ann")
    assert checkings(settings(CHECKED), canary, YESTERDAY, soaking()) == {"south": Verdict.NOW}
    late = [replace(u, checked=GOOD) if u.provider == "south" else u for u in soaking(NOW - 3 * HOUR)]
    found = clearing(settings(CHECKED), canary, YESTERDAY, late)
    assert found is not None and found.verdict is Verdict.NOW


def test_what_somebody_let_out_again_is_not_refused_again() -> None:
    again = soaking(NOW - 3 * HOUR, said(CheckVerdict.REFUSED))
    assert checkings(settings(CHECKED), TODAY, YESTERDAY, again) == {}
    found = clearing(settings(CHECKED), TODAY, YESTERDAY, again)
    assert found is not None and found.verdict is Verdict.NOW


STANDS = {
    "running": (said(CheckVerdict.RUNNING), True, Verdict.RUNNING, "it runs since 2026-11-21 14:29 UTC."),
    "cut off": (said(CheckVerdict.RUNNING), False, Verdict.NOW, "It was cut off, and is begun anew."),
    "can't tell": (
        said(CheckVerdict.UNKNOWN, timedelta(seconds=5), 1),
        False,
        Verdict.LATER,
        "it could not tell at 2026-11-21 14:29 UTC: no quota; it is asked again at 2026-11-21 14:30 UTC.",
    ),
    "asked again": (said(CheckVerdict.UNKNOWN, MINUTE, 1), False, Verdict.NOW, "UTC."),
    "asked ever more seldom": (said(CheckVerdict.UNKNOWN, MINUTE, 3), False, Verdict.LATER, "UTC."),
    "asked once an hour": (said(CheckVerdict.UNKNOWN, 2 * HOUR, 10**6), False, Verdict.NOW, "UTC."),
    "another machine's clock": (said(CheckVerdict.UNKNOWN, -MINUTE, 1), False, Verdict.LATER, "UTC."),
    "a clock that was wrong": (said(CheckVerdict.UNKNOWN, -9 * DAY, 1), False, Verdict.NOW, "UTC."),
}


@pytest.mark.parametrize(("checked", "claimed", "verdict", "reason"), STANDS.values(), ids=STANDS.keys())
def test_a_check_is_asked_until_it_tells(
    checked: Checked, claimed: bool, verdict: Verdict, reason: str
) -> None:
    (mine,) = there(TODAY, "north", serving=NOW - HOUR, checked=checked)
    pair = frozenset({(TODAY.id, "north")} if claimed else set())
    world = snapshot(records(TODAY, mine, uploads_claimed=pair))
    found = next(each for each in steps(settings(CHECKED), world) if isinstance(each, Checking))
    assert found.verdict is verdict and found.reason.endswith(reason)
    assert (found.due is not None and found.due > NOW) is (verdict is Verdict.LATER)


def test_frozen_nothing_is_checked() -> None:
    assert set(checkings(settings(CHECKED), TODAY, YESTERDAY, soaking(), frozen=paused()).values()) == {
        Verdict.NO
    }


def test_a_canary_speaks_for_all_and_another_for_itself() -> None:
    assert refused_where(CHECKED, "north") is None
    assert refused_where(CHECKED, "west") == "west"


def test_what_is_withheld_is_not_checked() -> None:
    bad = cleared(TODAY).withhold(Withholding(provider="west", by="ann", time=NOW))
    assert checkings(settings(CHECKED), bad, YESTERDAY, soaking()) == {"east": Verdict.NOW}


def test_where_the_first_served_at_once_it_is_checked_when_it_is_let_out() -> None:
    alone = there(TODAY, "west", serving=NOW - HOUR)
    assert checkings(settings(CHECKED), TODAY, alone) == {}
    assert checkings(settings(CHECKED), cleared(TODAY), alone) == {"west": Verdict.NOW}


def test_of_several_that_were_let_out_the_newest_is_checked() -> None:
    both = (cleared(NEXT), cleared(TODAY), there(NEXT, "west"), there(TODAY, "west"))
    found = steps(settings(CHECKED), known(*both))
    assert [each.upload.build_id for each in found if isinstance(each, Checking)] == [NEXT.id]
    older = there(NEXT, "west", serving=NOW - HOUR, checked=GOOD)
    assert checkings(settings(CHECKED), both[0], both[1], older, both[3]) == {}


def test_what_is_held_neither_soaks_nor_is_checked_nor_is_let_out_by_a_word() -> None:
    """Whatever stands on record of it besides: somebody decides on it first."""
    hold = Withholding(provider=None, by=IMAGEPOOL, time=NOW - MINUTE, why="over budget", held=True)
    for build in (NEXT, cleared(NEXT), cleared(NEXT, by="ann")):
        for promote in (SOAK, CHECKED, "manual", "each"):
            alone = (build.withhold(hold), YESTERDAY, OLD, there(build, *CLOUDS))
            assert moves(settings(promote), *alone) == {}
            assert steps(settings(promote), known(*alone)) == []
            assert not [p.waits for p in plan(settings(promote), known(*alone)).values() if p.waits]


def test_what_soaks_goes_on_while_a_newer_one_is_held_or_rejected() -> None:
    hold = Withholding(provider=None, by=IMAGEPOOL, time=NOW - MINUTE, why="over budget", held=True)
    fat, parts = NEXT.withhold(hold), (TODAY, YESTERDAY, soaking())
    rejected = fat.withhold(Withholding(provider=None, by="ann", time=NOW))
    for config_ in (settings(), settings(CHECKED)):
        for newer in (fat, rejected):
            assert steps(config_, known(newer, *parts)) == steps(config_, known(*parts))
            assert moves(config_, newer, *parts) == moves(config_, *parts)
    went = plan_quarantine(settings(), known(fat, *parts), fat, None, NOW, by="ann", why="")
    assert {move.fate for move in went.moves} == {MoveFate.STAYS}


def test_what_left_the_configuration_is_not_promoted_by_hand() -> None:
    world = known(TODAY, there(TODAY, "north"))
    for image in (diskimage("other"), diskimage()):
        with pytest.raises(RefusedError, match=f"does not have {IMAGE}"):
            plan_promote(config(image), world, IMAGE, TODAY.id, ["north"], NOW, by="ann", why="")


# -- as a worker remembers it -----------------------------------------------------------------------


def test_a_planner_that_remembers_says_the_same_as_time_passes() -> None:
    planner, config_ = Planner(), settings(CHECKED)
    for minutes in (0, 30, 61, 62):
        now = NOW + minutes * MINUTE
        for checked in (None, said(CheckVerdict.UNKNOWN, tries=2), GOOD):
            world = known(TODAY, YESTERDAY, soaking(checked=checked))
            expected = tuple(steps(config_, world, now))
            assert planner.canaries(config_, world, now) == expected
            assert planner.canaries(config_, world, now) == expected
            assert planner.promotions(config_, world, now) == plan_promotions(config_, world, now)


def test_a_planner_that_remembers_sees_an_upload_that_begins_and_fails() -> None:
    """Whether what soaks can get into all canaries decides on the next."""
    planner, config_ = Planner(), settings()
    rest = [NEXT, TODAY, YESTERDAY, *there(TODAY, "west"), *there(YESTERDAY, "west", serving=NOW - DAY)]
    alone = [*there(TODAY, "north", serving=NOW - HOUR), *there(NEXT, "north")]
    for state in (UPLOADING, FAILED, READY):
        world = known(*rest, alone, there(TODAY, "south", state=state))
        assert planner.promotions(config_, world, NOW) == plan_promotions(config_, world, NOW)
