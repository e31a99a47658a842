"""What holds for any records and any configuration."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from builder.cloudimage import (
    BUILD_ID,
    INSTALLATION,
    NODEPOOL_BUILD_ID,
    PROVIDER,
    SDK_OBJECT,
    SNAPSHOT_MARKS,
    UPLOAD_ID,
    CloudImage,
    GlanceStatus,
    Sighting,
)
from builder.config.model import BreakerPolicy, Config, DiskImage
from builder.model import (
    Build,
    BuildState,
    FailureClass,
    ImageRecords,
    Snapshot,
    Upload,
    UploadCancellation,
    UploadPhase,
    UploadState,
)
from builder.planning.actions import (
    BreakerState,
    CleanupAction,
    CleanupKind,
    Promotion,
    Trigger,
    Verdict,
)
from builder.planning.builds import decide_builds, next_try
from builder.planning.cleanup import plan_cleanup
from builder.planning.departed import plan_departed
from builder.planning.explain import explain
from builder.planning.leaks import judge_leaks
from builder.planning.promotion import behind, plan_promotions
from builder.planning.records import by_age, may_go_out, picked, ready_uploads, runs, unwanted
from builder.planning.uploads import decide_uploads
from builder.planning.ways import choose
from builder.ways import Capabilities
from tests.unit.planning_world import (
    HERE,
    IMAGE,
    MINUTE,
    NOW,
    PROVIDERS,
    artifact,
    breaker_of,
    build_id,
    builds,
    claimable,
    configs,
    decide,
    image_records,
    snapshot,
    times,
    unhurried,
    upload,
    uploads,
)

GOING = (
    CleanupKind.RETIRE_BUILD,
    CleanupKind.RETIRE_UPLOAD,
    CleanupKind.REMOVE_BUILD,
    CleanupKind.REMOVE_UPLOAD,
)


def plan(config: Config, known: ImageRecords, active: frozenset[str] = frozenset()):
    return plan_cleanup(config, snapshot(known), NOW, builder_id=HERE, active=active)


def wished(action: CleanupAction) -> str | None:
    """What the wish that is to be withdrawn names."""
    wish = action.cancellation
    return wish.upload if isinstance(wish, UploadCancellation) else wish and wish.build_id


def doing(config: Config, known: ImageRecords):
    return [a for a in plan(config, known) if a.verdict is Verdict.NOW]


@unhurried
@given(configs(), image_records())
def test_the_upload_of_the_newest_build_that_is_ready_in_a_provider_never_goes_by_itself(
    config: Config, known: ImageRecords
) -> None:
    wanted_gone = {b.id for b in known.builds if b.state is BuildState.DELETING}
    lasting = [u for u in known.uploads if u.state is UploadState.READY and u.build_id not in wanted_gone]
    going = {a.upload.name for a in doing(config, known) if a.upload}
    for provider in {u.provider for u in lasting}:
        there = [u for u in lasting if u.provider == provider]
        assert by_age(known, there)[0].name not in going


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
        CleanupKind.REMOVE_LEFTOVER: {"failed"},
    }
    subjects = []
    for action in plan(config, known):
        if action.kind is CleanupKind.WITHDRAW_CANCELLATION:
            assert action.build is None or action.build.state is not BuildState.BUILDING
            assert not any(u.name == wished(action) and u.state == "uploading" for u in known.uploads)
            continue
        subject = action.upload or action.build
        assert subject is not None
        assert subject.state in wanted[action.kind]
        # What loses only files, or only an image in a cloud, may be superseded besides.
        if action.kind not in (CleanupKind.PRUNE_BUILD, CleanupKind.REMOVE_LEFTOVER):
            subjects.append(subject)
    assert len(subjects) == len(set(map(repr, subjects))), "one record is planned for once"


@unhurried
@given(configs(), image_records(), st.data())
def test_what_is_active_is_never_touched(config: Config, known: ImageRecords, data: st.DataObject) -> None:
    names = [b.id for b in known.builds] + [u.name for u in known.uploads]
    names += [known.cancellation.build_id] if known.cancellation else []
    names += [wish.upload for wish in known.upload_cancellations]
    active = frozenset(data.draw(st.sets(st.sampled_from(names)))) if names else frozenset()
    for action in plan(config, known, active):
        assert action.upload is None or action.upload.name not in active
        assert action.build is None or action.upload or action.build.id not in active
        assert action.cancellation is None or wished(action) not in active


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
        decision = decide(image, known, config, NOW)
        assert decision == decide(image, known, config, NOW)
        if decision.verdict is Verdict.NOW:
            assert decision.due is not None
            assert decision.due <= NOW
            assert decision.trigger is not None
            assert image.formats
            assert not image.pause or (known.request is not None and known.request.force)
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
        decision = decide(image, known, config, NOW)
        if decision.verdict is Verdict.LATER and decision.due:
            then = decide(image, known, config, decision.due)
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
            assert decision.build.state is BuildState.READY or runs(decision.build, known)
            assert decision.build.artifact(config.providers[decision.provider].image_format)
            assert unwanted(known, decision.build, decision.provider) is None
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
        *plan_promotions(config, snapshot(known), NOW),
        *plan_departed(replace(config, providers={}), snapshot(known), NOW, reachable=has_cloud),
        *(breaker_of(name, snapshot(known), config.upload_breaker, NOW) for name in PROVIDERS),
        *(
            choice
            for provider in config.providers.values()
            for choice in choose(provider, Capabilities(checked=NOW), artifact(), url=None)
        ),
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
    pairs = len(config.diskimages) * len(config.providers)
    assert len(plan_promotions(config, snapshot(known), NOW)) == pairs
    builders = len(config.diskimages)  # one is alive
    assert len(rows) == 1 + builders + 2 * pairs + len(known.builds) + len(known.uploads)


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
        decision = decide(image, known, config, NOW)
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
        if not decide(image, known, config, NOW).skippable:
            continue
        newest = max(known.ready_builds, key=lambda b: (b.state_time, b.id))
        builds = tuple(replace(b, checked=NOW) if b is newest else b for b in known.builds)
        assert not decide(image, replace(known, builds=builds), config, NOW).skippable


@unhurried
@given(configs(), image_records(), builds(9))
def test_the_next_try_on_record_is_when_a_build_is_due(
    config: Config, known: ImageRecords, build: Build
) -> None:
    failed = replace(build, state=BuildState.FAILED, state_time=NOW, started=NOW - MINUTE)
    after = replace(known, builds=(failed, *known.builds), build_claimed=False)
    for image in config.diskimages.values():
        time = next_try(image, snapshot(known), failed, config, NOW)
        if time is None:
            assert decide(image, after, config, NOW).verdict is Verdict.NO
        else:
            assert time >= NOW
            then = decide(image, after, config, time)
            assert then.verdict is Verdict.NOW or "failed, " in then.reason


# -- uploads: breakers, names, leaks ----------------------------------------------------------------


def has_cloud(upload: Upload) -> bool:
    return upload.cloud is not None


@unhurried
@given(configs(), image_records())
def test_what_has_the_stable_name_never_goes_while_another_could_have_it(
    config: Config, known: ImageRecords
) -> None:
    """Nobody who looks for the image by it finds none, as long as there is one at all."""
    named = {i.name for i in config.diskimages.values() if i.stable_name or i.stable_tag}
    doomed = {b.id for b in known.builds if b.state is BuildState.DELETING}
    for action in doing(config, known):
        going = action.upload
        if going is None or going.serving is None or IMAGE not in named:
            continue
        if going.provider not in config.providers or action.kind is not CleanupKind.REMOVE_UPLOAD:
            continue
        ready = [u for u in known.uploads_to(going.provider) if u.state is UploadState.READY]
        lasting = [u for u in ready if u.build_id not in doomed]
        assert not lasting or any(u.serving for u in lasting)


@unhurried
@given(configs(), image_records())
def test_a_promotion_is_made_once_and_leaves_one_image_with_the_name(
    config: Config, known: ImageRecords
) -> None:
    for promotion in plan_promotions(config, snapshot(known), NOW):
        if promotion.verdict is not Verdict.NOW:
            continue
        assert promotion.upload is not None
        assert promotion.upload.state is UploadState.READY
        assert promotion.upload not in (*promotion.predecessors, *promotion.hide)
        moved = tuple(carried_out(promotion, config.diskimages[IMAGE], u) for u in known.uploads)
        after = plan_promotions(config, snapshot(replace(known, uploads=moved)), NOW)
        (again,) = (p for p in after if p.provider == promotion.provider)
        assert again.verdict is Verdict.NO
        assert again.upload is not None and again.upload.name == promotion.upload.name
        named = [u for u in moved if u.provider == promotion.provider and u.serving]
        assert [u.name for u in named] == [promotion.upload.name]
        taken = picked(u for u in moved if u.provider == promotion.provider)
        assert taken is not None and taken.name == promotion.upload.name, "by nodepool's launcher"


def carried_out(promotion: Promotion, image: DiskImage, upload: Upload) -> Upload:
    """What an upload's record says once a promotion was carried out."""
    assert promotion.upload is not None
    if upload.name == promotion.upload.name:
        serves = replace(upload, stable_name=image.stable_name, stable_tag=image.stable_tag)
        serves = replace(serves, serving=upload.serving or NOW, hidden=upload.hidden and not promotion.show)
        return serves if promotion.renewed is None else serves.renewed(promotion.renewed)
    hidden = upload.hidden or upload.name in {u.name for u in promotion.hide}
    if upload.name in {u.name for u in promotion.predecessors}:
        upload = replace(upload, serving=None, stable_name=None, stable_tag=None)
    return replace(upload, hidden=hidden)


@unhurried
@given(configs(), image_records())
def test_what_is_withheld_serves_only_where_nothing_else_is_ready(
    config: Config, known: ImageRecords
) -> None:
    doomed = {build.id for build in known.builds if build.state is BuildState.DELETING}
    for promotion in plan_promotions(config, snapshot(known), NOW):
        heir = promotion.upload
        if heir is None or may_go_out(known.build(heir.build_id), heir.provider):
            continue
        others = (u for u in known.uploads_to(heir.provider) if u.state is UploadState.READY)
        for other in others:
            assert other.build_id in doomed or not may_go_out(known.build(other.build_id), other.provider)


@unhurried
@given(configs(), image_records())
def test_what_is_withheld_is_not_uploaded(config: Config, known: ImageRecords) -> None:
    for decision in decide_uploads(config, snapshot(known), NOW):
        if decision.verdict in (Verdict.NOW, Verdict.LATER):
            assert may_go_out(decision.build, decision.provider)


@unhurried
@given(configs(), image_records(), times)
def test_an_upload_that_becomes_ready_is_not_taken_by_nodepool_before_its_time(
    config: Config, known: ImageRecords, now: datetime
) -> None:
    for provider in config.providers:
        before = picked(known.uploads_to(provider))
        fresh = upload(1, UploadState.READY, now, provider, id="0000000099")
        fresh = replace(fresh, state_time=behind(known, fresh, now))
        assert picked([*known.uploads_to(provider), fresh]) == (before or fresh)
        # Whatever else goes: it waits behind each that may serve, and if it may not, behind each there is.
        waits = not may_go_out(known.build(fresh.build_id), provider)
        for other in ready_uploads(known.uploads_to(provider)):
            if waits or may_go_out(known.build(other.build_id), provider):
                assert picked([other, fresh]) == other


@unhurried
@given(configs(), image_records())
def test_at_most_one_upload_tries_a_provider_in_trouble(config: Config, known: ImageRecords) -> None:
    others = {name: replace(known, name=name) for name in ("b", "c")}
    images = {name: replace(i, name=name) for i in config.diskimages.values() for name in (IMAGE, "b", "c")}
    clouds = {
        p.name: replace(p, images={n: replace(p.images[IMAGE], diskimage=n) for n in (IMAGE, "b", "c")})
        for p in config.providers.values()
    }
    world = Snapshot(images={IMAGE: known, **others})
    decisions = decide_uploads(replace(config, diskimages=images, providers=clouds), world, NOW)
    for provider in clouds:
        breaker = breaker_of(provider, world, config.upload_breaker, NOW)
        now = [d for d in decisions if d.provider == provider and d.verdict is Verdict.NOW]
        if breaker.state is BreakerState.OPEN:
            assert now == []
        elif breaker.state is BreakerState.HALF_OPEN:
            assert len(now) <= (0 if breaker.probe else 1)
            assert all(d.probe for d in now)
        else:
            assert not any(d.probe for d in now)
    # Whoever may try it does: trouble of a provider is no reason to wait for ever.
    free = replace(config, diskimages=images, providers=clouds, upload_breaker=BreakerPolicy(failures=10**6))
    due = {d.provider for d in decide_uploads(free, world, NOW) if d.verdict is Verdict.NOW}
    for provider in due:
        breaker = breaker_of(provider, world, config.upload_breaker, NOW)
        if breaker.state is BreakerState.HALF_OPEN and breaker.probe is None:
            assert any(d.probe for d in decisions if d.provider == provider)


policies = st.builds(
    BreakerPolicy,
    failures=st.integers(1, 4),
    first=st.integers(1, 60).map(lambda minutes: minutes * MINUTE),
    longest=st.integers(1, 600).map(lambda minutes: minutes * MINUTE),
)


@unhurried
@given(st.lists(uploads(1), max_size=6), policies, times)
def test_a_breaker_never_closes_by_time_or_by_another_failure(
    sent: list[Upload], policy: BreakerPolicy, now
) -> None:
    order = [BreakerState.OPEN, BreakerState.HALF_OPEN]
    there = tuple(replace(u, provider="north", id=f"{n:010}") for n, u in enumerate(sent))
    known = ImageRecords(name=IMAGE, uploads=there)
    before = breaker_of("north", snapshot(known), policy, now)
    later = breaker_of("north", snapshot(known), policy, now + timedelta(minutes=30))
    assert later.failures == before.failures
    if before.state is BreakerState.CLOSED:
        assert later.state is BreakerState.CLOSED
    else:
        assert order.index(later.state) >= order.index(before.state)
        assert before.until is not None and before.since is not None
        assert (before.until <= now) == (before.state is BreakerState.HALF_OPEN)
        assert policy.failures <= before.failures
    newest = max([now, *(u.ended or u.state_time for u in there)])
    failed = upload(
        1,
        UploadState.FAILED,
        newest + MINUTE,
        kind=FailureClass.AUTH,
        id="0000009999",
        during=UploadPhase.CREATE,
    )
    after = breaker_of("north", snapshot(replace(known, uploads=(*there, failed))), policy, newest + MINUTE)
    assert after.failures == before.failures + 1
    if after.failures >= policy.failures:
        assert after.state is BreakerState.OPEN
    good = replace(failed, state=UploadState.READY, reason=None, state_time=newest + 2 * MINUTE)
    mended = breaker_of("north", snapshot(replace(known, uploads=(*there, failed, good))), policy, now)
    assert (mended.state, mended.failures) == (BreakerState.CLOSED, 0)


@st.composite
def cloud_images(draw: st.DrawFn) -> CloudImage:
    number = draw(st.integers(1, 9))
    values = {
        INSTALLATION: st.sampled_from([None, "ours", "theirs"]),
        BUILD_ID: st.sampled_from([None, build_id(number)]),
        UPLOAD_ID: st.integers(1, 3).map(lambda n: f"{n:010}"),
        PROVIDER: st.sampled_from(PROVIDERS),
        NODEPOOL_BUILD_ID: st.sampled_from([None, build_id(number)]),
        SDK_OBJECT: st.sampled_from([None, "images/debian"]),
        SNAPSHOT_MARKS[0]: st.sampled_from([None, None, "x"]),
    }
    properties = {name: draw(value) for name, value in values.items()}
    return CloudImage(
        id=f"image-{number}",
        name=draw(st.sampled_from(["debian", "copy"])),
        status=draw(st.sampled_from(GlanceStatus)),
        size=None,
        hash_algorithm=None,
        hash_value=None,
        checksum=None,
        visibility="private",
        properties={name: value for name, value in properties.items() if value is not None},
    )


@st.composite
def seen(draw: st.DrawFn) -> Sighting:
    first = draw(times)
    number = draw(st.integers(1, 9))
    return Sighting(provider="north", external_id=f"image-{number}", first=first, last=first)


@unhurried
@given(
    image_records(),
    st.lists(cloud_images(), max_size=6),
    st.lists(seen(), max_size=6, unique_by=lambda sighting: sighting.external_id),
    st.dictionaries(st.integers(1, 9).map(build_id), times),
    st.booleans(),
)
def test_no_image_goes_without_proof_that_it_is_ours_and_nobodys(
    known, images, sightings, gone, adopt
) -> None:
    leaks = judge_leaks(
        "north",
        images,
        snapshot(known),
        installation_id="ours",
        sightings=sightings,
        builds_gone=gone,
        now=NOW,
        sweep=timedelta(hours=1),
        adopt_nodepool=adopt,
    )
    first = {sighting.external_id: sighting.first for sighting in sightings}
    for leak in leaks:
        named = leak.image.properties
        assert leak.image.id not in {u.external_id for u in known.uploads}
        assert leak.reason.endswith(".") and "None" not in leak.reason
        assert (leak.due is not None and leak.due > NOW) == (leak.verdict is Verdict.LATER)
        if leak.verdict is not Verdict.NOW:
            continue
        assert named[INSTALLATION] == "ours"
        assert SNAPSHOT_MARKS[0] not in named
        assert named[SDK_OBJECT] == f"images/{leak.image.name}"
        assert named[BUILD_ID] in gone
        assert known.build(named[BUILD_ID]) is None
        assert first[leak.image.id] <= NOW - timedelta(hours=1)
        mine = [
            u
            for u in known.uploads
            if (u.build_id, u.provider, u.id) == (named[BUILD_ID], named[PROVIDER], named[UPLOAD_ID])
        ]
        assert not any(u.state is UploadState.UPLOADING or u.may_linger for u in mine)
    empty = judge_leaks(
        "north",
        images,
        Snapshot(),
        installation_id="ours",
        sightings=sightings,
        builds_gone={},
        now=NOW,
        sweep=timedelta(hours=1),
        adopt_nodepool=adopt,
    )
    assert all(leak.verdict is Verdict.NO for leak in empty)


@unhurried
@given(configs())
def test_an_empty_tree_plans_nothing(config: Config) -> None:
    nothing = Snapshot()
    assert plan_cleanup(config, nothing, NOW, builder_id=HERE, active=frozenset()) == ()
    assert plan_departed(config, nothing, NOW, reachable=has_cloud) == ()
    assert all(p.verdict is Verdict.NO for p in plan_promotions(config, nothing, NOW))
    assert all(d.verdict is Verdict.NO for d in decide_uploads(config, nothing, NOW))
    for name in PROVIDERS:
        assert breaker_of(name, nothing, config.upload_breaker, NOW).state is BreakerState.CLOSED


@unhurried
@given(configs(), image_records())
def test_nothing_departs_that_the_configuration_has_a_place_for(config: Config, known: ImageRecords) -> None:
    for action in plan_departed(config, snapshot(known), NOW, reachable=has_cloud):
        if action.upload is None:
            assert IMAGE not in config.diskimages
        else:
            assert IMAGE not in config.diskimages or action.upload.provider not in config.providers
        subject = action.upload or action.build
        assert subject is not None
        if action.verdict is Verdict.NOW:
            assert subject.state in ("ready", "failed")
            touched = action.upload is not None and (
                action.upload.state == "ready" or action.upload.may_linger
            )
            assert not touched or has_cloud(action.upload)


@unhurried
@given(configs(), image_records())
def test_a_failed_upload_never_goes_by_itself_before_a_later_one_there_is_ready(
    config: Config, known: ImageRecords
) -> None:
    doomed = {b.id for b in known.builds if b.state is BuildState.DELETING}
    for action in doing(config, known):
        if action.kind is CleanupKind.RETIRE_UPLOAD and action.upload and action.upload.state == "failed":
            if action.upload.build_id in doomed:
                continue
            there = known.uploads_to(action.upload.provider)
            later = [u for u in there if u.state == "ready" and u.state_time > action.upload.state_time]
            # Of several tries of a build the last tells enough.
            tries = known.uploads_of(action.upload.build_id, action.upload.provider)
            again = [u for u in tries if u.state == "failed" and u.state_time >= action.upload.state_time]
            assert later or len(again) > 1
            assert NOW - action.upload.state_time >= config.failed_retention
        if action.kind is CleanupKind.RETIRE_BUILD and action.build:
            left = [u for u in known.uploads_of(action.build.id) if u.state == "failed"]
            for each in (u for u in left if u.provider in config.providers):
                there = known.uploads_to(each.provider)
                assert any(u.state == "ready" and u.state_time > each.state_time for u in there)
