"""The last word on a build or an upload survives lost sessions, and never overrules whoever took over."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta

import pytest

from builder.errors import CloudUnavailableError
from builder.model import (
    Build,
    BuildState,
    Failure,
    FailureClass,
    Upload,
    UploadState,
    UploadWish,
    Withholding,
)
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


def test_a_quarantine_that_came_meanwhile_stays(store: FakeStore) -> None:
    record, claim = running(store)
    word = Withholding(provider=None, by="ann", time=NOW)
    store.withhold("img", record.id, word)
    assert settle(store, record.become(BuildState.READY, NOW), claim) is Ending.WRITTEN
    assert store.get_build("img", record.id).quarantine == word


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


def test_while_another_holds_the_image_it_is_left_for_later(store: FakeStore) -> None:
    record, claim = running(store)
    store.lose_session()
    theirs = store.another_daemon().claim_image("img")
    assert theirs is not None
    final = record.become(BuildState.READY, NOW)
    assert settle(store, final, claim) is Ending.TAKEN
    theirs.release()
    assert settle(store, final, claim) is Ending.WRITTEN


def test_an_upload_waits_while_another_holds_the_claim_and_yields_if_that_one_took_it(
    store: FakeStore,
) -> None:
    built = store.create_build(build(1))
    record = store.create_upload(upload(built, UploadState.UPLOADING))
    claim = store.claim_uploads("img", built.id, "one")
    assert claim is not None
    store.lose_session()
    other = store.another_daemon()
    theirs = other.claim_uploads("img", built.id, "one")
    assert theirs is not None
    result: list[Ending] = []
    settler = Settler(store, threading.Event())
    final = record.become(UploadState.READY, NOW)
    thread = threading.Thread(target=lambda: result.append(settler.finish_upload(final, claim)))
    thread.start()
    other.update_upload(record.become(UploadState.FAILED, NOW))
    thread.join(20)
    theirs.release()
    assert not thread.is_alive()
    assert result == [Ending.OVERRULED]


# -- builds that were taken for lost ----------------------------------------------------------------

LOST = Failure(failure_class=FailureClass.INTERRUPTED, message="the builder went away")


def taken_for_lost(store: FakeStore, reason: Failure = LOST) -> tuple[Build, Claim]:
    """A build that is done, and whose record somebody failed while its session was lost."""
    record, claim = running(store)
    store.lose_session()
    other = store.another_daemon()
    other.update_build(record.become(BuildState.FAILED, NOW, reason=reason, next_try=NOW))
    return record.become(BuildState.READY, NOW, formats=("raw",)), claim


def test_what_was_only_taken_for_lost_is_taken_back(store: FakeStore) -> None:
    final, claim = taken_for_lost(store)
    wish = UploadWish(provider="one", wanted=False, by="ann", time=NOW)
    store.another_daemon().wish_upload("img", final.id, wish)
    assert settle(store, final, claim) is Ending.WRITTEN
    known = store.get_build("img", final.id)
    assert known == replace(final, wishes=(wish,))


@pytest.mark.parametrize("clock", [timedelta(minutes=5), timedelta(minutes=-5)])
def test_it_goes_when_somebody_has_made_a_newer_one(store: FakeStore, clock: timedelta) -> None:
    final, claim = taken_for_lost(store)
    began = final.began + clock  # by the clock of a machine whose clock is wrong
    store.put(build(2, started=began, state_time=final.began + timedelta(hours=1)))
    assert settle(store, final, claim) is Ending.OVERRULED
    assert store.get_build("img", final.id).interrupted


def test_an_older_one_that_is_ready_is_no_reason_against_it(store: FakeStore) -> None:
    final, claim = taken_for_lost(store)
    store.put(build(0))
    assert settle(store, final, claim) is Ending.WRITTEN


def test_what_somebody_cancelled_meanwhile_stays_cancelled(store: FakeStore) -> None:
    cancelled = Failure(failure_class=FailureClass.CANCELLED, message="cancelled by ann")
    final, claim = taken_for_lost(store, cancelled)
    assert settle(store, final, claim) is Ending.OVERRULED
    assert store.get_build("img", final.id).reason == cancelled


def test_a_build_that_failed_is_not_taken_back_for_another_reason(store: FakeStore) -> None:
    final, claim = taken_for_lost(store)
    later = NOW + timedelta(minutes=1)
    failed = replace(final, state=BuildState.FAILED, state_time=later, reason=None)
    assert settle(store, failed, claim) is Ending.OVERRULED


# -- another tree -----------------------------------------------------------------------------------


def test_that_another_tree_has_no_such_record_tells_nothing(store: FakeStore) -> None:
    record, claim = running(store)
    store.delete_build(record)  # as an emptied server looks
    here, stopping = [False], threading.Event()
    settler = Settler(store, stopping, at_home=lambda _: here[0])
    result: list[Ending] = []
    final = record.become(BuildState.READY, NOW)
    thread = threading.Thread(target=lambda: result.append(settler.finish_build(final, claim)))
    thread.start()
    store.put(record)
    here[0] = True
    store.wake()
    thread.join(20)
    assert result == [Ending.WRITTEN]


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


# -- uploads whose session was lost -----------------------------------------------------------------


def lost_upload(store: FakeStore) -> tuple[Upload, Claim]:
    built = store.create_build(build(1))
    record = store.create_upload(upload(built, UploadState.UPLOADING))
    claim = store.claim_uploads("img", built.id, "one")
    assert claim is not None
    store.lose_session()
    return record.become(UploadState.READY, NOW), claim


def test_an_upload_is_looked_at_again_before_it_is_called_ready_late(store: FakeStore) -> None:
    final, claim = lost_upload(store)
    reason = Failure(failure_class=FailureClass.INTERRUPTED, message="the image was gone")
    gone = replace(final, state=UploadState.FAILED, reason=reason)
    settler = Settler(store, threading.Event())
    assert settler.finish_upload(final, claim, lambda: gone) is Ending.WRITTEN
    assert store.get_upload("img", final.build_id, "one", final.id).reason == reason


def test_as_long_as_its_cloud_can_not_be_asked_there_is_no_last_word(store: FakeStore) -> None:
    final, claim = lost_upload(store)
    asked = []

    def recheck() -> Upload:
        asked.append(1)
        if len(asked) == 1:
            store.wake()
            raise CloudUnavailableError("it hangs", failure_class=FailureClass.NETWORK)
        return final

    assert Settler(store, threading.Event()).finish_upload(final, claim, recheck) is Ending.WRITTEN
    assert len(asked) == 2


def test_with_the_claim_in_hand_the_cloud_is_not_asked_again(store: FakeStore) -> None:
    built = store.create_build(build(1))
    record = store.create_upload(upload(built, UploadState.UPLOADING))
    claim = store.claim_uploads("img", built.id, "one")
    assert claim is not None
    final = record.become(UploadState.READY, NOW)
    settler = Settler(store, threading.Event())
    assert settler.finish_upload(final, claim, lambda: pytest.fail("asked")) is Ending.WRITTEN


# -- where a ready upload stands among others ---------------------------------------------------------


def uploading(store: FakeStore, number: int) -> tuple[Upload, Claim]:
    """An upload that has just ended well; its last word, and the claim."""
    built = store.create_build(build(number))
    record = store.create_upload(upload(built, UploadState.UPLOADING))
    claim = store.claim_uploads("img", built.id, "one")
    assert claim is not None
    return record.become(UploadState.READY, NOW, ended=NOW), claim


def test_nodepool_does_not_take_it_before_it_may_serve(store: FakeStore) -> None:
    serving = upload(build(1), serving=NOW, state_time=NOW - timedelta(hours=1))
    store.put(build(1))
    store.put(serving)
    final, claim = uploading(store, 2)
    assert Settler(store, threading.Event()).finish_upload(final, claim) is Ending.WRITTEN
    known = store.get_upload("img", final.build_id, "one", final.id)
    assert known.state is UploadState.READY
    assert known.state_time < serving.state_time
    assert known.since == NOW


def test_where_nothing_else_is_ready_it_is_taken_at_once(store: FakeStore) -> None:
    final, claim = uploading(store, 2)
    assert Settler(store, threading.Event()).finish_upload(final, claim) is Ending.WRITTEN
    assert store.get_upload("img", final.build_id, "one", final.id).state_time == NOW


def test_what_was_promoted_before_we_learned_that_it_was_written_is_known_as_ours(store: FakeStore) -> None:
    """Else its image would be deleted, as one that came too late."""
    final, claim = uploading(store, 2)
    written = store.update_upload(final)
    store.update_upload(replace(written.renewed(NOW + timedelta(minutes=1)), serving=NOW))
    assert Settler(store, threading.Event()).finish_upload(final, claim) is Ending.WRITTEN


def test_nothing_else_that_has_failed_becomes_ready_again() -> None:
    ready = build(1, BuildState.READY)
    cancelled = Failure(failure_class=FailureClass.CANCELLED, message="cancelled by ann")
    for other in (
        build(1, BuildState.FAILED, reason=cancelled),
        build(1, BuildState.FAILED),
        build(1, BuildState.DELETING, reason=LOST),
    ):
        with pytest.raises(ValueError, match="can't be taken back"):
            other.adopted(ready)
    lost = build(1, BuildState.FAILED, reason=LOST)
    for wrong in (build(2), replace(ready, state=BuildState.DELETING)):
        with pytest.raises(ValueError, match="can't be taken back"):
            lost.adopted(wrong)
    with pytest.raises(ValueError, match="can't go"):
        lost.become(BuildState.READY, NOW)
