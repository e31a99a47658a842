"""Configuration files as tests write them, and how to load them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest

from builder.config.loader import load
from builder.config.model import Config
from builder.errors import ConfigError
from builder.model import ImageFormat

REGIONS: Mapping[tuple[str, str | None], ImageFormat] = {
    ("alpha", "one"): ImageFormat.QCOW2,
    ("alpha", "two"): ImageFormat.RAW,
    ("beta", None): ImageFormat.VHD,
}


def image_format_of(cloud: str, region: str | None) -> ImageFormat:
    """What clouds.yaml would say: alpha has two regions, beta one."""
    try:
        return REGIONS[cloud, region]
    except KeyError:
        raise ConfigError([f"cloud {cloud!r} has no region {region!r}"]) from None


class Files:
    """A directory with a configuration and perhaps a secure file."""

    def __init__(self, directory: Path) -> None:
        self.main = directory / "imagepool.yaml"
        self.secure = directory / "secure.yaml"
        self.environ: dict[str, str] = {}

    def write(self, text: str) -> None:
        """The configuration; indentation common to all lines is taken off."""
        self.main.write_text(textwrap.dedent(text))

    def lay_beside(self, file: Path) -> None:
        """A file of that name and content beside the configuration, to be included."""
        (self.main.parent / file.name).write_bytes(file.read_bytes())

    def write_secure(self, text: str) -> None:
        """The secure file."""
        self.secure.write_text(textwrap.dedent(text))

    def load(self, text: str | None = None) -> Config:
        """The configuration in force."""
        if text is not None:
            self.write(text)
        secure = self.secure if self.secure.exists() else None
        return load(self.main, image_format_of=image_format_of, environ=self.environ, secure=secure)

    def problems(self, text: str | None = None) -> list[str]:
        """Everything that is wrong, without the directory's name."""
        with pytest.raises(ConfigError) as caught:
            self.load(text)
        return [problem.replace(f"{self.main.parent}/", "") for problem in caught.value.problems]
