"""Records become bytes and come back whole, whoever wrote them."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.model import (
    Artifact,
    BootResult,
    BootVerdict,
    BudgetAction,
    BudgetCheck,
    Build,
    BuildState,
    Cancellation,
    Checked,
    CheckVerdict,
    Clearance,
    Deletion,
    Failure,
    FailureClass,
    ImageFormat,
    Release,
    Request,
    Upload,
    UploadCancellation,
    UploadState,
    UploadWish,
    Withholding,
)
from builder.store import codec, notes
from builder.store.fields import RecordError, Stored

CREATED = datetime(2026, 1, 1, tzinfo=UTC)
MODIFIED = datetime(2026, 1, 2, tzinfo=UTC)

texts = st.text(max_size=20)
times = st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
seconds = st.floats(0, 1e7, allow_nan=False)
sizes = st.integers(0, 2**50)
failures = st.builds(
    Failure,
    failure_class=st.sampled_from(FailureClass),
    message=texts,
    phase=st.none() | texts,
    step=st.none() | texts,
    exit_code=st.none() | st.integers(-64, 255),
    lines=st.lists(texts, max_size=3).map(tuple),
)
signed = {"by": texts, "why": texts, "time": times}
wishes = st.builds(UploadWish, provider=texts, wanted=st.booleans(), **signed)
withholdings = st.builds(Withholding, provider=st.none() | texts, held=st.booleans(), **signed)
releases = st.builds(Release, **signed)
upload_names = st.integers(0, 9).map(lambda number: f"{'a' * 32}/cloud-one/000000000{number}")
requests = st.builds(Request, image=st.just("debian"), by=texts, why=texts, time=times, manual=st.booleans())
artifacts = st.builds(
    Artifact,
    format=st.sampled_from(ImageFormat),
    size=sizes,
    virtual_size=sizes,
    md5=texts,
    sha256=texts,
    sha512=texts,
)
tests = st.builds(
    BootResult,
    verdict=st.sampled_from(BootVerdict),
    failed=st.lists(texts, max_size=2).map(tuple),
    seconds=seconds,
    accelerator=st.none() | texts,
    measures=st.dictionaries(texts, seconds, max_size=3),
    ports=st.lists(texts, max_size=2).map(tuple),
    setuid=st.lists(texts, max_size=2).map(tuple),
)
numbers = st.none() | st.floats(-1e15, 1e15)
checks = st.builds(
    BudgetCheck,
    measure=texts,
    sentence=texts,
    over=st.none() | st.sampled_from(BudgetAction),
    value=numbers,
    limit=numbers,
    baseline=numbers,
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
extras = st.dictionaries(texts.map(lambda name: f"x-{name}"), json_values, max_size=3)
nodepools = {"username": texts, "python_path": texts, "shell_type": st.none() | texts}
ours = {
    "phase": st.none() | texts,
    "started": st.none() | times,
    "ended": st.none() | times,
    "timings": st.dictionaries(texts, seconds, max_size=3),
    "reason": st.none() | failures,
    "extra": extras,
}
builds = st.builds(
    Build,
    id=st.just("a" * 32),
    image=st.just("debian"),
    state=st.sampled_from(BuildState),
    state_time=times,
    builder=st.none() | texts,
    builder_id=st.none() | texts.map(lambda text: text.rstrip("\n")),
    formats=st.sets(st.sampled_from([str(f) for f in ImageFormat])).map(lambda f: tuple(sorted(f))),
    artifacts=st.lists(artifacts, max_size=2).map(tuple),
    elements=st.lists(texts, max_size=3).map(tuple),
    tools=st.dictionaries(texts, texts, max_size=3),
    log=st.none() | texts,
    request=st.none() | requests,
    bytes_done=sizes,
    bytes_total=sizes,
    next_try=st.none() | times,
    work_bytes=st.none() | sizes,
    pruned=st.sets(st.sampled_from([str(f) for f in ImageFormat])).map(lambda f: tuple(sorted(f))),
    inputs=st.dictionaries(texts, texts, max_size=3),
    checked=st.none() | times,
    changes=st.lists(texts, max_size=3).map(tuple),
    raw_sha256=st.none() | texts,
    raw_size=st.none() | sizes,
    wishes=st.lists(wishes, max_size=3).map(tuple),
    withheld=st.lists(withholdings, max_size=3).map(tuple),
    cleared=st.lists(st.builds(Clearance, provider=st.none() | texts, **signed), max_size=3).map(tuple),
    test=st.none() | tests,
    release=st.none() | releases,
    measures=st.dictionaries(texts, seconds, max_size=1),
    budgets=st.lists(checks, max_size=2).map(tuple),
    kept=st.none() | texts,
    **nodepools,
    **ours,
)
uploads = st.builds(
    Upload,
    id=st.just("0000000001"),
    build_id=st.just("a" * 32),
    image=st.just("debian"),
    provider=st.just("cloud-one"),
    state=st.sampled_from(UploadState),
    state_time=times,
    external_id=st.none() | texts,
    external_name=st.none() | texts,
    format=st.none() | texts,
    region=st.none() | texts,
    uploader=st.none() | texts,
    uploader_id=st.none() | texts,
    size=st.none() | sizes,
    sent=sizes,
    cloud=st.none() | texts,
    way=st.none() | texts,
    fallbacks=st.lists(texts, max_size=3).map(tuple),
    task=st.none() | texts,
    hook_output=st.lists(texts, max_size=3).map(tuple),
    serving=st.none() | times,
    stable_name=st.none() | texts,
    stable_tag=st.none() | texts,
    hidden=st.booleans(),
    withheld=st.none() | times,
    checked=st.none()
    | st.builds(Checked, verdict=st.sampled_from(CheckVerdict), time=times, why=texts, tries=sizes),
    parts=st.dictionaries(texts, texts, max_size=3),
    deletion=st.none() | st.builds(Deletion, **signed),
    **nodepools,
    **ours,
)


odd_values = st.recursive(
    json_values | st.floats() | st.integers() | st.sampled_from([10**400, 253402300799, -1]),
    lambda inner: st.dictionaries(st.sampled_from(["class", "message", "time", "by", "a"]), inner),
    max_leaves=4,
)
#: Numbers that are no seconds at all, and those that are no time anybody could add a delay to.
ODD_NUMBERS = [math.nan, math.inf, -math.inf, 10**400]
ODD_TIMES = [*ODD_NUMBERS, -1, -62135596800, 253402300799, 253402300799.5, 10**30]


def stored(data: bytes, version: int = 3) -> Stored:
    return Stored(data=data, version=version, written_by=77, created=CREATED, modified=MODIFIED)


def read_build(record: object) -> Build:
    data = record if isinstance(record, bytes) else json.dumps(record).encode()
    return codec.decode_build(stored(data), image="debian", build_id="a" * 32)


def read_upload(record: object) -> Upload:
    data = record if isinstance(record, bytes) else json.dumps(record).encode()
    return codec.decode_upload(
        stored(data), image="debian", build_id="a" * 32, provider="cloud-one", upload_id="0000000001"
    )


@given(builds)
def test_a_build_comes_back_as_it_was(build: Build) -> None:
    read = read_build(codec.encode_build(build))
    assert read == build
    assert read.version == 3


@given(uploads)
def test_an_upload_comes_back_as_it_was(upload: Upload) -> None:
    assert read_upload(codec.encode_upload(upload)) == upload


@given(requests)
def test_a_request_comes_back_as_it_was_with_the_stamp_of_its_writing(request: Request) -> None:
    read = notes.decode_request(stored(notes.encode_request(request)), image="debian")
    assert read == request
    assert read.stamp == 77


@given(extras)
def test_unknown_fields_of_a_record_survive_a_rewrite(extra: dict[str, Any]) -> None:
    record = {"state": "ready", "state_time": 1.5, **extra}
    rewritten = json.loads(codec.encode_build(replace(read_build(record), phase="publish")))
    assert {name: rewritten[name] for name in extra} == extra


def test_an_unknown_field_never_hides_a_known_one() -> None:
    build = replace(read_build({"state": "ready"}), extra={"state": "sleeping", "phase": "x"})
    written = json.loads(codec.encode_build(build))
    assert written["state"] == "ready"
    assert "phase" not in written


def test_a_line_end_is_no_part_of_a_builder_s_id() -> None:
    # nodepool-builder reads it with its file's.
    assert read_build({"state": "ready", "builder_id": "2c09ab93-96d4\n"}).builder_id == "2c09ab93-96d4"


def test_formats_are_sorted_and_joined_and_left_out_when_there_are_none() -> None:
    build = read_build({"state": "ready"})
    assert "formats" not in json.loads(codec.encode_build(build))
    written = json.loads(codec.encode_build(replace(build, formats=("raw", "qcow2"))))
    assert written["formats"] == "qcow2,raw"


@pytest.mark.parametrize("state", ["building", "ready", "deleting", "failed"])
def test_a_build_that_says_only_its_state_is_read(state: str) -> None:
    build = read_build({"state": state})
    assert build.state == state
    assert (build.state_time, build.username, build.python_path) == (MODIFIED, "zuul", "auto")
    assert (build.formats, build.artifacts, build.reason, build.request) == ((), (), None, None)


@pytest.mark.parametrize("state", ["uploading", "ready", "deleting", "failed"])
def test_an_upload_that_says_only_its_state_is_read(state: str) -> None:
    upload = read_upload({"state": state})
    assert upload.state == state
    assert (upload.state_time, upload.external_id, upload.sent) == (MODIFIED, None, 0)


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        [],
        "ready",
        {},
        {"state": None},
        {"state": "sleeping"},
        {"state": []},
        {"state": "ready", "state_time": "noon"},
        {"state": "ready", "state_time": 1e300},
        *({"state": "ready", "state_time": odd} for odd in ODD_TIMES),
        *({"state": "ready", "started": odd} for odd in ODD_TIMES),
        *({"state": "ready", "timings": {"a": odd}} for odd in ODD_NUMBERS),
        {"state": "ready", "timings": {"a": "long"}},
        {"state": "ready", "timings": [1]},
        {"state": "ready", "reason": "no"},
        {"state": "ready", "username": 7},
    ],
)
def test_what_is_no_record_is_told_by_name(record: object) -> None:
    with pytest.raises(RecordError, match=rf"build {'a' * 32} of debian|a reason"):
        read_build(record)
    with pytest.raises(RecordError, match=r"0000000001 of debian|a reason"):
        read_upload(record)


@given(texts, texts, times)
def test_a_cancellation_comes_back_as_it_was(by: str, why: str, time: datetime) -> None:
    wish = Cancellation(image="debian", build_id="a" * 32, by=by, time=time, why=why)
    assert notes.decode_cancellation(stored(notes.encode_cancellation(wish)), image="debian") == wish


@pytest.mark.parametrize("more", [{}, {"by": None, "why": 7, "time": math.inf}, {"by": [], "time": -1}])
def test_a_cancellation_that_names_its_build_is_obeyed_whatever_else_it_says(more: dict[str, Any]) -> None:
    data = json.dumps({"build_id": "a" * 32, **more}).encode()
    assert notes.decode_cancellation(stored(data), image="debian") == Cancellation(
        image="debian", build_id="a" * 32, by="somebody", time=CREATED
    )


def test_a_cancellation_says_no_more_than_a_record_takes() -> None:
    data = json.dumps({"build_id": "a" * 32, "by": "b" * 10**6, "why": "w" * 10**6}).encode()
    wish = notes.decode_cancellation(stored(data), image="debian")
    assert len(wish.by) + len(wish.why) <= 2000


NEW_OF_BUILDS = [
    *("raw_sha256", "raw_size", "wishes", "withheld", "cleared", "test"),
    *("release", "measures", "budgets", "kept"),
]
NEW_OF_UPLOADS = [
    *("cloud", "way", "fallbacks", "task", "hook_output", "serving", "stable_name", "stable_tag", "hidden"),
    *("deletion", "withheld", "checked"),
]


@given(st.sampled_from(NEW_OF_BUILDS), odd_values)
def test_nothing_in_a_lesser_field_spoils_a_build(field: str, odd: Any) -> None:
    assert read_build({"state": "ready", field: odd}).state is BuildState.READY


@given(st.sampled_from(NEW_OF_UPLOADS), odd_values)
def test_nothing_in_a_lesser_field_spoils_an_upload(field: str, odd: Any) -> None:
    assert read_upload({"state": "ready", field: odd}).state is UploadState.READY


def test_a_lesser_field_that_is_broken_says_nothing() -> None:
    upload = read_upload({"state": "ready", **dict.fromkeys(NEW_OF_UPLOADS, 10**400)})
    assert upload == read_upload({"state": "ready"})
    build = read_build({"state": "ready", **dict.fromkeys(NEW_OF_BUILDS, 10**400)})
    assert build == read_build({"state": "ready"})
    assert read_upload({"state": "ready", "hidden": "no"}).hidden is False


def test_a_wish_that_is_broken_takes_no_other_with_it() -> None:
    odd = [7, None, "x", [], {}, {"provider": "x"}, {"provider": "x", "wanted": "yes"}, {"wanted": True}]
    good = {"provider": "cloud-one", "wanted": False, "by": None, "time": math.inf, "why": 7}
    build = read_build({"state": "ready", "wishes": [*odd, good, *odd]})
    assert build.wishes == (UploadWish(provider="cloud-one", wanted=False, by="somebody", time=MODIFIED),)


def test_a_word_that_a_build_is_withheld_counts_whatever_else_it_says() -> None:
    odd = [7, None, "x", [], {"provider": 7}, {"provider": ["a"]}]
    build = read_build({"state": "ready", "withheld": [*odd, {}, {"provider": "cloud-one", "time": "noon"}]})
    assert build.withheld == tuple(
        Withholding(provider=provider, by="somebody", time=MODIFIED) for provider in (None, "cloud-one")
    )


def test_a_hold_is_one_only_where_that_is_said() -> None:
    said = [{"provider": None, "held": held} for held in (True, False, "yes", 1, None)]
    assert [word.held for word in read_build({"state": "ready", "withheld": said}).withheld] == [
        *(True, False, False, False, False)
    ]


def test_a_word_that_a_build_may_serve_is_never_held_and_keeps_what_says_so() -> None:
    said = [{"provider": "cloud-one", "held": True, "by": "ann", "time": MODIFIED.timestamp(), "why": ""}]
    build = read_build({"state": "ready", "cleared": said})
    assert build.cleared == (Clearance(provider="cloud-one", by="ann", time=MODIFIED),)
    assert json.loads(codec.encode_build(build))["cleared"] == said


def test_a_deletion_that_does_not_say_whose_is_somebodys() -> None:
    upload = read_upload({"state": "deleting", "deletion": {"by": [], "time": "noon"}})
    assert upload.deletion == Deletion(by="somebody", time=MODIFIED)


def test_what_says_nothing_is_left_out() -> None:
    assert not {*NEW_OF_BUILDS} & {*json.loads(codec.encode_build(read_build({"state": "ready"})))}
    assert not {*NEW_OF_UPLOADS} & {*json.loads(codec.encode_upload(read_upload({"state": "ready"})))}


@given(st.dictionaries(upload_names, st.tuples(texts, texts, times), max_size=5))
def test_cancellations_of_uploads_come_back_as_they_were_oldest_first(
    wished: dict[str, tuple[str, str, datetime]],
) -> None:
    wishes = [
        UploadCancellation(upload=name, image="debian", by=by, why=why, time=time)
        for name, (by, why, time) in wished.items()
    ]
    read = notes.decode_upload_cancellations(
        stored(notes.encode_upload_cancellations(wishes)), image="debian"
    )
    assert read == tuple(sorted(wishes, key=lambda wish: (wish.time, wish.upload)))


@pytest.mark.parametrize("said", [{}, None, 7, [], {"by": 7, "time": -1, "why": None}])
def test_a_cancellation_that_names_its_upload_is_obeyed_whatever_else_it_says(said: Any) -> None:
    name = f"{'a' * 32}/cloud-one/0000000001"
    data = json.dumps({name: said, "../x": {}, "debian": {}, f"{'a' * 32}//1": {}}).encode()
    assert notes.decode_upload_cancellations(stored(data), image="debian") == (
        UploadCancellation(upload=name, image="debian", by="somebody", time=MODIFIED),
    )


@pytest.mark.parametrize("data", [b"", b"{broken", b"[]", b"7"])
def test_cancellations_of_uploads_that_cannot_be_read_are_told(data: bytes) -> None:
    with pytest.raises(RecordError, match="upload cancellations for debian"):
        notes.decode_upload_cancellations(stored(data), image="debian")


@pytest.mark.parametrize("number", [-1, 1 << 63, 10**400])
def test_bytes_that_no_disk_has_are_no_record(number: int) -> None:
    for name in ("work_bytes", "bytes_done", "bytes_total"):
        with pytest.raises(RecordError, match=name):
            read_build({"state": "ready", name: number})
    for name in ("size", "sent"):
        with pytest.raises(RecordError, match=name):
            read_upload({"state": "ready", name: number})


@pytest.mark.parametrize("data", [b"", b"{broken", b"[]", b"{}", b'{"build_id": 7}', b'{"build_id": null}'])
def test_a_cancellation_that_names_no_build_is_none(data: bytes) -> None:
    with pytest.raises(RecordError, match="cancellation for debian"):
        notes.decode_cancellation(stored(data), image="debian")


def test_an_empty_request_is_nodepools() -> None:
    request = notes.decode_request(stored(b""), image="debian")
    assert request == Request(
        image="debian",
        by="nodepool",
        why="asked through nodepool's request node",
        time=CREATED,
        manual=True,
    )
    assert request.stamp == 77


def test_a_request_that_cannot_be_read_is_a_wish_all_the_same() -> None:
    request = notes.decode_request(stored(b"{broken"), image="debian")
    assert (request.by, request.time, request.manual, request.stamp) == ("unknown", CREATED, True, 77)


@given(st.dictionaries(st.sampled_from(sorted(codec._BUILD_FIELDS | codec._UPLOAD_FIELDS)), odd_values))
def test_no_value_of_any_field_raises_anything_but_that_there_is_no_record(record: dict[str, Any]) -> None:
    for read in (read_build, read_upload):
        with contextlib.suppress(RecordError):
            read({"state": "ready", **record})


@given(st.sampled_from(["state_time", "started", "ended"]), st.floats() | st.integers())
def test_a_time_that_is_read_can_be_reckoned_with(field: str, value: float) -> None:
    try:
        build = read_build({"state": "ready", field: value})
    except RecordError:
        return
    read = getattr(build, field)
    assert read + timedelta(days=365) > read > read - timedelta(days=365)
