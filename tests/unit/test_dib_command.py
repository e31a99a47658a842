"""The command a diskimage becomes, and the script that does the same by hand."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from builder.config.model import MASK, DiskImage
from builder.dib import command
from builder.model import ImageFormat
from tests.unit.dib_world import BUILD, image, need_root


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
    )


def test_the_environment_is_the_builds_own_and_not_the_daemons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OS_PASSWORD", "of the cloud")
    environment = render(image(), elements_dirs=(Path("/a"), Path("/b"))).environment
    assert "OS_PASSWORD" not in environment
    assert environment["HOME"].startswith("/srv/work/")
    assert environment["TMPDIR"] == environment["TMP_DIR"] == "/srv/work/tmp"
    assert environment["ELEMENTS_PATH"] == "/a:/b"
    assert environment["DIB_RELEASE"] == "bookworm"
    assert environment["ARCH"] == "amd64"
    assert {"/usr/sbin", "/sbin"} <= set(environment["PATH"].split(":"))


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


def run_script(text: str, place: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    file = place / "build-by-hand"
    file.write_text(text)
    return subprocess.run(
        ["bash", str(file)],
        cwd=place,
        check=False,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_script_asks_for_its_secrets(tmp_path: Path) -> None:
    need_root()
    recipe = image(environment={"TOKEN": "hush hush"}, secret_names=frozenset({"TOKEN"}))
    done = run_script(command.script(render(recipe, tmp_path), recipe), tmp_path)
    assert done.returncode != 0
    assert "set TOKEN" in done.stderr


def test_the_script_builds_the_same_image_by_hand(tmp_path: Path) -> None:
    need_root()
    control = tmp_path / "a control"
    control.mkdir()
    (control / "loop").touch()
    recipe = image(
        environment={"TOKEN": "hush", "FAKE_DIB_CONTROL": str(control), "WORDS": 'it\'s "$quoted"'},
        secret_names=frozenset({"TOKEN"}),
        formats=(ImageFormat.QCOW2, ImageFormat.VHD),
    )
    done = run_script(command.script(render(recipe, tmp_path), recipe), tmp_path, TOKEN="from outside")
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        made = {path.suffix for path in (tmp_path / "out").iterdir()}
        assert made == {".d", ".qcow2", ".vhd"}
        (run,) = (control / "runs").read_text().splitlines()
        assert '"TOKEN": "from outside"' in run
        assert '"WORDS": "it\'s \\"$quoted\\""' in run
    finally:
        release_loops(tmp_path / "work")


def release_loops(work: Path) -> None:
    """Give back the loop device that the scripted build was told to leave."""
    for line in (
        (work / "tmp" / "loops").read_text().splitlines() if (work / "tmp" / "loops").exists() else ()
    ):
        subprocess.run(["partx", "--delete", line], check=False, capture_output=True)
        subprocess.run(["losetup", "--detach", line], check=True)
        Path("/dev/mapper", f"{Path(line).name}p1").unlink(missing_ok=True)
