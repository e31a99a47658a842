"""Where the logs of builds are, and which of them stay.

A log is named "<image>-<build id>.log"; only a whole build id after the image's own name counts,
so pruning `ubuntu-noble` never touches a log of `ubuntu-noble-arm64` (nodepool's does).
"""

from __future__ import annotations

from pathlib import Path

from builder.model import is_build_id

SUFFIX = ".log"


def path(log_dir: Path, image: str, build_id: str) -> Path:
    """The log of a build."""
    return log_dir / f"{image}-{build_id}{SUFFIX}"


def prune(log_dir: Path, image: str, keep: int) -> tuple[Path, ...]:
    """Delete all but the newest `keep` logs (at least one; -1: all stay) of an image; returns what went."""
    if keep < 0:
        return ()
    own = [
        file
        for file in log_dir.glob(f"*{SUFFIX}")
        if file.name.startswith(f"{image}-")
        and is_build_id(file.name.removeprefix(f"{image}-").removesuffix(SUFFIX))
    ]
    newest_first = sorted(own, key=lambda file: file.stat().st_mtime_ns, reverse=True)
    gone = tuple(newest_first[max(keep, 1) :])
    for file in gone:
        file.unlink(missing_ok=True)
    return gone
