"""Caches the repositories that DIB_CACHE_GIT_* name, and lays them out below the directory in the arguments.

    python -m cache_git STAGE HEADS

STAGE is an empty directory in the cache; HEADS the file that gets the list of what is there.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from cache_git import listing, store
from cache_git.fetching import End, Fetching, Manner, Outcome
from cache_git.git import Git
from cache_stage import lists
from cache_stage.addresses import masked
from cache_stage.lists import ListError
from cache_stage.settings import SettingError, number

#: Seconds for a list from a web server.
_LIST_TIMEOUT = 60.0
_KNOWN_PROTOCOLS = frozenset({"https", "http", "ssh", "git", "file"})


def main(stage: Path, heads: Path, environment: Mapping[str, str]) -> int:
    """Do it, and say what was done; the exit code."""
    try:
        return _run(stage, heads, environment)
    except (SettingError, ListError) as error:
        say(f"ERROR: {error}")
        return 1


def say(text: str) -> None:
    """Tell it in the build's log."""
    sys.stdout.write(f"cache-git: {text}\n")
    sys.stdout.flush()


def _run(stage: Path, heads: Path, environment: Mapping[str, str]) -> int:
    # Packs are read by others in the image.
    os.umask(0o022)
    # What a server sends without end stops here.
    most = int(number(environment, "DIB_CACHE_GIT_MAX_MB", 16384) * 1024 * 1024)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    strict = _choice(environment, "DIB_CACHE_GIT_BROKEN", "warning", "error") == "error"
    protocols = (environment.get("DIB_CACHE_GIT_PROTOCOLS") or "https http ssh git").split()
    if not protocols or not _KNOWN_PROTOCOLS.issuperset(protocols):
        raise SettingError(f"DIB_CACHE_GIT_PROTOCOLS are among {' '.join(sorted(_KNOWN_PROTOCOLS))}")
    place = stage.parent
    for name in ("new", "locks", "lists"):
        (place / name).mkdir(exist_ok=True)

    repositories, refused = listing.read(
        _list(environment, place / "lists", strict=strict),
        base=environment.get("DIB_CACHE_GIT_BASE", ""),
        protocols=protocols,
    )
    if not repositories and not refused:
        raise SettingError("the list of repositories is empty")
    git = Git(timeout=number(environment, "DIB_CACHE_GIT_TIMEOUT", 1800), protocols=protocols)
    outcomes = Fetching(_manner(environment, place), git, stage, say=say).run(repositories)
    for name in store.prune(place, days=number(environment, "DIB_CACHE_GIT_KEEP_DAYS", 30)):
        say(f"{name} is out of the cache, for no image wanted it any more")

    heads.write_text(_heads(outcomes))
    broken = _summary(outcomes, refused)
    if broken and strict:
        say("ERROR: a broken repository is an error here")
        return 1
    if all(outcome.end is End.MISSING for outcome in outcomes):
        say("ERROR: there is no repository at all")
        return 1
    return 0


def _manner(environment: Mapping[str, str], place: Path) -> Manner:
    return Manner(
        place=place,
        jobs=max(1, int(number(environment, "DIB_CACHE_GIT_JOBS", 16))),
        tries=max(1, int(number(environment, "DIB_CACHE_GIT_TRIES", 3))),
        backoff=number(environment, "DIB_CACHE_GIT_BACKOFF", 2),
        days=number(environment, "DIB_CACHE_GIT_CHECK_DAYS", 7),
        offline=bool(environment.get("DIB_OFFLINE")),
    )


def _choice(environment: Mapping[str, str], name: str, default: str, *others: str) -> str:
    value = environment.get(name) or default
    if value not in {default, *others}:
        raise SettingError(f"{name} is {value!r}, but shall be {' or '.join((default, *others))}")
    return value


def _list(environment: Mapping[str, str], kept: Path, *, strict: bool) -> str:
    inline, source = (
        environment.get("DIB_CACHE_GIT_REPOSITORIES", ""),
        environment.get("DIB_CACHE_GIT_LIST", ""),
    )
    if bool(inline.strip()) == bool(source):
        raise SettingError(
            "set either DIB_CACHE_GIT_LIST (a file or an address) or DIB_CACHE_GIT_REPOSITORIES"
        )
    if inline.strip():
        return inline
    if "://" not in source:
        return lists.load(Path(source))
    parts = urlsplit(source)
    if parts.scheme not in {"http", "https"}:
        raise SettingError("DIB_CACHE_GIT_LIST is a file, or an address that begins with http:// or https://")
    return _fetched(
        source, kept / store.list_name(source), strict=strict, offline=bool(environment.get("DIB_OFFLINE"))
    )


def _fetched(source: str, kept: Path, *, strict: bool, offline: bool) -> str:
    """The list at an address; when it can't be read and that is no error, the one of last time."""
    try:
        if offline:
            raise ListError(f"{masked(source)} is not asked, for DIB_OFFLINE is set")
        text = listing.fetch(source, _LIST_TIMEOUT)
    except ListError as error:
        if not kept.exists() or (strict and not offline):
            raise
        say(f"WARNING: {error}; the list of last time is used")
        return lists.load(kept)
    new = kept.with_name(f"{kept.name}.{os.getpid()}")
    new.write_text(text)
    new.replace(kept)
    return text


def _heads(outcomes: list[Outcome]) -> str:
    """What is in the image, as JSON: by path, where it is from and which commits its branches are."""
    there = (outcome for outcome in outcomes if outcome.end is not End.MISSING)
    found = {
        outcome.repository.path: {
            "url": outcome.repository.url,
            "branch": outcome.refs.head.removeprefix("refs/heads/"),
            "commit": outcome.refs.ids.get(outcome.refs.head),
            "branches": {
                name.removeprefix("refs/heads/"): value
                for name, value in sorted(outcome.refs.ids.items())
                if name.startswith("refs/heads/")
            },
        }
        for outcome in there
    }
    return json.dumps(found, indent=1, sort_keys=True) + "\n"


def _summary(outcomes: list[Outcome], refused: list[listing.Refused]) -> bool:
    counts = Counter(outcome.end for outcome in outcomes)
    told = [f"{counts[end]} {end.value}" for end in End if counts[end]]
    if refused:
        told.append(f"{len(refused)} refused")
    say(f"{len(outcomes) + len(refused)} repositories: {', '.join(told)}")
    for outcome in outcomes:
        if outcome.broken:
            what = "is as it was" if outcome.end is End.OLDER else "is missing"
            say(f"WARNING: {outcome.repository.url} {what}: {outcome.why}")
    for entry in refused:
        say(f"WARNING: {entry.entry} is refused: {entry.why}")
    return bool(refused) or any(outcome.broken for outcome in outcomes)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), os.environ))
