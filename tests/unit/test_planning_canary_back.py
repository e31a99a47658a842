"""Going back where builds wait for a word or for canaries: to what served, which stays to be gone back to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builder.planning.actions import Verdict
from builder.planning.retention import superseded_uploads
from builder.planning.rollback import plan_rollback
from tests.unit.canary_world import (
    BEFORE,
    CLOUDS,
    NEXT,
    OLD,
    SOAK,
    TODAY,
    YESTERDAY,
    Part,
    T,
    Y,
    cleared,
    known,
    moves,
    plan,
    settings,
    there,
)
from tests.unit.planning_world import DAY, HOUR, IMAGE, MINUTE, NOW, held, paused

CANARIES, OTHERS = ("north", "south"), ("west", "east")
#: The newest serves everywhere by somebody's word, one below it waits, and the one below that served.
SERVED = [replace(each, state_time=NOW - DAY) for each in there(YESTERDAY, *CLOUDS)]
BY_HAND = (TODAY, YESTERDAY, there(NEXT, *CLOUDS, serving=NOW), there(TODAY, *CLOUDS), SERVED)


def going(promote: object, *parts: Part) -> set[str]:
    """The ids of the builds of which an upload is to go."""
    records = known(*parts).image(IMAGE)
    found = superseded_uploads(settings(promote), records, NOW)
    return {each.upload.build_id for each in found if each.upload and each.verdict is Verdict.NOW}


def test_what_served_is_kept_to_go_back_to_however_many_wait() -> None:
    """Two builds wait while one soaks for two days: when it is bad, there is what served before it."""
    slow = replace(SOAK, soak=2 * DAY)
    waiting = (NEXT, TODAY, there(NEXT, *CLOUDS), there(TODAY, *CLOUDS))
    before = (cleared(BEFORE), there(BEFORE, *CANARIES), there(BEFORE, *OTHERS, serving=NOW - 3 * DAY))
    soaks = (YESTERDAY, there(YESTERDAY, *CANARIES, serving=NOW - DAY), there(YESTERDAY, *OTHERS))
    assert going(slow, *waiting, *before, *soaks) == set()

    out = (cleared(YESTERDAY), there(YESTERDAY, *CLOUDS, serving=NOW - MINUTE))
    assert going(slow, *waiting, cleared(BEFORE), there(BEFORE, *CLOUDS), *out) == set()


@pytest.mark.parametrize("promote", ["all", 4])
def test_what_served_is_kept_while_others_wait_for_a_provider_that_gets_nothing(promote: object) -> None:
    """Neither of the two newest is ready in the east, for days."""
    three = CLOUDS[:-1]
    waiting = (NEXT, TODAY, there(NEXT, *three), there(TODAY, *three))
    served = [replace(each, state_time=NOW - 2 * DAY) for each in there(BEFORE, *CLOUDS)]
    assert going(promote, *waiting, YESTERDAY, OLD, BEFORE, served) == set()


def test_what_served_before_that_goes_as_ever() -> None:
    served = [replace(each, state_time=NOW - 2 * DAY) for each in there(BEFORE, *CLOUDS)]
    parts = (cleared(NEXT, by="ann"), *BY_HAND, BEFORE, served)
    assert going("manual", *parts) == {BEFORE.id}


def test_it_goes_back_to_what_served_last_not_to_what_never_did() -> None:
    newest = cleared(NEXT, by="ann")
    world = known(newest, *BY_HAND)
    back = plan_rollback(settings("manual"), world, IMAGE, None, None, NOW, by="ann", why="no network")
    assert back.target == YESTERDAY
    assert {move.upload.build_id for move in back.moves if move.upload} == {YESTERDAY.id}
    assert moves(settings("manual"), held(newest), *BY_HAND) == dict.fromkeys(CLOUDS, Y)


@pytest.mark.parametrize("promote", ["manual", SOAK])
@pytest.mark.parametrize("provider", [None, "west"])
def test_what_is_gone_back_to_by_name_waits_for_no_other_word(promote: object, provider: str | None) -> None:
    world = known(cleared(NEXT, by="ann"), *BY_HAND)
    where = None if provider is None else [provider]
    back = plan_rollback(settings(promote), world, IMAGE, TODAY.id, where, NOW, by="ann", why="no network")
    assert [(word.provider, word.by, word.why) for word in back.clear] == [(provider, "ann", "no network")]
    found = {move.provider: move.upload.build_id[:8] for move in back.moves if move.upload}
    assert found == dict.fromkeys(CLOUDS if provider is None else [provider], T)


def test_what_may_serve_already_needs_no_word_to_be_gone_back_to() -> None:
    rest = (cleared(NEXT, by="ann"), *BY_HAND[2:], YESTERDAY)
    for target in (cleared(TODAY), cleared(TODAY, "west")):
        world = known(target, *rest)
        back = plan_rollback(settings("manual"), world, IMAGE, TODAY.id, ["west"], NOW, by="ann", why="")
        assert back.clear == ()


def test_frozen_a_word_for_everywhere_counts_whatever_was_said_of_one_provider_before() -> None:
    frozen = paused(time=NOW - HOUR)
    before = cleared(TODAY, "east", by="ann", time=NOW - 2 * HOUR)
    rest = (YESTERDAY, there(YESTERDAY, *CLOUDS, serving=NOW - DAY), there(TODAY, *CLOUDS))
    asked = known(cleared(before, by="ann", time=NOW - MINUTE), *rest, frozen=frozen)
    assert {each.verdict for each in plan(settings("manual"), asked).values()} == {Verdict.NOW}
    assert plan(settings("manual"), known(before, *rest, frozen=frozen))["east"].verdict is Verdict.NO
