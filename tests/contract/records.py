"""Records to put into a store."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from builder.model import (
    Artifact,
    Build,
    BuildState,
    Cancellation,
    Failure,
    FailureClass,
    ImageFormat,
    Request,
    Upload,
    UploadState,
)

NOON = datetime(2026, 3, 1, 12, 0, 0, 250000, tzinfo=UTC)


def a_build(image: str = "debian", *, minutes: int = 0, **changes: Any) -> Build:
    """A build that began so many minutes after noon."""
    time = NOON + timedelta(minutes=minutes)
    fields: dict[str, Any] = {
        "id": uuid.uuid4().hex,
        "image": image,
        "state": BuildState.BUILDING,
        "state_time": time,
        "started": time,
        "builder": "nb01.example",
    }
    return Build(**{**fields, **changes})


def a_full_build() -> Build:
    """A build with something in every field."""
    return a_build(
        state=BuildState.READY,
        builder_id="5f0c",
        formats=("qcow2", "raw"),
        username="debian",
        python_path="/usr/bin/python3",
        shell_type="bash",
        phase="publish",
        ended=NOON + timedelta(minutes=9),
        timings={"bootstrap": 4.5, "convert": 0.0},
        artifacts=(
            Artifact(format=ImageFormat.QCOW2, size=7, virtual_size=9, md5="0a", sha256="0b", sha512="0c"),
        ),
        elements=("debian-minimal", "vm"),
        tools={"qemu-img": "7.2"},
        log="/var/log/imagepool/debian.log",
        reason=Failure(
            failure_class=FailureClass.PACKAGE,
            message="no such package",
            phase="packages",
            step="dpkg/install.d/01",
            exit_code=0,
            lines=("a", "é\n"),
        ),
        request=a_request(),
        bytes_done=7,
        bytes_total=9,
        next_try=NOON + timedelta(hours=1),
        work_bytes=4_000_000_000,
        pruned=("raw",),
        inputs={"packages": "0d", "git /opt/é": "0e"},
        checked=NOON + timedelta(days=1),
        changes=("packages: openssl 3.0.1 -> 3.0.2",),
        extra={"theirs": {"deep": [1, None]}},
    )


def an_upload(build: Build, provider: str = "cloud-one", **changes: Any) -> Upload:
    """An upload of a build that begins at noon; the store gives the id."""
    fields: dict[str, Any] = {
        "id": "",
        "build_id": build.id,
        "image": build.image,
        "provider": provider,
        "state": UploadState.UPLOADING,
        "state_time": NOON,
    }
    return Upload(**{**fields, **changes})


def a_request(image: str = "debian", **changes: Any) -> Request:
    """The wish of a person."""
    fields: dict[str, Any] = {"image": image, "by": "ann", "why": "new kernel", "time": NOON}
    return Request(**{**fields, **changes})


def a_cancellation(build: Build, **changes: Any) -> Cancellation:
    """The wish of a person that a build ends."""
    fields: dict[str, Any] = {"image": build.image, "build_id": build.id, "by": "ann", "time": NOON}
    return Cancellation(**{"why": "wrong mirror", **fields, **changes})
