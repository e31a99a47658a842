"""The last word on a build or an upload survives lost sessions, and never overrules whoever took over."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from builder.model import Build, BuildState, Upload, UploadState, UploadWish
from builder.store.base import Claim
from builder.workers.settle import Ending, Settler
from tests.fakes.store import FakeStore
from tests.unit.worker_world import NOW, build, upload


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


def running(store: FakeStore) -> tuple[Build, Claim]:
    claim = store.claim_image("img")
    assert claim is not None
    return store.create_build(build(1, BuildState.BUILDING)), claim


def settle(store: FakeStore, final: Build, claim: Claim) -> Ending:
    return Settler(store, threading.Event()).finish_build(final, claim)


def test_with_the_claim_in_hand_it_is_written(store: FakeStore) -> None:
    record, claim = running(store)
    assert settle(store, record.become(BuildState.READY, NOW), claim) is Ending.WRITTEN
    assert store.get_build("img", record.id).state is BuildState.READY


def test_a_version_that_moved_on_by_our_own_hand_is_no_obstacle(store: FakeStore) -> None:
    record, claim = running(store)
    store.update_build(replace(record, phase="packages"))  # written, but the answer was lost on the way
    assert settle(store, record.become(BuildState.READY, NOW), claim) is Ending.WRITTEN
    assert store.get_build("img", record.id).state is BuildState.READY


def test_a_wish_for_its_uploads_that_came_meanwhile_stays(store: FakeStore) -> None:
    record, claim = running(store)
    wish = UploadWish(provider="one", wanted=False, by="ann", time=NOW)
    store.wish_upload("img", record.id, wish)
    assert settle(store, record.become(BuildState.READY, NOW), claim) is Ending.WRITTEN
    known = store.get_build("img", record.id)
    assert (known.state, known.wishes) == (BuildState.READY, (wish,))


def test_a_write_that_arrived_although_its_answer_did_not_is_known_as_ours(store: FakeStore) -> None:
    record, claim = running(store)
    final = record.become(BuildState.READY, NOW)
    store.update_build(final)
    assert settle(store, final, claim) is Ending.WRITTEN
    assert store.get_build("img", record.id).state is BuildState.READY


def test_after_a_lost_session_the_claim_is_taken_again(store: FakeStore) -> None:
    record, claim = running(store)
    store.lose_session()
    assert settle(store, record.become(BuildState.READY, NOW), claim) is Ending.WRITTEN
    assert store.get_build("img", record.id).state is BuildState.READY
    assert store.claim_image("img") is not None  # and was given back


def test_whoever_took_over_is_not_overruled(store: FakeStore) -> None:
    record, claim = running(store)
    store.lose_session()
    other = store.another_daemon()
    other.update_build(other.get_build("img", record.id).become(BuildState.FAILED, NOW))
    assert settle(store, record.become(BuildState.READY, NOW), claim) is Ending.OVERRULED
    assert store.get_build("img", record.id).state is BuildState.FAILED


def test_a_record_that_is_gone_stays_gone(store: FakeStore) -> None:
    record, claim = running(store)
    store.delete_build(record)
    assert settle(store, record.become(BuildState.READY, NOW), claim) is Ending.OVERRULED


def test_it_waits_for_a_store_that_is_away(store: FakeStore) -> None:
    record, claim = running(store)
    store.disconnect()
    result: list[Ending] = []
    thread = threading.Thread(
        target=lambda: result.append(settle(store, record.become(BuildState.READY, NOW), claim))
    )
    thread.start()
    store.lose_session()
    store.reconnect()
    thread.join(20)
    assert not thread.is_alive()
    assert store.get_build("img", record.id).state is BuildState.READY


def test_it_waits_while_another_holds_the_claim_and_yields_if_that_one_took_the_build(
    store: FakeStore,
) -> None:
    record, claim = running(store)
    store.lose_session()
    other = store.another_daemon()
    theirs = other.claim_image("img")
    assert theirs is not None
    result: list[Ending] = []
    thread = threading.Thread(
        target=lambda: result.append(settle(store, record.become(BuildState.READY, NOW), claim))
    )
    thread.start()
    other.update_build(other.get_build("img", record.id).become(BuildState.FAILED, NOW))
    thread.join(20)
    theirs.release()
    assert not thread.is_alive()
    assert result == [Ending.OVERRULED]


def test_what_was_read_before_the_session_ended_is_not_written_after_it() -> None:
    store = SlowStore()
    built = store.create_build(build(1))
    record = store.create_upload(upload(built, UploadState.UPLOADING))
    claim = store.claim_uploads("img", built.id, "one")
    assert claim is not None
    stopping = threading.Event()
    stopping.set()
    final = record.become(UploadState.READY, NOW)
    assert Settler(store, stopping, patience=0.0).finish_upload(final, claim) is Ending.UNKNOWN
    assert store.peers_claim is not None  # the peer deletes the image now; `ready` would be a lie
    assert store.another_daemon().get_upload("img", built.id, "one", record.id).state is UploadState.UPLOADING


class SlowStore(FakeStore):
    """Its first read takes so long that the session ends, and a peer finds the upload abandoned."""

    peers_claim: Claim | None = None

    def get_upload(self, image: str, build_id: str, provider: str, upload_id: str) -> Upload:
        if self.peers_claim is None:
            self.lose_session()
            self.peers_claim = self.another_daemon().claim_uploads(image, build_id, provider)
        return super().get_upload(image, build_id, provider, upload_id)


def test_a_stopping_daemon_does_not_wait_for_ever(store: FakeStore) -> None:
    record, claim = running(store)
    store.disconnect()
    stopping = threading.Event()
    stopping.set()
    settler = Settler(store, stopping, patience=0.0)
    assert settler.finish_build(record.become(BuildState.READY, NOW), claim) is Ending.UNKNOWN


def test_an_upload_is_finished_the_same_way(store: FakeStore) -> None:
    built = store.create_build(build(1))
    record = store.create_upload(upload(built, UploadState.UPLOADING))
    claim = store.claim_uploads("img", built.id, "one")
    assert claim is not None
    store.lose_session()
    ending = Settler(store, threading.Event()).finish_upload(record.become(UploadState.READY, NOW), claim)
    assert ending is Ending.WRITTEN
    assert store.get_upload("img", built.id, "one", record.id).state is UploadState.READY
