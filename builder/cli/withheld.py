"""Say which builds are withheld, or may serve: where, on whose word, since when and why; pure.

A build that is withheld from everywhere is in quarantine, or held until somebody decides on it.
"""

from __future__ import annotations

from typing import Any

from builder.cli import text
from builder.cli.cells import Lines
from builder.model import Build, Clearance, ImageRecords, UploadState, Withholding
from builder.planning import words
from builder.planning.records import in_service, may_go_out


def told(word: Withholding) -> str:
    """Where it holds, whose word it is, when and why, on one line: "put in quarantine by ann@nb01 at
    2026-11-21 14:14 UTC: no network"."""
    return text.one_line(f"{words.how_withheld(word)} {words.by_whom(word)}")


def of_build(build: Build) -> str | None:
    """All that is said of a build, that of everywhere first; None when nothing is."""
    return "; ".join(told(word) for word in _ordered(build)) or None


def in_provider(build: Build | None, provider: str) -> str | None:
    """What keeps a build out of service in a provider; None when nothing does."""
    word = build.withheld_from(provider) if build is not None else None
    return told(word) if word is not None else None


def misfit(records: ImageRecords, provider: str) -> str | None:
    """That the build which serves a provider is withheld from it, and why it serves all the same; None when
    it is not, or none serves."""
    serving = in_service(records, provider)
    word = in_provider(records.build(serving.build_id), provider) if serving is not None else None
    if serving is None or word is None:
        return None
    ready = (u for u in records.uploads_to(provider) if u.state is UploadState.READY)
    others = any(may_go_out(records.build(u.build_id), provider) for u in ready)
    why = (
        "another is to take over"
        if others
        else "nothing else is ready there, and a region is never left without any"
    )
    return f"build {words.short(serving.build_id)} serves although it was {word}; {why}"


def cell(build: Build) -> Lines:
    """Everything on record that withholds a build."""
    there = _ordered(build)
    data = [{**_data(word), "held": word.held} for word in there]
    return Lines(data, [told(word) for word in there])


def cleared_cell(build: Build) -> Lines:
    """Every word on record that a build may serve."""
    lines = [
        text.one_line(f"{word.provider or 'everywhere'}: {words.by_whom(word)}") for word in build.cleared
    ]
    return Lines([_data(word) for word in build.cleared], lines)


def _data(word: Withholding | Clearance) -> dict[str, Any]:
    return {"provider": word.provider, "by": word.by, "why": word.why, "time": text.iso(word.time)}


def waits(build: Build) -> str | None:
    """That a build is held, why and what ends that, on one line; None when it is not."""
    if build.hold is None:
        return None
    name = words.short(build.id)
    return text.one_line(
        f"build {name} is held: {build.hold.why}; 'imagepool build release {name}' lets it go,"
        f" 'imagepool build reject {name}' keeps it out"
    )


def _ordered(build: Build) -> list[Withholding]:
    return sorted(build.withheld, key=lambda word: (word.provider is not None, word.provider or ""))
