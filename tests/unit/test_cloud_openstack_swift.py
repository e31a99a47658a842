"""Objects for the tasks way: expiry, segments, and that nothing stays behind."""

from __future__ import annotations

import pytest

from builder.cloud.openstack import OpenStackCloud
from builder.cloud.openstack.login import Logins
from builder.cloud.openstack.requester import Requester
from builder.cloud.openstack.swift import LARGEST, Objects
from builder.errors import CloudError, CloudUnavailableError
from builder.model import FailureClass
from tests.fakes.bodies import BrokenBody, BytesBody
from tests.fakes.glance import FakeGlance, StoredObject, answers
from tests.unit.openstack_world import CONTENT, cloud, clouds_yaml, glance, provider

__all__ = ["cloud", "clouds_yaml", "glance"]

A_DAY = "86400"


@pytest.fixture
def small(glance: FakeGlance) -> Objects:
    """An object store whose objects have at most 40000 bytes; CONTENT has 102400."""
    return Objects(Requester(provider(), Logins(), 5.0), largest=40_000, segment=30_000)


def test_an_object_deletes_itself_after_a_day(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    cloud.put_object("noble-1.vhd", BytesBody(CONTENT), timeout=5.0)

    stored = glance.objects("RegionOne")["images/noble-1.vhd"]
    assert stored.data == CONTENT
    assert stored.headers["x-delete-after"] == A_DAY
    assert glance.objects("RegionTwo") == {}


def test_a_second_object_goes_into_the_same_container(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    for name in ("a.vhd", "größe ?#%.vhd"):
        cloud.put_object(name, BytesBody(CONTENT), timeout=5.0)

    assert set(glance.objects("RegionOne")) == {"images/a.vhd", "images/größe ?#%.vhd"}


def test_a_large_object_is_segments_that_all_delete_themselves(glance: FakeGlance, small: Objects) -> None:
    small.put("noble-1.vhd", BytesBody(CONTENT), timeout=5.0)

    objects = glance.objects("RegionOne")
    whole = objects.pop("images/noble-1.vhd")
    assert list(whole.segments) == [f"images/noble-1.vhd/{n:06}" for n in range(4)]
    assert [len(objects[name].data) for name in whole.segments] == [30_000, 30_000, 30_000, 12_400]
    assert b"".join(objects[name].data for name in whole.segments) == CONTENT
    expiries = {stored.headers["x-delete-after"] for stored in (whole, *objects.values())}
    assert expiries == {A_DAY}


def test_swifts_limit_is_what_makes_an_object_large() -> None:
    assert LARGEST == 5 * 1024**3


@pytest.mark.parametrize("size", [39_999, 40_000])
def test_what_fits_is_one_object(glance: FakeGlance, small: Objects, size: int) -> None:
    small.put("noble-1.vhd", BytesBody(CONTENT[:size]), timeout=5.0)

    assert set(glance.objects("RegionOne")) == {"images/noble-1.vhd"}


def test_a_deleted_object_takes_its_segments_along_and_no_others(glance: FakeGlance, small: Objects) -> None:
    for name in ("noble-1.vhd", "noble-10.vhd"):
        small.put(name, BytesBody(CONTENT), timeout=5.0)
    foreign = StoredObject(data=b"x", segments=(), headers={})
    with glance.lock:
        glance.there("RegionOne").objects["images/noble-1.vhd/readme"] = foreign

    small.delete("noble-1.vhd")

    left = set(glance.objects("RegionOne"))
    assert {name for name in left if "noble-10" not in name} == {"images/noble-1.vhd/readme"}
    assert len(left) == 6


def test_the_segments_of_an_object_that_was_never_finished_are_deleted(
    glance: FakeGlance, small: Objects
) -> None:
    with pytest.raises(ValueError, match="stop it"):
        small.put("noble-1.vhd", BrokenBody(CONTENT, ValueError("stop it")), timeout=5.0)
    assert set(glance.objects("RegionOne")) == {f"images/noble-1.vhd/{n:06}" for n in range(2)}

    small.delete("noble-1.vhd")

    assert glance.objects("RegionOne") == {}


def test_a_broken_object_is_not_sent_again(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    glance.faults.append(answers(503, on="object", after=0.5))

    with pytest.raises(CloudUnavailableError):
        cloud.put_object("noble-1.vhd", BytesBody(CONTENT), timeout=5.0)

    assert glance.count("object") == 1


def test_a_full_object_store_is_of_the_class_of_quotas(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    glance.faults.append(answers(413, on="object", text="Upload exceeds quota."))

    with pytest.raises(CloudError) as caught:
        cloud.put_object("noble-1.vhd", BytesBody(CONTENT), timeout=5.0)

    assert caught.value.failure_class is FailureClass.QUOTA


def test_a_deletion_that_is_refused_is_told(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    cloud.put_object("noble-1.vhd", BytesBody(CONTENT), timeout=5.0)
    glance.faults.append(answers(403, on="object-delete"))

    with pytest.raises(CloudError, match=r"could not delete object noble-1\.vhd"):
        cloud.delete_object("noble-1.vhd")


@pytest.mark.parametrize("said", ["7", '{"name": "x"}', "<html>", "[" * 100_000])
def test_a_list_of_segments_that_is_none_is_not_believed(
    glance: FakeGlance, cloud: OpenStackCloud, said: str
) -> None:
    glance.faults.append(answers(200, on="container", text=said))

    with pytest.raises(CloudError, match="a list of objects that is none"):
        cloud.delete_object("noble-1.vhd")


@pytest.mark.parametrize("name", ["", ".", "..", "../other/x", "a//b", "a/..", "/a"])
def test_a_name_that_leads_elsewhere_sends_no_request(
    glance: FakeGlance, cloud: OpenStackCloud, name: str
) -> None:
    for call in (cloud.delete_object, lambda n: cloud.put_object(n, BytesBody(CONTENT), timeout=5.0)):
        with pytest.raises(CloudError, match="no name for an object"):
            call(name)

    assert glance.requests == []


def test_a_cloud_without_an_object_store_says_so(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    glance.swift = False

    with pytest.raises(CloudError, match="object-store") as caught:
        cloud.put_object("noble-1.vhd", BytesBody(CONTENT), timeout=5.0)

    assert caught.value.failure_class is FailureClass.CONFIG
