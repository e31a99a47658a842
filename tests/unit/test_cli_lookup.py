"""Builds and uploads are found by as little of their names as tells them apart."""

from __future__ import annotations

import pytest

from builder.cli import lookup
from builder.errors import NotFoundError
from builder.model import Build, BuildState, Snapshot, Upload, UploadState
from tests.unit.planning_world import NOW, records, snapshot

ONE, TWO, OLD = "5b1e" + "0" * 28, "5b2f" + "0" * 28, "0000000042"


def build(build_id: str, image: str = "debian") -> Build:
    return Build(id=build_id, image=image, state=BuildState.READY, state_time=NOW)


def upload(build_id: str, provider: str, number: int) -> Upload:
    return Upload(
        id=f"{number:010}",
        build_id=build_id,
        image="debian",
        provider=provider,
        state=UploadState.READY,
        state_time=NOW,
    )


WORLD: Snapshot = snapshot(
    records(
        build(ONE),
        build(TWO),
        upload(ONE, "north", 1),
        upload(ONE, "north", 2),
        upload(ONE, "north-2", 1),
        upload(TWO, "south", 10),
        name="debian",
    ),
    records(build(OLD, "centos-9"), name="centos-9"),
)


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (ONE, ONE),
        ("5b1", ONE),
        ("5b2f0", TWO),
        (f"debian-{ONE}", ONE),
        ("debian-5b1e", ONE),
        (OLD, OLD),
        (f"centos-9-{OLD}", OLD),
    ],
)
def test_a_build_is_found_by_what_tells_it_apart(typed: str, found: str) -> None:
    assert lookup.build(WORLD, typed).id == found


@pytest.mark.parametrize(
    "typed", ["", "x", "5b1f", "debian", "debian-", "../5b1e", f"centos-9-{ONE}", "5b1e "]
)
def test_no_other_build_is_taken_for_it(typed: str) -> None:
    with pytest.raises(NotFoundError, match="there is no build"):
        lookup.build(WORLD, typed)


def test_an_ambiguous_build_lists_what_it_fits() -> None:
    with pytest.raises(NotFoundError, match="fits 2 builds") as caught:
        lookup.build(WORLD, "5b")
    assert ONE in caught.value.message and TWO in caught.value.message


def test_a_whole_id_wins_over_longer_ones_that_begin_with_it() -> None:
    longer = build(OLD + "a" * 22)
    world = snapshot(records(build(OLD), longer, name="debian"))
    assert lookup.build(world, OLD).id == OLD


def test_many_candidates_are_not_all_listed() -> None:
    world = snapshot(records(*(build(f"{n:032x}") for n in range(30)), name="debian"))
    with pytest.raises(NotFoundError, match="and 20 more"):
        lookup.build(world, "0")


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (f"{ONE}/north/0000000001", (ONE, "north", "0000000001")),
        ("5b1e/north/2", (ONE, "north", "0000000002")),
        ("5b1e/north-2", (ONE, "north-2", "0000000001")),
        ("5b1e/north-", (ONE, "north-2", "0000000001")),
        ("5b2", (TWO, "south", "0000000010")),
        ("5b2/", (TWO, "south", "0000000010")),
        ("debian-5b2/s/10", (TWO, "south", "0000000010")),
    ],
)
def test_an_upload_is_found_by_what_tells_it_apart(typed: str, found: tuple[str, str, str]) -> None:
    upload = lookup.upload(WORLD, typed)
    assert (upload.build_id, upload.provider, upload.id) == found


@pytest.mark.parametrize(
    "typed", ["", "/", "/north", "5b1e/east", "5b2/south/1", "5b2/south/10/x", "0000000001"]
)
def test_no_other_upload_is_taken_for_it(typed: str) -> None:
    with pytest.raises(NotFoundError, match="there is no upload"):
        lookup.upload(WORLD, typed)


def test_of_several_tries_the_last_can_be_meant() -> None:
    assert lookup.upload(WORLD, "5b1e/north", newest=True).id == "0000000002"
    with pytest.raises(NotFoundError, match="fits"):
        lookup.upload(WORLD, "5b1e", newest=True)


@pytest.mark.parametrize("typed", ["5b", "5b1e", "5b1e/north"])
def test_an_ambiguous_upload_lists_what_it_fits(typed: str) -> None:
    with pytest.raises(NotFoundError, match=f"fits .* uploads: .*{ONE}/north/0000000002"):
        lookup.upload(WORLD, typed)


def test_images_are_known_by_their_whole_name_from_file_or_store() -> None:
    assert lookup.image_name(WORLD, ["fedora"], "fedora") == "fedora"
    assert lookup.image_name(WORLD, ["fedora"], "debian") == "debian"
    for name in ("deb", "", "../debian", "a/b", "x" * 300):
        with pytest.raises(NotFoundError):
            lookup.image_name(WORLD, ["fedora"], name)


def test_every_record_is_found_by_the_name_that_is_listed() -> None:
    for record in WORLD.uploads():
        assert lookup.upload(WORLD, record.name) == record
    for record in WORLD.builds():
        assert lookup.build(WORLD, record.id) == record
