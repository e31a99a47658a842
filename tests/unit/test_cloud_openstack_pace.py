"""Requests keep their distance, and nothing else waits for it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from builder.cloud.openstack import OpenStackCloud
from builder.cloud.openstack.pace import Pace
from tests.fakes.bodies import BytesBody
from tests.fakes.glance import FakeGlance
from tests.unit.openstack_world import clouds_yaml, glance, new, provider

__all__ = ["clouds_yaml", "glance"]

INTERVAL = 0.1


def begin(pace: Pace) -> float:
    """When a request began."""
    pace.wait()
    return time.monotonic()


def test_requests_from_many_threads_begin_one_after_the_other() -> None:
    pace = Pace(INTERVAL)

    with ThreadPoolExecutor(5) as pool:
        began = sorted(pool.map(begin, [pace] * 5))

    # Each may be late by what the machine needs to wake it, never early.
    assert began[-1] - began[0] >= 3 * INTERVAL
    assert [n for n, moment in enumerate(began) if moment - began[0] < (n - 1) * INTERVAL] == []


def test_a_request_after_a_pause_does_not_wait() -> None:
    now, slept = 100.0, []
    pace = Pace(10.0, clock=lambda: now, sleep=slept.append)
    pace.wait()
    pace.wait()
    assert slept == [10.0]

    now += 20.0
    pace.wait()

    assert slept == [10.0]


def test_a_providers_requests_are_paced_and_anothers_are_not(glance: FakeGlance) -> None:
    slow, quick = OpenStackCloud(provider(rate=INTERVAL)), OpenStackCloud(provider("quick", rate=0.0))
    for cloud in (slow, quick):
        cloud.get("x")

    took = {}
    for name, cloud in (("slow", slow), ("quick", quick)):
        began = time.monotonic()
        for _ in range(5):
            cloud.get("x")
        took[name] = time.monotonic() - began

    assert took["slow"] >= 4 * INTERVAL
    assert took["quick"] < took["slow"]


def test_bytes_are_not_slowed(glance: FakeGlance) -> None:
    cloud = OpenStackCloud(provider(rate=0.5))
    made = cloud.create(new())
    began = time.monotonic()

    cloud.send(made.id, BytesBody(bytes(16 << 20)), timeout=10.0)

    # Sixty-four blocks: half a second each would be half a minute.
    assert time.monotonic() - began < 10.0
