"""The Cloud contract, kept by the fake, by OpenStackCloud on a fake Glance, and on a real one."""

from __future__ import annotations

import hashlib
import struct
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from builder.cloud import transfer
from builder.cloud.base import Change, Cloud, NewImage, Task, TaskState
from builder.cloudimage import CloudImage, GlanceStatus
from builder.errors import CloudError, NotFoundError
from builder.model import ImageFormat
from builder.ways import Way
from tests.contract.worlds import eventually
from tests.fakes.bodies import BrokenBody, BytesBody
from tests.unit.cloud_world import INSTALLATION, PARTS, Attempt, ThreeParts, record

CONTENT = bytes(range(256)) * 4096
TIMEOUT = 30.0
#: The header of an empty qcow2 of 1 MiB, version 3: Glance looks whether an image is what it says.
QCOW2 = struct.pack(
    ">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, 16, 1 << 20, 0, 1, 196608, 65536, 1, 0, 0, 0, 0, 0, 4, 104
)


def new(name: str = "noble-1", *, hidden: bool = False, **changes: str) -> NewImage:
    """A small image that nobody else has: the contract's clouds may be shared."""
    properties = {"imagepool_build_id": uuid.uuid4().hex, **changes}
    return NewImage(name=name, disk_format="raw", min_disk=2, properties=properties, hidden=hidden)


def sent(cloud: Cloud, image: NewImage) -> CloudImage:
    """An image that is there with its bytes."""
    made = cloud.create(image)
    cloud.send(made.id, BytesBody(CONTENT), timeout=TIMEOUT)
    return made


def newest(cloud: Cloud, image: CloudImage) -> TaskState | None:
    """How far the last import into an image is; pending is as good as processing."""
    tasks = cloud.import_tasks(image.id)
    state = tasks[0].state if tasks else TaskState.PROCESSING
    return TaskState.PROCESSING if state.is_moving else state


def state(cloud: Cloud, task: Task) -> TaskState | None:
    """How far a task is now."""
    now = cloud.get_task(task.id)
    return now.state if now else None


def assert_has_content(cloud: Cloud, made: CloudImage, wanted: NewImage) -> None:
    """It is active, with our bytes, and still says whose it is."""
    image = cloud.get(made.id)
    assert image is not None
    assert (image.status, image.size) == (GlanceStatus.ACTIVE, len(CONTENT))
    assert image.hash_value == hashlib.sha512(CONTENT).hexdigest()
    assert wanted.properties.items() <= image.properties.items()


@pytest.fixture
def web() -> Iterator[str]:
    """The URL of a server that has noble.raw."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Files)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


class _Files(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        there = self.path == "/noble.raw"
        self.send_response(200 if there else 404)
        self.send_header("Content-Length", str(len(CONTENT) if there else 0))
        self.end_headers()
        if there:
            self.wfile.write(CONTENT)

    def log_message(self, *args: object) -> None:
        """Nothing goes to stderr."""


def test_a_created_image_is_empty_and_says_whose_it_is(cloud: Cloud) -> None:
    image = new(os_distro="debian")

    made = cloud.create(image)

    assert made.status is GlanceStatus.QUEUED
    assert (made.name, made.visibility, made.size) == (image.name, "private", None)
    assert image.properties.items() <= made.properties.items()
    assert cloud.get(made.id) == made
    cloud.delete(made.id)


def test_a_sent_image_is_active_with_size_and_hash(cloud: Cloud) -> None:
    made = sent(cloud, new())

    image = cloud.get(made.id)

    assert image is not None
    assert image.status is GlanceStatus.ACTIVE
    assert image.size == len(CONTENT)
    assert image.hash_algorithm == "sha512"
    assert image.hash_value == hashlib.sha512(CONTENT).hexdigest()
    cloud.delete(made.id)


def test_an_unknown_image_is_none(cloud: Cloud) -> None:
    assert cloud.get(str(uuid.uuid4())) is None


def test_a_deleted_image_is_gone_and_can_be_deleted_again(cloud: Cloud) -> None:
    image = new()
    made = sent(cloud, image)

    cloud.delete(made.id)
    cloud.delete(made.id)

    assert cloud.get(made.id) is None
    assert list(cloud.find(image.properties)) == []


def test_images_are_found_by_all_their_properties(cloud: Cloud) -> None:
    mark = uuid.uuid4().hex
    ours = [cloud.create(new(imagepool_mark=mark, nr=str(n))) for n in range(8)]
    other = cloud.create(new(imagepool_mark=mark[::-1], nr="0"))

    assert {i.id for i in cloud.find({"imagepool_mark": mark})} == {i.id for i in ours}
    assert [i.id for i in cloud.find({"imagepool_mark": mark, "nr": "3"})] == [ours[3].id]
    assert {i.id for i in [*ours, other]} <= {i.id for i in cloud.find({})}
    for image in [*ours, other]:
        cloud.delete(image.id)


def test_hidden_images_are_found_too(cloud: Cloud) -> None:
    image = new(hidden=True)
    made = cloud.create(image)

    found = list(cloud.find({"imagepool_build_id": image.properties["imagepool_build_id"]}))

    assert [i.id for i in found] == [made.id]
    assert found[0].hidden
    cloud.delete(made.id)


def test_images_are_found_by_their_name(cloud: Cloud) -> None:
    name = f"noble-{uuid.uuid4().hex}"
    plain = cloud.create(new(name))
    hidden = cloud.create(new(name, hidden=True))
    other = cloud.create(new(f"{name}-2"))

    assert {i.id for i in cloud.find_named(name)} == {plain.id, hidden.id}
    assert list(cloud.find_named(name.upper())) == []
    for image in (plain, hidden, other):
        cloud.delete(image.id)


def test_an_image_tells_all_that_it_was_created_with(cloud: Cloud) -> None:
    image = replace(new(), tags=frozenset({"noble", "größe x/y"}), visibility="shared")
    before = datetime.now(UTC) - timedelta(minutes=1)

    made = cloud.create(image)

    assert (made.tags, made.hidden, made.visibility) == (image.tags, False, "shared")
    assert (made.disk_format, made.min_disk) == ("raw", 2)
    assert made.created is not None
    assert before < made.created < datetime.now(UTC) + timedelta(minutes=1)
    cloud.delete(made.id)


@pytest.mark.parametrize(
    "value", ["", "a b", "a&b=c?#%", "größe", "in:a,b", "x" * 255, "007", "True", "null"]
)
def test_property_values_come_back_as_they_were(cloud: Cloud, value: str) -> None:
    image = new(imagepool_note=value)
    made = cloud.create(image)

    again = cloud.get(made.id)
    found = list(cloud.find(image.properties))

    assert again is not None
    assert again.properties["imagepool_note"] == value
    assert [i.id for i in found] == [made.id]
    cloud.delete(made.id)


def test_bytes_for_an_image_that_is_gone_are_refused(cloud: Cloud) -> None:
    made = cloud.create(new())
    cloud.delete(made.id)

    with pytest.raises(CloudError):
        cloud.send(made.id, BytesBody(CONTENT), timeout=TIMEOUT)


def test_bytes_are_taken_only_once(cloud: Cloud) -> None:
    made = sent(cloud, new())

    with pytest.raises(CloudError):
        cloud.send(made.id, BytesBody(b"others" * 1000), timeout=TIMEOUT)

    image = cloud.get(made.id)
    assert image is not None
    assert (image.status, image.size) == (GlanceStatus.ACTIVE, len(CONTENT))
    cloud.delete(made.id)


@pytest.mark.parametrize("error", [ValueError("stop it"), OSError(5, "Input/output error")])
def test_what_the_body_raises_comes_out_unchanged(cloud: Cloud, error: Exception) -> None:
    made = cloud.create(new())

    with pytest.raises(type(error)) as caught:
        cloud.send(made.id, BrokenBody(CONTENT, error), timeout=TIMEOUT)

    assert caught.value is error
    image = cloud.get(made.id)
    assert image is not None
    assert image.status is not GlanceStatus.ACTIVE


def test_a_protected_image_stays_and_the_error_says_what_to_do(cloud: Cloud) -> None:
    made = cloud.create(new(protected="true"))

    with pytest.raises(CloudError) as caught:
        cloud.delete(made.id)

    assert "nprotect" in caught.value.hint
    assert cloud.get(made.id) is not None


def test_an_upload_is_verified_against_what_this_cloud_says(cloud: Cloud, tmp_path: Path) -> None:
    build_id = uuid.uuid4().hex
    upload = Attempt(cloud, tmp_path / "noble.qcow2", QCOW2 + CONTENT, build_id=build_id)

    image = upload.run()
    said = transfer.remove(cloud, record(build_id=build_id), installation_id=INSTALLATION)

    assert image.status is GlanceStatus.ACTIVE
    assert image.id in said
    assert cloud.get(image.id) is None


@pytest.mark.parametrize("way", [Way.PUT, Way.GLANCE_DIRECT])
def test_three_images_that_refer_to_each_other_come_and_go_together(
    cloud: Cloud, tmp_path: Path, way: Way
) -> None:
    build_id = uuid.uuid4().hex
    upload = ThreeParts(cloud, tmp_path / "noble.ami", PARTS[ImageFormat.AMI], build_id=build_id, ways=(way,))

    root = upload.run()

    named = [cloud.get(root.properties[each]) for each in ("kernel_id", "ramdisk_id")]
    kernel, ramdisk = (each for each in named if each is not None)
    for image, wanted in ((root, "ami"), (kernel, "aki"), (ramdisk, "ari")):
        content = PARTS[ImageFormat(wanted)]
        assert (image.status, image.disk_format) == (GlanceStatus.ACTIVE, wanted)
        assert (image.size, image.hash_value) == (len(content), hashlib.sha512(content).hexdigest())
    # Those of a record from which nodepool's commands took what they don't know.
    known = record(build_id=build_id, format="ami", external_id=root.id)
    transfer.hide(cloud, known, installation_id=INSTALLATION)
    said = transfer.remove(cloud, known, installation_id=INSTALLATION)
    assert said.index(root.id) < min(said.index(kernel.id), said.index(ramdisk.id))
    assert [cloud.get(image.id) for image in (root, kernel, ramdisk)] == [None] * 3


# -- changes ------------------------------------------------------------------------------------


def test_a_change_changes_what_it_names_and_nothing_else(cloud: Cloud) -> None:
    image = replace(new(os_distro="debian", note="old"), tags=frozenset({"old", "kept"}))
    made = sent(cloud, image)
    change = Change(
        name="noble",
        visibility="shared",
        hidden=True,
        properties={"note": "new", "added": "a~b/c", "slash/and~tilde": "x"},
        add_tags=frozenset({"new"}),
        remove_tags=frozenset({"old", "never there"}),
    )

    changed = cloud.update(made.id, change)

    assert cloud.get(made.id) == changed
    assert (changed.name, changed.visibility, changed.hidden) == ("noble", "shared", True)
    assert changed.tags == {"new", "kept"}
    wanted = {**image.properties, "note": "new", "added": "a~b/c", "slash/and~tilde": "x"}
    assert wanted.items() <= changed.properties.items()
    assert (changed.status, changed.size) == (GlanceStatus.ACTIVE, len(CONTENT))
    cloud.delete(made.id)


def test_a_change_can_be_taken_back_and_said_twice(cloud: Cloud) -> None:
    made = cloud.create(replace(new(), tags=frozenset({"noble"})))

    for hidden in (True, True, False):
        image = cloud.update(made.id, Change(hidden=hidden, add_tags=frozenset({"noble"})))
        assert (image.hidden, image.tags, image.name) == (hidden, {"noble"}, made.name)

    assert cloud.update(made.id, Change()) == cloud.get(made.id)
    assert cloud.update(made.id, Change(remove_tags=frozenset({"noble"}))).tags == frozenset()
    cloud.delete(made.id)


@pytest.mark.parametrize(
    "change",
    [Change(), Change(name="x"), Change(add_tags=frozenset("x")), Change(remove_tags=frozenset("x"))],
)
def test_what_does_not_exist_is_not_changed(cloud: Cloud, change: Change) -> None:
    with pytest.raises(NotFoundError):
        cloud.update(str(uuid.uuid4()), change)


def test_an_image_is_shared_once_however_often_that_is_asked(cloud: Cloud) -> None:
    made = cloud.create(replace(new(), visibility="shared"))

    for project in ("a" * 32, "b" * 32, "a" * 32):
        cloud.share(made.id, project)

    cloud.delete(made.id)


def test_only_shared_images_are_shared(cloud: Cloud) -> None:
    made = cloud.create(new())

    with pytest.raises(CloudError):
        cloud.share(made.id, "a" * 32)

    cloud.delete(made.id)


# -- imports ------------------------------------------------------------------------------------


def test_it_says_what_it_can_do(cloud: Cloud) -> None:
    before = datetime.now(UTC)

    can = cloud.capabilities()

    assert {"qcow2", "raw"} <= can.disk_formats
    assert {"glance-direct", "web-download"} <= can.import_methods
    assert not can.tasks
    assert before <= can.checked <= datetime.now(UTC)


def test_limits_are_told_in_bytes_and_numbers(cloud: Cloud) -> None:
    for name, quota in cloud.quotas().items():
        assert name.startswith("image_")
        assert quota.limit >= -1
        assert quota.used >= 0


def test_staged_bytes_become_an_image_when_they_are_imported(cloud: Cloud) -> None:
    image = new()
    made = cloud.create(image)

    cloud.stage(made.id, BytesBody(CONTENT), timeout=TIMEOUT)
    staged = cloud.get(made.id)
    cloud.import_image(made.id, Way.GLANCE_DIRECT)
    eventually(lambda: newest(cloud, made) is not TaskState.PROCESSING, "the import ends")

    assert staged is not None
    assert staged.status is GlanceStatus.UPLOADING
    assert_has_content(cloud, made, image)
    (task,) = cloud.import_tasks(made.id)
    assert (task.state, task.image_id, task.message) == (TaskState.SUCCESS, made.id, "")
    cloud.delete(made.id)


def test_what_was_not_staged_is_not_imported(cloud: Cloud) -> None:
    made = cloud.create(new())

    with pytest.raises(CloudError):
        cloud.import_image(made.id, Way.GLANCE_DIRECT)

    assert cloud.import_tasks(made.id) == ()
    cloud.delete(made.id)


def test_what_the_body_raises_while_staging_comes_out_unchanged(cloud: Cloud) -> None:
    made = cloud.create(new())
    error = ValueError("stop it")

    with pytest.raises(ValueError, match="stop it") as caught:
        cloud.stage(made.id, BrokenBody(CONTENT, error), timeout=TIMEOUT)

    assert caught.value is error
    cloud.delete(made.id)


def test_an_image_is_fetched_from_where_it_is(cloud: Cloud, web: str) -> None:
    image = new()
    made = cloud.create(image)

    cloud.import_image(made.id, Way.WEB_DOWNLOAD, url=f"{web}/noble.raw")
    eventually(lambda: newest(cloud, made) is TaskState.SUCCESS, "the import succeeds")

    assert_has_content(cloud, made, image)
    cloud.delete(made.id)


def test_an_image_that_is_nowhere_is_a_failed_import_with_a_reason(cloud: Cloud, web: str) -> None:
    made = cloud.create(new())

    cloud.import_image(made.id, Way.WEB_DOWNLOAD, url=f"{web}/nothing.raw")
    eventually(lambda: newest(cloud, made) is TaskState.FAILURE, "the import fails")

    image = cloud.get(made.id)
    assert image is not None
    assert image.status is GlanceStatus.QUEUED
    assert cloud.import_tasks(made.id)[0].message
    cloud.delete(made.id)


# -- the tasks way, which a Glance of today has for its administrators only ---------------------


def test_an_object_becomes_an_image_by_a_task(cloud_with_tasks: Cloud) -> None:
    cloud = cloud_with_tasks

    cloud.put_object("noble-1.vhd", BytesBody(CONTENT), timeout=TIMEOUT)
    started = cloud.start_import_task("noble-1", "noble-1.vhd")
    eventually(lambda: state(cloud, started) is TaskState.SUCCESS, "the task succeeds")

    task = cloud.get_task(started.id)
    assert task is not None
    assert task.image_id is not None
    image = cloud.get(task.image_id)
    assert image is not None
    assert (image.name, image.status, image.size) == ("noble-1", GlanceStatus.ACTIVE, len(CONTENT))
    assert cloud.update(image.id, Change(properties={"a": "b"})).properties["a"] == "b"


def test_a_deleted_object_can_be_deleted_again(cloud_with_tasks: Cloud) -> None:
    cloud_with_tasks.delete_object("never there")
    cloud_with_tasks.put_object("noble-1.vhd", BytesBody(CONTENT), timeout=TIMEOUT)

    cloud_with_tasks.delete_object("noble-1.vhd")
    cloud_with_tasks.delete_object("noble-1.vhd")


def test_what_the_body_raises_comes_out_of_the_object_store_unchanged(cloud_with_tasks: Cloud) -> None:
    error = OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output") as caught:
        cloud_with_tasks.put_object("noble-1.vhd", BrokenBody(CONTENT, error), timeout=TIMEOUT)

    assert caught.value is error


def test_a_task_that_nobody_knows_is_none(cloud_with_tasks: Cloud) -> None:
    assert cloud_with_tasks.get_task(str(uuid.uuid4())) is None


def test_a_cloud_of_the_tasks_way_says_so(cloud_with_tasks: Cloud) -> None:
    assert cloud_with_tasks.capabilities().tasks


def test_threads_share_a_cloud(cloud: Cloud) -> None:
    # Sent one after the other: a Glance on SQLite can't write twice at once. Parallel sends are in
    # tests/unit/test_cloud_openstack.py.
    ids = [sent(cloud, new(f"noble-{n}")).id for n in range(6)]

    with ThreadPoolExecutor(6) as pool:
        images = list(pool.map(cloud.get, ids))

    assert [i.id for i in images if i] == ids
    assert [i.name for i in images if i] == [f"noble-{n}" for n in range(6)]
    for image_id in ids:
        cloud.delete(image_id)
