"""What a Glance says it can do, imports, and changes, beyond what the contract's tests tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.cloud.base import Change, TaskState
from builder.cloud.openstack import OpenStackCloud
from builder.errors import CloudError, CloudUnavailableError, NotFoundError
from builder.model import FailureClass
from builder.ways import Quota, Way
from tests.fakes.bodies import BytesBody
from tests.fakes.glance import FakeGlance, answers, fails_import
from tests.unit.openstack_world import CONTENT, cloud, clouds_yaml, glance, new, provider, wait_for

__all__ = ["cloud", "clouds_yaml", "glance"]

MIB = 1024**2


# -- what it can do ------------------------------------------------------------------------------


def test_all_that_it_tells_is_known(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    glance.import_methods = ["web-download", "copy-image"]
    glance.stores = ["fast", "slow"]
    glance.disk_formats = {"raw", "vhd"}

    can = cloud.capabilities()

    assert can.import_methods == {"web-download", "copy-image"}
    assert can.stores == ("fast", "slow")
    assert can.disk_formats == {"raw", "vhd"}
    assert not can.tasks


@pytest.mark.parametrize("status", [300, 403, 404, 405, 501])
def test_what_it_does_not_tell_is_empty(glance: FakeGlance, cloud: OpenStackCloud, status: int) -> None:
    glance.faults += [answers(status, on=on, times=None) for on in ("schema", "info", "quota")]

    can = cloud.capabilities()

    assert (can.disk_formats, can.import_methods, can.stores) == (frozenset(), frozenset(), ())
    assert cloud.quotas() == {}


def test_a_service_that_breaks_is_not_taken_for_an_old_one(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    glance.faults.append(answers(503, on="info"))

    with pytest.raises(CloudUnavailableError):
        cloud.capabilities()


@pytest.mark.parametrize(("said", "tasks"), [(True, True), ("True", True), (False, False), ("no", False)])
def test_the_tasks_way_is_what_clouds_yaml_says(
    glance: FakeGlance, clouds_yaml: Path, cloud: OpenStackCloud, said: object, tasks: bool
) -> None:
    glance.clouds_yaml(clouds_yaml, image_api_use_tasks=said)

    assert cloud.capabilities().tasks is tasks


def test_the_tasks_way_is_what_the_vendors_profile_says(
    glance: FakeGlance, clouds_yaml: Path, cloud: OpenStackCloud
) -> None:
    glance.clouds_yaml(clouds_yaml, profile="rackspace", auth_type="password")

    assert cloud.capabilities().tasks


def test_limits_come_in_mebibytes_and_go_in_bytes(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    glance.quotas = {
        "image_size_total": 10,
        "image_stage_total": -1,
        "image_count_total": 3,
        "image_count_uploading": 1,
    }
    glance.add("RegionOne", size=4 * MIB)

    assert cloud.quotas() == {
        "image_size_total": Quota(limit=10 * MIB, used=4 * MIB),
        "image_stage_total": Quota(limit=-1, used=0),
        "image_count_total": Quota(limit=3, used=1),
        "image_count_uploading": Quota(limit=1, used=0),
    }


# -- imports -------------------------------------------------------------------------------------


def test_staging_over_the_quota_is_of_its_class(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    made = cloud.create(new())
    glance.quotas = {"image_stage_total": 0}

    with pytest.raises(CloudError) as caught:
        cloud.stage(made.id, BytesBody(bytes(2 * MIB)), timeout=5.0)

    assert caught.value.failure_class is FailureClass.QUOTA


def test_a_broken_staging_is_not_sent_again(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    made = cloud.create(new())
    glance.faults.append(answers(503, on="stage", after=0.5))

    with pytest.raises(CloudUnavailableError):
        cloud.stage(made.id, BytesBody(CONTENT), timeout=5.0)

    assert glance.count("stage") == 1


def test_a_url_that_glance_may_not_fetch_is_refused(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    glance.download_ports = {80, 443}
    made = cloud.create(new())

    with pytest.raises(CloudError, match="does not pass filtering"):
        cloud.import_image(made.id, Way.WEB_DOWNLOAD, url="http://127.0.0.1:9/noble.raw")


def test_the_newest_import_comes_first_and_says_why_it_failed(
    glance: FakeGlance, cloud: OpenStackCloud
) -> None:
    glance.faults.append(fails_import("the store is full"))
    made = cloud.create(new())
    for state in (TaskState.FAILURE, TaskState.SUCCESS):
        cloud.stage(made.id, BytesBody(CONTENT), timeout=5.0)
        cloud.import_image(made.id, Way.GLANCE_DIRECT)
        wait_for(lambda state=state: cloud.import_tasks(made.id)[0].state is state)

    second, first = cloud.import_tasks(made.id)

    assert (second.state, second.message, second.image_id) == (TaskState.SUCCESS, "", made.id)
    assert first.state is TaskState.FAILURE
    assert "the store is full" in first.message


def test_imports_are_none_where_they_are_not_told(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    glance.faults.append(answers(404, on="import-tasks"))

    assert cloud.import_tasks("x") == ()


def test_an_answer_that_is_no_document_is_told(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    glance.faults.append(answers(200, on="task", text="all is well"))

    with pytest.raises(
        CloudError, match="could not ask for task t: the cloud sent an answer that is no JSON"
    ):
        cloud.get_task("t")


# -- changes ---------------------------------------------------------------------------------------


def test_a_change_is_one_patch_and_a_request_for_each_tag(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    made = cloud.create(new(os_distro="debian"))

    cloud.update(
        made.id,
        Change(
            name="noble",
            properties={"min_ram": "512", "protected": "true", "os_distro": "ubuntu"},
            add_tags=frozenset({"a", "b"}),
            remove_tags=frozenset({"c"}),
        ),
    )

    (stored,) = glance.images("RegionOne")
    assert (stored["min_ram"], stored["protected"], stored["os_distro"]) == (512, True, "ubuntu")
    assert (glance.count("change"), glance.count("tag")) == (1, 3)
    (patch,) = (r for r in glance.requests if r.on == "change")
    assert patch.headers["Content-Type"] == "application/openstack-images-v2.1-json-patch"


def test_a_tag_is_added_before_another_goes(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    made = cloud.create(new())
    glance.faults.append(answers(500, on="change"))
    cloud.update(made.id, Change(add_tags=frozenset({"old"})))

    with pytest.raises(CloudUnavailableError):
        cloud.update(made.id, Change(name="x", add_tags=frozenset({"new"}), remove_tags=frozenset({"old"})))

    (stored,) = glance.images("RegionOne")
    assert set(stored["tags"]) == {"old", "new"}


def test_a_404_of_something_before_glance_is_no_missing_image(glance: FakeGlance, clouds_yaml: Path) -> None:
    glance.clouds_yaml(clouds_yaml, image_endpoint_override=f"http://127.0.0.1:{glance.port}/nowhere")

    with pytest.raises(CloudError, match="404") as caught:
        OpenStackCloud(provider()).update("x", Change(name="y"))

    assert not isinstance(caught.value, NotFoundError)


def test_a_protected_image_says_so_when_it_is_changed(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    glance.faults.append(answers(403, on="change", text="You are not permitted to modify this image."))

    with pytest.raises(CloudError, match="not permitted to modify") as caught:
        cloud.update("x", Change(hidden=True))

    assert caught.value.failure_class is FailureClass.AUTH


# -- what is in use ----------------------------------------------------------------------------------


def test_an_image_in_use_is_told_as_that(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    made = cloud.create(new())
    glance.in_use.add(made.id)

    with pytest.raises(CloudError) as caught:
        cloud.delete(made.id)

    assert caught.value.in_use
    glance.in_use.clear()
    glance.faults.append(answers(403, on="delete"))
    with pytest.raises(CloudError) as caught:
        cloud.delete(made.id)
    assert not caught.value.in_use


# -- lists -----------------------------------------------------------------------------------------


def test_a_list_is_asked_for_page_by_page_as_it_is_read(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    for number in range(9):
        cloud.create(new(f"noble-{number}", mark="m"))

    images = cloud.find({"mark": "m"})
    assert glance.count("find") == 0
    first = next(images)

    assert first.name == "noble-0"
    assert glance.count("find") == 1
    assert [image.name for image in images] == [f"noble-{n}" for n in range(1, 9)]
