"""Whatever a cloud does wrong, an upload ends `failed` with the reason, and never `ready`.

The real openstacksdk talks to a Keystone and Glance that fail on command. Each line of MATRIX is
one bad day; after each, nothing of ours is left in the cloud, and the bytes were sent at most once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.cloud import transfer
from builder.cloud.base import GlanceStatus
from builder.cloud.openstack import OpenStackCloud
from builder.errors import ActionFailedError
from builder.model import FailureClass, UploadPhase
from tests.fakes.glance import (
    PASSWORD,
    FakeGlance,
    Fault,
    answers,
    expires_token,
    hangs,
    loses_answer,
    resets,
    stores_nothing,
    then_changes,
    then_loses,
)
from tests.unit.cloud_world import INSTALLATION, Attempt, content, provider, record

SMALL = content(300_000)
#: More than the buffers of a loopback connection hold, so that a server which stops reading is felt.
BIG = content(24 * 1024 * 1024)

AUTH, CLOUD, NETWORK, QUOTA, TIMEOUT = (
    FailureClass.AUTH,
    FailureClass.CLOUD,
    FailureClass.NETWORK,
    FailureClass.QUOTA,
    FailureClass.TIMEOUT,
)


@pytest.fixture
def glance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGlance]:
    """A cloud that can be told what to do wrong."""
    with FakeGlance.start() as server:
        monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(server.clouds_yaml(tmp_path / "clouds.yaml")))
        yield server


def attempt(tmp_path: Path, data: bytes = SMALL, **limits: float) -> Attempt:
    """An upload to be tried with short patience."""
    limits = {"timeout": 20.0, "stall_timeout": 10.0, **limits}
    cloud = OpenStackCloud(provider(), answer_timeout=2.0)
    return Attempt(cloud, tmp_path / "noble.qcow2", data, **limits)  # type: ignore[arg-type]


MATRIX = [
    # what goes wrong, in which phase it is noticed, its class, what the reason says, PUTs made
    ("login refused", [answers(401, on="auth", times=None)], "create", AUTH, "401", 0),
    ("login forbidden", [answers(403, on="auth", times=None)], "create", AUTH, "403", 0),
    ("login fails", [answers(500, on="auth", times=None)], "create", CLOUD, "500", 0),
    ("create forbidden", [answers(403, on="create", text="not allowed")], "create", AUTH, "not allowed", 0),
    ("create over quota", [answers(413, on="create")], "create", QUOTA, "413", 0),
    ("quota, in words", [answers(403, on="create", text="Quota exceeded")], "create", QUOTA, "Quota", 0),
    ("create unavailable", [answers(503, on="create")], "create", CLOUD, "503", 0),
    ("create reset", [resets(on="create")], "create", NETWORK, "127.0.0.1", 0),
    ("create hangs", [hangs(on="create")], "create", TIMEOUT, "no answer in time", 0),
    ("create done, answer lost", [loses_answer(on="create")], "create", NETWORK, "127.0.0.1", 0),
    ("property lost early", [then_changes(on="create", imagepool_image="x")], "verify", CLOUD, "'x', not", 1),
    ("503 before the bytes", [answers(503, on="send", after=0.0)], "send", CLOUD, "503", 1),
    ("503 half-way", [answers(503, on="send", after=0.5)], "send", CLOUD, "503", 1),
    ("503 after the bytes", [answers(503, on="send", after=1.0)], "send", CLOUD, "503", 1),
    ("redirected", [answers(307, on="send", after=1.0)], "send", CLOUD, "307", 1),
    ("forbidden", [answers(403, on="send", after=1.0)], "send", AUTH, "403", 1),
    ("too large", [answers(413, on="send", text="quota of images")], "send", QUOTA, "quota of images", 1),
    ("format refused", [answers(415, on="send", text="not a qcow2")], "send", CLOUD, "not a qcow2", 1),
    ("token ends half-way", [expires_token()], "send", AUTH, "401", 1),
    ("reset at the first byte", [resets(on="send", after=0.0)], "send", NETWORK, "127.0.0.1", 1),
    ("reset half-way", [resets(on="send", after=0.5)], "send", NETWORK, "127.0.0.1", 1),
    ("reset after the last byte", [resets(on="send", after=1.0)], "send", NETWORK, "127.0.0.1", 1),
    ("stored, answer lost", [loses_answer(on="send")], "send", NETWORK, "127.0.0.1", 1),
    ("says 204, stores nothing", [stores_nothing(204)], "wait", CLOUD, "stored nothing", 1),
    ("says 201, stores nothing", [stores_nothing(201)], "wait", CLOUD, "stored nothing", 1),
    ("killed", [then_changes(status="killed")], "wait", CLOUD, "killed", 1),
    ("deactivated", [then_changes(status="deactivated")], "wait", CLOUD, "deactivated", 1),
    ("deleted", [then_changes(status="deleted")], "wait", CLOUD, "deleted", 1),
    ("pending_delete", [then_changes(status="pending_delete")], "wait", CLOUD, "pending_delete", 1),
    ("a status nobody knows", [then_changes(status="sublimated")], "wait", CLOUD, "other", 1),
    ("deleted behind our back", [then_loses()], "wait", CLOUD, "gone", 1),
    ("another size", [then_changes(size=299_999)], "verify", CLOUD, "size 299999, not 300000", 1),
    ("no size", [then_changes(size=None)], "verify", CLOUD, "size None, not 300000", 1),
    ("another hash", [then_changes(os_hash_value="abcd")], "verify", CLOUD, "sha512 abcd, not ", 1),
    ("no hash at all", [then_changes(os_hash_value=None, checksum=None)], "verify", CLOUD, "no hash", 1),
    ("only another md5", [then_changes(os_hash_value=None, checksum="ab")], "verify", CLOUD, "md5 ab, ", 1),
    ("a hash nobody knows", [then_changes(os_hash_algo="whirl")], "verify", CLOUD, "'whirl'", 1),
    ("property changed", [then_changes(imagepool_build_id="0")], "verify", CLOUD, "_build_id '0', not", 1),
    ("property lost", [then_changes(os_distro=None)], "verify", CLOUD, "os_distro None, not 'ubuntu'", 1),
    ("made public", [then_changes(visibility="public")], "verify", CLOUD, "'public', not 'private'", 1),
    ("status refused", [answers(403, on="get", times=None)], "wait", AUTH, "403", 1),
]  # fmt: skip


@pytest.mark.parametrize(
    ("faults", "phase", "failure_class", "said", "puts"),
    [pytest.param(*line[1:], id=line[0]) for line in MATRIX],
)
def test_a_bad_day_ends_in_a_reason_and_leaves_nothing(
    glance: FakeGlance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    faults: list[Fault],
    phase: str,
    failure_class: FailureClass,
    said: str,
    puts: int,
) -> None:
    monkeypatch.setattr(transfer, "QUEUED_GRACE", 0.2)
    # Faults are counted down while they happen: every test has its own.
    glance.faults = [Fault(**vars(fault)) for fault in faults]

    with pytest.raises(ActionFailedError) as caught:
        attempt(tmp_path).run()

    failure = caught.value.failure
    assert failure is not None
    assert (failure.failure_class, failure.phase) == (failure_class, phase)
    assert said in failure.message
    assert "north" in failure.message or phase in ("wait", "verify")
    assert PASSWORD not in failure.message
    assert glance.images() == []
    assert glance.count("send") == puts


def test_a_good_day_ends_ready(glance: FakeGlance, tmp_path: Path) -> None:
    upload = attempt(tmp_path, BIG)

    image = upload.run()

    assert image.status is GlanceStatus.ACTIVE
    assert upload.phases == list(UploadPhase)
    assert upload.created[0].id == image.id
    assert upload.progress[-1] == len(BIG)
    stored = glance.images("RegionOne")
    assert [(i["id"], i["size"], i["min_disk"]) for i in stored] == [(image.id, len(BIG), 4)]
    (put,) = [r for r in glance.requests if r.on == "send"]
    assert put.headers["Content-Length"] == put.headers["X-OpenStack-Image-Size"] == str(len(BIG))


def test_a_cloud_that_stops_reading_is_cut(glance: FakeGlance, tmp_path: Path) -> None:
    glance.faults.append(hangs(on="send", after=0.1))

    with pytest.raises(ActionFailedError) as caught:
        attempt(tmp_path, BIG, stall_timeout=0.5).run()

    assert caught.value.failure is not None
    assert caught.value.failure.failure_class is TIMEOUT
    assert "no answer in time" in caught.value.failure.message
    assert glance.images() == []


def test_a_cloud_that_never_answers_is_cut(glance: FakeGlance, tmp_path: Path) -> None:
    glance.faults.append(hangs(on="send", after=1.0))

    with pytest.raises(ActionFailedError) as caught:
        attempt(tmp_path, stall_timeout=0.5).run()

    assert caught.value.failure is not None
    assert caught.value.failure.failure_class is TIMEOUT
    assert glance.images() == []


def test_the_deadline_holds_while_a_cloud_hangs(glance: FakeGlance, tmp_path: Path) -> None:
    glance.faults.append(hangs(on="send", after=1.0))

    with pytest.raises(ActionFailedError) as caught:
        attempt(tmp_path, timeout=0.7, stall_timeout=100.0).run()

    assert caught.value.failure is not None
    assert caught.value.failure.failure_class is TIMEOUT
    assert "300000 of 300000 bytes were sent" in caught.value.failure.message
    assert glance.images() == []


@pytest.mark.parametrize("status", ["importing", "saving", "uploading"])
def test_an_image_that_never_becomes_active_runs_into_the_deadline(
    glance: FakeGlance, tmp_path: Path, status: str
) -> None:
    glance.faults.append(then_changes(status=status))

    with pytest.raises(ActionFailedError) as caught:
        attempt(tmp_path, timeout=1.0).run()

    assert caught.value.failure is not None
    assert (caught.value.failure.failure_class, caught.value.failure.phase) == (TIMEOUT, "wait")
    assert glance.images() == []


def test_stopping_does_not_wait_for_a_cloud_that_hangs(glance: FakeGlance, tmp_path: Path) -> None:
    glance.faults.append(hangs(on="send", after=1.0))
    upload = attempt(tmp_path, stall_timeout=100.0, timeout=100.0)

    def stop_when_all_is_sent(count: int) -> None:
        if count == len(SMALL):
            upload.cancelled.set()

    with pytest.raises(ActionFailedError) as caught:
        upload.run(on_progress=stop_when_all_is_sent)

    assert caught.value.failure is not None
    assert caught.value.failure.failure_class is FailureClass.CANCELLED
    assert glance.images() == []


def test_only_an_md5_is_enough_when_it_is_ours(glance: FakeGlance, tmp_path: Path) -> None:
    glance.faults.append(then_changes(os_hash_value=None, os_hash_algo=None))

    assert attempt(tmp_path).run().status is GlanceStatus.ACTIVE


def test_a_busy_cloud_is_asked_again_whether_the_image_is_active(glance: FakeGlance, tmp_path: Path) -> None:
    glance.faults += [answers(503, on="get"), resets(on="get")]

    assert attempt(tmp_path).run().status is GlanceStatus.ACTIVE
    assert glance.count("send") == 1


def test_a_cloud_that_is_down_stores_nothing_and_the_reason_says_where(
    glance: FakeGlance, tmp_path: Path
) -> None:
    glance.down()

    with pytest.raises(ActionFailedError) as caught:
        attempt(tmp_path).run()

    assert caught.value.failure is not None
    assert caught.value.failure.failure_class is NETWORK
    assert f"127.0.0.1:{glance.port}" in caught.value.failure.message


def test_what_could_not_be_deleted_is_named_and_can_be_removed_later(
    glance: FakeGlance, tmp_path: Path
) -> None:
    glance.faults += [resets(on="send", after=0.5), answers(503, on="delete", times=None)]
    upload = attempt(tmp_path)

    with pytest.raises(ActionFailedError) as caught:
        upload.run(wait=lambda _: None)

    (left,) = glance.images()
    assert caught.value.failure is not None
    assert caught.value.failure.failure_class is NETWORK
    assert f"image {left['id']} stays behind" in caught.value.failure.message

    glance.faults.clear()
    said = transfer.remove(upload.cloud, record(external_id=left["id"]), installation_id=INSTALLATION)
    assert left["id"] in said
    assert glance.images() == []


def test_what_a_create_without_an_answer_made_is_found_later(glance: FakeGlance, tmp_path: Path) -> None:
    glance.faults += [loses_answer(on="create"), answers(503, on="find", times=None)]
    upload = attempt(tmp_path)

    with pytest.raises(ActionFailedError, match="whether an image stays behind can't be said"):
        upload.run()

    glance.faults.clear()
    (left,) = glance.images()
    said = transfer.remove(upload.cloud, record(), installation_id=INSTALLATION)
    assert left["id"] in said
    assert glance.images() == []


def test_trouble_in_one_region_is_none_in_the_other(glance: FakeGlance, tmp_path: Path) -> None:
    glance.faults.append(hangs(on="send", region="RegionOne"))
    stuck = attempt(tmp_path, stall_timeout=100.0, timeout=100.0)
    ended = threading.Event()

    def run_stuck() -> None:
        with pytest.raises(ActionFailedError):
            stuck.run()
        ended.set()

    thread = threading.Thread(target=run_stuck)
    thread.start()
    south = provider("south", "RegionTwo")
    image = Attempt(OpenStackCloud(south), tmp_path / "south.qcow2", SMALL, provider=south).run()
    stuck.cancelled.set()
    thread.join(30.0)

    assert ended.is_set()
    assert [i["id"] for i in glance.images()] == [image.id]


def test_no_log_line_tells_a_secret(
    glance: FakeGlance, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    glance.faults += [answers(503, on="send", after=0.5)]

    with pytest.raises(ActionFailedError):
        attempt(tmp_path).run()

    tokens = {r.headers["X-Auth-Token"] for r in glance.requests if "X-Auth-Token" in r.headers}
    assert tokens
    assert not [secret for secret in {PASSWORD, *tokens} if secret in caplog.text]
