"""Turns what stands beside the records into JSON bytes and back: wishes, sightings, and who is gone.

A wish is obeyed whatever else its node says: only what it is about has to be readable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Final

from builder.cloudimage import Sighting
from builder.model import Cancellation, Deletion, Request, UploadCancellation, UploadWish
from builder.store import paths
from builder.store.bounds import bounded_cancellations, bounded_signed
from builder.store.fields import Fields, RecordError, Stored, a_flag, a_text, a_time, as_bytes

#: What an empty request node says: nodepool's CLI and web page make such.
NODEPOOL_REQUEST: Final = ("nodepool", "asked through nodepool's request node")
#: Who wished something when the node doesn't say.
_SOMEBODY: Final = "somebody"


def encode_request(request: Request) -> bytes:
    """The bytes of a request node; nodepool's readers look only at its existence and age."""
    return as_bytes(request_fields(request))


def decode_request(stored: Stored, *, image: str) -> Request:
    """The request in a node's data. An empty node is nodepool's.

    The node's existence is the wish: data that can't be read only means that nobody knows whose.
    """
    by, why = NODEPOOL_REQUEST
    if stored.data:
        try:
            return request_from(Fields(stored.data, "a request"), image, stamp=stored.written_by)
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
    return as_bytes({wish.upload: _signature(wish) for wish in wishes})


def decode_upload_cancellations(stored: Stored, *, image: str) -> tuple[UploadCancellation, ...]:
    """The wishes in a node's data, oldest first, without those that name no upload.

    RecordError when it is no object at all.
    """
    fields = Fields(stored.data, f"upload cancellations for {image}")
    return bounded_cancellations(
        UploadCancellation(upload=name, image=image, **_signed(fields.all[name], stored.modified))
        for name in fields.all
        if _names_an_upload(image, name)
    )


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
        "by": request.by,
        "why": request.why,
        "time": request.time.timestamp(),
        "manual": request.manual,
    }


def request_from(fields: Fields, image: str, *, stamp: int) -> Request:
    """The request in an object; RecordError."""
    return Request(
        image=image,
        by=fields.need("by", a_text),
        why=fields.need("why", a_text),
        time=fields.need("time", a_time),
        manual=fields.get("manual", bool, True),
        stamp=stamp,
    )


def wishes_fields(wishes: Iterable[UploadWish]) -> list[dict[str, Any]]:
    """Wishes of uploads as a list of objects."""
    return [{"provider": wish.provider, "wanted": wish.wanted, **_signature(wish)} for wish in wishes]


def wishes_of(modified: datetime) -> Callable[[Any], tuple[UploadWish, ...]]:
    """Reads a list of wishes in a node of that age. One that doesn't say what is wanted where is left out:
    the others hold all the same."""
    return lambda value: tuple(wish for item in value if (wish := _wish(item, modified)) is not None)


def deletion_fields(deletion: Deletion | None) -> dict[str, Any] | None:
    """A deletion as an object."""
    return None if deletion is None else _signature(deletion)


def deletion_of(modified: datetime) -> Callable[[Any], Deletion]:
    """Reads a deletion in a node of that age."""

    def read(value: Any) -> Deletion:
        if not isinstance(value, dict):
            raise TypeError(f"{value!r} is no object")
        return Deletion(**_signed(value, modified))

    return read


def _wish(value: Any, modified: datetime) -> UploadWish | None:
    try:
        fields = Fields(value, "a wish")
        provider, wanted = fields.need("provider", a_text), fields.need("wanted", a_flag)
    except (RecordError, TypeError):
        return None
    return UploadWish(provider=provider, wanted=wanted, **_signed(value, modified))


def _signature(wish: UploadCancellation | UploadWish | Deletion) -> dict[str, Any]:
    return {"by": wish.by, "time": wish.time.timestamp(), "why": wish.why}


def _signed(value: Any, modified: datetime) -> dict[str, Any]:
    """Who wished, when and why, as far as that can be read."""
    fields = Fields(value if isinstance(value, dict) else {}, "a wish")
    return {
        "by": fields.lenient("by", a_text, _SOMEBODY),
        "time": fields.lenient("time", a_time, modified),
        "why": fields.lenient("why", a_text, ""),
    }


def _names_an_upload(image: str, name: str) -> bool:
    try:
        paths.upload_named(image, name)
    except ValueError:
        return False
    return True
