"""Reads the record in a node, whatever stands at that place of the tree."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

from builder.store import codec, notes
from builder.store.fields import RecordError, Stored
from builder.store.paths import Kind, Place
from builder.store.view import Record

LOG = logging.getLogger(__name__)


def decode(place: Place, node: Stored) -> Record | None:
    """The record at a place; None, and a warning in the log, when it can't be read."""
    try:
        return read(place, node)
    except RecordError as error:
        # A build's node may be empty by right: nodepool keeps uploads below such.
        if node.data:
            LOG.warning("skipped: %s", error)
        return None


def read(place: Place, node: Stored) -> Record:
    """The record at a place; RecordError when it can't be read."""
    if place.kind is Kind.BUILD:
        return codec.decode_build(node, image=place.image, build_id=place.build_id)
    if place.kind is Kind.UPLOAD:
        return codec.decode_upload(
            node,
            image=place.image,
            build_id=place.build_id,
            provider=place.provider,
            upload_id=place.upload_id,
        )
    return _NOTES[place.kind](node, place)


_NOTES: Final[Mapping[Kind, Callable[[Stored, Place], Record]]] = {
    Kind.PAUSE: lambda node, place: notes.decode_pause(node),
    Kind.FROZEN: lambda node, place: notes.decode_pause(node),
    Kind.INSTALLATION: lambda node, place: node.data.decode(errors="replace").strip(),
    Kind.PAUSED_PROVIDER: lambda node, place: notes.decode_pause(node),
    Kind.FORGOTTEN: lambda node, place: notes.decode_pause(node),
    Kind.REQUEST: lambda node, place: notes.decode_request(node, image=place.image),
    Kind.CANCELLATION: lambda node, place: notes.decode_cancellation(node, image=place.image),
    Kind.UPLOAD_CANCELLATIONS: lambda node, place: notes.decode_upload_cancellations(node, image=place.image),
    Kind.TICKS: lambda node, place: notes.decode_ticks(node),
    Kind.DAEMON: lambda node, place: notes.decode_daemon(node),
    Kind.CANDIDATE: lambda node, place: notes.decode_candidate(node),
}
