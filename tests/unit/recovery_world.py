"""What is left when ZooKeeper's records are lost: images in clouds, builds on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from builder.cloud import ownership
from builder.cloudimage import CloudImage, GlanceStatus
from builder.config.model import Config
from builder.model import Artifact, Build, ImageFormat, Snapshot, Upload, UploadState
from builder.planning.recovery import KeptBuild, KeptFile, Step, plan_recovery
from tests.unit.planning_world import HERE, MINUTE, NOW, config, diskimage, provider, ready, upload

INSTALLATION = "1" * 32
HIGHEST = 1000


def made(number: int, image_format: ImageFormat = ImageFormat.QCOW2) -> Artifact:
    """The file of the build of that number."""
    content = f"{number} {image_format}".encode()
    return Artifact(
        format=image_format,
        size=len(content),
        virtual_size=1 << 20,
        md5=hashlib.md5(content, usedforsecurity=False).hexdigest(),
        sha256=hashlib.sha256(content).hexdigest(),
        sha512=hashlib.sha512(content).hexdigest(),
    )


def build(number: int, time: datetime, *formats: ImageFormat, **changes: Any) -> Build:
    """A build as it was on record before: ready at `time`, with what a recovery brings back."""
    files = tuple(made(number, each) for each in formats or (ImageFormat.QCOW2,))
    known = {"raw_sha256": "d" * 64, "raw_size": 1 << 20, "artifacts": files}
    return ready(number, time, *formats, **{**known, **changes})


def sent(was: Build, to: str = "north", **changes: Any) -> Upload:
    """An upload of it as it was on record before: begun two minutes after the build was ready."""
    number = int(was.id[:8], 16)
    time = was.state_time + 2 * MINUTE
    known = {
        "external_id": f"image-{number}-{to}",
        "external_name": f"{was.image}-{number}",
        "started": time,
        "format": "qcow2",
        "size": made(number).size,
        "sent": made(number).size,
        "cloud": to,
    }
    return upload(number, UploadState.READY, time, to, **{**known, **changes})


def image(was: Build, record: Upload | None = None, **changes: Any) -> CloudImage:
    """The cloud image of an upload. `properties` are put over those it has; None takes one away."""
    record = record or sent(was)
    artifact = was.artifact(record.format or "")
    assert artifact is not None
    properties: dict[str, str | None] = dict(
        ownership.properties(
            wished={"os_distro": "debian"},
            upload=record,
            build=was,
            artifact=artifact,
            name=record.external_name or "",
            installation_id=INSTALLATION,
        )
    )
    properties |= changes.pop("properties", {})
    plain = CloudImage(
        id=record.external_id or "",
        name=record.external_name or "",
        status=GlanceStatus.ACTIVE,
        size=artifact.size,
        hash_algorithm="sha512",
        hash_value=artifact.sha512,
        checksum=artifact.md5,
        visibility="private",
        properties={name: value for name, value in properties.items() if value is not None},
        created=record.started,
        disk_format=str(artifact.format),
    )
    return replace(plain, **changes)


def kept(was: Build, *files: KeptFile, **changes: Any) -> KeptBuild:
    """What this machine's disk has of a build: every file as it was, or `files`."""
    proof = replace(was, artifacts=(), formats=(), ended=None, raw_sha256=None, raw_size=None)
    plain = KeptBuild(
        build=proof,
        finished=was.ended,
        described=True,
        recorded=was.artifacts,
        files=files or tuple(KeptFile(format=a.format, artifact=a) for a in was.artifacts),
    )
    return replace(plain, **changes)


def two_regions(**changes: Any) -> Config:
    return config(diskimage(), provider("north"), provider("south"), **changes)


def plan(
    images: Mapping[str, Sequence[CloudImage]],
    *disk: KeptBuild,
    records: Iterable[object] = (),
    where: Config | None = None,
    **changes: Any,
) -> tuple[Step, ...]:
    """The plan, with no records left unless `records` has image records."""
    known: dict[str, Any] = {
        "installation_id": INSTALLATION,
        "builder_id": HERE,
        "builds_gone": {},
        "unasked": {},
        "highest_upload_id": HIGHEST,
        "now": NOW,
    }
    snapshot = Snapshot(images={each.name: each for each in records})  # type: ignore[attr-defined]
    return plan_recovery(where or two_regions(), snapshot, images, disk, **{**known, **changes})


def builds_of(steps: Iterable[Step]) -> list[Build]:
    """The records of builds that would be written."""
    return [step.build for step in steps if step.fate in ("restore", "complete") and step.build]


def uploads_of(steps: Iterable[Step]) -> list[Upload]:
    """The records of uploads that would be written."""
    return [step.upload for step in steps if step.fate == "restore" and step.upload]


def reasons(steps: Iterable[Step]) -> dict[str, str]:
    """Why, of everything that is not written, by its name."""
    return {step.name: step.reason for step in steps if step.fate in ("left", "known", "unseen")}
