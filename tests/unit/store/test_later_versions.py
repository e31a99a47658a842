"""What a later version wrote is read by this one, and comes back whole from whatever this one writes."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.model import (
    Build,
    BuildState,
    Failure,
    FailureClass,
    ImageFormat,
    Upload,
    UploadCancellation,
    UploadState,
    UploadWish,
)
from builder.store import codec, notes
from builder.store.base import joined, wished
from builder.store.fields import Stored
from tests.contract.records import LATER_BUILD, LATER_UPLOAD
from tests.unit.store.test_codec import extras, json_values

NOW = datetime(2026, 3, 1, tzinfo=UTC)
BUILD_ID = "a" * 32
UPLOAD_NAME = f"{BUILD_ID}/cloud-one/0000000001"


def stored(record: object) -> Stored:
    return Stored(data=json.dumps(record).encode(), version=3, written_by=77, created=NOW, modified=NOW)


def read_build(record: object) -> Build:
    return codec.decode_build(stored(record), image="debian", build_id=BUILD_ID)


def read_upload(record: object) -> Upload:
    return codec.decode_upload(
        stored(record), image="debian", build_id=BUILD_ID, provider="cloud-one", upload_id="0000000001"
    )


def test_a_build_comes_back_whole() -> None:
    assert json.loads(codec.encode_build(read_build(LATER_BUILD))) == LATER_BUILD


def test_an_upload_comes_back_whole() -> None:
    assert json.loads(codec.encode_upload(read_upload(LATER_UPLOAD))) == LATER_UPLOAD


def test_what_we_do_not_understand_of_it_is_as_if_it_were_not_there() -> None:
    build = read_build(LATER_BUILD)
    assert [artifact.format for artifact in build.artifacts] == [ImageFormat.QCOW2]
    assert [wish.provider for wish in build.wishes] == ["cloud-one"]
    assert [word.provider for word in build.withheld] == ["cloud-one", None]
    assert [word.held for word in build.withheld] == [False, True]
    assert [word.provider for word in build.cleared] == ["cloud-one", None]
    assert [check.measure for check in build.budgets] == ["kernels", "size"]
    assert build.reason == Failure(
        failure_class=FailureClass.UNKNOWN, message="the key is gone", phase="sign"
    )
    assert read_upload(LATER_UPLOAD).checked is None
    assert read_upload(LATER_UPLOAD).reason == Failure(
        failure_class=FailureClass.UNKNOWN, message="the key is gone"
    )


def test_a_change_of_ours_touches_nothing_else() -> None:
    build = read_build(LATER_BUILD).become(BuildState.DELETING, NOW + timedelta(hours=1))
    wish = UploadWish(provider="cloud-two", wanted=False, by="bob", time=NOW)
    changed = wished(replace(build, checked=NOW), wish).released("cloud-one")
    written = json.loads(codec.encode_build(changed))
    ours = {"provider": "cloud-two", "wanted": False, "by": "bob", "time": NOW.timestamp(), "why": ""}
    expected: dict[str, Any] = copy.deepcopy(LATER_BUILD)
    expected["wishes"].insert(1, ours)
    expected["withheld"].pop(0)
    expected |= {"state": "deleting", "state_time": NOW.timestamp() + 3600, "checked": NOW.timestamp()}
    assert written == expected


def test_a_reason_of_ours_takes_the_place_of_theirs_whole() -> None:
    mine = Failure(failure_class=FailureClass.UNKNOWN, message="who knows")
    upload = replace(read_upload(LATER_UPLOAD), reason=mine, state=UploadState.FAILED)
    assert json.loads(codec.encode_upload(upload))["reason"] == {"class": "unknown", "message": "who knows"}
    build = read_build(LATER_BUILD)
    assert build.reason is not None
    seen = replace(build, reason=replace(build.reason, failure_class=FailureClass.DISK))
    assert json.loads(codec.encode_build(seen))["reason"]["class"] == "disk"


def test_an_artifact_of_a_known_format_has_to_be_whole_all_the_same() -> None:
    broken: dict[str, Any] = copy.deepcopy(LATER_BUILD)
    del broken["artifacts"][0]["sha512"]
    with pytest.raises(codec.RecordError, match="sha512"):
        read_build(broken)


more = st.dictionaries(st.text(max_size=9).map(lambda name: f"x-{name}"), json_values, max_size=3)
words = st.text(min_size=1, max_size=9)


@given(more, more, more, more, words, words)
def test_nothing_is_lost_of_a_build(
    outer: dict[str, Any],
    reason: dict[str, Any],
    artifact: dict[str, Any],
    wish: dict[str, Any],
    failure_class: str,
    image_format: str,
) -> None:
    record: dict[str, Any] = copy.deepcopy(LATER_BUILD) | outer
    record["reason"] |= {**reason, "class": failure_class}
    record["artifacts"][0] |= artifact
    record["artifacts"][1] |= {**artifact, "format": f"x-{image_format}"}
    for each in (*record["wishes"], *record["withheld"], *record["cleared"]):
        each.update(wish)
    record["request"] |= wish
    assert json.loads(codec.encode_build(read_build(record))) == record


@given(more, more, words)
def test_nothing_is_lost_of_an_upload(
    outer: dict[str, Any], inner: dict[str, Any], failure_class: str
) -> None:
    record: dict[str, Any] = copy.deepcopy(LATER_UPLOAD) | outer
    record["reason"] |= {**inner, "class": failure_class}
    record["deletion"] |= inner
    record["checked"] |= inner
    assert json.loads(codec.encode_upload(read_upload(record))) == record


@given(extras)
def test_a_request_that_others_join_keeps_what_it_says(extra: dict[str, Any]) -> None:
    said = {"by": "ann", "why": "now", "time": 1.5, "manual": True, **extra}
    theirs = notes.decode_request(stored(said), image="debian")
    ours = replace(theirs, by="bob", urgent=True, extra={}, stamp=0)
    written = json.loads(notes.encode_request(joined(ours, theirs)))
    assert written == {**said, "urgent": True, "stamp": 77}


@given(extras)
def test_cancellations_of_others_keep_what_they_say(extra: dict[str, Any]) -> None:
    said = {UPLOAD_NAME: {"by": "ann", "time": 1.5, "why": "", **extra}}
    theirs = notes.decode_upload_cancellations(stored(said), image="debian")
    ours = UploadCancellation(upload=UPLOAD_NAME[:-1] + "2", image="debian", by="bob", time=NOW)
    written = json.loads(notes.encode_upload_cancellations([*theirs, ours]))
    assert written[UPLOAD_NAME] == said[UPLOAD_NAME]


times_and_more = st.integers(0, 10**9) | st.text().map("at {}".format) | st.lists(st.integers()) | st.none()


@given(st.dictionaries(st.text(max_size=9), times_and_more))
def test_times_of_a_schedule_that_we_cannot_read_stay_as_they_are(said: dict[str, Any]) -> None:
    node = stored(said)
    written = json.loads(notes.encode_ticks({**notes.decode_ticks(node), "noon": NOW}, node.data))
    assert written == {**said, "noon": NOW.timestamp()}


@pytest.mark.parametrize("odd", [None, 7, [], {"a": 1}, "x"])
@pytest.mark.parametrize(
    "field", ["builder_id", "labels", "build_workers", "unfit", "draining", "version", "started", "load"]
)
def test_a_daemon_of_another_version_is_shown_all_the_same(field: str, odd: object) -> None:
    earlier = {"hostname": "nb01", "roles": ["builder", "signer"], "version": "9", "started": 1.5}
    daemon = notes.decode_daemon(stored({**earlier, field: odd}))
    assert (daemon.hostname, daemon.roles) == ("nb01", ("builder", "signer"))
    assert isinstance(daemon.build_workers, int) and isinstance(daemon.labels, frozenset)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"7", b'{"by": 7, "why": [], "time": "x"}'])
def test_a_pause_holds_whatever_it_says(data: bytes) -> None:
    node = replace(stored(None), data=data)
    pause = notes.decode_pause(node)
    assert (pause.by, pause.time, pause.why) == ("somebody", NOW, "")
