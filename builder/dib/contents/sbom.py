"""Write what an image is made of as a CycloneDX bill of materials, the form that scanners read."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.dependency import Dependency
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from builder import __version__
from builder.dib.contents.packages import Distribution, Package
from builder.dib.output.hashing import Disk
from builder.model import Artifact

#: Which form it has; tests check it by the library's own schema.
FILE: Final = "sbom.cdx.json"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The image that the bill is of; `started` is aware, and the only time in the bill."""

    image: str
    build_id: str
    started: datetime
    artifacts: tuple[Artifact, ...] = ()
    disk: Disk | None = None  #: what is in all of them


def text(
    subject: Subject, packages: Iterable[Package], distribution: Distribution, tools: Mapping[str, str]
) -> str:
    """The bill as CycloneDX 1.6 JSON; the same for the same build, letter for letter."""
    image = Component(
        name=subject.image,
        version=subject.build_id,
        type=ComponentType.CONTAINER,
        bom_ref=f"{subject.image}-{subject.build_id}",
        components=[_file(subject, artifact) for artifact in subject.artifacts],
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=subject.disk.sha256)] if subject.disk else (),
    )
    components = [_component(package, distribution) for package in sorted(set(packages))]
    if distribution.name:
        components.append(_system(distribution))
    bill = Bom(
        serial_number=_serial(subject.build_id),
        metadata=BomMetaData(timestamp=subject.started, component=image, tools=_tools(tools)),
        components=components,
        # Not by `register_dependency`, whose time grows with the square of the number.
        dependencies=[
            Dependency(ref=image.bom_ref, dependencies=[Dependency(ref=each.bom_ref) for each in components])
        ],
    )
    return JsonV1Dot6(bill).output_as_string(indent=1) + "\n"


def purl(package: Package, distribution: Distribution) -> PackageURL:
    """The package URL: pkg:deb/debian/bash@5.2-1?arch=amd64&distro=debian-12."""
    version, qualifiers = package.version, {"arch": package.architecture, "upstream": package.source}
    if package.kind == "rpm":
        # Its specification has the epoch apart; that of deb has it in the version.
        epoch, _, rest = package.version.rpartition(":")
        version, qualifiers["epoch"] = rest, epoch
    if distribution.name:
        qualifiers["distro"] = "-".join(filter(None, (distribution.name, distribution.version)))
    return PackageURL(
        type=package.kind,
        namespace=distribution.name or None,
        name=package.name,
        version=version,
        qualifiers={name: value for name, value in qualifiers.items() if value},
    )


def _component(package: Package, distribution: Distribution) -> Component:
    url = purl(package, distribution)
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        bom_ref=url.to_string(),
        purl=url,
        # Not all of them are SPDX's names, so none is said to be.
        licenses=[DisjunctiveLicense(name=package.license)] if package.license else (),
    )


def _system(distribution: Distribution) -> Component:
    return Component(
        name=distribution.name,
        version=distribution.version or None,
        description=distribution.title or None,
        type=ComponentType.OPERATING_SYSTEM,
        bom_ref=f"os:{distribution.name}-{distribution.version}",
    )


def _file(subject: Subject, artifact: Artifact) -> Component:
    return Component(
        name=f"{subject.image}-{subject.build_id}.{artifact.format}",
        type=ComponentType.FILE,
        bom_ref=f"file:{artifact.format}",
        hashes=[
            HashType(alg=HashAlgorithm.SHA_256, content=artifact.sha256),
            HashType(alg=HashAlgorithm.SHA_512, content=artifact.sha512),
        ],
    )


def _tools(tools: Mapping[str, str]) -> ToolRepository:
    versions = {"imagepool": __version__, **tools}
    return ToolRepository(
        components=[
            Component(name=name, version=version, type=ComponentType.APPLICATION, bom_ref=f"tool:{name}")
            for name, version in sorted(versions.items())
        ]
    )


def _serial(build_id: str) -> uuid.UUID:
    """The build's id as a UUID; those of nodepool are none, and become one."""
    try:
        return uuid.UUID(hex=build_id)
    except ValueError:
        return uuid.uuid5(uuid.NAMESPACE_OID, build_id)
