"""What builds and uploads are for machines and for people, and the formats they come in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final


class BuildState(StrEnum):
    """What a build is for machines; `phase` is what it is for people."""

    BUILDING = "building"  #: claimed and running, or abandoned by a builder that died
    READY = "ready"  #: its files exist with the sizes and hashes on record
    DELETING = "deleting"  #: somebody asked for it to go; the janitor does it
    FAILED = "failed"  #: it ended without an image; `reason` says why


class UploadState(StrEnum):
    """What an upload is for machines."""

    UPLOADING = "uploading"  #: bytes move or Glance works, or its uploader died
    READY = "ready"  #: Glance says active, and size, hash and properties are ours
    DELETING = "deleting"  #: somebody asked for it to go; the janitor does it
    FAILED = "failed"  #: it ended without a usable image; `reason` says why


#: The only changes of state anybody may write.
BUILD_TRANSITIONS: Final[Mapping[BuildState, frozenset[BuildState]]] = {
    BuildState.BUILDING: frozenset({BuildState.READY, BuildState.FAILED}),
    BuildState.READY: frozenset({BuildState.DELETING}),
    BuildState.FAILED: frozenset({BuildState.DELETING}),
    BuildState.DELETING: frozenset(),
}
UPLOAD_TRANSITIONS: Final[Mapping[UploadState, frozenset[UploadState]]] = {
    UploadState.UPLOADING: frozenset({UploadState.READY, UploadState.FAILED}),
    UploadState.READY: frozenset({UploadState.DELETING}),
    UploadState.FAILED: frozenset({UploadState.DELETING}),
    UploadState.DELETING: frozenset(),
}


class BuildPhase(StrEnum):
    """What a build is doing now, in order; each is timed on the record."""

    RENDER = "render"  #: the work directory, the command and its environment are made
    PREFLIGHT = "preflight"  #: tools, directories, free disk and mirrors are checked
    BOOTSTRAP = "bootstrap"  #: dib makes the base system (root.d)
    PACKAGES = "packages"  #: dib installs into the chroot (extra-data.d to post-root.d)
    IMAGE = "image"  #: dib makes partitions and file systems, and copies the tree in
    FINALISE = "finalise"  #: dib runs finalise.d, the boot loader, cleanup.d, and unmounts
    CONVERT = "convert"  #: qemu-img makes the formats from raw
    HASH = "hash"  #: what is not hashed yet is
    MANIFEST = "manifest"  #: what went in and what came out is written down
    TEST = "test"  #: all else is done, and the finished image still has to prove itself in an emulator
    PUBLISH = "publish"  #: the files move to the images directory


class UploadPhase(StrEnum):
    """What an upload is doing now, in order."""

    PREFLIGHT = "preflight"  #: the file, and what the provider has and can do, are looked at
    CREATE = "create"  #: the image record is made in Glance, with all properties
    SEND = "send"  #: bytes move; `sent` counts them
    WAIT = "wait"  #: Glance has all bytes and works
    VERIFY = "verify"  #: what Glance says is compared with what we sent
    HOLD = "hold"  #: all is well there, but the build itself is not ready yet
    HOOK = "hook"  #: the provider's post-upload-hook runs


class ImageFormat(StrEnum):
    """A disk format we can make and Glance can take; the value is the file's suffix."""

    QCOW2 = "qcow2"
    RAW = "raw"
    VHD = "vhd"
    VHDX = "vhdx"
    VMDK = "vmdk"
    AMI = "ami"  #: a root file system without partitions, which boots with its parts
    AKI = "aki"  #: its kernel
    ARI = "ari"  #: its ramdisk

    @property
    def parts(self) -> tuple[ImageFormat, ...]:
        """What a file in this format can't be booted without. Each is a file of its own, and in a cloud an
        image of its own, which is there before the one that needs it and goes after it."""
        return (ImageFormat.AKI, ImageFormat.ARI) if self is ImageFormat.AMI else ()

    @property
    def is_part(self) -> bool:
        """Whether it only comes along with another format."""
        return self in (ImageFormat.AKI, ImageFormat.ARI)

    @property
    def is_verbatim(self) -> bool:
        """Whether its file is what diskimage-builder made, byte for byte."""
        return self in (ImageFormat.RAW, ImageFormat.AMI)


def parts_of(image_format: str | None) -> tuple[ImageFormat, ...]:
    """`ImageFormat.parts` of a format on record, which may be one of which nobody here has heard."""
    return ImageFormat(image_format).parts if image_format in tuple(ImageFormat) else ()


def layouts_conflict(formats: Iterable[ImageFormat]) -> bool:
    """Whether no single build can be made in all these formats: it is either a disk or a root file system."""
    return len({each is ImageFormat.AMI for each in formats}) > 1
