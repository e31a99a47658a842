"""Lanes forget what has ended, and still tell the next drain of it."""

from __future__ import annotations

import threading

import pytest

from builder.workers.lanes import Job, Lanes, PacedLanes
from tests.unit.worker_world import NOW

DEADLINE = 30.0


def ended(lanes: Lanes) -> None:
    """Wait until none is at work."""
    lanes.wait_one(DEADLINE)
    assert lanes.busy() == frozenset()


def test_a_lane_is_busy_while_it_works() -> None:
    lanes, gate = Lanes("test", lambda: None), threading.Event()
    lanes.start("north", lambda: gate.wait(DEADLINE))
    assert lanes.is_busy("north") and not lanes.is_busy("south")
    gate.set()
    ended(lanes)
    assert not lanes.is_busy("north")


@pytest.mark.parametrize("did", [True, False])
def test_what_ended_long_ago_is_told_once(did: bool) -> None:
    lanes = Lanes("test", lambda: None)
    lanes.start("north", lambda: did)
    ended(lanes)
    lanes.start("south", lambda: False)
    ended(lanes)
    assert (lanes.drain(), lanes.drain()) == (did, False)


def test_what_broke_is_raised_whatever_went_well_since() -> None:
    lanes = Lanes("test", lambda: None)

    def breaks() -> bool:
        raise ValueError("it broke")

    lanes.start("north", breaks)
    ended(lanes)
    lanes.start("north", lambda: True)
    ended(lanes)
    with pytest.raises(ValueError, match="it broke"):
        lanes.drain()
    assert not lanes.drain()


def test_thousands_of_lanes_leave_nothing_behind() -> None:
    lanes = Lanes("test", lambda: None)
    for number in range(200):
        lanes.start(f"image-{number}", lambda: True)
        ended(lanes)
    assert len(vars(lanes)["_ended"]) + len(vars(lanes)["_lanes"]) <= 1


def test_what_there_is_no_room_for_begins_when_a_lane_is_free() -> None:
    gates = {name: threading.Event() for name in ("east", "north", "south")}
    begun: list[str] = []

    def job(name: str) -> Job:
        def do() -> bool:
            begun.append(name)
            return gates[name].wait(DEADLINE)

        return Job(lane=name, key=name, reason="it is due", do=do)

    lanes = Lanes("test", lambda: None)
    paced = PacedLanes(lanes, clock=lambda: NOW, ending=lambda: False, on_failure=lambda: None, at_once=2)
    jobs = [job(name) for name in gates]
    assert paced.start(jobs, NOW) is None
    assert paced.start(jobs, NOW) is None  # a pass that something else woke
    assert paced.busy() == {"east", "north"}
    gates["east"].set()
    paced.wait_one(DEADLINE)
    paced.start([each for each in jobs if each.lane != "east"], NOW)
    assert paced.busy() == {"north", "south"}
    for gate in gates.values():
        gate.set()
    assert paced.drain() and sorted(begun) == ["east", "north", "south"]
