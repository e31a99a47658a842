"""Turns the records of builds and uploads into the JSON bytes that ZooKeeper keeps, and back.

nodepool 11's fields stand as nodepool writes them: `state_time` in float seconds of the epoch,
`formats` joined by commas, sorted and left out when empty, null for an external id not known yet.
Ours stand beside them and are left out while they say nothing; times of ours are float seconds
too.

Daemons of several versions write the same records. A field that nobody here knows is kept in `extra`, of
the record or of the object within it, and written back as it was; so is a word that nobody here knows,
where there is a way to go on without it: a class of failure counts as unknown, an artifact of a strange
format, a wish for something else, a build that is withheld from something else or a budget from which
something else follows is as if it were not there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from builder.model import (
    Artifact,
    BootResult,
    BootVerdict,
    Build,
    BuildState,
    Failure,
    FailureClass,
    ImageFormat,
    Request,
    Upload,
    UploadState,
)
from builder.store import budgets, checks, notes
from builder.store.fields import (
    NOTHING,
    Fields,
    RecordError,
    Stored,
    a_count,
    a_flag,
    a_number,
    a_text,
    a_text_map,
    a_time,
    a_word,
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
            artifacts=[
                *(_artifact_fields(artifact) for artifact in build.artifacts),
                *build.extra.get("artifacts", ()),
            ],
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
            wishes=[*notes.wishes_fields(build.wishes), *build.extra.get("wishes", ())],
            withheld=[*notes.words_fields(build.withheld), *build.extra.get("withheld", ())],
            cleared=[*notes.words_fields(build.cleared), *build.extra.get("cleared", ())],
            release=notes.signed_fields(build.release),
            test=_test_fields(build.test) or build.extra.get("test"),
            measures=dict(build.measures),
            budgets=[*budgets.fields_of(build.budgets), *build.extra.get("budgets", ())],
            kept=build.kept,
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
        builder=fields.get("builder", a_word, None),
        builder_id=fields.get("builder_id", _a_builder_id, None),
        formats=fields.get("formats", some_formats, ()),
        username=fields.get("username", a_word, "zuul"),
        python_path=fields.get("python_path", a_word, "auto"),
        shell_type=fields.get("shell_type", a_word, None),
        phase=fields.get("phase", a_word, None),
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
        withheld=fields.lenient("withheld", notes.withheld_of(stored.modified), ()),
        cleared=fields.lenient("cleared", notes.cleared_of(stored.modified), ()),
        release=fields.lenient("release", notes.release_of(stored.modified), None),
        test=fields.lenient("test", _test, None),
        measures=fields.lenient("measures", some_timings, NOTHING),
        budgets=fields.lenient("budgets", budgets.read, ()),
        kept=fields.lenient("kept", a_text, None),
        extra=_extra_of_build(fields.all),
        version=stored.version,
    )


def state_in(stored: Stored) -> str | None:
    """The word in which a node tells its record's state; None when it tells none."""
    try:
        return Fields(stored.data, "a record").lenient("state", a_text, None)
    except RecordError:
        return None


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
            parts=dict(upload.parts),
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
            withheld=as_seconds(upload.withheld),
            deletion=notes.signed_fields(upload.deletion),
            checked=checks.fields_of(upload.checked) or upload.extra.get("checked"),
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
        format=fields.get("format", a_word, None),
        username=fields.get("username", a_word, "zuul"),
        python_path=fields.get("python_path", a_word, "auto"),
        shell_type=fields.get("shell_type", a_word, None),
        parts=fields.lenient("parts", a_text_map, NOTHING),
        region=fields.get("region", a_word, None),
        uploader=fields.get("uploader", a_word, None),
        uploader_id=fields.get("uploader_id", a_word, None),
        phase=fields.get("phase", a_word, None),
        started=fields.get("started", a_time, None),
        ended=fields.get("ended", a_time, None),
        size=fields.get("size", a_count, None),
        sent=fields.get("sent", a_count, 0),
        timings=fields.get("timings", some_timings, NOTHING),
        reason=fields.get("reason", _failure, None),
        cloud=fields.lenient("cloud", a_word, None),
        way=fields.lenient("way", a_word, None),
        fallbacks=fields.lenient("fallbacks", some_texts, ()),
        task=fields.lenient("task", a_text, None),
        hook_output=fields.lenient("hook_output", some_texts, ()),
        serving=fields.lenient("serving", a_time, None),
        stable_name=fields.lenient("stable_name", a_text, None),
        stable_tag=fields.lenient("stable_tag", a_text, None),
        hidden=fields.lenient("hidden", a_flag, False),
        withheld=fields.lenient("withheld", a_time, None),
        deletion=fields.lenient("deletion", notes.deletion_of(stored.modified), None),
        checked=fields.lenient("checked", checks.checked_of, None),
        extra=_extra_of_upload(fields.all),
        version=stored.version,
    )


_NODEPOOL_FIELDS = frozenset({"state", "state_time", "username", "python_path", "shell_type"})
_BUILD_FIELDS = _NODEPOOL_FIELDS | {
    *("builder", "builder_id", "formats", "phase", "started", "ended", "timings", "artifacts", "elements"),
    *("tools", "log", "reason", "request", "bytes_done", "bytes_total", "next_try", "work_bytes"),
    *("pruned", "inputs", "checked", "changes", "raw_sha256", "raw_size", "wishes", "withheld", "test"),
    *("cleared", "release", "measures", "budgets", "kept"),
}
_UPLOAD_FIELDS = _NODEPOOL_FIELDS | {
    *("external_id", "external_name", "format", "region", "uploader", "uploader_id", "phase", "started"),
    *("ended", "size", "sent", "timings", "reason", "cloud", "way", "fallbacks", "task", "hook_output"),
    *("serving", "stable_name", "stable_tag", "hidden", "deletion", "parts", "withheld", "checked"),
}


_FORMATS = frozenset(map(str, ImageFormat))
_CLASSES = frozenset(map(str, FailureClass))
_VERDICTS = frozenset(map(str, BootVerdict))
_ARTIFACT_FIELDS = frozenset({"format", "size", "virtual_size", "md5", "sha256", "sha512"})
_TEST_FIELDS = frozenset({"verdict", "failed", "seconds", "accelerator", "measures", "ports", "setuid"})
_FAILURE_FIELDS = frozenset({"message", "phase", "step", "exit_code", "lines"})


def _extra_of_build(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is to be written back as it was: unknown fields, and of known ones the strange items."""
    artifacts = record.get("artifacts")
    strange = present(
        artifacts=[item for item in artifacts if _is_strange(item)] if isinstance(artifacts, list) else [],
        wishes=notes.strange_wishes(record.get("wishes")),
        withheld=notes.strange_words(record.get("withheld")),
        cleared=notes.strange_words(record.get("cleared")),
        test=record.get("test") if _has_strange_test(record) else None,
        budgets=budgets.strange(record.get("budgets")),
    )
    return MappingProxyType({**unknown(record, _BUILD_FIELDS), **strange})


def _extra_of_upload(record: Mapping[str, Any]) -> Mapping[str, Any]:
    strange = {"checked"} if checks.is_strange(record.get("checked")) else frozenset()
    return unknown(record, _UPLOAD_FIELDS - strange)


def _is_strange(artifact: Any) -> bool:
    """Whether it is an artifact in a format of which nobody here has heard."""
    word = artifact.get("format") if isinstance(artifact, dict) else None
    return isinstance(word, str) and word not in _FORMATS


def _a_builder_id(value: Any) -> str:
    """An id without the line end that nodepool-builder takes along from a file that ends in one."""
    return a_word(a_text(value).rstrip("\n"))


def _artifact_fields(artifact: Artifact) -> dict[str, Any]:
    return {
        **artifact.extra,
        "format": str(artifact.format),
        "size": artifact.size,
        "virtual_size": artifact.virtual_size,
        "md5": artifact.md5,
        "sha256": artifact.sha256,
        "sha512": artifact.sha512,
    }


def _artifacts(value: Any) -> tuple[Artifact, ...]:
    return tuple(_artifact(Fields(item, "an artifact")) for item in value if not _is_strange(item))


def _artifact(fields: Fields) -> Artifact:
    return Artifact(
        format=fields.need("format", ImageFormat),
        size=fields.need("size", a_count),
        virtual_size=fields.need("virtual_size", a_count),
        md5=fields.need("md5", a_text),
        sha256=fields.need("sha256", a_text),
        sha512=fields.need("sha512", a_text),
        extra=unknown(fields.all, _ARTIFACT_FIELDS),
    )


def _failure_fields(failure: Failure | None) -> dict[str, Any] | None:
    if failure is None:
        return None
    strange = failure.extra.get("class") if failure.failure_class is FailureClass.UNKNOWN else None
    return {
        **failure.extra,
        "class": strange or str(failure.failure_class),
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
    word = fields.need("class", a_text)
    known = word in _CLASSES
    return Failure(
        failure_class=FailureClass(word) if known else FailureClass.UNKNOWN,
        message=fields.need("message", a_text),
        phase=fields.get("phase", a_word, None),
        step=fields.get("step", a_text, None),
        exit_code=fields.get("exit_code", an_integer, None),
        lines=fields.get("lines", some_texts, ()),
        extra=unknown(fields.all, _FAILURE_FIELDS | ({"class"} if known else frozenset())),
    )


def _test_fields(test: BootResult | None) -> dict[str, Any] | None:
    if test is None:
        return None
    return {
        **test.extra,
        "verdict": str(test.verdict),
        "seconds": test.seconds,
        **present(
            failed=list(test.failed),
            accelerator=test.accelerator,
            measures=dict(test.measures),
            ports=list(test.ports),
            setuid=list(test.setuid),
        ),
    }


def _has_strange_test(record: Mapping[str, Any]) -> bool:
    """Whether it has what came of a boot test in a word of which nobody here has heard."""
    test = record.get("test")
    word = test.get("verdict") if isinstance(test, dict) else None
    return isinstance(word, str) and word not in _VERDICTS


def _test(value: Any) -> BootResult:
    fields = Fields(value, "a boot test")
    return BootResult(
        verdict=fields.need("verdict", BootVerdict),
        failed=fields.get("failed", some_texts, ()),
        seconds=fields.get("seconds", a_number, 0.0),
        accelerator=fields.get("accelerator", a_word, None),
        measures=fields.get("measures", some_timings, NOTHING),
        ports=fields.get("ports", some_texts, ()),
        setuid=fields.get("setuid", some_texts, ()),
        extra=unknown(fields.all, _TEST_FIELDS),
    )


def _request_of(image: str) -> Callable[[Any], Request]:
    return lambda value: notes.request_from(Fields(value, f"request for {image}"), image, stamp=0)
