"""tools/base-images on a compute node's directory, with real base images, overlays and locks."""

from __future__ import annotations

import ast
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "base-images"
MB = 1 << 20
DAY = 86400.0
OLD = 30 * DAY

Result = subprocess.CompletedProcess[str]


def base_name(image_id: str) -> str:
    """What nova calls an image in its cache."""
    return hashlib.sha1(image_id.encode(), usedforsecurity=False).hexdigest()


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


class Node:
    """A compute node's instances directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.instances = root / "instances"
        self.base = self.instances / "_base"
        self.locks = self.instances / "locks"
        self.programs = root / "programs"
        for directory in (self.base, self.locks, self.programs):
            directory.mkdir(parents=True)

    # -- what nova makes --------------------------------------------------------------------------

    def image(self, image_id: str, *, suffix: str = "", age: float = OLD) -> Path:
        """A raw base image with some data and some hole."""
        return self.file(base_name(image_id) + suffix, os.urandom(MB), size=4 * MB, age=age)

    def file(self, name: str, content: bytes = b"x", *, size: int = 0, age: float = OLD) -> Path:
        file = self.base / name
        with file.open("wb") as stream:
            stream.write(content)
            stream.truncate(max(size, len(content)))
        return self.aged(file, age)

    def aged(self, file: Path, age: float) -> Path:
        moment = time.time() - age
        os.utime(file, (moment, moment))
        return file

    def server(self, name: str) -> Path:
        directory = self.instances / name
        directory.mkdir(exist_ok=True)
        return directory

    def overlay(self, disk: Path, on: Path | str, *, of: str = "raw", size: int = 8 * MB) -> Path:
        """A disk that backs onto a file, as nova makes it."""
        self.qemu_img("create", "-f", "qcow2", "-F", of, "-b", str(on), str(disk), str(size))
        return disk

    def note_formats(self, server: Path, **formats: str) -> None:
        """nova's own record of what it made the disks as."""
        (server / "disk.info").write_text(json.dumps({str(server / n): f for n, f in formats.items()}))

    def qemu_img(self, *arguments: str) -> None:
        subprocess.run(["qemu-img", *arguments], check=True, stdout=subprocess.DEVNULL)

    def properties(self, **images: Path) -> Path:
        """What Glance says of images whose disks are as those files are now."""
        record = [
            {
                "id": image_id,
                "imagepool_raw_sha256": sha256(file),
                "imagepool_raw_size": str(file.stat().st_size),
            }
            for image_id, file in images.items()
        ]
        listed = self.root / "images.json"
        listed.write_text(json.dumps({"images": record}))
        return listed

    # -- the tool ---------------------------------------------------------------------------------

    def run(self, *arguments: object, stdin: str = "", prefix: tuple[str, ...] = ()) -> Result:
        argv = [*prefix, str(TOOL), "--instances-dir", str(self.instances), *map(str, arguments)]
        return subprocess.run(
            argv,
            env={**os.environ, "PATH": f"{self.programs}:{os.environ['PATH']}"},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def look(self, *arguments: object, code: int = 0, stdin: str = "") -> dict[str, Any]:
        """What the tool says as JSON, after it ended with that code."""
        result = self.run("--json", *arguments, stdin=stdin)
        assert result.returncode == code, result.stderr
        answer: dict[str, Any] = json.loads(result.stdout)
        return answer

    def found(self, *arguments: object, code: int = 0, stdin: str = "") -> dict[str, dict[str, Any]]:
        """What it says of each file in _base."""
        return {base["name"]: base for base in self.look(*arguments, code=code, stdin=stdin)["base_images"]}

    def pretend(self, script: str) -> None:
        """Put a program before the real qemu-img, which it knows as $REAL."""
        program = self.programs / "qemu-img"
        program.write_text(f"#!/bin/bash\nREAL={shutil.which('qemu-img')}\n{script}\n")
        program.chmod(0o755)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.fixture
def busy(node: Node) -> dict[str, Path]:
    """A node with a bit of everything."""
    used = node.image("used")
    deep = node.image("deep")
    unused = node.image("unused")
    young = node.image("young", age=DAY)
    resized = node.image("used", suffix="_20")
    one = node.server("0001")
    node.overlay(one / "disk", used)
    node.note_formats(one, disk="qcow2")
    (one / "console.log").write_bytes(b"QFI\xfb of the guest's own")
    two = node.server("0002")
    node.overlay(two / "disk.snap", deep)
    node.overlay(two / "disk", two / "disk.snap", of="qcow2")
    swap = node.file("swap_512")
    node.overlay(two / "disk.swap", swap)
    ephemeral = node.file("ephemeral_20_40d1d2c")
    return {
        name: file
        for name, file in locals().items()
        if name in ("used", "deep", "unused", "young", "resized", "swap", "ephemeral")
    }


# -- what is in use ---------------------------------------------------------------------------------


def test_what_a_disk_backs_onto_is_in_use_also_by_way_of_another(node: Node, busy: dict[str, Path]) -> None:
    found = node.found()
    users = {name: found[file.name]["used_by"] for name, file in busy.items()}
    assert users == {
        "used": ["0001/disk"],
        "deep": ["0002/disk", "0002/disk.snap"],
        "swap": ["0002/disk.swap"],
        "unused": [],
        "young": [],
        "resized": [],
        "ephemeral": [],
    }
    assert {name: found[file.name]["action"] for name, file in busy.items()} == {
        "used": "kept",
        "deep": "kept",
        "swap": "kept",
        "unused": "unused",
        "young": "kept",
        "resized": "unused",
        "ephemeral": "unused",
    }


def test_the_table_tells_size_on_disk_age_and_why(node: Node, busy: dict[str, Path]) -> None:
    result = node.run()
    assert result.returncode == 0
    lines = {line.split()[0]: line for line in result.stdout.splitlines()}
    row = lines[busy["unused"].name]
    assert "4.0 MiB  1.0 MiB" in row and "30.0 d" in row
    assert row.endswith("unused: unused, and not touched for 30.0 d")
    assert lines[busy["young"].name].endswith("kept: unused, but touched 1.0 d ago")
    assert lines[busy["used"].name].endswith("kept: in use")
    assert "3 unused" in result.stdout.splitlines()[-1]
    assert all(file.exists() for file in busy.values())


def test_a_disk_in_use_by_a_server_can_be_read(node: Node) -> None:
    used, server = node.image("used"), node.server("0001")
    node.overlay(server / "disk", used)
    holder = subprocess.Popen(
        ["qemu-io", "-f", "qcow2", str(server / "disk")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        assert holder.stdin is not None and holder.stdout is not None
        holder.stdin.write(b"write 0 512\n")
        holder.stdin.flush()
        assert b"wrote" in holder.stdout.readline()
        locked = subprocess.run(
            ["qemu-img", "info", str(server / "disk")], capture_output=True, text=True, check=False
        )
        assert "lock" in locked.stderr
        assert node.found()[used.name]["used_by"] == ["0001/disk"]
    finally:
        holder.communicate(b"quit\n", timeout=30)


def test_where_several_names_lead_to_a_base_image_it_is_in_use(node: Node, tmp_path: Path) -> None:
    linked, container = node.image("linked"), node.image("container")
    (tmp_path / "other-way").symlink_to(node.instances)
    node.overlay(node.server("0001") / "disk", tmp_path / "other-way" / "_base" / linked.name)
    # As nova in a container sees it.
    disk = node.overlay(node.server("0002") / "disk", container)
    node.qemu_img("rebase", "-u", "-F", "raw", "-b", f"/nova/_base/{container.name}", str(disk))
    (node.server("0003") / "disk").symlink_to(node.image("direct"))
    found = node.found()
    assert found[linked.name]["used_by"] == ["0001/disk"]
    assert found[container.name]["used_by"] == ["0002/disk"]
    assert found[base_name("direct")]["used_by"] == ["0003/disk"]


def test_a_relative_name_is_one_from_the_disk(node: Node) -> None:
    used, server = node.image("used"), node.server("0001")
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", f"../_base/{used.name}", "disk"],
        cwd=server,
        check=True,
    )
    assert node.found()[used.name]["used_by"] == ["0001/disk"]


def test_a_base_image_that_another_backs_onto_is_in_use(node: Node) -> None:
    lower = node.image("lower")
    upper = node.overlay(node.base / base_name("upper"), lower)
    node.aged(upper, OLD)
    found = node.found("--delete")
    assert found[lower.name]["used_by"] == [f"_base/{upper.name}"]
    assert (lower.exists(), upper.exists()) == (True, False)


def test_what_a_guest_wrote_into_a_raw_disk_says_nothing(node: Node) -> None:
    unused, server = node.image("unused"), node.server("0001")
    node.overlay(server / "forged", unused)
    (server / "forged").rename(server / "disk")
    (server / "disk.config").write_bytes(b"QFI\xfb no more than that")
    node.note_formats(server, disk="raw", **{"disk.config": "raw"})
    assert node.found()[unused.name]["action"] == "unused"


def test_a_disk_of_unknown_making_counts_by_its_header(node: Node) -> None:
    """As long as nobody says that it is raw: it keeps a base image, it gives none away."""
    used = node.image("used")
    node.overlay(node.server("0001") / "disk", used)
    assert node.found("--delete")[used.name]["action"] == "kept"


# -- what can't be known ----------------------------------------------------------------------------

Spoil = Callable[[Node, Path], object]


def _garbage(node: Node, server: Path) -> None:
    node.note_formats(server, disk="qcow2")
    (server / "disk").write_bytes(b"no header")


def _broken_header(node: Node, server: Path) -> None:
    (server / "disk").write_bytes(b"QFI\xfb\0\0\0\3" + b"\xff" * 500)


def _data_elsewhere(node: Node, server: Path) -> None:
    node.qemu_img("create", "-f", "qcow2", "-o", f"data_file={server}/data", str(server / "disk"), "1M")


def _link_out(node: Node, server: Path) -> None:
    node.overlay(node.root / "disk", node.image("elsewhere"))
    (server / "disk").symlink_to(node.root / "disk")


def _directory_out(node: Node, server: Path) -> None:
    server.rmdir()
    (node.root / "server").mkdir()
    server.symlink_to(node.root / "server")


def _link_to_nothing(node: Node, server: Path) -> None:
    (server / "disk").symlink_to(node.root / "not-mounted" / "disk")


def _chain_in_a_circle(node: Node, server: Path) -> None:
    node.qemu_img("create", "-f", "qcow2", str(server / "one"), "1M")
    node.overlay(server / "two", server / "one", of="qcow2")
    node.qemu_img("rebase", "-u", "-F", "qcow2", "-b", str(server / "two"), str(server / "one"))


def _lost_middle(node: Node, server: Path) -> None:
    node.overlay(server / "disk.snap", node.image("used"))
    node.overlay(server / "disk", server / "disk.snap", of="qcow2")
    (server / "disk.snap").unlink()


def _no_file(node: Node, server: Path) -> None:
    disk = node.overlay(server / "disk", node.image("used"))
    node.qemu_img("rebase", "-u", "-F", "raw", "-b", "nbd://127.0.0.1:1/disk", str(disk))


def _formats_unreadable(node: Node, server: Path) -> None:
    (server / "disk.info").write_text("{ha")


def _hangs(node: Node, server: Path) -> None:
    node.overlay(server / "disk", node.image("used"))
    node.pretend("echo killed >&2; kill -KILL $$")


@pytest.mark.parametrize(
    "spoil",
    [
        _garbage,
        _broken_header,
        _data_elsewhere,
        _link_out,
        _directory_out,
        _link_to_nothing,
        _chain_in_a_circle,
        _lost_middle,
        _no_file,
        _formats_unreadable,
        _hangs,
    ],
)
def test_when_one_disk_can_not_be_read_nothing_is_removed(node: Node, spoil: Spoil) -> None:
    unused = node.image("unused")
    spoil(node, node.server("0001"))
    node.overlay(node.server("0002") / "disk", node.image("other"))
    result = node.run("--delete")
    assert result.returncode == 3, result.stderr
    assert f"can't be read: {node.instances}/0001" in result.stderr
    assert "nothing is removed" in result.stderr
    assert unused.exists()
    assert node.look(code=3)["unclear"]


def test_a_disk_that_one_may_not_read_keeps_everything(node: Node) -> None:
    unused = node.image("unused")
    disk = node.overlay(node.server("0001") / "disk", node.image("used"))
    disk.chmod(0)
    # Root may read everything; without these capabilities the modes of files count for it too.
    drop = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
    result = node.run("--delete", prefix=drop)
    assert result.returncode == 3
    assert f"{disk}: Permission denied" in result.stderr
    assert unused.exists()


def test_a_server_that_lost_its_base_image_is_told(node: Node) -> None:
    gone = node.image("gone")
    node.overlay(node.server("0001") / "disk", gone)
    gone.unlink()
    (missing,) = node.look(code=1)["missing"]
    assert missing == f"0001/disk backs onto {gone}, which is not there"


# -- verifying --------------------------------------------------------------------------------------


def test_a_device_that_a_guest_names_is_not_opened(node: Node) -> None:
    # A watchdog's, for one, reboots the machine soon after.
    disk, device = node.server("web") / "disk", node.root / "device"
    os.mkfifo(device)
    node.qemu_img("create", "-u", "-f", "qcow2", "-F", "qcow2", "-b", str(device), str(disk), "1M")
    done = node.run()
    assert done.returncode == 3
    assert f"by {device}: it is no plain file" in done.stderr


def test_what_a_guest_wrote_can_not_act_on_a_terminal(node: Node) -> None:
    disk = node.server("web") / "disk"
    node.qemu_img(
        "create", "-u", "-f", "qcow2", "-F", "raw", "-b", f"{node.base}/\x1b[2Jx\n", str(disk), "1M"
    )
    done = node.run()
    assert "which is not there" in done.stderr and "\\x1b[2Jx\\n" in done.stderr
    assert "\x1b" not in done.stderr + done.stdout


def test_base_images_are_verified_by_what_glance_says(node: Node) -> None:
    good, bad, short, longer = (node.image(name) for name in ("good", "bad", "short", "longer"))
    qcow2 = node.image("qcow2")
    properties = node.properties(good=good, bad=bad, short=short, longer=longer, qcow2=qcow2)
    with bad.open("r+b") as stream:
        stream.seek(3 * MB)  # in the hole
        stream.write(b"\1")
    os.truncate(short, 2 * MB)
    os.truncate(longer, 5 * MB)
    node.qemu_img("create", "-f", "qcow2", str(qcow2), "4M")
    stranger = node.image("stranger")
    resized = node.image("good", suffix="_20")
    for file in (bad, short, longer, qcow2):
        node.aged(file, OLD)
    node.overlay(node.server("0001") / "disk", bad)

    found = node.found("--properties", properties, code=1)

    assert {name: base["check"] for name, base in found.items()} == {
        good.name: "ok",
        bad.name: "wrong",
        short.name: "wrong",
        longer.name: "extended",
        qcow2.name: "not raw",
        stranger.name: "unknown",
        resized.name: None,
    }
    assert found[good.name]["image_id"] == "good"
    said = node.run("--properties", properties).stderr
    assert f"{bad}: its sha256 is {sha256(bad)}, not " in said
    assert "1 disks back onto it" in said
    assert f"{short}: it has {2 * MB} bytes, not {4 * MB}" in said


def test_a_huge_file_that_is_mostly_hole_is_verified_whole(node: Node) -> None:
    huge = node.image("huge")
    digest, zeros = hashlib.sha256(huge.read_bytes()[:MB]), bytes(MB)
    for _ in range(1023):
        digest.update(zeros)
    os.truncate(huge, 1 << 30)
    record = {"id": "huge", "imagepool_raw_sha256": digest.hexdigest(), "imagepool_raw_size": 1 << 30}
    found = node.found("--properties", "-", stdin=json.dumps(record))
    assert (found[huge.name]["check"], found[huge.name]["size"]) == ("ok", 1 << 30)
    assert found[huge.name]["allocated"] < 2 * MB


SHOWN = [
    pytest.param(lambda r: {"images": [r]}, id="Glance"),
    pytest.param(lambda r: [r], id="a list"),
    pytest.param(lambda r: r, id="one image"),
    pytest.param(lambda r: {"id": r.pop("id"), "properties": r}, id="image show"),
    pytest.param(lambda r: [{"ID": r.pop("id"), "Name": "n", "Properties": r}], id="columns"),
    pytest.param(
        lambda r: {"id": r.pop("id"), "properties": ", ".join(f"{k}='{v}'" for k, v in r.items())},
        id="an old client's text",
    ),
]


@pytest.mark.parametrize("shown", SHOWN)
def test_properties_are_taken_as_clients_show_them(
    node: Node, shown: Callable[[dict[str, str]], Any]
) -> None:
    good = node.image("good")
    record = {"id": "good", "imagepool_raw_sha256": sha256(good), "imagepool_raw_size": str(4 * MB)}
    text = json.dumps({"id": "before", "name": "no such properties"}) + "\n" + json.dumps(shown(record))
    assert node.found("--properties", "-", stdin=text)[good.name]["check"] == "ok"


@pytest.mark.parametrize("text", ["{ha", "3", '{"images": 3}', "\x00"])
def test_properties_that_are_none_are_told(node: Node, text: str) -> None:
    result = node.run("--properties", "-", stdin=text)
    assert (result.returncode, result.stdout) == (2, "")
    assert "the properties are no JSON of images" in result.stderr


# -- removing ---------------------------------------------------------------------------------------


def test_only_what_is_unused_and_old_is_removed(node: Node, busy: dict[str, Path]) -> None:
    found = node.found("--delete")
    removed = {name for name, file in busy.items() if not file.exists()}
    assert removed == {"unused", "resized", "ephemeral"}
    assert {name for name, file in busy.items() if found[file.name]["action"] == "removed"} == removed
    assert node.found("--delete", "--older-than", "12h")[busy["young"].name]["action"] == "removed"
    assert not busy["young"].exists()


def test_what_is_no_base_image_of_nova_stays(node: Node, tmp_path: Path) -> None:
    digest = base_name("image")
    kinds = {
        f"{digest}_sm": "legacy",
        "0000002a": "legacy",
        f"{digest}.part": "partial",
        f"{digest}.converted": "partial",
        f"{digest}.info": "note",
        f"{digest}.sha1": "note",
        "README": "other",
        digest.upper(): "other",
        f"{digest}_": "other",
        "swap_": "other",
    }
    for name in kinds:
        node.file(name)
    outside = tmp_path / "outside"
    outside.write_text("somebody else's")
    (node.base / base_name("link")).symlink_to(outside)
    (node.base / base_name("directory")).mkdir()
    found = node.found("--delete")
    assert {name: found[name]["kind"] for name in kinds} == kinds
    assert {base["action"] for base in found.values()} == {"kept"}
    assert found[base_name("link")]["kind"] == "link"
    assert len(list(node.base.iterdir())) == len(kinds) + 2
    assert outside.read_text() == "somebody else's"


def test_a_base_directory_that_is_a_link_is_not_followed(node: Node, tmp_path: Path) -> None:
    unused = node.image("unused")
    node.base.rename(tmp_path / "base")
    node.base.symlink_to(tmp_path / "base")
    result = node.run("--delete")
    assert result.returncode == 2
    assert str(node.base) in result.stderr
    assert (tmp_path / "base" / unused.name).exists()


def test_what_nova_has_locked_is_not_removed(node: Node) -> None:
    """By the lock that oslo.concurrency takes: nova-<name> in `locks`, fcntl(2)."""
    locked, free = node.image("locked"), node.image("free")
    with (node.locks / f"nova-{locked.name}").open("a") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        result = node.run("--delete", "--json")
    assert result.returncode == 4
    assert f"{locked.name} is not removed: nova has its lock just now" in result.stderr
    assert (locked.exists(), free.exists()) == (True, False)
    assert node.found("--delete")[locked.name]["action"] == "removed"


def test_a_lock_that_was_not_there_is_novas_to_open(node: Node) -> None:
    unused = node.image("unused")
    if os.geteuid() == 0:
        os.chown(node.locks, 12345, 12346)
    node.found("--delete")
    (lock,) = node.locks.iterdir()
    assert lock.name == f"nova-{unused.name}"
    assert (lock.stat().st_uid, lock.stat().st_gid) == (node.locks.stat().st_uid, node.locks.stat().st_gid)
    assert lock.stat().st_mode & 0o777 == 0o644


def test_without_novas_locks_it_is_told_what_that_means(node: Node) -> None:
    unused = node.image("unused")
    node.locks.rmdir()
    result = node.run("--delete")
    assert result.returncode == 0
    assert "nova's locks can't be taken" in result.stderr
    assert not unused.exists()


TOUCHED = "somebody has touched it by now"
RACES = {
    "a server was started on it": (
        "$REAL create -q -f qcow2 -F raw -b {base} {disk} 8M",
        "backs onto it by now",
    ),
    "nova touched it": ("touch {base}", TOUCHED),
    "nova fetched it anew": ("cp {base} {base}.part; mv {base}.part {base}", TOUCHED),
    "nova removed it": ("rm {base}", "it is gone already"),
    "a disk became unreadable": ("printf 'QFI\\373' > {disk}", "can't be read"),
}


@pytest.mark.parametrize(("what", "said"), RACES.values(), ids=RACES.keys())
def test_what_changes_meanwhile_is_seen_before_it_is_removed(node: Node, what: str, said: str) -> None:
    """The change comes while the second of two disks is read, after the first look at all else."""
    unused = node.image("unused")
    for number in range(2):
        node.overlay(node.server(f"000{number}") / "disk", node.image("used"))
    done = node.root / "done"
    disk = node.server("0000") / "disk.new"
    change = what.format(base=unused, disk=disk)
    once = f"[ -e {done} ] || {{ {change}; touch {done}; }}"
    node.pretend(f'"$REAL" "$@"; code=$?\ncase "$*" in *0001*) {once};; esac\nexit $code')
    result = node.run("--delete")
    assert result.returncode == 4, result.stderr
    assert said in result.stderr
    assert unused.exists() == (what != RACES["nova removed it"][0])


# -- shared directories -----------------------------------------------------------------------------


def test_what_other_hosts_use_is_removed_only_by_somebody_who_knows(node: Node) -> None:
    unused = node.image("unused")
    now = time.time()
    (node.instances / "compute_nodes").write_text(json.dumps({"one": now, "two": now - 0.9 * DAY}))
    result = node.run("--delete")
    assert result.returncode == 3
    assert "compute_nodes names one, two" in result.stderr
    assert "--shared-ok" in result.stderr
    assert unused.exists()
    assert node.run().returncode == 0  # to look is no harm
    assert node.run("--delete", "--shared-ok").returncode == 0
    assert not unused.exists()


@pytest.mark.parametrize("text", ["{ha", "[1]", '{"one": "yesterday"}'])
def test_when_it_can_not_be_known_who_shares_it_counts_as_shared(node: Node, text: str) -> None:
    unused = node.image("unused")
    (node.instances / "compute_nodes").write_text(text)
    assert node.run("--delete").returncode == 3
    assert unused.exists()


def test_a_host_that_is_long_gone_shares_nothing(node: Node) -> None:
    unused = node.image("unused")
    record = {"one": time.time(), "two": time.time() - 2 * DAY}
    (node.instances / "compute_nodes").write_text(json.dumps(record))
    assert node.run("--delete").returncode == 0
    assert not unused.exists()


def test_base_images_on_a_disk_of_their_own_count_as_shared(node: Node) -> None:
    if os.geteuid() != 0:
        pytest.fail("this test mounts a file system: run it as root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "imagepool-test", str(node.base)], check=True)
    try:
        unused = node.image("unused")
        result = node.run("--delete")
        assert result.returncode == 3
        assert "is a file system of its own" in result.stderr
        assert unused.exists()
    finally:
        subprocess.run(["umount", str(node.base)], check=True)


# -- the program ------------------------------------------------------------------------------------


def test_the_help_tells_every_exit_code(node: Node) -> None:
    result = node.run("--help")
    assert result.returncode == 0
    listed = re.findall(r"^  (\d)  ", result.stdout, re.M)
    assert listed == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("age", ["0", "30m", "0.5h", "-1d", "yesterday"])
def test_a_limit_that_is_none_is_wrong_usage(node: Node, age: str) -> None:
    result = node.run(f"--older-than={age}")
    assert result.returncode == 2
    assert "at least an hour" in result.stderr


def test_where_there_is_nothing_it_says_so(node: Node, tmp_path: Path) -> None:
    missing = subprocess.run(
        [str(TOOL), "--instances-dir", str(tmp_path / "no")], capture_output=True, text=True, check=False
    )
    assert missing.returncode == 2
    assert str(tmp_path / "no") in missing.stderr
    assert node.found() == {}


def test_a_machine_without_qemu_img_is_told_what_to_install(node: Node) -> None:
    result = subprocess.run(
        [sys.executable, str(TOOL), "--instances-dir", str(node.instances)],
        env={**os.environ, "PATH": str(node.programs)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert "qemu-utils" in result.stderr


def test_it_needs_nothing_but_python_39() -> None:
    """A compute node has no more."""
    tree = ast.parse(TOOL.read_text(), feature_version=(3, 9))
    imported = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names
    # Of Python 3.10 and later.
    keywords = {word.arg for node in ast.walk(tree) if isinstance(node, ast.Call) for word in node.keywords}
    assert not keywords & {"kw_only", "slots", "strict_zip"}
    assert not any(isinstance(node, ast.Match) for node in ast.walk(tree))
