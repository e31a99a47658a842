"""Turns what stands beside the records into JSON bytes and back: wishes, pauses, daemons, sightings.

A wish is obeyed whatever else its node says: only what it is about has to be readable. Whatever is written
over in place keeps the fields that nobody here knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from builder.cloudimage import Sighting
from builder.model import (
    Cancellation,
    Clearance,
    Daemon,
    Deletion,
    Pause,
    Release,
    Request,
    UploadCancellation,
    UploadWish,
    Withholding,
)
from builder.store import paths
from builder.store.bounds import bounded_cancellations, bounded_signed
from builder.store.fields import (
    Fields,
    RecordError,
    Stored,
    a_count,
    a_flag,
    a_text,
    a_time,
    an_integer,
    as_bytes,
    as_seconds,
    present,
    some_texts,
    unknown,
)

#: What an empty request node says: nodepool's CLI and web page make such.
NODEPOOL_REQUEST: Final = ("nodepool", "asked through nodepool's request node")
#: Who wished something when the node doesn't say.
_SOMEBODY: Final = "somebody"
#: Bytes of the times of a schedule, from which on what can't be read among them is not kept.
_TICKS: Final = 500_000
#: Characters of why a daemon takes no builds.
_UNFIT: Final = 1000
_SIGNATURE: Final = frozenset({"by", "time", "why"})
_WISH_FIELDS: Final = _SIGNATURE | {"provider", "wanted"}
_CLEARANCE_FIELDS: Final = _SIGNATURE | {"provider"}
_WITHHOLDING_FIELDS: Final = _CLEARANCE_FIELDS | {"held"}
_REQUEST_FIELDS: Final = _SIGNATURE | {"manual", "force", "urgent", "tick", "stamp"}


def encode_request(request: Request) -> bytes:
    """The bytes of a request node; nodepool's readers look only at its existence and age.

    One that was read before says so by its stamp: however often it is written over, it stays the same.
    """
    return as_bytes({**request_fields(request), **present(stamp=request.stamp or None)})


def decode_request(stored: Stored, *, image: str) -> Request:
    """The request in a node's data. An empty node is nodepool's.

    The node's existence is the wish: data that can't be read only means that nobody knows whose.
    """
    by, why = NODEPOOL_REQUEST
    if stored.data:
        try:
            said = request_from(Fields(stored.data, "a request"), image, stamp=stored.written_by)
            return bounded_signed(said)
        except RecordError as error:
            by, why = "unknown", error.message
    return Request(image=image, by=by, why=why, time=stored.created, stamp=stored.written_by)


def encode_cancellation(wish: Cancellation) -> bytes:
    """The bytes of a bounded wish."""
    return as_bytes(
        {"build_id": wish.build_id, "by": wish.by, "time": wish.time.timestamp(), "why": wish.why}
    )


def decode_cancellation(stored: Stored, *, image: str) -> Cancellation:
    """The cancellation in a node's data; RecordError when it names no build.

    All but the build may be missing or unreadable: that the build shall end is plain all the same.
    """
    fields = Fields(stored.data, f"cancellation for {image}")
    wish = Cancellation(
        image=image,
        build_id=fields.need("build_id", a_text),
        by=fields.lenient("by", a_text, _SOMEBODY),
        time=fields.lenient("time", a_time, stored.created),
        why=fields.lenient("why", a_text, ""),
    )
    return bounded_signed(wish)


def encode_upload_cancellations(wishes: Iterable[UploadCancellation]) -> bytes:
    """The bytes of a node with the `bounded_cancellations` of one image."""
    return as_bytes({wish.upload: {**wish.extra, **_signature(wish)} for wish in wishes})


def decode_upload_cancellations(stored: Stored, *, image: str) -> tuple[UploadCancellation, ...]:
    """The wishes in a node's data, oldest first, without those that name no upload.

    RecordError when it is no object at all.
    """
    fields = Fields(stored.data, f"upload cancellations for {image}")
    return bounded_cancellations(
        UploadCancellation(
            upload=name,
            image=image,
            extra=_more(fields.all[name], _SIGNATURE),
            **_signed(fields.all[name], stored.modified),
        )
        for name in fields.all
        if _names_an_upload(image, name)
    )


def encode_pause(pause: Pause) -> bytes:
    """The bytes of a bounded pause, or of the word that a builder is gone."""
    return as_bytes(_signature(pause))


def decode_pause(stored: Stored) -> Pause:
    """The pause in a node's data. The node's existence is the pause; an empty one is nodepool's."""
    try:
        said = Fields(stored.data, "a pause").all
    except RecordError:
        said = {}
    return bounded_signed(Pause(**_signed(said, stored.created)))


def encode_ticks(ticks: Mapping[str, datetime], over: bytes = b"") -> bytes:
    """The bytes of the `bounded_ticks` of an image's schedule, over those that are there now."""
    return as_bytes({**_unread_ticks(over), **{text: time.timestamp() for text, time in ticks.items()}})


def decode_ticks(stored: Stored) -> Mapping[str, datetime]:
    """The times by entry, without those that can't be read; RecordError when it is no object at all."""
    fields = Fields(stored.data, "the times of a schedule")
    found = {entry: fields.lenient(entry, a_time, None) for entry in fields.all}
    return MappingProxyType({entry: time for entry, time in found.items() if time is not None})


def encode_daemon(daemon: Daemon) -> bytes:
    """The bytes of a daemon's own record."""
    return as_bytes(
        {
            "hostname": daemon.hostname,
            "roles": list(daemon.roles),
            "version": daemon.version,
            "started": daemon.started.timestamp(),
            "build_workers": daemon.build_workers,
            "withholds": daemon.withholds,
            **present(
                builder_id=daemon.builder_id,
                labels=sorted(daemon.labels),
                unfit=None if daemon.unfit is None else daemon.unfit[:_UNFIT],
                draining=daemon.draining or None,
            ),
        }
    )


def decode_daemon(stored: Stored) -> Daemon:
    """The daemon in a node's data; RecordError when it does not say where it runs and what it does."""
    fields = Fields(stored.data, "a daemon")
    no_labels: tuple[str, ...] = ()
    return Daemon(
        hostname=fields.need("hostname", a_text),
        roles=fields.need("roles", some_texts),
        version=fields.lenient("version", a_text, "unknown"),
        started=fields.lenient("started", a_time, stored.created),
        builder_id=fields.lenient("builder_id", a_text, None),
        labels=frozenset(fields.lenient("labels", some_texts, no_labels)),
        build_workers=fields.lenient("build_workers", a_count, 1),
        unfit=fields.lenient("unfit", a_text, None),
        draining=fields.lenient("draining", a_flag, False),
        withholds=fields.lenient("withholds", a_flag, False),
    )


def decode_candidate(stored: Stored) -> str:
    """The host name in a contender for the lead."""
    return stored.data.decode(errors="replace")


def encode_gone(image: str) -> bytes:
    """The bytes of the node that remembers a build of that image; ZooKeeper knows the time."""
    return as_bytes({"image": image})


def decode_gone(stored: Stored, *, build_id: str) -> str:
    """The image whose build is gone; RecordError when the node names none."""
    return Fields(stored.data, f"removed build {build_id}").need("image", a_text)


def encode_sighting(sighting: Sighting) -> bytes:
    """The bytes of a sighting."""
    return as_bytes({"first": sighting.first.timestamp(), "last": sighting.last.timestamp()})


def decode_sighting(stored: Stored, *, provider: str, external_id: str) -> Sighting:
    """The sighting in a node's data; RecordError when it does not say when it was."""
    fields = Fields(stored.data, f"sighting of {external_id} in {provider}")
    return Sighting(
        provider=provider,
        external_id=external_id,
        first=fields.need("first", a_time),
        last=fields.need("last", a_time),
    )


# -- inside other records -----------------------------------------------------------------------


def request_fields(request: Request) -> dict[str, Any]:
    """A request as an object."""
    return {
        **request.extra,
        "by": request.by,
        "why": request.why,
        "time": request.time.timestamp(),
        "manual": request.manual,
        **present(force=request.force or None, urgent=request.urgent or None, tick=as_seconds(request.tick)),
    }


def request_from(fields: Fields, image: str, *, stamp: int) -> Request:
    """The request in an object; RecordError."""
    return Request(
        image=image,
        by=fields.need("by", a_text),
        why=fields.need("why", a_text),
        time=fields.need("time", a_time),
        manual=fields.get("manual", bool, True),
        force=fields.lenient("force", a_flag, False),
        urgent=fields.lenient("urgent", a_flag, False),
        tick=fields.lenient("tick", a_time, None),
        stamp=fields.lenient("stamp", an_integer, stamp),
        extra=unknown(fields.all, _REQUEST_FIELDS),
    )


def wishes_fields(wishes: Iterable[UploadWish]) -> list[dict[str, Any]]:
    """Wishes of uploads as a list of objects."""
    return [
        {**wish.extra, "provider": wish.provider, "wanted": wish.wanted, **_signature(wish)}
        for wish in wishes
    ]


def wishes_of(modified: datetime) -> Callable[[Any], tuple[UploadWish, ...]]:
    """Reads a list of wishes in a node of that age. One that doesn't say what is wanted where is left out
    (`strange_wishes`): the others hold all the same."""
    return lambda value: tuple(wish for item in value if (wish := _wish(item, modified)) is not None)


def strange_wishes(value: Any) -> list[Any]:
    """Those objects in a list of wishes that `wishes_of` leaves out, to be written back as they are."""
    items = value if isinstance(value, list) else []
    return [item for item in items if isinstance(item, dict) and _what_is_wished(item) is None]


def words_fields(words: Iterable[Withholding | Clearance]) -> list[dict[str, Any]]:
    """Words on a build as a list of objects; that for everywhere names no provider."""
    return [
        {**word.extra, **present(provider=word.provider, held=_is_held(word) or None), **_signature(word)}
        for word in words
    ]


def withheld_of(modified: datetime) -> Callable[[Any], tuple[Withholding, ...]]:
    """Reads words that a build is withheld in a node of that age, without what does not say in words where it
    holds (`strange_words`)."""
    return lambda value: tuple(
        Withholding(held=item.get("held") is True, **_word(item, _WITHHOLDING_FIELDS, modified))
        for item in value
        if _says_where(item)
    )


def cleared_of(modified: datetime) -> Callable[[Any], tuple[Clearance, ...]]:
    """Reads words that a build may serve, in the same way."""
    return lambda value: tuple(
        Clearance(**_word(item, _CLEARANCE_FIELDS, modified)) for item in value if _says_where(item)
    )


def strange_words(value: Any) -> list[Any]:
    """Those objects in such a list that neither of these reads, to be written back as they are."""
    items = value if isinstance(value, list) else []
    return [item for item in items if isinstance(item, dict) and not _says_where(item)]


def signed_fields(word: Deletion | Release | None) -> dict[str, Any] | None:
    """A deletion, or the word that ended a hold, as an object."""
    return None if word is None else {**word.extra, **_signature(word)}


def release_of(modified: datetime) -> Callable[[Any], Release]:
    """Reads the word that ended a hold in a node of that age."""
    return lambda value: Release(extra=_more(_object(value), _SIGNATURE), **_signed(value, modified))


def deletion_of(modified: datetime) -> Callable[[Any], Deletion]:
    """Reads a deletion in a node of that age."""

    return lambda value: Deletion(extra=_more(_object(value), _SIGNATURE), **_signed(value, modified))


def _wish(value: Any, modified: datetime) -> UploadWish | None:
    wished = _what_is_wished(value)
    if wished is None:
        return None
    provider, wanted = wished
    return UploadWish(
        provider=provider, wanted=wanted, extra=_more(value, _WISH_FIELDS), **_signed(value, modified)
    )


def _what_is_wished(value: Any) -> tuple[str, bool] | None:
    try:
        fields = Fields(value, "a wish")
        return fields.need("provider", a_text), fields.need("wanted", a_flag)
    except (RecordError, TypeError):
        return None


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is no object")
    return value


def _word(item: dict[str, Any], known: frozenset[str], modified: datetime) -> dict[str, Any]:
    """What all words on a build say."""
    return {"provider": item.get("provider"), "extra": _more(item, known), **_signed(item, modified)}


def _is_held(word: Withholding | Clearance) -> bool:
    return isinstance(word, Withholding) and word.held


def _says_where(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("provider"), str | None)


def _more(value: Any, known: frozenset[str]) -> Mapping[str, Any]:
    return unknown(value if isinstance(value, dict) else {}, known)


def _signature(
    wish: UploadCancellation | UploadWish | Withholding | Clearance | Release | Deletion | Pause,
) -> dict[str, Any]:
    return {"by": wish.by, "time": wish.time.timestamp(), "why": wish.why}


def _signed(value: Any, modified: datetime) -> dict[str, Any]:
    """Who wished, when and why, as far as that can be read."""
    fields = Fields(value if isinstance(value, dict) else {}, "a wish")
    return {
        "by": fields.lenient("by", a_text, _SOMEBODY),
        "time": fields.lenient("time", a_time, modified),
        "why": fields.lenient("why", a_text, ""),
    }


def _unread_ticks(data: bytes) -> dict[str, Any]:
    """What stands among the times of a schedule and is none that we can read."""
    if len(data) > _TICKS:
        return {}
    try:
        fields = Fields(data, "the times of a schedule")
    except RecordError:
        return {}
    return {
        entry: value for entry, value in fields.all.items() if fields.lenient(entry, a_time, None) is None
    }


def _names_an_upload(image: str, name: str) -> bool:
    try:
        paths.upload_named(image, name)
    except ValueError:
        return False
    return True
