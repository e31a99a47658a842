"""The Store contract, kept by the fake and by a real ZooKeeper alike."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from builder.errors import ConflictError, NotFoundError, RefusedError, StoreUnavailableError
from builder.model import (
    Build,
    BuildState,
    Deletion,
    Failure,
    FailureClass,
    Upload,
    UploadCancellation,
    UploadState,
)
from builder.store.base import Store
from tests.contract.records import (
    NOON,
    a_build,
    a_cancellation,
    a_clearance,
    a_daemon,
    a_full_build,
    a_full_upload,
    a_pause,
    a_release,
    a_request,
    a_sighting,
    a_turn,
    a_wish,
    a_withholding,
    an_upload,
    an_upload_cancellation,
)
from tests.contract.worlds import FakeWorld, RealWorld, World, at_once, eventually

BAD_NAMES = ["", "../x", "a b", "a/b", "/", ".", "x" * 300, "-x", "x\n", "\u00fc", "x\x00"]


@pytest.fixture(params=["fake", pytest.param("zookeeper", marks=pytest.mark.real)])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    here = FakeWorld() if request.param == "fake" else RealWorld(request.getfixturevalue("zookeeper"))
    yield here
    here.close()


@pytest.fixture
def store(world: World) -> Store:
    return world.daemon()


@pytest.fixture
def build(store: Store) -> Build:
    return store.create_build(a_build())


class TestBuilds:
    def test_a_build_is_read_as_it_was_written(self, store: Store) -> None:
        written = store.create_build(a_full_build())
        assert store.get_build("debian", written.id) == written

    def test_an_id_is_taken_once(self, store: Store, build: Build) -> None:
        with pytest.raises(ConflictError):
            store.create_build(replace(build, builder="another"))
        assert store.get_build("debian", build.id).builder == "nb01.example"

    def test_a_change_is_written_over_what_was_read(self, store: Store, build: Build) -> None:
        ready = store.update_build(build.become(BuildState.READY, NOON + timedelta(hours=1)))
        later = store.update_build(replace(ready, log="/tmp/log"))
        assert store.get_build("debian", build.id) == later
        assert (later.state, later.log) == (BuildState.READY, "/tmp/log")

    def test_of_two_who_read_the_same_only_the_first_writes(self, world: World, store: Store) -> None:
        written = store.create_build(a_build())
        theirs = world.command().get_build("debian", written.id)
        store.update_build(replace(written, phase="packages"))
        with pytest.raises(ConflictError):
            world.command().update_build(replace(theirs, phase="convert"))
        assert store.get_build("debian", written.id).phase == "packages"

    def test_a_record_never_stored_overwrites_nothing(self, store: Store, build: Build) -> None:
        with pytest.raises(ConflictError):
            store.update_build(replace(build, phase="convert", version=-1))
        assert store.get_build("debian", build.id).phase is None

    def test_what_is_gone_is_not_found(self, store: Store, build: Build) -> None:
        store.delete_build(build)
        store.delete_build(build)
        with pytest.raises(NotFoundError):
            store.get_build("debian", build.id)
        with pytest.raises(NotFoundError):
            store.update_build(build)
        assert store.list_builds("debian") == ()

    def test_builds_are_listed_newest_first(self, store: Store) -> None:
        made = [store.create_build(a_build(minutes=minutes)) for minutes in (5, 1, 9)]
        store.create_build(a_build("fedora"))
        assert store.list_builds("debian") == (made[2], made[0], made[1])
        assert store.list_builds("nobody") == ()

    def test_a_build_with_uploads_stays(self, store: Store, build: Build) -> None:
        upload = store.create_upload(an_upload(build))
        with pytest.raises(RefusedError):
            store.delete_build(build)
        assert store.get_build("debian", build.id) == build
        store.delete_upload(upload)
        store.delete_build(build)
        assert store.list_builds("debian") == ()

    def test_a_build_whose_upload_is_about_to_start_stays(self, world: World, build: Build) -> None:
        uploader, janitor = world.daemon(), world.daemon()
        claim = uploader.claim_uploads("debian", build.id, "cloud-one")
        assert claim is not None
        with pytest.raises(RefusedError):
            janitor.delete_build(build)
        claim.release()
        janitor.delete_build(build)
        assert janitor.list_builds("debian") == ()

    def test_a_build_is_deleted_under_its_own_claim(self, store: Store, build: Build) -> None:
        claim = store.claim_build(build)
        assert claim is not None
        with claim:
            store.delete_build(build)
        assert store.list_builds("debian") == ()


class TestReasons:
    # What takes most bytes: six of them for each character, or twelve for one.
    @pytest.mark.parametrize("character", ["\ufffd", "\U0001f600"])
    def test_the_reason_of_garbage_is_kept_as_far_as_it_fits(self, store: Store, character: str) -> None:
        lines = (*(character * 16384 for _ in range(24)), f"the end{character * 16384}")
        reason = Failure(failure_class=FailureClass.UNKNOWN, message=character * 100_000, lines=lines)
        build = store.create_build(a_build())
        failed = store.update_build(build.become(BuildState.FAILED, NOON, reason=reason))
        upload = store.create_upload(an_upload(build))
        refused = store.update_upload(upload.become(UploadState.FAILED, NOON, reason=reason))
        assert store.get_build("debian", build.id) == failed
        assert store.get_upload("debian", build.id, "cloud-one", upload.id) == refused
        for kept in (failed.reason, refused.reason):
            assert kept is not None
            assert kept.lines[-1].startswith("the end")
            assert len(kept.lines) >= 10
            assert all(len(line) >= 500 for line in kept.lines)
            assert len(kept.message) >= 500


class TestWhatCanBeLong:
    def test_of_many_changes_the_first_are_kept_and_of_too_many_inputs_none(self, store: Store) -> None:
        many = {f"git \U0001f600 {number}": "\U0001f600" * 40 for number in range(5000)}
        build = store.create_build(a_build(changes=("\U0001f600" * 5000,) * 500, inputs=many))
        assert store.get_build("debian", build.id) == build
        assert len(build.changes) == 25
        assert all(len(change) == 200 for change in build.changes)
        assert build.inputs == {}

    def test_the_digests_of_a_thousand_repositories_are_kept(self, store: Store) -> None:
        many = {f"git /opt/git/opendev.org/openstack/{number}": "a" * 40 for number in range(1000)}
        build = store.create_build(a_build(inputs=many))
        assert store.get_build("debian", build.id).inputs == many

    def test_all_that_can_be_long_fits_into_one_record(self, store: Store) -> None:
        long = "\U0001f600" * 9000
        reason = Failure(failure_class=FailureClass.UNKNOWN, message=long, lines=(long,) * 30)
        build = a_build(
            reason=reason,
            changes=("\U0001f600" * 5000,) * 500,
            inputs={f"git {number}": "\U0001f600" * 40 for number in range(390)},
            wishes=tuple(a_wish(f"cloud-{number}", why=long) for number in range(100)),
            withheld=tuple(a_withholding(f"cloud-{number}", why=long) for number in range(100)),
        )
        written = store.create_build(build)
        assert written.inputs == build.inputs
        assert [wish.provider for wish in written.wishes] == [wish.provider for wish in build.wishes]
        assert [word.provider for word in written.withheld] == [word.provider for word in build.withheld]
        assert store.get_build("debian", build.id) == written
        lines = (long,) * 99
        upload = an_upload(
            build,
            reason=reason,
            fallbacks=lines,
            hook_output=(*lines, "the end"),
            deletion=Deletion(by=long, time=NOON, why=long),
        )
        sent = store.create_upload(upload)
        assert sent.hook_output[-1] == "the end"
        assert store.get_upload("debian", build.id, "cloud-one", sent.id) == sent


class TestUploads:
    def test_an_upload_is_read_as_it_was_written(self, store: Store, build: Build) -> None:
        written = store.create_upload(a_full_upload(build))
        assert store.get_upload("debian", build.id, "cloud-one", written.id) == written

    def test_ids_count_up_for_each_build_and_provider(self, store: Store, build: Build) -> None:
        made = [store.create_upload(an_upload(build, to)).id for to in ("one", "one", "two")]
        assert made == ["0000000001", "0000000002", "0000000001"]

    def test_an_id_is_never_given_twice(self, store: Store, build: Build) -> None:
        store.delete_upload(store.create_upload(an_upload(build)))
        assert store.create_upload(an_upload(build)).id == "0000000002"

    def test_the_claim_of_a_provider_takes_no_upload_id(self, store: Store, build: Build) -> None:
        claim = store.claim_uploads("debian", build.id, "cloud-one")
        assert claim is not None
        assert store.create_upload(an_upload(build)).id == "0000000001"

    def test_without_its_build_there_is_no_upload(self, store: Store, build: Build) -> None:
        store.delete_build(build)
        with pytest.raises(NotFoundError):
            store.create_upload(an_upload(build))
        assert store.claim_uploads("debian", build.id, "cloud-one") is None
        assert store.list_builds("debian") == ()

    def test_of_two_who_read_the_same_only_the_first_writes(self, store: Store, build: Build) -> None:
        upload = store.create_upload(an_upload(build))
        now = store.update_upload(replace(upload, sent=5))
        with pytest.raises(ConflictError):
            store.update_upload(replace(upload, sent=3))
        with pytest.raises(ConflictError):
            store.update_upload(replace(upload, sent=3, version=-1))
        assert store.get_upload("debian", build.id, "cloud-one", upload.id) == now
        assert now.sent == 5

    def test_what_is_gone_is_not_found(self, store: Store, build: Build) -> None:
        upload = store.create_upload(an_upload(build))
        store.delete_upload(upload)
        store.delete_upload(upload)
        with pytest.raises(NotFoundError):
            store.update_upload(upload)
        with pytest.raises(NotFoundError):
            store.get_upload("debian", build.id, "cloud-one", upload.id)

    def test_uploads_are_listed_newest_first(self, store: Store, build: Build) -> None:
        made = [store.create_upload(an_upload(build)) for _ in range(3)]
        store.create_upload(an_upload(build, "cloud-two"))
        assert store.list_uploads("debian", build.id, "cloud-one") == tuple(reversed(made))
        assert store.list_uploads("debian", build.id, "cloud-three") == ()


class TestClaims:
    def test_an_image_is_claimed_once(self, world: World) -> None:
        here, there = world.daemon(), world.daemon()
        claim = here.claim_image("debian")
        assert claim is not None
        assert claim.valid
        assert there.claim_image("debian") is None
        assert here.claim_image("debian") is None
        claim.release()
        claim.release()
        assert not claim.valid
        assert there.claim_image("debian") is not None

    def test_claims_of_different_things_do_not_meet(self, store: Store, build: Build) -> None:
        upload = store.create_upload(an_upload(build))
        assert store.claim_image("debian")
        assert store.claim_image("fedora")
        assert store.claim_build(build)
        assert store.claim_uploads("debian", build.id, "cloud-one")
        assert store.claim_uploads("debian", build.id, "cloud-two")
        assert store.claim_upload(upload)
        assert store.claim_upload(upload) is None

    def test_nothing_is_claimed_of_what_is_gone(self, store: Store, build: Build) -> None:
        upload = store.create_upload(an_upload(build))
        store.delete_upload(upload)
        assert store.claim_upload(upload) is None
        assert store.list_uploads("debian", build.id, "cloud-one") == ()
        store.delete_build(build)
        assert store.claim_build(build) is None
        assert store.snapshot().image("debian").uploads == ()

    def test_a_provider_has_so_many_shares_for_all_daemons_together(self, world: World) -> None:
        here, there = world.daemon(), world.daemon()
        first, second = here.claim_share("cloud-one", 2), there.claim_share("cloud-one", 2)
        assert first is not None
        assert second is not None
        assert here.claim_share("cloud-one", 2) is None
        assert there.claim_share("cloud-one", 2) is None
        assert here.claim_share("cloud-two", 1) is not None
        # Who has been told of one more may have it, who knows of one less none.
        assert here.claim_share("cloud-one", 3) is not None
        assert here.claim_share("cloud-one", 1) is None
        assert here.claim_share("cloud-three", 0) is None
        first.release()
        assert second.valid
        again = there.claim_share("cloud-one", 2)
        assert again is not None
        assert here.claim_share("cloud-one", 2) is None

    def test_shares_are_free_when_their_holder_is_gone(self, world: World) -> None:
        here, there = world.daemon(), world.daemon()
        held = here.claim_share("cloud-one", 1)
        assert held is not None
        world.expire(here)
        assert not held.valid
        theirs = there.claim_share("cloud-one", 1)
        assert theirs is not None
        held.release()
        assert here.claim_share("cloud-one", 1) is None
        there.close()
        assert not theirs.valid
        assert here.claim_share("cloud-one", 1) is not None

    def test_one_daemon_at_a_time_sweeps_a_provider(self, world: World) -> None:
        here, there = world.daemon(), world.daemon()
        held = here.claim_sweep("cloud-one")
        assert held is not None
        assert there.claim_sweep("cloud-one") is None
        assert there.claim_sweep("cloud-two") is not None
        assert there.claim_share("cloud-one", 1) is not None
        world.expire(here)
        assert there.claim_sweep("cloud-one") is not None

    def test_those_who_rush_for_shares_get_as_many_as_there_are(self, world: World) -> None:
        stores = [world.daemon() for _ in range(4)]
        for _ in range(5):
            held = [claim for claim in at_once(lambda s: s.claim_share("cloud-one", 2), stores) if claim]
            assert len(held) == 2
            assert all(store.claim_share("cloud-one", 2) is None for store in stores)
            for claim in held:
                claim.release()

    def test_a_claim_dies_with_its_store(self, world: World) -> None:
        here, there = world.daemon(), world.daemon()
        claim = here.claim_image("debian")
        assert claim is not None
        here.close()
        assert not claim.valid
        claim.release()
        assert there.claim_image("debian") is not None

    def test_a_claim_dies_with_its_session_for_good(self, world: World) -> None:
        here, there = world.daemon(), world.daemon()
        claim = here.claim_image("debian")
        assert claim is not None
        world.expire(here)
        assert not claim.valid
        theirs = there.claim_image("debian")
        assert theirs is not None
        claim.release()
        assert theirs.valid
        assert here.claim_image("debian") is None

    def test_records_outlive_the_session(self, world: World, store: Store, build: Build) -> None:
        world.expire(store)
        assert store.get_build("debian", build.id) == build
        assert store.update_build(replace(build, phase="convert")).phase == "convert"


class TestWishes:
    def test_a_wish_is_kept_until_withdrawn(self, store: Store) -> None:
        assert store.get_request("debian") is None
        wish = store.request_build(a_request())
        assert store.get_request("debian") == wish == a_request()
        assert wish.stamp != 0
        assert store.withdraw_request(wish)
        assert not store.withdraw_request(wish)
        assert store.get_request("debian") is None

    def test_the_older_wish_stands(self, store: Store) -> None:
        first = store.request_build(a_request(by="ann"))
        second = store.request_build(a_request(by="bob"))
        assert (second.by, second.stamp) == ("ann", first.stamp)
        assert store.request_build(a_request(by="scheduler", manual=False)).by == "ann"

    def test_a_person_goes_before_the_scheduler(self, store: Store) -> None:
        planned = store.request_build(a_request(by="scheduler", manual=False))
        wish = store.request_build(a_request(by="ann"))
        assert wish.by == "ann"
        assert not store.withdraw_request(planned)
        assert store.get_request("debian") == wish
        assert store.withdraw_request(wish)

    def test_a_later_wish_is_not_withdrawn_by_who_saw_an_earlier_one(self, store: Store) -> None:
        first = store.request_build(a_request())
        store.withdraw_request(first)
        second = store.request_build(a_request())
        assert second.stamp != first.stamp
        assert not store.withdraw_request(first)
        assert store.get_request("debian") == second

    def test_a_cancellation_is_seen_until_withdrawn(self, world: World, store: Store, build: Build) -> None:
        builder = world.daemon()
        wish = a_cancellation(build)
        world.command().cancel_build(wish)
        eventually(lambda: builder.snapshot().image("debian").cancellation == wish, "the wish is seen")
        assert world.command().snapshot().image("debian").cancellation == wish
        builder.withdraw_cancellation("debian")
        builder.withdraw_cancellation("debian")
        eventually(lambda: builder.snapshot().image("debian").cancellation is None, "the wish is gone")
        assert store.get_build("debian", build.id) == build
        assert store.list_builds("debian") == (build,)

    def test_a_later_cancellation_takes_the_place_of_an_earlier(self, world: World, build: Build) -> None:
        daemon = world.daemon()
        daemon.cancel_build(a_cancellation(build))
        later = a_cancellation(a_build(), by="bob", why="")
        daemon.cancel_build(later)
        eventually(lambda: daemon.snapshot().image("debian").cancellation == later, "the later wish is seen")

    def test_only_the_cancellation_of_the_build_that_ended_is_withdrawn(
        self, world: World, build: Build
    ) -> None:
        store = world.command()
        later = a_cancellation(a_build())
        store.cancel_build(later)
        store.withdraw_cancellation("debian", build.id)
        assert store.snapshot().image("debian").cancellation == later
        store.withdraw_cancellation("debian", later.build_id)
        assert store.snapshot().image("debian").cancellation is None

    def test_a_long_reason_to_cancel_is_kept_as_far_as_it_fits(self, world: World, build: Build) -> None:
        store = world.command()
        store.cancel_build(a_cancellation(build, by="\U0001f600" * 90_000, why="\U0001f600" * 90_000))
        kept = store.snapshot().image("debian").cancellation
        assert kept is not None
        assert (len(kept.by), len(kept.why)) == (200, 1000)

    def test_cancellations_of_uploads_are_seen_until_withdrawn(
        self, world: World, store: Store, build: Build
    ) -> None:
        uploader = world.daemon()
        one, two = (store.create_upload(an_upload(build, to)) for to in ("cloud-one", "cloud-two"))
        first = an_upload_cancellation(one)
        second = an_upload_cancellation(two, time=NOON + timedelta(minutes=1), why="")

        def seen() -> tuple[UploadCancellation, ...]:
            return uploader.snapshot().image("debian").upload_cancellations

        world.command().cancel_upload(second)
        world.command().cancel_upload(first)
        eventually(lambda: seen() == (first, second), "both wishes are seen")
        assert world.command().snapshot().image("debian").upload_cancellations == (first, second)
        later = replace(first, by="bob", time=NOON + timedelta(minutes=2))
        world.command().cancel_upload(later)
        eventually(lambda: seen() == (second, later), "a later wish takes the place of an earlier")
        uploader.withdraw_upload_cancellation("debian", two.name)
        uploader.withdraw_upload_cancellation("debian", two.name)
        eventually(lambda: seen() == (later,), "one wish is gone")
        uploader.withdraw_upload_cancellation("debian", one.name)
        uploader.withdraw_upload_cancellation("fedora", one.name)
        eventually(lambda: seen() == (), "all wishes are gone")
        assert set(uploader.snapshot().images) == {"debian"}
        assert store.list_builds("debian") == (build,)

    def test_no_cancellation_is_lost_between_people_who_wish_at_once(
        self, world: World, build: Build
    ) -> None:
        people = [world.command() for _ in range(4)]
        uploads = [an_upload(build, f"cloud-{number}", id="0000000001") for number in range(4)]

        def wish(store: Store, upload: Upload) -> None:
            for number in range(3):
                store.cancel_upload(an_upload_cancellation(replace(upload, id=f"000000000{number}")))

        at_once(wish, people, uploads)
        wished = world.command().snapshot().image("debian").upload_cancellations
        assert len(wished) == len({wish.upload for wish in wished}) == 12

    def test_cancellations_are_kept_as_far_as_they_fit_the_latest_first(
        self, world: World, build: Build
    ) -> None:
        store = world.command()
        text = "\U0001f600" * 9000
        wishes = [
            an_upload_cancellation(
                an_upload(build, id=f"{number:010d}"), by=text, why=text, time=NOON + timedelta(hours=number)
            )
            for number in range(45)
        ]
        for wish in wishes:
            store.cancel_upload(wish)
        kept = store.snapshot().image("debian").upload_cancellations
        assert 20 < len(kept) < 45
        assert [wish.upload for wish in kept] == [wish.upload for wish in wishes[-len(kept) :]]
        assert {(len(wish.by), len(wish.why)) for wish in kept} == {(200, 1000)}

    def test_the_latest_wish_for_a_provider_stands_on_the_record(
        self, world: World, store: Store, build: Build
    ) -> None:
        away, other = a_wish(), a_wish("cloud-two", wanted=True)
        store.wish_upload("debian", build.id, away)
        store.wish_upload("debian", build.id, other)
        assert store.get_build("debian", build.id).wishes == (away, other)
        back = a_wish(wanted=True, by="bob", time=NOON + timedelta(hours=1))
        written = world.command().wish_upload("debian", build.id, back)
        assert set(written.wishes) == {back, other}
        assert written == store.get_build("debian", build.id)
        assert written.wish("cloud-one") == back
        assert written.wish("cloud-three") is None

    def test_a_wish_takes_nothing_away_from_who_writes_the_record_meanwhile(
        self, world: World, build: Build
    ) -> None:
        people = [world.command() for _ in range(4)]

        def wish(store: Store, provider: str) -> None:
            store.wish_upload("debian", build.id, a_wish(provider))

        names = ["cloud-1", "cloud-2", "cloud-3", "cloud-4"]
        at_once(wish, people, names)
        assert {w.provider for w in people[0].get_build("debian", build.id).wishes} == set(names)

    def test_a_build_that_is_gone_takes_no_wish(self, store: Store, build: Build) -> None:
        store.delete_build(build)
        with pytest.raises(NotFoundError):
            store.wish_upload("debian", build.id, a_wish())
        assert store.list_builds("debian") == ()

    def test_a_build_is_withheld_until_that_is_taken_back(
        self, world: World, store: Store, build: Build
    ) -> None:
        everywhere, there = a_withholding(), a_withholding("cloud-one")
        store.withhold("debian", build.id, everywhere)
        written = world.command().withhold("debian", build.id, there)
        assert written.withheld == (everywhere, there)
        assert (written.quarantine, written.withheld_from("cloud-one")) == (everywhere, everywhere)
        again = a_withholding(by="bob", time=NOON + timedelta(hours=1))
        assert set(store.withhold("debian", build.id, again).withheld) == {again, there}
        now = store.get_build("debian", build.id)
        eventually(lambda: store.snapshot().image("debian").builds == (now,), "it is seen")
        assert store.release("debian", build.id, "cloud-one").withheld == (again,)
        assert store.release("debian", build.id, "cloud-two").withheld == (again,)
        store.withhold("debian", build.id, there)
        assert store.release("debian", build.id, None).withheld == ()
        assert store.release("debian", build.id, None) == store.get_build("debian", build.id)

    def test_a_hold_ends_with_the_word_of_who_let_it_go(
        self, world: World, store: Store, build: Build
    ) -> None:
        assert store.let_go("debian", build.id, a_release()) == store.get_build("debian", build.id)
        hold, there = a_withholding(held=True), a_withholding("cloud-one")
        store.withhold("debian", build.id, hold)
        store.withhold("debian", build.id, there)
        assert store.get_build("debian", build.id).hold == hold
        freed = world.command().let_go("debian", build.id, a_release())
        assert (freed.withheld, freed.release) == ((there,), a_release())
        assert store.let_go("debian", build.id, a_release(by="bob")) == freed
        # Whatever people say at once, a quarantine is no hold.
        store.withhold("debian", build.id, a_withholding())
        rejected = store.let_go("debian", build.id, a_release(by="bob"))
        assert (rejected.quarantine, rejected.release) == (a_withholding(), a_release())

    def test_of_those_who_withhold_a_build_at_once_none_is_lost(self, world: World, build: Build) -> None:
        people = [world.command() for _ in range(4)]

        def withhold(store: Store, provider: str) -> None:
            store.withhold("debian", build.id, a_withholding(provider))

        names = ["cloud-1", "cloud-2", "cloud-3", "cloud-4"]
        at_once(withhold, people, names)
        withheld = people[0].get_build("debian", build.id).withheld
        assert {word.provider for word in withheld} == set(names)

    def test_a_build_that_is_gone_is_not_withheld(self, store: Store, build: Build) -> None:
        store.delete_build(build)
        for attempt in (
            lambda: store.withhold("debian", build.id, a_withholding()),
            lambda: store.release("debian", build.id, None),
            lambda: store.let_go("debian", build.id, a_release()),
        ):
            with pytest.raises(NotFoundError):
                attempt()
        assert store.list_builds("debian") == ()

    def test_a_build_may_serve_in_a_provider_or_everywhere(
        self, world: World, store: Store, build: Build
    ) -> None:
        everywhere, there = a_clearance(by="imagepool"), a_clearance("cloud-one")
        store.clear("debian", build.id, everywhere)
        written = world.command().clear("debian", build.id, there)
        assert written.cleared == (everywhere, there)
        assert (written.clearance("cloud-one"), written.clearance("cloud-two")) == (there, everywhere)
        again = a_clearance(by="bob")
        assert set(store.clear("debian", build.id, again).cleared) == {again, there}
        now = store.get_build("debian", build.id)
        eventually(lambda: store.snapshot().image("debian").builds == (now,), "it is seen")
        store.delete_build(now)
        with pytest.raises(NotFoundError):
            store.clear("debian", build.id, everywhere)
        assert store.list_builds("debian") == ()

    def test_an_image_is_paused_and_unpaused(self, world: World) -> None:
        store = world.command()
        store.unpause("debian")
        store.pause("debian", a_pause())
        store.pause("debian", a_pause())
        assert store.snapshot().image("debian").paused
        store.unpause("debian")
        store.unpause("debian")
        assert not store.snapshot().image("debian").paused


class TestHistory:
    def test_who_serves_is_written_down(self, world: World, store: Store) -> None:
        assert dict(store.history("debian")) == {}
        first, second, elsewhere = a_turn(), a_turn(2, hours=1, why="It is newer."), a_turn(3)
        store.begin_turn("debian", "cloud-one", first)
        store.begin_turn("debian", "cloud-two", elsewhere)
        store.begin_turn("debian", "cloud-one", second)
        over = replace(first, until=second.since, ended_why="It is newer.")
        expected = {"cloud-one": (second, over), "cloud-two": (elsewhere,)}
        for reader in (store, world.command()):
            assert dict(reader.history("debian")) == expected
        assert dict(store.history("fedora")) == {}

    def test_who_begins_a_turn_and_dies_may_begin_it_again(self, store: Store) -> None:
        first, second = a_turn(), a_turn(2, hours=1)
        for turn in (first, second, replace(second, since=NOON + timedelta(hours=2), why="again")):
            store.begin_turn("debian", "cloud-one", turn)
        assert [turn.since for turn in store.history("debian")["cloud-one"]] == [second.since, first.since]
        # One whose turn is over may have another one.
        store.begin_turn("debian", "cloud-one", replace(first, since=NOON + timedelta(hours=3)))
        assert [turn.build_id for turn in store.history("debian")["cloud-one"]] == [
            first.build_id,
            second.build_id,
            first.build_id,
        ]

    def test_a_turn_ends_once_when_nothing_takes_over(self, store: Store) -> None:
        turn, later = a_turn(), NOON + timedelta(hours=1)
        store.end_turn("debian", "cloud-one", turn.upload, later, "it was deleted")
        assert dict(store.history("debian")) == {}
        store.begin_turn("debian", "cloud-one", turn)
        store.end_turn("debian", "cloud-one", a_turn(2).upload, later, "another one")
        for why in ("it was deleted", "and again"):
            store.end_turn("debian", "cloud-one", turn.upload, later, why)
        assert store.history("debian")["cloud-one"] == (
            replace(turn, until=later, ended_why="it was deleted"),
        )

    def test_clocks_that_differ_let_no_turn_end_before_it_began(self, store: Store) -> None:
        store.begin_turn("debian", "cloud-one", a_turn(hours=2))
        store.begin_turn("debian", "cloud-one", a_turn(2))
        assert store.history("debian")["cloud-one"][1].until == NOON + timedelta(hours=2)

    def test_the_last_hundred_are_kept_and_of_those_that_say_too_much_fewer(self, store: Store) -> None:
        for number in range(103):
            store.begin_turn("debian", "cloud-one", a_turn(number, hours=number))
        turns = store.history("debian")["cloud-one"]
        assert [turn.build_id for turn in turns] == [f"{number:032x}" for number in range(102, 2, -1)]
        long = "\U0001f600" * 9000
        for number in range(103, 123):
            store.begin_turn("debian", "cloud-one", a_turn(number, hours=number, by=long, why=long))
        turns = store.history("debian")["cloud-one"]
        assert 10 < len(turns) < 50
        assert turns[0].build_id == f"{122:032x}"

    def test_it_is_forgotten_with_the_image(self, store: Store) -> None:
        for provider in ("cloud-one", "cloud-two"):
            store.begin_turn("debian", provider, a_turn())
        store.begin_turn("fedora", "cloud-one", a_turn())
        store.forget_history("debian")
        store.forget_history("debian")
        assert (dict(store.history("debian")), set(store.history("fedora"))) == ({}, {"cloud-one"})
        store.begin_turn("debian", "cloud-one", a_turn(2))
        assert [turn.build_id for turn in store.history("debian")["cloud-one"]] == [a_turn(2).build_id]

    def test_of_those_who_write_at_once_none_is_lost(self, world: World) -> None:
        people = [world.command() for _ in range(4)]

        def begin(store: Store, number: int) -> None:
            store.begin_turn("debian", "cloud-one", a_turn(number))

        at_once(begin, people, [1, 2, 3, 4])
        turns = people[0].history("debian")["cloud-one"]
        assert {turn.build_id for turn in turns} == {f"{number:032x}" for number in (1, 2, 3, 4)}
        assert [turn.until is None for turn in turns] == [True, False, False, False]


class TestNames:
    @pytest.mark.parametrize("name", BAD_NAMES)
    def test_a_bad_name_never_becomes_a_node(self, store: Store, build: Build, name: str) -> None:
        eventually(lambda: store.snapshot().image("debian").builds == (build,), "the build is seen")
        before = store.snapshot()
        attempts = [
            lambda: store.pause(name, a_pause()),
            lambda: store.request_build(a_request(name)),
            lambda: store.cancel_build(a_cancellation(a_build(name))),
            lambda: store.withdraw_cancellation(name),
            lambda: store.claim_image(name),
            lambda: store.list_builds(name),
            lambda: store.create_build(a_build(name)),
            lambda: store.create_build(a_build(id=name)),
            lambda: store.create_upload(an_upload(build, name)),
            lambda: store.claim_uploads("debian", build.id, name),
            lambda: store.get_upload("debian", build.id, "cloud-one", name),
            lambda: store.register(a_daemon(name)),
            lambda: store.claim_lead(name),
            lambda: store.pause_provider(name, a_pause()),
            lambda: store.unpause_provider(name),
            lambda: store.forget_builder(name, a_pause()),
            lambda: store.recall_builder(name),
            lambda: store.claim_share(name, 1),
            lambda: store.cancel_upload(an_upload_cancellation(an_upload(build, id=name))),
            lambda: store.cancel_upload(an_upload_cancellation(an_upload(build, name, id="0000000001"))),
            lambda: store.cancel_upload(
                an_upload_cancellation(an_upload(a_build(name), id="0000000001"), image=name)
            ),
            lambda: store.withdraw_upload_cancellation("debian", name),
            lambda: store.wish_upload("debian", build.id, a_wish(name)),
            lambda: store.withhold("debian", build.id, a_withholding(name)),
            lambda: store.withhold(name, build.id, a_withholding()),
            lambda: store.clear("debian", build.id, a_clearance(name)),
            lambda: store.clear(name, build.id, a_clearance()),
            lambda: store.history(name),
            lambda: store.begin_turn(name, "cloud-one", a_turn()),
            lambda: store.begin_turn("debian", name, a_turn()),
            lambda: store.end_turn("debian", name, a_turn().upload, NOON, ""),
            lambda: store.forget_history(name),
            lambda: store.forget_build_gone(name),
            lambda: store.sightings(name),
            lambda: store.put_sighting(a_sighting(name)),
            lambda: store.put_sighting(a_sighting(provider=name)),
            lambda: store.delete_sighting("cloud-one", name),
            lambda: store.restore_installation(name),
            lambda: store.restore_build(a_build(name)),
            lambda: store.restore_upload(an_upload(build, id=name)),
        ]
        for attempt in attempts:
            with pytest.raises(ValueError):
                attempt()
        assert store.snapshot() == before


class TestBuildsGone:
    def test_a_build_that_was_deleted_is_known_to_be_gone(self, world: World, store: Store) -> None:
        there, gone = store.create_build(a_build()), store.create_build(a_build())
        assert store.builds_gone() == {}
        before = datetime.now(UTC)
        store.delete_build(gone)
        store.delete_build(gone)
        for reader in (world.daemon(), world.command()):
            assert set(reader.builds_gone()) == {gone.id}
            # Another clock may say when, ours and it in milliseconds.
            assert abs(reader.builds_gone()[gone.id] - before) < timedelta(minutes=1)
        store.forget_build_gone(gone.id)
        store.forget_build_gone(gone.id)
        assert store.builds_gone() == {}
        assert store.list_builds("debian") == (there,)

    def test_what_stays_is_not_gone_and_what_never_was_neither(self, store: Store, build: Build) -> None:
        store.create_upload(an_upload(build))
        with pytest.raises(RefusedError):
            store.delete_build(build)
        store.delete_build(a_build())
        assert store.builds_gone() == {}

    def test_an_id_that_is_not_its_own_alone_is_not_remembered(self, store: Store) -> None:
        store.delete_build(store.create_build(a_build(id="0000000001")))
        assert store.builds_gone() == {}

    def test_a_build_that_is_back_is_not_gone(self, store: Store, build: Build) -> None:
        for bring_back in (store.create_build, store.restore_build):
            store.delete_build(store.get_build("debian", build.id))
            assert set(store.builds_gone()) == {build.id}
            bring_back(build)
            assert store.builds_gone() == {}
        store.delete_build(build)
        assert set(store.builds_gone()) == {build.id}


class TestSightings:
    def test_a_sighting_is_kept_until_taken_back(self, world: World, store: Store) -> None:
        assert store.sightings("cloud-one") == ()
        ids = ["7f3c2ab4-60a5-4f2a-9f1c-4f1d36b4a0a1", "e5f5"]
        one, two = (a_sighting(external_id) for external_id in ids)
        other = a_sighting(provider="cloud-two")
        for sighting in (two, one, other):
            store.put_sighting(sighting)
        assert world.command().sightings("cloud-one") == (one, two)
        again = replace(one, last=NOON + timedelta(hours=2))
        store.put_sighting(again)
        assert store.sightings("cloud-one") == (again, two)
        store.delete_sighting("cloud-one", one.external_id)
        store.delete_sighting("cloud-one", one.external_id)
        assert store.sightings("cloud-one") == (two,)
        assert store.sightings("cloud-two") == (other,)


class TestRestoring:
    def test_an_empty_tree_becomes_that_of_an_installation_there_was(self, world: World) -> None:
        before = "0123456789abcdef" * 2
        store = world.command()
        store.pause("debian", a_pause())
        store.restore_installation(before)
        assert {world.command().installation_id(), store.installation_id()} == {before}

    def test_a_tree_with_builds_stays_whose_it_is(self, store: Store) -> None:
        build = store.restore_build(a_build())
        mine = store.installation_id()
        with pytest.raises(RefusedError):
            store.restore_installation("0123456789abcdef" * 2)
        store.restore_installation(mine)
        assert store.installation_id() == mine
        store.delete_build(build)
        store.restore_installation("0123456789abcdef" * 2)
        assert store.installation_id() == "0123456789abcdef" * 2

    def test_records_come_back_as_they_were(self, world: World, store: Store) -> None:
        build = store.restore_build(a_full_build())
        upload = store.restore_upload(replace(a_full_upload(build), id="0000000007"))
        assert upload.id == "0000000007"
        assert store.get_build("debian", build.id) == build
        assert world.command().snapshot().image("debian").uploads == (upload,)
        eventually(lambda: store.snapshot().image("debian").uploads == (upload,), "the upload is seen")
        assert store.update_upload(replace(upload, phase="verify")).phase == "verify"
        assert store.update_build(replace(build, phase="hash")).phase == "hash"

    def test_later_uploads_get_higher_ids(self, store: Store, build: Build) -> None:
        for number in ("0000000750", "0000000003", "0000000751"):
            store.restore_upload(an_upload(build, id=number))
        made = [store.create_upload(an_upload(build)) for _ in range(2)]
        assert [int(upload.id) > 751 for upload in made] == [True, True]
        restored = store.restore_upload(an_upload(build, id="0000000760"))
        assert int(store.create_upload(an_upload(build)).id) > int(restored.id)
        assert store.create_upload(an_upload(build, "cloud-two")).id == "0000000001"
        assert len(store.list_uploads("debian", build.id, "cloud-one")) == 7

    @pytest.mark.parametrize("gap", range(4))
    def test_the_next_upload_gets_past_one_that_came_back_just_before(
        self, store: Store, build: Build, gap: int
    ) -> None:
        made = store.create_upload(an_upload(build))
        restored = store.restore_upload(an_upload(build, id=f"{int(made.id) + 1 + gap:010d}"))
        assert int(store.create_upload(an_upload(build)).id) > int(restored.id)

    def test_nothing_there_is_written_over(self, store: Store, build: Build) -> None:
        upload = store.create_upload(an_upload(build))
        with pytest.raises(ConflictError):
            store.restore_build(replace(build, phase="hash"))
        with pytest.raises(ConflictError):
            store.restore_upload(replace(upload, phase="verify"))
        assert store.get_build("debian", build.id) == build
        assert store.list_uploads("debian", build.id, "cloud-one") == (upload,)

    def test_an_upload_needs_its_build_and_an_id_that_can_be_counted_to(
        self, store: Store, build: Build
    ) -> None:
        with pytest.raises(NotFoundError):
            store.restore_upload(an_upload(a_build(), id="0000000001"))
        with pytest.raises(RefusedError):
            store.restore_upload(an_upload(build, id="0000100001"))
        assert store.list_uploads("debian", build.id, "cloud-one") == ()
        assert store.list_builds("debian") == (build,)


class TestSnapshot:
    def test_an_empty_store_has_empty_records_of_everything(self, store: Store) -> None:
        assert dict(store.snapshot().images) == {}
        assert store.snapshot().image("debian").builds == ()

    def test_it_shows_all_there_is(self, world: World, store: Store) -> None:
        old = store.create_build(a_build(minutes=0))
        new = store.create_build(a_build(minutes=1))
        first = store.create_upload(an_upload(old))
        second = store.create_upload(an_upload(new, started=NOON + timedelta(hours=1)))
        third = store.create_upload(an_upload(new, "cloud-two", started=NOON + timedelta(hours=2)))
        wish = store.request_build(a_request())
        store.pause("fedora", a_pause())
        assert store.claim_image("debian")
        assert store.claim_uploads("debian", new.id, "cloud-two")

        for reader in (world.daemon(), world.command()):
            seen = reader.snapshot()
            assert set(seen.images) == {"debian", "fedora"}
            assert seen.image("fedora").paused
            debian = seen.image("debian")
            assert not debian.paused
            assert debian.builds == (new, old)
            assert debian.uploads == (third, second, first)
            assert debian.request == wish
            assert debian.build_claimed
            assert debian.uploads_claimed == {(new.id, "cloud-two")}
            assert [b.version for b in debian.builds] == [0, 0]

    def test_it_never_changes_once_taken(self, store: Store, build: Build) -> None:
        eventually(lambda: store.snapshot().image("debian").builds == (build,), "the build is seen")
        taken = store.snapshot()
        store.delete_build(build)
        eventually(lambda: store.snapshot().image("debian").builds == (), "the build is seen to be gone")
        assert taken.image("debian").builds == (build,)

    def test_changes_of_others_arrive(self, world: World) -> None:
        here, there = world.daemon(), world.daemon()
        build = there.create_build(a_build())
        upload = there.create_upload(an_upload(build))
        claim = there.claim_uploads("debian", build.id, "cloud-one")
        assert claim is not None

        eventually(lambda: here.snapshot().image("debian").uploads == (upload,), "the upload is seen")
        eventually(lambda: bool(here.snapshot().image("debian").uploads_claimed), "the claim is seen")
        ready = there.update_upload(upload.become(UploadState.READY, NOON))
        claim.release()
        eventually(lambda: here.snapshot().image("debian").uploads == (ready,), "the change is seen")
        eventually(lambda: not here.snapshot().image("debian").uploads_claimed, "the release is seen")
        there.delete_upload(ready)
        there.delete_build(build)
        eventually(lambda: here.snapshot().image("debian").builds == (), "the end is seen")

    def test_it_goes_on_after_a_lost_session(self, world: World) -> None:
        here, there = world.daemon(), world.daemon()
        gone = there.create_build(a_build())
        eventually(lambda: here.snapshot().image("debian").builds == (gone,), "the build is seen")
        world.expire(here)
        there.delete_build(gone)
        build = there.create_build(a_build(minutes=1))
        eventually(lambda: here.snapshot().image("debian").builds == (build,), "the other build is seen")


class TestWaiting:
    def test_it_lasts_no_longer_than_asked(self, store: Store) -> None:
        seen = store.wait(-1, 0)
        while (now := store.wait(seen, 0.2)) != seen:
            seen = now
        assert store.wait(seen, 0.01) == seen

    def test_a_change_by_another_daemon_ends_it(self, world: World, store: Store) -> None:
        other = world.daemon()
        seen = store.wait(-1, 0)
        other.pause("debian", a_pause())
        eventually(lambda: store.snapshot().image("debian").paused, "the pause is seen")
        assert store.wait(seen, 5) != seen

    def test_waking_ends_it(self, store: Store) -> None:
        seen = store.wait(-1, 0)
        timer = threading.Timer(0.05, store.wake)
        timer.start()
        assert store.wait(seen, 10) != seen
        timer.join()

    def test_closing_ends_it(self, store: Store) -> None:
        seen = store.wait(-1, 0)
        store.close()
        assert store.wait(seen, 10) != seen


class TestLife:
    def test_a_tree_has_one_installation(self, world: World) -> None:
        ids = {world.daemon().installation_id(), world.command().installation_id()}
        assert len(ids) == 1
        assert len(ids.pop()) == 32

    def test_a_closed_store_refuses_everything(self, store: Store, build: Build) -> None:
        assert store.connected
        store.close()
        store.close()
        assert not store.connected
        for attempt in (
            lambda: store.get_build("debian", build.id),
            lambda: store.claim_image("debian"),
            lambda: store.update_build(build),
            lambda: store.pause("debian", a_pause()),
            store.installation_id,
        ):
            with pytest.raises(StoreUnavailableError):
                attempt()
