"""Decides where everything lies on disk."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Final

from builder.config.checking import Checked
from builder.config.problems import Problems
from builder.config.schema import ConfigFile
from builder.config.text import STATE_DIR, absolute

#: What is left over in the work directory is removed, and the cache may be emptied at any time.
_SWEPT: Final = ("work-dir", "cache-dir")


@dataclass(frozen=True, kw_only=True)
class Directories:
    """Absolute paths; none is made or looked at here."""

    state: Path
    images: Path
    work: Path
    cache: Path
    logs: Path
    elements: tuple[Path, ...]


def build_directories(file: Checked[ConfigFile], problems: Problems) -> Directories:
    """The directories of a configuration, each below the state directory unless it says otherwise."""
    content = file.content
    source = file.document.file
    _check_not_empty(file, problems)
    state = absolute(content.state_dir or STATE_DIR, source)
    given = {
        "images-dir": (content.images_dir, "images"),
        "work-dir": (content.work_dir, "work"),
        "cache-dir": (content.cache_dir, "cache"),
        "build-log-dir": (content.build_log_dir, "logs"),
    }
    paths = {key: absolute(path, source) if path else state / name for key, (path, name) in given.items()}
    _check_apart(file, paths, problems)
    return Directories(
        state=state,
        images=paths["images-dir"],
        work=paths["work-dir"],
        cache=paths["cache-dir"],
        logs=paths["build-log-dir"],
        elements=_element_dirs(content.elements_dir, source),
    )


def _check_not_empty(file: Checked[ConfigFile], problems: Problems) -> None:
    for name in ("state_dir", "images_dir", "work_dir", "cache_dir", "build_log_dir", "elements_dir"):
        if getattr(file.content, name) == "":
            problems.add(file.place(name.replace("_", "-")), "must name a directory")


def _check_apart(file: Checked[ConfigFile], paths: dict[str, Path], problems: Problems) -> None:
    """No two may be the same, and nothing may lie in one that is swept."""
    for (key, path), (other_key, other) in combinations(paths.items(), 2):
        if path == other or _lies_in(path, other_key, other) or _lies_in(other, key, path):
            problems.add(
                file.place(other_key if _is_given(file, other_key) else key),
                f"{path} ({key}) and {other} ({other_key}) must be apart",
            )


def _lies_in(path: Path, swept_key: str, swept: Path) -> bool:
    return swept_key in _SWEPT and swept in path.parents


def _is_given(file: Checked[ConfigFile], key: str) -> bool:
    return getattr(file.content, key.replace("-", "_")) is not None


def _element_dirs(written: str | None, source: Path) -> tuple[Path, ...]:
    """One directory or several, separated by ':' as in ELEMENTS_PATH."""
    return tuple(absolute(path, source) for path in (written or "").split(":") if path)
