"""The output directory: who works in it, what is where, and what an earlier run left behind.

<output>/<image>-<build id>.<format>, .d    what builds made
<output>/<image>.<format>                   a link to the newest
<output>/logs/ cache/ work/ state/          logs, what the next build need not fetch, builds under way
<output>/boot/                              the machine that runs now, and its console
<output>/kept/                              the tree of a build that failed, by --keep
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from builder.config.model import Config, DiskImage
from builder.dib.isolation import workspace
from builder.dib.job import Job
from builder.dib.logs import logfiles
from builder.dib.output import artifacts
from builder.errors import NotFoundError, RefusedError, UnavailableError
from builder.model import Artifact, ImageFormat

#: Whose files these are, in the words of the engine: only what bears this name is ever removed.
OWNER: Final = "build-image"


@dataclass(frozen=True, kw_only=True)
class Place:
    """An output directory."""

    root: Path

    @property
    def work(self) -> Path:
        """Where builds work."""
        return self.root / "work"

    @property
    def boot(self) -> Path:
        """Where a machine that runs has its files."""
        return self.root / "boot"

    @property
    def kept(self) -> Path:
        """Where the tree of a failed step is kept."""
        return self.root / "kept"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Work in it alone, and clean up what was left by a run that was killed.

        Raises RefusedError while another run does, UnavailableError when it can't be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UnavailableError(
                f"the output directory {self.root} can't be used: {error.strerror}",
                hint="Name another one with --output.",
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise RefusedError(
                f"another build works in {self.root}", hint="Wait for it, or name another --output."
            ) from None
        try:
            self._clean_up()
            yield
        finally:
            os.close(descriptor)

    def job(self, config: Config, image: DiskImage, build_id: str) -> Job:
        """What the engine needs to know."""
        return Job(
            image=image,
            build_id=build_id,
            installation_id=OWNER,
            state_dir=self.root / "state",
            images_dir=self.root,
            work_dir=self.work,
            cache_dir=self.root / "cache",
            log_path=logfiles.path(self.root / "logs", image.name, build_id),
            elements_dirs=config.elements_dirs,
            limits=config.build_limits,
        )

    def file(self, image: DiskImage, build_id: str, artifact: Artifact) -> Path:
        """Where a file of a build is."""
        return artifacts.path(self.root, image.name, build_id, artifact.format)

    def link(self, image: DiskImage, build_id: str, artifact: Artifact) -> Path:
        """Make the name without the build's id lead to a build's file."""
        link, new = self.root / f"{image.name}.{artifact.format}", self.root / f".{image.name}.new"
        new.unlink(missing_ok=True)
        new.symlink_to(self.file(image, build_id, artifact).name)
        new.replace(link)
        return link

    def newest(self, image: DiskImage) -> tuple[str, tuple[Artifact, ...]]:
        """The id and the files of the newest build of an image; NotFoundError when there is none."""
        known = [record for record in self._builds() if record.get("image") == image.name]
        for record in sorted(known, key=lambda each: str(each.get("finished") or ""), reverse=True):
            files = tuple(
                Artifact(**{**told, "format": ImageFormat(told["format"])}) for told in record["artifacts"]
            )
            files = tuple(file for file in files if self.file(image, record["build_id"], file).is_file())
            if files:
                return record["build_id"], files
        raise NotFoundError(f"there is no build of {image.name} in {self.root}", hint="Leave out --last.")

    def earlier(self, image: DiskImage, build_id: str) -> tuple[int, int]:
        """How many other builds of an image are kept here, and their bytes."""
        ids = [record["build_id"] for record in self._builds() if record.get("image") == image.name]
        others = [other for other in ids if other != build_id]
        files = [file for other in others for file in self.root.glob(f"{image.name}-{other}.*")]
        return len(others), sum(file.stat().st_blocks * 512 for file in files if file.is_file())

    def _clean_up(self) -> None:
        """Remove what no process can be using any more, for the lock is ours."""
        self.work.mkdir(exist_ok=True)
        (self.root / "state").mkdir(exist_ok=True)
        workspace.sweep(self.work, OWNER)
        for record in self._builds():
            if not record.get("finished"):
                artifacts.delete(self.root, record["image"], record["build_id"], OWNER)
        shutil.rmtree(self.boot, ignore_errors=True)
        self.boot.mkdir()

    def _builds(self) -> Iterator[dict[str, Any]]:
        """The build.json of each build of ours in the directory."""
        for file in sorted(self.root.glob(f"*.d/{artifacts.PROOF}")):
            with contextlib.suppress(OSError, ValueError):
                record = json.loads(file.read_text())
                if isinstance(record, dict) and record.get("installation_id") == OWNER:
                    yield record
