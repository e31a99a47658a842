"""A Snapshot is put together piece by piece as it would be all at once."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.model import Snapshot
from builder.store import paths
from builder.store.view import View
from tests.contract.records import NOON, a_build, a_cancellation, a_daemon, a_pause, a_request, an_upload

BUILDS = [a_build(image, id=f"{number}" * 32, minutes=number) for number, image in enumerate(["a", "a", "b"])]
UPLOADS = [
    an_upload(build, provider, id=f"000000000{number}", started=NOON + timedelta(seconds=number))
    for build in BUILDS
    for number, provider in enumerate(["north", "south", "north"])
]
#: What may stand at which path; None: the node says nothing.
NODES: dict[str, list[Any]] = {
    **{paths.image(name): [None] for name in ("a", "b")},
    **{paths.build(b.image, b.id): [None, b, replace(b, phase="packages")] for b in BUILDS},
    **{
        paths.upload(u.image, u.build_id, u.provider, u.id): [None, u, replace(u, sent=7, version=3)]
        for u in UPLOADS
    },
    paths.pause("a"): [a_pause(), a_pause(why="")],
    paths.request("a"): [a_request("a"), a_request("a", by="bob")],
    paths.cancellation("b"): [None, a_cancellation(BUILDS[2])],
    paths.ticks("a"): [{"noon": NOON}, {}],
    paths.ticks("c"): [{"noon": NOON}],
    f"{paths.image_lock('a')}/x__lock__0000000001": [None],
    f"{paths.image_lock('a')}/x__lock__0000000002": [None],
    f"{paths.uploads_lock('b', BUILDS[2].id, 'north')}/x__lock__0000000001": [None],
    paths.INSTALLATION: ["5f0c", "0d0e"],
    paths.FROZEN: [a_pause(), a_pause(why="")],
    paths.paused_provider("north"): [a_pause()],
    paths.paused_provider("south"): [a_pause()],
    paths.forgotten("5f0c"): [a_pause()],
    **{
        f"{paths.daemon('nb01')}000000000{number}": [a_daemon("nb01"), a_daemon("nb01", unfit="x"), None]
        for number in (1, 2)
    },
    f"{paths.LEAD}/y__lock__0000000004": ["nb02", None],
    f"{paths.LEAD}/x__lock__0000000003": ["nb01"],
}
steps = st.lists(st.tuples(st.sampled_from(sorted(NODES)), st.integers(0, 3)), max_size=40)


def put(view: View, path: str, record: Any = None) -> bool:
    place = paths.place(path)
    assert place is not None
    return view.put(path, place, record)


def drop(view: View, path: str) -> bool:
    place = paths.place(path)
    assert place is not None
    return view.drop(path, place)


def said(snapshot: Snapshot) -> dict[str, Any]:
    """All of it in a form that compares whole, versions too."""
    versions = [record.version for record in (*snapshot.builds(), *snapshot.uploads())]
    requests = [records.request and records.request.urgent for records in snapshot.images.values()]
    return {"snapshot": snapshot, "names": list(snapshot.images), "more": (versions, requests)}


@given(steps)
def test_step_by_step_it_is_what_it_is_all_at_once(taken: list[tuple[str, int]]) -> None:
    view = View()
    there: dict[str, Any] = {}
    for path, choice in taken:
        before = view.snapshot()
        if choice < len(NODES[path]):
            there[path] = NODES[path][choice]
            shown = put(view, path, there[path])
        else:
            there.pop(path, None)
            shown = drop(view, path)
        at_once = View()
        for known, record in there.items():
            put(at_once, known, record)
        assert said(view.snapshot()) == said(at_once.snapshot())
        if not shown:
            assert view.snapshot() is before


@given(steps)
def test_what_was_shown_never_changes(taken: list[tuple[str, int]]) -> None:
    view = View()
    for path, records in NODES.items():
        put(view, path, records[-1])
    before = view.snapshot()
    whole = said(before)
    for path, choice in taken:
        if choice < len(NODES[path]):
            put(view, path, NODES[path][choice])
        else:
            drop(view, path)
        view.snapshot()
    assert said(before) == whole


@pytest.fixture(scope="module")
def large() -> View:
    """Of 100 diskimages in 100 providers, twice: 20,000 uploads."""
    view = View()
    for image in (f"image-{number:03}" for number in range(100)):
        put(view, paths.image(image))
        for build in (a_build(image), a_build(image, minutes=1)):
            put(view, paths.build(image, build.id), build)
            for number in range(100):
                upload = an_upload(build, f"cloud-{number}", id="0000000001")
                put(view, paths.upload(image, build.id, upload.provider, upload.id), upload)
    return view


def test_a_change_costs_its_image_and_no_other(large: View) -> None:
    began = time.process_time()
    before = large.snapshot()
    whole = time.process_time() - began
    upload = before.image("image-042").uploads[7]
    path = paths.upload(upload.image, upload.build_id, upload.provider, upload.id)
    began = time.process_time()
    for sent in range(100):
        put(large, path, replace(upload, sent=sent))
        after = large.snapshot()
    one = (time.process_time() - began) / 100
    assert [name for name in after.images if after.images[name] is not before.images[name]] == ["image-042"]
    # A hundredth, but for what there is to do whatever the size.
    assert one < whole / 10


def test_nobody_is_told_of_who_comes_to_stand_in_line() -> None:
    view = View()
    first, second = f"{paths.LEAD}/y__lock__0000000001", f"{paths.LEAD}/x__lock__0000000002"
    assert put(view, first, "nb01")
    assert not put(view, second, "nb01")
    assert view.snapshot().leader == "nb01"
    # Another daemon on the same host is another leader.
    assert drop(view, first)
    assert view.first_candidate == second


def test_uploads_stand_in_one_order_however_they_were_read() -> None:
    # The first upload of each build to each provider has the same id, and these began at once.
    alike = [
        an_upload(build, provider, id="0000000001", started=NOON)
        for build in BUILDS[:2]
        for provider in ("north", "south")
    ]
    orders = set()
    for order in permutations(alike):
        view = View()
        for upload in order:
            put(view, paths.upload(upload.image, upload.build_id, upload.provider, upload.id), upload)
        orders.add(tuple((shown.build_id, shown.provider) for shown in view.snapshot().image("a").uploads))
    assert len(orders) == 1
