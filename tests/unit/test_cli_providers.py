"""`provider ...`, `upload plan` and `image resolve`; and that one bad cloud keeps nobody from the others."""

from __future__ import annotations

import json
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from builder.cli.clouds import ask_each
from builder.cli.context import Context, Parts
from builder.cloud.openstack import OpenStackCloud
from builder.config import loader
from builder.config.model import ArtifactServer, BreakerPolicy, Config, Provider
from builder.errors import CloudError, CloudUnavailableError
from builder.model import Failure, FailureClass, ImageFormat, UploadState, UploadWish
from builder.ways import SIZE_TOTAL, Quota, Way
from tests.unit.cli_world import World
from tests.unit.planning_world import (
    DAY,
    HOUR,
    IMAGE,
    MINUTE,
    NOW,
    build_id,
    config,
    diskimage,
    doomed,
    provider,
    ready,
    upload,
)

FULL = Failure(failure_class=FailureClass.QUOTA, message="no room", phase="create")
DOWN = CloudUnavailableError(
    "provider south: could not log in: connection refused", failure_class=FailureClass.NETWORK
)


@pytest.fixture
def world() -> World:
    """A ready build that north has, and that south refused twice."""
    there = World(
        config=config(
            diskimage(),
            provider("north", region="RegionOne", max_uploads=3),
            provider("south", image_format=ImageFormat.QCOW2),
            upload_breaker=BreakerPolicy(failures=2, first=HOUR, longest=DAY),
        )
    )
    there.store.put(ready(1, NOW - DAY))
    there.store.put(
        upload(
            1, UploadState.READY, NOW - HOUR, external_id="abc", external_name="debian-1", ended=NOW - HOUR
        )
    )
    for number in (1, 2):
        when = NOW - number * MINUTE
        there.store.put(
            upload(1, UploadState.FAILED, when, to="south", id=f"{number:010}", reason=FULL, ended=when)
        )
    return there


# -- providers ------------------------------------------------------------------------------------


def test_a_provider_tells_whether_uploads_go_there_and_what_is_there(world: World) -> None:
    claim = world.store.claim_uploads(IMAGE, build_id(1), "north")
    world.store.put(upload(1, UploadState.UPLOADING, NOW, id="0000000002"))
    north, south = world.json("provider", "list")
    assert claim is not None and claim.valid
    assert north == {
        "provider": "north",
        "cloud": "north",
        "region": "RegionOne",
        "configured": True,
        "breaker": "closed",
        "since": None,
        "next_probe": None,
        "failures": 0,
        "uploads_running": 1,
        "uploads_max": 3,
        "images_ready": 1,
        "images_wanted": 1,
        "failed_at": None,
        "last_failure": None,
        "paused": False,
        "pause": None,
    }
    assert (south["breaker"], south["failures"], south["since"]) == ("open", 2, "2026-11-21T14:29:00Z")
    assert south["next_probe"] > "2026-11-21T15:29:00Z"
    assert (south["images_ready"], south["images_wanted"]) == (0, 1)
    assert south["last_failure"] == f"{IMAGE}: quota: no room (phase create)"
    assert south["failed_at"] == "2026-11-21T14:29:00Z"


def test_an_upload_whose_uploader_died_does_not_count_as_running(world: World) -> None:
    world.store.put(upload(1, UploadState.UPLOADING, NOW, id="0000000002"))
    assert world.json("provider", "list")[0]["uploads_running"] == 0


def test_no_cloud_is_asked_for_the_list(world: World) -> None:
    assert world.run("provider", "list").code == 0
    assert not world.clouds


def test_a_provider_that_left_the_configuration_is_still_listed(world: World) -> None:
    world.store.put(upload(1, UploadState.READY, NOW, to="gone"))
    row = world.json("provider", "list")[-1]
    assert (row["provider"], row["configured"], row["breaker"], row["cloud"]) == ("gone", False, None, None)
    shown = world.json("provider", "show", "gone")
    assert "not in the configuration" in shown["trouble"] and "images" not in shown


def test_what_a_cloud_says_of_itself_is_shown_with_the_settings(world: World) -> None:
    cloud = world.clouds["north"]
    cloud.formats, cloud.import_methods = {"qcow2"}, {"web-download"}
    cloud.limits = {SIZE_TOTAL: Quota(limit=2_000_000_000, used=500_000_000)}
    shown = world.json("provider", "show", "north")
    assert shown["trouble"] is None
    assert shown["capabilities"]["disk_formats"] == ["qcow2"]
    assert shown["capabilities"]["import_methods"] == ["web-download"]
    assert shown["quotas"] == {SIZE_TOTAL: {"limit": 2_000_000_000, "used": 500_000_000}}
    assert (shown["upload_method"], shown["upload_timeout"], shown["images"]) == ("auto", 3600.0, [IMAGE])
    table = world.run("provider", "show", "north").out
    assert "500.0 MB taken, of 2.0 GB" in table and "imports: web-download" in table


def test_a_password_in_a_url_is_not_shown(world: World) -> None:
    north = replace(world.config.providers["north"], download_url="https://ann:s3cret@files.example/")
    world.config = replace(world.config, providers={"north": north})
    shown = world.json("provider", "show", "north")
    assert shown["download_url"] == "https://********@files.example/"


def test_a_provider_whose_cloud_is_down_is_shown_with_the_reason(world: World) -> None:
    world.clouds["south"].fail("capabilities", DOWN, times=None)
    shown = world.json("provider", "show", "south")
    assert shown["trouble"] == "network: could not log in: connection refused."
    assert (shown["capabilities"], shown["quotas"], shown["breaker"]) == (None, None, "open")
    assert "2 uploads in a row to south failed" in shown["breaker_reason"]


def test_a_provider_nobody_knows_is_3(world: World) -> None:
    assert world.run("provider", "show", "mars").code == 3


# -- reaching clouds --------------------------------------------------------------------------------


def test_by_default_clouds_are_those_of_clouds_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clouds.yaml").write_text("clouds: {alpha: {auth_type: none, image_format: raw}}")
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(tmp_path / "clouds.yaml"))
    context = Context(Parts(environ={}))
    assert isinstance(context.clouds.get(provider("alpha")), OpenStackCloud)
    assert (context.knows_cloud("alpha", None), context.knows_cloud("beta", None)) == (True, False)


def test_all_clouds_are_asked_at_the_same_time() -> None:
    everybody = threading.Barrier(3, timeout=30)
    answers = ask_each([provider(n) for n in ("a", "b", "c")], lambda p: (everybody.wait(), p.name)[1])
    assert [answer.found for answer in answers] == ["a", "b", "c"]


def test_a_cloud_that_hangs_is_given_up() -> None:
    hang = threading.Event()

    def ask(there: Provider) -> str:
        if there.name == "a":
            hang.wait(30)
        return there.name

    slow, quick = ask_each([provider("a"), provider("b")], ask, seconds=0.3)
    hang.set()
    assert (slow.found, slow.trouble) == (None, "no answer within 0.3 s")
    assert (quick.found, quick.trouble) == ("b", None)


def test_what_a_cloud_refuses_comes_with_advice() -> None:
    def ask(there: Provider) -> None:
        raise CloudError("no such user", failure_class=FailureClass.AUTH, hint="Check clouds.yaml.")

    (answer,) = ask_each([provider("a")], ask)
    assert answer.trouble == "auth: no such user. Check clouds.yaml."


# -- the plan of an upload ------------------------------------------------------------------------


def test_the_plan_says_which_ways_would_be_tried_and_why_not_the_others(world: World) -> None:
    world.clouds["south"].import_methods = {"glance-direct"}
    north, south = world.json("upload", "plan", IMAGE)
    assert (north["decision"], south["decision"]) == ("no", "later")
    assert south["due"] is not None and "no room" in south["reason"]
    ways = {way["way"]: way for way in south["ways"]}
    assert set(ways) == set(Way)
    assert (ways["put"]["usable"], ways["glance-direct"]["usable"]) == (True, True)
    assert not ways["web-download"]["usable"] and "download-url" in ways["web-download"]["reason"]
    usable = [way["usable"] for way in south["ways"]]
    assert usable == sorted(usable, reverse=True), "those that are tried come first"
    assert south["capabilities"]["import_methods"] == ["glance-direct"]
    table = world.run("upload", "plan", IMAGE, "--provider", "south").out
    assert "2. put: " in table and "3. glance-direct: " in table and "no web-download: " in table


@pytest.mark.parametrize(
    ("server", "url"),
    [(None, "http://files.example/"), (ArtifactServer(host="::", port=80, url="http://us.example/"), None)],
)
def test_the_plan_knows_from_where_a_cloud_could_fetch(
    world: World, server: ArtifactServer | None, url: str | None
) -> None:
    south = replace(world.config.providers["south"], download_url=url)
    world.config = replace(world.config, providers={"south": south}, artifact_server=server)
    world.clouds["south"].import_methods = {"web-download"}
    (row,) = world.json("upload", "plan", IMAGE)
    assert {w["way"]: w["usable"] for w in row["ways"]}["web-download"]


def test_a_cloud_that_is_down_has_a_row_with_the_reason_and_the_others_are_shown(world: World) -> None:
    world.clouds["south"].fail("capabilities", DOWN, times=None)
    north, south = world.json("upload", "plan", IMAGE)
    assert south["trouble"] == "network: could not log in: connection refused."
    assert (south["ways"], south["capabilities"], south["decision"]) == ([], None, "later")
    assert north["trouble"] is None and north["ways"]


def test_without_a_file_there_are_no_ways_yet(world: World) -> None:
    world.store.put(ready(2, NOW, ImageFormat.RAW))
    rows = world.json("upload", "plan", IMAGE, "--provider", "north")
    assert [(row["decision"], row["ways"]) for row in rows] == [("no", [])]
    assert rows[0]["capabilities"]["disk_formats"]


def test_a_plan_changes_nothing(world: World) -> None:
    before = world.store.snapshot()
    assert world.run("upload", "plan", IMAGE).code == 0
    assert world.store.snapshot() == before
    assert {name for cloud in world.clouds.values() for name, _ in cloud.calls} == {"capabilities"}


# -- one bad cloud --------------------------------------------------------------------------------

FILE = """
zookeeper-servers: [{host: 127.0.0.1, port: 2181}]
images-dir: /nowhere/images
diskimages:
  - name: debian-bookworm
    elements: [vm]
providers:
  - {name: north, cloud: alpha, diskimages: [{name: debian-bookworm}]}
  - {name: south, cloud: broken, diskimages: [{name: debian-bookworm}]}
"""


class Loading(World):
    """A world that reads its configuration for real; clouds.yaml has no cloud "broken"."""

    file: Path

    def parts(self) -> Parts:
        def load(path: Path, secure: Path | None, environ: object, format_of: loader.ImageFormatOf) -> Config:
            return loader.load(self.file, image_format_of=format_of, environ={})

        return replace(super().parts(), load=load)


@pytest.fixture
def half(tmp_path: Path) -> Loading:
    there = Loading(nowhere={"broken"})
    there.file = tmp_path / "imagepool.yaml"
    there.file.write_text(FILE)
    there.store.put(ready(1, NOW - DAY))
    return there


@pytest.mark.parametrize(
    "argv",
    [
        ("image", "list"),
        ("image", "show", IMAGE),
        ("image", "explain", IMAGE),
        ("upload", "plan", IMAGE),
        ("provider", "show", "north"),
        ("cleanup", "--dry-run"),
    ],
    ids=" ".join,
)
def test_one_bad_cloud_keeps_nobody_from_seeing_the_rest(half: Loading, argv: tuple[str, ...]) -> None:
    shown = half.run(*argv)
    assert shown.code == 0, shown.err
    (note,) = [line for line in shown.err.splitlines() if "broken" in line]
    assert "cloud 'broken' is not there" in note
    assert "Looked at clouds.yaml." in note and "qcow2" in note


@pytest.mark.parametrize(
    "argv",
    [
        ("build", "list"),
        ("upload", "list"),
        ("provider", "list"),
        ("leak", "list"),
        ("image", "pause", IMAGE),
    ],
    ids=" ".join,
)
def test_who_needs_no_cloud_hears_nothing_of_it(half: Loading, argv: tuple[str, ...]) -> None:
    shown = half.run(*argv)
    assert (shown.code, shown.err) == (0, "")


def test_the_doctor_finds_one_bad_cloud_and_looks_at_all_else(
    half: Loading, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # where nobody listens
        half.file.write_text(FILE.replace("2181", str(taken.getsockname()[1])))
        monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(tmp_path / "clouds.yaml"))
        (tmp_path / "clouds.yaml").write_text(
            "clouds: {alpha: {auth_type: none, endpoint: 'http://127.0.0.1:9'}}"
        )
        done = half.run("doctor", "--roles", "uploader", "-f", "json")
    rows = {row["check"]: row for row in json.loads(done.out)}
    assert done.code == 1 and rows["provider south"]["state"] == "problem"
    assert "broken" in rows["provider south"]["found"]
    assert "broken" not in rows["provider north"]["found"]


@pytest.mark.parametrize("argv", [("config", "validate"), ("image", "build", IMAGE, "--wait")])
def test_who_would_act_on_it_insists(half: Loading, argv: tuple[str, ...]) -> None:
    refused = half.run(*argv)
    assert refused.code == 2 and "cloud 'broken' is not there" in refused.err


def test_what_else_is_wrong_is_never_passed_over(half: Loading) -> None:
    half.file.write_text(FILE + "no-such-key: 1\n")
    refused = half.run("image", "list")
    assert refused.code == 2 and "no-such-key" in refused.err


# -- what an image list says of providers ---------------------------------------------------------


def test_an_image_list_names_the_providers_that_stay_behind_and_why(world: World) -> None:
    assert world.json("image", "list")[0]["reason"] == f"south: {FULL.summary}"
    world.config = config(diskimage(), provider("north"), provider("south"), provider("west"))
    world.store.put(upload(1, UploadState.FAILED, NOW, to="west", reason=FULL))
    assert world.json("image", "list")[0]["reason"] == f"south, west: {FULL.summary}"


def test_where_somebody_keeps_a_build_away_old_failures_are_not_the_reason(world: World) -> None:
    wish = UploadWish(provider="south", wanted=False, by="ann", time=NOW, why="does not boot")
    world.store.wish_upload(IMAGE, build_id(1), wish)
    assert world.json("image", "list")[0]["reason"] == (
        "south: build 00000001 is kept away by ann at 2026-11-21 14:30 UTC: does not boot"
    )


# -- which id to boot -----------------------------------------------------------------------------


def test_the_newest_ready_image_of_each_provider_is_told(world: World) -> None:
    done = world.run("image", "resolve", IMAGE, "-f", "json")
    assert done.json == [
        {
            "provider": "north",
            "id": "abc",
            "name": "debian-1",
            "build": build_id(1),
            "age": 3600.0,
            "region": None,
            "serving": None,
        }
    ]
    assert "nothing to boot in south" in done.err


def test_for_one_provider_the_bare_id_is_printed(world: World) -> None:
    assert world.run("image", "resolve", IMAGE, "--provider", "north", "-f", "value").out == "abc\n"
    named = world.run("image", "resolve", IMAGE, "--provider", "north", "-f", "value", "-c", "name")
    assert named.out == "debian-1\n"
    assert world.run("image", "resolve", IMAGE, "-f", "value").out.startswith("north abc debian-1 ")


def test_the_name_told_is_the_one_it_has_in_the_cloud_now(world: World) -> None:
    world.config = config(diskimage(stable_name="ci-debian"), provider())
    command = ("image", "resolve", IMAGE, "--provider", "north", "-f", "value", "-c", "name")
    (there,) = (u for u in world.store.snapshot().uploads() if u.external_id == "abc")
    world.store.put(replace(there, serving=NOW))
    assert world.run(*command).out == "ci-debian\n"
    world.store.put(replace(there, serving=NOW, stable_name="before"))
    assert world.run(*command).out == "before\n"  # the configuration has changed, the cloud not yet
    world.store.put(replace(there, serving=NOW, stable_tag="current"))
    assert world.run(*command).out == "debian-1\n"


@pytest.mark.parametrize("to", ["south", "north"])
def test_where_there_is_none_is_3(world: World, to: str) -> None:
    world.store.put(doomed(ready(1, NOW - DAY)))  # what is in north goes with its build
    done = world.run("image", "resolve", IMAGE, "--provider", to)
    assert done.code == 3 and not done.out and "none is ready there" in done.err


def test_what_is_unknown_is_3(world: World) -> None:
    assert world.run("image", "resolve", "nope").code == 3
    assert world.run("image", "resolve", IMAGE, "--provider", "mars").code == 3


@pytest.mark.parametrize("stable", [{"stable_name": "debian"}, {"stable_tag": "current"}])
def test_with_a_stable_name_it_is_the_image_that_has_it_now(world: World, stable: dict[str, str]) -> None:
    world.config = replace(world.config, diskimages={IMAGE: diskimage(**stable)})
    early = world.run("image", "resolve", IMAGE)
    assert early.code == 3 and "has not moved" in early.err
    world.store.put(
        upload(1, UploadState.READY, NOW - HOUR, external_id="abc", ended=NOW - HOUR, serving=NOW - HOUR)
    )
    world.store.put(ready(2, NOW - MINUTE))
    world.store.put(upload(2, UploadState.READY, NOW, external_id="new", ended=NOW))
    (row,) = world.json("image", "resolve", IMAGE)
    assert (row["id"], row["serving"]) == ("abc", "2026-11-21T13:30:00Z")


def test_while_a_stable_name_moves_it_is_the_image_that_got_it_last(world: World) -> None:
    world.config = replace(world.config, diskimages={IMAGE: diskimage(stable_name="debian")})
    world.store.put(upload(1, UploadState.READY, NOW - HOUR, external_id="abc", serving=NOW - HOUR))
    world.store.put(ready(2, NOW - MINUTE))
    world.store.put(upload(2, UploadState.READY, NOW, external_id="new", serving=NOW))
    assert [row["id"] for row in world.json("image", "resolve", IMAGE)] == ["new"]


def test_what_left_the_configuration_can_still_be_booted(world: World) -> None:
    world.config = config(diskimage("other"), provider("east", "other"))
    assert [row["id"] for row in world.json("image", "resolve", IMAGE)] == ["abc"]
