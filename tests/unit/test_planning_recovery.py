"""Which records are made again from images and files, and which things are left as they are."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder import recovery
from builder.cloudimage import (
    BUILD_ID,
    BUILD_READY,
    BUILD_STARTED,
    FORMAT,
    IMAGE,
    INSTALLATION,
    PROVIDER,
    RAW_SIZE,
    SDK_MD5,
    SDK_OBJECT,
    SDK_SHA256,
    SERVING,
    SHA512,
    UPLOAD_ID,
    UPLOAD_STARTED,
    USERNAME,
    WITHHELD,
    CloudImage,
    GlanceStatus,
)
from builder.config.model import Canary, Sharing
from builder.model import Build, BuildState, FailureClass, ImageFormat, Snapshot, UploadState, Withholding
from builder.planning.actions import Verdict
from builder.planning.canary import clearing_of
from builder.planning.cleanup import plan_cleanup
from builder.planning.promotion import plan_promotions
from builder.planning.records import picked, ready_uploads
from builder.planning.recovery import Fate, KeptFile, Thing, wants_files
from builder.planning.uploads import decide_uploads
from builder.store import codec
from builder.withheldmark import BY, to_text
from tests.fakes.store import FakeStore
from tests.unit import recovery_world as world
from tests.unit.planning_world import (
    DAY,
    HERE,
    HOUR,
    MINUTE,
    NOW,
    build_id,
    config,
    decide,
    diskimage,
    provider,
    records,
    snapshot,
    unhurried,
)
from tests.unit.planning_world import IMAGE as NAME
from tests.unit.recovery_world import builds_of, image, kept, made, plan, reasons, sent, uploads_of

QCOW2, RAW = ImageFormat.QCOW2, ImageFormat.RAW
OLD = world.build(1, NOW - DAY)
NEW = world.build(2, NOW - HOUR)


def everywhere(*builds: Build) -> dict[str, list[CloudImage]]:
    """Each build in both regions."""
    return {to: [image(each, sent(each, to)) for each in builds] for to in ("north", "south")}


def snapshot_of(steps: Any) -> Snapshot:
    """The tree once all is written."""
    return Snapshot(images={NAME: records(*builds_of(steps), *uploads_of(steps))})


# -- all is brought back --------------------------------------------------------------------------


def test_builds_with_files_and_uploads_are_what_they_were() -> None:
    steps = plan(everywhere(OLD, NEW), kept(OLD), kept(NEW))
    assert {step.fate for step in steps} == {Fate.RESTORE}
    assert builds_of(steps) == [NEW, OLD]
    assert sorted(uploads_of(steps), key=lambda u: u.name) == sorted(
        (sent(each, to) for each in (OLD, NEW) for to in ("north", "south")), key=lambda u: u.name
    )


def test_uploads_follow_their_build_and_the_newest_build_comes_first() -> None:
    written = [(s.thing, (s.build or s.upload)) for s in plan(everywhere(OLD, NEW), kept(OLD))]
    order = [
        (thing, record.id if isinstance(record, Build) else record.build_id)
        for thing, record in written
        if record
    ]
    assert order == [
        *((Thing.BUILD, NEW.id), (Thing.IMAGE, NEW.id), (Thing.IMAGE, NEW.id)),
        *((Thing.BUILD, OLD.id), (Thing.IMAGE, OLD.id), (Thing.IMAGE, OLD.id)),
    ]


def test_nothing_is_due_afterwards_and_nothing_goes() -> None:
    steps = plan(everywhere(OLD, NEW), kept(OLD), kept(NEW))
    where, tree = world.two_regions(), snapshot_of(steps)
    never = diskimage(schedule=())
    assert decide(never, tree.image(NAME), where, NOW).verdict is Verdict.NO
    assert {d.verdict for d in decide_uploads(where, tree, NOW)} == {Verdict.NO}
    assert plan_cleanup(where, tree, NOW, builder_id=HERE, active=frozenset()) == ()


def test_the_newest_upload_is_the_newest_again() -> None:
    steps = plan(everywhere(NEW, OLD), kept(OLD))
    ready = ready_uploads(u for u in uploads_of(steps) if u.provider == "north")
    assert [u.build_id for u in ready] == [NEW.id, OLD.id]


def test_an_upload_that_began_before_its_build_was_ready_is_not_older_than_it() -> None:
    early = sent(NEW, started=NEW.state_time - 5 * MINUTE)
    (upload,) = uploads_of(plan({"north": [image(NEW, early)]}))
    assert (upload.started, upload.state_time) == (early.started, NEW.state_time)


def test_a_build_that_only_clouds_have_is_ready_without_files_and_the_next_is_due() -> None:
    steps = plan(everywhere(NEW))
    (build,) = builds_of(steps)
    bare = {"artifacts": (), "formats": (), "builder": None, "builder_id": None}
    assert build == replace(NEW, **bare)
    due = decide(diskimage(schedule=()), snapshot_of(steps).image(NAME), world.two_regions(), NOW)
    assert due.verdict is Verdict.NOW


def test_its_files_come_with_the_machine_that_has_them() -> None:
    (bare,) = builds_of(plan(everywhere(NEW)))
    uploads = uploads_of(plan(everywhere(NEW)))
    tree = records(replace(bare, version=7), *uploads)
    assert wants_files(Snapshot(images={NAME: tree}), NAME, NEW.id, HERE)
    steps = plan(everywhere(NEW), kept(NEW), records=[tree])
    assert [(s.fate, s.thing) for s in steps if s.fate is not Fate.KNOWN] == [(Fate.COMPLETE, Thing.BUILD)]
    (full,) = builds_of(steps)
    assert full == NEW and full.version == 7
    whole = records(full, *uploads)
    assert {s.fate for s in plan(everywhere(NEW), kept(NEW), records=[whole])} == {Fate.KNOWN}
    assert not wants_files(Snapshot(images={NAME: whole}), NAME, NEW.id, HERE)


def test_files_of_a_build_that_another_machine_holds_are_not_taken_for_its() -> None:
    for theirs in (NEW, replace(NEW, artifacts=(), formats=())):
        steps = plan({}, kept(NEW), records=[records(replace(theirs, builder_id="machine-b"))])
        assert builds_of(steps) == []


def test_to_repeat_it_half_way_adds_the_rest_and_nothing_twice() -> None:
    first = plan(everywhere(OLD, NEW), kept(OLD), kept(NEW))
    for done in range(len(first) + 1):
        tree = records(*builds_of(first[:done]), *uploads_of(first[:done]))
        again = plan(everywhere(OLD, NEW), kept(OLD), kept(NEW), records=[tree])
        assert {*map(str, builds_of(again)), *map(str, uploads_of(again))} == {
            *map(str, builds_of(first[done:])),
            *map(str, uploads_of(first[done:])),
        }


def test_a_build_that_no_cloud_has_comes_from_disk() -> None:
    (build,) = builds_of(plan({"north": [], "south": []}, kept(NEW)))
    assert build == replace(NEW, raw_sha256=None, raw_size=None)


def test_what_properties_do_not_say_the_configuration_does() -> None:
    where = config(diskimage(username="ann", python_path="/opt/python"), provider("north"), provider("south"))
    (build,) = builds_of(plan({}, kept(NEW), where=where))
    assert (build.username, build.python_path) == ("ann", "/opt/python")
    steps = plan({"north": [image(NEW)]}, where=where)
    assert [(b.username, b.python_path) for b in builds_of(steps)] == [("zuul", "auto")]
    assert [(u.username, u.python_path) for u in uploads_of(steps)] == [("zuul", "auto")]


def test_an_image_in_service_is_so_again() -> None:
    known = sent(NEW)
    named = image(NEW, known, name="newest", properties={SERVING: known.external_id})
    (upload,) = uploads_of(plan({"north": [named]}))
    assert upload.serving == NOW
    assert upload.external_name == known.external_name


def test_what_soaked_does_so_anew() -> None:
    """It was uploaded two days ago and waited for its turn; since when it serves, nobody knows."""
    soak = Canary(providers=("north",), soak=2 * HOUR)
    where = config(diskimage(promote=soak, stable_name="newest"), provider("north"), provider("south"))
    old, new = world.build(1, NOW - 3 * DAY), world.build(2, NOW - 2 * DAY)
    clouds = {
        "north": [image(old, sent(old)), serving(new, "north")],
        "south": [serving(old, "south"), image(new, sent(new, "south"))],
    }
    steps = plan(clouds, kept(old), kept(new), where=where)
    after = snapshot(records(*builds_of(steps), *uploads_of(steps)))
    clearing = clearing_of(where.diskimages[NAME], where, after, NOW)
    assert clearing is not None
    assert (clearing.verdict, clearing.due) == (Verdict.LATER, NOW + 2 * HOUR)


def test_what_waited_for_a_word_waits_again() -> None:
    where = config(diskimage(promote="manual"), provider("north"), provider("south"))
    clouds = {to: [serving(OLD, to), image(NEW, sent(NEW, to))] for to in ("north", "south")}
    steps = plan(clouds, kept(OLD), kept(NEW), where=where)
    after = snapshot(records(*builds_of(steps), *uploads_of(steps)))
    assert {each.verdict for each in plan_promotions(where, after, NOW)} == {Verdict.NO}
    assert {u.build_id for u in after.uploads() if u.serving is not None} == {OLD.id}


def serving(of: Build, to: str) -> CloudImage:
    """The image of a build in a cloud whose image says that it serves."""
    known = sent(of, to)
    return image(of, known, properties={SERVING: known.external_id})


# -- whose an image is ----------------------------------------------------------------------------


def test_providers_of_one_project_see_the_same_images() -> None:
    both = [image(NEW, sent(NEW, to)) for to in ("north", "south")]
    where = config(diskimage(), provider("north", cloud="c"), provider("south", cloud="c"))
    steps = plan({"north": both, "south": both}, where=where)
    assert sorted((u.provider, u.external_id, u.cloud) for u in uploads_of(steps)) == [
        ("north", "image-2-north", "c"),
        ("south", "image-2-south", "c"),
    ]


def test_the_image_of_a_provider_that_left_keeps_its_name_and_gets_its_place() -> None:
    where = config(diskimage(), provider("north", region="R1"))
    (upload,) = uploads_of(plan({"north": [image(NEW, sent(NEW, "gone"))]}, where=where))
    assert (upload.provider, upload.cloud, upload.region) == ("gone", "north", "R1")


def test_an_image_of_a_provider_that_is_elsewhere_now_does_not_make_it_ready_there() -> None:
    lost = image(NEW, sent(NEW, "south"))
    steps = plan({"north": [lost], "south": []})
    assert uploads_of(steps) == [] and "looks elsewhere" in reasons(steps)[lost.id]


def test_a_provider_that_could_not_be_asked_is_told_and_served_by_its_neighbour() -> None:
    seen = image(NEW, sent(NEW, "south"))
    steps = plan({"north": [seen]}, unasked={"south": "refused."})
    assert uploads_of(steps) == []
    assert "could not be asked" in reasons(steps)[seen.id]
    assert "refused" in reasons(steps)["south"]
    where = config(diskimage(), provider("north", cloud="c"), provider("south", cloud="c"))
    assert [u.provider for u in uploads_of(plan({"north": [seen]}, where=where, unasked={"south": ""}))] == [
        "south"
    ]


# -- what is left alone ---------------------------------------------------------------------------

ID = sent(NEW).external_id or ""
LEFT: dict[str, tuple[dict[str, Any], str]] = {
    "a snapshot": ({"properties": {"image_type": "snapshot"}}, "snapshot"),
    "a copy": ({"name": "my-copy"}, "copy"),
    "a copy of one in service": ({"name": "newest", "properties": {SERVING: "another"}}, "copy"),
    "deactivated": ({"status": GlanceStatus.DEACTIVATED}, "deactivated"),
    "of a status to come": ({"status": GlanceStatus.OTHER}, "other"),
    "other bytes": ({"hash_value": "0" * 128}, "sha512"),
    "another checksum": ({"checksum": "0" * 32}, "md5"),
    "another format": ({"disk_format": "raw"}, "format"),
    "no hash to compare": (
        {"properties": {SHA512: None, SDK_SHA256: None, SDK_MD5: None}},
        "could be checked",
    ),
    "no hash of Glance's": ({"hash_value": None, "checksum": None}, "could be checked"),
    "hidden": ({"hidden": True}, "hidden"),
    "no build": ({"properties": {BUILD_ID: None}}, "no build's id"),
    "a path for a build": ({"properties": {BUILD_ID: "../../etc"}}, "no build's id"),
    "a path for a name": ({"properties": {IMAGE: "../../etc"}}, "no name"),
    "a path for a provider": ({"properties": {PROVIDER: "a/b"}}, "no name"),
    "no upload": ({"properties": {UPLOAD_ID: None}}, "no upload's id"),
    "strange digits": ({"properties": {UPLOAD_ID: "٠٠٠٠٠٠٠٠٠١"}}, "no upload's id"),
    "too high an id": ({"properties": {UPLOAD_ID: "9999999999"}}, "higher"),
    "no time": ({"created": None, "properties": {UPLOAD_STARTED: "yesterday"}}, "when it was uploaded"),
    "of no time zone": (
        {"created": None, "properties": {UPLOAD_STARTED: "2026-11-21T12:00:00"}},
        "when it was uploaded",
    ),
    "from the future": (
        {"created": NOW + DAY, "properties": {UPLOAD_STARTED: "2099-01-01T00:00:00+00:00"}},
        "when it was uploaded",
    ),
    "a build that never became ready": ({"properties": {BUILD_READY: None}}, "became ready"),
    "a build of the future": ({"properties": {BUILD_READY: "2099-01-01T00:00:00+00:00"}}, "became ready"),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_is_not_proven_is_left_alone_and_told(case: str) -> None:
    changes, word = LEFT[case]
    steps = plan({"north": [image(NEW, **changes)]})
    assert uploads_of(steps) == []
    assert word in reasons(steps)[ID]


@pytest.mark.parametrize(
    "changes",
    [
        {"properties": {INSTALLATION: "2" * 32}},
        {"properties": {INSTALLATION: None}},
        {"status": GlanceStatus.DELETED},
        {"status": GlanceStatus.PENDING_DELETE},
    ],
    ids=str,
)
def test_what_is_not_ours_or_going_is_none_of_our_business(changes: dict[str, Any]) -> None:
    assert plan({"north": [image(NEW, **changes)]}) == ()


def test_what_was_hidden_is_not_put_into_service_again() -> None:
    hidden = image(NEW, hidden=True)
    steps = plan({"north": [hidden, image(OLD)], "south": [image(NEW, sent(NEW, "south"))]}, kept(NEW))
    new = next(build for build in builds_of(steps) if build.id == NEW.id)
    assert [(w.provider, w.wanted) for w in new.wishes] == [("north", False)]
    due = {d.provider: d.verdict for d in decide_uploads(world.two_regions(), snapshot_of(steps), NOW)}
    assert due == {"north": Verdict.NO, "south": Verdict.NO}
    again = image(NEW, sent(NEW, id="0000000002", external_id="good"))
    steps = plan({"north": [hidden, again]})
    assert builds_of(steps)[0].wishes == () and [u.external_id for u in uploads_of(steps)] == ["good"]


def test_hidden_images_are_good_where_images_are_hidden() -> None:
    where = config(diskimage(), provider("north"))
    listed = replace(where.providers["north"].images[NAME], sharing=Sharing(hidden=True))
    north = replace(where.providers["north"], images={NAME: listed})
    steps = plan({"north": [image(NEW, hidden=True)]}, where=replace(where, providers={"north": north}))
    assert len(uploads_of(steps)) == 1


def test_a_build_that_was_removed_is_not_brought_back() -> None:
    steps = plan({"north": [image(NEW)]}, kept(NEW), builds_gone={NEW.id: NOW})
    assert builds_of(steps) == [] and uploads_of(steps) == []
    assert "leak" in reasons(steps)[ID] and "removed" in reasons(steps)[NEW.id]


def test_of_two_images_of_one_upload_the_good_one_is_it() -> None:
    good = image(NEW)
    half = image(NEW, id="another", status=GlanceStatus.QUEUED, created=NOW - DAY)
    late = image(NEW, id="copy", created=NOW - MINUTE)
    for order in ([good, half, late], [late, half, good]):
        steps = plan({"north": order})
        assert [u.external_id for u in uploads_of(steps)] == [ID]
        assert "same upload" in reasons(steps)["another"] and "same upload" in reasons(steps)["copy"]


def test_a_record_that_has_another_image_keeps_it() -> None:
    tree = records(NEW, sent(NEW, external_id="another"))
    steps = plan({"north": [image(NEW)]}, records=[tree])
    assert uploads_of(steps) == [] and "another image" in reasons(steps)[ID]


def test_a_build_is_of_one_diskimage() -> None:
    liar = image(NEW, sent(NEW, id="0000000002", external_id="liar"), properties={IMAGE: "another"})
    steps = plan({"north": [image(NEW), liar]})
    assert builds_of(steps) == [] and "is said to be of" in reasons(steps)["liar"]
    assert [b.image for b in builds_of(plan({"north": [image(NEW), liar]}, kept(NEW)))] == [NAME]
    steps = plan({"north": [image(NEW), liar]}, records=[records(NEW)])
    assert [u.external_id for u in uploads_of(steps)] == [ID]


def test_nonsense_in_a_build_s_facts_is_as_if_it_were_not_said() -> None:
    nonsense = {BUILD_STARTED: "soon", RAW_SIZE: "-1", USERNAME: "x; rm -rf /", FORMAT: "floppy"}
    (build,) = builds_of(plan({"north": [image(NEW, properties=nonsense)]}))
    assert (build.started, build.raw_size, build.username) == (None, None, "zuul")
    late = {BUILD_STARTED: NOW.isoformat(), USERNAME: "x\x1b[2J"}
    (build,) = builds_of(plan({"north": [image(NEW, properties=late)]}))
    assert (build.started, build.username) == (NEW.ended, "zuul")


# -- what was half done ---------------------------------------------------------------------------

HALF = [status for status in GlanceStatus if status.is_moving] + [GlanceStatus.KILLED]


@pytest.mark.parametrize("status", HALF)
def test_a_half_done_upload_is_a_failed_one_that_the_janitor_takes_away(status: GlanceStatus) -> None:
    half = image(NEW, status=status, size=None, hash_value=None, checksum=None)
    steps = plan({"north": [half]}, kept(NEW))
    (upload,) = uploads_of(steps)
    assert upload.state is UploadState.FAILED and upload.may_linger and upload.external_id == ID
    assert upload.reason is not None and upload.reason.failure_class is FailureClass.INTERRUPTED
    tree = snapshot_of(steps)
    (action,) = plan_cleanup(world.two_regions(), tree, NOW, builder_id=HERE, active=frozenset())
    assert (action.verdict, action.upload) == (Verdict.NOW, upload)
    due = {d.provider: d.verdict for d in decide_uploads(world.two_regions(), tree, NOW)}
    assert due == {"north": Verdict.NOW, "south": Verdict.NOW}


def test_a_half_done_upload_of_a_build_nobody_knows_is_told() -> None:
    half = image(NEW, status=GlanceStatus.QUEUED, properties={BUILD_READY: None})
    steps = plan({"north": [half]})
    assert builds_of(steps) == [] and "became ready" in reasons(steps)[ID]


def test_a_build_that_was_not_finished_failed_and_what_it_left_goes() -> None:
    running = replace(NEW, artifacts=())
    file = KeptFile(format=QCOW2, artifact=made(9))
    unfinished = kept(running, finished=None, described=False, recorded=(), files=(file,))
    early = image(NEW, status=GlanceStatus.SAVING, properties={BUILD_READY: None})
    held = image(NEW, sent(NEW, "south"), properties={BUILD_READY: None})
    steps = plan({"north": [early], "south": [held]}, unfinished)
    (build,) = builds_of(steps)
    assert build.state is BuildState.FAILED and build.builder_id == HERE
    assert build.reason is not None and build.reason.failure_class is FailureClass.INTERRUPTED
    assert [(u.provider, u.state) for u in uploads_of(steps)] == [("north", UploadState.FAILED)]
    assert list(reasons(steps)) == [held.id] and "never became ready" in reasons(steps)[held.id]


def test_files_that_stayed_of_a_build_that_failed_go_with_its_record() -> None:
    file = KeptFile(format=QCOW2, artifact=made(9))
    failed = kept(NEW, file, finished=None, recorded=(), failed=NOW - MINUTE)
    steps = plan({"north": [image(OLD)]}, failed, kept(OLD))
    (build,) = [build for build in builds_of(steps) if build.id == NEW.id]
    assert (build.state, build.builder_id, build.artifacts) == (BuildState.FAILED, HERE, ())
    assert build.reason is not None and build.reason.message.startswith("it had failed when")
    told = next(step.reason for step in steps if step.build and step.build.id == NEW.id)
    assert told == "It had failed when the records were lost; what it left is cleaned up."
    assert [step for step in steps if step.fate is Fate.LEFT] == []


def test_what_belongs_to_a_build_on_record_that_is_not_ready_follows_it() -> None:
    half = image(NEW, status=GlanceStatus.SAVING)
    good = image(NEW, sent(NEW, "south"))
    failed = replace(NEW, state=BuildState.FAILED, artifacts=(), formats=())
    steps = plan({"north": [half], "south": [good]}, kept(NEW), records=[records(failed)])
    assert builds_of(steps) == []
    assert [u.external_id for u in uploads_of(steps)] == [half.id]
    assert "never became ready" in reasons(steps)[good.id]
    runs = replace(failed, state=BuildState.BUILDING)
    assert uploads_of(plan({"north": [half], "south": [good]}, records=[records(runs)])) == []
    going = replace(NEW, state=BuildState.DELETING)
    restored = uploads_of(plan({"south": [good]}, records=[records(going)]))
    assert [u.external_id for u in restored] == [good.id]


def test_what_is_written_comes_before_what_is_told() -> None:
    copy = image(NEW, id="copy", name="my-copy")
    fates = [step.fate for step in plan({"north": [copy, image(OLD)]}, kept(OLD), unasked={"south": "gone."})]
    assert fates == [Fate.RESTORE, Fate.RESTORE, Fate.LEFT, Fate.UNSEEN]


def test_a_build_of_which_it_is_not_known_whether_it_was_finished_is_left() -> None:
    older = kept(NEW, finished=None, recorded=())
    steps = plan({}, older)
    assert builds_of(steps) == [] and "Nothing tells" in reasons(steps)[NEW.id]


# -- files ----------------------------------------------------------------------------------------

BOTH = world.build(3, NOW - HOUR, QCOW2, RAW)


def test_a_file_with_another_content_is_told_and_never_used() -> None:
    wrong = KeptFile(format=RAW, artifact=replace(made(3, RAW), sha512="0" * 128))
    steps = plan({}, kept(BOTH, KeptFile(format=QCOW2, artifact=made(3)), wrong))
    (build,) = builds_of(steps)
    assert build.pruned == ("raw",) and build.formats == ("qcow2", "raw")
    assert "sha512" in reasons(steps)[f"{NAME}-{BOTH.id}.raw"]


def test_a_file_that_can_not_be_read_is_told() -> None:
    broken = KeptFile(format=RAW, problem="Input/output error")
    steps = plan({}, kept(BOTH, KeptFile(format=QCOW2, artifact=made(3)), broken))
    assert builds_of(steps)[0].pruned == ("raw",)
    assert "Input/output error" in reasons(steps)[f"{NAME}-{BOTH.id}.raw"]


def test_files_that_went_after_their_uploads_are_gone_as_before() -> None:
    steps = plan(
        {"north": [image(BOTH, sent(BOTH))]}, kept(BOTH, KeptFile(format=RAW, artifact=made(3, RAW)))
    )
    (build,) = builds_of(steps)
    assert build == replace(BOTH, pruned=("qcow2",))


def test_a_description_alone_makes_no_build() -> None:
    steps = plan({"north": []}, replace(kept(NEW), files=()))
    assert builds_of(steps) == [] and "Nothing is left" in reasons(steps)[NEW.id]
    (build,) = builds_of(plan({"north": [image(NEW)]}, replace(kept(NEW), files=())))
    assert build.pruned == ("qcow2",) and build.builder_id == HERE


def test_without_hashes_on_disk_a_verified_image_says_what_a_file_should_be() -> None:
    older = kept(BOTH, finished=None, recorded=())
    steps = plan({"north": [image(BOTH, sent(BOTH))]}, older)
    (build,) = builds_of(steps)
    assert [a.format for a in build.artifacts] == [QCOW2] and build.builder_id == HERE
    assert list(reasons(steps)) == [f"{NAME}-{BOTH.id}.raw"]


def test_an_image_that_is_not_the_file_on_record_is_not_ready() -> None:
    other = made(9)
    changed = {SHA512: other.sha512, SDK_SHA256: other.sha256, SDK_MD5: other.md5}
    lie = image(NEW, hash_value=other.sha512, checksum=other.md5, properties=changed)
    steps = plan({"north": [lie]}, kept(NEW))
    assert uploads_of(steps) == [] and "build's file" in reasons(steps)[ID]


def test_a_file_that_nothing_speaks_for_is_told() -> None:
    extra = KeptFile(format=RAW, artifact=made(2, RAW))
    steps = plan({}, kept(NEW, KeptFile(format=QCOW2, artifact=made(2)), extra))
    assert [a.format for a in builds_of(steps)[0].artifacts] == [QCOW2]
    assert "nothing says" in reasons(steps)[f"{NAME}-{NEW.id}.raw"]


# -- anything -------------------------------------------------------------------------------------

PROPERTIES = (
    *(BUILD_ID, BUILD_READY, BUILD_STARTED, FORMAT, IMAGE, INSTALLATION, PROVIDER, RAW_SIZE, SDK_MD5),
    *(SDK_OBJECT, SDK_SHA256, SERVING, SHA512, UPLOAD_ID, UPLOAD_STARTED, USERNAME, "image_type"),
)
GARBAGE = st.one_of(
    st.none(),
    st.text(max_size=300),
    st.sampled_from(
        [
            *(
                "",
                "../..",
                "a/b",
                "0" * 10,
                "0000000001",
                "9" * 400,
                "²" * 10,
                "NaN",
                "1e9",
                "-1",
                "x\x1b[2J",
            ),
            *("2026-11-21T14:00:00", "2026-11-21T14:00:00+00:00", "9999-12-31T23:59:59-23:59", "2026-W01"),
            *(
                "0001-01-01T00:00:00+23:59",
                "1" * 32,
                build_id(1),
                build_id(2),
                "north",
                "south",
                NAME,
                "q" * 128,
            ),
        ]
    ),
)


@st.composite
def garbled(draw: st.DrawFn) -> CloudImage:
    """An image of ours in which somebody changed whatever they liked."""
    was = draw(st.sampled_from([OLD, NEW, BOTH]))
    changes = draw(st.dictionaries(st.sampled_from(PROPERTIES), GARBAGE, max_size=6))
    return image(
        was,
        sent(was),
        id=draw(st.sampled_from(["image-1", "image-2", "image-3"])),
        name=draw(st.sampled_from([sent(was).external_name or "", "newest", ""])),
        status=draw(st.sampled_from(GlanceStatus)),
        hidden=draw(st.booleans()),
        size=draw(st.sampled_from([None, 0, -1, 8])),
        hash_algorithm=draw(st.sampled_from([None, "sha512", "md5", "shake_128", ""])),
        checksum=draw(st.none() | st.text(max_size=40)),
        created=draw(st.none() | st.datetimes(timezones=st.sampled_from([UTC])) | st.just(datetime(1, 1, 1))),
        disk_format=draw(st.none() | st.text(max_size=9) | st.just("qcow2")),
        properties=changes,
    )


@unhurried
@given(
    st.lists(garbled(), max_size=5),
    st.lists(garbled(), max_size=3),
    st.lists(st.sampled_from([OLD, NEW, BOTH]), unique_by=lambda b: b.id),
    st.sets(st.sampled_from([OLD.id, NEW.id])),
)
def test_whatever_properties_say_only_what_is_ours_is_restored(
    north: list[CloudImage], south: list[CloudImage], disk: list[Build], gone: set[str]
) -> None:
    steps = plan(
        {"north": north, "south": south},
        *map(kept, disk),
        builds_gone=dict.fromkeys(gone, NOW),
    )
    names = set()
    for upload in uploads_of(steps):
        assert any(
            each.id == upload.external_id
            and each.properties.get(INSTALLATION) == world.INSTALLATION
            and not each.properties.get("image_type")
            for each in (*north, *south)
        )
        assert upload.build_id not in gone and upload.state_time <= NOW
        assert (upload.image, upload.build_id) in {(b.image, b.id) for b in builds_of(steps)}
        names.add(upload.name)
    assert len(names) == len(uploads_of(steps))
    assert all(b.id not in gone and b.state_time <= NOW for b in builds_of(steps))
    assert all(step.reason.endswith(".") for step in steps)


@unhurried
@given(st.lists(garbled(), max_size=5), st.lists(st.sampled_from([OLD, BOTH]), unique_by=lambda b: b.id))
def test_whatever_properties_say_what_is_planned_can_be_written(
    images: list[CloudImage], disk: list[Build]
) -> None:
    store = FakeStore()
    for step in plan({"north": images, "south": []}, *map(kept, disk)):
        if step.build is not None or step.upload is not None:
            assert recovery.write(store, step).done
            assert codec.encode_upload(step.upload) if step.upload else codec.encode_build(step.build)


# -- what was withheld ----------------------------------------------------------------------------

BAD = Withholding(provider=None, by="ann", time=NOW - MINUTE, why="no SSH server")
BY_ITS_IMAGE = Withholding(provider=None, by=BY, time=NOW - MINUTE, why="no SSH server")


def marked(build: Build, word: Withholding = BAD, to: str = "north") -> CloudImage:
    """The image of an upload whose build is withheld."""
    return image(build, sent(build, to), properties={WITHHELD: to_text(word)})


def test_a_quarantine_that_one_image_tells_holds_everywhere() -> None:
    steps = plan({"north": [marked(NEW), image(OLD)], "south": [image(OLD, sent(OLD, "south"))]}, kept(NEW))
    new = next(build for build in builds_of(steps) if build.id == NEW.id)
    assert new.withheld == (BY_ITS_IMAGE,)
    (told,) = (u for u in uploads_of(steps) if u.build_id == NEW.id)
    assert told.withheld == BAD.time
    due = {d.provider: d.build for d in decide_uploads(world.two_regions(), snapshot_of(steps), NOW)}
    assert {build.id for build in due.values() if build} == {OLD.id}, "it is not sent to south"
    (written,) = (s.reason for s in steps if s.build is not None and s.build.id == NEW.id and s.writes)
    assert "and stays withheld from everywhere" in written


def test_what_is_withheld_from_one_provider_stays_so() -> None:
    here = Withholding(provider="north", by="ann", time=NOW - MINUTE)
    (build,) = builds_of(plan({"north": [marked(NEW, here)], "south": [image(NEW, sent(NEW, "south"))]}))
    assert (build.withheld_from("north") is not None, build.withheld_from("south")) == (True, None)


def test_the_file_beside_the_artifacts_tells_it_when_no_cloud_does() -> None:
    proof = kept(NEW)
    disk = replace(proof, build=replace(proof.build, withheld=(BAD,)))
    (build,) = builds_of(plan({"north": [image(NEW)]}, disk))
    assert build.withheld == (BAD,)
    # The disk knows whose word it was; of two words the last one holds.
    (build,) = builds_of(plan({"north": [marked(NEW)]}, disk))
    assert build.withheld == (BAD,)
    later = replace(BAD, time=NOW - MINUTE / 2, why="nor a kernel")
    (build,) = builds_of(plan({"north": [marked(NEW, later)]}, disk))
    assert [word.why for word in build.withheld] == ["nor a kernel"]


def test_what_was_held_still_waits_for_somebody() -> None:
    proof, hold = kept(NEW), replace(BAD, by="imagepool", why="over budget", held=True)
    disk = replace(proof, build=replace(proof.build, withheld=(hold,)))
    steps = plan({"north": [image(OLD)]}, disk)
    assert next(build for build in builds_of(steps) if build.id == NEW.id).hold == hold
    assert ", and stays held; its " in next(s.reason for s in steps if s.build and s.build.id == NEW.id)
    due = {d.provider: d.build for d in decide_uploads(world.two_regions(), snapshot_of(steps), NOW)}
    assert NEW.id not in {build.id for build in due.values() if build}


def test_a_record_made_of_images_alone_learns_what_the_disk_knows() -> None:
    steps = plan({"north": [image(NEW)]})
    proof = kept(NEW)
    disk = replace(proof, build=replace(proof.build, withheld=(BAD,)))
    (completed,) = builds_of(plan({"north": [image(NEW)]}, disk, records=[snapshot_of(steps).image(NAME)]))
    assert completed.withheld == (BAD,)


def test_a_property_that_makes_no_sense_withholds_all_the_same() -> None:
    strange = image(NEW, properties={WITHHELD: "tomorrow perhaps"})
    (build,) = builds_of(plan({"north": [strange]}))
    assert build.withheld_from("north") is not None
    to_come = Withholding(provider=None, by="ann", time=NOW + MINUTE)
    (build,) = builds_of(plan({"north": [marked(NEW, to_come)]}))
    assert build.quarantine is not None and build.quarantine.time == NOW


def test_nodepool_takes_nothing_withheld_at_any_moment_of_a_recovery() -> None:
    """The launchers go on while records are written, and no daemon does."""
    clouds = {"north": [marked(NEW), image(OLD)], "south": [image(OLD, sent(OLD, "south"))]}
    steps = plan(clouds, kept(OLD), kept(NEW))
    assert len(uploads_of(steps)) == 3
    for done in range(1, len(steps) + 1):
        tree = records(*builds_of(steps[:done]), *uploads_of(steps[:done]))
        for to in ("north", "south"):
            taken = picked(tree.uploads_to(to))
            assert taken is None or taken.build_id == OLD.id
        again = plan(clouds, kept(OLD), kept(NEW), records=[tree])
        assert sorted(map(str, uploads_of(again))) == sorted(map(str, uploads_of(steps[done:])))
    old = next(u for u in uploads_of(steps) if (u.build_id, u.provider) == (OLD.id, "north"))
    assert old.since == sent(OLD).state_time, "it is as old as it was"


def test_what_has_the_name_is_taken_although_a_newer_one_waits_for_other_providers() -> None:
    where = config(diskimage(stable_name="newest", promote="all"), provider("north"), provider("south"))
    served = [sent(OLD, to) for to in ("north", "south")]
    named = [image(OLD, u, name="newest", properties={SERVING: u.external_id}) for u in served]
    steps = plan({"north": [image(NEW), named[0]], "south": [named[1]]}, kept(OLD), kept(NEW), where=where)
    taken = picked(u for u in uploads_of(steps) if u.provider == "north")
    assert taken is not None and taken.build_id == OLD.id


def test_an_old_image_that_was_hidden_is_on_record_again() -> None:
    hiding = config(diskimage(hide_old=True), provider("north"))
    steps = plan({"north": [image(NEW), image(OLD, hidden=True)]}, where=hiding)
    assert {u.build_id: u.hidden for u in uploads_of(steps)} == {NEW.id: False, OLD.id: True}
