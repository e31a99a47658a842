"""Looks at the canaries: whether this machine can run their checks, and what they hold up."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

from builder import host
from builder.config.model import Canary, Config
from builder.findings import Finding, fine, warning
from builder.model import Snapshot
from builder.planning.canary import canaries_of
from builder.planning.words import short

NAME: Final = "check"


def look(config: Config, snapshot: Snapshot | None, now: datetime) -> Iterator[Finding]:
    """A finding for each program, which is not run now, and for each build that should be out of the canaries
    by now; `snapshot`: None where nobody knows."""
    yield from _programs(config)
    if snapshot is not None:
        yield from _held_up(config, snapshot, now)


def _programs(config: Config) -> Iterator[Finding]:
    programs: dict[str, list[str]] = {}
    for image in config.diskimages.values():
        if isinstance(image.promote, Canary) and image.promote.check:
            programs.setdefault(image.promote.check[0], []).append(image.name)
    for program, images in programs.items():
        yield _look_at(Path(program), images)


def _look_at(program: Path, images: list[str]) -> Finding:
    of = f"the check of {', '.join(images)}"
    why = host.why_not_run(program)
    if why is None:
        return fine(NAME, f"{program} can be run, {of}")
    return warning(
        NAME,
        f"{program}, {of}, can't be run: {why}",
        hint="Every machine with the role uploader needs it: no build gets beyond the canaries without.",
    )


def _held_up(config: Config, snapshot: Snapshot, now: datetime) -> Iterator[Finding]:
    for image in config.diskimages.values():
        canaries = canaries_of(image, config, snapshot.image(image.name))
        if canaries is None or canaries.build is None:
            continue
        reason = canaries.why_not_out(snapshot)
        # What can't get into all canaries gives way to the next build: its soak may never be over.
        late = canaries.until + canaries.policy.check_timeout < now or not canaries.comes
        if reason is not None and late:
            promote = f"imagepool image promote {image.name} --build {short(canaries.build.id)}"
            yield warning(
                NAME,
                f"{image.name}: {reason.rstrip('.')}",
                hint=f"Others may wait for it. `{promote}` waits for nothing.",
            )
