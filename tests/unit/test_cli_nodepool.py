"""nodepool's commands, typed as its users type them."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from builder.cli.main import main
from builder.cli.nodepool import in_our_words
from builder.cli.registry import NODEPOOL
from builder.cloudimage import (
    NODEPOOL_BUILD_ID,
    NODEPOOL_PROVIDER,
    NODEPOOL_UPLOAD_ID,
    CloudImage,
    GlanceStatus,
)
from builder.model import BuildState, Pause, UploadState
from tests.fakes.store import FakeStore
from tests.unit.cli_world import World
from tests.unit.planning_world import (
    DAY,
    HOUR,
    IMAGE,
    MINUTE,
    NOW,
    asked,
    build_id,
    building,
    config,
    diskimage,
    failed,
    provider,
    ready,
    upload,
)

VERBS = (
    *("image-list", "dib-image-list", "image-status", "image-build", "image-pause", "image-unpause"),
    *("dib-image-delete", "image-delete", "alien-image-list", "info", "erase", "export-image-data"),
    *("import-image-data", "config-validate"),
)


@pytest.fixture
def world() -> World:
    """Two builds in one provider, and the newer one in the other, too."""
    there = World()
    there.store.put(ready(1, NOW - DAY - HOUR))
    there.store.put(ready(2, NOW - HOUR))
    there.store.put(failed(3, NOW - MINUTE))
    for number, to in ((1, "north"), (2, "north"), (2, "south")):
        there.store.put(
            upload(
                number,
                UploadState.READY,
                NOW - HOUR,
                to=to,
                external_id=f"{to}-{number}",
                external_name=f"{IMAGE}-{number}",
            )
        )
    return there


def epoch(ago: timedelta) -> int:
    return int((NOW - ago).timestamp())


def names(store: FakeStore) -> set[str]:
    return {upload.name for upload in store.snapshot().uploads()}


def test_every_verb_of_nodepool_is_there_and_has_help() -> None:
    assert tuple(entry.name for entry in NODEPOOL) == VERBS
    listed = World().run("help", "nodepool").out
    for entry in NODEPOOL:
        shown = World().run(entry.name, "--help")
        assert (shown.code, shown.err) == (0, "")
        assert f"usage: imagepool {entry.name} " in shown.out and f"\n{entry.summary}\n" in shown.out
        assert f"  {entry.name}  " in listed.replace(entry.summary, "").replace(" " * 3, "  ")


def test_every_verb_is_documented() -> None:
    documents = Path(__file__).parents[2] / "docs"
    for verb in VERBS:
        assert f"`{verb}" in (documents / "cli.md").read_text()
        assert f"`{verb}" in (documents / "migration.md").read_text()


def test_the_list_of_commands_only_says_where_they_are() -> None:
    shown = World().run("help").out
    assert "help nodepool" in shown and "image-list" not in shown


def test_they_are_spelt_out_or_not_taken() -> None:
    # "config" is a group of ours, and "er" might be anything.
    for words in (["config"], ["er", "north"], ["image"], ["export-image", "f"]):
        assert World().run(*words).code == 2


def test_a_mistyped_one_gets_a_suggestion() -> None:
    assert "dib-image-list" in World().run("dib-image-lst").err


# -- options before the verb ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("-c a image-list", "--config a image-list"),
        ("-c a -s b image-list -c id", "--config a --secure b image-list -c id"),
        ("-ca image-list", "--config a image-list"),
        ("--debug -s b info north", "--debug --secure b info north"),
        ("--config a -s b info north", "--config a --secure b info north"),
        ("build list -c id", "build list -c id"),
        ("-c a build list", "-c a build list"),
        ("-c", "-c"),
        ("-c image-list", "-c image-list"),
        ("", ""),
    ],
)
def test_nodepool_s_options_stand_before_its_verbs(typed: str, meant: str) -> None:
    assert in_our_words(typed.split()) == meant.split()


def test_the_file_that_nodepool_s_option_names_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, secure = tmp_path / "nodepool.yaml", tmp_path / "secure.yaml"
    file.write_text("diskimages: [{name: noble}]\nlabels: []\n")
    secure.write_text("diskimages: [{name: noble, env-vars: {X: y}}]\n")
    assert main(["-c", str(file), "-s", str(secure), "config-validate"]) == 0
    assert f"{file}: no problems" in capsys.readouterr().out
    secure.write_text("diskimages: [{name: other}]\n")
    assert main(["-c", str(file), "-s", str(secure), "config-validate"]) == 2


# -- lists ------------------------------------------------------------------------------------------


def test_image_list_has_the_columns_of_nodepool_s_web_page(world: World) -> None:
    rows = world.json("image-list")
    assert len(rows) == 3
    assert {
        "id": build_id(2),
        "upload_id": "0000000001",
        "provider": "south",
        "image": IMAGE,
        "external_name": f"{IMAGE}-2",
        "external_id": "south-2",
        "state": "ready",
        "age": epoch(HOUR),
    } in rows
    assert list(rows[0]) == [
        *("id", "upload_id", "provider", "image", "external_name", "external_id", "state", "age"),
    ]


def test_a_table_has_ages_as_nodepool_writes_them_and_whole_ids(world: World) -> None:
    world.store.put(ready(4, NOW - 2 * DAY - 3 * HOUR - 4 * MINUTE - timedelta(seconds=5)))
    shown = world.run("dib-image-list").out
    assert "| 02:03:04:05 |" in shown and f"| {IMAGE}-{build_id(4)} |" in shown
    world.now = NOW - 3 * DAY  # this machine's clock is behind
    assert "| 00:00:00:00 |" in world.run("dib-image-list").out


def test_dib_image_list_says_paused_in_the_place_of_the_state(world: World) -> None:
    rows = {row["id"]: row for row in world.json("dib-image-list")}
    assert rows[f"{IMAGE}-{build_id(1)}"] == {
        "id": f"{IMAGE}-{build_id(1)}",
        "image": IMAGE,
        "builder": "host-a",
        "formats": ["qcow2"],
        "state": "ready",
        "age": epoch(DAY + HOUR),
    }
    assert rows[f"{IMAGE}-{build_id(3)}"]["state"] == "failed"
    assert world.run("image-pause", IMAGE).code == 0
    assert {row["state"] for row in world.json("dib-image-list")} == {"paused"}


def test_image_status_tells_a_request_that_waits_from_one_that_is_built(world: World) -> None:
    def status() -> dict[str, Any]:
        (row,) = world.json("image-status")
        assert isinstance(row, dict)
        return row

    assert status() == {
        "image": IMAGE,
        "paused": False,
        "build_request": None,
        "build_request_age": None,
    }
    request = world.store.request_build(asked(NOW - MINUTE))
    assert request is not None
    assert (status()["build_request"], status()["build_request_age"]) == ("pending", epoch(MINUTE))
    # One that began before somebody asked is not for it; nodepool's records don't say what they are for.
    world.store.put(building(5, NOW - HOUR))
    assert status()["build_request"] == "pending"
    world.store.put(building(6, NOW, request=request))
    assert status()["build_request"] == "building"


def test_info_lists_the_uploads_to_a_provider_by_build(world: World) -> None:
    world.store.put(replace(upload(2, UploadState.FAILED, NOW), id="0000000002"))
    assert world.json("info", "north") == [
        {"image": IMAGE, "build_id": build_id(1), "upload_ids": ["0000000001"]},
        {"image": IMAGE, "build_id": build_id(2), "upload_ids": ["0000000001", "0000000002"]},
    ]
    assert world.run("info", "nowhere").code == 3


def test_aliens_are_listed_whatever_adopt_nodepool_says_and_what_is_on_record_is_none(world: World) -> None:
    assert not world.config.adopt_nodepool
    for image_id, number in (("left-over", 9), ("north-2", 2)):
        marks = {
            NODEPOOL_PROVIDER: "north",
            NODEPOOL_BUILD_ID: build_id(number),
            NODEPOOL_UPLOAD_ID: "0000000001",
        }
        world.clouds["north"].images[image_id] = CloudImage(
            id=image_id,
            name=f"{IMAGE}-{number}",
            status=GlanceStatus.ACTIVE,
            size=1,
            hash_algorithm=None,
            hash_value=None,
            checksum=None,
            visibility="private",
            properties=marks,
            created=NOW - DAY,
        )
    assert world.json("alien-image-list") == [
        {"provider": "north", "name": f"{IMAGE}-9", "id": "left-over"},
    ]
    assert world.json("alien-image-list", "south") == []
    assert world.run("alien-image-list", "nowhere").code == 3


# -- changes ----------------------------------------------------------------------------------------


def test_a_build_is_asked_for_paused_and_let_go_on(world: World) -> None:
    assert world.run("image-build", IMAGE).code == 0
    assert world.store.get_request(IMAGE) is not None
    for verb, paused in (("image-pause", True), ("image-unpause", False)):
        assert world.run(verb, IMAGE).code == 0
        assert world.store.snapshot().image(IMAGE).paused is paused
    assert [world.run(verb, "nothing").code for verb in ("image-build", "image-pause")] == [3, 3]


def test_a_build_is_deleted_by_nodepool_s_name_for_it(world: World) -> None:
    world.store.put(building(7, NOW))
    assert world.run("dib-image-delete", f"{IMAGE}-{build_id(1)}").code == 0
    assert world.store.get_build(IMAGE, build_id(1)).state is BuildState.DELETING
    assert world.run("dib-image-delete", f"{IMAGE}-{build_id(7)}").code == 4
    assert world.run("dib-image-delete", f"{IMAGE}-{'f' * 32}").code == 3


def test_an_upload_is_deleted_by_its_four_names(world: World) -> None:
    def delete(**changes: str) -> int:
        named = {"provider": "north", "image": IMAGE, "build-id": build_id(1), "upload-id": "0000000001"}
        words = [word for name, value in {**named, **changes}.items() for word in (f"--{name}", value)]
        return world.run("image-delete", *words).code

    assert delete() == 0
    assert world.store.get_upload(IMAGE, build_id(1), "north", "0000000001").state is UploadState.DELETING
    assert delete(**{"build-id": build_id(2), "provider": "nor"}) == 3
    assert delete(**{"build-id": build_id(2)[:8]}) == 3
    assert delete(image="other") == 3
    world.store.put(upload(3, UploadState.UPLOADING, NOW, to="south"))
    assert delete(**{"build-id": build_id(3), "provider": "south"}) == 4
    assert world.run("image-delete", "--provider", "north").code == 2


def test_erase_forgets_a_provider_and_names_what_stays_in_its_cloud(world: World) -> None:
    world.config = config(diskimage(), provider("north"))
    done = world.run("erase", "south", "--force")
    assert (done.code, "south-2" in done.err) == (0, True)
    assert not [name for name in names(world.store) if "/south/" in name]
    assert len(names(world.store)) == 2
    assert world.run("erase", "south", "--force").code == 3


def test_erase_asks_first_and_nobody_there_is_no(world: World) -> None:
    world.config = config(diskimage(), provider("north"))
    before = names(world.store)
    assert world.run("erase", "south").code == 2
    assert names(world.store) == before


def test_erase_of_a_configured_provider_has_to_be_insisted_on(world: World) -> None:
    before = names(world.store)
    assert world.run("erase", "south").code == 4
    assert names(world.store) == before
    done = world.run("erase", "south", "--force")
    assert done.code == 0 and "uploaded there again" in done.err
    assert len(names(world.store)) == 2


def test_erase_leaves_what_is_being_uploaded(world: World) -> None:
    world.store.put(upload(3, UploadState.UPLOADING, NOW, to="south"))
    claim = world.store.claim_uploads(IMAGE, build_id(3), "south")
    assert claim is not None
    world.run("erase", "south", "--force")
    assert [name for name in names(world.store) if "/south/" in name] == [f"{build_id(3)}/south/0000000001"]


# -- all records in a file --------------------------------------------------------------------------


@pytest.fixture
def export(world: World, tmp_path: Path) -> Path:
    """What nodepool's export of the world would be, with a field of a later version."""
    world.store.put(replace(ready(2, NOW - HOUR), extra={"later": {"x": [1]}}))
    world.store.pause(IMAGE, Pause(by="ann", time=NOW))
    path = tmp_path / "export.json"
    assert world.run("export-image-data", str(path)).code == 0
    return path


def test_an_export_is_nodepool_s_object_of_paths(world: World, export: Path) -> None:
    data = json.loads(export.read_text())
    builds = f"/nodepool/images/{IMAGE}/builds"
    assert data.keys() == {
        f"/nodepool/images/{IMAGE}/pause",
        *(f"{builds}/{build_id(number)}" for number in (1, 2, 3)),
        *(
            f"{builds}/{build_id(number)}/providers/{to}/images/0000000001"
            for number, to in ((1, "north"), (2, "north"), (2, "south"))
        ),
    }
    assert data[f"/nodepool/images/{IMAGE}/pause"] == ""
    assert json.loads(data[f"{builds}/{build_id(2)}"])["later"] == {"x": [1]}
    assert stat.S_IMODE(export.stat().st_mode) == 0o600


def test_an_export_takes_the_place_of_another_and_is_for_its_owner_alone(
    world: World, tmp_path: Path
) -> None:
    path = tmp_path / "export.json"
    path.write_text("something that everybody may read, and longer than it is needed" * 1000)
    path.chmod(0o644)
    assert world.run("export-image-data", str(path)).code == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(json.loads(path.read_text())) == 6
    assert world.run("export-image-data", str(tmp_path / "nowhere" / "x")).code == 1
    assert [file.name for file in tmp_path.iterdir()] == ["export.json"]


def test_an_export_through_a_link_leaves_the_link(world: World, tmp_path: Path) -> None:
    file, link = tmp_path / "export.json", tmp_path / "link"
    link.symlink_to(file)
    assert world.run("export-image-data", str(link)).code == 0
    assert link.is_symlink() and len(json.loads(file.read_text())) == 6


def test_an_export_takes_the_place_of_no_device(world: World, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert world.run("export-image-data", str(pipe)).code == 0
        assert len(json.loads(os.read(reader, 1 << 16))) == 6
    finally:
        os.close(reader)
    assert pipe.is_fifo()


@pytest.mark.parametrize("path", ["", "/"])
def test_an_export_to_a_directory_can_not_be_written(world: World, path: str) -> None:
    assert world.run("export-image-data", path).code == 1


def test_an_import_makes_it_as_it_was(world: World, export: Path) -> None:
    empty = World()
    assert empty.run("import-image-data", str(export)).code == 0
    there, before = empty.store.snapshot().image(IMAGE), world.store.snapshot().image(IMAGE)
    assert [replace(b, version=0) for b in there.builds] == [replace(b, version=0) for b in before.builds]
    assert {u.name for u in there.uploads} == {u.name for u in before.uploads}
    assert there.paused
    # What comes next gets a number of its own.
    assert empty.store.create_upload(upload(2, UploadState.UPLOADING, NOW)).id > "0000000001"


def test_an_import_again_changes_nothing(world: World, export: Path) -> None:
    before = world.store.snapshot()
    done = world.run("import-image-data", str(export))
    assert (done.code, done.out) == (0, f"all that {export} has is on record already, or was left out\n")
    assert world.store.snapshot() == before


def test_an_import_writes_nothing_over(world: World, export: Path) -> None:
    empty = World()
    empty.store.put(failed(2, NOW))
    refused = empty.run("import-image-data", str(export))
    assert refused.code == 4 and build_id(2) in refused.err
    assert [build.state for build in empty.store.snapshot().builds()] == [BuildState.FAILED]
    assert not empty.store.snapshot().image(IMAGE).paused


def test_what_can_not_be_read_is_named_and_left_out(export: Path) -> None:
    data = json.loads(export.read_text())
    builds = f"/nodepool/images/{IMAGE}/builds"
    data |= {
        f"{builds}/{build_id(1)}": "",  # nodepool leaves such behind
        f"{builds}/{build_id(8)}": '{"state": "odd"}',
        f"{builds}/{build_id(9)}": "\ud800",
        f"{builds}/{build_id(2)}/providers/north/images/4294967295": '{"state": "ready"}',
        "/nodepool/nodes/0000000001": "{}",
        "/etc/passwd": 7,
    }
    export.write_text(json.dumps(data))
    empty = World()
    done = empty.run("import-image-data", str(export))
    assert done.code == 1
    assert {build.id for build in empty.store.snapshot().builds()} == {build_id(2), build_id(3)}
    # An upload whose build says nothing has nowhere to be.
    assert len(names(empty.store)) == 2
    assert done.err.count("left out: ") == 7


@pytest.mark.parametrize("content", ["", "[]", "{", "\udcff", "[" * 100_000])
def test_a_file_that_is_no_export_is_wrong_usage(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    assert World().run("import-image-data", str(path)).code == 2
    assert World().run("import-image-data", str(tmp_path / "missing")).code == 2


# -- config import-check ----------------------------------------------------------------------------


def import_check(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, list[dict[str, str]]]:
    code = main(["config", "import-check", *argv, "-f", "yaml"])
    return code, yaml.safe_load(capsys.readouterr().out)


def test_import_check_lists_what_is_ignored_and_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "nodepool.yaml"
    file.write_text("labels: []\ndiskimages:\n- name: noble\n  formats: [raw]\n")
    code, rows = import_check(capsys, str(file))
    assert code == 0
    assert {"place", "key", "kind", "text"} == set(rows[0])
    assert {row["kind"] for row in rows if row["key"] == "labels"} == {"ignored"}
    assert [row["place"] for row in rows if row["key"] == "diskimages[0]"] == [f"{file}:3"]


def test_import_check_ends_with_2_when_the_file_can_not_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, secure = tmp_path / "nodepool.yaml", tmp_path / "secure.yaml"
    file.write_text("labels: []\ncron: x\ndiskimages:\n- name: noble\n  formats: [tar]\n")
    secure.write_text("zookeeper-servers: [{host: zk}]\n")
    code, rows = import_check(capsys, str(file), "--secure", str(secure))
    assert code == 2
    errors = {row["key"]: row["place"] for row in rows if row["kind"] == "error"}
    assert errors == {"cron": f"{file}:2", "diskimages[0].formats[0]": f"{file}:5"}
    # The rest is told all the same, with the secure file in mind.
    assert any("2181" in row["text"] for row in rows if row["key"] == "zookeeper-servers")


def test_import_check_of_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert main(["config", "import-check", str(tmp_path / "none.yaml")]) == 2
