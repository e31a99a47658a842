"""Keeps in ZooKeeper which builds are asked for, and for which times of the schedule they were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from kazoo.exceptions import BadVersionError, NoNodeError
from kazoo.protocol.states import ZnodeStat

from builder.errors import ConflictError, NotFoundError
from builder.model import NO_TICKS, Request
from builder.store import notes, paths
from builder.store.base import joined, not_remembered
from builder.store.bounds import bounded_signed, bounded_ticks
from builder.store.fields import RecordError, Stored
from builder.store.nodes import ATTEMPTS, Part, Step, checking, creating, setting


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What an image's two nodes say; None where there is no node."""

    request_node: Stored | None
    request: Request | None
    ticks_node: Stored | None
    ticks: Mapping[str, datetime]


class Requests(Part):
    """Requests for builds."""

    def request_build(self, request: Request, *, ticks: Mapping[str, datetime] = NO_TICKS) -> Request | None:
        request = bounded_signed(request)
        for attempt in range(ATTEMPTS):
            if attempt:
                # What is above the nodes is missing, or somebody was quicker.
                self._nodes.ensure(paths.image(request.image))
                self._nodes.ensure(paths.SCHEDULE)
            asked = self._asked(request.image)
            fresh = not_remembered(ticks, asked.ticks, request.time)
            if ticks and not fresh:
                return None
            wanted = joined(request, asked.request)
            if wanted is asked.request and not fresh:
                return wanted
            steps = [*_request_steps(wanted, asked), *_ticks_steps(request.image, fresh, asked)]
            answers = self._nodes.transact(steps)
            if answers is not None:
                # A request that was there is told apart by what it was when it was made.
                return wanted if wanted.stamp else replace(wanted, stamp=_written_by(answers))
        raise ConflictError(f"{paths.request(request.image)} keeps changing")

    def withdraw_request(self, request: Request) -> bool:
        path = paths.request(request.image)
        try:
            node = self._nodes.read(path)
            if notes.decode_request(node, image=request.image).stamp != request.stamp:
                return False
            self._session.call(lambda c: c.delete_async(path, version=node.version))
        except (NotFoundError, NoNodeError, BadVersionError):
            return False
        return True

    def _asked(self, image: str) -> _Asked:
        wanted = (("request", paths.request(image)), ("ticks", paths.ticks(image)))
        found = dict(self._nodes.read_all(wanted))
        request, ticks = found.get("request"), found.get("ticks")
        return _Asked(
            request_node=request,
            request=None if request is None else notes.decode_request(request, image=image),
            ticks_node=ticks,
            ticks=NO_TICKS if ticks is None else _readable(ticks),
        )


def _request_steps(wanted: Request, asked: _Asked) -> list[Step]:
    path, node = paths.request(wanted.image), asked.request_node
    if node is None:
        # Made, and written over at once: only to a write does ZooKeeper answer which transaction it was.
        return [creating(path), setting(path, notes.encode_request(wanted), 0)]
    if wanted is asked.request:
        # Were it withdrawn just now, its times would be remembered and nobody would build.
        return [checking(path, node.version)]
    # Written over in place, for a version then tells `withdraw_request` of the change.
    return [setting(path, notes.encode_request(wanted), node.version)]


def _ticks_steps(image: str, fresh: Mapping[str, datetime], asked: _Asked) -> list[Step]:
    if not fresh:
        return []
    path, node, ticks = paths.ticks(image), asked.ticks_node, bounded_ticks({**asked.ticks, **fresh})
    if node is None:
        return [creating(path, notes.encode_ticks(ticks))]
    return [setting(path, notes.encode_ticks(ticks, node.data), node.version)]


def _readable(node: Stored) -> Mapping[str, datetime]:
    try:
        return notes.decode_ticks(node)
    except RecordError:
        return NO_TICKS  # it says nothing, and is written over


def _written_by(answers: Iterable[object]) -> int:
    """The id of the transaction, which every node has that it wrote."""
    return next(int(answer.mzxid) for answer in answers if isinstance(answer, ZnodeStat))
