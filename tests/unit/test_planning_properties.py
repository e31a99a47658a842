"""What holds for any records and any configuration."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from builder.config.model import Config
from builder.model import Build, BuildState, ImageRecords, UploadState
from builder.planning.actions import CleanupKind, Trigger, Verdict
from builder.planning.builds import decide_build, decide_builds, next_try
from builder.planning.cleanup import plan_cleanup
from builder.planning.explain import explain
from builder.planning.uploads import claimable, decide_uploads
from tests.unit.planning_world import (
    HERE,
    IMAGE,
    MINUTE,
    NOW,
    builds,
    configs,
    image_records,
    snapshot,
    unhurried,
)

GOING = (
    CleanupKind.RETIRE_BUILD,
    CleanupKind.RETIRE_UPLOAD,
    CleanupKind.REMOVE_BUILD,
    CleanupKind.REMOVE_UPLOAD,
)


def plan(config: Config, known: ImageRecords, active: frozenset[str] = frozenset()):
    return plan_cleanup(config, snapshot(known), NOW, builder_id=HERE, active=active)


def doing(config: Config, known: ImageRecords):
    return [a for a in plan(config, known) if a.verdict is Verdict.NOW]


@unhurried
@given(configs(), image_records())
def test_the_newest_ready_upload_of_a_provider_never_goes_by_itself(
    config: Config, known: ImageRecords
) -> None:
    wanted_gone = {b.id for b in known.builds if b.state is BuildState.DELETING}
    lasting = [u for u in known.uploads if u.state is UploadState.READY and u.build_id not in wanted_gone]
    going = {a.upload.name for a in doing(config, known) if a.upload}
    for provider in {u.provider for u in lasting}:
        there = [u for u in lasting if u.provider == provider]
        newest = max(u.state_time for u in there)
        assert any(u.state_time == newest and u.name not in going for u in there)


@unhurried
@given(configs(), image_records())
def test_the_newest_ready_build_never_goes_by_itself(config: Config, known: ImageRecords) -> None:
    ready = known.ready_builds
    going = {a.build.id for a in doing(config, known) if a.build and not a.upload and a.kind in GOING}
    assert not ready or any(b.state_time == ready[0].state_time and b.id not in going for b in ready)


@unhurried
@given(configs(), image_records())
def test_a_build_with_an_image_in_a_cloud_never_goes_by_itself(config: Config, known: ImageRecords) -> None:
    for action in doing(config, known):
        if action.kind is CleanupKind.RETIRE_BUILD and action.build:
            states = {u.state for u in known.uploads_of(action.build.id)}
            assert not states & {UploadState.READY, UploadState.UPLOADING}
        if action.kind is CleanupKind.REMOVE_BUILD and action.build:
            assert known.uploads_of(action.build.id) == ()


@unhurried
@given(configs(), image_records())
def test_each_action_fits_the_state_of_what_it_is_done_to(config: Config, known: ImageRecords) -> None:
    wanted: dict[CleanupKind, set[str]] = {
        CleanupKind.FAIL_BUILD: {"building"},
        CleanupKind.FAIL_UPLOAD: {"uploading"},
        CleanupKind.RETIRE_BUILD: {"ready", "failed"},
        CleanupKind.RETIRE_UPLOAD: {"ready", "failed"},
        CleanupKind.REMOVE_BUILD: {"deleting"},
        CleanupKind.REMOVE_UPLOAD: {"deleting"},
        CleanupKind.PRUNE_BUILD: {"ready"},
    }
    subjects = []
    for action in plan(config, known):
        if action.kind is CleanupKind.WITHDRAW_CANCELLATION:
            assert action.build is None or action.build.state is not BuildState.BUILDING
            continue
        subject = action.upload or action.build
        assert subject is not None
        assert subject.state in wanted[action.kind]
        if action.kind is not CleanupKind.PRUNE_BUILD:  # it may be superseded besides
            subjects.append(subject)
    assert len(subjects) == len(set(map(repr, subjects))), "one record is planned for once"


@unhurried
@given(configs(), image_records(), st.data())
def test_what_is_active_is_never_touched(config: Config, known: ImageRecords, data: st.DataObject) -> None:
    names = [b.id for b in known.builds] + [u.name for u in known.uploads]
    names += [known.cancellation.build_id] if known.cancellation else []
    active = frozenset(data.draw(st.sets(st.sampled_from(names)))) if names else frozenset()
    for action in plan(config, known, active):
        assert action.upload is None or action.upload.name not in active
        assert action.build is None or action.upload or action.build.id not in active
        assert action.cancellation is None or action.cancellation.build_id not in active


@unhurried
@given(configs(), image_records())
def test_nothing_is_taken_from_an_image_that_left_the_configuration(
    config: Config, known: ImageRecords
) -> None:
    without = replace(config, diskimages={})
    asked_to_go = {b.id for b in known.builds if b.state is BuildState.DELETING}
    for action in plan(without, known):
        assert action.kind is not CleanupKind.RETIRE_BUILD
        if action.kind is CleanupKind.RETIRE_UPLOAD:
            assert action.upload and action.upload.build_id in asked_to_go


@unhurried
@given(configs(), image_records())
def test_a_build_decision_is_the_same_each_time_and_its_due_time_fits(
    config: Config, known: ImageRecords
) -> None:
    for image in config.diskimages.values():
        decision = decide_build(image, known, config, NOW)
        assert decision == decide_build(image, known, config, NOW)
        if decision.verdict is Verdict.NOW:
            assert decision.due is not None
            assert decision.due <= NOW
            assert decision.trigger is not None
            assert image.formats
            assert not image.pause
        elif decision.verdict is Verdict.LATER:
            assert decision.due is not None
            assert decision.due > NOW
        else:
            assert decision.due is None


@unhurried
@given(configs(), image_records())
def test_what_is_due_later_changes_its_mind_at_that_time_and_not_just_before(
    config: Config, known: ImageRecords
) -> None:
    """The daemon sleeps until `due`: then it is time, unless failures since stand in the way."""
    for image in config.diskimages.values():
        decision = decide_build(image, known, config, NOW)
        if decision.verdict is Verdict.LATER and decision.due:
            then = decide_build(image, known, config, decision.due)
            assert then.verdict is Verdict.NOW or "failed, " in then.reason


@unhurried
@given(configs(), image_records())
def test_an_upload_decision_fits_its_due_time_and_its_build(config: Config, known: ImageRecords) -> None:
    decisions = decide_uploads(config, snapshot(known), NOW)
    for decision in decisions:
        if decision.verdict is Verdict.NOW:
            assert decision.due is not None
            assert decision.due <= NOW
            assert decision.build is not None
            assert decision.build.state is BuildState.READY
            assert decision.build.artifact(config.providers[decision.provider].image_format)
        elif decision.verdict is Verdict.LATER:
            assert decision.due is not None
            assert decision.due > NOW
        else:
            assert decision.due is None
    ours = claimable(decisions, HERE)
    assert all(d.verdict is Verdict.NOW and d.build and d.build.builder_id == HERE for d in ours)


@unhurried
@given(configs(), image_records())
def test_every_reason_is_a_line_for_people(config: Config, known: ImageRecords) -> None:
    rows = [
        *decide_builds(config, snapshot(known), NOW),
        *decide_uploads(config, snapshot(known), NOW),
        *plan(config, known),
        *explain(config, snapshot(known), NOW, IMAGE, HERE),
    ]
    for row in rows:
        assert row.reason.endswith("."), row.reason
        assert "\n" not in row.reason
        assert "  " not in row.reason
        assert ".." not in row.reason
        assert "None" not in row.reason


@unhurried
@given(configs(), image_records())
def test_every_record_is_explained_once(config: Config, known: ImageRecords) -> None:
    rows = explain(config, snapshot(known), NOW, IMAGE, HERE)
    assert len(rows) == 1 + len(config.diskimages) * len(config.providers) + len(known.builds) + len(
        known.uploads
    )


@unhurried
@given(configs(), image_records())
def test_no_file_goes_that_a_provider_may_still_need(config: Config, known: ImageRecords) -> None:
    """Each provider that takes its format has that build, or one that became ready later."""
    for action in doing(config, known):
        if action.kind is not CleanupKind.PRUNE_BUILD:
            continue
        image, build = config.diskimages[IMAGE], action.build
        assert build is not None
        assert image.delete_after_upload
        assert build.builder_id == HERE
        for each in action.formats:
            assert build.artifact(each)
            assert each not in build.pruned and each not in image.keep_formats
            takers = [p for p in config.providers_of(IMAGE) if p.image_format is each]
            assert takers, "nobody else has it"
            for provider in takers:
                there = {u.build_id for u in known.uploads_to(provider.name) if u.state is UploadState.READY}
                assert any(b.id in there and b.state_time >= build.state_time for b in known.ready_builds)


@unhurried
@given(configs(), image_records())
def test_only_what_the_clock_makes_due_may_be_left_out(config: Config, known: ImageRecords) -> None:
    for image in config.diskimages.values():
        decision = decide_build(image, known, config, NOW)
        if decision.skippable:
            assert decision.verdict is Verdict.NOW
            assert image.skip_unchanged
            assert decision.trigger in (Trigger.SCHEDULE, Trigger.AGE)
            assert any(b.inputs for b in known.ready_builds)


@unhurried
@given(configs(), image_records())
def test_once_checked_a_build_is_not_due_by_the_clock_again_at_once(
    config: Config, known: ImageRecords
) -> None:
    """Else the scheduler would ask, and the builder would check, without an end."""
    for image in config.diskimages.values():
        if not decide_build(image, known, config, NOW).skippable:
            continue
        newest = max(known.ready_builds, key=lambda b: (b.state_time, b.id))
        builds = tuple(replace(b, checked=NOW) if b is newest else b for b in known.builds)
        assert not decide_build(image, replace(known, builds=builds), config, NOW).skippable


@unhurried
@given(configs(), image_records(), builds(9))
def test_the_next_try_on_record_is_when_a_build_is_due(
    config: Config, known: ImageRecords, build: Build
) -> None:
    failed = replace(build, state=BuildState.FAILED, state_time=NOW, started=NOW - MINUTE)
    after = replace(known, builds=(failed, *known.builds), build_claimed=False)
    for image in config.diskimages.values():
        time = next_try(image, known, failed, config, NOW)
        if time is None:
            assert decide_build(image, after, config, NOW).verdict is Verdict.NO
        else:
            assert time >= NOW
            then = decide_build(image, after, config, time)
            assert then.verdict is Verdict.NOW or "failed, " in then.reason
