"""The pool of clouds: the same for the same provider, and what each said it can do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from builder.cloud.pool import CAPABILITIES_LIFE, CloudPool
from builder.config.model import Provider
from builder.errors import CloudUnavailableError
from builder.model import FailureClass
from tests.fakes.cloud import FakeCloud

NORTH = Provider(name="north", cloud="fake", region="RegionOne")


@dataclass
class World:
    """A pool with a clock, and the clouds that it made."""

    now: float = 1000.0
    made: list[FakeCloud] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pool = CloudPool(self._make, clock=lambda: self.now)

    def _make(self, _provider: Provider) -> FakeCloud:
        self.made.append(FakeCloud())
        return self.made[-1]


@pytest.fixture
def world() -> World:
    return World()


def test_a_provider_keeps_its_cloud_until_its_settings_change(world: World) -> None:
    first = world.pool.get(NORTH)

    assert world.pool.get(NORTH) is first
    assert world.pool.get(replace(NORTH, rate=1.0)) is not first


def test_a_provider_that_moved_is_reached_in_both_places(world: World) -> None:
    moved = replace(NORTH, region="RegionTwo")
    here, there = world.pool.get(NORTH), world.pool.get(moved)

    assert here is not there
    assert (world.pool.get(NORTH), world.pool.get(moved)) == (here, there)


def test_what_a_cloud_can_do_is_asked_once_an_hour(world: World) -> None:
    first = world.pool.capabilities(NORTH)
    world.now += CAPABILITIES_LIFE - 1
    assert world.pool.capabilities(NORTH) is first

    world.made[0].import_methods.add("web-download")
    world.now += 1

    assert world.pool.capabilities(NORTH).import_methods == {"web-download"}
    assert timedelta(seconds=CAPABILITIES_LIFE) == timedelta(hours=1)


def test_what_is_known_is_told_without_asking(world: World) -> None:
    south = Provider(name="south", cloud="fake", region="RegionTwo")
    assert world.pool.known([NORTH, south]) == {}
    told = world.pool.capabilities(NORTH)
    assert world.pool.known([NORTH, south]) == {"north": told}
    world.now += CAPABILITIES_LIFE
    assert world.pool.known([NORTH, south]) == {}
    assert [cloud.count("capabilities") for cloud in world.made] == [1]


def test_what_is_forgotten_is_asked_again(world: World) -> None:
    world.pool.capabilities(NORTH)

    world.pool.forget()
    world.pool.capabilities(NORTH)

    assert [cloud.count("capabilities") for cloud in world.made] == [1, 1]


def test_providers_of_one_region_are_one_service_that_is_asked_once(world: World) -> None:
    south = replace(NORTH, name="south", upload_method="put")
    assert world.pool.capabilities(south) is world.pool.capabilities(NORTH)

    world.pool.capabilities(replace(NORTH, region="RegionTwo"))
    world.pool.capabilities(replace(NORTH, cloud="other"))

    assert [cloud.count("capabilities") for cloud in world.made] == [1, 1, 1]


def test_who_asks_meanwhile_shares_the_answer_and_no_other_region_waits(world: World) -> None:
    south, elsewhere = replace(NORTH, name="south"), replace(NORTH, region="RegionTwo")
    world.pool.get(NORTH), world.pool.get(south)
    gates = [cloud.hold("capabilities") for cloud in world.made]
    with ThreadPoolExecutor() as threads:
        asked = [threads.submit(world.pool.capabilities, provider) for provider in (NORTH, south, NORTH)]
        assert "raw" in world.pool.capabilities(elsewhere).disk_formats
        assert not any(one.done() for one in asked)
        for gate in gates:
            gate.set()
        assert len({id(one.result()) for one in asked}) == 1
    assert sum(made.count("capabilities") for made in world.made) == 2


def test_that_a_cloud_did_not_answer_is_not_kept(world: World) -> None:
    cloud = world.pool.get(NORTH)
    assert isinstance(cloud, FakeCloud)
    cloud.fail("capabilities", CloudUnavailableError("down", failure_class=FailureClass.NETWORK))
    with pytest.raises(CloudUnavailableError):
        world.pool.capabilities(NORTH)

    assert "raw" in world.pool.capabilities(NORTH).disk_formats
