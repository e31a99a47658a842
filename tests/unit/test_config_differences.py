"""`config show --diff`: how two platforms or diskimages differ, as lines and as data, without secrets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from builder.config.differences import as_data, compare
from builder.errors import NotFoundError
from tests.unit.cli_world import Result, World
from tests.unit.config_world import Files

TEXT = """\
platforms:
  - name: "debian-{{ platform.release }}"
    distribution: debian
    mirror: https://me:sesame@mirror.example/
    properties: {os_version: "{{ platform.version }}"}
    matrix:
      - {release: bookworm, variables: {version: "12", boot: [vm]}}
      - {release: trixie, variables: {version: "13", boot: [block-device-efi, efi]}}
diskimages:
  - name: ci
    abstract: true
    elements: [debian-minimal, "{{ platform.boot }}", openssh-server, "{{ platform.name }}-only"]
    env-vars: {SAME: x, RELEASE: "{{ platform.release }}", TOKEN: "hush {{ platform.release }}"}
  - name: "{{ platform.name }}"
    parent: ci
    platforms: ["*"]
  - name: debian-plain
    formats: [raw]
    elements: [openssh-server, debian-minimal]
    env-vars: {"EVIL": "a\\e[31mb\\nc", EMPTY: "", TOKEN: hush trixie}
    format-options: {qcow2: {compression: zlib}}
    pause: true
"""


@pytest.fixture
def files(tmp_path: Path) -> Files:
    found = Files(tmp_path)
    found.write(TEXT)
    return found


def run(files: Files, *words: str) -> Result:
    """What a command prints of the file."""
    return World(config=files.load()).run(*words)


def diff(files: Files, *words: str) -> Result:
    """What `config show --diff` prints of it."""
    return run(files, "config", "show", "--diff", *words)


def test_two_diskimages_differ_in_what_comes_out_of_them(files: Files) -> None:
    shown = diff(files, "debian-bookworm", "debian-trixie")
    assert (shown.code, shown.err) == (0, "")
    assert (
        shown.out
        == """\
--- diskimage debian-bookworm
+++ diskimage debian-trixie
  platform:
-   name: debian-bookworm
+   name: debian-trixie
-   release: bookworm
+   release: trixie
    properties:
-     os_version: 12
+     os_version: 13
    variables:
-     version: 12
+     version: 13
      boot:
-       vm
+       block-device-efi
+       efi
  elements:
    debian-minimal
-   vm
+   block-device-efi
+   efi
    openssh-server
-   debian-bookworm-only
+   debian-trixie-only
  env-vars:
-   DIB_RELEASE: bookworm
+   DIB_RELEASE: trixie
-   RELEASE: bookworm
+   RELEASE: trixie
-   TOKEN: ********
+   TOKEN: ******** (another)
  metadata:
-   os_version: 12
+   os_version: 13
""".replace("-   debian-bookworm-only\n+   block", "+   block").replace(
            "    openssh-server\n+", "    openssh-server\n-   debian-bookworm-only\n+"
        )
    )


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_programs_get_the_same_as_data(files: Files, form: str) -> None:
    shown = diff(files, "debian-bookworm", "debian-trixie", "-f", form)
    data = json.loads(shown.out) if form == "json" else yaml.safe_load(shown.out)
    assert shown.code == 0
    assert data["diskimages"] == ["debian-bookworm", "debian-trixie"]
    assert data["same"] is False
    assert data["differences"]["elements"] == {
        "removed": ["vm", "debian-bookworm-only"],
        "added": ["block-device-efi", "efi", "debian-trixie-only"],
    }
    assert data["differences"]["env-vars"]["RELEASE"] == {"from": "bookworm", "to": "trixie"}
    assert data["differences"]["platform"]["properties"] == {"os_version": {"from": "12", "to": "13"}}
    assert "hush" not in shown.out and "sesame" not in shown.out


def test_what_only_one_of_them_has_has_one_side(files: Files) -> None:
    data = as_data(compare(files.load(), "debian-trixie", "debian-plain"))["differences"]
    assert data["platform"]["distribution"] == {"from": "debian"}
    assert data["formats"] == {"removed": [], "added": ["raw"]}
    assert data["format-options"] == {"qcow2": {"compression": {"to": "zlib"}}}
    assert data["pause"] == {"from": False, "to": True}
    assert data["env-vars"]["EMPTY"] == {"to": ""}
    # The same secret is no difference.
    assert "TOKEN" not in data["env-vars"]


SECRETS = """\
platforms:
  - name: "p-{{ platform.release }}"
    distribution: debian
    mirror: "https://me:{{ platform.word }}@mirror.example/"
    properties: {api_token: "{{ platform.word }}"}
    variables: {db: {password: "{{ platform.word }}", same_token: x}, urls: ["ftp://{{ platform.word }}@h/"]}
    matrix:
      - {release: one, variables: {word: sesame}}
      - {release: two, variables: {word: mellon}}
diskimages:
  - name: "{{ platform.name }}"
    platforms: ["*"]
    env-vars: {MY_TOKEN: "{{ platform.word }}", SAME_TOKEN: x}
    dib-cmd: "dib ftp://{{ platform.word }}@h/"
"""


@pytest.mark.parametrize("kind", ["platform", "diskimage"])
def test_secrets_that_differ_are_told_and_not_shown(files: Files, kind: str) -> None:
    config = files.load(SECRETS)
    if kind == "platform":
        config = replace(config, diskimages={})
    found = as_data(compare(config, "p-one", "p-two"))["differences"]
    platform = found if kind == "platform" else found["platform"]
    another = {"from": "********", "to": "******** (another)"}
    assert platform["mirror"]["to"] == "https://********@mirror.example/ (another)"
    assert platform["properties"] == {"api_token": another}
    assert platform["variables"] == {
        "word": another,
        "db": {"password": another},
        "urls": {"removed": ["ftp://********@h/"], "added": ["ftp://********@h/ (another)"]},
    }
    if kind == "diskimage":
        assert found["env-vars"] == {"DIB_RELEASE": {"from": "one", "to": "two"}, "MY_TOKEN": another}
        assert found["metadata"]["api_token"] == another
        assert found["dib-cmd"]["to"].endswith(" (another)")
    assert "sesame" not in str(found) and "mellon" not in str(found)


def test_elements_that_changed_places_are_told(files: Files) -> None:
    shown = diff(files, "debian-trixie", "debian-plain").out
    assert (
        shown.partition("  elements:\n")[2].partition("  env-vars:\n")[0]
        == """\
+   openssh-server
    debian-minimal
-   block-device-efi
-   efi
-   openssh-server
-   debian-trixie-only
"""
    )


def test_nothing_acts_on_the_terminal(files: Files) -> None:
    shown = diff(files, "debian-trixie", "debian-plain").out
    assert "+   EVIL: a\\x1b[31mb\\nc\n" in shown
    assert "+   EMPTY: ''\n" in shown
    assert "\x1b" not in shown


def test_nothing_differs_from_itself(files: Files) -> None:
    shown = diff(files, "debian-trixie", "debian-trixie")
    assert shown.out == "--- diskimage debian-trixie\n+++ diskimage debian-trixie\n"
    data = as_data(compare(files.load(), "debian-trixie", "debian-trixie"))
    assert data == {"diskimages": ["debian-trixie"] * 2, "same": True, "differences": {}}


def test_platforms_are_compared_where_these_are_no_diskimages(files: Files) -> None:
    config = replace(files.load(), diskimages={})
    data = as_data(compare(config, "debian-bookworm", "debian-trixie"))
    assert data["platforms"] == ["debian-bookworm", "debian-trixie"]
    assert data["differences"]["release"] == {"from": "bookworm", "to": "trixie"}
    assert data["differences"]["variables"]["boot"] == {
        "removed": ["vm"],
        "added": ["block-device-efi", "efi"],
    }


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (("debian-trixie", "debian-trixy"), "no platform or diskimage 'debian-trixy'; did you mean"),
        (("ci", "debian-trixie"), "ci is abstract"),
    ],
)
def test_what_is_not_there_is_told(files: Files, names: tuple[str, str], why: str) -> None:
    shown = diff(files, *names)
    assert (shown.code, shown.out) == (3, "")
    assert why in shown.err


def test_a_platform_and_a_diskimage_are_not_compared(files: Files) -> None:
    config = files.load("platforms:\n- {name: p, distribution: d, release: r}\ndiskimages:\n- {name: a}\n")
    with pytest.raises(NotFoundError, match="p and a are not both platforms, nor both diskimages"):
        compare(config, "p", "a")


def test_without_diff_all_is_shown_as_ever(files: Files) -> None:
    assert yaml.safe_load(run(files, "config", "show").out) == json.loads(
        run(files, "config", "show", "-f", "json").out
    )


def test_render_shows_what_comes_out_of_an_expanded_diskimage(files: Files) -> None:
    shown = run(files, "image", "render", "debian-trixie")
    assert shown.code == 0
    lines = shown.out.splitlines()
    elements = "debian-minimal block-device-efi efi openssh-server debian-trixie-only"
    assert lines[:3] == [
        "# platform: debian-trixie (debian trixie amd64)",
        f"# elements: {elements}",
        "# formats: none",
    ]
    assert "# property: os_version=13" in lines
    assert "RELEASE=trixie" in lines and "TOKEN='********'" in lines
    assert "sesame" not in shown.out and "hush" not in shown.out
    assert elements in lines[-1]
