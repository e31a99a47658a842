"""Files that nodepool-builder left go with their record, and nothing else does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from builder.dib.output import inherited
from builder.errors import RefusedError
from builder.model import Build
from tests.unit.planning_world import IMAGE, NOW, build_id, ready


@pytest.fixture
def build() -> Build:
    """A build as nodepool's record tells it."""
    return replace(ready(1, NOW), started=None, ended=None, artifacts=(), formats=("qcow2", "tar", "../x"))


def files_of(directory: Path, build: Build) -> list[Path]:
    """What nodepool-builder and dib leave of it."""
    base = f"{build.image}-{build.id}"
    names = [f"{base}.{kind}{also}" for kind in ("qcow2", "tar") for also in ("", ".md5", ".sha256")]
    manifests = directory / f"{base}.d"
    manifests.mkdir()
    made = [manifests / "dib-manifest-dpkg", *(directory / name for name in names)]
    for file in made:
        file.write_text("x")
    return [*made, manifests]


def test_all_of_it_goes_and_nothing_that_is_like_it(tmp_path: Path, build: Build) -> None:
    theirs = files_of(tmp_path, build)
    others = files_of(tmp_path, replace(build, id=build_id(2))) + files_of(
        tmp_path, replace(build, image=f"{IMAGE}-x")
    )
    assert inherited.is_inherited(tmp_path, build)
    inherited.delete(tmp_path, build)
    assert not [file for file in theirs if file.exists()]
    assert all(file.exists() for file in others)
    inherited.delete(tmp_path, build)


def test_a_build_of_ours_is_none_of_nodepool_s(tmp_path: Path, build: Build) -> None:
    assert not inherited.is_inherited(tmp_path, replace(build, started=NOW))
    assert not inherited.is_inherited(tmp_path, ready(1, NOW))
    home = tmp_path / f"{build.image}-{build.id}.d"
    home.mkdir()
    (home / "build.json").write_text("{")
    assert not inherited.is_inherited(tmp_path, build)


def test_an_id_that_other_builds_may_have_proves_nothing(tmp_path: Path, build: Build) -> None:
    assert not inherited.is_inherited(tmp_path, replace(build, id="0000000001"))


def test_a_link_in_the_place_of_the_manifests_is_not_followed(tmp_path: Path, build: Build) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    (tmp_path / f"{build.image}-{build.id}.d").symlink_to(elsewhere)
    inherited.delete(tmp_path, build)
    assert (elsewhere / "precious").exists()


def test_names_that_can_not_be_files_are_refused(tmp_path: Path, build: Build) -> None:
    for wrong in (replace(build, image="../x"), replace(build, id="." * 32)):
        with pytest.raises(RefusedError):
            inherited.is_inherited(tmp_path, wrong)
