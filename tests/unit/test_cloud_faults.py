"""Whatever a cloud does wrong: no false `ready`, no leak, nothing good lost, and a reason on record.

The real workers, door and openstacksdk talk to a Keystone, a Glance and a Swift that fail on command.
Each line of the tables is one bad day; before each, yesterday's image is there and ready, and it has
to be there after it. What a proxy before a real Glance can do is in
tests/functional/test_upload_faults.py as well.
"""

from __future__ import annotations

import logging
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.cloud import transfer
from builder.cloud.openstack import OpenStackCloud
from builder.cloud.transfer import discarding, waiting
from builder.cloudimage import GlanceStatus
from builder.errors import ActionFailedError
from builder.model import FailureClass, ImageFormat, UploadPhase, UploadState
from builder.ways import Way
from tests.fakes.files import FileServer
from tests.fakes.glance import (
    PASSWORD,
    FakeGlance,
    Fault,
    answers,
    expires_token,
    fails_import,
    floods,
    hangs,
    loses_answer,
    never_imports,
    resets,
    stores_nothing,
    then_changes,
    then_loses,
    trickles,
)
from tests.unit.cloud_world import INSTALLATION, Attempt, content, provider, record
from tests.unit.dib_world import eventually
from tests.unit.fault_world import TODAY, TODAYS, Bench, Outcome

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
    """A cloud that can be told what to do wrong; seconds are minutes in earnest."""
    monkeypatch.setattr(waiting, "QUEUED_GRACE", 0.2)
    monkeypatch.setattr(discarding, "PAUSE", 0.02)
    with FakeGlance.start(swift=True) as server:
        monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(server.clouds_yaml(tmp_path / "clouds.yaml")))
        yield server


@pytest.fixture
def files() -> Iterator[FileServer]:
    """A server of files for web-download."""
    with FileServer.start() as server:
        yield server


def ready_bench(root: Path, **changes: object) -> Bench:
    """A bench with a good image; nothing is wrong yet."""
    facts: dict[str, object] = {"answer_timeout": 1.0, "method": Way.PUT, **changes}
    return Bench(root / "bench", **facts).settle()  # type: ignore[arg-type]


def bad_day(bench: Bench, glance: FakeGlance, faults: list[Fault]) -> Outcome:
    """What becomes of an upload while things go wrong; by the time the janitor comes, none does."""
    glance.requests.clear()
    # Faults are counted down while they happen: every test has its own.
    glance.faults = [Fault(**vars(fault)) for fault in faults]
    return bench.upload(then=glance.faults.clear)


def assert_failed(
    glance: FakeGlance,
    outcome: Outcome,
    phase: str,
    failure_class: FailureClass,
    said: str,
    fault: str,
    where: str,
) -> None:
    """The upload failed for that reason, and only yesterday's image is there."""
    outcome.tell(fault, where)
    assert outcome.record.state is UploadState.FAILED, outcome.record
    assert said in outcome.reason
    assert (outcome.failure_class, outcome.phase) == (failure_class, phase), outcome.reason
    assert PASSWORD not in outcome.reason
    assert outcome.is_safe(), outcome
    assert outcome.left == 0
    assert [image["status"] for image in glance.images()] == ["active"]
    assert glance.staged() == []
    assert glance.objects() == {}


def assert_ready(glance: FakeGlance, outcome: Outcome, fault: str, where: str) -> None:
    """The upload came to a good end all the same, and left nothing but its image."""
    outcome.tell(fault, where)
    assert outcome.record.state is UploadState.READY, outcome.reason
    assert outcome.is_safe(), outcome
    assert outcome.left == 0
    assert len(glance.images()) == 2
    assert glance.staged() == []
    assert glance.objects() == {}


# -- logging in ---------------------------------------------------------------------------------

LOGIN = [
    # what goes wrong, its class, what the reason says
    ("login: 401", [answers(401, on="auth", times=None)], AUTH, "401"),
    ("login: 403", [answers(403, on="auth", times=None)], AUTH, "403"),
    ("login: 500", [answers(500, on="auth", times=None)], CLOUD, "500"),
    ("login: reset", [resets(on="auth", times=None)], NETWORK, "127.0.0.1"),
    ("login: hangs", [hangs(on="auth", times=None)], TIMEOUT, "no answer in time"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "faults", "failure_class", "said"), [pytest.param(*c, id=c[0]) for c in LOGIN]
)
def test_a_login_that_fails_fails_the_upload_before_anything_is_made(
    glance: FakeGlance,
    tmp_path: Path,
    fault: str,
    faults: list[Fault],
    failure_class: FailureClass,
    said: str,
) -> None:
    bench = ready_bench(tmp_path)
    bench.pool.forget()
    glance.revoke_tokens()

    outcome = bad_day(bench, glance, faults)

    assert outcome.phase in ("preflight", "create")
    assert_failed(glance, outcome, outcome.phase or "", failure_class, said, fault, "login")
    assert [r for r in glance.requests if (r.on, r.status) == ("create", 201)] == []


def test_a_token_is_renewed_before_a_put_and_not_in_the_middle(glance: FakeGlance, tmp_path: Path) -> None:
    glance.token_life = 60.0
    bench = ready_bench(tmp_path)

    outcome = bad_day(bench, glance, [])

    assert_ready(glance, outcome, "tokens that live a minute", "PUT")
    order = [request.on for request in glance.requests if request.on in ("auth", "send")]
    assert order[order.index("send") - 1] == "auth"


# -- one PUT, and the requests around it --------------------------------------------------------

MATRIX = [
    # what goes wrong, in which phase it is noticed, its class, what the reason says, PUTs made
    ("create forbidden", [answers(403, on="create", text="not allowed")], "create", AUTH, "not allowed", 0),
    ("create over quota", [answers(413, on="create")], "create", QUOTA, "413", 0),
    ("quota, in words", [answers(403, on="create", text="Quota exceeded")], "create", QUOTA, "Quota", 0),
    ("create conflicts", [answers(409, on="create")], "create", CLOUD, "409", 0),
    ("create unavailable", [answers(503, on="create")], "create", CLOUD, "503", 0),
    ("create reset", [resets(on="create")], "create", NETWORK, "127.0.0.1", 0),
    ("create hangs", [hangs(on="create")], "create", TIMEOUT, "no answer in time", 0),
    ("create floods", [floods(17 << 20, on="create")], "create", CLOUD, "more than 16777216 bytes", 0),
    ("create trickles", [trickles(on="create")], "create", TIMEOUT, "no answer in time", 0),
    ("create done, answer lost", [loses_answer(on="create")], "create", NETWORK, "127.0.0.1", 0),
    ("property lost early", [then_changes(on="create", imagepool_image="x")], "verify", CLOUD, "'x', not", 1),
    ("503 before the bytes", [answers(503, on="send", after=0.0)], "send", CLOUD, "503", 1),
    ("503 half-way", [answers(503, on="send", after=0.5)], "send", CLOUD, "503", 1),
    ("503 after the bytes", [answers(503, on="send", after=1.0)], "send", CLOUD, "503", 1),
    ("redirected", [answers(307, on="send", after=1.0)], "send", CLOUD, "307", 1),
    ("forbidden", [answers(403, on="send", after=1.0)], "send", AUTH, "403", 1),
    ("conflict", [answers(409, on="send", after=0.0)], "send", CLOUD, "409", 1),
    ("too large", [answers(413, on="send", text="quota of images")], "send", QUOTA, "quota of images", 1),
    ("format refused", [answers(415, on="send", text="not a qcow2")], "send", CLOUD, "not a qcow2", 1),
    ("token ends in mid-PUT, image deleted", [expires_token()], "send", AUTH, "401", 1),
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
    ("another size", [then_changes(size=299_999)], "verify", CLOUD, "size 299999, not 307200", 1),
    ("no size", [then_changes(size=None)], "verify", CLOUD, "size None, not 307200", 1),
    ("another hash", [then_changes(os_hash_value="abcd")], "verify", CLOUD, "sha512 abcd, not ", 1),
    ("no hash at all", [then_changes(os_hash_value=None, checksum=None)], "verify", CLOUD, "no hash", 1),
    ("only another md5", [then_changes(os_hash_value=None, checksum="ab")], "verify", CLOUD, "md5 ab, ", 1),
    ("a hash nobody knows", [then_changes(os_hash_algo="whirl")], "verify", CLOUD, "'whirl'", 1),
    ("property changed", [then_changes(imagepool_build_id="0")], "verify", CLOUD, "_build_id '0', not", 1),
    ("property lost", [then_changes(os_distro=None)], "verify", CLOUD, "os_distro None, not 'ubuntu'", 1),
    ("property a number", [then_changes(replicas=7)], "verify", CLOUD, "replicas '7', not '007'", 1),
    ("made public", [then_changes(visibility="public")], "verify", CLOUD, "'public', not 'private'", 1),
    ("hidden", [then_changes(os_hidden=True)], "verify", CLOUD, "hidden True, not False", 1),
    ("renamed", [then_changes(name="x")], "verify", CLOUD, "name 'x', not", 1),
    ("status refused", [answers(403, on="get", times=None)], "wait", AUTH, "403", 1),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "faults", "phase", "failure_class", "said", "puts"),
    [pytest.param(*line, id=line[0]) for line in MATRIX],
)
def test_a_bad_day_ends_in_a_reason_and_leaves_nothing(
    glance: FakeGlance,
    tmp_path: Path,
    fault: str,
    faults: list[Fault],
    phase: str,
    failure_class: FailureClass,
    said: str,
    puts: int,
) -> None:
    bench = ready_bench(tmp_path)

    outcome = bad_day(bench, glance, faults)

    assert_failed(glance, outcome, phase, failure_class, said, fault, "PUT")
    assert "north" in outcome.reason or phase in ("wait", "verify")
    assert glance.count("send") == puts


def test_an_image_that_is_made_after_its_connection_broke_is_looked_for_later(
    glance: FakeGlance, tmp_path: Path
) -> None:
    bench = ready_bench(tmp_path)
    glance.faults = [resets(on="create")]

    outcome = bench.upload(then=lambda: bench.create_image(bench.latest))

    outcome.tell("create reset, and done all the same a moment later", "PUT")
    assert (outcome.left, outcome.left_later) == (1, 0)
    assert outcome.is_safe(), outcome
    assert [image["status"] for image in glance.images()] == ["active"]


def test_a_tag_that_is_lost_is_noticed(glance: FakeGlance, tmp_path: Path) -> None:
    bench = ready_bench(tmp_path, tags=("ci", "golden"))

    outcome = bad_day(bench, glance, [then_changes(tags=["ci"])])

    assert_failed(glance, outcome, "verify", CLOUD, "golden", "a tag lost", "PUT")


# -- imports ------------------------------------------------------------------------------------

STORES = {"os_glance_importing_to_stores": "slow", "os_glance_failed_import": "fast"}
IMPORTS = [
    # what goes wrong, in which phase it is noticed, its class, what the reason says
    ("stage: 503 half-way", [answers(503, on="stage", after=0.5)], "send", CLOUD, "503"),
    ("stage: reset half-way", [resets(on="stage", after=0.5)], "send", NETWORK, "127.0.0.1"),
    ("stage: token ends in the middle", [expires_token(on="stage")], "send", AUTH, "401"),
    ("stage: 204, nothing staged", [stores_nothing(on="stage")], "wait", CLOUD, "409"),
    ("import: 413", [answers(413, on="import")], "wait", QUOTA, "413"),
    ("import: 409", [answers(409, on="import")], "wait", CLOUD, "409"),
    ("import: the staged bytes are on another host", [fails_import("No such file")], "wait", CLOUD,
     "No such file"),
    ("import: one of the stores fails", [then_changes(on="imported", status="importing", **STORES)],
     "wait", CLOUD, "failed in fast"),
    ("import: a plugin changes the bytes",
     [then_changes(on="imported", size=5, os_hash_value="cd")], "verify", CLOUD, "sha512 cd, not "),
    ("import: no hash afterwards",
     [then_changes(on="imported", os_hash_value=None, checksum=None)], "verify", CLOUD, "no hash"),
    ("import: killed", [then_changes(on="imported", status="killed")], "wait", CLOUD, "killed"),
    ("import: deleted behind our back", [then_loses(on="imported")], "wait", CLOUD, "gone"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "faults", "phase", "failure_class", "said"),
    [pytest.param(*line, id=line[0]) for line in IMPORTS],
)
def test_an_import_that_goes_wrong_ends_in_a_reason_and_leaves_nothing(
    glance: FakeGlance,
    tmp_path: Path,
    fault: str,
    faults: list[Fault],
    phase: str,
    failure_class: FailureClass,
    said: str,
) -> None:
    bench = ready_bench(tmp_path, method=Way.GLANCE_DIRECT)

    outcome = bad_day(bench, glance, faults)

    assert_failed(glance, outcome, phase, failure_class, said, fault, "glance-direct")


@pytest.mark.parametrize("method", [Way.GLANCE_DIRECT, Way.WEB_DOWNLOAD])
def test_an_import_that_never_ends_runs_into_the_deadline(
    glance: FakeGlance, tmp_path: Path, files: FileServer, method: Way
) -> None:
    bench = ready_bench(tmp_path, method=method, timeout=1.0, offers=files)

    outcome = bad_day(bench, glance, [never_imports()])

    assert_failed(glance, outcome, "wait", TIMEOUT, "not done after", "import: never ends", method)
    assert files.offered == {}


def test_an_import_into_one_store_after_the_other_may_take_longer_than_a_stall(
    glance: FakeGlance, tmp_path: Path
) -> None:
    bench = ready_bench(tmp_path, method=Way.GLANCE_DIRECT, stall_timeout=0.5)
    glance.faults = [then_changes(on="imported", status="importing", os_glance_importing_to_stores="slow")]
    done = threading.Event()

    def finish_later() -> None:
        # After twice the stall timeout, the last store has it as well.
        done.wait(1.0)
        (image,) = [i for i in glance.images() if i["status"] == "importing"]
        glance.change(image["id"], status="active", os_glance_importing_to_stores="")

    finishing = threading.Thread(target=finish_later)
    finishing.start()
    outcome = bench.upload()
    finishing.join(10.0)

    assert_ready(glance, outcome, "import: one store after the other", "glance-direct")


def test_bytes_that_a_plugin_changes_are_put_unchanged_instead(glance: FakeGlance, tmp_path: Path) -> None:
    bench = ready_bench(tmp_path, method="auto")

    outcome = bad_day(
        bench, glance, [answers(503, on="send"), then_changes(on="imported", os_hash_value="cd")]
    )

    # No way is left: the PUT was answered 503, and the import changed the bytes.
    assert_failed(
        glance, outcome, "verify", CLOUD, "sha512 cd", "PUT: 503, import: changed", "PUT, glance-direct"
    )
    assert outcome.record.way == Way.GLANCE_DIRECT
    assert "503" in outcome.record.fallbacks[0]


def test_a_url_that_glance_filters_out_falls_back_to_a_put(glance: FakeGlance, tmp_path: Path) -> None:
    glance.download_ports = {443}
    bench = ready_bench(tmp_path, method="auto", download_url="http://files.test:80/")

    outcome = bad_day(bench, glance, [])

    assert_ready(glance, outcome, "download: filtered out", "web-download, then PUT")
    assert outcome.record.way == Way.PUT
    assert "does not pass filtering" in outcome.record.fallbacks[0]


def test_a_url_that_glance_filters_out_fails_where_no_other_way_is_allowed(
    glance: FakeGlance, tmp_path: Path, files: FileServer
) -> None:
    bench = ready_bench(tmp_path, method=Way.WEB_DOWNLOAD, offers=files)
    glance.download_ports = {80, 443}

    outcome = bad_day(bench, glance, [])

    said = "does not pass filtering"
    assert_failed(glance, outcome, outcome.phase or "", CLOUD, said, "download: filtered out", "web-download")


# -- the tasks way ------------------------------------------------------------------------------

TASKS = [
    ("object: 503 half-way", [answers(503, on="object", after=0.5)], "send", CLOUD, "503"),
    ("object: 413", [answers(413, on="object")], "send", QUOTA, "413"),
    ("object: reset half-way", [resets(on="object", after=0.5)], "send", NETWORK, "127.0.0.1"),
    ("object: 201, nothing stored", [stores_nothing(201, on="object")], "wait", CLOUD, "400"),
    ("task: 403", [answers(403, on="start-task")], "wait", AUTH, "403"),
    ("task: begun, answer lost", [loses_answer(on="start-task")], "wait", NETWORK, "was not answered"),
    ("task: fails", [fails_import("bad vhd")], "wait", CLOUD, "bad vhd"),
    ("task: forgotten", [answers(404, on="task")], "wait", CLOUD, "forgotten"),
    ("task: other bytes", [then_changes(on="imported", os_hash_value="cd")], "verify", CLOUD, "sha512 cd"),
    ("task: image killed", [then_changes(on="imported", status="killed")], "wait", CLOUD, "killed"),
    ("task: properties refused", [answers(403, on="change", times=None)], "wait", AUTH, "403"),
]  # fmt: skip


def tasks_bench(glance: FakeGlance, root: Path, **changes: object) -> Bench:
    """A bench whose cloud takes images by tasks, as its profile says, and only as VHD."""
    glance.clouds_yaml(root / "clouds.yaml", image_api_use_tasks=True)
    facts: dict[str, object] = {
        "method": "auto",
        "image_format": ImageFormat.VHD,
        "yesterday": vhd(root, TODAYS[::-1]),
        "today": vhd(root, TODAYS),
        "virtual_size": len(TODAYS),
    }
    return ready_bench(root, **{**facts, **changes})


def vhd(root: Path, disk: bytes) -> bytes:
    """A disk as a VHD of fixed size."""
    raw, made = root / "disk.raw", root / "disk.vhd"
    raw.write_bytes(disk)
    options = ["-f", "raw", "-O", "vpc", "-o", "subformat=fixed,force_size"]
    subprocess.run(["qemu-img", "convert", *options, str(raw), str(made)], check=True)
    return made.read_bytes()


@pytest.mark.parametrize(
    ("fault", "faults", "phase", "failure_class", "said"), [pytest.param(*line, id=line[0]) for line in TASKS]
)
def test_a_task_that_goes_wrong_ends_in_a_reason_and_leaves_nothing(
    glance: FakeGlance,
    tmp_path: Path,
    fault: str,
    faults: list[Fault],
    phase: str,
    failure_class: FailureClass,
    said: str,
) -> None:
    bench = tasks_bench(glance, tmp_path)

    outcome = bad_day(bench, glance, faults)

    assert_failed(glance, outcome, phase, failure_class, said, fault, "tasks")


def test_a_task_that_is_done_leaves_a_described_image_and_no_object(
    glance: FakeGlance, tmp_path: Path
) -> None:
    bench = tasks_bench(glance, tmp_path)

    outcome = bad_day(bench, glance, [])

    assert_ready(glance, outcome, "none", "tasks")
    assert outcome.record.way == Way.TASKS
    (image,) = [i for i in glance.images() if i["id"] == outcome.record.external_id]
    assert image["imagepool_build_id"] == TODAY
    (sent,) = [r for r in glance.requests if r.on == "object"]
    assert sent.headers["X-Delete-After"] == "86400"


def test_what_a_task_of_a_dead_daemon_made_is_removed(glance: FakeGlance, tmp_path: Path) -> None:
    bench = tasks_bench(glance, tmp_path)
    dead = bench.die_with_a_task()
    eventually(lambda: len(glance.images()) == 2, "the task to make an image")

    outcome = bench.outcome(dead)

    outcome.tell("kill -9 while an import task runs", "tasks")
    assert outcome.record.state is UploadState.FAILED
    assert outcome.failure_class is FailureClass.INTERRUPTED
    assert outcome.is_safe(), outcome
    assert [image["status"] for image in glance.images()] == ["active"]
    assert glance.objects() == {}


# -- what is in use -----------------------------------------------------------------------------


def test_an_image_that_servers_use_is_hidden_and_goes_when_they_are_gone(
    glance: FakeGlance, tmp_path: Path
) -> None:
    bench = ready_bench(tmp_path)
    (image,) = glance.images()
    glance.in_use.add(image["id"])

    bench.delete_yesterday()
    bench.clean()

    (hidden,) = glance.images()
    assert (hidden["id"], hidden["os_hidden"]) == (image["id"], True)
    (waiting_to_go,) = bench.store.snapshot().uploads()
    assert (waiting_to_go.state, waiting_to_go.hidden) == (UploadState.DELETING, True)

    glance.in_use.clear()
    bench.later(hours=3)
    bench.clean()

    assert glance.images() == []
    assert list(bench.store.snapshot().uploads()) == []


# -- one transfer alone -------------------------------------------------------------------------


def attempt(tmp_path: Path, data: bytes = SMALL, **limits: float) -> Attempt:
    """An upload to be tried with short patience."""
    limits = {"timeout": 20.0, "stall_timeout": 10.0, **limits}
    cloud = OpenStackCloud(provider(), answer_timeout=2.0)
    return Attempt(cloud, tmp_path / "noble.qcow2", data, **limits)  # type: ignore[arg-type]


def test_a_good_day_ends_ready(glance: FakeGlance, tmp_path: Path) -> None:
    upload = attempt(tmp_path, BIG)

    image = upload.run()

    assert image.status is GlanceStatus.ACTIVE
    ours = [phase for phase in UploadPhase if phase not in (UploadPhase.HOLD, UploadPhase.HOOK)]
    assert upload.phases == ours
    assert upload.created[0].id == image.id
    assert upload.progress[-1] == len(BIG)
    stored = glance.images("RegionOne")
    assert [(i["id"], i["size"], i["min_disk"]) for i in stored] == [(image.id, len(BIG), 4)]
    (put,) = [r for r in glance.requests if r.on == "send"]
    assert put.headers["Content-Length"] == put.headers["X-OpenStack-Image-Size"] == str(len(BIG))


@pytest.mark.parametrize("after", [0.1, 1.0], ids=["stops reading", "never answers"])
def test_a_cloud_that_stalls_is_cut(glance: FakeGlance, tmp_path: Path, after: float) -> None:
    glance.faults.append(hangs(on="send", after=after))

    with pytest.raises(ActionFailedError) as caught:
        attempt(tmp_path, BIG, stall_timeout=0.5).run()

    assert caught.value.failure is not None
    assert caught.value.failure.failure_class is TIMEOUT
    assert "it stalled" in caught.value.failure.message
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
        upload.run()

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
