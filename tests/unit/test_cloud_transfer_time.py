"""The time an upload takes: pauses, deadlines, stalls, and stops that are obeyed though the cloud hangs."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from builder.cloud import transfer
from builder.cloud.base import Body
from builder.cloud.transfer import run
from builder.cloud.transfer.body import StoppedError
from builder.cloudimage import GlanceStatus
from builder.errors import CloudUnavailableError
from builder.model import Failure, FailureClass, UploadPhase
from tests.fakes.cloud import FakeCloud
from tests.unit.cloud_world import Attempt, Time, content, failed, wait_for

CONTENT = content(200_000)
UNAVAILABLE = CloudUnavailableError("the cloud sleeps", failure_class=FailureClass.CLOUD)


class NotingCloud(FakeCloud):
    """Notes how a PUT ends."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = threading.Event()
        self.broke_off = False

    def send(self, image_id: str, body: Body, *, timeout: float) -> None:
        try:
            super().send(image_id, body, timeout=timeout)
        except StoppedError:
            self.broke_off = True
            raise
        finally:
            self.ended.set()


@pytest.fixture
def cloud() -> FakeCloud:
    return FakeCloud()


@pytest.fixture
def upload(cloud: FakeCloud, tmp_path: Path) -> Attempt:
    return Attempt(cloud, tmp_path / "noble.qcow2", CONTENT)


# -- time --------------------------------------------------------------------------------------


def test_waiting_backs_off_and_ends_with_the_deadline(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.after_send = {"status": GlanceStatus.SAVING}
    clock = Time()
    upload.timeout = 100.0

    failure = failed(upload, **clock.knobs)

    assert (failure.failure_class, failure.phase) == (FailureClass.TIMEOUT, "wait")
    assert "not done after 100 s; 200000 of 200000 bytes were sent" in failure.message
    assert clock.now == pytest.approx(1100.0, abs=1.0)
    assert 10 < cloud.count("get") < 20
    assert cloud.images == {}


def test_an_image_that_turns_active_late_is_ready(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.after_send = {"status": GlanceStatus.SAVING}
    clock = Time()
    clock.after(1040.0, lambda: cloud.change(next(iter(cloud.images)), status=GlanceStatus.ACTIVE))

    assert upload.run(**clock.knobs).status is GlanceStatus.ACTIVE


def test_an_image_that_is_saved_for_ever_fails_long_before_a_long_deadline(
    cloud: FakeCloud, upload: Attempt
) -> None:
    cloud.after_send = {"status": GlanceStatus.SAVING}
    clock = Time()
    upload.timeout = 100_000.0

    failure = failed(upload, **clock.knobs)

    assert failure.failure_class is FailureClass.TIMEOUT
    assert "the cloud says the image is saving, and has said nothing else for 600 s" in failure.message
    assert cloud.images == {}


def test_a_replica_that_lags_is_given_a_moment(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.after_send = {"status": GlanceStatus.QUEUED}
    clock = Time()
    clock.then.append(lambda _: cloud.change(next(iter(cloud.images)), status=GlanceStatus.ACTIVE))

    assert upload.run(**clock.knobs).status is GlanceStatus.ACTIVE


def test_an_image_that_stays_queued_was_not_stored(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.after_send = {"status": GlanceStatus.QUEUED, "size": None}
    clock = Time()

    failure = failed(upload, **clock.knobs)

    assert "took the bytes, but stored nothing" in failure.message
    assert clock.now < 1030.0
    assert cloud.images == {}


@pytest.mark.parametrize(
    "status",
    [
        GlanceStatus.KILLED,
        GlanceStatus.DELETED,
        GlanceStatus.PENDING_DELETE,
        GlanceStatus.DEACTIVATED,
        GlanceStatus.OTHER,
    ],
)
def test_what_can_not_become_active_any_more_fails_at_once(
    cloud: FakeCloud, upload: Attempt, status: GlanceStatus
) -> None:
    cloud.after_send = {"status": status}

    failure = failed(upload)

    assert (failure.failure_class, failure.phase) == (FailureClass.CLOUD, "wait")
    assert f"the image is {status}, not active" in failure.message
    assert cloud.images == {}


def test_an_image_that_somebody_deletes_meanwhile_fails(cloud: FakeCloud, upload: Attempt) -> None:
    cloud.after_send = None

    assert "the image is gone" in failed(upload).message


def test_a_cloud_that_stays_away_while_we_wait_fails_by_the_stall_timeout(
    cloud: FakeCloud, upload: Attempt
) -> None:
    cloud.fail("get", UNAVAILABLE, times=None)
    clock = Time()
    upload.stall_timeout, upload.timeout = 20.0, 1000.0

    failure = failed(upload, **clock.knobs)

    assert (failure.failure_class, failure.message) == (FailureClass.CLOUD, "the cloud sleeps")
    assert 1020.0 <= clock.now < 1050.0
    assert cloud.images == {}


def test_a_put_that_moves_no_byte_is_cut(cloud: FakeCloud, upload: Attempt) -> None:
    gate = cloud.hold("send")
    upload.stall_timeout = 0.3

    failure = failed(upload)

    gate.set()
    assert (failure.failure_class, failure.phase) == (FailureClass.TIMEOUT, "send")
    assert "it stalled" in failure.message
    assert "0 of 200000 bytes were sent" in failure.message
    assert cloud.images == {}


def test_a_put_that_waits_for_its_share_of_the_bandwidth_does_not_stall(
    cloud: FakeCloud, tmp_path: Path
) -> None:
    upload = Attempt(cloud, tmp_path / "noble.qcow2", content(14_000), stall_timeout=0.3)
    upload.limiter = transfer.Limiter(8_000)

    # A block takes half a second of it.
    assert upload.run().status is GlanceStatus.ACTIVE


def test_a_put_that_moves_bytes_for_ever_ends_with_the_deadline(cloud: FakeCloud, upload: Attempt) -> None:
    upload.limiter = transfer.Limiter(20_000)
    upload.timeout = 0.5

    failure = failed(upload)

    assert (failure.failure_class, failure.phase) == (FailureClass.TIMEOUT, "send")
    assert "not done after 0 s" in failure.message
    assert "of 200000 bytes were sent" in failure.message
    assert cloud.images == {}


# -- stops -------------------------------------------------------------------------------------


def test_a_stop_before_the_start_sends_nothing(cloud: FakeCloud, upload: Attempt) -> None:
    upload.cancelled.set()

    failure = failed(upload)

    assert (failure.failure_class, failure.message) == (FailureClass.CANCELLED, "cancelled by ada")
    assert failure.phase == "preflight"
    assert cloud.calls == []


@pytest.mark.parametrize("hanging", ["quotas", "create", "send", "get"])
def test_a_stop_is_obeyed_soon_though_the_cloud_hangs(
    cloud: FakeCloud, upload: Attempt, hanging: str
) -> None:
    gate = cloud.hold(hanging)
    threading.Timer(0.2, upload.cancelled.set).start()

    begun = time.monotonic()
    failure = failed(upload)
    seconds = time.monotonic() - begun

    gate.set()
    assert failure.failure_class is FailureClass.CANCELLED
    assert seconds < 3.0
    wait_for(lambda: not cloud.images)


def test_a_put_that_goes_on_after_the_stop_gets_no_more_bytes(tmp_path: Path) -> None:
    cloud = NotingCloud()
    upload = Attempt(cloud, tmp_path / "noble.qcow2", CONTENT, limiter=transfer.Limiter(20_000))

    failed(upload, on_progress=lambda _: upload.cancelled.set())

    assert cloud.ended.wait(5.0)
    assert cloud.broke_off
    assert cloud.images == {}


def test_what_a_hanging_create_makes_after_the_stop_is_deleted(cloud: FakeCloud, upload: Attempt) -> None:
    gate = cloud.hold("create")
    threading.Timer(0.1, upload.cancelled.set).start()

    with pytest.raises(transfer.TransferError, match="whether an image stays behind can't be said") as caught:
        upload.run()
    assert caught.value.image_left
    gate.set()

    wait_for(lambda: cloud.count("delete") == 1)
    assert cloud.images == {}


def test_a_stop_does_not_wait_for_a_delete_that_hangs(
    cloud: FakeCloud, upload: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "TIDY_LIMIT_STOPPED", 0.2)
    gates = [cloud.hold("send"), cloud.hold("delete")]

    begun = time.monotonic()
    with pytest.raises(transfer.TransferError, match="stays behind, it could not be deleted") as caught:
        upload.run(on_phase=lambda p: upload.cancelled.set() if p is UploadPhase.SEND else None)
    assert time.monotonic() - begun < 5.0

    for gate in gates:
        gate.set()
    assert caught.value.image_left
    assert caught.value.cause.failure_class is FailureClass.CANCELLED


def test_the_reason_of_a_stop_is_the_upload_s(cloud: FakeCloud, upload: Attempt) -> None:
    """Not every stop is a cancellation: a daemon that ends interrupts its uploads."""
    reason = Failure(failure_class=FailureClass.INTERRUPTED, message="the daemon stops")
    upload.stop = lambda: reason if upload.created else None  # type: ignore[method-assign]

    failure = failed(upload)

    assert failure.failure_class is FailureClass.INTERRUPTED
    assert failure.phase in ("create", "send")
    assert cloud.images == {}
