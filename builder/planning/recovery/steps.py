"""The words of a recovery: what was found, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from builder.cloudimage import CloudImage
from builder.model import Artifact, Build, ImageFormat, Upload

#: What neither clouds nor disks tell of.
LOST: Final = (
    "requests for builds, and pauses by hand (`imagepool image pause` puts one back)",
    "that an upload was deleted by hand and shall stay away (`pause: true` in that provider keeps it so)",
    "builds and uploads that failed, with their reasons; breakers and retries begin anew",
    "wishes to cancel, and what was seen of leaked images so far",
    "which builds served before, from when to when (`imagepool image history` begins anew)",
    "of restored builds: elements, timings, digests of what went in, who asked for them",
    "images of providers that left the configuration, unless a configured one looks into the same project",
)


class Fate(StrEnum):
    """What becomes of something that was found."""

    RESTORE = "restore"  #: its record is written again
    COMPLETE = "complete"  #: its record is there, and gets what only this machine knows
    KNOWN = "known"  #: it is on record already
    LEFT = "left"  #: nothing is written, and nothing of it touched; the reason says why
    UNSEEN = "unseen"  #: it could not be looked at now


class Thing(StrEnum):
    """What was found."""

    BUILD = "build"
    IMAGE = "image"  #: in a cloud
    FILE = "file"  #: on this machine's disk
    PROVIDER = "provider"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing that was found, what becomes of it, and why; `build` or `upload` is what to write."""

    thing: Thing
    fate: Fate
    name: str  #: of a build its id, of a file its name, of an image the cloud's id
    reason: str
    diskimage: str | None = None
    provider: str | None = None
    build: Build | None = None
    upload: Upload | None = None
    image: CloudImage | None = None

    @property
    def writes(self) -> bool:
        """Whether a record is to be written."""
        return self.fate in (Fate.RESTORE, Fate.COMPLETE)


@dataclass(frozen=True, kw_only=True)
class KeptFile:
    """A file on this machine's disk as it is now; or why that can't be told."""

    format: ImageFormat
    artifact: Artifact | None = None
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class KeptBuild:
    """A build of this installation of which this machine's disk has the proof."""

    build: Build  #: what the proof tells, as a record; `artifacts` and `formats` are empty
    finished: datetime | None  #: when all its files were there; None when that is not known
    failed: datetime | None = None  #: when it failed, if its files stayed to be looked at
    described: bool  #: whether it got at least as far as its manifests
    recorded: tuple[Artifact, ...]
    files: tuple[KeptFile, ...]

    @property
    def half(self) -> bool:
        """Whether it was never finished, or failed."""
        return self.failed is not None or not (self.finished or self.described or self.recorded)
