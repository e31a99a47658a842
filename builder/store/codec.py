"""Turns records into the JSON bytes that ZooKeeper keeps, and back.

nodepool 11's fields stand as nodepool writes them: `state_time` in float seconds of the epoch,
`formats` joined by commas, sorted and left out when empty, null for an external id not known yet.
Ours stand beside them and are left out while they say nothing; times of ours are float seconds
too. A field that nobody here knows is kept in `extra` and written back as it was.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, TypeVar

from builder.errors import NotFoundError
from builder.model import (
    Artifact,
    Build,
    BuildState,
    Cancellation,
    Failure,
    FailureClass,
    ImageFormat,
    Request,
    Upload,
    UploadState,
)

#: What an empty request node says: nodepool's CLI and web page make such.
NODEPOOL_REQUEST: Final = ("nodepool", "asked through nodepool's request node")

Value = TypeVar("Value")
Record = TypeVar("Record", Build, Upload)

#: 2200-01-01: far enough from the last year Python knows that retry times can be added.
_LATEST: Final = 7_258_118_400
_LARGEST: Final = 1 << 63
#: Of a failure, and what ZooKeeper's limit of a megabyte allows even when each character takes twelve bytes.
_LINES, _LINE, _MESSAGE = 20, 2000, 4000
#: Of what changed since the build before.
_CHANGES, _CHANGE = 25, 200
#: Bytes that the digests of what went in may take; a build that has more is compared with nothing.
_INPUTS: Final = 200_000
#: Characters of who cancelled a build, and why.
_BY, _WHY = 200, 1000


class RecordError(NotFoundError):
    """A node holds no record that we can read; for whoever asks for the record, there is none."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A node's data, and what ZooKeeper says of it."""

    data: bytes
    version: int
    written_by: int  #: id of the transaction that wrote the data (mzxid)
    created: datetime
    modified: datetime


def bounded(record: Record) -> Record:
    """The record with as much as ZooKeeper takes of what can be long.

    Of a reason the last lines, of what changed the first ones, and the beginning of each; of what went
    in all or, when that is too much, nothing: half of it would look like a change.
    """
    if isinstance(record, Build):
        record = _bounded_build(record)
    failure = record.reason
    if failure is None:
        return record
    lines = tuple(line[:_LINE] for line in failure.lines[-_LINES:])
    return replace(record, reason=replace(failure, message=failure.message[:_MESSAGE], lines=lines))


def _bounded_build(build: Build) -> Build:
    changes = tuple(change[:_CHANGE] for change in build.changes[:_CHANGES])
    inputs = build.inputs if len(_bytes(dict(build.inputs))) <= _INPUTS else _NONE
    return replace(build, changes=changes, inputs=inputs)


def bounded_cancellation(wish: Cancellation) -> Cancellation:
    """The wish with as much of who and why as ZooKeeper takes."""
    return replace(wish, by=wish.by[:_BY], why=wish.why[:_WHY])


def encode_build(build: Build) -> bytes:
    """The bytes of the record of a `bounded` build."""
    record = {
        "state": str(build.state),
        "state_time": build.state_time.timestamp(),
        "builder": build.builder,
        "builder_id": build.builder_id,
        **_present(formats=",".join(sorted(build.formats)) or None),
        "username": build.username,
        "python_path": build.python_path,
        "shell_type": build.shell_type,
        **_present(
            phase=build.phase,
            started=_seconds(build.started),
            ended=_seconds(build.ended),
            timings=dict(build.timings),
            artifacts=[_artifact_fields(artifact) for artifact in build.artifacts],
            elements=list(build.elements),
            tools=dict(build.tools),
            log=build.log,
            reason=_failure_fields(build.reason),
            bytes_done=build.bytes_done or None,
            bytes_total=build.bytes_total or None,
            next_try=_seconds(build.next_try),
            work_bytes=build.work_bytes,
            pruned=list(build.pruned),
            inputs=dict(build.inputs),
            checked=_seconds(build.checked),
            changes=list(build.changes),
            request=None if build.request is None else _request_fields(build.request),
        ),
    }
    return _bytes({**record, **_unknown(build.extra, _BUILD_FIELDS)})


def decode_build(stored: Stored, *, image: str, build_id: str) -> Build:
    """The build in a node's data; RecordError when it has none.

    A missing `state_time` is the time of the last write.
    """
    fields = _Fields(stored.data, f"build {build_id} of {image}")
    return Build(
        id=build_id,
        image=image,
        state=fields.need("state", BuildState),
        state_time=fields.get("state_time", _time, stored.modified),
        builder=fields.get("builder", _text, None),
        builder_id=fields.get("builder_id", _text, None),
        formats=fields.get("formats", _formats, ()),
        username=fields.get("username", _text, "zuul"),
        python_path=fields.get("python_path", _text, "auto"),
        shell_type=fields.get("shell_type", _text, None),
        phase=fields.get("phase", _text, None),
        started=fields.get("started", _time, None),
        ended=fields.get("ended", _time, None),
        timings=fields.get("timings", _timings, _NONE),
        artifacts=fields.get("artifacts", _artifacts, ()),
        elements=fields.get("elements", _texts, ()),
        tools=fields.get("tools", _text_map, _NONE),
        log=fields.get("log", _text, None),
        reason=fields.get("reason", _failure, None),
        bytes_done=fields.get("bytes_done", _count, 0),
        bytes_total=fields.get("bytes_total", _count, 0),
        next_try=fields.get("next_try", _time, None),
        work_bytes=fields.get("work_bytes", _count, None),
        pruned=fields.get("pruned", _texts, ()),
        inputs=fields.get("inputs", _text_map, _NONE),
        checked=fields.get("checked", _time, None),
        changes=fields.get("changes", _texts, ()),
        request=fields.get("request", _request_of(image), None),
        extra=_unknown(fields.all, _BUILD_FIELDS),
        version=stored.version,
    )


def encode_upload(upload: Upload) -> bytes:
    """The bytes of the record of a `bounded` upload."""
    record = {
        "state": str(upload.state),
        "state_time": upload.state_time.timestamp(),
        "external_id": upload.external_id,
        "external_name": upload.external_name,
        "format": upload.format,
        "username": upload.username,
        "python_path": upload.python_path,
        "shell_type": upload.shell_type,
        **_present(
            region=upload.region,
            uploader=upload.uploader,
            uploader_id=upload.uploader_id,
            phase=upload.phase,
            started=_seconds(upload.started),
            ended=_seconds(upload.ended),
            size=upload.size,
            sent=upload.sent or None,
            timings=dict(upload.timings),
            reason=_failure_fields(upload.reason),
        ),
    }
    return _bytes({**record, **_unknown(upload.extra, _UPLOAD_FIELDS)})


def decode_upload(stored: Stored, *, image: str, build_id: str, provider: str, upload_id: str) -> Upload:
    """The upload in a node's data; RecordError when it has none.

    A missing `state_time` is the time of the last write.
    """
    fields = _Fields(stored.data, f"upload {build_id}/{provider}/{upload_id} of {image}")
    return Upload(
        id=upload_id,
        build_id=build_id,
        image=image,
        provider=provider,
        state=fields.need("state", UploadState),
        state_time=fields.get("state_time", _time, stored.modified),
        external_id=fields.get("external_id", _text, None),
        external_name=fields.get("external_name", _text, None),
        format=fields.get("format", _text, None),
        username=fields.get("username", _text, "zuul"),
        python_path=fields.get("python_path", _text, "auto"),
        shell_type=fields.get("shell_type", _text, None),
        region=fields.get("region", _text, None),
        uploader=fields.get("uploader", _text, None),
        uploader_id=fields.get("uploader_id", _text, None),
        phase=fields.get("phase", _text, None),
        started=fields.get("started", _time, None),
        ended=fields.get("ended", _time, None),
        size=fields.get("size", _count, None),
        sent=fields.get("sent", _count, 0),
        timings=fields.get("timings", _timings, _NONE),
        reason=fields.get("reason", _failure, None),
        extra=_unknown(fields.all, _UPLOAD_FIELDS),
        version=stored.version,
    )


def encode_request(request: Request) -> bytes:
    """The bytes of a request node; nodepool's readers look only at its existence and age."""
    return _bytes(_request_fields(request))


def decode_request(stored: Stored, *, image: str) -> Request:
    """The request in a node's data. An empty node is nodepool's.

    The node's existence is the wish: data that can't be read only means that nobody knows whose.
    """
    by, why = NODEPOOL_REQUEST
    if stored.data:
        try:
            return _request_from(_Fields(stored.data, "a request"), image, stamp=stored.written_by)
        except RecordError as error:
            by, why = "unknown", error.message
    return Request(image=image, by=by, why=why, time=stored.created, stamp=stored.written_by)


def encode_cancellation(wish: Cancellation) -> bytes:
    """The bytes of a `bounded_cancellation`."""
    return _bytes({"build_id": wish.build_id, "by": wish.by, "time": wish.time.timestamp(), "why": wish.why})


def decode_cancellation(stored: Stored, *, image: str) -> Cancellation:
    """The cancellation in a node's data; RecordError when it names no build.

    All but the build may be missing or unreadable: that the build shall end is plain all the same.
    """
    fields = _Fields(stored.data, f"cancellation for {image}")
    wish = Cancellation(
        image=image,
        build_id=fields.need("build_id", _text),
        by=fields.lenient("by", _text, "somebody"),
        time=fields.lenient("time", _time, stored.created),
        why=fields.lenient("why", _text, ""),
    )
    return bounded_cancellation(wish)


class _Fields:
    """The fields of one JSON object, read with an error that says which record is broken."""

    def __init__(self, source: bytes | Mapping[str, Any], what: str) -> None:
        self._what = what
        self.all: Mapping[str, Any] = source if isinstance(source, Mapping) else self._parse(source)

    def need(self, name: str, read: Callable[[Any], Value]) -> Value:
        """A field that has to be there."""
        if self.all.get(name) is None:
            raise RecordError(f"the record of {self._what} has no field {name!r}")
        try:
            return read(self.all[name])
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, OSError) as error:
            raise RecordError(f"the record of {self._what} has a bad {name!r}: {error}") from error

    def get(self, name: str, read: Callable[[Any], Value], default: Value) -> Value:
        """A field that may be missing or null."""
        return default if self.all.get(name) is None else self.need(name, read)

    def lenient(self, name: str, read: Callable[[Any], Value], default: Value) -> Value:
        """A field that may be missing, null or unreadable."""
        try:
            return self.get(name, read, default)
        except RecordError:
            return default

    def _parse(self, data: bytes) -> dict[str, Any]:
        try:
            parsed = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise RecordError(f"the record of {self._what} is no JSON: {error}") from error
        if not isinstance(parsed, dict):
            raise RecordError(f"the record of {self._what} is no JSON object")
        return parsed


_NONE: Final[Mapping[str, Any]] = MappingProxyType({})
_NODEPOOL_FIELDS = frozenset({"state", "state_time", "username", "python_path", "shell_type"})
_BUILD_FIELDS = _NODEPOOL_FIELDS | {
    *("builder", "builder_id", "formats", "phase", "started", "ended", "timings", "artifacts", "elements"),
    *("tools", "log", "reason", "request", "bytes_done", "bytes_total", "next_try", "work_bytes"),
    *("pruned", "inputs", "checked", "changes"),
}
_UPLOAD_FIELDS = _NODEPOOL_FIELDS | {
    *("external_id", "external_name", "format", "region", "uploader", "uploader_id", "phase", "started"),
    *("ended", "size", "sent", "timings", "reason"),
}


def _bytes(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record).encode()


def _unknown(fields: Mapping[str, Any], known: frozenset[str]) -> Mapping[str, Any]:
    return MappingProxyType({name: value for name, value in fields.items() if name not in known})


def _present(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None and value not in ([], {})}


def _seconds(time: datetime | None) -> float | None:
    return None if time is None else time.timestamp()


def _time(value: Any) -> datetime:
    seconds = _number(value)
    if not 0 <= seconds < _LATEST:
        raise ValueError(f"{value!r} is no time of this or the next century")
    return datetime.fromtimestamp(seconds, UTC)


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is no finite number")
    return number


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no integer")
    # What is larger is no fact, and overflows the floats that it meets later on.
    if not -_LARGEST < value < _LARGEST:
        raise ValueError("a number is out of all bounds")
    return value


def _count(value: Any) -> int:
    """Bytes, or how many."""
    count = _integer(value)
    if count < 0:
        raise ValueError(f"{count} is no count")
    return count


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return tuple(_text(item) for item in value)


def _formats(value: Any) -> tuple[str, ...]:
    return tuple(part for part in _text(value).split(",") if part)


def _text_map(value: Any) -> Mapping[str, str]:
    return MappingProxyType({name: _text(item) for name, item in value.items()})


def _timings(value: Any) -> Mapping[str, float]:
    return MappingProxyType({name: _number(item) for name, item in value.items()})


def _artifact_fields(artifact: Artifact) -> dict[str, Any]:
    return {
        "format": str(artifact.format),
        "size": artifact.size,
        "virtual_size": artifact.virtual_size,
        "md5": artifact.md5,
        "sha256": artifact.sha256,
        "sha512": artifact.sha512,
    }


def _artifacts(value: Any) -> tuple[Artifact, ...]:
    return tuple(_artifact(_Fields(item, "an artifact")) for item in value)


def _artifact(fields: _Fields) -> Artifact:
    return Artifact(
        format=fields.need("format", ImageFormat),
        size=fields.need("size", _count),
        virtual_size=fields.need("virtual_size", _count),
        md5=fields.need("md5", _text),
        sha256=fields.need("sha256", _text),
        sha512=fields.need("sha512", _text),
    )


def _failure_fields(failure: Failure | None) -> dict[str, Any] | None:
    if failure is None:
        return None
    return {
        "class": str(failure.failure_class),
        "message": failure.message,
        **_present(
            phase=failure.phase,
            step=failure.step,
            exit_code=failure.exit_code,
            lines=list(failure.lines),
        ),
    }


def _failure(value: Any) -> Failure:
    fields = _Fields(value, "a reason")
    return Failure(
        failure_class=fields.need("class", FailureClass),
        message=fields.need("message", _text),
        phase=fields.get("phase", _text, None),
        step=fields.get("step", _text, None),
        exit_code=fields.get("exit_code", _integer, None),
        lines=fields.get("lines", _texts, ()),
    )


def _request_fields(request: Request) -> dict[str, Any]:
    return {
        "by": request.by,
        "why": request.why,
        "time": request.time.timestamp(),
        "manual": request.manual,
    }


def _request_of(image: str) -> Callable[[Any], Request]:
    return lambda value: _request_from(_Fields(value, f"request for {image}"), image, stamp=0)


def _request_from(fields: _Fields, image: str, *, stamp: int) -> Request:
    return Request(
        image=image,
        by=fields.need("by", _text),
        why=fields.need("why", _text),
        time=fields.need("time", _time),
        manual=fields.get("manual", bool, True),
        stamp=stamp,
    )
