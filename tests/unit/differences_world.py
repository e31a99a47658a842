"""Builds with files on this machine, as the manifest step leaves them, to be compared with each other."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from builder.dib.contents import inputs, marks, packages, sizes
from builder.dib.contents.inputs import Inputs
from builder.dib.contents.marks import Marked, Marks, Service
from builder.dib.contents.packages import Distribution, Package
from builder.dib.differences import contents
from builder.dib.differences.compare import compare
from builder.dib.differences.model import Differences
from builder.dib.output import artifacts
from builder.model import Artifact, ImageFormat
from tests.unit.dib_world import FINISHED, INSTALLATION

IMAGE = "debian-bookworm"
OLD, NEW = "a" * 32, "b" * 32
MIB = 1 << 20


def deb(name: str, version: str, architecture: str = "amd64") -> Package:
    return Package(name=name, version=version, architecture=architecture, kind="deb")


def rpm(name: str, version: str, architecture: str = "x86_64") -> Package:
    return Package(name=name, version=version, architecture=architecture, kind="rpm")


def marked(path: str, mode: str = "0644", owner: str = "root", kind: str = "file") -> Marked:
    return Marked(path=path, kind=kind, mode=mode, owner=owner, group="root")


MARKS = Marks(
    files=(marked("/etc/passwd"), marked("/usr/bin/su", "4755")),
    services=(Service(unit="ssh.service", state="enabled", by=("multi-user.target",)),),
    kernels=("6.1.0-27-amd64",),
)
INPUTS = Inputs(
    digests={"dib": "3.43.0", "formats": "qcow2", "git glean": "1" * 40},
    command=("disk-image-create", "debian-minimal", "vm"),
    elements={"debian-minimal": "e" * 64, "vm": "f" * 64},
    environment={"DIB_RELEASE": "bookworm"},
)


@dataclass(frozen=True, kw_only=True)
class Made:
    """A build; two that are made without arguments are alike."""

    build_id: str = OLD
    image: str = IMAGE
    started: datetime = FINISHED
    packages: tuple[Package, ...] = (deb("bash", "5.2.15-2+b7"), deb("libc6", "2.36-9"))
    sizes: Mapping[str, int] = field(
        default_factory=lambda: {"/": 900 * MIB, "/etc": 4096, "/usr": 800 * MIB}
    )
    marks: Marks = MARKS
    inputs: Inputs = INPUTS
    artifacts: Mapping[str, int] = field(default_factory=lambda: {"qcow2": 300 * MIB})
    tools: Mapping[str, str] = field(default_factory=lambda: {"qemu-img": "8.0", "kernel": "6.1"})
    heads: Mapping[str, Any] | None = None  #: what the element cache-git left

    def publish(self, images_dir: Path) -> Path:
        """Leave its files below `images_dir`; its directory there."""
        home = artifacts.directory(images_dir, self.image, self.build_id)
        proof = artifacts.Proof(
            installation_id=INSTALLATION,
            image=self.image,
            build_id=self.build_id,
            created=self.started,
            started=self.started,
            environment={},
            tools=self.tools,
        )
        publication = artifacts.Publication(images_dir, proof)
        publication.begin()
        publication.finish(Path("/nowhere"), None, tuple(map(_artifact, self.artifacts.items())), FINISHED)
        self.describe(home)
        return home

    def read(self, place: Path) -> contents.Contents:
        """What is read of it when it is not published yet."""
        home = Path(tempfile.mkdtemp(dir=place))
        self.describe(home)
        name = contents.Name(image=self.image, build_id=self.build_id)
        return contents.describe(home, name, artifacts=self.artifacts, tools=self.tools)

    def describe(self, home: Path) -> None:
        """What the manifest step writes."""
        packages.save(home, self.packages, Distribution(name="debian", version="12"), ())
        rows = [
            {"path": path, "allocated": count, "apparent": 0, "files": 1}
            for path, count in self.sizes.items()
        ]
        (home / sizes.FILE).write_text(json.dumps({"directories": rows}))
        marks.save(home, self.marks)
        inputs.write(home, self.inputs)
        if self.heads is not None:
            (home / contents.CACHE_GIT).parent.mkdir()
            (home / contents.CACHE_GIT).write_text(json.dumps(self.heads))


def _artifact(pair: tuple[str, int]) -> Artifact:
    name, size = pair
    return Artifact(format=ImageFormat(name), size=size, virtual_size=size, md5="", sha256="", sha512="")


@dataclass(frozen=True)
class Pair:
    """An earlier build and a later one; what differs is said in the story."""

    place: Path
    before: Made = field(default_factory=Made)
    after: Made = field(default_factory=lambda: Made(build_id=NEW))

    def with_before(self, **changes: Any) -> Pair:
        return replace(self, before=replace(self.before, **changes))

    def with_after(self, **changes: Any) -> Pair:
        return replace(self, after=replace(self.after, **changes))

    def differences(self) -> Differences:
        """Both are written down, read again and compared."""
        return compare(self.before.read(self.place), self.after.read(self.place))
