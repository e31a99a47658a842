"""Paths are nodepool's, and what a path means is read back from it."""

from __future__ import annotations

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.model import name_problem
from builder.store import paths
from builder.store.paths import Kind, Place, place

ID = "0123456789abcdef0123456789abcdef"
IMAGE = "/nodepool/images/debian-12"
UPLOADS = f"{IMAGE}/builds/{ID}/providers/cloud.one/images"


def test_paths_are_nodepools() -> None:
    names = ("debian-12", ID, "cloud.one")
    assert paths.image("debian-12") == IMAGE
    assert paths.pause("debian-12") == f"{IMAGE}/pause"
    assert paths.request("debian-12") == f"{IMAGE}/request-build"
    assert paths.cancellation("debian-12") == f"{IMAGE}/cancel-build"
    assert paths.image_lock("debian-12") == f"{IMAGE}/builds/lock"
    assert paths.build("debian-12", ID) == f"{IMAGE}/builds/{ID}"
    assert paths.build("debian-12", "0000000042") == f"{IMAGE}/builds/0000000042"
    assert paths.build_lock("debian-12", ID) == f"{IMAGE}/builds/{ID}/lock"
    assert paths.uploads(*names) == UPLOADS
    assert paths.uploads_lock(*names) == f"{UPLOADS}/lock"
    assert paths.upload(*names, "0000000001") == f"{UPLOADS}/0000000001"
    assert paths.upload_lock(*names, "0000000001") == f"{UPLOADS}/0000000001/lock"
    assert paths.component("nb01.example") == "/nodepool/components/builder/nb01.example"
    assert paths.daemon("nb01.example") == "/imagepool/daemons/nb01.example-"


def test_what_is_ours_alone_is_out_of_its_readers_way() -> None:
    # Right below an image, and no deeper.
    assert paths.upload_cancellations("debian-12") == f"{IMAGE}/cancel-uploads"
    assert paths.share("cloud.one", 2) == "/imagepool/shares/cloud.one/2"
    assert paths.gone(ID) == f"/imagepool/gone/{ID}"
    assert paths.strays("cloud.one") == "/imagepool/strays/cloud.one"
    assert paths.stray("cloud.one", "e5-f5") == "/imagepool/strays/cloud.one/e5-f5"
    assert paths.ticks("debian-12") == "/imagepool/schedule/debian-12"
    assert paths.paused_provider("cloud.one") == "/imagepool/paused-providers/cloud.one"
    assert paths.forgotten("5f0c-1") == "/imagepool/forgotten/5f0c-1"


def test_an_upload_is_found_by_its_name() -> None:
    assert paths.upload_named("debian-12", f"{ID}/cloud.one/0000000001") == f"{UPLOADS}/0000000001"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/nodepool/images", Kind.ROOT),
        (IMAGE, Kind.IMAGE),
        (f"{IMAGE}/pause", Kind.PAUSE),
        (f"{IMAGE}/request-build", Kind.REQUEST),
        (f"{IMAGE}/cancel-build", Kind.CANCELLATION),
        (f"{IMAGE}/cancel-uploads", Kind.UPLOAD_CANCELLATIONS),
        (f"{IMAGE}/builds", Kind.PARENT),
        (f"{IMAGE}/builds/lock", Kind.PARENT),
        (f"{IMAGE}/builds/lock/x__lock__0000000001", Kind.IMAGE_CONTENDER),
        (f"{IMAGE}/builds/{ID}", Kind.BUILD),
        (f"{IMAGE}/builds/{ID}/providers/cloud.one", Kind.PARENT),
        (f"{UPLOADS}/lock", Kind.PARENT),
        (f"{UPLOADS}/lock/x__lock__0000000001", Kind.UPLOADS_CONTENDER),
        (f"{UPLOADS}/0000000001", Kind.UPLOAD),
        ("/imagepool", Kind.ROOT),
        ("/imagepool/installation", Kind.INSTALLATION),
        ("/imagepool/daemons", Kind.PARENT),
        ("/imagepool/daemons/nb01.example-0000000001", Kind.DAEMON),
        ("/imagepool/lead", Kind.PARENT),
        ("/imagepool/lead/x__lock__0000000001", Kind.CANDIDATE),
        ("/imagepool/schedule/debian-12", Kind.TICKS),
        ("/imagepool/frozen", Kind.FROZEN),
        ("/imagepool/paused-providers/cloud.one", Kind.PAUSED_PROVIDER),
        ("/imagepool/forgotten/5f0c-1", Kind.FORGOTTEN),
    ],
)
def test_a_path_tells_what_its_node_is(path: str, kind: Kind) -> None:
    found = place(path)
    assert found is not None
    assert found.kind is kind


def test_a_path_tells_whose_its_node_is() -> None:
    assert place(f"{UPLOADS}/0000000001") == Place(
        kind=Kind.UPLOAD, image="debian-12", build_id=ID, provider="cloud.one", upload_id="0000000001"
    )


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/nodepool",
        "/nodepool/imagesx/debian",
        "/nodepool/nodes/1",
        "/nodepool/images/a b",
        "/imagepool/installation/deeper",
        "/imagepool/shares/cloud.one/0",
        "/imagepool/gone/x",
        "/imagepool/frozen/deeper",
        "/imagepool/schedule/a b",
        "/imagepool/paused-providers/-x",
        "/imagepool/lead/stray",
        "/imagepool/lead/0000000000",
        f"{IMAGE}/other",
        f"{IMAGE}/cancel-uploads/deeper",
        f"/imagepool/gone/{ID}",
        f"{IMAGE}/builds/not-a-build",
        f"{IMAGE}/builds/{ID}/lock",
        f"{IMAGE}/builds/{ID}/lock/x__lock__0000000001",
        f"{UPLOADS}/1",
        f"{UPLOADS}/0000000001/lock",
    ],
)
def test_other_nodes_say_nothing(path: str) -> None:
    assert place(path) is None


@given(st.text(max_size=200))
def test_only_a_good_name_gets_a_path(name: str) -> None:
    if name_problem(name) is None:
        assert paths.image(name) == f"/nodepool/images/{name}"
        return
    for path in (paths.image, paths.pause, paths.request, paths.cancellation, paths.builds, paths.daemon):
        with pytest.raises(ValueError):
            path(name)
    for path in (paths.upload_cancellations, paths.strays, lambda name: paths.share(name, 0)):
        with pytest.raises(ValueError):
            path(name)
    with pytest.raises(ValueError):
        paths.provider("debian", ID, name)


@given(st.text(max_size=200))
def test_no_id_of_a_cloud_leads_out_of_its_provider(external_id: str) -> None:
    try:
        path = paths.stray("cloud-one", external_id)
    except ValueError:
        return
    assert posixpath.normpath(path) == path
    assert posixpath.split(path) == ("/imagepool/strays/cloud-one", external_id)


@pytest.mark.parametrize("bad", ["", ".", "..", "../x", "a/b", "/", "e5\x00", "\u00fc", " ", "x" * 129])
def test_an_id_that_no_cloud_gives_gets_no_path(bad: str) -> None:
    with pytest.raises(ValueError):
        paths.stray("cloud-one", bad)


@pytest.mark.parametrize("bad", ["", "lock", "../x", ID.upper(), ID[:-1], "00000000001", f"{ID}\n"])
def test_only_ids_of_the_right_form_get_a_path(bad: str) -> None:
    with pytest.raises(ValueError):
        paths.build("debian", bad)
    with pytest.raises(ValueError):
        paths.upload("debian", ID, "cloud-one", bad)
    for path in (paths.gone, paths.checked_installation):
        with pytest.raises(ValueError):
            path(bad)
    for name in (
        bad,
        f"{bad}/cloud-one/0000000001",
        f"{ID}/cloud-one/{bad}",
        f"{ID}/../0000000001",
        f"{ID}/x",
    ):
        with pytest.raises(ValueError):
            paths.upload_named("debian", name)
