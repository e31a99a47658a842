"""What is written beside a build, from what the element imagepool-manifest left or did not leave."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from builder.dib import command
from builder.dib.contents import archive, inputs, listing, manifest, marks, packages
from tests.unit.contents_world import STATUS
from tests.unit.dib_world import BUILD, image, need_root, shellcheck

STARTED = datetime(2024, 5, 6, 14, 14, tzinfo=UTC)
SECRET = "hush hush"


@dataclass
class Built:
    """A build that disk-image-create is done with: its directory, and an element of its own."""

    place: Path
    elements: Path

    @property
    def raw(self) -> Path:
        return self.place / command.MANIFEST_ELEMENT

    def write(self, *, into: Path | None = None, before: inputs.Inputs | None = None) -> manifest.Written:
        return manifest.write(
            into or self.place,
            image="debian-bookworm",
            build_id=BUILD,
            started=STARTED,
            rendered=self.rendered,
            known=before or self.known,
            tools={"kernel": "6.1"},
        )

    @property
    def rendered(self) -> command.Command:
        return command.render(
            self.recipe,
            build_id=BUILD,
            output=self.place.with_suffix(""),
            work_dir=self.place.parent,
            cache_dir=self.place.parent,
            elements_dirs=(self.elements,),
            mirrors={},
        )

    @property
    def known(self) -> inputs.Inputs:
        return inputs.collect(self.recipe, self.rendered, key=b"key")

    recipe = image(
        dib_cmd=("disk-image-create",),
        elements=("debian-minimal", "special"),
        environment={"TOKEN": SECRET},
        secret_names=frozenset({"TOKEN"}),
    )

    def json(self, name: str) -> dict[str, object]:
        found = json.loads((self.place / name).read_text())
        assert isinstance(found, dict)
        return found


@pytest.fixture
def built(tmp_path: Path) -> Built:
    place, elements = tmp_path / "image.d", tmp_path / "elements"
    raw = place / command.MANIFEST_ELEMENT
    raw.mkdir(parents=True)
    (raw / "dpkg").write_text(STATUS)
    (raw / "os-release").write_text('ID=debian\nVERSION_ID="12"\n')
    (raw / "files").write_bytes(b"1 1 d 4096 8 755 0 0 .\x00\x001 2 f 10 8 644 0 0 ./no text: \x80\x00\x00")
    (place / "dib-manifests").mkdir()
    (place / "dib-manifests" / "dib-manifest-git-image").write_text(
        "tempest git /opt/tempest https://git.test/tempest 1234abcd\nblob file /opt/blob http://x.test\n"
    )
    hook = elements / "special" / "install.d" / "10-it"
    hook.parent.mkdir(parents=True)
    hook.write_text("#!/bin/bash\n")
    hook.chmod(0o755)
    return Built(place, elements)


def test_what_came_out_is_written_down(built: Built) -> None:
    written = built.write()
    assert (written.packages, written.files, written.problems) == (2, 1, ())
    listed = built.json("packages.json")
    assert listed["distribution"] == {"id": "debian", "version": "12"}
    assert listed["packages"] == [
        {"name": "bash", "version": "5.2.15-2+b7", "architecture": "amd64", "type": "deb"},
        {"name": "libc6", "version": "1:2.36-9", "architecture": "amd64", "type": "deb", "source": "glibc"},
    ]
    assert built.json("sizes.json")["total"] == {"allocated": 8192, "apparent": 4106, "files": 1}
    assert built.json("sbom.cdx.json")["bomFormat"] == "CycloneDX"
    assert not built.raw.exists()
    assert [package.name for package in packages.load(built.place) or ()] == ["bash", "libc6"]
    assert built.json("files.json")["schema"] == 1


@pytest.fixture
def hostile(built: Built, tmp_path: Path) -> Built:
    """A build with everything in its directory that an image can have in /etc/dib-manifests, or worse."""
    need_root()
    theirs = built.place / "dib-manifests"
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("not the build's")
    os.mkfifo(theirs / "dib-manifest-git-fifo")
    os.mknod(theirs / "zero", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    (theirs / "file").symlink_to(outside / "file")
    (theirs / "directory").symlink_to(outside)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(theirs / "socket"))
    for name in ("build.json", "files.json", "changes.json", "changes.md", "withheld.json"):
        (built.place / name).write_text('{"installation_id": "other"}')
    (built.place / "elements.tar.gz").mkdir()
    (built.place / "elements.tar.gz" / "x").write_text("")
    return built


def test_what_is_no_file_or_called_like_ours_is_removed_and_all_else_stays(
    hostile: Built, tmp_path: Path
) -> None:
    manifest.sanitise(hostile.place)
    assert {str(path.relative_to(hostile.place)) for path in hostile.place.rglob("*") if path.is_file()} == {
        "dib-manifests/dib-manifest-git-image",
        *(f"{command.MANIFEST_ELEMENT}/{name}" for name in ("dpkg", "files", "os-release")),
    }
    assert {path.name for path in hostile.place.rglob("*") if not path.is_file()} == {
        "dib-manifests",
        command.MANIFEST_ELEMENT,
    }
    assert (tmp_path / "outside" / "file").read_text() == "not the build's"
    assert hostile.write().inputs.digests["git tempest"] == "1234abcd"


def test_a_directory_that_is_a_link_is_removed_and_one_that_is_missing_is_fine(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "build.json").write_text("")
    (tmp_path / "image.d").symlink_to(tmp_path / "real")
    manifest.sanitise(tmp_path / "image.d")
    manifest.sanitise(tmp_path / "image.d")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["real", "real/build.json"]


def test_git_heads_are_read_from_files_alone(built: Built) -> None:
    os.mkfifo(built.place / "dib-manifests" / "dib-manifest-git-fifo")
    (built.place / "dib-manifests" / "dib-manifest-git-directory").mkdir()
    # In a process of its own: one that reads a FIFO does not come back.
    program = "import sys, pathlib; from builder.dib.contents import manifest; "
    program += "print(manifest.git_heads(pathlib.Path(sys.argv[1])))"
    done = subprocess.run(
        [sys.executable, "-c", program, built.place], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.strip() == "{'git tempest': '1234abcd'}"


def test_what_went_in_is_written_with_what_the_build_found_out(built: Built) -> None:
    before = built.known
    written = built.write()
    assert inputs.read(built.place) == written.inputs
    assert written.inputs.digests["git tempest"] == "1234abcd"
    assert set(written.inputs.digests) == {*before.digests, "git tempest", "packages"}
    assert "special" in written.inputs.elements


def test_the_same_build_leaves_the_same_files_at_any_time(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy.d"
    shutil.copytree(built.place, copy)
    built.write()
    monkeypatch.setattr(time, "time", lambda: 1.0)
    (built.elements / "special" / "install.d" / "10-it").touch()
    built.write(into=copy)
    names = {"packages.json", "sizes.json", "files.json", "sbom.cdx.json", "inputs.json", "elements.tar.gz"}
    assert names <= {file.name for file in copy.iterdir()}
    assert [name for name in names if (copy / name).read_bytes() != (built.place / name).read_bytes()] == []


def test_elements_from_elsewhere_are_kept_and_those_of_dib_are_not(built: Built) -> None:
    built.write()
    with tarfile.open(built.place / archive.FILE) as kept:
        members = {member.name: member for member in kept.getmembers()}
    assert {name.split("/")[0] for name in members} == {"special", "imagepool-manifest"}
    assert members["special/install.d/10-it"].mode == 0o755
    assert {member.mtime for member in members.values()} == {0}


def test_elements_that_are_too_large_are_not_kept_and_it_says_so(built: Built) -> None:
    with (built.elements / "special" / "blob").open("wb") as stream:
        stream.truncate(archive.LIMIT + 1)
    (problem,) = built.write().problems
    assert "not kept" in problem
    assert not (built.place / archive.FILE).exists()


def test_an_element_that_was_changed_during_the_build_is_told(built: Built) -> None:
    before = built.known
    (built.elements / "special" / "install.d" / "10-it").write_text("another")
    assert built.write(before=before).problems == (
        "the element special was changed while the image was built",
    )


def test_elements_that_vanished_during_the_build_end_no_build(built: Built) -> None:
    before = built.known
    shutil.rmtree(built.elements)
    (problem,) = built.write(before=before).problems
    assert "not kept" in problem and str(built.elements) in problem


def test_nothing_secret_is_written(built: Built) -> None:
    built.write()
    for file in built.place.rglob("*"):
        assert file.is_dir() or SECRET.encode() not in file.read_bytes()


def test_without_what_the_element_leaves_the_files_say_why_they_are_empty(built: Built) -> None:
    shutil.rmtree(built.place)
    written = built.write()
    assert "did not run" in written.problems[0]
    assert built.json("packages.json")["packages"] == []
    assert built.json("packages.json")["problems"] == list(written.problems)
    assert built.json("sizes.json")["problems"] == list(written.problems)
    assert "packages" not in written.inputs.digests


def test_trouble_of_the_element_is_told(built: Built) -> None:
    (built.raw / "trouble").write_text("rpm could not list the packages\n")
    assert built.write().problems == ("rpm could not list the packages",)


@pytest.mark.parametrize("text", ["", "[]", '{"packages": [1]}', '{"packages": [{"name": "x"}]}'])
def test_a_damaged_list_of_packages_says_nothing(tmp_path: Path, text: str) -> None:
    assert packages.load(tmp_path) is None
    (tmp_path / packages.FILE).write_text(text)
    assert packages.load(tmp_path) is None


# -- the element ------------------------------------------------------------------------------------

HOOK = command.shipped_elements() / command.MANIFEST_ELEMENT / "cleanup.d" / "999-imagepool-manifest"
#: Instead of sudo: a chroot into an image that has no programs is told by a script.
SUDO = """#!/bin/bash
if [ "$1" = chroot ]; then
    root=$2; shift 2
    [ "$1" = rpm ] || exit 9
    case "$*" in
        *--eval*) echo "${DATABASE:-/usr/lib/sysimage/rpm}" ;;
        *--query*) [ -e "$root/broken" ] && exit 3; cat "$root$3/db" ;;
    esac
else
    exec "$@"
fi
"""


@dataclass
class Tree:
    """The file system of an image, and the hook of the element to run on it."""

    place: Path

    @property
    def root(self) -> Path:
        return self.place / "root of it"

    @property
    def raw(self) -> Path:
        return self.place / "out put.d" / command.MANIFEST_ELEMENT

    def put(self, path: str, text: str = "") -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def run(self, **environment: str) -> str:
        programs = self.place / "programs"
        programs.mkdir(exist_ok=True)
        (programs / "sudo").write_text(SUDO)
        (programs / "sudo").chmod(0o755)
        done = subprocess.run(
            [HOOK],
            env={
                "PATH": f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin",
                "TARGET_ROOT": str(self.root),
                "IMAGE_NAME": str(self.place / "out put"),
                "DIB_DEBUG_TRACE": "0",
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def paths(self) -> set[str]:
        return {entry.path for entry in listing.read(self.raw)}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    for name in ("tmp", "proc", "sys", "dev", "usr/lib"):
        (tree.root / name).mkdir(parents=True)
    tree.put("etc/os-release", "ID=debian\n")
    return tree


def test_the_element_leaves_the_database_of_dpkg_and_the_files(tree: Tree) -> None:
    tree.put("var/lib/dpkg/status", STATUS)
    tree.put("dev/null")
    before = sorted(tree.root.rglob("*"))
    assert tree.run() == ""
    assert (tree.raw / "dpkg").read_text().strip() == STATUS.strip()
    assert (tree.raw / "os-release").read_text() == "ID=debian\n"
    assert {"./etc/os-release", "./var/lib/dpkg/status", "."} <= tree.paths()
    assert not {path for path in tree.paths() if path.startswith("./dev")}
    assert sorted(tree.root.rglob("*")) == before
    assert not (tree.raw / "trouble").exists()


def test_the_element_leaves_owners_modes_and_links(tree: Tree) -> None:
    need_root()
    tree.put("etc/passwd", "root:x:0:0::/root:/bin/bash\nzuul:x:1000:1000:A Name:/home/zuul:/bin/bash\n")
    tree.put("etc/group", "root:x:0:\nzuul:x:1000:\n")
    for path, mode in (("usr/bin/su", 0o4755), ("usr/bin/plain", 0o755), ("etc/a name\n- 0 0", 0o640)):
        os.chown(tree.put(path), 1000, 1000)
        (tree.root / path).chmod(mode)
    wants = tree.root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    (wants / "ssh.service").symlink_to("/lib/systemd/system/ssh.service")
    (wants.parent / "b.service").symlink_to("/dev/null")
    tree.put("boot/vmlinuz-6.1.0-28-amd64")
    assert tree.run() == ""
    found = marks.find(listing.read(tree.raw), tree.raw)
    by_path = {file.path: (file.mode, file.owner, file.group) for file in found.files}
    assert by_path["/usr/bin/su"] == ("4755", "zuul", "zuul")
    assert by_path["/etc/a name\n- 0 0"] == ("0640", "zuul", "zuul")
    assert by_path["/etc/passwd"][1:] == ("root", "root")
    assert "/usr/bin/plain" not in by_path
    assert [(each.unit, each.state, each.by) for each in found.services] == [
        ("b.service", "masked", ()),
        ("ssh.service", "enabled", ("multi-user.target",)),
    ]
    assert found.kernels == ("6.1.0-28-amd64",)
    # Of users it leaves no more than names and numbers.
    assert "A Name" not in (tree.raw / "passwd").read_text()


def test_the_element_is_clean_under_shellcheck() -> None:
    assert shellcheck(HOOK.read_text()) == ""


def test_the_element_says_the_same_when_it_runs_again(tree: Tree) -> None:
    tree.put("var/lib/dpkg/status", STATUS)
    tree.run()
    first = (tree.raw / "dpkg").read_text()
    tree.run()
    assert (tree.raw / "dpkg").read_text() == first


def test_the_element_reads_images_that_have_no_dpkg_itself(tree: Tree) -> None:
    tree.put("var/lib/dpkg/status.d/tzdata", "Package: tzdata\nVersion: 1")
    tree.put("var/lib/dpkg/status.d/base", "Package: base\nVersion: 2")
    tree.put("var/lib/dpkg/status.d/base.md5sums", "0123  etc/x")
    tree.run()
    text = (tree.raw / "dpkg").read_text()
    assert text.count("Package:") == 2
    assert "\n\n" in text
    assert "etc/x" not in text


def test_the_element_asks_a_copy_of_the_database_of_rpm(tree: Tree) -> None:
    tree.put("usr/bin/rpm").chmod(0o755)
    tree.put("usr/lib/sysimage/rpm/db", "bash\t5\tx86_64\tGPL\n")
    tree.run()
    assert (tree.raw / "rpm").read_text() == "bash\t5\tx86_64\tGPL\n"
    assert list((tree.root / "tmp").iterdir()) == []


def test_the_element_ends_no_build_and_says_what_is_wrong(tree: Tree) -> None:
    tree.put("usr/bin/rpm").chmod(0o755)
    tree.put("broken")
    assert "rpm could not list" in tree.run()
    assert "rpm could not list" in (tree.raw / "trouble").read_text()
    assert list((tree.root / "tmp").iterdir()) == []


def test_the_element_follows_no_link_out_of_the_image(tree: Tree, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("Package: ours\nVersion: 1\n")
    (tree.root / "etc/os-release").unlink()
    (tree.root / "etc/os-release").symlink_to(outside)
    tree.put("usr/lib/os-release", "ID=image\n")
    (tree.root / "var/lib/dpkg").mkdir(parents=True)
    (tree.root / "var/lib/dpkg/status").symlink_to(outside)
    tree.run()
    assert (tree.raw / "os-release").read_text() == "ID=image\n"
    assert not (tree.raw / "dpkg").exists()


def test_the_element_leaves_none_of_the_builds_variables_in_the_image(tree: Tree, tmp_path: Path) -> None:
    for name in ("dib_environment", "dib_arguments", "dib-element-manifest"):
        tree.put(f"etc/dib-manifests/{name}", "DIB_INDEX=https://user:hunter22@mirror.example/")
    tree.run()
    assert [each.name for each in (tree.root / "etc/dib-manifests").iterdir()] == ["dib-element-manifest"]

    # Where a link leads elsewhere, nothing is removed there.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "dib_environment").write_text("the builder's own")
    (tree.root / "etc/other").symlink_to(elsewhere)
    tree.run(DIB_MANIFEST_IMAGE_DIR="/etc/other")
    assert (elsewhere / "dib_environment").exists()


def test_the_element_follows_no_link_to_a_directory_out_of_the_image(tree: Tree, tmp_path: Path) -> None:
    host = tmp_path / "host"
    for path, text in (
        ("etc/os-release", "ID=host\n"),
        ("etc/passwd", "ours:x:0:\n"),
        ("dpkg/status", "Package: ours\nVersion: 1\n"),
        ("dpkg/status.d/base", "Package: ours\nVersion: 1\n"),
        ("rpm/db", "ours\t1\tx86_64\tGPL\n"),
    ):
        (host / path).parent.mkdir(parents=True, exist_ok=True)
        (host / path).write_text(text)
    shutil.rmtree(tree.root / "etc")
    (tree.root / "etc").symlink_to(host / "etc")
    (tree.root / "var/lib").mkdir(parents=True)
    (tree.root / "var/lib/dpkg").symlink_to(host / "dpkg")
    (tree.root / "usr/lib/sysimage").symlink_to(host)
    tree.put("usr/bin/rpm").chmod(0o755)
    said = tree.run()
    assert "rpm could not list" in said
    assert not (tree.raw / "os-release").exists()
    assert not (tree.raw / "dpkg").exists()
    assert not (tree.raw / "passwd").exists()
    assert (tree.raw / "rpm").read_text() == ""


def test_the_element_follows_a_link_that_stays_in_the_image(tree: Tree) -> None:
    tree.put("usr/share/dpkg/status", STATUS)
    (tree.root / "var/lib").mkdir(parents=True)
    (tree.root / "var/lib/dpkg").symlink_to("../../usr/share/dpkg")
    tree.run()
    assert (tree.raw / "dpkg").read_text().strip() == STATUS.strip()


def test_the_element_reads_no_database_of_rpm_above_the_image(tree: Tree) -> None:
    tree.put("usr/bin/rpm").chmod(0o755)
    tree.put("usr/lib/rpm/db", "bash\t5\tx86_64\tGPL\n")
    tree.put("usr/share/x")
    assert "rpm could not list" in tree.run(DATABASE="/usr/share/../lib/rpm")
    assert (tree.raw / "rpm").read_text() == ""


def test_the_element_writes_nothing_where_a_link_for_tmp_leads(tree: Tree, tmp_path: Path) -> None:
    host = tmp_path / "host"
    host.mkdir()
    shutil.rmtree(tree.root / "tmp")
    (tree.root / "tmp").symlink_to(host)
    tree.put("usr/bin/rpm").chmod(0o755)
    tree.put("usr/lib/sysimage/rpm/db", "bash\t5\tx86_64\tGPL\n")
    assert "rpm could not list" in tree.run()


def test_the_element_works_for_an_image_that_has_next_to_nothing(tree: Tree) -> None:
    shutil.rmtree(tree.root)
    (tree.root / "x").mkdir(parents=True)
    assert tree.run(DIB_MOUNTPOINTS="/|/boot/efi") == ""
    assert tree.paths() == {".", "./x"}


def test_the_element_counts_file_systems_of_their_own(tree: Tree) -> None:
    tree.put("boot/efi/loader")
    tree.run(DIB_MOUNTPOINTS="/|/boot/efi")
    assert "./boot/efi/loader" in tree.paths()
