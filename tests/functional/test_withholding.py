"""Bad images are taken back and stay away: with the real daemon, ZooKeeper and commands, in scripted clouds.

What a region serves is asked of all who say it: the records, the cloud, the history, and nodepool's own way
of choosing, read from the tree as its launcher reads it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from builder.cloudimage import BUILD_ID, SERVING, WITHHELD
from builder.dib.output import withheld
from builder.model import Build, Snapshot, UploadState, Withholding, is_build_id
from builder.store import paths
from tests.fakes.glance import FakeGlance, Fault, answers, hangs
from tests.functional.installation import Installation, raw_session, wait_until

NAME, TAG = "img-current", "current"
REGIONS = {"one": "RegionOne", "two": "RegionTwo"}
#: The requests of one move in one region that change something there: the heir is shown, gets name and mark,
#: and the tag; the other loses name and mark, and the tag, and is hidden; one is told what is withheld.
CHANGES = [*(("change", number) for number in range(5)), *(("tag", number) for number in range(2))]


@pytest.fixture
def named(place: Installation) -> Installation:
    """One whose image has a stable name and tag, and whose old images are hidden."""
    place.image.update({"stable-name": NAME, "stable-tag": TAG, "hide-old": True})
    place.write()
    return place


def built_twice(place: Installation) -> tuple[Build, Build]:
    """Two builds, the first of which every region has served, and the second does."""
    place.start()
    first = place.ready_build()
    place.until(lambda _: serves(place, first))
    assert place.cli("image", "build", "img", "--wait").returncode == 0, place.story()
    second = place.ready_build(after=first.id)
    place.until(lambda _: serves(place, second))
    return first, second


def picked(place: Installation, provider: str) -> str | None:
    """The cloud image that nodepool's launcher takes: of the ready ones that with the newest state_time."""
    found: list[tuple[float, str]] = []
    with raw_session(place.zookeeper) as client:
        for build_id in filter(is_build_id, client.get_children(paths.builds("img"))):
            parent = paths.uploads("img", build_id, provider)
            names = client.get_children(parent) if client.exists(parent) else []
            for name in filter(str.isdecimal, names):
                record = json.loads(client.get(f"{parent}/{name}")[0] or b"{}")
                if record.get("state") == "ready":
                    found.append((record["state_time"], record["external_id"]))
    return max(found)[1] if found else None


def serves(place: Installation, build: Build, providers: tuple[str, ...] = ("one", "two")) -> bool:
    """Whether records, clouds, history and nodepool agree that these regions serve a build."""
    return all(_serves(place, build, provider) for provider in providers)


def _serves(place: Installation, build: Build, provider: str) -> bool:
    uploads = place.snapshot().image("img").uploads_to(provider)
    serving = [upload for upload in uploads if upload.serving is not None]
    if [upload.build_id for upload in serving] != [build.id]:
        return False
    (upload,) = serving
    turns = place.store.history("img").get(provider, ())
    return (
        [turn.upload for turn in turns if turn.until is None] == [upload.name]
        and _cloud_agrees(place, provider, str(upload.external_id))
        and picked(place, provider) == upload.external_id
    )


def _cloud_agrees(place: Installation, provider: str, external_id: str) -> bool:
    if "stable-name" not in place.image:
        return True
    images = place.glance.images(REGIONS[provider])
    signs = {
        "name": [i["id"] for i in images if i["name"] == NAME],
        "tag": [i["id"] for i in images if TAG in i["tags"]],
        "mark": [i["id"] for i in images if i.get(SERVING) == i["id"]],
        "shown": [i["id"] for i in images if not i["os_hidden"]],
    }
    return all(found == [external_id] for found in signs.values())


def told(place: Installation, provider: str) -> set[str]:
    """The builds of which images in a region say that they are withheld."""
    return {i[BUILD_ID] for i in place.glance.images(REGIONS[provider]) if i.get(WITHHELD)}


def beside(place: Installation, build: Build) -> bool:
    """Whether it is written beside a build's files that it is withheld."""
    return (place.root / "state" / "images" / f"img-{build.id}.d" / withheld.NAME).exists()


def done(place: Installation, *arguments: str) -> str:
    """What a command says; it must end well."""
    ended = place.cli(*arguments)
    assert ended.returncode == 0, ended.stdout + ended.stderr + place.story()
    return ended.stdout + ended.stderr


# -- going back, and forward again ------------------------------------------------------------------


@pytest.mark.parametrize("plain", [False, True], ids=["named", "plain"])
def test_every_region_goes_back_and_the_bad_build_stays_away_until_somebody_releases_it(
    place: Installation, plain: bool
) -> None:
    if not plain:
        place.image.update({"stable-name": NAME, "stable-tag": TAG, "hide-old": True})
        place.write()
    first, second = built_twice(place)
    done(place, "image", "rollback", "img", "--reason", "no network")
    assert serves(place, first)  # it waits until they do
    place.until(lambda _: told(place, "one") == told(place, "two") == {second.id})
    wait_until(lambda: beside(place, second), place.story)
    (word,) = place.snapshot().image("img").builds[0].withheld
    assert (word.provider, word.why) == (None, "no network")
    turns = place.store.history("img")["one"]
    assert [turn.build_id for turn in turns] == [first.id, second.id, first.id]
    assert turns[0].by == word.by and "no network" in turns[0].why

    # It is uploaded no more, and the next build takes over; then there is a good one after the bad one.
    place.start("--once").wait()
    assert serves(place, first)
    done(place, "image", "build", "img", "--wait")
    third = place.ready_build(after=second.id)
    place.until(lambda _: serves(place, third))
    place.until(lambda s: s.image("img").build(first.id) is not None)

    done(place, "build", "unquarantine", second.id)
    place.until(lambda _: not told(place, "one") | told(place, "two"))
    wait_until(lambda: not beside(place, second), place.story)
    assert serves(place, third)


def test_one_region_alone_goes_back_and_forward_again(named: Installation) -> None:
    first, second = built_twice(named)
    done(named, "build", "quarantine", second.id, "--provider", "two", "--reason", "no disk there")
    assert serves(named, first, ("two",)) and serves(named, second, ("one",))
    named.until(lambda _: (told(named, "one"), told(named, "two")) == (set(), {second.id}))
    done(named, "build", "unquarantine", second.id)
    assert serves(named, second)


def test_a_region_that_has_nothing_else_goes_on_serving_what_is_withheld(
    named: Installation, glance: FakeGlance
) -> None:
    glance.faults.append(answers(503, on="create", region="RegionTwo", times=None))
    named.start()
    first = named.ready_build()
    named.until(lambda _: serves(named, first, ("one",)))
    done(named, "build", "quarantine", first.id, "--no-wait")
    named.until(lambda _: told(named, "one") == {first.id})
    assert serves(named, first, ("one",))
    # Where it is not, it does not go.
    glance.faults.clear()
    done(named, "image", "build", "img", "--wait")
    second = named.ready_build(after=first.id)
    named.until(lambda _: serves(named, second))
    assert {u.build_id for u in named.snapshot().image("img").uploads_to("two") if u.external_id} == {
        second.id
    }


# -- nodepool's sense -------------------------------------------------------------------------------


def test_what_waits_for_other_regions_is_not_taken_by_nodepool(
    place: Installation, glance: FakeGlance
) -> None:
    place.image["promote"] = "all"
    place.write()
    place.start()
    first = place.ready_build()
    place.until(lambda _: serves(place, first))
    before = picked(place, "one")
    glance.faults.append(hangs(on="create", region="RegionTwo", times=None))
    assert place.cli("image", "build", "img").returncode == 0
    second = place.ready_build(after=first.id)
    seen: set[str | None] = set()

    def waits(snapshot: Snapshot) -> bool:
        seen.add(picked(place, "one"))
        uploads = snapshot.image("img").uploads_of(second.id, "one")
        return any(upload.state is UploadState.READY for upload in uploads)

    place.until(waits)
    seen.add(picked(place, "one"))
    assert seen == {before}
    glance.faults.clear()
    glance.released.set()
    place.until(lambda _: serves(place, second))


# -- crashes ------------------------------------------------------------------------------------------


def test_killed_at_any_change_of_who_serves_the_next_life_makes_all_agree(
    named: Installation, glance: FakeGlance
) -> None:
    named.settings["zookeeper-timeout"] = 2  # so long what a dead daemon claimed stays claimed
    named.write()
    first, second = built_twice(named)
    for turn, (request_, number) in enumerate(CHANGES):
        goes_back = turn % 2 == 0
        harmless = Fault(on=request_, do="change", region="RegionOne", times=number)
        dead = hangs(on=request_, region="RegionOne")
        glance.faults.extend([harmless, dead])
        if goes_back:
            word = Withholding(provider=None, by="ann", time=datetime.now(UTC), why="no network")
            named.store.withhold("img", second.id, word)
        else:
            named.store.release("img", second.id, None)
        wait_until(partial(hit, dead), named.story)
        named.daemons[-1].kill()
        assert nobody_is_without(named, glance), (request_, number)
        named.start()
        heir, withheld_ones = (first, {second.id}) if goes_back else (second, set())
        agree(named, heir, withheld_ones)


def hit(fault: Fault) -> bool:
    """Whether somebody has run into it."""
    return fault.times == 0


def agree(place: Installation, heir: Build, withheld_ones: set[str]) -> None:
    """Wait until everybody says that this one serves, and those are withheld."""
    place.until(lambda _: serves(place, heir))
    place.until(lambda _: told(place, "one") == told(place, "two") == withheld_ones)


def nobody_is_without(place: Installation, glance: FakeGlance) -> bool:
    """Whether whoever boots by name, tag or nodepool's choice finds an image in each region."""
    for provider, region in REGIONS.items():
        images = {image["id"]: image for image in glance.images(region)}
        shown = [image for image in images.values() if not image["os_hidden"]]
        by_name = [image for image in shown if image["name"] == NAME]
        by_tag = [image for image in shown if TAG in image["tags"]]
        if not by_name or not by_tag or picked(place, provider) not in images:
            return False
    return True


# -- without ZooKeeper --------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["clouds", "disk"])
def test_a_quarantine_outlives_the_loss_of_all_records(
    named: Installation, glance: FakeGlance, where: str
) -> None:
    first, second = built_twice(named)
    done(named, "image", "rollback", "img", "--reason", "no network")
    agree(named, first, {second.id})
    wait_until(lambda: beside(named, second), named.story)
    assert named.daemons[-1].stop() == 0
    named.lose_records()
    forget(named, glance, second)["disk" if where == "clouds" else "clouds"]()
    done(named, "recover", "--yes")
    known = named.snapshot().image("img").build(second.id)
    assert known is not None and known.quarantine is not None and known.quarantine.why == "no network"
    named.start()
    agree(named, first, {second.id})
    wait_until(lambda: beside(named, second), named.story)


def forget(place: Installation, glance: FakeGlance, build: Build) -> dict[str, Callable[[], Any]]:
    """How a place forgets that a build is withheld."""
    file = place.root / "state" / "images" / f"img-{build.id}.d" / withheld.NAME

    def clouds() -> None:
        for image in glance.images():
            glance.change(image["id"], **{WITHHELD: ""})

    return {"disk": file.unlink, "clouds": clouds}
