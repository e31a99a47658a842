"""What clouds.yaml leads to, and what is said when it leads nowhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import openstack.config
import pytest

from builder.cloud.openstack import OpenStackCloud, config_files, image_format_of
from builder.errors import CloudError, ConfigError
from builder.model import FailureClass, ImageFormat
from tests.fakes.glance import FakeGlance
from tests.unit.openstack_world import cloud, clouds_yaml, glance, provider, write

__all__ = ["cloud", "clouds_yaml", "glance"]


def test_the_format_is_what_the_cloud_says_else_qcow2(clouds_yaml: Path) -> None:
    write(clouds_yaml, plain={"auth": {}}, raw={"auth": {}, "image_format": "raw"})

    assert image_format_of("plain", None) is ImageFormat.QCOW2
    assert image_format_of("raw", "anywhere") is ImageFormat.RAW


def test_a_vendors_profile_knows_its_format(clouds_yaml: Path) -> None:
    write(clouds_yaml, rax={"profile": "rackspace", "auth": {}})

    assert image_format_of("rax", "IAD") is ImageFormat.VHD


def test_a_port_of_statsd_that_is_none_keeps_nobody_from_the_clouds(
    clouds_yaml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATSD_HOST", "127.0.0.1")
    monkeypatch.setenv("STATSD_PORT", "not a number")
    write(clouds_yaml, plain={"auth": {}, "image_format": "raw"})

    assert image_format_of("plain", None) is ImageFormat.RAW


def test_what_changes_is_read_again(
    clouds_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(clouds_yaml, plain={"auth": {}, "image_format": "raw"})
    assert image_format_of("plain", None) is ImageFormat.RAW

    write(clouds_yaml, plain={"auth": {}, "image_format": "vhd"})
    assert image_format_of("plain", None) is ImageFormat.VHD

    secure = tmp_path / "secure.yaml"
    monkeypatch.setenv("OS_CLIENT_SECURE_FILE", str(secure))
    write(secure, plain={"image_format": "vmdk"})
    assert image_format_of("plain", None) is ImageFormat.VMDK

    secure.unlink()
    assert image_format_of("plain", None) is ImageFormat.VHD


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


@pytest.mark.parametrize("word", ["ploop", "aki", "ari"])
def test_a_format_nobody_can_make_alone_is_refused(clouds_yaml: Path, word: str) -> None:
    write(clouds_yaml, odd={"auth": {}, "image_format": word})

    with pytest.raises(ConfigError, match=rf"'odd'.*'{word}'.*known: qcow2, raw, vhd, vhdx, vmdk, ami"):
        image_format_of("odd", None)


def test_a_broken_file_is_a_config_error(clouds_yaml: Path) -> None:
    clouds_yaml.write_text("clouds:\n  plain: {password: *hunter2")

    with pytest.raises(ConfigError, match=r"clouds\.yaml is not YAML, line 2, column 21") as caught:
        image_format_of("plain", None)

    assert "hunter2" not in str(caught.value)


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


# -- files that come and go ----------------------------------------------------------------------


def test_a_file_that_cant_be_read_is_told_as_that(clouds_yaml: Path) -> None:
    # Even root can't read what leads to itself.
    clouds_yaml.symlink_to(clouds_yaml)

    with pytest.raises(ConfigError) as caught:
        image_format_of("plain", None)

    assert f"{clouds_yaml} can't be read: Too many levels of symbolic links" in caught.value.message
    assert "not found" not in str(caught.value)


def test_a_directory_in_its_place_is_told_as_that(clouds_yaml: Path, cloud: OpenStackCloud) -> None:
    clouds_yaml.mkdir()

    with pytest.raises(ConfigError, match="can't be read: Is a directory"):
        image_format_of("plain", None)
    with pytest.raises(CloudError, match="can't be read: Is a directory") as caught:
        cloud.get("x")

    assert caught.value.failure_class is FailureClass.CONFIG


def test_secrets_that_cant_be_read_are_told_as_that(
    clouds_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(clouds_yaml, plain={"auth": {"auth_url": "http://127.0.0.1:9"}})
    secure = tmp_path / "secure.yaml"
    secure.symlink_to(secure)
    monkeypatch.setenv("OS_CLIENT_SECURE_FILE", str(secure))

    with pytest.raises(CloudError, match=rf"{secure} can't be read") as caught:
        OpenStackCloud(provider(cloud="plain", region=None)).get("x")

    assert caught.value.failure_class is FailureClass.CONFIG


def test_a_place_that_is_looked_at_for_two_reasons_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(tmp_path / "clouds.yaml")
    monkeypatch.setattr(openstack.config.loader, "CONFIG_FILES", [place, "/none/clouds.yaml"])
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", place)

    with pytest.raises(ConfigError) as caught:
        image_format_of("plain", None)

    assert caught.value.hint == f"Looked for {place}, /none/clouds.yaml."


@pytest.mark.parametrize(
    "clouds",
    [
        {},
        {"other": {"auth": {}}},
        {"fake": {"auth": {}, "regions": ["Mars"]}},
        {"fake": {"auth": {}, "regions": ["RegionOne"]}},
    ],
)
def test_no_sentence_ends_twice(
    clouds_yaml: Path, cloud: OpenStackCloud, clouds: Mapping[str, object]
) -> None:
    if clouds:
        write(clouds_yaml, **clouds)

    with pytest.raises(CloudError) as caught:
        cloud.get("x")

    assert caught.value.failure_class is FailureClass.CONFIG
    assert ".." not in str(caught.value)
    assert not caught.value.message.endswith(".")


def test_a_file_that_is_missing_for_a_moment_is_missed_for_a_moment(
    glance: FakeGlance, clouds_yaml: Path, cloud: OpenStackCloud
) -> None:
    away = clouds_yaml.rename(clouds_yaml.with_suffix(".away"))
    with pytest.raises(CloudError, match=r"there is no clouds\.yaml") as caught:
        cloud.get("x")
    assert caught.value.failure_class is FailureClass.CONFIG

    away.rename(clouds_yaml)

    assert cloud.get("x") is None


def test_a_cloud_that_is_logged_in_does_not_miss_its_file(
    glance: FakeGlance, clouds_yaml: Path, cloud: OpenStackCloud
) -> None:
    cloud.get("x")
    clouds_yaml.unlink()

    assert cloud.get("x") is None


def test_the_files_in_use_are_known_even_while_they_are_broken_or_away(
    clouds_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secure = tmp_path / "secure.yaml"
    monkeypatch.setenv("OS_CLIENT_SECURE_FILE", str(secure))
    monkeypatch.setattr(openstack.config.loader, "CONFIG_FILES", [])
    monkeypatch.setattr(openstack.config.loader, "SECURE_FILES", [])
    assert config_files() == (clouds_yaml, secure)

    clouds_yaml.write_text("clouds: [")

    assert config_files() == (clouds_yaml, secure)


def test_a_file_in_one_of_the_usual_places_is_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [tmp_path / "a.yaml", tmp_path / "b.yaml", tmp_path / "c.yaml"]
    monkeypatch.delenv("OS_CLIENT_CONFIG_FILE", raising=False)
    monkeypatch.delenv("OS_CLIENT_SECURE_FILE", raising=False)
    monkeypatch.setattr(openstack.config.loader, "CONFIG_FILES", [str(place) for place in places])
    monkeypatch.setattr(openstack.config.loader, "SECURE_FILES", [])
    assert config_files() == ()

    for place in places[1:]:
        write(place, plain={"auth": {}})

    assert config_files() == (places[1],)
