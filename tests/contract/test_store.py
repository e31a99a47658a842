"""The Store contract, kept by the fake and by a real ZooKeeper alike."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from builder.errors import ConflictError, NotFoundError, RefusedError, StoreUnavailableError
from builder.model import Build, BuildState, Failure, FailureClass, UploadState
from builder.store.base import Store
from tests.contract.records import NOON, a_build, a_cancellation, a_full_build, a_request, an_upload
from tests.contract.worlds import FakeWorld, RealWorld, World, eventually

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
        reason = Failure(
            failure_class=FailureClass.UNKNOWN, message="\U0001f600" * 9000, lines=("\U0001f600" * 9000,) * 30
        )
        build = a_build(
            reason=reason,
            changes=("\U0001f600" * 5000,) * 500,
            inputs={f"git {number}": "\U0001f600" * 40 for number in range(390)},
        )
        written = store.create_build(build)
        assert written.inputs == build.inputs
        assert store.get_build("debian", build.id) == written


class TestUploads:
    def test_an_upload_is_read_as_it_was_written(self, store: Store, build: Build) -> None:
        written = store.create_upload(
            an_upload(
                build,
                external_id="e5f5",
                external_name="debian-1",
                format="qcow2",
                region="RegionOne",
                uploader="nb01",
                uploader_id="5f",
                phase="send",
                started=NOON,
                ended=NOON + timedelta(seconds=3),
                size=10,
                sent=4,
                timings={"create": 0.5},
                extra={"theirs": 1},
            )
        )
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

    def test_an_image_is_paused_and_unpaused(self, world: World) -> None:
        store = world.command()
        store.unpause("debian")
        store.pause("debian")
        store.pause("debian")
        assert store.snapshot().image("debian").paused
        store.unpause("debian")
        store.unpause("debian")
        assert not store.snapshot().image("debian").paused


class TestNames:
    @pytest.mark.parametrize("name", BAD_NAMES)
    def test_a_bad_name_never_becomes_a_node(self, store: Store, build: Build, name: str) -> None:
        eventually(lambda: store.snapshot().image("debian").builds == (build,), "the build is seen")
        before = store.snapshot()
        attempts = [
            lambda: store.pause(name),
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
            lambda: store.register(name, ("builder",), "1"),
        ]
        for attempt in attempts:
            with pytest.raises(ValueError):
                attempt()
        assert store.snapshot() == before


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
        store.pause("fedora")
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
        other.pause("debian")
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
            lambda: store.pause("debian"),
            store.installation_id,
        ):
            with pytest.raises(StoreUnavailableError):
                attempt()
