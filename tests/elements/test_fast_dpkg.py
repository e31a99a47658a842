"""fast-dpkg: the image is what it would have been, file for file, and packages unpacked less meanwhile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest

from tests.elements.hooks import Hooks
from tests.elements.trees import Tree, Trees
from tests.trees import differences

#: What is not the same in any two builds, tells of the build itself, or comes of looking into the tree.
UNLIKE: Final = ("dev/", "etc/dib-manifests", "etc/shadow", "proc", "var/cache/apt/", "var/cache/ldconfig")
#: A package of nothing, to have apt run dpkg.
EMPTY: Final = """
mkdir -p /empty/DEBIAN
cat > /empty/DEBIAN/control <<EOF
Package: empty
Version: 1
Architecture: all
Maintainer: no
Description: no
EOF
dpkg-deb --build /empty /empty.deb
"""
ELEMENTS: Final = ("untidy", "runtime-ssh-host-keys", "slim")


@pytest.fixture
def tree(trees: Trees) -> Tree:
    """A tree that was built with it."""
    return trees.build(*ELEMENTS, "fast-dpkg")


def saved(tree: Tree) -> dict[str, int]:
    """Bytes that slim removed, by cause."""
    found: dict[str, int] = json.loads((tree.beside / "slim.json").read_text())["saved"]
    return found


def settings(tree: Tree) -> set[str]:
    """What dpkg, apt and rpm are told by files of ours."""
    names = {"slim", "zz-fast-dpkg", "99fast-dpkg", "macros.fast-dpkg"}
    places = ("etc/dpkg/dpkg.cfg.d", "etc/apt/apt.conf.d", "etc/rpm")
    files = [file for place in places for file in (tree.root / place).glob("*") if file.name in names]
    return {line for file in files for line in file.read_text().splitlines() if line}


def test_the_image_is_the_same_as_without_it_and_less_had_to_be_removed(tree: Tree, trees: Trees) -> None:
    without = trees.build(*ELEMENTS)

    found = {path for path in differences(without.root, tree.root) if not path.startswith(UNLIKE)}
    assert found == set()
    # The packages that were installed meanwhile brought no manuals and no translations.
    assert saved(tree)["man"] < saved(without)["man"]
    assert saved(tree)["locales"] < saved(without)["locales"]


def test_manual_pages_are_indexed_once_and_by_whoever_installs_more_later(
    tree: Tree, trees: Trees, tmp_path: Path
) -> None:
    hooks = Hooks(tmp_path / "hooks", "fast-dpkg")
    with trees.changeable(tree) as changed:
        mark = changed.root / "var/lib/man-db/auto-update"
        trigger = changed.root / "var/lib/dpkg/info/man-db.postinst"
        trigger.write_text("#!/bin/sh\ntest -e /var/lib/man-db/auto-update && echo $* >> /indexed\n")
        trigger.chmod(0o755)
        hooks.inside(changed, "pre-install.d")
        mark.parent.mkdir()
        mark.touch()
        changed.run("bash", "-ec", EMPTY)
        for work in (("install", "/empty.deb"), ("purge", "empty")):
            changed.run("apt-get", "--yes", *work)
            assert not mark.exists()
        hooks.inside(changed, "finalise.d")

        assert mark.exists()
        assert changed.read("/indexed") == "triggered /usr/share/man\n"


def test_what_slim_keeps_is_unpacked(tree: Tree, trees: Trees, tmp_path: Path) -> None:
    keep = "man /usr/share/doc/wget/examples"
    with trees.changeable(tree) as changed:
        Hooks(tmp_path / "both", "slim", "fast-dpkg").inside(
            changed, "pre-install.d", DIB_SLIM_KEEP=keep, DIB_SLIM_LOCALES="pt_BR", DIB_SLIM_COPYRIGHT="0"
        )
        told = settings(changed)
    with trees.changeable(tree) as changed:
        Hooks(tmp_path / "alone", "fast-dpkg").inside(changed, "pre-install.d")
        alone = {line for line in settings(changed) if line.startswith("path-")}

    assert not [line for line in told if "/man/" in line]
    assert {line for line in told if "include" in line and "/doc/" in line} == {
        "path-include=/usr/share/doc/wget/examples",
        "path-include=/usr/share/doc/wget/examples/*",
    }
    # Where there is no translation into Brazil's Portuguese, Portugal's is read.
    assert {"path-include=/usr/share/locale/pt/*", "path-include=/usr/share/locale/pt_BR/*"} <= told
    assert "path-include=/usr/share/locale/en/*" not in told
    # Without slim, everything is.
    assert alone == set()


@pytest.mark.parametrize(
    ("family", "keep", "meanwhile", "afterwards"),
    [
        ("debian", "0", {"force-unsafe-io", "path-exclude=/usr/share/doc/*/*"}, set()),
        ("debian", "1", {"force-unsafe-io"}, {"path-exclude=/usr/share/man/*/*"}),
        ("redhat", "0", {"%_excludedocs 1", "%_install_langs C:en"}, set()),
        ("redhat", "1", {"%_excludedocs 1"}, {"%_excludedocs 1", "%_install_langs C:en"}),
    ],
)
def test_settings_are_there_while_an_image_is_built_and_later_if_asked(
    family: str,
    keep: str,
    meanwhile: set[str],
    afterwards: set[str],
    tree: Tree,
    trees: Trees,
    tmp_path: Path,
) -> None:
    hooks = Hooks(tmp_path / "hooks", "fast-dpkg")
    Hooks(tmp_path / "hooks", "slim")
    with trees.changeable(tree) as changed:
        if family == "redhat":
            for program in ("dpkg", "dpkg-query", "apt-get"):
                (changed.root / "usr/bin" / program).unlink()
            (changed.root / "usr/bin/rpm").symlink_to("true")
        hooks.inside(changed, "pre-install.d", DIB_FAST_DPKG_KEEP=keep)
        during = settings(changed)
        (tmp_path / "hooks/finalise.d/98-slim").unlink()
        hooks.inside(changed, "finalise.d", DIB_FAST_DPKG_KEEP=keep)
        later = settings(changed)

    assert meanwhile <= during
    assert afterwards <= later
    assert later <= during | {line for line in later if line.startswith("#")}
    assert bool(later) == bool(afterwards)
