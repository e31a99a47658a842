"""The element container-release, with the element containerfile of diskimage-builder and no container."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.elements.trees import PROJECT
from tests.unit.elements_world import DIB_ELEMENTS

ELEMENT = PROJECT / "elements/container-release"
#: Stands in for podman: shows what it is given to build, and has an empty tree in its container.
RUNTIME = """#!/bin/bash
set -eu
case "$1" in
    build) while [ "$1" != -f ]; do shift; done; cat "$2" ;;
    export) tar -cf - --files-from /dev/null ;;
esac
"""


def make(directory: Path, element: str, release: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What happens from our hook to the end of containerfile's own, for an element with container files."""
    hooks, tree = directory / "hooks", directory / "tree"
    tree.mkdir()
    shutil.copytree(ELEMENT / "root.d", hooks / "root.d")
    shutil.copy(DIB_ELEMENTS / "containerfile/root.d/08-containerfile", hooks / "root.d")
    if (DIB_ELEMENTS / element / "containerfiles").exists():
        shutil.copytree(DIB_ELEMENTS / element / "containerfiles", hooks / "containerfiles")
    runtime = directory / "podman"
    runtime.write_text(RUNTIME)
    runtime.chmod(0o755)
    script = f"""
        get_image_element_array() {{ echo "[{element}]={DIB_ELEMENTS / element}"; }}
        export -f get_image_element_array
        {hooks}/root.d/07-container-release && {hooks}/root.d/08-containerfile
    """
    settings = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "TMP_HOOKS_PATH": str(hooks),
        "TARGET_ROOT": str(tree),
        "DIB_RELEASE": release,
        "DIB_IMAGE_CACHE": str(directory / "cache"),
        "DIB_CONTAINERFILE_RUNTIME": str(runtime),
        "DIB_DEBUG_TRACE": "0",
        **environment,
    }
    done = subprocess.run(["bash", "-c", script], env=settings, capture_output=True, text=True, check=False)
    assert list(tree.iterdir()) == []
    return done


def test_a_release_that_dib_does_not_know_is_made_as_the_newest_it_knows(tmp_path: Path) -> None:
    made = make(tmp_path, "fedora-container", "45")
    newest = (DIB_ELEMENTS / "fedora-container/containerfiles/37").read_text()
    assert made.returncode == 0, made.stderr
    assert newest.replace("fedora:37", "fedora:45") in made.stdout


@pytest.mark.parametrize(("element", "release"), [("rocky-container", "10"), ("almalinux-container", "9")])
def test_a_release_that_dib_knows_is_made_as_it_knows_it(tmp_path: Path, element: str, release: str) -> None:
    made = make(tmp_path, element, release)
    assert (DIB_ELEMENTS / element / "containerfiles" / release).read_text() in made.stdout


def test_a_container_file_of_ones_own_is_taken_as_it_is(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("FROM mine.example/fedora:45\n")
    made = make(tmp_path, "fedora-container", "45", DIB_CONTAINERFILE_DOCKERFILE=str(own))
    assert "\nFROM mine.example/fedora:45\n" in made.stdout


def test_without_container_files_it_is_an_error(tmp_path: Path) -> None:
    made = make(tmp_path, "debian-minimal", "trixie")
    assert made.returncode != 0
    assert "container-release: no element of this image has container files" in made.stdout


@pytest.mark.parametrize(
    ("distribution", "chosen", "without"),
    [
        ("fedora", {}, "redhat-lsb-core"),
        ("rocky", {}, ""),
        ("fedora", {"DIB_CONTAINER_RELEASE_WITHOUT": ""}, ""),
        ("rocky", {"DIB_CONTAINER_RELEASE_WITHOUT": "a b"}, "a b"),
    ],
)
def test_fedora_is_not_asked_for_what_it_no_longer_has(
    distribution: str, chosen: dict[str, str], without: str
) -> None:
    script = (
        f'source {ELEMENT}/environment.d/20-container-release.bash; echo "$DIB_CONTAINER_RELEASE_WITHOUT"'
    )
    said = subprocess.run(
        ["bash", "-euc", script],
        env={"DISTRO_NAME": distribution, **chosen},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == without
