"""OpenStackCloud beyond the contract: lists, answers, what errors say, what nobody should believe."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from builder.cloud.openstack import OpenStackCloud
from builder.cloudimage import GlanceStatus
from builder.errors import CloudError, CloudUnavailableError
from builder.model import FailureClass
from tests.fakes.bodies import BytesBody
from tests.fakes.glance import PASSWORD, FakeGlance, answers, floods, trickles
from tests.unit.openstack_world import CONTENT, cloud, clouds_yaml, glance, new, provider

__all__ = ["cloud", "clouds_yaml", "glance"]


# -- lists and answers -------------------------------------------------------------------------


def test_a_list_of_many_pages_is_read_to_its_end(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    ids = {cloud.create(new(f"noble-{n}", mark="m", os_hidden=str(n % 2 == 0))).id for n in range(9)}

    assert {image.id for image in cloud.find({"mark": "m"})} == ids


def test_only_images_of_our_project_are_found(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    glance.add("RegionOne", mark="m", owner="somebody else", visibility="public")
    ours = glance.add("RegionOne", mark="m")
    glance.add("RegionTwo", mark="m")

    assert [image.id for image in cloud.find({"mark": "m"})] == [ours]


def test_a_404_of_something_before_glance_does_not_mean_gone(glance: FakeGlance, clouds_yaml: Path) -> None:
    glance.clouds_yaml(clouds_yaml, image_endpoint_override=f"http://127.0.0.1:{glance.port}/nowhere")
    cloud = OpenStackCloud(provider())

    with pytest.raises(CloudError, match="404"):
        cloud.get("x")
    with pytest.raises(CloudError, match="404"):
        cloud.delete("x")


@pytest.mark.parametrize("suffix", ["", "/", "/v2", "/v2/", "/v2.9"])
def test_an_endpoint_may_name_its_version_or_not(glance: FakeGlance, clouds_yaml: Path, suffix: str) -> None:
    url = f"http://127.0.0.1:{glance.port}/image/RegionTwo{suffix}"
    glance.clouds_yaml(clouds_yaml, image_endpoint_override=url)

    image = OpenStackCloud(provider()).create(new())

    assert [i["id"] for i in glance.images("RegionTwo")] == [image.id]


def test_properties_that_glance_types_are_sent_in_their_types(
    glance: FakeGlance, cloud: OpenStackCloud
) -> None:
    made = cloud.create(new(min_ram="512", protected="false", os_distro="debian"))

    (stored,) = glance.images("RegionOne")
    assert (stored["min_ram"], stored["protected"], stored["min_disk"]) == (512, False, 1)
    assert (made.properties["min_ram"], made.properties["protected"]) == ("512", "false")


def test_an_error_says_who_wanted_what_and_what_was_said(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    glance.faults.append(answers(409, on="delete", text="Image abc could not be <b>deleted</b>: in use"))

    with pytest.raises(CloudError) as caught:
        cloud.delete("abc")

    assert caught.value.message.startswith("provider north: could not delete image abc: the answer was 409:")
    assert "Image abc could not be deleted : in use" in caught.value.message
    assert "servers and volumes" in caught.value.hint


def test_a_long_answer_is_cut_and_an_echoed_token_masked(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    cloud.get("x")
    token = glance.requests[-1].headers["X-Auth-Token"]
    glance.faults.append(answers(500, on="get", text=f"bad {token} " + "blah " * 500))

    with pytest.raises(CloudUnavailableError) as caught:
        cloud.get("x")

    assert token not in caught.value.message
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    "said",
    ["<" * (4 << 20), "<head>" * (1 << 20), "://a@ " * (1 << 20), "[" * (1 << 20)],
    ids=["tags", "heads", "passwords", "brackets"],
)
def test_an_answer_made_to_keep_us_busy_does_not(
    glance: FakeGlance, cloud: OpenStackCloud, said: str
) -> None:
    # Searching it for what it never ends takes hours, and nothing else of ours runs meanwhile.
    glance.faults += [answers(500, on="get", text=said), answers(200, on="get", text=said)]
    began = time.monotonic()

    with pytest.raises(CloudUnavailableError):
        cloud.get("x")
    with pytest.raises(CloudError, match="no JSON object"):
        cloud.get("x")
    assert time.monotonic() - began < 30


def test_a_list_that_never_ends_is_given_up(
    glance: FakeGlance, cloud: OpenStackCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builder.cloud.openstack.cloud.PAGE_SIZE", 2)
    monkeypatch.setattr("builder.cloud.openstack.cloud.IMAGES_LIMIT", 5)
    for number in range(8):
        cloud.create(new(f"noble-{number}", mark="m"))

    with pytest.raises(CloudError, match="a list of more than 5 images"):
        list(cloud.find({"mark": "m"}))


def test_threads_send_in_parallel_over_one_login(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    def send(number: int) -> str:
        made = cloud.create(new(f"noble-{number}"))
        cloud.send(made.id, BytesBody(CONTENT), timeout=10.0)
        return made.id

    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(send, range(16)))

    assert glance.count("auth") == 1
    states = [cloud.get(image_id) for image_id in ids]
    assert [s.status for s in states if s] == [GlanceStatus.ACTIVE] * 16


# -- what nobody should believe ----------------------------------------------------------------


@pytest.mark.parametrize(
    "image_id",
    [
        "../../identity/v3",
        "..",
        "a/b",
        "a/../b",
        "x" * 300,
        "",
        "a?b",
        "a%2fb",
        "a#b",
        "a\n",
        "\u00fc",
        "-rf",
    ],
)
def test_an_id_that_leads_elsewhere_sends_no_request(
    glance: FakeGlance, cloud: OpenStackCloud, image_id: str
) -> None:
    list(cloud.find({"mark": "m"}))
    before = len(glance.requests)
    calls: list[Callable[[], object]] = [
        lambda: cloud.get(image_id),
        lambda: cloud.delete(image_id),
        lambda: cloud.send(image_id, BytesBody(CONTENT), timeout=5.0),
    ]

    for call in calls:
        with pytest.raises(CloudError, match="is no image id") as caught:
            call()
        assert caught.value.failure_class is FailureClass.CLOUD

    assert len(glance.requests) == before


@pytest.mark.parametrize("call", ["get", "find", "delete", "send"])
def test_an_answer_without_an_end_is_not_kept(glance: FakeGlance, cloud: OpenStackCloud, call: str) -> None:
    made = cloud.create(new())
    glance.faults.append(floods(64 << 20, on=call))
    tracemalloc.start()
    try:
        with pytest.raises(CloudError, match="an answer of more than 16777216 bytes") as caught:
            request(cloud, call, made.id)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert caught.value.failure_class is FailureClass.CLOUD
    assert peak < 48 << 20
    # The cloud is used on as if nothing had been.
    assert cloud.get(made.id) is not None
    assert glance.count("auth") == 1


@pytest.mark.parametrize("call", ["get", "find", "delete", "send"])
def test_an_answer_that_trickles_is_cut(glance: FakeGlance, call: str) -> None:
    cloud = OpenStackCloud(provider(), answer_timeout=0.5)
    made = cloud.create(new())
    glance.faults.append(trickles(on=call))
    began = time.monotonic()

    with pytest.raises(CloudUnavailableError, match="no answer in time") as caught:
        request(cloud, call, made.id)

    assert caught.value.failure_class is FailureClass.TIMEOUT
    assert time.monotonic() - began < 10.0


def request(cloud: OpenStackCloud, call: str, image_id: str) -> None:
    """One request of a kind."""
    if call == "get":
        cloud.get(image_id)
    elif call == "find":
        list(cloud.find({"mark": "m"}))
    elif call == "delete":
        cloud.delete(image_id)
    else:
        cloud.send(image_id, BytesBody(CONTENT), timeout=60.0)


@pytest.mark.parametrize("variable", ["http_proxy", "HTTPS_PROXY", "all_proxy"])
@pytest.mark.parametrize("value", ["http://u:s3cret@", "u:s3cret@", "http://[s3cret", "http://"])
def test_a_proxy_without_a_host_is_named_without_its_password(
    glance: FakeGlance,
    cloud: OpenStackCloud,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(CloudError, match=variable.lower()) as caught:
        cloud.get("x")

    assert caught.value.failure_class is FailureClass.CONFIG
    assert "s3cret" not in str(caught.value) + caught.value.hint
    assert glance.requests == []


def test_a_proxy_with_a_host_is_no_trouble(
    glance: FakeGlance, cloud: OpenStackCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"u:{PASSWORD}@127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    assert cloud.get("x") is None


def test_a_proxy_that_does_not_answer_is_named_without_its_password(
    glance: FakeGlance, cloud: OpenStackCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://u:s3cret@127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)

    with pytest.raises(CloudUnavailableError) as caught:
        cloud.get("x")

    assert "s3cret" not in str(caught.value) + caught.value.hint


def test_credentials_in_what_a_cloud_says_are_masked(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    said = "can't copy from swift+https://backend:s3cret@store.example/v1; s3cret"
    glance.faults += [
        answers(500, on="get", text=said),
        answers(500, on="get", text="x" * 285 + " http://backend:s3cret@store.example"),
    ]

    for _ in range(2):
        with pytest.raises(CloudUnavailableError) as caught:
            cloud.get("x")
        assert "backend:s3cret" not in caught.value.message
        assert "backend:s3" not in caught.value.message
