"""The script that builds again: from the record alone, elsewhere, saying what is not the same."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.config.model import MASK
from builder.dib.contents import archive, inputs, packages
from builder.dib.output import artifacts
from builder.errors import ImagepoolError, NotFoundError, RefusedError
from tests.unit.contents_world import STATUS, Past, past_build
from tests.unit.dib_world import BUILD, FAKE_DIB, image, shellcheck


@pytest.fixture
def past(tmp_path: Path) -> Past:
    return past_build(tmp_path)


def test_the_script_builds_what_is_on_record_and_not_what_is_configured(past: Past) -> None:
    rendered = past.build()
    done = past.run(TOKEN="of the caller")
    assert done.returncode == 0, done.stderr
    assert {file.suffix for file in (past.made() / "output").iterdir()} == {".d", ".qcow2", ".vhd"}
    ran = past.ran()
    output = str(past.made() / "output" / past.made().name)
    before = str(past.place / "was" / "output" / past.made().name)
    assert ran["argv"][1:] == [output if word == before else word for word in rendered.argv[1:]]
    given = ran["environment"]
    assert (given["WORDS"], given["TOKEN"]) == ('it\'s "$quoted"', "of the caller")
    assert given["IMAGEPOOL_BUILD_ID"] == BUILD
    assert str(past.place / "was") not in str({**given, "PATH": ""})


def test_the_elements_are_those_of_then_with_their_modes(past: Past) -> None:
    past.build()
    (past.place / "elements" / "special" / "install.d" / "10-it").write_text("changed since")
    assert past.run(TOKEN="x").returncode == 0
    directory = Path(past.ran()["environment"]["ELEMENTS_PATH"])
    assert {each.name for each in directory.iterdir()} == {"special", "imagepool-manifest"}
    hook = directory / "special" / "install.d" / "10-it"
    assert hook.read_text() == "#!/bin/bash\necho special\n"
    assert os.access(hook, os.X_OK)


def test_it_says_which_packages_are_others_and_succeeds(past: Past) -> None:
    past.build()
    newer = STATUS.replace("5.2.15-2+b7", "5.2.15-3").replace("Package: gone", "Package: gone-too")
    (past.control / "dpkg").write_text(f"{newer}\nPackage: new\nVersion: 1\nArchitecture: all\n")
    done = past.run(TOKEN="x")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    start = lines.index(f"The packages differ from those of build {BUILD}: - had it, + has this one.")
    assert lines[start + 1 : start + 4] == [
        "- bash 5.2.15-2+b7 amd64",
        "+ bash 5.2.15-3 amd64",
        "+ new 1 all",
    ]


def test_it_says_when_the_packages_are_the_same(past: Past) -> None:
    past.build()
    (past.control / "dpkg").write_text(STATUS)
    assert f"The packages are those of build {BUILD}." in past.run(TOKEN="x").stdout.splitlines()


def test_packages_with_names_that_no_package_has_are_left_out_of_the_comparison(past: Past) -> None:
    odd = "\nPackage: a\x1b[2J\nVersion: 1\nArchitecture: all\n"
    odd += "\nPackage: b\nVersion: 1\x07\nArchitecture: all\n"
    past.build()
    listed = json.loads((past.directory / packages.FILE).read_text())
    for name, version in (("a\x1b]0;owned\x07", "1"), ("b", "1\nPACKAGES\nid"), ("-c", "1")):
        added = {"name": name, "version": version, "architecture": "all", "type": "deb"}
        listed["packages"].append(added)
    (past.directory / packages.FILE).write_text(json.dumps(listed))
    text = past.script()
    assert "\x1b" not in text and "owned" not in text and "\nid\n" not in text
    assert "# 3 of the packages are left out" in text
    (past.control / "dpkg").write_text(STATUS + odd)
    done = past.run(TOKEN="x")
    assert f"The packages are those of build {BUILD}." in done.stdout.splitlines(), done.stderr


def test_it_says_that_the_command_had_secrets(past: Past) -> None:
    past.build()
    proof = json.loads((past.directory / artifacts.PROOF).read_text())
    proof["command"].insert(1, f"http://{MASK}@proxy.test/")
    (past.directory / artifacts.PROOF).write_text(json.dumps(proof))
    assert "the command had secrets" in past.run(TOKEN="x").stderr


def test_it_says_which_tools_and_files_are_others(past: Past) -> None:
    key = past.place / "a-key"
    key.write_text("x")
    past.recipe = image(
        environment={**past.recipe.environment, "DIB_KEY": f"file://{key}"},
        secret_names=past.recipe.secret_names,
        elements=past.recipe.elements,
    )
    past.build()
    key.unlink()
    said = past.run(TOKEN="x").stderr
    assert f"kernel is {os.uname().release}, and was 0.0.1 when the image was built" in said
    assert "no-such-tool is not there, and was 7.2" in said
    assert f"DIB_KEY names {key}, which is not here" in said


def test_it_asks_for_secrets_and_holds_none(past: Past) -> None:
    past.build()
    assert "hush" not in past.script()
    done = past.run()
    assert done.returncode != 0
    assert "set TOKEN" in done.stderr


def test_it_finds_disk_image_create_by_the_path_of_the_caller(past: Past, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy2(FAKE_DIB, elsewhere)
    gone = tmp_path / "gone" / "disk-image-create"
    past.recipe = image(
        environment=past.recipe.environment, elements=past.recipe.elements, dib_cmd=(str(gone),)
    )
    past.build()
    done = past.run(PATH=f"{elsewhere}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    assert past.ran()["argv"][0] == str(elsewhere / "disk-image-create")


def test_it_asks_for_elements_that_were_too_large_to_keep(past: Past, tmp_path: Path) -> None:
    past.build()
    (past.directory / archive.FILE).unlink()
    assert "set ELEMENTS_PATH" in past.run(TOKEN="x").stderr
    mine = tmp_path / "mine"
    mine.mkdir()
    done = past.run(TOKEN="x", ELEMENTS_PATH=str(mine))
    assert done.returncode == 0, done.stderr
    assert past.ran()["environment"]["ELEMENTS_PATH"] == str(mine)


@pytest.mark.parametrize("kept", [True, False])
def test_it_is_clean_under_shellcheck(past: Past, kept: bool) -> None:
    past.build()
    if not kept:
        (past.directory / archive.FILE).unlink()
    assert shellcheck(past.script()) == ""


def vanish(past: Past) -> None:
    shutil.rmtree(past.directory)


def forget_inputs(past: Past) -> None:
    (past.directory / inputs.FILE).unlink()


def tear(past: Past) -> None:
    (past.directory / artifacts.PROOF).write_text('{"command": [')


def empty(past: Past) -> None:
    (past.directory / artifacts.PROOF).write_text("[]")


def forget_the_command(past: Past) -> None:
    proof = json.loads((past.directory / artifacts.PROOF).read_text())
    (past.directory / artifacts.PROOF).write_text(json.dumps({**proof, "command": []}))


def name_another_format(past: Past) -> None:
    record = json.loads((past.directory / inputs.FILE).read_text())
    record["formats"] = {"floppy": "sides=2"}
    (past.directory / inputs.FILE).write_text(json.dumps(record))


def name_a_variable_in_code(past: Past) -> None:
    proof = json.loads((past.directory / artifacts.PROOF).read_text())
    proof["environment"]["A$(id)"] = "x"
    (past.directory / artifacts.PROOF).write_text(json.dumps(proof))


def ask_for_a_secret_in_code(past: Past) -> None:
    proof = json.loads((past.directory / artifacts.PROOF).read_text())
    proof["environment"]["S\nid"] = MASK
    (past.directory / artifacts.PROOF).write_text(json.dumps(proof))


def name_a_file_in_code(past: Past) -> None:
    record = json.loads((past.directory / inputs.FILE).read_text())
    record["files"] = {"F;id": "0"}
    (past.directory / inputs.FILE).write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (vanish, NotFoundError),
        (forget_inputs, RefusedError),
        (tear, RefusedError),
        (empty, RefusedError),
        (forget_the_command, RefusedError),
        (name_another_format, RefusedError),
        (name_a_variable_in_code, RefusedError),
        (ask_for_a_secret_in_code, RefusedError),
        (name_a_file_in_code, RefusedError),
    ],
)
def test_a_record_that_says_too_little_is_refused_with_what_is_wrong(
    past: Past, damage: Callable[[Past], None], error: type[ImagepoolError]
) -> None:
    past.build()
    damage(past)
    with pytest.raises(error) as caught:
        past.script()
    assert str(past.directory) in caught.value.message
    assert caught.value.hint
