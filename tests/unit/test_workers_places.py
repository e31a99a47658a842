"""Who may start an upload: what moves has a place, what hangs gives its own to others."""

from __future__ import annotations

from datetime import timedelta

from builder.workers.places import QUIET, Places
from tests.unit.worker_world import NOW

SECOND = timedelta(seconds=1)


def test_as_many_as_there_are_places_move_at_a_time() -> None:
    places = Places()
    places.enter("a", "one", NOW)
    assert places.is_free("two", 2, NOW)
    places.enter("b", "two", NOW)
    assert not places.is_free("three", 2, NOW)
    places.leave("a")
    assert places.is_free("three", 2, NOW)


def test_what_moves_no_byte_gives_its_place_up_and_takes_it_back_when_it_does() -> None:
    places = Places()
    places.enter("a", "one", NOW)
    places.enter("b", "two", NOW)
    places.moved("b", NOW + SECOND)
    assert places.next_look(NOW + SECOND) == NOW + QUIET
    assert places.is_free("three", 2, NOW + QUIET)
    places.moved("a", NOW + QUIET)
    assert not places.is_free("three", 2, NOW + QUIET)
    assert places.next_look(NOW + QUIET + SECOND) == NOW + QUIET + QUIET
    assert places.sharing("one") == 1


def test_the_last_place_is_not_for_a_region_that_has_one() -> None:
    places = Places()
    places.enter("a", "one", NOW)
    assert not places.is_free("one", 2, NOW)
    assert places.is_free("two", 2, NOW)
    assert places.is_free("one", 3, NOW)


def test_a_single_place_is_anybody_s() -> None:
    places = Places()
    assert places.is_free("one", 1, NOW)
    assert places.next_look(NOW) is None
    places.enter("a", "one", NOW)
    assert not places.is_free("two", 1, NOW)


def test_what_has_ended_moves_nothing() -> None:
    places = Places()
    places.enter("a", "one", NOW)
    places.leave("a")
    places.moved("a", NOW)  # the last word of a thread that is late
    assert places.sharing("one") == 0 and places.next_look(NOW) is None
