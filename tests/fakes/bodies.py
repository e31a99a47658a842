"""Bodies and artifacts made of bytes, for tests of clouds and uploads."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

from builder.model import Artifact, ImageFormat


class BytesBody(io.BytesIO):
    """Bytes as Cloud.send reads them."""

    def __len__(self) -> int:
        return len(self.getbuffer())


class BrokenBody(BytesBody):
    """A body that raises in the middle."""

    def __init__(self, content: bytes, error: Exception) -> None:
        super().__init__(content)
        self._error = error

    def read(self, amount: int | None = -1, /) -> bytes:
        half = len(self) // 2
        if self.tell() >= half:
            raise self._error
        return super().read(half if amount is None or amount < 0 else min(amount, half))


def artifact_of(content: bytes, image_format: ImageFormat = ImageFormat.QCOW2) -> Artifact:
    """The record of a file with that content."""
    return Artifact(
        format=image_format,
        size=len(content),
        virtual_size=3 * 1024**3 + 1,
        md5=hashlib.md5(content, usedforsecurity=False).hexdigest(),
        sha256=hashlib.sha256(content).hexdigest(),
        sha512=hashlib.sha512(content).hexdigest(),
    )


def write_artifact(path: Path, content: bytes) -> Artifact:
    """Write the file, and return its record."""
    path.write_bytes(content)
    return artifact_of(content)
