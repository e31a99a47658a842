"""The bill of materials: valid, complete, and the same for the same build."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from builder.dib.contents import sbom
from builder.dib.contents.packages import Distribution, Package
from builder.dib.output.hashing import Disk
from builder.model import Artifact, ImageFormat
from tests.unit.dib_world import BUILD

DEBIAN = Distribution(name="debian", version="12", title="Debian GNU/Linux 12 (bookworm)")
BASH = Package(name="bash", version="5.2.15-2+b7", architecture="amd64", kind="deb")
LIBC = Package(name="libc6", version="2.36-9", architecture="amd64", kind="deb", source="glibc")
VIM = Package(name="vim", version="2:9.1-1.fc40", architecture="x86_64", kind="rpm", license="Vim and MIT")
QCOW2 = Artifact(
    format=ImageFormat.QCOW2, size=1, virtual_size=2, md5="0" * 32, sha256="a" * 64, sha512="b" * 128
)
SUBJECT = sbom.Subject(
    image="debian-bookworm",
    build_id=BUILD,
    started=datetime(2024, 5, 6, 14, 14, tzinfo=UTC),
    artifacts=(QCOW2,),
    disk=Disk(sha256="d" * 64, size=2),
)


@pytest.mark.parametrize(
    ("subject", "packages", "distribution"),
    [
        (SUBJECT, [BASH, LIBC, VIM, BASH], DEBIAN),
        (sbom.Subject(image="x", build_id="0000000001", started=SUBJECT.started), [], Distribution()),
        (SUBJECT, [BASH], Distribution(name="debian")),
    ],
)
def test_it_is_valid_by_the_schema(
    subject: sbom.Subject, packages: list[Package], distribution: Distribution
) -> None:
    text = sbom.text(subject, packages, distribution, {"kernel": "6.1", "qemu-img": "7.2"})
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_it_says_what_the_image_is_and_when_it_was_built() -> None:
    bill = json.loads(sbom.text(SUBJECT, [BASH, VIM], DEBIAN, {"kernel": "6.1"}))
    about = bill["metadata"]
    assert (about["component"]["name"], about["component"]["version"]) == ("debian-bookworm", BUILD)
    assert about["timestamp"] == "2024-05-06T14:14:00+00:00"
    (file,) = about["component"]["components"]
    assert file["name"] == f"debian-bookworm-{BUILD}.qcow2"
    assert {"alg": "SHA-256", "content": "a" * 64} in file["hashes"]
    assert about["component"]["hashes"] == [{"alg": "SHA-256", "content": "d" * 64}]
    assert {tool["name"] for tool in about["tools"]["components"]} == {"imagepool", "kernel"}
    assert {each["name"] for each in bill["components"]} == {"bash", "vim", "debian"}
    (vim,) = (each for each in bill["components"] if each["name"] == "vim")
    assert vim["licenses"] == [{"license": {"name": "Vim and MIT"}}]
    roots = {each["ref"]: len(each.get("dependsOn", ())) for each in bill["dependencies"]}
    assert roots[f"debian-bookworm-{BUILD}"] == 3


def test_it_is_the_same_in_whatever_order_packages_come() -> None:
    one = sbom.text(SUBJECT, [BASH, LIBC, VIM], DEBIAN, {"a": "1", "b": "2"})
    assert sbom.text(SUBJECT, [VIM, BASH, LIBC], DEBIAN, {"b": "2", "a": "1"}) == one


@pytest.mark.parametrize(
    ("package", "distribution", "url"),
    [
        (BASH, DEBIAN, "pkg:deb/debian/bash@5.2.15-2%2Bb7?arch=amd64&distro=debian-12"),
        (LIBC, DEBIAN, "pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=debian-12&upstream=glibc"),
        (
            VIM,
            Distribution(name="fedora", version="40"),
            "pkg:rpm/fedora/vim@9.1-1.fc40?arch=x86_64&distro=fedora-40&epoch=2",
        ),
        (BASH, Distribution(), "pkg:deb/bash@5.2.15-2%2Bb7?arch=amd64"),
    ],
)
def test_packages_have_the_urls_that_scanners_know(
    package: Package, distribution: Distribution, url: str
) -> None:
    assert sbom.purl(package, distribution).to_string() == url
