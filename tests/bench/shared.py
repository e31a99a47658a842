"""What measurements of builds share: reading what a build made, and telling how it goes."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def packages(images: Path) -> frozenset[tuple[str, str]]:
    """Names and versions of the packages of the only image in a directory."""
    (manifest,) = images.rglob("dib-manifest-dpkg-*")
    return frozenset(
        (package["package"], package["version"]) for package in json.loads(manifest.read_text())["packages"]
    )


def metric(ours: float, baseline: float, unit: str) -> dict[str, object]:
    """One number of ours beside the one it is compared with."""
    return {
        "ours": round(ours, 2),
        "baseline": round(baseline, 2),
        "ratio": round(ours / baseline, 3),
        "unit": unit,
    }


def say(text: str) -> None:
    """Tell on standard error how it goes."""
    sys.stderr.write(f"{text}\n")
