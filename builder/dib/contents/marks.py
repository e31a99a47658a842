"""Pick out of an image's files what matters most when it changes: who may do what, and what starts.

files      setuid and setgid files wherever they are, and everything below /etc: mode, owner, kind
services   systemd's units that are enabled or masked, by the links that say so (systemctl(1))
kernels    the releases of the kernels it can boot
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from builder.dib.contents.listing import Entry

FILE: Final = "files.json"
SCHEMA: Final = 1
#: Files that are kept. An image with more below /etc is none that anybody wants to read about.
LIMIT: Final = 50_000
_KINDS: Final = {
    "f": "file",
    "d": "directory",
    "l": "link",
    "p": "pipe",
    "s": "socket",
    "b": "block device",
    "c": "character device",
}
_SPECIAL: Final = 0o6000  # setuid, setgid
_KERNEL: Final = re.compile(r"\./boot/vmlinuz-(?!0-rescue-)([^/]+)|\./(?:usr/)?lib/modules/([^/]+)/vmlinuz")
_MODULES: Final = re.compile(r"\./(?:usr/)?lib/modules/([^/]+)")
_OURS: Final = "./etc/systemd/system/"
#: Where links tell systemd what to start: an image's own have precedence over those of packages.
_UNITS: Final = ("./usr/lib/systemd/system/", "./lib/systemd/system/", _OURS)
_WANTS: Final = re.compile(r"([^/]+)\.(?:wants|requires|upholds)/([^/]+)")
_NOTHING: Final = "/dev/null"


@dataclass(frozen=True, kw_only=True, order=True)
class Marked:
    """A file whose mode and owner matter."""

    path: str  #: absolute, as the image sees it
    kind: str  #: "file", "directory", "link"...
    mode: str  #: four octal digits, "4755"; of a link it says nothing and is ""
    owner: str  #: by name, as far as the image has one for it
    group: str


@dataclass(frozen=True, kw_only=True, order=True)
class Service:
    """A unit that systemd starts by itself, or must never start."""

    unit: str
    state: str  #: "enabled" or "masked"
    by: tuple[str, ...] = ()  #: the units that start it, such as multi-user.target


@dataclass(frozen=True, kw_only=True)
class Marks:
    """What was found; everything in order."""

    files: tuple[Marked, ...] = ()
    services: tuple[Service, ...] = ()
    kernels: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()  #: what could not be found out, and why


# -- finding ----------------------------------------------------------------------------------------


def find(entries: Iterable[Entry], raw: Path, problems: Iterable[str] = ()) -> Marks:
    """What matters of all files; owners are named by the image's lists in `raw`. Raises OSError."""
    known = tuple(entries)
    said = list(problems)
    files = _marked(known, _names(raw / "passwd"), _names(raw / "group"))
    if len(files) > LIMIT:
        said.append(f"of {len(files)} files that are setuid, setgid or below /etc only {LIMIT} are listed")
    return Marks(
        # Of too many, what is setuid or setgid comes first.
        files=tuple(sorted(sorted(files, key=_urgency)[:LIMIT])),
        services=tuple(_services(known)),
        kernels=tuple(sorted(_kernels(known))),
        problems=tuple(said),
    )


def _marked(entries: Iterable[Entry], users: Mapping[int, str], groups: Mapping[int, str]) -> list[Marked]:
    return [
        Marked(
            path=entry.path[1:],
            kind=_KINDS.get(entry.kind, entry.kind),
            mode="" if entry.kind == "l" else f"{entry.mode:04o}",
            owner=users.get(entry.uid, str(entry.uid)),
            group=groups.get(entry.gid, str(entry.gid)),
        )
        for entry in entries
        if entry.path.startswith("./etc/") or (entry.kind == "f" and entry.mode & _SPECIAL)
    ]


def _urgency(file: Marked) -> tuple[bool, str]:
    return (file.kind != "file" or file.mode[:1] in ("0", "1"), file.path)


def _names(file: Path) -> Mapping[int, str]:
    """Names by number, from the first columns of passwd or group that the element left. Raises OSError.

    Numbers of users that packages make depend on the order of their installation, names don't.
    """
    names: dict[int, str] = {}
    if file.exists():
        for line in file.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            name, _, number = line.partition(":")
            # Nobody but number 0 is root, whatever the image says of itself.
            if name and name != "root" and number.isdecimal() and number.isascii():
                names.setdefault(int(number[:10]), name)
    return {**names, 0: "root"}


def _kernels(entries: Iterable[Entry]) -> frozenset[str]:
    """Releases of the kernels; of an image that keeps none where we look, those of its modules."""
    kernels, modules = set(), set()
    for entry in entries:
        if entry.kind == "f" and (found := _KERNEL.fullmatch(entry.path)):
            kernels.add(found[1] or found[2])
        elif entry.kind == "d" and (found := _MODULES.fullmatch(entry.path)):
            modules.add(found[1])
    return frozenset(kernels or modules)


def _services(entries: Iterable[Entry]) -> Iterator[Service]:
    links: dict[tuple[str, str], bool] = {}  # (who starts it, unit) -> whether it does
    masked = set()
    for place, name, entry in sorted(_unit_files(entries), key=lambda each: each[:2]):
        wants = _WANTS.fullmatch(name)
        if wants and entry.kind == "l":
            links[wants[1], wants[2]] = entry.target != _NOTHING
        elif _UNITS[place] == _OURS and "/" not in name and _is_mask(entry):
            masked.add(name)
    by: dict[str, list[str]] = {}
    for (target, unit), starts in sorted(links.items()):
        if starts and unit not in masked:
            by.setdefault(unit, []).append(target)
    for unit in sorted({*by, *masked}):
        yield Service(unit=unit, state="masked" if unit in masked else "enabled", by=tuple(by.get(unit, ())))


def _unit_files(entries: Iterable[Entry]) -> Iterator[tuple[int, str, Entry]]:
    for entry in entries:
        for number, place in enumerate(_UNITS):
            if entry.path.startswith(place):
                yield number, entry.path[len(place) :], entry


def _is_mask(entry: Entry) -> bool:
    """Whether a unit's file says that it must not start: a link to nothing, or an empty file."""
    return entry.target == _NOTHING if entry.kind == "l" else entry.kind == "f" and not entry.length


# -- the file ---------------------------------------------------------------------------------------


def save(directory: Path, marks: Marks) -> None:
    """Write files.json into a build's directory. Raises OSError."""
    record = {
        "schema": SCHEMA,
        "files": [_record(file) for file in marks.files],
        "services": [
            {"unit": each.unit, "state": each.state, "by": list(each.by)} for each in marks.services
        ],
        "kernels": list(marks.kernels),
        "problems": list(marks.problems),
    }
    # A path may have bytes that are no text; JSON's own escapes hold them.
    (directory / FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="ascii")


def _record(file: Marked) -> Mapping[str, str]:
    fields = {"path": file.path, "kind": file.kind, "mode": file.mode, "owner": file.owner}
    return {name: value for name, value in {**fields, "group": file.group}.items() if value}


def parsed(record: Any) -> Marks:
    """What files.json says. Raises KeyError, TypeError, ValueError or AttributeError for other things."""
    return Marks(
        files=tuple(
            Marked(
                path=str(each["path"]),
                kind=str(each["kind"]),
                mode=str(each.get("mode", "")),
                owner=str(each["owner"]),
                group=str(each["group"]),
            )
            for each in record["files"]
        ),
        services=tuple(
            Service(unit=str(each["unit"]), state=str(each["state"]), by=tuple(map(str, each["by"])))
            for each in record["services"]
        ),
        kernels=tuple(map(str, record["kernels"])),
        problems=tuple(map(str, record["problems"])),
    )
