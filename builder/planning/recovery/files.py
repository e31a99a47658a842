"""Compares the files on this machine's disk with what they should be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from builder.model import Artifact, ImageFormat
from builder.planning.recovery.evidence import Evidence
from builder.planning.recovery.steps import KeptBuild, KeptFile
from builder.planning.words import listed


@dataclass(frozen=True, kw_only=True)
class Files:
    """What this machine has of a build."""

    artifacts: tuple[Artifact, ...] = ()  #: for its record
    pruned: tuple[str, ...] = ()  #: formats of those whose files can't be used, mostly since they are gone
    wrong: tuple[tuple[ImageFormat, str], ...] = ()  #: files that are not what they should be, and why

    @property
    def present(self) -> bool:
        """Whether any of the files is there and right."""
        return len(self.artifacts) > len(self.pruned)

    @property
    def text(self) -> str:
        """Those that are there, in words: "qcow2 is", "qcow2 and raw are"."""
        there = [str(a.format) for a in self.artifacts if a.format not in self.pruned]
        return f"{listed(there)} {'is' if len(there) == 1 else 'are'}"


def files_of(kept: KeptBuild, whole: Iterable[Evidence]) -> Files:
    """The files of a build, each compared with what its proof says, or with the `whole` images that
    clouds have of it where that says nothing."""
    if not kept.recorded:
        return _recognised(kept, whole)
    there = {file.format: file for file in kept.files}
    wrong = {a.format: _difference(there[a.format], a) for a in kept.recorded if a.format in there}
    wrong |= {each: "nothing says what it should be" for each in there if each not in wrong}
    return Files(
        artifacts=kept.recorded,
        pruned=tuple(str(a.format) for a in kept.recorded if wrong.get(a.format, "it is gone")),
        wrong=tuple((each, problem) for each, problem in wrong.items() if problem),
    )


def _recognised(kept: KeptBuild, whole: Iterable[Evidence]) -> Files:
    """The files of which a cloud has a verified copy, where the proof does not say what they should be."""
    if kept.half:
        return Files()
    known = {(each.format, each.sha512) for each in whole}
    right = [f.artifact for f in kept.files if f.artifact and (f.format, f.artifact.sha512) in known]
    formats = {artifact.format for artifact in right}
    unknown = "neither its build.json nor an image in a cloud says what it should be"
    return Files(
        artifacts=tuple(right),
        wrong=tuple((f.format, f.problem or unknown) for f in kept.files if f.format not in formats),
    )


def _difference(file: KeptFile, recorded: Artifact) -> str:
    if file.artifact is None:
        return file.problem
    pairs = {
        "size": (file.artifact.size, recorded.size),
        "sha512": (file.artifact.sha512, recorded.sha512),
        "disk size": (file.artifact.virtual_size, recorded.virtual_size),
    }
    return next(
        (f"its {what} is {now}, {was} is on record" for what, (now, was) in pairs.items() if now != was), ""
    )
