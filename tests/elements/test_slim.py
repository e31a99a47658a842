"""slim: what no machine needs is gone, what each must make anew is gone, and everything else is as it was."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.elements.hooks import Hooks
from tests.elements.trees import KEPT, PROJECT, Tree, Trees
from tests.trees import differences

#: What the element untidy left and an image shall have nevertheless.
KEPT_FILES: Final = {
    "/home/zuul/.ssh/authorized_keys",
    "/root/.ssh/authorized_keys",
    "/usr/share/doc/untidy/copyright",
    "/usr/share/locale/en_GB/LC_MESSAGES/untidy.mo",
    "/usr/share/locale/locale.alias",
    "/var/cache/dnf/repo/packages.solv",
    "/var/lib/cloud/seed/nocloud/meta-data",
    "/var/spool/cron/crontabs/zuul",
}
#: Logs stay, with nothing in them: daemons may write only to what is there.
EMPTIED: Final = {"/var/log/daemon.log", "/var/log/private/own.log", "/var/log/wtmp"}
SLIM: Final = PROJECT / "elements" / "slim" / "slim"
UNTIDY: Final = (KEPT / "untidy" / "untidy" / "files").read_text().split()


@pytest.fixture
def debian(trees: Trees) -> Tree:
    """A tree in which packages were unpacked without what slim would remove of them."""
    return trees.build("untidy", "runtime-ssh-host-keys", "slim", "fast-dpkg")


@pytest.fixture
def redhat(trees: Trees) -> Tree:
    """The same of the Red Hat family."""
    return trees.build("untidy", "slim", "fast-dpkg", family="redhat")


@pytest.fixture(params=["debian", "redhat"])
def tree(request: pytest.FixtureRequest) -> Tree:
    """Either of them."""
    found: Tree = request.getfixturevalue(request.param)
    return found


def report(tree: Tree) -> Any:
    """What slim says it saved."""
    return json.loads((tree.beside / "slim.json").read_text())


def text(tree: Tree, path: str) -> str | None:
    """What is in a file of a tree; None when there is none."""
    file = tree.root / path.lstrip("/")
    return file.read_text(errors="replace") if file.is_file() else None


def test_what_a_build_left_is_gone_and_what_somebody_wants_is_there(tree: Tree) -> None:
    found = {path: text(tree, path) for path in UNTIDY}

    assert {path for path, content in found.items() if content} == KEPT_FILES
    assert {path for path, content in found.items() if content == ""} == EMPTIED
    assert text(tree, "/etc/machine-id") == ""
    assert list((tree.root / "var/log/journal").iterdir()) == []


def test_a_link_is_removed_and_never_what_it_leads_to(tree: Tree) -> None:
    assert tree.read("/opt/needed/file") == "needed\n"
    assert not (tree.root / "var/crash/link").is_symlink()
    assert (tree.root / "var/lib/dhclient").is_symlink()
    assert (tree.root / "var/log/link.log").is_symlink()


def test_of_each_flavour_the_newest_kernel_stays_and_the_package_manager_knows(
    debian: Tree, redhat: Tree
) -> None:
    assert kernels(debian) == {"6.1.0-10-amd64", "6.1.0-10-cloud-amd64"}
    installed = debian.run("dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n")
    assert {line for line in installed.stdout.splitlines() if line.startswith("linux-image")} == {
        "linux-image-6.1.0-10-amd64 installed",
        "linux-image-6.1.0-10-cloud-amd64 installed",
    }

    assert kernels(redhat) == {"6.1.0-10.el9.x86_64", "6.1.0-10.el9.x86_64+rt"}
    assert set(redhat.run("rpm", "--query", "--all").stdout.split()) == {
        f"kernel{name}-6.1.0-10.el9.x86_64" for name in ("", "-core", "-rt", "-rt-core")
    }
    entries = {path.name for path in (redhat.root / "boot/loader/entries").iterdir()}
    assert entries == {"0123-6.1.0-10.el9.x86_64.conf", "0123-6.1.0-10.el9.x86_64+rt.conf"}


def kernels(tree: Tree) -> set[str]:
    """The versions of which there is anything, which must be all there is of each."""
    modules = {path.name for path in (tree.root / "lib/modules").iterdir()}
    files = [path.name for path in (tree.root / "boot").iterdir() if path.is_file()]
    assert {name.removesuffix(".img").split("-", 1)[1] for name in files} == modules
    assert len(files) == 2 * len(modules)
    return modules


def test_modules_of_what_no_virtual_machine_has_are_gone_unless_another_needs_them(tree: Tree) -> None:
    modules = sorted(kernels(tree))[0]
    directory = tree.root / "lib/modules" / modules

    assert {str(path.relative_to(directory)) for path in directory.rglob("*.ko")} == {
        "kernel/drivers/net/ethernet/card.ko",
        "kernel/sound/core/needed.ko",
        "updates/sound/own.ko",
    }
    assert "loud" not in (directory / "modules.dep").read_text()


def test_packages_nobody_asked_for_are_gone_and_the_others_are_whole(debian: Tree, trees: Trees) -> None:
    installed = set(debian.run("dpkg-query", "--show", "--showformat=${Package}\n").stdout.split())

    # The program that merges /usr came with Perl, and in its place is an empty package.
    assert not installed & {"usrmerge", "perl", "libfile-find-rule-perl"}
    assert installed >= {"usr-is-merged", "wget", "libncurses6", "openssh-server", "gnupg", "python3", "sudo"}
    assert debian.run("dpkg", "--audit").stdout == ""
    # apt keeps notes of what it was asked.
    with trees.changeable(debian) as changed:
        assert changed.run("apt-get", "check").returncode == 0
        assert "Remv" not in changed.run("apt-get", "--simulate", "autoremove").stdout


def test_copyrights_languages_and_places_for_manual_pages_stay(debian: Tree) -> None:
    share = debian.root / "usr/share"

    docs = {path.name for path in (share / "doc").rglob("*") if path.is_file()}
    assert docs == {"copyright"}
    # A package may have another one's directory for its own.
    assert (share / "doc/libncurses6").is_symlink()
    assert "Copyright" in debian.read("/usr/share/doc/libncurses6/copyright")
    assert {path.name[:2] for path in (share / "locale").iterdir() if path.is_dir()} == {"en"}
    # Scripts of packages make links in it.
    assert (share / "man/man1").is_dir()
    assert not [path for path in (share / "man").rglob("*") if not path.is_dir()]


def test_the_report_says_what_was_saved_by_cause(tree: Tree) -> None:
    found = report(tree)

    assert found["total"] == sum(found["saved"].values())
    # Three old kernels have at least a file and two directories each.
    assert found["saved"]["kernels"] >= 3 * 3 * 1024
    assert all(
        found["saved"][cause] > 0
        for cause in ("docs", "man", "info", "locales", "package-caches", "logs", "backups", "temporary")
    )
    assert all(found["saved"][cause] > 0 for cause in ("crashes", "history", "mail", "identity", "leases"))
    assert found["kept"] == ["/var/cache/dnf/repo/*.solv", "/var/lib/cloud/seed"]
    assert "slim: saved" in tree.log


def test_every_machine_makes_its_own_host_keys_before_its_server_starts(debian: Tree, trees: Trees) -> None:
    assert debian.run("systemctl", "is-enabled", "ssh-host-keys.service").stdout == "enabled\n"
    wanted = debian.root / "etc/systemd/system/ssh.service.requires/ssh-host-keys.service"
    assert wanted.is_symlink()
    unit = debian.read("/usr/lib/systemd/system/ssh-host-keys.service").splitlines()
    assert "ssh.service" in next(line for line in unit if line.startswith("Before=")).split("=")[1].split()
    # Whoever tries it with DSA fails with today's OpenSSH, and makes no other key either.
    dib = debian.run("systemctl", "is-enabled", "ssh-keygen.service", check=False)
    assert dib.stdout == "disabled\n"

    with trees.changeable(debian) as changed:
        command = next(line.split("=", 1)[1] for line in unit if line.startswith("ExecStart="))
        changed.run(*command.split())
        changed.run("bash", "-c", "mkdir -p /run/sshd && sshd -t")
        first = (changed.root / "etc/ssh/ssh_host_ed25519_key").read_bytes()
        changed.run(*command.split())
        assert (changed.root / "etc/ssh/ssh_host_ed25519_key").read_bytes() == first


def test_where_the_server_brings_units_for_its_keys_they_make_them(redhat: Tree) -> None:
    units = redhat.root / "usr/lib/systemd/system"

    assert (units / "sshd-keygen@.service").exists()
    assert not (units / "ssh-host-keys.service").exists()


def test_a_second_run_changes_nothing(tree: Tree, trees: Trees, tmp_path: Path) -> None:
    hooks = Hooks(tmp_path / "hooks", "slim")
    with trees.changeable(tree) as changed:
        for phase in ("post-install.d", "finalise.d"):
            # depmod finds no need in modules of nothing.
            hooks.inside(changed, phase, DIB_SLIM_KEEP="drivers")
        # The package manager's own notes of what it looked at.
        changed_files = {
            path
            for path in differences(tree.root, changed.root)
            if not path.startswith(("var/cache", "var/lib/apt", "var/lib/rpm", "root/.rpmdb"))
        }
        assert changed_files == set()


def test_what_the_boot_loader_names_has_to_be_there(debian: Tree, trees: Trees, tmp_path: Path) -> None:
    hooks = Hooks(tmp_path / "hooks", "slim")
    with trees.changeable(debian) as changed:
        menu = changed.root / "boot/grub/grub.cfg"
        menu.write_text(
            "\tlinux\t/boot/vmlinuz-6.1.0-10-amd64 ro\n\tinitrd\t/boot/initrd.img-6.1.0-10-amd64\n"
        )
        hooks.inside(changed, "finalise.d")

        menu.write_text("\tlinux\t/boot/vmlinuz-6.1.0-9-amd64 ro\n")
        failed = hooks.inside(changed, "finalise.d", check=False)

    assert failed.returncode != 0
    assert "the boot loader names /boot/vmlinuz-6.1.0-9-amd64, and it is not there" in failed.stdout


@pytest.mark.parametrize(
    ("there", "old"),
    [
        (["6.1.0-9-amd64"], []),
        (["6.9.0-1-amd64", "6.10.0-1-amd64"], ["6.9.0-1-amd64"]),
        (["6.12.9+deb13-amd64", "6.12.57+deb13-amd64"], ["6.12.9+deb13-amd64"]),
        (["6.12.57+deb13-amd64", "6.12.57+deb13-cloud-amd64"], []),
        (["5.15.0-99-generic", "5.15.0-100-generic", "6.8.0-1-lowlatency"], ["5.15.0-99-generic"]),
        (["5.14.0-427.el9_4.x86_64", "5.14.0-503.el9.x86_64"], ["5.14.0-427.el9_4.x86_64"]),
        (
            ["6.6.0-72.0.0.76.oe2403sp1.x86_64", "6.6.0-98.oe2403.x86_64"],
            ["6.6.0-72.0.0.76.oe2403sp1.x86_64"],
        ),
        (["6.17.7-300.fc43.x86_64", "6.17.8-300.fc43.x86_64+debug"], []),
        # The newest can't be booted, so it is not the one that stays.
        (["6.1.0-9-amd64", "6.1.0-10-amd64 without a kernel"], ["6.1.0-10-amd64"]),
        (["6.1.0-9-amd64 without a kernel", "6.1.0-10-amd64 without a kernel"], []),
    ],
)
def test_the_newest_whole_kernel_of_a_flavour_is_never_an_old_one(
    there: list[str], old: list[str], tmp_path: Path
) -> None:
    (tmp_path / "boot").mkdir()
    for kernel in there:
        version, _, broken = kernel.partition(" ")
        (tmp_path / "lib/modules" / version).mkdir(parents=True)
        (tmp_path / "lib/modules" / version / "modules.dep").touch()
        if not broken:
            (tmp_path / "boot" / f"vmlinuz-{version}").touch()

    assert on_this_machine(tmp_path, "slim_old_kernels").split() == old


def test_a_kernel_that_another_package_needs_stays_and_that_is_said(
    debian: Tree, trees: Trees, tmp_path: Path
) -> None:
    hooks = Hooks(tmp_path / "hooks", "slim")
    with trees.changeable(debian) as changed:
        needs = "Package: needs\nVersion: 1\nArchitecture: all\nMaintainer: nobody\nDescription: none\n"
        (changed.root / "needs/DEBIAN").mkdir(parents=True)
        (changed.root / "needs/DEBIAN/control").write_text(f"{needs}Depends: linux-image-6.1.0-9-amd64\n")
        shutil.copytree(KEPT / "untidy" / "untidy", changed.root / "untidy")
        changed.run("/untidy/kernel-deb", "6.1.0-9")
        changed.run("bash", "-c", "dpkg-deb --build /needs /needs.deb && dpkg --install /needs.deb")
        said = hooks.inside(changed, "post-install.d").stdout
        left = (changed.root / "lib/modules/6.1.0-9-amd64/modules.dep").exists()

    assert left
    assert "kernel 6.1.0-9-amd64 stays, for other packages need it" in said


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("DIB_SLIM_KEEP", "docs dosc", '"dosc" is no cause and no path'),
        ("DIB_SLIM_LOCALES", "en ../..", '"../.." in DIB_SLIM_LOCALES is no language'),
    ],
)
def test_a_word_that_means_nothing_ends_the_build_before_it_begins(
    name: str, value: str, why: str, tmp_path: Path
) -> None:
    done = Hooks(tmp_path, "slim").outside("extra-data.d", **{name: value})

    assert done.returncode != 0
    assert why in done.stdout


def test_the_last_pass_stays_in_the_tree_whatever_links_it_has(
    debian: Tree, trees: Trees, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("ours\n")
    hooks = Hooks(tmp_path / "hooks", "slim")
    with trees.changeable(debian) as changed:
        for place in ("var/tmp", "var/crash", "var/lib/cloud", "home"):
            path = changed.root / place
            changed.run("rm", "-rf", f"/{place}")
            path.symlink_to(outside)
        mounts = 'mount --bind /dev "$TARGET_ROOT/dev" && mount -t proc proc "$TARGET_ROOT/proc" && "$0"'
        done = subprocess.run(
            ["unshare", "--mount", "bash", "-c", mounts, str(hooks.place / "cleanup.d/998-slim")],
            env=dict(os.environ, TARGET_ROOT=str(changed.root), IMAGE_NAME=str(tmp_path / "image")),
            capture_output=True,
            text=True,
            check=False,
        )
        left = {path.name for path in changed.root.iterdir() if path.name.startswith(".slim")}

    assert done.returncode == 0, done.stdout + done.stderr
    # The tree is on this machine's own disk.
    assert "filled with zeros" not in done.stdout
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"file": "ours\n"}
    assert left == set()
    assert json.loads((tmp_path / "image.d" / "slim.json").read_text())["kept"] == []


@pytest.mark.parametrize(
    "keep", ["{}/cache/pip/wheels/", "{}/*/pip/wheels", "{}/cache/*", "{}/cache/pip/wheels"]
)
def test_a_path_to_keep_is_kept_with_a_slash_behind_it_and_as_a_pattern(keep: str, tmp_path: Path) -> None:
    wheels = tmp_path / "cache/pip/wheels"
    wheels.mkdir(parents=True)
    (wheels / "wanted").touch()
    (tmp_path / "cache/other file").touch()
    subprocess.run(
        [
            *("bash", "-euc"),
            "shopt -s nullglob dotglob; source $SLIM/functions; SLIM_STATE=$1/state; "
            "slim_remove history $1/cache",
            *("bash", str(tmp_path)),
        ],
        env=dict(os.environ, SLIM=str(SLIM), DIB_SLIM_KEEP=keep.format(tmp_path)),
        check=True,
    )
    assert (wheels / "wanted").exists()
    assert (tmp_path / "cache/other file").exists() == keep.endswith("*")


@pytest.mark.parametrize("disk", ["tmpfs", "ramfs"])
def test_free_space_is_given_back_or_zero(disk: str, tmp_path: Path) -> None:
    # Of what is in a ramfs nothing can be given back, so the loop device can't trim.
    with mounted(tmp_path, disk) as (raw, root):
        noise = os.urandom(8 << 20)
        (root / "deleted").write_bytes(noise)
        subprocess.run(["sync", "--file-system", str(root)], check=True)
        (root / "deleted").unlink()
        before = raw.read_bytes()
        said = free_space(root)
        subprocess.run(["sync", "--file-system", str(root)], check=True)
        after = raw.read_bytes()
        left = sorted(path.name for path in root.iterdir())

    sample = noise[1 << 20 : (1 << 20) + 4096]
    assert sample in before
    assert sample not in after
    assert ("filled with zeros" in said) == (disk == "ramfs")
    assert left == ["lost+found"]


def test_no_disk_but_the_images_is_filled_with_zeros(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "imagepool-test", str(tmp_path)], check=True)
    try:
        said = free_space(tmp_path)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert said == "slim: / is on no disk of the image; its free space stays as it is\n"


def free_space(root: Path) -> str:
    """Give the free space of what is mounted there back; what slim prints."""
    return subprocess.run(
        [str(SLIM / "free-space")],
        env={"TARGET_ROOT": str(root), "DIB_MOUNTPOINTS": "/", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@contextmanager
def mounted(directory: Path, disk: str) -> Iterator[tuple[Path, Path]]:
    """A file with a file system of 32 MB in it, and where that is mounted; the file is on a `disk`."""
    host, root = directory / "host", directory / "root"
    host.mkdir()
    root.mkdir()
    raw = host / "raw"
    subprocess.run(["mount", "-t", disk, disk, str(host)], check=True)
    try:
        with raw.open("wb") as file:
            file.write(bytes(32 << 20))
        subprocess.run(["mkfs.ext4", "-q", str(raw)], check=True)
        subprocess.run(["mount", "-o", "loop", str(raw), str(root)], check=True)
        try:
            yield raw, root
        finally:
            subprocess.run(["umount", str(root)], check=True)
    finally:
        # The loop device lets go of it a moment later.
        subprocess.run(["umount", "--lazy", str(host)], check=True)


def on_this_machine(directory: Path, script: str) -> str:
    """What a script that has slim's functions prints, with a directory's own boot and lib/modules."""
    inside = (
        'mkdir "$0/upper" "$0/work" && mount -t overlay overlay '
        '-o "lowerdir=/usr/lib,upperdir=$0/upper,workdir=$0/work" /usr/lib && rm -rf /usr/lib/modules && '
        'cp -r "$0/lib/modules" /usr/lib/ && mount --bind "$0/boot" /boot && exec bash -euc "$1"'
    )
    functions = f"SLIM={SLIM}; shopt -s nullglob; source $SLIM/functions; source $SLIM/kernels"
    return subprocess.run(
        [
            *("unshare", "--mount", "--propagation", "private", "bash", "-c", inside, str(directory)),
            f"{functions}; {script}",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
