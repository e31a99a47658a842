"""Caches the files that DIB_CACHE_FILES_* name, and lays them out below the directory in the arguments.

    python -m cache_files STAGE

STAGE is an empty directory in the cache.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cache_files import listing, store
from cache_stage import lists
from cache_stage.settings import SettingError, number

_JOBS = 4


def main(stage: Path, environment: Mapping[str, str]) -> int:
    """Do it, and say what was done; the exit code."""
    os.umask(0o022)
    try:
        files, wrong = listing.read(_list(environment))
        if not files and not wrong:
            raise SettingError("DIB_CACHE_FILES or DIB_CACHE_FILES_LIST: the list of files is empty")
        manner = store.Manner(
            place=stage.parent,
            tries=max(1, int(number(environment, "DIB_CACHE_FILES_TRIES", 3))),
            timeout=number(environment, "DIB_CACHE_FILES_TIMEOUT", 1800),
            backoff=number(environment, "DIB_CACHE_FILES_BACKOFF", 2),
            offline=bool(environment.get("DIB_OFFLINE")),
        )
        days = number(environment, "DIB_CACHE_FILES_KEEP_DAYS", 30)
    except (SettingError, lists.ListError) as error:
        say(f"ERROR: {error}")
        return 1
    for name in ("parts", "locks"):
        (manner.place / name).mkdir(exist_ok=True)

    def laid_out(file: listing.File) -> str:
        try:
            say(f"{file.path}: {store.Cached(manner, file).lay_out(stage)} ({file.shown})")
        except (store.FileError, OSError) as error:
            return f"{file.shown}: {error}"
        return ""

    if not wrong:
        # Nothing is downloaded for a list that has to be mended first.
        with ThreadPoolExecutor(_JOBS) as pool:
            wrong = [why for why in pool.map(laid_out, files) if why]
        store.prune(manner.place, days=days)
    for why in wrong:
        say(f"ERROR: {why}")
    return 1 if wrong else 0


def say(text: str) -> None:
    """Tell it in the build's log."""
    sys.stdout.write(f"cache-files: {text}\n")
    sys.stdout.flush()


def _list(environment: Mapping[str, str]) -> str:
    inline, source = environment.get("DIB_CACHE_FILES", ""), environment.get("DIB_CACHE_FILES_LIST", "")
    if bool(inline.strip()) == bool(source):
        raise SettingError("set either DIB_CACHE_FILES_LIST (a file) or DIB_CACHE_FILES (the list itself)")
    return inline if inline.strip() else lists.load(Path(source))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), os.environ))
