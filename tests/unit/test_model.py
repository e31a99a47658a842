"""The words: names, ids, states and what may become of them, and finding records."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.model import (
    BUILD_TRANSITIONS,
    NAME_LIMIT,
    UPLOAD_TRANSITIONS,
    BuildState,
    Failure,
    FailureClass,
    ImageFormat,
    UploadState,
    is_build_id,
    layouts_conflict,
    name_problem,
    parts_of,
)
from tests.unit.planning_world import (
    HOUR,
    MINUTE,
    NOW,
    artifact,
    asked,
    build_id,
    building,
    failed,
    held,
    ready,
    records,
    snapshot,
    unhurried,
    upload,
)


@pytest.mark.parametrize(
    "name", ["a", "debian-bookworm", "ubuntu-24.04", "0ad", "c++", "a_b", "x" * NAME_LIMIT]
)
def test_good_names(name: str) -> None:
    assert name_problem(name) is None


@pytest.mark.parametrize(
    "name", ["", "../x", "a b", "a/b", "x" * 300, ".", "..", "-x", "_x", "a\n", "a\0", "ä", "a%b", " a"]
)
def test_bad_names_come_with_a_reason(name: str) -> None:
    problem = name_problem(name)
    assert problem
    assert "\n" not in problem


@unhurried
@given(st.text(max_size=200))
def test_a_good_name_is_one_step_of_any_path(name: str) -> None:
    if name_problem(name) is None:
        assert name not in (".", "..")
        assert not set(name) & set("/\\\0 \n{}%'\"$")


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("0" * 32, True),
        ("0123456789abcdef" * 2, True),
        ("0000000001", True),
        ("0" * 31, False),
        ("0" * 33, False),
        ("A" * 32, False),
        ("g" * 32, False),
        ("", False),
        ("lock", False),
        ("0" * 32 + "\n", False),
    ],
)
def test_build_ids(text: str, fits: bool) -> None:
    assert is_build_id(text) is fits


def test_states_are_those_nodepool_knows_and_no_others() -> None:
    assert {str(s) for s in BuildState} == {"building", "ready", "deleting", "failed"}
    assert {str(s) for s in UploadState} == {"uploading", "ready", "deleting", "failed"}
    assert set(BUILD_TRANSITIONS) == set(BuildState)
    assert set(UPLOAD_TRANSITIONS) == set(UploadState)


BUILD_CHANGES = {("building", "ready"), ("building", "failed"), ("ready", "deleting"), ("failed", "deleting")}
UPLOAD_CHANGES = {
    ("uploading", "ready"),
    ("uploading", "failed"),
    ("ready", "deleting"),
    ("failed", "deleting"),
}


@pytest.mark.parametrize(("before", "after"), list(itertools.product(BuildState, BuildState)))
def test_a_build_changes_state_only_as_the_table_says(before: BuildState, after: BuildState) -> None:
    build = ready(1, NOW - HOUR, state=before)
    if (before, after) in BUILD_CHANGES:
        assert build.become(after, NOW) == replace(build, state=after, state_time=NOW)
    else:
        with pytest.raises(ValueError, match=f"{build.id} can't go from {before} to {after}"):
            build.become(after, NOW)


@pytest.mark.parametrize(("before", "after"), list(itertools.product(UploadState, UploadState)))
def test_an_upload_changes_state_only_as_the_table_says(before: UploadState, after: UploadState) -> None:
    sent = upload(1, before, NOW - HOUR)
    if (before, after) in UPLOAD_CHANGES:
        assert sent.become(after, NOW, sent=7) == replace(sent, state=after, state_time=NOW, sent=7)
    else:
        with pytest.raises(ValueError, match=f"{sent.name} can't go from {before} to {after}"):
            sent.become(after, NOW)


def test_a_record_is_never_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ready(1, NOW).state = BuildState.FAILED  # type: ignore[misc]


def test_the_version_a_record_was_read_at_is_no_part_of_what_it_says() -> None:
    assert ready(1, NOW, version=1) == ready(1, NOW, version=2)
    assert replace(asked(), stamp=1) == replace(asked(), stamp=2)


@pytest.mark.parametrize(
    ("details", "summary"),
    [
        ({}, "mirror: it broke"),
        ({"phase": "packages"}, "mirror: it broke (phase packages)"),
        (
            {"phase": "packages", "step": "dpkg/pre-install.d/99-x", "exit_code": 0},
            "mirror: it broke (phase packages, step dpkg/pre-install.d/99-x, exit code 0)",
        ),
    ],
)
def test_a_failure_in_one_line(details: dict, summary: str) -> None:
    assert Failure(failure_class=FailureClass.MIRROR, message="it broke", **details).summary == summary


def test_how_long_it_took_is_known_when_it_ended() -> None:
    assert ready(1, NOW, took=timedelta(seconds=90)).duration == 90.0
    assert building(1, NOW).duration is None
    assert ready(1, NOW, started=None).duration is None
    assert upload(1, UploadState.READY, NOW, ended=NOW).duration == 60.0
    assert upload(1, UploadState.UPLOADING, NOW).duration is None


def test_when_nodepool_does_not_say_when_a_build_began_its_last_change_has_to_do() -> None:
    assert ready(1, NOW, took=MINUTE).began == NOW - MINUTE
    assert ready(1, NOW, started=None).began == NOW


def test_an_artifact_is_found_by_its_format_and_its_hashes_by_glances_names() -> None:
    build = ready(1, NOW, ImageFormat.QCOW2, ImageFormat.RAW)
    assert build.artifact("raw") == artifact(ImageFormat.RAW)
    assert build.artifact("vhd") is None
    digests = [artifact().digest(a) for a in ("md5", "sha256", "sha512", "sha3_256")]
    assert digests == ["m", "s", "t", None]


def test_an_upload_is_named_by_all_that_makes_it_unique() -> None:
    assert upload(1, UploadState.READY, NOW).name == f"{build_id(1)}/north/0000000001"


def test_finding_records_of_an_image() -> None:
    north, south, other = (
        upload(1, UploadState.READY, NOW),
        upload(1, UploadState.READY, NOW, "south"),
        upload(2, UploadState.READY, NOW),
    )
    known = records(ready(2, NOW), failed(3, NOW), ready(1, NOW - HOUR), north, south, other)
    assert known.build(build_id(3)) == failed(3, NOW)
    assert known.build(build_id(9)) is None
    assert [b.id for b in known.ready_builds] == [build_id(2), build_id(1)]
    assert known.uploads_of(build_id(1)) == (north, south)
    assert known.uploads_of(build_id(1), "south") == (south,)
    assert known.uploads_to("north") == (north, other)


def test_a_snapshot_goes_through_images_by_name_and_knows_nothing_of_others() -> None:
    b, a = (
        records(ready(1, NOW), name="b"),
        records(ready(2, NOW), upload(2, UploadState.READY, NOW), name="a"),
    )
    whole = snapshot(b, a)
    assert [x.id for x in whole.builds()] == [build_id(2), build_id(1)]
    assert list(whole.uploads()) == [upload(2, UploadState.READY, NOW)]
    assert whole.image("c") == records(name="c")


# -- withheld, and serving ----------------------------------------------------------------------------


def test_a_word_for_everywhere_counts_before_one_for_a_provider() -> None:
    build = held(held(ready(1, NOW), "north", why="slow there"), why="no kernel")
    assert [word.why for word in build.withheld] == ["slow there", "no kernel"]
    assert build.quarantine is not None and build.quarantine.why == "no kernel"
    assert build.withheld_from("north") == build.withheld_from("south") == build.quarantine
    there = held(ready(1, NOW), "north")
    assert (there.quarantine, there.withheld_from("south")) == (None, None)
    assert there.withheld_from("north") == there.withheld[0]


def test_the_last_word_for_the_same_holds_until_it_is_taken_back() -> None:
    twice = held(held(ready(1, NOW), why="first"), why="second")
    assert [word.why for word in twice.withheld] == ["second"]
    both = held(twice, "north")
    assert both.released("north") == twice
    assert both.released("south") == both
    assert both.released(None) == ready(1, NOW)


def test_when_an_upload_became_ready_stays_when_nodepools_time_is_renewed() -> None:
    nodepools = upload(1, UploadState.READY, NOW - HOUR)
    later = nodepools.renewed(NOW)
    assert (later.state_time, later.since, nodepools.since) == (NOW, NOW - HOUR, NOW - HOUR)
    assert later.renewed(NOW + HOUR).since == NOW - HOUR


# -- three parts --------------------------------------------------------------------------------------


def test_one_format_has_parts_and_a_word_nobody_knows_has_none() -> None:
    assert [each for each in ImageFormat if each.parts] == [ImageFormat.AMI]
    assert [each for each in ImageFormat if each.is_part] == list(ImageFormat.AMI.parts)
    assert parts_of("ami") == (ImageFormat.AKI, ImageFormat.ARI)
    assert parts_of("raw") == parts_of("iso") == parts_of(None) == ()


def test_what_an_upload_takes_is_all_there_or_nothing() -> None:
    whole = ready(1, NOW, ImageFormat.ARI, ImageFormat.AMI, ImageFormat.AKI)
    assert [each.format for each in whole.files(ImageFormat.AMI)] == ["ami", "aki", "ari"]
    for lost in ImageFormat.AMI, *ImageFormat.AMI.parts:
        left = tuple(each for each in whole.artifacts if each.format is not lost)
        assert replace(whole, artifacts=left).files(ImageFormat.AMI) == ()
    assert [each.format for each in ready(1, NOW, ImageFormat.RAW).files(ImageFormat.RAW)] == ["raw"]


@pytest.mark.parametrize(
    ("formats", "conflict"),
    [([], False), (["ami"], False), (["raw", "vhd"], False), (["raw", "ami"], True), (["ami", "ami"], False)],
)
def test_a_build_is_a_disk_or_a_root_file_system(formats: list[str], conflict: bool) -> None:
    assert layouts_conflict(map(ImageFormat, formats)) is conflict


def test_an_upload_names_its_images_in_the_order_in_which_they_go() -> None:
    whole = upload(1, UploadState.READY, NOW, format="ami", external_id="r", parts={"aki": "k", "ari": "d"})
    assert whole.external_ids == ("r", "k", "d")
    assert whole.names_all_images
    assert not replace(whole, parts={"aki": "k"}).names_all_images
    assert not replace(whole, external_id=None).names_all_images
    assert replace(whole, external_id=None).external_ids == ("k", "d")
    plain = upload(1, UploadState.READY, NOW, format="raw", external_id="r")
    assert plain.names_all_images and plain.external_ids == ("r",)
