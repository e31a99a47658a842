"""How many daemons on one tree come to terms: who is alive, who leads, what was asked for, what stands still.

Kept by the fake and by a real ZooKeeper alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from builder.errors import ConflictError, StoreUnavailableError
from builder.model import BuildState, Request, Snapshot, UploadState
from builder.store.base import Store
from tests.contract.records import (
    NOON,
    a_build,
    a_daemon,
    a_pause,
    a_request,
    an_upload,
)
from tests.contract.worlds import FakeWorld, RealWorld, World, at_once, eventually

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


@pytest.fixture(params=["fake", pytest.param("zookeeper", marks=pytest.mark.real)])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    here = FakeWorld() if request.param == "fake" else RealWorld(request.getfixturevalue("zookeeper"))
    yield here
    here.close()


@pytest.fixture
def store(world: World) -> Store:
    return world.daemon()


def told(store: Store, what: str, shown: object, **where: str) -> None:
    """Wait until the Snapshot's attribute of that name, or its image's, is that."""

    def seen() -> object:
        snapshot: object = store.snapshot()
        if "image" in where:
            assert isinstance(snapshot, Snapshot)
            snapshot = snapshot.image(where["image"])
        return getattr(snapshot, what)

    eventually(lambda: seen() == shown, f"{what} is {shown}")


def at_rest(store: Store) -> int:
    """The generation once nothing more arrives."""
    seen = store.wait(-1, 0)
    while (now := store.wait(seen, 0.3)) != seen:
        seen = now
    return seen


def daemons(world: World, count: int) -> list[Store]:
    return [world.daemon() for _ in range(count)]


class TestDaemons:
    def test_all_who_are_alive_are_shown_with_all_they_say(self, world: World) -> None:
        here, there = daemons(world, 2)
        first = a_daemon(labels=frozenset({"arm64", "big"}), build_workers=3, unfit="no qemu-img")
        second = a_daemon("nb02.example", roles=("janitor",), builder_id=None, labels=frozenset())
        here.register(first)
        there.register(second)
        for reader in (here, there):
            told(reader, "daemons", (first, second))
        told(world.command(), "daemons", (first, second))
        there.close()
        told(here, "daemons", (first,))

    def test_what_a_daemon_says_changes_in_place(self, world: World) -> None:
        here, there = daemons(world, 2)
        here.register(a_daemon())
        told(there, "daemons", (a_daemon(),))
        for now in (a_daemon(unfit="no space left on /opt"), a_daemon(draining=True)):
            here.register(now)
            told(there, "daemons", (now,))

    def test_a_daemon_is_shown_again_after_a_lost_session_as_it_was_last(self, world: World) -> None:
        here, there = daemons(world, 2)
        here.register(a_daemon())
        now = a_daemon(unfit="no space left on /opt")
        here.register(now)
        told(there, "daemons", (now,))
        world.expire(here)
        told(there, "daemons", (now,))
        here.register(a_daemon())
        told(there, "daemons", (a_daemon(),))

    def test_a_builder_that_started_again_is_one_and_not_two(self, world: World) -> None:
        before, after, reader = daemons(world, 3)
        # Killed: what showed it stays until its session ends.
        before.register(a_daemon())
        again = a_daemon(started=NOON + HOUR)
        after.register(again)
        told(reader, "daemons", (again,))

    def test_daemons_of_one_machine_may_share_its_roles(self, world: World) -> None:
        first, second, reader = daemons(world, 3)
        builds, uploads = a_daemon(roles=("builder",)), a_daemon(roles=("uploader",), started=NOON + HOUR)
        first.register(builds)
        second.register(uploads)
        told(reader, "daemons", (builds, uploads))

    def test_a_long_reason_is_kept_as_far_as_it_fits(self, world: World, store: Store) -> None:
        store.register(a_daemon(unfit="\x00" * 10**6))
        eventually(lambda: bool(store.snapshot().daemons), "it is shown")


class TestLead:
    def test_one_of_all_leads_and_everybody_knows_who(self, world: World) -> None:
        stores = daemons(world, 3)
        claims = at_once(lambda s, name: s.claim_lead(name), stores, ["nb01", "nb02", "nb03"])
        assert [claim is not None for claim in claims].count(True) == 1
        leader = f"nb0{next(n for n, claim in enumerate(claims, 1) if claim)}"
        for reader in (*stores, world.command()):
            told(reader, "leader", leader)

    def test_who_has_the_lead_does_not_get_it_twice(self, store: Store) -> None:
        lead = store.claim_lead("nb01")
        assert lead is not None and lead.valid
        assert store.claim_lead("nb01") is None
        assert lead.valid

    def test_it_passes_to_whoever_has_waited_longest(self, world: World) -> None:
        first, second, third = daemons(world, 3)
        lead = first.claim_lead("nb01")
        assert lead is not None
        assert second.claim_lead("nb02") is None
        assert third.claim_lead("nb03") is None
        lead.release()
        assert not lead.valid
        assert first.claim_lead("nb01") is None
        told(third, "leader", "nb02")
        assert third.claim_lead("nb03") is None
        told(second, "leader", "nb02")
        taken = second.claim_lead("nb02")
        assert taken is not None and taken.valid
        second.close()
        assert not taken.valid
        told(third, "leader", "nb03")
        taken = third.claim_lead("nb03")
        assert taken is not None
        taken.release()
        told(first, "leader", "nb01")
        assert first.claim_lead("nb01") is not None

    def test_who_stands_down_is_passed_over(self, world: World) -> None:
        first, second, third = daemons(world, 3)
        first.stand_down()
        lead = first.claim_lead("nb01")
        assert lead is not None
        assert second.claim_lead("nb02") is None
        assert third.claim_lead("nb03") is None
        for each in (first, second, second):
            each.stand_down()
        assert lead.valid
        lead.release()
        told(third, "leader", "nb03")
        assert second.claim_lead("nb02") is None
        taken = third.claim_lead("nb03")
        assert taken is not None
        taken.release()
        told(second, "leader", "nb02")
        assert second.claim_lead("nb02") is not None
        third.close()
        third.stand_down()

    @pytest.mark.parametrize("end", ["release", "close"])
    def test_every_standby_is_woken_once_when_the_lead_passes_on(self, world: World, end: str) -> None:
        leading, *standing = daemons(world, 4)
        lead = leading.claim_lead("nb00")
        assert lead is not None
        for number, each in enumerate(standing, 1):
            assert each.claim_lead(f"nb0{number}") is None
        for each in standing:
            told(each, "leader", "nb00")
        before = [at_rest(each) for each in standing]
        if end == "release":
            lead.release()
        else:
            leading.close()
        for each in standing:
            told(each, "leader", "nb01")
        assert standing[0].claim_lead("nb01") is not None
        assert all(each.claim_lead("x") is None for each in standing[1:])
        if isinstance(world, RealWorld):
            assert [at_rest(each) - seen for each, seen in zip(standing, before, strict=True)] == [1, 1, 1]

    def test_those_who_stand_in_line_wake_nobody(self, world: World, store: Store) -> None:
        assert store.claim_lead("nb01") is not None
        told(store, "leader", "nb01")
        seen = at_rest(store)
        assert all(each.claim_lead("nb02") is None for each in daemons(world, 2))
        if isinstance(world, RealWorld):
            assert at_rest(store) == seen

    def test_it_is_gone_with_its_session_and_can_be_had_again(self, world: World) -> None:
        here, there = daemons(world, 2)
        lead = here.claim_lead("nb01")
        assert lead is not None
        assert there.claim_lead("nb02") is None
        world.expire(here)
        assert not lead.valid
        told(there, "leader", "nb02")
        taken = there.claim_lead("nb02")
        assert taken is not None
        # To give back what is lost takes nothing from anybody.
        lead.release()
        assert here.claim_lead("nb01") is None
        world.expire(there)
        told(here, "leader", "nb01")
        assert here.claim_lead("nb01") is not None

    def test_nobody_leads_where_nobody_wants_to(self, store: Store) -> None:
        assert store.snapshot().leader is None


TICK = NOON + HOUR


def scheduled(tick: datetime = TICK, **changes: Any) -> Request:
    fields: dict[str, Any] = {
        "by": "nb01",
        "why": "it is time",
        "manual": False,
        "tick": tick,
        "time": tick,
    }
    return a_request(**{**fields, **changes})


def marks(*ticks: datetime) -> Mapping[str, datetime]:
    """Those times of entries of a schedule: "one", "two"..."""
    return dict(zip(("one", "two", "three"), ticks, strict=False))


class TestTicks:
    def test_a_time_is_remembered_with_the_request_for_it(self, world: World, store: Store) -> None:
        wish = store.request_build(scheduled(), ticks=marks(TICK))
        assert wish is not None and wish.stamp != 0
        assert (wish.tick, store.get_request("debian")) == (TICK, wish)
        told(store, "ticks", marks(TICK), image="debian")
        told(store, "request", wish, image="debian")
        assert world.command().snapshot().image("debian").ticks == marks(TICK)

    def test_it_fires_once_whoever_asks_and_whatever_became_of_the_request(self, world: World) -> None:
        here, there = daemons(world, 2)
        wish = here.request_build(scheduled(), ticks=marks(TICK))
        assert wish is not None
        assert there.request_build(scheduled(by="nb02"), ticks=marks(TICK)) is None
        assert here.withdraw_request(wish)
        assert there.request_build(scheduled(by="nb02"), ticks=marks(TICK)) is None
        assert there.request_build(scheduled(by="nb02"), ticks=marks(TICK - HOUR)) is None
        assert here.get_request("debian") is None
        assert there.request_build(scheduled(TICK + DAY), ticks=marks(TICK + DAY)) is not None

    def test_of_many_who_ask_at_once_one_does(self, world: World) -> None:
        stores = daemons(world, 4)

        def ask(each: Store, name: str) -> Request | None:
            wish = each.request_build(scheduled(by=name), ticks=marks(TICK))
            if wish is not None:
                assert each.withdraw_request(wish)
            return wish

        wishes = at_once(ask, stores, "abcd")
        assert len([wish for wish in wishes if wish]) == 1
        assert stores[0].get_request("debian") is None

    def test_entries_are_remembered_each_for_itself(self, store: Store) -> None:
        store.request_build(scheduled(), ticks=marks(TICK, TICK - HOUR))
        # The second entry is due once more, the first is not.
        again = store.request_build(scheduled(), ticks=marks(TICK, TICK))
        assert again is not None
        told(store, "ticks", marks(TICK, TICK), image="debian")
        store.request_build(scheduled(TICK + DAY), ticks={"three": TICK + DAY})
        told(store, "ticks", marks(TICK, TICK, TICK + DAY), image="debian")

    def test_with_a_request_open_the_time_is_remembered_and_the_request_stays(self, store: Store) -> None:
        asked = store.request_build(a_request(by="ann"))
        assert asked is not None
        joined = store.request_build(scheduled(), ticks=marks(TICK))
        assert joined is not None
        assert (joined.by, joined.stamp, joined.manual) == ("ann", asked.stamp, True)
        assert joined.tick == TICK
        told(store, "ticks", marks(TICK), image="debian")
        assert store.withdraw_request(asked)

    def test_a_time_that_only_a_broken_clock_knows_holds_nothing_up(self, store: Store) -> None:
        wrong = TICK + 40 * DAY
        assert store.request_build(scheduled(wrong), ticks=marks(wrong)) is not None
        assert store.request_build(scheduled(), ticks=marks(TICK)) is not None
        told(store, "ticks", marks(TICK), image="debian")
        # A clock that is a little ahead is believed: it fired.
        ahead = TICK + HOUR
        assert store.request_build(scheduled(ahead), ticks=marks(ahead)) is not None
        assert store.request_build(scheduled(), ticks=marks(TICK)) is None

    def test_a_retry_remembers_nothing(self, store: Store) -> None:
        retry = store.request_build(scheduled())
        assert retry is not None and retry.tick == TICK
        told(store, "request", retry, image="debian")
        assert store.snapshot().image("debian").ticks == {}
        assert store.request_build(scheduled(), ticks=marks(TICK)) is not None

    def test_entries_that_are_long_gone_give_way(self, store: Store) -> None:
        for number in range(4):
            entry = f"{number} {'*' * 60_000}"
            tick = TICK + number * HOUR
            assert store.request_build(scheduled(tick), ticks={entry: tick}) is not None
        told(store, "ticks", {f"3 {'*' * 60_000}": TICK + 3 * HOUR}, image="debian")


class TestRequests:
    def test_asking_again_may_make_it_urgent_and_changes_nothing_else(self, store: Store) -> None:
        first = store.request_build(a_request(by="ann"))
        assert first is not None and not first.urgent and not first.force
        second = store.request_build(a_request(by="bob", why="too", urgent=True))
        third = store.request_build(a_request(by="cy", why="me", force=True))
        assert second is not None and third is not None
        assert (second.by, second.urgent, second.force) == ("ann", True, False)
        assert (third.by, third.why, third.time) == ("ann", "new kernel", NOON)
        assert third.urgent and third.force
        eventually(
            lambda: (r := store.snapshot().image("debian").request) is not None and r.force, "it is seen"
        )
        # Whoever serves it knows it by what it was when it was made.
        assert third.stamp == first.stamp
        assert store.withdraw_request(first)
        assert store.get_request("debian") is None

    def test_asking_again_for_the_same_writes_nothing(self, world: World, store: Store) -> None:
        other = world.daemon()
        first = store.request_build(a_request(urgent=True))
        told(store, "request", first, image="debian")
        seen = at_rest(store)
        assert other.request_build(a_request(by="bob", urgent=True)) == first
        assert at_rest(store) == seen

    def test_a_person_takes_the_schedulers_place_and_its_time_is_not_forgotten(self, store: Store) -> None:
        planned = store.request_build(scheduled(urgent=True), ticks=marks(TICK))
        wish = store.request_build(a_request(by="ann", force=True))
        assert planned is not None and wish is not None
        assert (wish.by, wish.why, wish.time, wish.manual) == ("ann", "new kernel", NOON, True)
        assert (wish.tick, wish.force, wish.urgent) == (TICK, True, True)
        assert wish.stamp not in (0, planned.stamp)
        assert not store.withdraw_request(planned)
        assert store.get_request("debian") == wish
        assert store.request_build(scheduled(), ticks=marks(TICK)) is None
        assert store.withdraw_request(wish)

    def test_who_and_why_are_kept_as_far_as_they_fit(self, store: Store) -> None:
        wish = store.request_build(a_request(by="\x00" * 10**6, why="\U0001f600" * 10**6))
        assert wish is not None
        assert store.get_request("debian") == wish
        assert 0 < len(wish.by) <= len(wish.why) <= 2000


class TestStandstill:
    def test_a_pause_says_who_when_and_why(self, world: World, store: Store) -> None:
        store.pause("debian", a_pause())
        told(store, "pause", a_pause(), image="debian")
        later = a_pause(by="bob", time=NOON + HOUR, why="")
        store.pause("debian", later)
        told(store, "pause", later, image="debian")
        assert world.command().snapshot().image("debian").paused
        store.unpause("debian")
        store.unpause("debian")
        told(store, "pause", None, image="debian")

    def test_uploads_to_a_provider_are_paused(self, world: World, store: Store) -> None:
        store.pause_provider("cloud-one", a_pause())
        store.pause_provider("cloud-two", a_pause(why="quota"))
        for reader in (store, world.command()):
            told(reader, "paused_providers", {"cloud-one": a_pause(), "cloud-two": a_pause(why="quota")})
        store.unpause_provider("cloud-one")
        store.unpause_provider("cloud-one")
        told(store, "paused_providers", {"cloud-two": a_pause(why="quota")})

    def test_everything_is_frozen(self, world: World, store: Store) -> None:
        other = world.daemon()
        other.freeze(a_pause())
        for reader in (store, world.command()):
            told(reader, "frozen", a_pause())
        other.freeze(a_pause(why="and more"))
        told(store, "frozen", a_pause(why="and more"))
        store.unfreeze()
        store.unfreeze()
        told(other, "frozen", None)
        other.freeze(a_pause())
        told(store, "frozen", a_pause())

    def test_a_builder_is_forgotten_and_recalled(self, world: World, store: Store) -> None:
        gone = "2c09ab93-96d4-4154-a52d-bdf3124070c9"
        store.forget_builder(gone, a_pause(why="burnt"))
        for reader in (store, world.command()):
            told(reader, "forgotten", {gone: a_pause(why="burnt")})
        store.recall_builder(gone)
        store.recall_builder(gone)
        told(store, "forgotten", {})

    def test_long_reasons_are_kept_as_far_as_they_fit(self, store: Store) -> None:
        long = a_pause(by="\x00" * 10**6, why="\U0001f600" * 10**6)
        store.pause("debian", long)
        store.freeze(long)
        store.pause_provider("cloud-one", long)
        store.forget_builder("5f0c", long)
        eventually(lambda: "5f0c" in store.snapshot().forgotten, "all is seen")
        frozen = store.snapshot().frozen
        assert frozen is not None and 0 < len(frozen.by) <= len(frozen.why) <= 2000

    def test_each_change_wakes_those_who_wait(self, world: World, store: Store) -> None:
        other = world.daemon()
        changes: tuple[Callable[[], object], ...] = (
            lambda: other.freeze(a_pause()),
            lambda: other.pause_provider("cloud-one", a_pause()),
            lambda: other.forget_builder("5f0c", a_pause()),
            lambda: other.register(a_daemon()),
            other.unfreeze,
        )
        for change in changes:
            seen = at_rest(store)
            change()
            assert store.wait(seen, 5) != seen


class TestWhatStaysTheSame:
    def test_images_that_did_not_change_are_the_same_objects(self, world: World, store: Store) -> None:
        other = world.daemon()
        built = {name: other.create_build(a_build(name)) for name in ("debian", "fedora", "suse")}
        eventually(lambda: len(store.snapshot().images) == 3, "all is seen")
        at_rest(store)
        before = store.snapshot()
        assert store.snapshot() is before
        other.update_build(replace(built["fedora"], phase="packages"))
        other.freeze(a_pause())
        eventually(lambda: store.snapshot().frozen is not None, "the change is seen")
        after = store.snapshot()
        assert after.image("debian") is before.image("debian")
        assert after.image("suse") is before.image("suse")
        assert after.image("fedora") is not before.image("fedora")
        assert list(after.images) == list(before.images) == ["debian", "fedora", "suse"]

    def test_images_stay_the_same_when_nothing_happened_to_them_but_a_reconnect(
        self, world: World, store: Store
    ) -> None:
        other = world.daemon()
        upload = other.create_upload(an_upload(other.create_build(a_build())))
        eventually(lambda: store.snapshot().image("debian").uploads == (upload,), "the upload is seen")
        at_rest(store)
        before = store.snapshot().image("debian")
        world.expire(store)
        other.create_build(a_build("fedora"))
        eventually(lambda: bool(store.snapshot().image("fedora").builds), "what is new is seen")
        assert store.snapshot().image("debian") is before


class TestDeleting:
    def test_what_is_in_another_state_by_now_stays(self, world: World, store: Store) -> None:
        build = store.create_build(a_build())
        failed = store.update_build(build.become(BuildState.FAILED, NOON))
        upload = store.create_upload(an_upload(failed))
        ready = store.update_upload(upload.become(UploadState.READY, NOON))
        with pytest.raises(ConflictError):
            store.delete_upload(upload)
        store.delete_upload(replace(ready, sent=7, version=-1))
        with pytest.raises(ConflictError):
            store.delete_build(build)
        assert store.list_builds("debian") == (failed,)
        store.delete_build(failed)
        assert store.list_builds("debian") == ()


def test_a_closed_store_refuses_all_of_it(store: Store) -> None:
    store.close()
    attempts = (
        lambda: store.register(a_daemon()),
        lambda: store.claim_lead("nb01"),
        lambda: store.freeze(a_pause()),
        store.unfreeze,
        lambda: store.forget_builder("5f0c", a_pause()),
        lambda: store.request_build(scheduled(), ticks=marks(TICK)),
    )
    for attempt in attempts:
        with pytest.raises(StoreUnavailableError):
            attempt()
