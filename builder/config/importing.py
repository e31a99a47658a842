"""Says what a nodepool.yaml means here: what is ignored, and what differs from nodepool 11; pure.

Works on the file as written: whether it can be used at all is the loader's to say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import Any, Final

from pydantic import BaseModel

from builder.config.document import Document
from builder.config.problems import KeyPath, path_text
from builder.config.schema import ConfigFile, ProviderEntry, ProviderImageEntry


class Kind(StrEnum):
    """What a remark is about."""

    IGNORED = "ignored"  #: it has no effect here
    DIFFERS = "differs"  #: it works, and not just as nodepool's did
    ERROR = "error"  #: somebody has to do something about it


@dataclass(frozen=True, kw_only=True)
class Remark:
    """One thing about a file: `place` is "file:line", `key` the path to what it is about."""

    place: str
    line: int
    key: str
    kind: Kind
    text: str


_LAUNCHER: Final = "Only a launcher needs it; nodepool-launcher reads it from its own file."
_NOT_OURS: Final = f"imagepool uploads to OpenStack alone. {_LAUNCHER}"
_NO_IMAGES: Final = "imagepool uploads to OpenStack alone: the diskimages listed here are not uploaded there."
#: As the loader words its problems: "file:line: key: what is wrong", with a key or without.
_PROBLEM = re.compile(
    r"(?P<place>.*?:(?P<line>\d+)): (?:(?P<key>[a-z][\w.\[\]-]*): )?(?P<text>.*)", re.DOTALL
)
_VARIABLE = re.compile(r"%\((NODEPOOL_[A-Za-z0-9_]*)\)")
_TEMPLATE = re.compile(r"{{|{%")

Found = tuple[KeyPath, Kind, str]
#: Tells one kind of thing about a file.
Rule = Callable[["_File"], Iterator[Found]]


def remarks(
    file: Document, secure: Document | None = None, included: Sequence[Document] = ()
) -> tuple[Remark, ...]:
    """What is ignored in a file, what differs, and what in it needs attention although it can be used.

    In the order of the file; of what it includes only what its own entries inherit counts. Nothing, for a
    file that is no mapping.
    """
    if not isinstance(file.data, dict):
        return ()
    given = _File(
        data=file.data,
        secure=_mapping(secure.data if secure else None),
        included=tuple(_mapping(document.data) for document in included),
    )
    found = chain.from_iterable(rule(given) for rule in _RULES)
    made = [_remark(file, path, kind, text) for path, kind, text in found]
    return tuple(sorted(made, key=lambda remark: (remark.line, remark.key)))


def problem(text: str) -> Remark:
    """One of a ConfigError's problems as a remark."""
    match = _PROBLEM.fullmatch(text)
    if match is None:
        return Remark(place="", line=0, key="", kind=Kind.ERROR, text=text)
    return Remark(
        place=match["place"],
        line=int(match["line"]),
        key=match["key"] or "",
        kind=Kind.ERROR,
        text=match["text"],
    )


def without_effect(note: str) -> Remark:
    """One of a Config's notes as a remark."""
    remark = problem(note)
    return Remark(place=remark.place, line=remark.line, key=remark.key, kind=Kind.IGNORED, text=remark.text)


@dataclass(frozen=True, kw_only=True)
class _File:
    """The file as written, whatever is wrong with it."""

    data: Mapping[str, Any]
    secure: Mapping[str, Any]
    included: tuple[Mapping[str, Any], ...] = ()

    def entries(self, key: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """The mappings in a list of the file, with their positions."""
        return _entries(self.data, key)

    def ancestry(self, entry: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """A diskimage and its ancestors, itself first; a parent that is missing, or a circle, ends it."""
        named = self._named()
        entry = named.get(str(entry.get("name")), entry)
        seen: list[Any] = []
        while entry.get("name") not in seen:
            yield entry
            seen.append(entry.get("name"))
            parent = named.get(str(entry.get("parent")))
            if entry.get("parent") is None or parent is None:
                return
            entry = parent

    def _named(self) -> Mapping[str, Mapping[str, Any]]:
        """The diskimages by name, which may be anything, with what included files say of them."""
        named: dict[str, Mapping[str, Any]] = {}
        for data in (*self.included, self.data):
            for _, entry in _entries(data, "diskimages"):
                name = str(entry.get("name"))
                named[name] = {**named.get(name, {}), **entry}
        return named


def _remark(file: Document, path: KeyPath, kind: Kind, text: str) -> Remark:
    place = file.place(path)
    return Remark(
        place=f"{place.file}:{place.line}", line=place.line, key=path_text(path), kind=kind, text=text
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _entries(data: Mapping[str, Any], key: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    listed = data.get(key)
    for position, entry in enumerate(listed if isinstance(listed, list) else []):
        if isinstance(entry, dict):
            yield position, entry


def _launchers(schema: type[BaseModel]) -> frozenset[str]:
    """The keys that the schema takes and nobody here reads."""
    return frozenset(
        field.alias or name for name, field in schema.model_fields.items() if field.annotation is Any
    )


# -- what is ignored -------------------------------------------------------------------------------


def _ignored(given: _File) -> Iterator[Found]:
    for key in given.data.keys() & _launchers(ConfigFile):
        yield (key,), Kind.IGNORED, _LAUNCHER
    for position, entry in given.entries("providers"):
        here: KeyPath = ("providers", position)
        if _is_foreign(entry):
            yield (*here, "driver"), Kind.IGNORED, _NO_IMAGES if entry.get("diskimages") else _NOT_OURS
            continue
        for key in entry.keys() & _launchers(ProviderEntry):
            yield (*here, key), Kind.IGNORED, _LAUNCHER
        for index, image in _entries(entry, "diskimages"):
            for key in image.keys() & _launchers(ProviderImageEntry):
                yield (*here, "diskimages", index, key), Kind.IGNORED, _LAUNCHER


def _is_foreign(entry: Mapping[str, Any]) -> bool:
    return bool(entry.get("driver", "openstack") != "openstack")


# -- what differs ----------------------------------------------------------------------------------


def _zookeeper(given: _File) -> Iterator[Found]:
    servers = "zookeeper-servers"
    if not (given.data.get(servers) or given.secure.get(servers)):
        yield (
            (servers,),
            Kind.DIFFERS,
            "There is none: imagepool starts a private ZooKeeper server of its own, which no launcher knows."
            " nodepool-builder refuses to start.",
        )
    elif not (given.data.get("zookeeper-tls") or given.secure.get("zookeeper-tls")):
        yield (
            (servers,),
            Kind.DIFFERS,
            "Without zookeeper-tls imagepool connects without TLS, by default to port 2181 instead of 2281;"
            " nodepool can't.",
        )


def _top_level(given: _File) -> Iterator[Found]:
    if given.data.get("build-log-retention") is not None:
        yield (
            ("build-log-retention",),
            Kind.DIFFERS,
            "It counts the logs of each diskimage for itself; nodepool counts those of all whose names begin"
            " with its name together.",
        )
    if given.data.get("build-log-dir") is None:
        yield (
            ("build-log-dir",),
            Kind.DIFFERS,
            "Without it logs are in `logs` below `state-dir`, not in /var/log/nodepool/builds.",
        )
    if given.data.get("diskimages"):
        yield (
            ("diskimages",),
            Kind.DIFFERS,
            "What belongs to a diskimage or provider that is taken out of the file stays until 'imagepool"
            " cleanup'; nodepool deletes a diskimage's builds and uploads at once, and never a provider's.",
        )
        yield (
            ("diskimages",),
            Kind.DIFFERS,
            "Two ready builds and two ready uploads in each provider stay, as with nodepool, and `keep` says"
            " otherwise; failed ones stay on record for `failed-retention`, a week, not a minute, and are"
            " tried again ever more rarely, not every 10 s.",
        )
        yield (
            ("diskimages",),
            Kind.DIFFERS,
            "Files in qcow2 are compressed with zstd and have compat 1.1; nodepool's have 0.10. For clouds"
            " with an old QEMU: format-options: {qcow2: {compat: '0.10'}}.",
        )


def _diskimages(given: _File) -> Iterator[Found]:
    for position, entry in given.entries("diskimages"):
        path: KeyPath = ("diskimages", position)
        for key, kind, text in chain(_when_built(given, entry), _inherited(given, entry), _of_image(entry)):
            yield (*path, key) if key else path, kind, text


def _when_built(given: _File, entry: Mapping[str, Any]) -> Iterator[tuple[str, Kind, str]]:
    said = given.data.keys() | {key for image in given.ancestry(entry) for key in image}
    if not entry.get("abstract") and not said & {"rebuild-age", "schedule"}:
        yield (
            "",
            Kind.DIFFERS,
            "Without a rebuild-age it is built each day at 14:14 UTC; nodepool builds it 24 hours after the"
            " last build ended.",
        )


def _inherited(given: _File, entry: Mapping[str, Any]) -> Iterator[tuple[str, Kind, str]]:
    parents = list(given.ancestry(entry))[1:]
    if entry.get("pause") is False and any(parent.get("pause") for parent in parents):
        yield (
            "pause",
            Kind.DIFFERS,
            "It is built: `false` overrides a parent's `true`. nodepool leaves it paused.",
        )
    if any(parent.get("metadata") for parent in parents):
        yield (
            "metadata" if entry.get("metadata") else "parent",
            Kind.DIFFERS,
            "A parent's metadata hold for it, with its own over them; nodepool takes its own alone.",
        )


def _of_image(entry: Mapping[str, Any]) -> Iterator[tuple[str, Kind, str]]:
    if entry.get("shell-type") is not None:
        yield (
            "shell-type",
            Kind.DIFFERS,
            "It is taken and recorded; nodepool's config-validate refuses it, though its builder does not.",
        )
    if "%p" in str(entry.get("dib-cmd", "")):
        yield (
            "dib-cmd",
            Kind.ERROR,
            "`%p` is nodepool's own directory, which imagepool doesn't know: write the path.",
        )


def _providers(given: _File) -> Iterator[Found]:
    for position, entry in given.entries("providers"):
        if not _is_foreign(entry):
            for key, kind, text in _of_provider(entry):
                yield ("providers", position, key), kind, text


def _of_provider(entry: Mapping[str, Any]) -> Iterator[tuple[str, Kind, str]]:
    if str(entry.get("name", "")).startswith("fake") and "driver" not in entry:
        yield "name", Kind.DIFFERS, "It is a provider like any other; nodepool takes its driver to be `fake`."
    if entry.get("rate") is None:
        yield (
            "rate",
            Kind.DIFFERS,
            "Without it requests to the cloud do not wait; nodepool waits 1 s between two.",
        )
    if entry.get("image-upload-timeout") is not None:
        yield (
            "image-upload-timeout",
            Kind.DIFFERS,
            "It bounds the whole upload; nodepool's bounds only the wait after the bytes are there.",
        )
    hook = entry.get("post-upload-hook")
    if hook is not None:
        yield (
            "post-upload-hook",
            Kind.DIFFERS,
            "When it fails, or takes longer than `post-upload-hook-timeout` (600 s), the image is deleted;"
            " nodepool leaves it in the cloud, and waits for ever.",
        )
    if isinstance(hook, str) and not hook.startswith("/"):
        where = (
            "nodepool looks for it on its PATH" if "/" not in hook else "nodepool in its working directory"
        )
        yield "post-upload-hook", Kind.DIFFERS, f"It is looked for beside this file; {where}."


# -- what needs attention --------------------------------------------------------------------------


def _texts(given: _File) -> Iterator[Found]:
    for path, text in _all_texts(given.data, ()):
        for name in _VARIABLE.findall(text):
            yield path, Kind.ERROR, f"The environment has no variable {name}: the text stays as it is."
        if path[0] == "diskimages" and _TEMPLATE.search(text):
            yield (
                path,
                Kind.DIFFERS,
                "`{{` and `{%` begin a template, which is rendered; nodepool has none. Write {{ '{{' }}.",
            )


def _all_texts(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _all_texts(inner, (*path, key))
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            yield from _all_texts(inner, (*path, position))


_RULES: Final[tuple[Rule, ...]] = (_ignored, _zookeeper, _top_level, _diskimages, _providers, _texts)
