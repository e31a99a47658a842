"""Glance's JSON, also where it is not what the API reference says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from builder.cloud.base import Change, NewImage, TaskState
from builder.cloud.openstack import documents
from builder.cloudimage import GlanceStatus
from builder.ways import Quota

IMAGE = {"id": "i", "status": "active"}


def test_an_image_needs_no_more_than_an_id_and_a_status() -> None:
    image = documents.image(IMAGE)

    assert (image.id, image.status, image.name, image.size) == ("i", GlanceStatus.ACTIVE, "", None)
    assert (image.tags, image.hidden, image.created, image.min_disk) == (frozenset(), False, None, None)


def test_all_of_an_image_is_read() -> None:
    document = {
        **IMAGE,
        "tags": ["a", "b"],
        "os_hidden": True,
        "created_at": "2026-11-20T14:14:00Z",
        "disk_format": "vhd",
        "min_disk": 4,
        "size": 7,
        "os_distro": "debian",
        "imagepool_note": None,
    }

    image = documents.image(document)

    assert (image.tags, image.hidden, image.disk_format, image.min_disk) == ({"a", "b"}, True, "vhd", 4)
    assert image.created == datetime(2026, 11, 20, 14, 14, tzinfo=UTC)
    assert image.properties == {"os_hidden": "true", "min_disk": "4", "os_distro": "debian"}


@pytest.mark.parametrize(
    ("disk", "container"),
    [("qcow2", "bare"), ("raw", "bare"), ("vhd", "bare"), ("ami", "ami"), ("aki", "aki"), ("ari", "ari")],
)
def test_only_the_three_part_format_is_wrapped_in_itself(disk: str, container: str) -> None:
    image = NewImage(name="noble", disk_format=disk, min_disk=0, properties={})

    document = documents.of_new_image(image)

    assert (document["disk_format"], document["container_format"]) == (disk, container)


@pytest.mark.parametrize("stamp", [None, "", "yesterday", 7])
def test_a_time_that_is_none_is_unknown(stamp: object) -> None:
    assert documents.image({**IMAGE, "created_at": stamp}).created is None


def test_a_time_without_a_zone_is_in_utc() -> None:
    image = documents.image({**IMAGE, "created_at": "2026-11-20T14:14:00"})

    assert image.created == datetime(2026, 11, 20, 14, 14, tzinfo=UTC)


@pytest.mark.parametrize(
    ("parse", "document"),
    [
        (documents.image, {}),
        (documents.image, {"id": "i"}),
        (documents.image, {"id": 1, "status": "active"}),
        (documents.task, {}),
        (documents.task, {"id": None}),
        (documents.tasks, {"tasks": [{"status": "success"}]}),
    ],
)
def test_what_has_no_id_is_strange(
    parse: Callable[[Mapping[str, Any]], object], document: Mapping[str, Any]
) -> None:
    with pytest.raises(documents.StrangeError, match="without"):
        parse(document)


@pytest.mark.parametrize(
    ("status", "state", "message"),
    [
        ("pending", TaskState.PENDING, ""),
        ("processing", TaskState.PROCESSING, ""),
        ("success", TaskState.SUCCESS, ""),
        ("failure", TaskState.FAILURE, "Copied 3 MiB"),
        ("pondering", TaskState.OTHER, "Copied 3 MiB"),
    ],
)
def test_a_message_is_of_what_went_wrong(status: str, state: TaskState, message: str) -> None:
    task = documents.task({"id": "t", "status": status, "message": "Copied 3 MiB", "image_id": "i"})

    assert (task.state, task.message, task.image_id) == (state, message, "i")


def test_a_message_is_one_line_without_passwords() -> None:
    said = "could not fetch https://ann:s3cret@files.example/a.raw\n" + "blah " * 1000
    task = documents.task({"id": "t", "status": "failure", "message": said})

    assert "could not fetch" in task.message and "s3cret" not in task.message
    assert len(task.message) <= 300 and "\n" not in task.message


@pytest.mark.parametrize("value", [{}, [1], {"a": "b"}, 1.5])
def test_what_is_of_another_type_than_it_should_be_is_not_told(value: object) -> None:
    names = ("name", "size", "os_hash_algo", "os_hash_value", "checksum", "visibility", "disk_format")

    assert documents.image({**IMAGE, **dict.fromkeys((*names, "min_disk"), value)}) == replace(
        documents.image(IMAGE), properties={"min_disk": str(value)}
    )
    assert documents.task({"id": "t", "status": "success", "result": {"image_id": value}}).image_id is None


@pytest.mark.parametrize(
    "page", [{"images": None}, {"images": "abc"}, {"images": {}, "next": 7}, {"next": []}]
)
def test_a_page_without_a_list_is_the_last_and_empty(page: Mapping[str, Any]) -> None:
    assert documents.images(page) == []
    assert documents.next_page(page) == {}


def test_an_image_that_is_no_object_is_strange() -> None:
    with pytest.raises(documents.StrangeError, match="no JSON object"):
        documents.images({"images": [7]})


def test_the_image_that_a_task_made_is_in_its_result() -> None:
    task = documents.task({"id": "t", "status": "success", "result": {"image_id": "made"}})

    assert task.image_id == "made"


def test_the_newest_task_is_the_first() -> None:
    listed = [{"id": str(n), "created_at": f"2026-11-20T14:{n}:00Z"} for n in (14, 16, 15)]

    assert [task.id for task in documents.tasks({"tasks": listed})] == ["16", "15", "14"]


@pytest.mark.parametrize("document", [{}, {"usage": None}, {"usage": {"image_count_total": None}}])
def test_limits_that_are_none_are_none(document: Mapping[str, Any]) -> None:
    assert documents.quotas(document) == {}


def test_only_sizes_are_in_mebibytes() -> None:
    usage = {name: {"limit": 2, "usage": 1} for name in ("image_size_total", "image_count_total")}

    assert documents.quotas({"usage": usage}) == {
        "image_size_total": Quota(limit=2 * 1024**2, used=1024**2),
        "image_count_total": Quota(limit=2, used=1),
    }


@pytest.mark.parametrize("told", [{}, {"properties": None}, {"import-methods": []}, {"stores": {"id": 1}}])
def test_what_is_told_in_no_known_way_is_not_told(told: Mapping[str, Any]) -> None:
    assert documents.disk_formats(told) == frozenset()
    assert documents.import_methods(told) == frozenset()
    assert documents.stores(told) == ()


def test_a_change_names_what_it_changes_and_in_its_type() -> None:
    change = Change(hidden=False, name="", properties={"a/b~c": "1", "min_disk": "3"})

    assert {(each["op"], each["path"], each["value"]) for each in documents.of_change(change)} == {
        ("add", "/os_hidden", False),
        ("add", "/name", ""),
        ("add", "/a~1b~0c", "1"),
        ("add", "/min_disk", 3),
    }
    assert documents.of_change(Change(add_tags=frozenset({"t"}))) == []
