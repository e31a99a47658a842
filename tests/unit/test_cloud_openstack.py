"""OpenStackCloud beyond the contract: clouds.yaml, logging in, tokens, lists, what errors say."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from builder.cloud.base import GlanceStatus, NewImage
from builder.cloud.openstack import OpenStackCloud, image_format_of
from builder.errors import CloudError, CloudUnavailableError, ConfigError
from builder.model import FailureClass, ImageFormat
from tests.fakes.bodies import BytesBody
from tests.fakes.glance import PASSWORD, FakeGlance, answers, floods, hangs, trickles
from tests.unit.cloud_world import content, provider

CONTENT = content(100_000)


@pytest.fixture
def clouds_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "clouds.yaml"
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(path))
    return path


@pytest.fixture
def glance(clouds_yaml: Path) -> Iterator[FakeGlance]:
    with FakeGlance.start(page_size=2) as server:
        server.clouds_yaml(clouds_yaml)
        yield server


@pytest.fixture
def cloud() -> OpenStackCloud:
    return OpenStackCloud(provider(), answer_timeout=5.0)


def new(name: str = "noble-1", **properties: str) -> NewImage:
    return NewImage(name=name, disk_format="raw", size=len(CONTENT), min_disk=1, properties=properties)


# -- clouds.yaml -------------------------------------------------------------------------------


def write(path: Path, **clouds: object) -> None:
    path.write_text(yaml.safe_dump({"clouds": clouds}))


def test_the_format_is_what_the_cloud_says_else_qcow2(clouds_yaml: Path) -> None:
    write(clouds_yaml, plain={"auth": {}}, raw={"auth": {}, "image_format": "raw"})

    assert image_format_of("plain", None) is ImageFormat.QCOW2
    assert image_format_of("raw", "anywhere") is ImageFormat.RAW


def test_a_vendors_profile_knows_its_format(clouds_yaml: Path) -> None:
    write(clouds_yaml, rax={"profile": "rackspace", "auth": {}})

    assert image_format_of("rax", "IAD") is ImageFormat.VHD


def test_an_unknown_cloud_is_told_with_the_file(clouds_yaml: Path) -> None:
    write(clouds_yaml, plain={"auth": {}})

    with pytest.raises(ConfigError) as caught:
        image_format_of("plian", None)

    assert "plian" in caught.value.message
    assert str(clouds_yaml) in caught.value.hint


def test_a_missing_file_is_told_with_all_places(
    clouds_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ConfigError) as caught:
        image_format_of("plain", None)

    assert str(clouds_yaml) in caught.value.hint
    assert "/etc/openstack/clouds.yaml" in caught.value.hint


def test_an_unknown_region_is_told_with_those_there_are(glance: FakeGlance) -> None:
    with pytest.raises(ConfigError, match=r"Mars.*RegionOne,RegionTwo"):
        image_format_of("fake", "Mars")


def test_a_format_nobody_can_make_is_refused(clouds_yaml: Path) -> None:
    write(clouds_yaml, odd={"auth": {}, "image_format": "ami"})

    with pytest.raises(ConfigError, match=r"'odd'.*'ami'"):
        image_format_of("odd", None)


def test_a_broken_file_is_a_config_error(clouds_yaml: Path) -> None:
    clouds_yaml.write_text("clouds: [")

    with pytest.raises(ConfigError, match="plain"):
        image_format_of("plain", None)


def test_a_cloud_missing_from_clouds_yaml_fails_as_config(clouds_yaml: Path, cloud: OpenStackCloud) -> None:
    write(clouds_yaml, other={"auth": {}})

    with pytest.raises(CloudError, match="provider north: could not ask for image x") as caught:
        cloud.get("x")

    assert caught.value.failure_class is FailureClass.CONFIG
    assert str(clouds_yaml) in caught.value.hint


def test_a_region_without_image_service_fails_as_config(glance: FakeGlance, clouds_yaml: Path) -> None:
    glance.clouds_yaml(clouds_yaml, {"fake": ["RegionOne", "Mars"]})

    with pytest.raises(CloudError, match="image service in Mars region not found") as caught:
        OpenStackCloud(provider(region="Mars")).get("x")

    assert caught.value.failure_class is FailureClass.CONFIG


# -- logging in --------------------------------------------------------------------------------


def test_one_login_serves_many_requests(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    for _ in range(5):
        cloud.get("x")

    assert glance.count("auth") == 1


def test_a_corrected_password_needs_no_restart(
    glance: FakeGlance, clouds_yaml: Path, cloud: OpenStackCloud
) -> None:
    glance.password = "new-one"
    with pytest.raises(CloudError) as caught:
        cloud.get("x")
    assert caught.value.failure_class is FailureClass.AUTH
    assert "clouds.yaml" in caught.value.hint

    clouds_yaml.write_text(clouds_yaml.read_text().replace("kept-in-clouds-yaml", "new-one"))

    assert cloud.get("x") is None


def test_a_revoked_token_is_renewed(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    cloud.get("x")
    glance.revoke_tokens()

    assert cloud.get("x") is None
    assert glance.count("auth") == 2


def test_a_token_near_its_end_is_renewed_before_the_bytes(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    glance.token_life = 600.0
    made = cloud.create(new())
    glance.token_life = 3600.0

    cloud.send(made.id, BytesBody(CONTENT), timeout=10.0)

    assert glance.count("auth") == 2
    create, send = (r for r in glance.requests if r.on in ("create", "send"))
    assert create.headers["X-Auth-Token"] != send.headers["X-Auth-Token"]


def test_a_refused_put_is_not_sent_again_but_the_next_login_is_fresh(
    glance: FakeGlance, cloud: OpenStackCloud
) -> None:
    made = cloud.create(new())
    glance.faults.append(answers(401, on="send"))

    with pytest.raises(CloudError) as caught:
        cloud.send(made.id, BytesBody(CONTENT), timeout=10.0)
    assert caught.value.failure_class is FailureClass.AUTH
    assert glance.count("send") == 1

    cloud.get(made.id)
    assert glance.count("auth") == 2


def test_a_cloud_that_comes_back_is_used_again(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    cloud.get("x")
    glance.down()
    with pytest.raises(CloudUnavailableError) as caught:
        cloud.get("x")
    assert caught.value.failure_class is FailureClass.NETWORK

    glance.up()

    assert cloud.get("x") is None


def test_a_login_that_hangs_is_cut(glance: FakeGlance) -> None:
    glance.faults.append(hangs(on="auth"))

    with pytest.raises(CloudUnavailableError) as caught:
        OpenStackCloud(provider(), answer_timeout=0.3).get("x")

    assert caught.value.failure_class is FailureClass.TIMEOUT


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
    ["../../identity/v3", "..", "a/b", "a/../b", "x" * 300, "", "a?b", "a%2fb", "a#b", "a\n", "\u00fc"],
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
