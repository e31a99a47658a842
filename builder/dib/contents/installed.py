"""Find the diskimage-builder that a command line runs: its version, and where its elements are."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from diskimage_builder import paths  # type: ignore[import-untyped]

NAME: Final = "diskimage-builder"
PROGRAM: Final = "disk-image-create"
#: Where a Python has its packages, seen from the directory above its programs.
_PACKAGES: Final = ("lib/python3*/site-packages", "lib/python3*/dist-packages", "lib/python3/dist-packages")


@dataclass(frozen=True, kw_only=True)
class Dib:
    """An installed diskimage-builder."""

    version: str  #: of a program that only runs it, also a digest of that program
    elements: Path


def of(argv: Sequence[str], path: str | None) -> Dib:
    """The diskimage-builder of a command line, whose programs are searched for in `path` ("a:b").

    It is the one beside whose Python the program is; a diskimage's `dib-cmd` may be of another
    Python than ours. For a program that is no part of any it is our own, as the best guess.
    """
    words = [word for word in argv if Path(word).name == PROGRAM] or [argv[0]]
    found = shutil.which(words[0], path=path)
    if found is None:
        return Dib(version=metadata.version(NAME), elements=Path(paths.get_path("elements")))
    program = Path(found).resolve()
    return _beside(program) or _ours(program)


def _beside(program: Path) -> Dib | None:
    for pattern in _PACKAGES:
        for packages in sorted(program.parent.parent.glob(pattern), reverse=True):
            elements = packages / "diskimage_builder" / "elements"
            known = next(iter(metadata.distributions(name=NAME, path=[str(packages)])), None)
            if elements.is_dir() and known is not None:
                return Dib(version=known.version, elements=elements)
    return None


def _ours(program: Path) -> Dib:
    content = hashlib.sha256(program.read_bytes()).hexdigest()
    return Dib(
        version=f"{metadata.version(NAME)} by {program.name} {content[:16]}",
        elements=Path(paths.get_path("elements")),
    )
