"""Looks at the checks of the canaries: whether this machine can run them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from builder.config.model import Canary, Config
from builder.findings import Finding, fine, warning


def look(config: Config) -> Iterator[Finding]:
    """A finding for each program, which is not run now."""
    programs: dict[str, list[str]] = {}
    for image in config.diskimages.values():
        if isinstance(image.promote, Canary) and image.promote.check:
            programs.setdefault(image.promote.check[0], []).append(image.name)
    for program, images in programs.items():
        yield _look_at(Path(program), images)


def _look_at(program: Path, images: list[str]) -> Finding:
    of = f"the check of {', '.join(images)}"
    why = None
    if not program.is_file():
        why = "there is no such file"
    elif not os.access(program, os.X_OK):
        why = "it is not executable"
    if why is None:
        return fine("check", f"{program} can be run, {of}")
    return warning(
        "check",
        f"{program}, {of}, can't be run: {why}",
        hint="Every machine with the role uploader needs it: no build gets beyond the canaries without.",
    )
