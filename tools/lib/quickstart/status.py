"""What the daemon has done so far, asked through the `imagepool` command, and told in one line."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from devcloud.errors import DevCloudError

_TIMEOUT = 60.0  #: seconds for a command that only asks


@dataclass(frozen=True, kw_only=True)
class BuildStatus:
    """A build, as `imagepool build list` has it."""

    id: str
    state: str
    phase: str
    age: float  #: seconds since it began


@dataclass(frozen=True, kw_only=True)
class UploadStatus:
    """An upload, as `imagepool upload list` has it, and how far it is."""

    id: str
    build_id: str
    provider: str
    state: str
    reason: str
    size: int | None


@dataclass(frozen=True, kw_only=True)
class Status:
    """All builds of the image and all its uploads, newest first."""

    builds: tuple[BuildStatus, ...]
    uploads: tuple[UploadStatus, ...]

    def ready_in(self, providers: Sequence[str]) -> bool:
        """Whether every provider has a ready upload."""
        return set(providers) <= {upload.provider for upload in self.uploads if upload.state == "ready"}


class Imagepool:
    """The `imagepool` command of one installation."""

    def __init__(self, command: str, environment: Mapping[str, str]) -> None:
        self._command = command
        self._environment = environment

    def run(self, *arguments: str) -> str:
        """The output of a command; DevCloudError with what it said when it fails."""
        try:
            done = subprocess.run(
                [self._command, *arguments],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DevCloudError(f"imagepool {' '.join(arguments)} hangs") from None
        if done.returncode:
            raise DevCloudError(
                f"imagepool {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}"
            )
        return done.stdout

    def status(self, image: str) -> Status:
        """Builds and uploads of an image."""
        builds = self._json("build", "list", "--image", image)
        uploads = self._json("upload", "list", "--image", image)
        return Status(
            builds=tuple(
                BuildStatus(id=raw["id"], state=raw["state"], phase=raw["phase"] or "", age=raw["age"])
                for raw in builds
            ),
            uploads=tuple(
                UploadStatus(
                    id=raw["id"],
                    build_id=raw["build_id"],
                    provider=raw["provider"],
                    state=raw["state"],
                    reason=str(raw["reason"] or ""),
                    size=raw["size"],
                )
                for raw in uploads
            ),
        )

    def progress(self, upload: UploadStatus) -> str:
        """How far an upload is, for a person: "send, 120 of 343 MB"."""
        raw = self._json("upload", "show", upload.id)
        sent, size = raw.get("sent") or 0, raw.get("size") or upload.size or 0
        return f"{raw.get('phase') or upload.state}, {sent // 10**6} of {size // 10**6} MB"

    def _json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "-f", "json"))
