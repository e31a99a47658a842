"""A held build in every plan: it is nobody's word yet, and all the same it goes nowhere by itself."""

from __future__ import annotations

from dataclasses import replace

from builder.config.model import DiskImage
from builder.model import BudgetAction, BudgetCheck, Build, BuildState, Release, UploadState, Withholding
from builder.planning.actions import CleanupKind, Verdict
from builder.planning.builds import decide_builds
from builder.planning.cleanup import plan_cleanup
from builder.planning.explain import explain
from builder.planning.promotion import plan_promotions
from builder.planning.records import may_go_out, newest_good, undecided
from builder.planning.rollback import MoveFate, plan_let_go, plan_quarantine, plan_release
from builder.planning.uploads import decide_uploads
from tests.unit.planning_world import (
    DAY,
    HERE,
    HOUR,
    IMAGE,
    MINUTE,
    NOW,
    config,
    diskimage,
    held,
    provider,
    ready,
    records,
    snapshot,
    upload,
)

WORD = Withholding(provider=None, by="imagepool", time=NOW - MINUTE, why="over budget: it is fat", held=True)
SETTINGS = config(diskimage(), provider("north"))
GOOD = ready(1, NOW - DAY)
SERVES = upload(1, UploadState.READY, NOW - DAY, external_id="x", ended=NOW - DAY, serving=NOW - DAY)


def fat(number: int = 2, **more: object) -> Build:
    """A build that is held, the later the higher its number."""
    build = ready(number, NOW - (9 - number) * MINUTE, withheld=(WORD,))
    return replace(build, **more)  # type: ignore[arg-type]


def test_it_is_not_good_and_waits_until_a_newer_one_is() -> None:
    known = records(fat(3), fat(2), GOOD)
    assert not may_go_out(fat(), None) and not may_go_out(fat(), "north")
    assert newest_good(known) == GOOD
    assert undecided(known) == fat(3)
    assert undecided(records(ready(4, NOW - MINUTE), fat(3), GOOD)) is None
    assert undecided(records(held(ready(4, NOW - MINUTE)), fat(3), GOOD)) == fat(3)
    assert undecided(records(GOOD)) is None


def test_it_is_not_sent_and_what_serves_goes_on() -> None:
    known = snapshot(records(fat(), GOOD, SERVES))
    (decision,) = decide_uploads(SETTINGS, known, NOW)
    assert (decision.verdict, decision.build) == (Verdict.NO, GOOD)
    assert decision.reason.endswith(
        " The newest build 00000002 was held by imagepool at 2026-11-21 14:29 UTC: over budget: it is fat;"
        " `imagepool build release 00000002` lets it go."
    )
    (promotion,) = plan_promotions(SETTINGS, known, NOW)
    assert (promotion.verdict, promotion.upload) == (Verdict.NO, SERVES)


def test_the_next_build_is_due_by_the_schedule_as_ever() -> None:
    made = fat(started=NOW - 5 * MINUTE)
    (decision,) = decide_builds(SETTINGS, snapshot(records(made, GOOD)), NOW)
    assert decision.verdict is Verdict.LATER
    assert (
        ", but held by imagepool at 2026-11-21 14:29 UTC: over budget: it is fat; the next" in decision.reason
    )


def going(image: DiskImage, *parts: Build) -> set[int]:
    """The numbers of the builds that go."""
    plan = plan_cleanup(
        config(image, provider("north")), snapshot(records(*parts)), NOW, builder_id=HERE, active=frozenset()
    )
    return {
        int(a.build.id[:8])
        for a in plan
        if a.build is not None and a.kind is CleanupKind.RETIRE_BUILD and a.verdict is Verdict.NOW
    }


def test_it_makes_no_good_build_superfluous_and_others_that_are_held_after_a_while() -> None:
    image = diskimage(keep=2)
    older = ready(0, NOW - 2 * DAY)
    assert going(image, fat(3), fat(2), GOOD, older) == set()
    assert going(image, fat(5), fat(4), fat(3), fat(2), GOOD, older) == {2, 3}
    assert going(image, ready(7, NOW - MINUTE), ready(6, NOW - 2 * MINUTE), fat(2), GOOD) == {1, 2}
    rows = explain(config(image), snapshot(records(fat(2), GOOD)), NOW, IMAGE, HERE)
    (row,) = [row for row in rows if row.what == "clean-up of ready build 00000002"]
    assert row.reason.startswith(
        "It stays until 2 newer builds are good, or held or rejected as well. Build 00000002 was held"
    )


def test_what_is_rejected_night_after_night_does_not_fill_the_disk() -> None:
    over = (BudgetCheck(measure="size", sentence="it is fat", over=BudgetAction.HOLD),)
    rejected = [held(fat(number, withheld=(), budgets=over)) for number in (5, 4, 3, 2)]
    assert going(diskimage(keep=2), *rejected, GOOD) == {2, 3}
    assert going(diskimage(keep=2), fat(6), *rejected, GOOD) == {2, 3, 4}
    # What had been let out, and whatever else somebody put in quarantine, is there to go back to.
    let_out = [replace(build, release=RELEASE) for build in rejected]
    assert going(diskimage(keep=2), *let_out, GOOD) == set()
    assert going(diskimage(keep=2), *(replace(build, budgets=()) for build in rejected), GOOD) == set()


def test_released_it_is_sent_first_where_nothing_of_it_is_yet() -> None:
    known = snapshot(records(fat(), GOOD, SERVES))
    plan = plan_let_go(SETTINGS, known, fat(), NOW)
    (move,) = plan.moves
    assert (move.fate, move.build) == (MoveFate.UPLOAD, fat().released(None))
    assert move.reason == (
        "Build 00000002 is sent there; it serves as `promote` says, and Build 00000001 serves until then."
    )
    # Whatever is newer and good has taken its place.
    newer = ready(8, NOW - MINUTE)
    plan = plan_let_go(SETTINGS, snapshot(records(newer, fat(), GOOD, SERVES)), fat(), NOW)
    assert [move.fate for move in plan.moves] == [MoveFate.STAYS]


def test_a_quarantine_takes_the_place_of_the_hold() -> None:
    known = snapshot(records(fat(), GOOD, SERVES))
    plan = plan_quarantine(SETTINGS, known, fat(), None, NOW, by="ann", why="a compiler")
    word = Withholding(provider=None, by="ann", time=NOW, why="a compiler")
    assert plan.withhold == ((fat(), word),)
    assert fat().withhold(word).withheld == (word,)


def test_what_is_said_of_one_provider_outlives_the_hold() -> None:
    known = snapshot(records(fat(), GOOD, SERVES))
    plan = plan_quarantine(SETTINGS, known, fat(), ["north"], NOW, by="ann", why="no driver")
    ((_, word),) = plan.withhold
    assert word == Withholding(provider="north", by="ann", time=NOW, why="no driver")
    both = fat().withhold(word)
    assert plan_quarantine(SETTINGS, known, both, ["north"], NOW, by="bob", why="").withhold == ()
    (move,) = plan_let_go(SETTINGS, snapshot(records(both, GOOD, SERVES)), both, NOW).moves
    assert (move.fate, move.build) == (MoveFate.STAYS, GOOD)
    # Nor does it change when it is said twice.
    freed = both.let_go(RELEASE)
    (move,) = plan_let_go(SETTINGS, snapshot(records(freed, GOOD, SERVES)), freed, NOW).moves
    assert (move.fate, move.build) == (MoveFate.STAYS, GOOD)
    # That of the provider ends by itself, and nothing of what is held goes out for that.
    (move,) = plan_release(SETTINGS, snapshot(records(both, GOOD, SERVES)), both, ["north"], NOW).moves
    assert (move.fate, move.build) == (MoveFate.STAYS, GOOD)


def test_nobody_decides_on_what_was_cut_off_after_it_was_judged() -> None:
    """Its word stays on record, for it may be whole after all."""
    lost = fat(state=BuildState.FAILED)
    assert (lost.hold, lost.withheld) == (None, (WORD,))
    assert fat(state=BuildState.DELETING).hold is None
    assert fat(state=BuildState.BUILDING).hold == WORD


RELEASE = Release(by="ann", time=NOW, why="it is meant")


def test_who_let_it_go_is_on_its_record() -> None:
    freed = fat().let_go(RELEASE)
    assert (freed.withheld, freed.release) == ((), RELEASE)
    assert GOOD.let_go(RELEASE) == GOOD
    in_north = Withholding(provider="north", by="ann", time=NOW - HOUR)
    assert fat().withhold(in_north).let_go(RELEASE).withheld == (in_north,)


def test_the_last_word_on_a_build_brings_its_hold_along_unless_somebody_decided() -> None:
    bare = replace(fat(), withheld=(), version=7)
    assert fat().over(bare).hold == WORD
    assert fat().over(fat()).withheld == (WORD,)
    # One that failed after all has nothing to be decided on.
    assert bare.over(fat()).withheld == ()
    rejected = held(bare)
    assert fat().over(rejected).withheld == rejected.withheld
    freed = replace(bare, release=RELEASE)
    assert (fat().over(freed).hold, fat().over(freed).release) == (None, RELEASE)
    in_north = held(bare, "north")
    assert fat().over(in_north).withheld == (*in_north.withheld, WORD)
