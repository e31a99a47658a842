"""Turns the records of builds and uploads into the JSON bytes that ZooKeeper keeps, and back.

nodepool 11's fields stand as nodepool writes them: `state_time` in float seconds of the epoch,
`formats` joined by commas, sorted and left out when empty, null for an external id not known yet.
Ours stand beside them and are left out while they say nothing; times of ours are float seconds
too. A field that nobody here knows is kept in `extra` and written back as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from builder.model import (
    Artifact,
    Build,
    BuildState,
    Failure,
    FailureClass,
    ImageFormat,
    Request,
    Upload,
    UploadState,
)
from builder.store import notes
from builder.store.fields import (
    NOTHING,
    Fields,
    Stored,
    a_count,
    a_flag,
    a_text,
    a_text_map,
    a_time,
    an_integer,
    as_bytes,
    as_seconds,
    present,
    some_formats,
    some_texts,
    some_timings,
    unknown,
)


def encode_build(build: Build) -> bytes:
    """The bytes of the record of a `bounded` build."""
    record = {
        "state": str(build.state),
        "state_time": build.state_time.timestamp(),
        "builder": build.builder,
        "builder_id": build.builder_id,
        **present(formats=",".join(sorted(build.formats)) or None),
        "username": build.username,
        "python_path": build.python_path,
        "shell_type": build.shell_type,
        **present(
            phase=build.phase,
            started=as_seconds(build.started),
            ended=as_seconds(build.ended),
            timings=dict(build.timings),
            artifacts=[_artifact_fields(artifact) for artifact in build.artifacts],
            elements=list(build.elements),
            tools=dict(build.tools),
            log=build.log,
            reason=_failure_fields(build.reason),
            bytes_done=build.bytes_done or None,
            bytes_total=build.bytes_total or None,
            next_try=as_seconds(build.next_try),
            work_bytes=build.work_bytes,
            pruned=list(build.pruned),
            inputs=dict(build.inputs),
            checked=as_seconds(build.checked),
            changes=list(build.changes),
            request=None if build.request is None else notes.request_fields(build.request),
            raw_sha256=build.raw_sha256,
            raw_size=build.raw_size,
            wishes=notes.wishes_fields(build.wishes),
        ),
    }
    return as_bytes({**record, **unknown(build.extra, _BUILD_FIELDS)})


def decode_build(stored: Stored, *, image: str, build_id: str) -> Build:
    """The build in a node's data; RecordError when it has none.

    A missing `state_time` is the time of the last write.
    """
    fields = Fields(stored.data, f"build {build_id} of {image}")
    return Build(
        id=build_id,
        image=image,
        state=fields.need("state", BuildState),
        state_time=fields.get("state_time", a_time, stored.modified),
        builder=fields.get("builder", a_text, None),
        builder_id=fields.get("builder_id", a_text, None),
        formats=fields.get("formats", some_formats, ()),
        username=fields.get("username", a_text, "zuul"),
        python_path=fields.get("python_path", a_text, "auto"),
        shell_type=fields.get("shell_type", a_text, None),
        phase=fields.get("phase", a_text, None),
        started=fields.get("started", a_time, None),
        ended=fields.get("ended", a_time, None),
        timings=fields.get("timings", some_timings, NOTHING),
        artifacts=fields.get("artifacts", _artifacts, ()),
        elements=fields.get("elements", some_texts, ()),
        tools=fields.get("tools", a_text_map, NOTHING),
        log=fields.get("log", a_text, None),
        reason=fields.get("reason", _failure, None),
        bytes_done=fields.get("bytes_done", a_count, 0),
        bytes_total=fields.get("bytes_total", a_count, 0),
        next_try=fields.get("next_try", a_time, None),
        work_bytes=fields.get("work_bytes", a_count, None),
        pruned=fields.get("pruned", some_texts, ()),
        inputs=fields.get("inputs", a_text_map, NOTHING),
        checked=fields.get("checked", a_time, None),
        changes=fields.get("changes", some_texts, ()),
        request=fields.get("request", _request_of(image), None),
        raw_sha256=fields.lenient("raw_sha256", a_text, None),
        raw_size=fields.lenient("raw_size", a_count, None),
        wishes=fields.lenient("wishes", notes.wishes_of(stored.modified), ()),
        extra=unknown(fields.all, _BUILD_FIELDS),
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
        **present(
            region=upload.region,
            uploader=upload.uploader,
            uploader_id=upload.uploader_id,
            phase=upload.phase,
            started=as_seconds(upload.started),
            ended=as_seconds(upload.ended),
            size=upload.size,
            sent=upload.sent or None,
            timings=dict(upload.timings),
            reason=_failure_fields(upload.reason),
            cloud=upload.cloud,
            way=upload.way,
            fallbacks=list(upload.fallbacks),
            task=upload.task,
            hook_output=list(upload.hook_output),
            serving=as_seconds(upload.serving),
            stable_name=upload.stable_name,
            stable_tag=upload.stable_tag,
            hidden=upload.hidden or None,
            deletion=notes.deletion_fields(upload.deletion),
        ),
    }
    return as_bytes({**record, **unknown(upload.extra, _UPLOAD_FIELDS)})


def decode_upload(stored: Stored, *, image: str, build_id: str, provider: str, upload_id: str) -> Upload:
    """The upload in a node's data; RecordError when it has none.

    A missing `state_time` is the time of the last write.
    """
    fields = Fields(stored.data, f"upload {build_id}/{provider}/{upload_id} of {image}")
    return Upload(
        id=upload_id,
        build_id=build_id,
        image=image,
        provider=provider,
        state=fields.need("state", UploadState),
        state_time=fields.get("state_time", a_time, stored.modified),
        external_id=fields.get("external_id", a_text, None),
        external_name=fields.get("external_name", a_text, None),
        format=fields.get("format", a_text, None),
        username=fields.get("username", a_text, "zuul"),
        python_path=fields.get("python_path", a_text, "auto"),
        shell_type=fields.get("shell_type", a_text, None),
        region=fields.get("region", a_text, None),
        uploader=fields.get("uploader", a_text, None),
        uploader_id=fields.get("uploader_id", a_text, None),
        phase=fields.get("phase", a_text, None),
        started=fields.get("started", a_time, None),
        ended=fields.get("ended", a_time, None),
        size=fields.get("size", a_count, None),
        sent=fields.get("sent", a_count, 0),
        timings=fields.get("timings", some_timings, NOTHING),
        reason=fields.get("reason", _failure, None),
        cloud=fields.lenient("cloud", a_text, None),
        way=fields.lenient("way", a_text, None),
        fallbacks=fields.lenient("fallbacks", some_texts, ()),
        task=fields.lenient("task", a_text, None),
        hook_output=fields.lenient("hook_output", some_texts, ()),
        serving=fields.lenient("serving", a_time, None),
        stable_name=fields.lenient("stable_name", a_text, None),
        stable_tag=fields.lenient("stable_tag", a_text, None),
        hidden=fields.lenient("hidden", a_flag, False),
        deletion=fields.lenient("deletion", notes.deletion_of(stored.modified), None),
        extra=unknown(fields.all, _UPLOAD_FIELDS),
        version=stored.version,
    )


_NODEPOOL_FIELDS = frozenset({"state", "state_time", "username", "python_path", "shell_type"})
_BUILD_FIELDS = _NODEPOOL_FIELDS | {
    *("builder", "builder_id", "formats", "phase", "started", "ended", "timings", "artifacts", "elements"),
    *("tools", "log", "reason", "request", "bytes_done", "bytes_total", "next_try", "work_bytes"),
    *("pruned", "inputs", "checked", "changes", "raw_sha256", "raw_size", "wishes"),
}
_UPLOAD_FIELDS = _NODEPOOL_FIELDS | {
    *("external_id", "external_name", "format", "region", "uploader", "uploader_id", "phase", "started"),
    *("ended", "size", "sent", "timings", "reason", "cloud", "way", "fallbacks", "task", "hook_output"),
    *("serving", "stable_name", "stable_tag", "hidden", "deletion"),
}


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
    return tuple(_artifact(Fields(item, "an artifact")) for item in value)


def _artifact(fields: Fields) -> Artifact:
    return Artifact(
        format=fields.need("format", ImageFormat),
        size=fields.need("size", a_count),
        virtual_size=fields.need("virtual_size", a_count),
        md5=fields.need("md5", a_text),
        sha256=fields.need("sha256", a_text),
        sha512=fields.need("sha512", a_text),
    )


def _failure_fields(failure: Failure | None) -> dict[str, Any] | None:
    if failure is None:
        return None
    return {
        "class": str(failure.failure_class),
        "message": failure.message,
        **present(
            phase=failure.phase,
            step=failure.step,
            exit_code=failure.exit_code,
            lines=list(failure.lines),
        ),
    }


def _failure(value: Any) -> Failure:
    fields = Fields(value, "a reason")
    return Failure(
        failure_class=fields.need("class", FailureClass),
        message=fields.need("message", a_text),
        phase=fields.get("phase", a_text, None),
        step=fields.get("step", a_text, None),
        exit_code=fields.get("exit_code", an_integer, None),
        lines=fields.get("lines", some_texts, ()),
    )


def _request_of(image: str) -> Callable[[Any], Request]:
    return lambda value: notes.request_from(Fields(value, f"request for {image}"), image, stamp=0)
