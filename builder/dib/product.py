"""What a build has in hand while it runs, and what it has made in the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.dib import command
from builder.dib.contents.inputs import Inputs
from builder.dib.isolation.workspace import Workspace
from builder.dib.logs.masking import Masker, masked
from builder.dib.output.hashing import Disk
from builder.model import Artifact, Failure, ImageFormat, Withholding


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a build made, before anybody has said that it is good."""

    artifacts: tuple[Artifact, ...]
    measures: Mapping[str, float]  #: what can't be told by the files, by `Measure`


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What becomes of it."""

    #: Words to be written beside its files before anybody can take these for a finished build's.
    withheld: tuple[Withholding, ...] = ()
    #: Why the build fails; its files stay, for whoever judged to keep or to delete.
    failure: Failure | None = None


@dataclass(frozen=True, kw_only=True)
class Product:
    """What a build made: its files, what took part and what went in."""

    artifacts: tuple[Artifact, ...]
    tools: Mapping[str, str]
    timings: Mapping[str, float]  #: seconds by "convert qcow2" and the like; phases are not in it
    inputs: Mapping[str, str]  #: see Build.inputs
    work_bytes: int  #: disk the work directory took at most
    disk: Disk | None  #: what is in all its files; None when it has none


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a build has in hand once it is rendered."""

    space: Workspace
    rendered: command.Command
    mask: Masker
    known: Inputs
    versions: Mapping[str, str]

    @property
    def raw(self) -> Path:
        """What disk-image-create makes."""
        return self.space.output.with_name(f"{self.space.output.name}.{ImageFormat.RAW}")

    @property
    def manifests(self) -> Path:
        """What describes the build, to be published beside its files."""
        return self.space.output.with_name(f"{self.space.output.name}.d")

    @property
    def shown_argv(self) -> tuple[str, ...]:
        """The command without secrets, fit for the record; where it writes to has none, and is looked for."""
        output = str(self.space.output)
        return tuple(word if word == output else masked(word, self.mask) for word in self.rendered.argv)
