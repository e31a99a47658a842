"""The promoter on fakes: the stable name is always somewhere, moves to what is good, and ends up once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from builder.cloud import transfer
from builder.cloud.base import Change
from builder.cloudimage import SERVING, WITHHELD, CloudImage, GlanceStatus
from builder.errors import CloudUnavailableError, StoreUnavailableError
from builder.model import Artifact, Clearance, FailureClass, ImageFormat, Upload, UploadState, Withholding
from builder.planning.promotion import SETTLED
from builder.planning.promotion import behind as time_behind
from builder.withheldmark import BY, from_text
from builder.workers.promoter import Promoter
from tests.fakes.cloud import FakeCloud
from tests.fakes.store import FakeStore
from tests.unit.worker_world import NOW, Stage, build, upload

NAME, TAG = "img-current", "current"


class Watched(FakeCloud):
    """Notes after each change how many images have the name."""

    def __init__(self) -> None:
        super().__init__()
        self.named: list[int] = []

    def update(self, image_id: str, change: Change) -> CloudImage:
        changed = super().update(image_id, change)
        self.named.append(len(self.called(NAME)))
        return changed

    def called(self, name: str) -> set[str]:
        """The ids of the images of that name."""
        return {image.id for image in self.images.values() if image.name == name}


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return staged(tmp_path, FakeStore())


def staged(root: Path, store: FakeStore) -> Stage:
    stage = Stage(root, store=store, clouds={"one": Watched(), "two": Watched()})
    stage.image(stable_name=NAME, stable_tag=TAG)
    return stage


def work(stage: Stage) -> Promoter:
    """A promoter that has just started, until nothing is due."""
    promoter = Promoter(stage.world, "promoter")
    did = True
    while did:
        promoter.step()
        did = promoter.drain()
    return promoter


def ready(stage: Stage, number: int, provider: str = "one") -> Upload:
    """A ready upload of a build, with its image."""
    made = build(number)
    if made.id not in {known.id for known in stage.store.list_builds("img")}:
        stage.store.put(made)
    record = upload(made, provider=provider, external_name=f"img-{number}")
    artifact = Artifact(format=ImageFormat.QCOW2, size=1, virtual_size=1, md5="m", sha256="s2", sha512="s5")
    image = transfer.new_image(
        stage.config.diskimages["img"],
        replace(stage.config.providers[provider], image_name_format=f"img-{number}"),
        record,
        artifact,
        build=made,
        installation_id=stage.store.installation_id(),
        now=stage.now,
    )
    created = stage.clouds[provider].create(image)
    stage.clouds[provider].change(created.id, status=GlanceStatus.ACTIVE)
    record = replace(record, external_id=created.id)
    stage.store.put(record)
    return record


def current(stage: Stage, of: Upload) -> Upload:
    return stage.store.get_upload(of.image, of.build_id, of.provider, of.id)


def image(stage: Stage, of: Upload) -> CloudImage:
    assert of.external_id is not None
    return stage.clouds[of.provider].images[of.external_id]


def behind(stage: Stage, of: Upload) -> Upload:
    """An upload as the uploader writes it: behind what nodepool's launcher takes."""
    records = stage.store.snapshot().image(of.image)
    others = replace(records, uploads=tuple(u for u in records.uploads if u.name != of.name))
    waiting = replace(of, state_time=time_behind(others, of, stage.now), ended=stage.now)
    stage.store.put(waiting)
    return waiting


def taken(stage: Stage, provider: str = "one") -> str:
    """The name of the upload that nodepool's launcher takes: of the ready ones the newest `state_time`."""
    uploads = stage.store.snapshot().image("img").uploads_to(provider)
    ready = [upload for upload in uploads if upload.state is UploadState.READY]
    return max(ready, key=lambda upload: upload.state_time).name


def has_sign(stage: Stage, of: Upload) -> bool:
    """Whether an image has the name and the tag; it never has one of them alone at the end."""
    found = image(stage, of)
    assert (found.name == NAME) == (TAG in found.tags) == (found.properties.get(SERVING) == found.id)
    return found.name == NAME


def test_the_first_good_image_gets_name_and_tag_and_the_record_says_since_when(stage: Stage) -> None:
    first = ready(stage, 1)
    work(stage)
    assert has_sign(stage, first) and current(stage, first).serving == NOW


def test_the_next_one_takes_over_without_a_gap_and_the_old_one_gets_its_name_back(stage: Stage) -> None:
    first = ready(stage, 1)
    work(stage)
    second = ready(stage, 2)
    work(stage)
    assert has_sign(stage, second) and not has_sign(stage, first)
    assert image(stage, first).name == "img-1"
    assert (current(stage, first).serving, current(stage, second).serving) == (None, NOW)
    cloud = stage.clouds["one"]
    assert isinstance(cloud, Watched)
    assert min(cloud.named) == 1 and cloud.named[-1] == 1  # never none, and one in the end


def test_when_all_is_done_nothing_more_is_asked_or_written(stage: Stage) -> None:
    ready(stage, 1)
    work(stage)
    calls, before = stage.clouds["one"].count("update"), stage.store.wait(-1, 0)
    work(stage)
    assert (stage.clouds["one"].count("update"), stage.store.wait(-1, 0)) == (calls, before)


def test_a_tag_alone_moves_and_names_stay(stage: Stage) -> None:
    stage.image(stable_name=None)
    first = ready(stage, 1)
    work(stage)
    second = ready(stage, 2)
    work(stage)
    assert [image(stage, each).name for each in (first, second)] == ["img-1", "img-2"]
    assert [TAG in image(stage, each).tags for each in (first, second)] == [False, True]


# -- each crash point, and the next pass of a new daemon ------------------------------------------


class Dying(FakeStore):
    """A daemon that dies right before one of its writes of an upload, counted from 1."""

    dies_at: int | None = None
    writes = 0

    def update_upload(self, upload: Upload) -> Upload:
        self.writes += 1
        if self.writes == self.dies_at:
            raise StoreUnavailableError("it died")
        return super().update_upload(upload)


@pytest.mark.parametrize("dies_at", [2, 3])
def test_a_crash_before_a_write_is_made_good(tmp_path: Path, dies_at: int) -> None:
    store = Dying()
    stage = staged(tmp_path, store)
    first = ready(stage, 1)
    work(stage)
    second = ready(stage, 2)
    store.dies_at, store.writes = dies_at, 0
    work(stage)
    assert has_sign(stage, second)  # what the cloud was told before the crash holds
    store.dies_at = None
    work(stage)
    assert has_sign(stage, second) and not has_sign(stage, first)
    assert (current(stage, first).serving, current(stage, second).serving) == (None, NOW)


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("after", [False, True])
def test_a_cloud_that_breaks_off_at_a_step_is_made_good(stage: Stage, at: int, after: bool) -> None:
    first = ready(stage, 1)
    work(stage)
    second = ready(stage, 2)
    breaking = Breaking(stage.clouds["one"], at=at, after=after)
    stage.clouds["one"] = breaking
    work(stage)
    assert len(breaking.called(NAME)) >= 1
    work(stage)
    assert has_sign(stage, second) and not has_sign(stage, first)
    assert (current(stage, first).serving, current(stage, second).serving) == (None, NOW)


class Breaking(Watched):
    """Fails once, at a change counted from 1, before it or after."""

    def __init__(self, like: FakeCloud, *, at: int, after: bool) -> None:
        super().__init__()
        self.images = like.images
        self._left, self._after = at, after

    def update(self, image_id: str, change: Change) -> CloudImage:
        self._left -= 1
        error = CloudUnavailableError("the connection broke", failure_class=FailureClass.NETWORK)
        if self._left == 0 and not self._after:
            raise error
        changed = super().update(image_id, change)
        if self._left == 0:
            raise error
        return changed


def test_what_was_promoted_without_a_record_and_superseded_since_loses_its_name(tmp_path: Path) -> None:
    store = Dying()
    stage = staged(tmp_path, store)
    first = ready(stage, 1)
    store.dies_at = 2
    work(stage)
    assert has_sign(stage, first) and current(stage, first).serving is None
    store.dies_at = None
    second = ready(stage, 2)
    work(stage)
    assert has_sign(stage, second) and not has_sign(stage, first)


# -- trouble stays where it is --------------------------------------------------------------------


def test_a_region_that_fails_delays_no_other_and_is_tried_again_later(stage: Stage) -> None:
    here, there = ready(stage, 1, "one"), ready(stage, 1, "two")
    error = CloudUnavailableError("one is down", failure_class=FailureClass.NETWORK)
    stage.clouds["one"].fail("get", error, times=1)
    promoter = work(stage)
    assert has_sign(stage, there) and not has_sign(stage, here) and promoter.failures == 1
    due = promoter.step().due
    assert due is not None and timedelta(seconds=20) < due - stage.now < timedelta(seconds=40)
    stage.now = due
    promoter.step()
    promoter.drain()
    assert has_sign(stage, here)


def test_a_cloud_that_answers_and_changes_nothing_is_not_believed(stage: Stage) -> None:
    class Lying(Watched):
        def update(self, image_id: str, change: Change) -> CloudImage:
            return self.images[image_id]

    first = ready(stage, 1)
    lying = Lying()
    lying.images = stage.clouds["one"].images
    stage.clouds["one"] = lying
    assert work(stage).failures == 1
    assert current(stage, first).serving is None


def test_an_image_that_is_not_provably_ours_gets_no_name(stage: Stage) -> None:
    first = ready(stage, 1)
    stripped: Mapping[str, str] = {"imagepool_installation": "another"}
    stage.clouds["one"].change(str(first.external_id), properties=stripped)
    assert work(stage).failures == 1
    assert image(stage, first).name == "img-1" and current(stage, first).serving is None


def test_what_a_janitor_is_at_is_left_to_it(stage: Stage) -> None:
    first = ready(stage, 1)
    claim = stage.store.another_daemon().claim_upload(first)
    assert claim is not None
    work(stage)
    assert not has_sign(stage, first)
    claim.release()
    stage.now += timedelta(seconds=2)
    work(stage)
    assert has_sign(stage, first)


def test_as_long_as_a_janitor_is_at_what_served_the_cloud_is_not_asked_again_and_again(stage: Stage) -> None:
    first = ready(stage, 1)
    work(stage)
    second = ready(stage, 2)
    claim = stage.store.another_daemon().claim_upload(first)
    assert claim is not None
    promoter = Promoter(stage.world, "promoter")
    promoter.step()
    assert not promoter.drain()
    asked, due = list(stage.clouds["one"].calls), promoter.step().due
    assert not promoter.drain() and stage.clouds["one"].calls == asked
    assert due is not None and stage.now < due <= stage.now + timedelta(seconds=1)
    assert has_sign(stage, second) and current(stage, first).serving is not None
    claim.release()
    stage.now = due
    work(stage)
    assert not has_sign(stage, first) and current(stage, first).serving is None


def test_an_upload_that_was_told_to_go_meanwhile_is_not_promoted(stage: Stage) -> None:
    first, second = ready(stage, 1), ready(stage, 2)
    before = stage.store.snapshot()
    stage.store.put(replace(second, state=UploadState.DELETING))
    promoter = Promoter(stage.world, "promoter")
    promoter.act(stage.config, before, stage.now)
    promoter.drain()
    assert not has_sign(stage, second)
    work(stage)
    assert has_sign(stage, first)


def test_what_has_a_successor_by_now_is_not_promoted(stage: Stage) -> None:
    first = ready(stage, 1)
    before = stage.store.snapshot()
    second = ready(stage, 2)
    promoter = Promoter(stage.world, "promoter")
    promoter.act(stage.config, before, stage.now)
    promoter.drain()
    assert not has_sign(stage, first) and not has_sign(stage, second)
    work(stage)
    assert has_sign(stage, second)


def test_somebody_s_snapshot_that_took_our_properties_along_keeps_its_name(stage: Stage) -> None:
    first, cloud = ready(stage, 1), stage.clouds["one"]
    copied = {**image(stage, first).properties, "base_image_ref": str(first.external_id)}
    theirs = replace(image(stage, first), id="theirs", name=NAME, properties=copied)
    cloud.images["theirs"] = theirs
    work(stage)
    assert cloud.images["theirs"] == theirs and has_sign(stage, first)


def test_where_all_regions_wait_for_each_other_none_moves_alone(stage: Stage) -> None:
    stage.image(promote="all")
    old = [ready(stage, 1, name) for name in ("one", "two")]
    work(stage)
    here = ready(stage, 2, "one")
    work(stage)
    assert [has_sign(stage, each) for each in (*old, here)] == [True, True, False]
    there = ready(stage, 2, "two")
    work(stage)
    assert [has_sign(stage, each) for each in (*old, here, there)] == [False, False, True, True]


def test_without_stable_name_and_tag_a_region_serves_in_nodepool_s_sense_alone(stage: Stage) -> None:
    stage.image(stable_name=None, stable_tag=None)
    first = ready(stage, 1)
    work(stage)
    second = behind(stage, ready(stage, 2))
    assert taken(stage) == first.name
    work(stage)
    assert taken(stage) == second.name
    assert (current(stage, first).serving, current(stage, second).serving) == (None, NOW)
    assert image(stage, second).name == "img-2"
    assert stage.clouds["one"].count("update") == 0


def test_where_builds_wait_for_a_word_the_clouds_tell_what_serves_although_it_has_no_name(
    stage: Stage,
) -> None:
    stage.image(stable_name=None, stable_tag=None, promote="manual")
    first = ready(stage, 1)
    work(stage)
    assert marks(stage, first) == ("img-1", set(), True)
    second = behind(stage, ready(stage, 2))
    work(stage)
    assert marks(stage, second) == ("img-2", set(), False)
    stage.store.clear("img", second.build_id, Clearance(provider=None, by="ann", time=stage.now, why=""))
    work(stage)
    assert [marks(stage, each) for each in (first, second)] == [
        ("img-1", set(), False),
        ("img-2", set(), True),
    ]
    assert stage.clouds["one"].count("update") == 3


# -- another name or tag --------------------------------------------------------------------------


def marks(stage: Stage, of: Upload) -> tuple[str, set[str], bool]:
    """What an image is called, its tags, and whether it has our mark."""
    found = image(stage, of)
    return found.name, set(found.tags), found.serving


def sign_on_record(stage: Stage, of: Upload) -> tuple[bool, str | None, str | None]:
    record = current(stage, of)
    return record.serving is not None, record.stable_name, record.stable_tag


def later(stage: Stage) -> None:
    stage.now += SETTLED


def test_the_record_says_which_name_and_tag_it_was_given(stage: Stage) -> None:
    first = ready(stage, 1)
    work(stage)
    assert sign_on_record(stage, first) == (True, NAME, TAG)
    second = ready(stage, 2)
    work(stage)
    assert sign_on_record(stage, first) == (False, None, None)
    assert sign_on_record(stage, second) == (True, NAME, TAG)


@pytest.mark.parametrize(
    ("name", "tag", "called", "tags"),
    [
        ("new-name", TAG, "new-name", {TAG}),
        (NAME, "new-tag", NAME, {"new-tag"}),
        ("new-name", "new-tag", "new-name", {"new-tag"}),
        (None, TAG, "img-1", {TAG}),
        (NAME, None, NAME, set()),
    ],
)
def test_a_name_or_tag_that_is_changed_moves_at_once(
    stage: Stage, name: str | None, tag: str | None, called: str, tags: set[str]
) -> None:
    first = ready(stage, 1)
    work(stage)
    later(stage)
    stage.image(stable_name=name, stable_tag=tag)
    work(stage)
    assert marks(stage, first) == (called, tags, True)
    assert sign_on_record(stage, first) == (True, name, tag)
    assert current(stage, first).serving == stage.now
    second = ready(stage, 2)
    work(stage)
    assert marks(stage, first) == ("img-1", set(), False)
    assert marks(stage, second) == (called.replace("img-1", "img-2"), tags, True)


def test_a_name_that_changes_together_with_the_build_is_taken_from_the_old_image(stage: Stage) -> None:
    first = ready(stage, 1)
    work(stage)
    stage.image(stable_name="new-name", stable_tag="new-tag")
    second = ready(stage, 2)
    work(stage)
    assert marks(stage, first) == ("img-1", set(), False)
    assert marks(stage, second) == ("new-name", {"new-tag"}, True)


def test_the_new_tag_is_there_before_the_old_one_goes(stage: Stage) -> None:
    first, cloud = ready(stage, 1), stage.clouds["one"]
    work(stage)
    later(stage)
    stage.image(stable_tag="new-tag")
    cloud.fail("update", CloudUnavailableError("broke", failure_class=FailureClass.NETWORK), after=True)
    work(stage)
    assert sign_on_record(stage, first) == (True, NAME, TAG)  # it is not known whether that worked
    stage.now += timedelta(minutes=5)
    work(stage)
    assert marks(stage, first) == (NAME, {"new-tag"}, True)
    assert sign_on_record(stage, first) == (True, NAME, "new-tag")


def test_a_record_of_before_that_says_nothing_is_just_written_when_all_is_right(stage: Stage) -> None:
    first = ready(stage, 1)
    work(stage)
    stage.store.update_upload(replace(current(stage, first), stable_name=None, stable_tag=None))
    later(stage)
    updates = stage.clouds["one"].count("update")
    work(stage)
    assert sign_on_record(stage, first) == (True, NAME, TAG) and current(stage, first).serving == NOW
    assert stage.clouds["one"].count("update") == updates


def test_what_is_configured_no_more_is_given_back(stage: Stage) -> None:
    first = ready(stage, 1)
    work(stage)
    later(stage)
    stage.image(stable_name=None, stable_tag=None)
    work(stage)
    assert marks(stage, first) == ("img-1", set(), False)
    assert sign_on_record(stage, first) == (True, None, None)  # it serves as before, in nodepool's sense


def test_a_promoter_does_not_take_away_what_a_janitor_is_at(stage: Stage) -> None:
    first, elsewhere = ready(stage, 1), ready(stage, 1, "two")
    work(stage)
    later(stage)
    stage.image(stable_name=None, stable_tag=None)
    claim = stage.store.another_daemon().claim_upload(first)
    assert claim is not None
    work(stage)
    assert marks(stage, first) == (NAME, {TAG}, True)
    assert marks(stage, elsewhere) == ("img-1", set(), False)
    claim.release()
    stage.now += timedelta(seconds=2)
    work(stage)
    assert marks(stage, first) == ("img-1", set(), False)


def test_what_has_an_old_name_without_a_record_loses_it(tmp_path: Path) -> None:
    """Else it would count as a copy of ours, which nobody removes."""
    store = Dying()
    stage = staged(tmp_path, store)
    first = ready(stage, 1)
    store.dies_at = 2
    work(stage)
    assert has_sign(stage, first) and current(stage, first).serving is None
    store.dies_at = None
    stage.image(stable_name="new-name")
    second = ready(stage, 2)
    work(stage)
    assert marks(stage, second) == ("new-name", {TAG}, True)
    assert marks(stage, first) == ("img-1", set(), False)


def test_what_has_an_old_tag_without_a_record_loses_it_with_the_one_on_record(tmp_path: Path) -> None:
    store = Dying()
    stage = staged(tmp_path, store)
    first = ready(stage, 1)
    work(stage)
    second = ready(stage, 2)
    store.dies_at, store.writes = 2, 0
    work(stage)
    assert has_sign(stage, first) and has_sign(stage, second)
    assert current(stage, second).serving is None
    store.dies_at = None
    stage.image(stable_tag="new-tag")
    third = ready(stage, 3)
    work(stage)
    assert marks(stage, third) == (NAME, {"new-tag"}, True)
    assert [marks(stage, each)[1:] for each in (first, second)] == [(set(), False)] * 2


# -- history --------------------------------------------------------------------------------------


def served(stage: Stage) -> list[tuple[str, bool]]:
    """The uploads that served, the last one first, and whether their turns are over."""
    turns = stage.store.history("img").get("one", ())
    return [(turn.upload, turn.until is not None) for turn in turns]


def test_the_history_says_who_served_and_why(stage: Stage) -> None:
    first = ready(stage, 1)
    work(stage)
    stage.now += timedelta(days=1)
    second = ready(stage, 2)
    work(stage)
    word = Withholding(provider=None, by="ann", time=stage.now, why="no network")
    stage.now += timedelta(hours=1)
    stage.store.withhold("img", second.build_id, word)
    work(stage)
    assert served(stage) == [(first.name, False), (second.name, True), (first.name, True)]
    again, bad, _ = stage.store.history("img")["one"]
    assert (again.by, bad.by) == ("ann", "imagepool")
    assert "no network" in again.why and "no network" in bad.ended_why
    assert (bad.since, bad.until) == (NOW + timedelta(days=1), stage.now)


def test_another_name_is_no_other_turn(stage: Stage) -> None:
    first = ready(stage, 1)
    work(stage)
    later(stage)
    stage.image(stable_name="new-name")
    work(stage)
    assert served(stage) == [(first.name, False)]


def test_what_served_before_there_was_a_history_is_the_first_in_it(stage: Stage) -> None:
    first = ready(stage, 1)
    work(stage)
    stage.store.forget_history("img")
    second = ready(stage, 2)
    work(stage)
    assert served(stage) == [(second.name, False), (first.name, True)]
    assert stage.store.history("img")["one"][1].since == NOW


# -- nodepool's sense -------------------------------------------------------------------------------


@pytest.mark.parametrize("promote", ["all", 2])
def test_what_waits_is_not_taken_by_nodepool_either(stage: Stage, promote: str | int) -> None:
    stage.image(promote=promote, stable_name=None, stable_tag=None)
    old = [ready(stage, 1, name) for name in ("one", "two")]
    work(stage)
    here = behind(stage, ready(stage, 2, "one"))
    work(stage)
    assert taken(stage, "one") == old[0].name
    there = behind(stage, ready(stage, 2, "two"))
    work(stage)
    assert [taken(stage, name) for name in ("one", "two")] == [here.name, there.name]


def test_what_another_tool_brings_to_the_front_is_put_back(stage: Stage) -> None:
    first, second = ready(stage, 1), ready(stage, 2)
    work(stage)
    stage.store.withhold("img", second.build_id, Withholding(provider="one", by="ann", time=NOW))
    work(stage)
    assert taken(stage) == first.name
    known, ended = current(stage, second), current(stage, second).since
    stage.store.update_upload(known.renewed(stage.now + timedelta(days=2)))  # by a clock that is ahead
    work(stage)
    assert taken(stage) == first.name
    assert (current(stage, first).since, current(stage, second).since) == (first.since, ended)


def test_what_is_no_longer_in_the_cloud_does_not_begin_to_serve(stage: Stage) -> None:
    stage.image(stable_name=None, stable_tag=None)
    first, second = ready(stage, 1), ready(stage, 2)
    work(stage)
    del stage.clouds["one"].images[str(first.external_id)]
    stage.store.withhold("img", second.build_id, Withholding(provider=None, by="ann", time=NOW))
    promoter = work(stage)
    assert promoter.failures == 1
    assert taken(stage) == second.name and current(stage, second).serving is not None


# -- what is old is hidden, and what is withheld says so ----------------------------------------------


def hidden(stage: Stage, *of: Upload) -> list[bool]:
    """Which images are hidden; the records say the same."""
    found = [image(stage, each).hidden for each in of]
    assert [current(stage, each).hidden for each in of] == found
    return found


def test_old_images_are_hidden_if_asked_and_shown_when_they_serve_again(stage: Stage) -> None:
    first = ready(stage, 1)
    work(stage)
    second = ready(stage, 2)
    work(stage)
    assert hidden(stage, first, second) == [False, False]
    stage.image(hide_old=True)
    work(stage)
    assert hidden(stage, first, second) == [True, False]
    stage.store.withhold("img", second.build_id, Withholding(provider=None, by="ann", time=NOW))
    work(stage)
    assert has_sign(stage, first) and hidden(stage, first, second) == [False, True]


def test_what_waits_for_other_regions_is_not_hidden(stage: Stage) -> None:
    stage.image(hide_old=True, promote="all")
    old = [ready(stage, 1, name) for name in ("one", "two")]
    work(stage)
    waiting = ready(stage, 2, "one")
    work(stage)
    assert hidden(stage, *old, waiting) == [False, False, False]


def test_an_image_says_that_its_build_is_withheld_until_it_is_not(stage: Stage) -> None:
    here, there = ready(stage, 1, "one"), ready(stage, 1, "two")
    work(stage)
    word = Withholding(provider="one", by="ann", time=NOW, why="no network")
    stage.store.withhold("img", here.build_id, word)
    work(stage)
    said = [image(stage, each).properties.get(WITHHELD, "") for each in (here, there)]
    assert from_text(said[0], "one") == replace(word, by=BY) and said[1] == ""
    assert [current(stage, each).withheld for each in (here, there)] == [NOW, None]
    assert has_sign(stage, here)  # there is no other one
    stage.store.release("img", here.build_id, None)
    work(stage)
    assert not image(stage, here).properties[WITHHELD] and current(stage, here).withheld is None


def test_a_region_that_can_not_be_asked_delays_no_other_rollback(stage: Stage) -> None:
    old = [ready(stage, 1, name) for name in ("one", "two")]
    work(stage)
    new = [ready(stage, 2, name) for name in ("one", "two")]
    work(stage)
    error = CloudUnavailableError("one is down", failure_class=FailureClass.NETWORK)
    stage.clouds["one"].fail("get", error, times=None)
    stage.store.withhold("img", new[0].build_id, Withholding(provider=None, by="ann", time=NOW))
    work(stage)
    assert has_sign(stage, old[1]) and has_sign(stage, new[0])
    stage.clouds["one"].heal()
    stage.now += timedelta(minutes=1)
    work(stage)
    assert has_sign(stage, old[0]) and not has_sign(stage, new[0])
