"""Records to put into a store."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from builder.cloudimage import Sighting
from builder.model import (
    Artifact,
    BudgetAction,
    BudgetCheck,
    Build,
    BuildState,
    Cancellation,
    Checked,
    CheckVerdict,
    Clearance,
    Daemon,
    Deletion,
    Failure,
    FailureClass,
    ImageFormat,
    Pause,
    Release,
    Request,
    Turn,
    Upload,
    UploadCancellation,
    UploadState,
    UploadWish,
    Withholding,
)

NOON = datetime(2026, 3, 1, 12, 0, 0, 250000, tzinfo=UTC)

_MORE = {"mood": "loud", "deep": {"er": [1, None]}}
#: Records of a later version, with all that it may say besides what this one knows.
LATER_BUILD = {
    "state": "failed",
    "state_time": 1795178151.5,
    "builder": "nb01",
    "builder_id": "5f0c",
    "username": "zuul",
    "python_path": "auto",
    "shell_type": None,
    "formats": "qcow2,squashfs",
    "phase": "sign",
    "artifacts": [
        {
            "format": "qcow2",
            "size": 1,
            "virtual_size": 2,
            "md5": "a",
            "sha256": "b",
            "sha512": "c",
            **_MORE,
        },
        {"format": "squashfs", "blake3": "d", "size": {"packed": 1}},
    ],
    "reason": {"class": "signature", "message": "the key is gone", "phase": "sign", **_MORE},
    "request": {
        "by": "ann",
        "why": "now",
        "time": 1795178000.0,
        "manual": True,
        "tick": 1795178000.0,
        **_MORE,
    },
    "wishes": [
        {"provider": "cloud-one", "wanted": True, "by": "ann", "time": 1795178000.0, "why": "", **_MORE},
        {"region": "all of them", "wanted": "soon"},
    ],
    "withheld": [
        {"provider": "cloud-one", "by": "ann", "time": 1795178000.0, "why": "", **_MORE},
        {"held": True, "by": "ann", "time": 1795178000.0, "why": "no SSH server", **_MORE},
        {"provider": ["all of", "them"], "until": "noon"},
    ],
    "cleared": [
        {"provider": "cloud-one", "by": "ann", "time": 1795178000.0, "why": "", **_MORE},
        {"by": "imagepool", "time": 1795178000.0, "why": "it has soaked", **_MORE},
        {"provider": ["all of", "them"], "until": "noon"},
    ],
    "test": {"verdict": "flaky", "seconds": "many", **_MORE},
    "release": {"by": "ann", "time": 1795178000.0, "why": "", **_MORE},
    "measures": {"packages": 300.0, "kernels": 2.0},
    "budgets": [
        {"measure": "kernels", "sentence": "2 kernels", "over": "hold", "value": 2.0, **_MORE},
        {"measure": "size", "sentence": "", "limit": 1.0, **_MORE},
        {"measure": "size", "over": "shred", "sentence": ["too", "big"]},
    ],
    "kept": "/srv/images/debian-5f0c.d",
    "signature": {"by": "key one"},
}
LATER_UPLOAD = {
    "state": "deleting",
    "state_time": 1795178151.5,
    "external_id": "e5f5",
    "external_name": "debian-1",
    "format": "squashfs",
    "username": "zuul",
    "python_path": "auto",
    "shell_type": None,
    "phase": "sign",
    "way": "carrier pigeon",
    "reason": {"class": "signature", "message": "the key is gone", **_MORE},
    "deletion": {"by": "ann", "time": 1795178000.0, "why": "", **_MORE},
    "checked": {"verdict": "half-good", "score": 0.5, **_MORE},
    "signature": {"by": "key one"},
}


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
        raw_sha256="0f",
        raw_size=10 * 2**30,
        wishes=(a_wish(), a_wish("cloud-two", wanted=True)),
        withheld=(a_withholding(held=True), a_withholding("cloud-two")),
        cleared=(a_clearance(), a_clearance("cloud-two")),
        release=a_release(),
        measures={"packages": 300.0},
        budgets=(
            BudgetCheck(
                measure="size",
                sentence="too big",
                over=BudgetAction.HOLD,
                value=7.0,
                limit=6.5,
                baseline=6.0,
            ),
        ),
        kept="/srv/images/debian-5f0c.d",
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


def a_full_upload(build: Build) -> Upload:
    """An upload with something in every field."""
    return an_upload(
        build,
        external_id="e5f5",
        external_name="debian-1",
        format="ami",
        parts={"aki": "e5f6", "ari": "e5f7"},
        username="debian",
        python_path="/usr/bin/python3",
        shell_type="bash",
        region="RegionOne",
        uploader="nb01",
        uploader_id="5f",
        phase="send",
        started=NOON,
        ended=NOON + timedelta(seconds=3),
        size=10,
        sent=4,
        timings={"create": 0.5},
        reason=Failure(failure_class=FailureClass.QUOTA, message="full"),
        cloud="north",
        way="put",
        fallbacks=("web-download: nobody fetched",),
        task="7e57",
        hook_output=("é", "done"),
        serving=NOON + timedelta(hours=1),
        stable_name="debian",
        stable_tag="current",
        hidden=True,
        withheld=NOON + timedelta(hours=3),
        deletion=Deletion(by="ann", time=NOON + timedelta(hours=2), why="too big"),
        checked=Checked(verdict=CheckVerdict.UNKNOWN, time=NOON, why="no quota", tries=2),
        extra={"theirs": 1},
    )


def a_request(image: str = "debian", **changes: Any) -> Request:
    """The wish of a person."""
    fields: dict[str, Any] = {"image": image, "by": "ann", "why": "new kernel", "time": NOON}
    return Request(**{**fields, **changes})


def a_cancellation(build: Build, **changes: Any) -> Cancellation:
    """The wish of a person that a build ends."""
    fields: dict[str, Any] = {"image": build.image, "build_id": build.id, "by": "ann", "time": NOON}
    return Cancellation(**{"why": "wrong mirror", **fields, **changes})


def an_upload_cancellation(upload: Upload, **changes: Any) -> UploadCancellation:
    """The wish of a person that an upload ends."""
    fields: dict[str, Any] = {"upload": upload.name, "image": upload.image, "by": "ann", "time": NOON}
    return UploadCancellation(**{"why": "wrong cloud", **fields, **changes})


def a_wish(provider: str = "cloud-one", **changes: Any) -> UploadWish:
    """The wish of a person that a build stays away from a provider."""
    fields: dict[str, Any] = {"provider": provider, "wanted": False, "by": "ann", "time": NOON, "why": "old"}
    return UploadWish(**{**fields, **changes})


def a_withholding(provider: str | None = None, **changes: Any) -> Withholding:
    """The word of a person that a build is not to serve."""
    fields: dict[str, Any] = {"by": "ann", "time": NOON, "why": "it does not boot"}
    return Withholding(provider=provider, **{**fields, **changes})


def a_clearance(provider: str | None = None, **changes: Any) -> Clearance:
    """The word of a person that a build may serve."""
    fields: dict[str, Any] = {"by": "ann", "time": NOON, "why": "it is urgent"}
    return Clearance(provider=provider, **{**fields, **changes})


def a_release(**changes: Any) -> Release:
    """The word of a person that a held build may go out."""
    return Release(**{"by": "ann", "time": NOON, "why": "it is meant to be so large", **changes})


def a_turn(number: int = 1, *, hours: int = 0, **changes: Any) -> Turn:
    """That the first upload of the build of that number serves, so many hours after noon."""
    fields: dict[str, Any] = {
        "build_id": f"{number:032x}",
        "upload": f"{number:032x}/cloud-one/0000000001",
        "since": NOON + timedelta(hours=hours),
        "by": "imagepool",
        "why": "It is the newest.",
    }
    return Turn(**{**fields, **changes})


def a_sighting(external_id: str = "e5f5", **changes: Any) -> Sighting:
    """An image that was seen without a record at noon, and an hour later."""
    fields: dict[str, Any] = {"provider": "cloud-one", "first": NOON, "last": NOON + timedelta(hours=1)}
    return Sighting(external_id=external_id, **{**fields, **changes})


def a_pause(**changes: Any) -> Pause:
    """That a person wants something to stand still."""
    fields: dict[str, Any] = {"by": "ann", "time": NOON, "why": "the mirror is broken"}
    return Pause(**{**fields, **changes})


def a_daemon(hostname: str = "nb01.example", **changes: Any) -> Daemon:
    """A daemon with all roles that began at noon."""
    fields: dict[str, Any] = {
        "roles": ("scheduler", "builder", "uploader", "janitor"),
        "version": "1.2",
        "started": NOON,
        "builder_id": f"id-of-{hostname}",
        "labels": frozenset({"amd64"}),
    }
    return Daemon(hostname=hostname, **{**fields, **changes})
