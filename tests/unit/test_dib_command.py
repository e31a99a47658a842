"""The command a diskimage becomes, and the script that does the same by hand."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.config.model import MASK, DiskImage, FormatOptions
from builder.dib import command
from builder.dib.isolation import sandbox
from builder.model import ImageFormat
from tests.unit.dib_world import BUILD, FAKE_DIB, eventually, image, need_root, shellcheck, traces


def render(recipe: DiskImage, place: Path = Path("/srv"), **more: object) -> command.Command:
    settings = {
        "build_id": BUILD,
        "output": place / "out" / f"{recipe.name}-{BUILD}",
        "work_dir": place / "work",
        "cache_dir": place / "cache",
        "elements_dirs": (),
        "mirrors": {},
    }
    return command.render(recipe, **{**settings, **more})  # type: ignore[arg-type]


def test_dib_makes_raw_only_with_the_elements_in_their_order() -> None:
    recipe = image(dib_cmd=("disk-image-create",), elements=("vm", "debian-minimal", "my-own"))
    assert render(recipe).argv == (
        *("disk-image-create", "-x", "-a", "amd64", "-t", "raw", "--no-tmpfs"),
        *("-o", f"/srv/out/debian-bookworm-{BUILD}", "vm", "debian-minimal", "my-own"),
        "imagepool-manifest",
    )


def test_the_environment_is_the_builds_own_and_not_the_daemons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OS_PASSWORD", "of the cloud")
    environment = render(image(), elements_dirs=(Path("/a"), Path("/b"))).environment
    assert "OS_PASSWORD" not in environment
    assert environment["HOME"].startswith("/srv/work/")
    assert environment["TMPDIR"] == environment["TMP_DIR"] == "/srv/work/tmp"
    assert environment["ELEMENTS_PATH"] == f"/a:/b:{command.shipped_elements()}"
    assert environment["DIB_RELEASE"] == "bookworm"
    assert environment["ARCH"] == "amd64"
    assert {"/usr/sbin", "/sbin"} <= set(environment["PATH"].split(":"))


def test_our_own_elements_are_found_whatever_the_diskimage_says_of_the_search() -> None:
    recipe = image(environment={"ELEMENTS_PATH": "/mine"}, elements=("imagepool-manifest", "vm"))
    rendered = render(recipe, elements_dirs=(Path("/a"),))
    assert rendered.environment["ELEMENTS_PATH"] == f"/mine:{command.shipped_elements()}"
    assert (command.shipped_elements() / command.MANIFEST_ELEMENT / "README.rst").is_file()
    assert rendered.argv[-2:] == ("imagepool-manifest", "vm")


def test_proxies_are_passed_on_in_either_spelling() -> None:
    proxies = command.proxies({"http_proxy": "http://p:1", "NO_PROXY": "localhost", "HOME": "/root"})
    environment = render(image(), proxies=proxies).environment
    assert environment["http_proxy"] == "http://p:1"
    assert environment["NO_PROXY"] == "localhost"
    assert environment["HOME"] != "/root"


def test_the_diskimages_own_environment_wins() -> None:
    recipe = image(
        environment={"DIB_RELEASE": "trixie", "DIB_DISTRIBUTION_MIRROR": "http://mine.test/debian"}
    )
    environment = render(recipe, mirrors={"DIB_DISTRIBUTION_MIRROR": "http://mirror.test/debian"}).environment
    assert environment["DIB_RELEASE"] == "trixie"
    assert environment["DIB_DISTRIBUTION_MIRROR"] == "http://mine.test/debian"


def test_without_a_platform_dib_decides_release_and_architecture() -> None:
    rendered = render(image(platform=None))
    assert "-a" not in rendered.argv
    assert not {"ARCH", "DIB_RELEASE"} & rendered.environment.keys()


def test_secrets_are_shown_nowhere() -> None:
    recipe = image(environment={"TOKEN": "hush hush"}, secret_names=frozenset({"TOKEN", "UNUSED"}))
    rendered = render(recipe)
    assert rendered.environment["TOKEN"] == "hush hush"
    assert rendered.shown_environment["TOKEN"] == MASK
    assert rendered.secret_names == {"TOKEN"}
    for shown in (repr(rendered), command.script(rendered, recipe)):
        assert "hush" not in shown


def test_each_image_has_a_cache_of_its_own_for_apt_locks_it() -> None:
    bookworm, trixie = (render(image(name=name)).environment for name in ("bookworm", "trixie"))
    assert bookworm["DIB_IMAGE_CACHE"] == "/srv/cache/image-create/bookworm"
    assert trixie["DIB_IMAGE_CACHE"] == "/srv/cache/image-create/trixie"
    assert bookworm["DIB_LOCKFILES"] == trixie["DIB_LOCKFILES"]


@pytest.mark.parametrize("where", ["mirrors", "proxies", "environment"])
def test_credentials_in_a_url_are_secret_wherever_it_comes_from(where: str) -> None:
    given = {"A_URL": "http://ann:p4ss@mirror.test/debian"}
    recipe = image(environment=given) if where == "environment" else image()
    rendered = render(recipe) if where == "environment" else render(recipe, **{where: given})
    assert rendered.environment["A_URL"] == given["A_URL"]
    assert rendered.shown_environment["A_URL"] == MASK
    assert set(rendered.secrets) == {given["A_URL"], "ann:p4ss"}
    assert "p4ss" not in command.script(rendered, recipe)


def test_the_script_is_clean_under_shellcheck(tmp_path: Path) -> None:
    recipe = image(environment={"TOKEN": "hush"}, secret_names=frozenset({"TOKEN"}))
    assert shellcheck(command.script(render(recipe, tmp_path), recipe)) == ""


def test_the_script_makes_formats_with_their_options() -> None:
    options = {"qcow2": FormatOptions(compression="none", compat="0.10")}
    recipe = image(format_options=options)
    text = command.script(render(recipe), recipe)
    assert "compat=0.10" in text
    assert "compression_type" not in text


def test_a_build_that_is_moved_is_the_same_but_for_its_places() -> None:
    before = render(image(environment={"WORD": "said"}))
    after = command.moved(
        before,
        "debian-bookworm",
        output=Path("/new/out/image"),
        work_dir=Path("/new"),
        cache_dir=Path("/new/cache"),
    )
    for place in ("/srv/work", "/srv/cache"):
        assert place not in str((after.argv, dict(after.environment)))
    assert (
        after.argv[after.argv.index("-o") + 1] == after.environment["DIB_IMAGE_FILENAME"] == "/new/out/image"
    )
    changed = {n for n, value in after.environment.items() if before.environment[n] != value}
    assert changed == {
        "HOME",
        "TMPDIR",
        "TMP_DIR",
        "DIB_IMAGE_FILENAME",
        "DIB_IMAGE_CACHE",
        "DIB_LOCKFILES",
        "DIB_BASE_CACHE",
        "DIB_CACHE_GIT_DIR",
    }


def start_script(text: str, place: Path, **environment: str) -> subprocess.Popen[str]:
    file = place / "build-by-hand"
    file.write_text(text)
    return subprocess.Popen(
        ["bash", str(file)],
        cwd=place,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_script(text: str, place: Path, **environment: str) -> tuple[int, str]:
    """The exit code and what it printed."""
    with start_script(text, place, **environment) as running:
        try:
            output, _ = running.communicate(timeout=60)
        finally:
            running.kill()
        return running.returncode, output


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / f"a control {uuid.uuid4().hex}"  # it names files in /tmp
    directory.mkdir()
    yield directory
    for device in [device for file in tmp_path.rglob("image0.raw") for device in devices_over(file)]:
        subprocess.run(["partx", "--delete", device], check=False)
        subprocess.run(["losetup", "--detach", device], check=True)
        Path("/dev/mapper", f"{Path(device).name}p1").unlink(missing_ok=True)


def last_run(control: Path) -> dict[str, Any]:
    (run,) = map(json.loads, (control / "runs").read_text().splitlines())
    assert isinstance(run, dict)
    return run


def test_the_script_asks_for_its_secrets(tmp_path: Path) -> None:
    need_root()
    recipe = image(environment={"TOKEN": "hush hush"}, secret_names=frozenset({"TOKEN"}))
    code, output = run_script(command.script(render(recipe, tmp_path), recipe), tmp_path)
    assert code != 0
    assert "set TOKEN" in output


def test_the_script_builds_the_same_image_by_hand(tmp_path: Path, control: Path) -> None:
    need_root()
    recipe = image(
        environment={"TOKEN": "hush", "FAKE_DIB_CONTROL": str(control), "WORDS": 'it\'s "$quoted"'},
        secret_names=frozenset({"TOKEN"}),
        formats=(ImageFormat.QCOW2, ImageFormat.VHD),
    )
    rendered = render(recipe, tmp_path)
    token = 'from "outside"\nit\'s $TWO lines'
    code, output = run_script(command.script(rendered, recipe), tmp_path, TOKEN=token)
    assert code == 0, output
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".d", ".qcow2", ".vhd"}
    got = {name: last_run(control)["environment"].get(name) for name in rendered.environment}
    assert got == {**rendered.environment, "TOKEN": token}


def test_the_script_shows_secrets_on_no_command_line(tmp_path: Path, control: Path) -> None:
    need_root()
    (control / "pause").touch()
    recipe = image(control)
    recipe = image(environment={**recipe.environment, "TOKEN": "x"}, secret_names=frozenset({"TOKEN"}))
    token = "s3cret-of-the-caller"
    with start_script(command.script(render(recipe, tmp_path), recipe), tmp_path, TOKEN=token) as running:
        try:
            eventually((control / "paused").exists, "the build waits")
            lines = command_lines()
            assert any(str(FAKE_DIB) in line and str(tmp_path) in line for line in lines)
            assert [line for line in lines if token in line] == []
            (control / "pause").unlink()
            output, _ = running.communicate(timeout=60)
            assert running.returncode == 0, output
        finally:
            running.kill()
    assert last_run(control)["environment"]["TOKEN"] == token


def command_lines() -> list[str]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


@pytest.mark.parametrize("fails", [False, True])
def test_the_script_leaves_neither_loop_devices_nor_files_in_tmp(
    tmp_path: Path, control: Path, fails: bool
) -> None:
    need_root()
    for knob in ("loop", "tmp"):
        (control / knob).touch()
    if fails:
        (control / "fail").write_text("cleanup 7")
    place = tmp_path / "it's a $(place)"
    place.mkdir()
    recipe = image(control)
    code, output = run_script(command.script(render(recipe, place), recipe), tmp_path)
    assert code == (7 if fails else 0), output
    left = f"left-by-fake-dib-{control.name}"
    assert (place / "work" / "tmp" / left).exists()
    assert not Path("/tmp", left).exists()
    assert devices_over(place / "work" / "tmp" / "image0.raw") == []


@pytest.mark.skipif(sandbox.has_device_mapper(), reason="kpartx itself is used where there is device-mapper")
def test_the_script_takes_partitions_of_its_loop_devices_away(tmp_path: Path, control: Path) -> None:
    need_root()
    (control / "loop").touch()
    (control / "pause.finalise").touch()
    (control / "pause.cleanup").touch()
    recipe = image(control)
    with start_script(command.script(render(recipe, tmp_path), recipe), tmp_path) as running:
        try:
            loops = tmp_path / "work" / "tmp" / "loops"
            eventually(lambda: loops.exists() and loops.read_text().endswith("\n"), "a loop device is listed")
            device = loops.read_text().strip()
            backing = tmp_path / "work" / "tmp" / "image0.raw"
            eventually(lambda: len(traces(device, backing)) == 3, "device, partition and link are there")
            for knob in ("pause.finalise", "pause.cleanup"):
                (control / knob).unlink()
            output, _ = running.communicate(timeout=60)
        finally:
            running.kill()
    assert running.returncode == 0, output
    assert devices_over(backing) == []
    eventually(lambda: traces(device, backing) == [], "nothing is left of the device")


def devices_over(file: Path) -> list[str]:
    """Loop devices over a file, known by its inode: paths of a namespace that is gone tell nothing."""
    assert file.exists()
    return subprocess.run(
        ["losetup", "--noheadings", "--output", "NAME", "--associated", str(file)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
