"""What goes into a build: equal for equal recipes wherever they are, and every change shows."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from builder.config.model import MASK, DiskImage, FormatOptions
from builder.dib import command
from builder.dib.contents import inputs
from builder.dib.contents.inputs import Inputs
from builder.errors import RefusedError
from builder.model import ImageFormat
from tests.unit.dib_world import image, need_root
from tests.unit.service_user import NUMBER

KEY = b"of this installation"
ELEMENT = "special"


@pytest.fixture
def elements(tmp_path: Path) -> Path:
    """A directory of elements with one in it, that needs another."""
    place = tmp_path / "elements"
    script = place / ELEMENT / "install.d" / "10-it"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/bash\n")
    script.chmod(0o755)
    (place / ELEMENT / "element-deps").write_text("also\n")
    (place / "also").mkdir()
    (place / "also" / "README.rst").write_text("also\n")
    return place


def recipe(**changes: object) -> DiskImage:
    plain = image(
        dib_cmd=("disk-image-create",),
        elements=("debian-minimal", "vm", ELEMENT),
        environment={"DIB_WORD": "said", "TOKEN": "hush hush"},
        secret_names=frozenset({"TOKEN"}),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def collect(
    wanted: DiskImage, elements: Path, *, place: str = "/srv", key: bytes = KEY, **more: object
) -> Inputs:
    settings: dict[str, object] = {
        "build_id": f"build-of-{place[1:]}",
        "output": Path(place) / "out" / "image",
        "work_dir": Path(place),
        "cache_dir": Path(place) / "cache",
        "elements_dirs": (elements,),
        "mirrors": {},
    }
    rendered = command.render(wanted, **{**settings, **more})  # type: ignore[arg-type]
    return inputs.collect(wanted, rendered, key=key)


def test_two_builds_of_one_recipe_have_the_same_inputs_wherever_they_work(
    elements: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "checked out by another"
    shutil.copytree(elements, elsewhere)
    for file in (elsewhere / ELEMENT).rglob("*"):
        file.chmod(0o775 if file.stat().st_mode & 0o100 else 0o664)
        os.utime(file, (0, 0))
    (elsewhere / ELEMENT / "__pycache__").mkdir()
    (elsewhere / ELEMENT / "__pycache__" / "x.pyc").write_text("x")
    (elsewhere / ELEMENT / "tests").mkdir()
    (elsewhere / ELEMENT / "tests" / "test_it").write_text("x")
    before = collect(recipe(), elements)
    again = collect(
        recipe(),
        elsewhere,
        place="/other",
        programs=Path("/opt/dib/bin"),
        proxies={"http_proxy": "http://p:1"},
    )
    assert again == before
    assert set(before.digests) == {"command", "environment", "elements", "dib", "formats"}
    assert {ELEMENT, "also", "debian-minimal", "base", "block-device-mbr", "imagepool-manifest"} <= set(
        before.elements
    )


def changed(before: Inputs, after: Inputs) -> set[str]:
    """The kinds of digests that differ."""
    kinds = before.digests.keys() | after.digests.keys()
    return {kind for kind in kinds if before.digests.get(kind) != after.digests.get(kind)}


def rewrite(elements: Path) -> None:
    (elements / ELEMENT / "install.d" / "10-it").write_text("#!/bin/bash\ntrue\n")


def rename(elements: Path) -> None:
    hooks = elements / ELEMENT / "install.d"
    (hooks / "10-it").rename(hooks / "11-it")


def unset(elements: Path) -> None:
    (elements / ELEMENT / "install.d" / "10-it").chmod(0o644)


def add(elements: Path) -> None:
    (elements / "also" / "package-installs.yaml").write_text("vim:\n")


@pytest.mark.parametrize("change", [rewrite, rename, unset, add])
def test_a_change_of_an_element_is_seen_and_named(elements: Path, change: Callable[[Path], None]) -> None:
    before = collect(recipe(), elements)
    change(elements)
    after = collect(recipe(), elements)
    assert changed(before, after) == {"elements"}
    names = {name for name in before.elements if before.elements[name] != after.elements[name]}
    assert names == {"also" if change is add else ELEMENT}


ENVIRONMENT = {"DIB_WORD": "said", "TOKEN": "hush hush"}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("environment", {"environment": {**ENVIRONMENT, "DIB_WORD": "unsaid"}}),
        ("environment", {"environment": {**ENVIRONMENT, "MORE": ""}}),
        ("environment", {"environment": {**ENVIRONMENT, "TOKEN": "another"}}),
        ("environment", {"environment": {**ENVIRONMENT, "http_proxy": "http://meant.test"}}),
        ("command", {"dib_cmd": ("disk-image-create", "--image-size", "4")}),
        ("command", {"elements": ("vm", "debian-minimal", ELEMENT)}),
        ("formats", {"formats": (ImageFormat.QCOW2, ImageFormat.RAW)}),
        ("formats", {"format_options": {"qcow2": FormatOptions(compression="zlib")}}),
    ],
)
def test_a_change_of_the_recipe_is_seen(elements: Path, kind: str, changes: dict[str, object]) -> None:
    assert changed(collect(recipe(), elements), collect(recipe(**changes), elements)) == {kind}


def test_a_file_that_a_variable_names_counts_with_its_content(elements: Path, tmp_path: Path) -> None:
    keys = tmp_path / "authorized_keys"
    keys.write_text("ann")
    wanted = recipe(environment={"DIB_KEYS": f"file://{keys} /no/such/file"})
    before = collect(wanted, elements)
    os.utime(keys, (0, 0))
    assert changed(before, collect(wanted, elements)) == set()
    keys.write_text("bob")
    after = collect(wanted, elements)
    assert changed(before, after) == {"environment"}
    assert set(after.files) == {"DIB_KEYS"}


def test_a_file_that_only_root_may_look_at_counts_as_unreadable(elements: Path, tmp_path: Path) -> None:
    need_root()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    wanted = recipe(environment={"DIB_KEYS": str(closed / "authorized_keys")})
    os.seteuid(NUMBER)
    try:
        found = collect(wanted, elements)
    finally:
        os.seteuid(0)
    assert set(found.files) == {"DIB_KEYS"}


@pytest.mark.parametrize("word", ["/CN=/" + "long" * 2000, "/no/such\0file"])
def test_what_can_be_no_path_names_no_file(elements: Path, word: str) -> None:
    assert collect(recipe(environment={"DIB_WORD": word}), elements).files == {}


def test_a_directory_that_a_variable_names_counts_even_when_links_in_it_go_round(
    elements: Path, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "round").symlink_to(tree)
    wanted = recipe(environment={"DIB_TREE": str(tree)})
    before = collect(wanted, elements)
    (tree / "new").write_text("x")
    assert changed(before, collect(wanted, elements)) == {"environment"}


def test_what_is_too_large_to_read_is_told_by_its_size(elements: Path, tmp_path: Path) -> None:
    large = tmp_path / "base.raw"
    with large.open("wb") as stream:
        stream.truncate(1 << 30)
    wanted = recipe(environment={"DIB_LOCAL_IMAGE": str(large)})
    before = collect(wanted, elements)
    with large.open("ab") as stream:
        stream.truncate((1 << 30) + 1)
    assert changed(before, collect(wanted, elements)) == {"environment"}


def test_a_secret_can_neither_be_read_nor_guessed_from_the_record(elements: Path, tmp_path: Path) -> None:
    wanted = recipe(environment={"TOKEN": "hush hush", "A_URL": "http://ann:p4ss@mirror.test/"})
    ours = collect(wanted, elements)
    inputs.write(tmp_path, ours)
    text = (tmp_path / inputs.FILE).read_text()
    assert "hush" not in text + repr(ours)
    assert "p4ss" not in text + repr(ours)
    assert ours.environment["TOKEN"] == ours.environment["A_URL"] == MASK
    theirs = collect(wanted, elements, key=b"of another installation")
    assert ours.secrets.keys() == theirs.secrets.keys() == {"TOKEN", "A_URL"}
    assert not set(ours.secrets.values()) & set(theirs.secrets.values())


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (("debian-minimal", "no-such-element"), "no-such-element"),
        (("vm",), "operating system"),
        (("debian-minimal", "debian-minimal", "ubuntu-minimal"), "provided"),
    ],
)
def test_elements_that_dib_would_refuse_are_unknown_and_no_error_here(
    elements: Path, wrong: tuple[str, ...], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    found = collect(recipe(elements=wrong), elements)
    assert says in found.unknown["elements"]
    assert "elements" not in found.digests


def test_a_directory_of_elements_that_is_missing_is_unknown(tmp_path: Path) -> None:
    assert "nowhere" in collect(recipe(), tmp_path / "nowhere").unknown["elements"]


@pytest.mark.parametrize(
    ("dib_cmd", "present", "absent"),
    [
        (("disk-image-create",), {"base", "block-device-mbr"}, {"block-device-efi"}),
        (("disk-image-create", "-n"), {"block-device-mbr"}, {"base"}),
        (("disk-image-create", "-xn"), set(), {"base"}),
        (("disk-image-create", "block-device-gpt"), {"base", "block-device-gpt"}, {"block-device-mbr"}),
        (("nice", "-n", "5", "/opt/dib/bin/disk-image-create"), {"base"}, {"block-device-efi"}),
        (("/somewhere/my-dib",), {"base"}, set()),
    ],
)
def test_elements_are_those_that_disk_image_create_would_take(
    elements: Path, dib_cmd: tuple[str, ...], present: set[str], absent: set[str]
) -> None:
    found = set(collect(recipe(dib_cmd=dib_cmd), elements).elements)
    assert present <= found
    assert not absent & found


def test_on_arm_the_layout_of_vm_is_another(elements: Path) -> None:
    wanted = recipe()
    assert wanted.platform is not None
    arm = replace(wanted, platform=replace(wanted.platform, architecture="arm64"))
    assert "block-device-efi" in collect(arm, elements).elements


def test_the_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: inputs.secret_key(tmp_path / "state"), range(32)))
    (key,) = keys
    assert len(key) == 32
    assert inputs.secret_key(tmp_path / "other") != key
    (file,) = (tmp_path / "state").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"no key", b"ab", b"\xff\xfe", b"ab" * 33])
def test_a_damaged_key_is_told_and_not_used(tmp_path: Path, content: bytes) -> None:
    inputs.secret_key(tmp_path)
    (tmp_path / inputs.KEY).write_bytes(content)
    with pytest.raises(RefusedError, match=r"inputs\.key is damaged; remove it to have a new one"):
        inputs.secret_key(tmp_path)
    (tmp_path / inputs.KEY).unlink()
    assert len(inputs.secret_key(tmp_path)) == 32


def test_what_is_written_is_read_again(elements: Path, tmp_path: Path) -> None:
    wanted = recipe(format_options={"qcow2": FormatOptions(compression="none", compat="0.10")})
    found = collect(wanted, elements).with_digests({"git x": "abc", "packages": "def"})
    inputs.write(tmp_path, found)
    assert inputs.read(tmp_path) == found
    assert inputs.format_options(found) == {ImageFormat.QCOW2: wanted.format_options["qcow2"]}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"digests": 1}', '{"digests": {"a": 1}}', "\x00"])
def test_a_damaged_file_says_nothing(tmp_path: Path, text: str) -> None:
    assert inputs.read(tmp_path) is None
    (tmp_path / inputs.FILE).write_text(text)
    assert inputs.read(tmp_path) is None


def python_with_dib(place: Path, version: str) -> Path:
    """A Python beside ours with a diskimage-builder in it; its disk-image-create."""
    packages = place / "lib" / "python3.11" / "site-packages"
    for element, files in {
        "other-os": {"element-provides": "operating-system"},
        "base": {},
        "vm": {},
    }.items():
        directory = packages / "diskimage_builder" / "elements" / element
        directory.mkdir(parents=True)
        for name, text in {"README.rst": element, **files}.items():
            (directory / name).write_text(f"{text}\n")
    information = packages / f"diskimage_builder-{version}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: diskimage-builder\nVersion: {version}\n"
    )
    program = place / "bin" / "disk-image-create"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return program


def test_a_diskimage_builder_of_another_python_counts_with_its_own_elements(
    elements: Path, tmp_path: Path
) -> None:
    theirs = python_with_dib(tmp_path / "venv", "2.0.1")
    found = collect(recipe(dib_cmd=(str(theirs),), elements=("other-os",)), elements)
    assert found.digests["dib"] == "2.0.1"
    assert set(found.elements) == {"base", "other-os", "imagepool-manifest"}


def test_a_program_that_runs_ours_counts_with_its_content(elements: Path, tmp_path: Path) -> None:
    runner = tmp_path / "my-dib"
    runner.write_text("#!/bin/sh\n")
    runner.chmod(0o755)
    before = collect(recipe(dib_cmd=(str(runner),)), elements)
    runner.write_text("#!/bin/sh\ntrue\n")
    assert changed(before, collect(recipe(dib_cmd=(str(runner),)), elements)) == {"dib"}
