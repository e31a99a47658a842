"""The element boot-fast: what an image does, and does no longer, on its way to a login.

How long it takes is measured where machines are booted (tests/e2e/test_platforms.py, tests/bench/images).
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.elements.trees import Tree, Trees

ELEMENTS = ("network-glean", "grow-root", "boot-fast")
HOOKS = Path(__file__).parents[2] / "elements/boot-fast"
OFF = ("e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer", "systemd-pstore.service")


@pytest.fixture(scope="module")
def debian(trees: Trees) -> Tree:
    return trees.build(*ELEMENTS)


@pytest.fixture(scope="module")
def redhat(trees: Trees) -> Tree:
    return trees.build(*ELEMENTS, family="redhat")


@pytest.fixture(scope="module")
def trixie(trees: Trees) -> Tree:
    """Debian's systemd does something at the first boot since 13."""
    return trees.build("boot-fast", release="trixie")


def hook(tree: Tree, name: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a hook of the element in the tree as a build does, once more."""
    place = tree.root / "hooks"
    subprocess.run(["cp", "-RT", str(HOOKS), str(place)], check=True)
    variables = {
        "DISTRO_NAME": "debian",
        "DIB_GRUB_TIMEOUT": "0",
        "DIB_GRUB_TIMEOUT_STYLE": "hidden",
        **environment,
    }
    return tree.run(f"/hooks/{name}", check=False, **variables)


@pytest.mark.parametrize("family", ["debian", "redhat"])
@pytest.mark.parametrize("unit", OFF)
def test_what_ci_does_not_need_does_not_start(family: str, unit: str, request: pytest.FixtureRequest) -> None:
    tree: Tree = request.getfixturevalue(family)
    state = tree.run("systemctl", "is-enabled", unit, check=False).stdout.strip()
    assert state in ("disabled", "not-found", "")
    # Off, and not masked: what a job installs and starts works.
    assert not (tree.root / "etc/systemd/system" / unit).is_symlink()


def test_it_stays_off_when_a_first_boot_goes_by_presets(trees: Trees, debian: Tree) -> None:
    with trees.changeable(debian) as tree:
        tree.run("systemctl", "--root=/", "preset-all", check=False)
        for unit in OFF:
            state = tree.run("systemctl", "is-enabled", unit, check=False).stdout.strip()
            assert state in ("disabled", "not-found", "")
        for unit in ("network-glean.service", "grow-root.service", "systemd-networkd.service"):
            assert tree.run("systemctl", "is-enabled", unit).stdout == "enabled\n"


def test_more_or_fewer_services_by_a_variable(trees: Trees, debian: Tree) -> None:
    with trees.changeable(debian) as tree:
        tree.run("systemctl", "enable", "fstrim.timer")
        done = hook(
            tree,
            "finalise.d/60-boot-fast",
            DIB_BOOT_FAST_SERVICES_OFF="cron.service",
            DIB_BOOT_FAST_SERVICES_KEEP="fstrim.timer",
        )
        assert done.returncode == 0, done.stderr
        assert tree.run("systemctl", "is-enabled", "fstrim.timer").stdout == "enabled\n"
        assert tree.run("systemctl", "is-enabled", "cron.service", check=False).stdout == "disabled\n"
        assert "cron.service is off" in done.stdout


@pytest.mark.parametrize("family", ["debian", "redhat"])
def test_waiting_for_a_network_ends(family: str, request: pytest.FixtureRequest) -> None:
    tree: Tree = request.getfixturevalue(family)
    unit, expected = {
        "debian": ("systemd-networkd-wait-online", "--any --timeout=30"),
        "redhat": ("NetworkManager-wait-online", "NM_ONLINE_TIMEOUT=30"),
    }[family]
    shown = tree.run("systemd-analyze", "cat-config", f"systemd/system/{unit}.service").stdout
    assert expected in shown
    assert unit not in tree.run("systemd-analyze", "verify", f"{unit}.service", check=False).stderr


def test_grub_is_told_not_to_wait_not_even_after_a_failed_boot(debian: Tree) -> None:
    shown = debian.run(
        "sh", "-c", 'for f in /etc/default/grub.d/*.cfg; do . "$f"; done; set | grep ^GRUB_'
    ).stdout.replace("'", "")
    for setting in ("GRUB_TIMEOUT=0", "GRUB_TIMEOUT_STYLE=hidden", "GRUB_RECORDFAIL_TIMEOUT=0"):
        assert setting in shown.splitlines()


def environment(**given: str) -> dict[str, str]:
    """What the element's environment is when it is read twice, as dib does."""
    script = '. "$0"; . "$0"; env'
    shown = subprocess.run(
        ["bash", "-euc", script, str(HOOKS / "environment.d/60-boot-fast")],
        env={"PATH": "/usr/bin:/bin", **given},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return dict(line.partition("=")[::2] for line in shown.splitlines())


def test_the_boot_loader_and_the_kernel_are_quick_and_quiet_unless_told_otherwise() -> None:
    usual = environment()
    assert usual["DIB_GRUB_TIMEOUT"] == "0"
    assert usual["DIB_BOOTLOADER_DEFAULT_CMDLINE"] == "nofb nomodeset gfxpayload=text quiet"
    own = environment(DIB_GRUB_TIMEOUT="3", DIB_BOOTLOADER_DEFAULT_CMDLINE="quiet mine")
    assert own["DIB_GRUB_TIMEOUT"] == "3"
    assert own["DIB_BOOTLOADER_DEFAULT_CMDLINE"] == "quiet mine"
    assert environment(DIB_BOOT_FAST_CMDLINE="")["DIB_BOOTLOADER_DEFAULT_CMDLINE"].endswith("=text")


def drivers(tree: Tree) -> set[str]:
    """What initramfs-tools is told to put in; what it is told to load at each boot as well is an error."""
    file = tree.root / "usr/share/initramfs-tools/hooks/boot-fast"
    if not file.exists():
        return set()
    functions = tree.root / "usr/share/initramfs-tools/hook-functions"
    known = functions.read_text() if functions.exists() else None
    functions.write_text('manual_add_modules() { echo "$@"; }\nforce_load() { exit 1; }\n')
    try:
        assert tree.run("/usr/share/initramfs-tools/hooks/boot-fast", "prereqs").stdout == ""
        return set(tree.run("/usr/share/initramfs-tools/hooks/boot-fast").stdout.split())
    finally:
        functions.unlink() if known is None else functions.write_text(known)


def test_the_initramfs_has_the_drivers_of_the_clouds_and_loads_none_unasked(
    trees: Trees, debian: Tree
) -> None:
    with trees.changeable(debian) as tree:
        found = drivers(tree)
    assert {"virtio_blk", "virtio_scsi", "ata_piix", "nvme", "xen_blkfront", "ext4", "xfs"} <= found
    assert not [*debian.root.glob("usr/share/initramfs-tools/modules.d/*")]
    settings = debian.read("/etc/initramfs-tools/conf.d/boot-fast").splitlines()
    assert "MODULES=list" in settings
    assert "RESUME=none" in settings


def test_the_red_hat_family_gets_drivers_only_by_choice(trees: Trees, redhat: Tree) -> None:
    settings = "/etc/dracut.conf.d/60-boot-fast.conf"
    assert "\ndrivers+=" not in redhat.read(settings)
    with trees.changeable(redhat) as tree:
        done = hook(tree, "pre-install.d/50-boot-fast", DISTRO_NAME="rocky", DIB_BOOT_FAST_INITRAMFS="virtio")
        assert done.returncode == 0, done.stderr
        read = tree.run("bash", "-euc", f'drivers=; omit_dracutmodules=; . {settings}; echo "$drivers"')
        assert {"virtio_blk", "ext4", "xfs"} <= set(read.stdout.split())
        assert "nvme" not in read.stdout


def test_virtio_alone_or_most_by_choice_and_again_the_same(trees: Trees, debian: Tree) -> None:
    with trees.changeable(debian) as tree:
        for _ in range(2):
            hook(tree, "pre-install.d/50-boot-fast", DIB_BOOT_FAST_INITRAMFS="virtio")
            assert "virtio_blk" in drivers(tree)
            assert "nvme" not in drivers(tree)
        hook(tree, "pre-install.d/50-boot-fast", DIB_BOOT_FAST_INITRAMFS="most")
        assert not drivers(tree)
        assert "MODULES" not in tree.read("/etc/initramfs-tools/conf.d/boot-fast")


def outdated(tree: Tree) -> list[str]:
    """Whom systemd would have a first boot for."""
    return [
        place
        for place in ("/etc", "/var")
        if tree.run("systemd-analyze", "condition", f"ConditionNeedsUpdate={place}", check=False).returncode
        == 0
    ]


def test_the_first_boot_has_nothing_to_make_up_for(trees: Trees, trixie: Tree) -> None:
    assert outdated(trixie) == []
    with trees.changeable(trixie) as tree:
        (tree.root / "usr/new").mkdir()
        (library,) = (tree.root / "usr/lib").glob("*-linux-gnu/libz.so.1")
        shutil.copy(library, tree.root / "usr/local/lib")
        users = tree.root / "usr/lib/sysusers.d/ours.conf"
        users.write_text('u ours - "made at the first boot"\n')
        assert outdated(tree) == ["/etc", "/var"]
        for _ in range(2):
            done = hook(tree, "finalise.d/99-boot-fast")
            assert done.returncode == 0, done.stderr
            assert outdated(tree) == []
        assert "/usr/local/lib/libz.so.1" in tree.run("ldconfig", "-p").stdout
        assert tree.run("getent", "passwd", "ours").returncode == 0
        assert (tree.root / "var/lib/systemd/catalog/database").stat().st_size > 0
        assert not (tree.root / "var/cache/ldconfig/aux-cache").exists()
        # What is installed in the machine counts as ever.
        (tree.root / "usr/more").mkdir()
        assert outdated(tree) == ["/etc", "/var"]


def test_the_database_of_hardware_is_made_anew_only_where_somebody_added_to_it(
    trees: Trees, trixie: Tree
) -> None:
    with trees.changeable(trixie) as tree:
        unit = tree.root / "usr/lib/systemd/system/systemd-hwdb-update.service"
        unit.write_text("[Unit]\nConditionNeedsUpdate=/etc\n[Service]\nExecStart=/bin/true\n")
        own = tree.root / "etc/udev/hwdb.d"
        for directory in (own, tree.root / "usr/lib/udev"):
            directory.mkdir(parents=True, exist_ok=True)
        (tree.root / "usr/lib/udev/hwdb.bin").touch()
        program, made = tree.root / "usr/bin/systemd-hwdb", tree.root / "etc/udev/hwdb.bin"
        program.write_text("#!/bin/sh\n: > /etc/udev/hwdb.bin\n")
        program.chmod(0o755)
        assert hook(tree, "finalise.d/99-boot-fast").returncode == 0
        assert not made.exists()
        (own / "90-ours.hwdb").write_text("")
        assert hook(tree, "finalise.d/99-boot-fast").returncode == 0
        assert made.exists()


def test_who_waits_for_a_first_boot_and_is_not_known_gets_it(trees: Trees, trixie: Tree) -> None:
    with trees.changeable(trixie) as tree:
        unit = tree.root / "etc/systemd/system/theirs.service"
        (tree.root / "usr/new").mkdir()
        unit.write_text("[Unit]\nConditionNeedsUpdate=/etc\n[Service]\nExecStart=/bin/true\n")
        done = hook(tree, "finalise.d/99-boot-fast")
        assert done.returncode == 0, done.stderr
        assert "theirs.service is for the first boot" in done.stdout
        assert outdated(tree) == ["/etc", "/var"]


@pytest.mark.parametrize(
    ("name", "variables", "said"),
    [
        ("pre-install.d/50-boot-fast", {"DIB_BOOT_FAST_INITRAMFS": "dep"}, "is not what the image needs"),
        ("pre-install.d/50-boot-fast", {"DISTRO_NAME": "plan9"}, "nothing is known of plan9"),
        ("post-install.d/90-boot-fast", {"DIB_BOOT_FAST_WAIT_ONLINE": "long"}, "no number of seconds"),
        ("pre-install.d/50-boot-fast", {"DIB_GRUB_TIMEOUT": "0;reboot"}, "no number of seconds"),
        ("pre-install.d/50-boot-fast", {"DIB_GRUB_TIMEOUT_STYLE": "$(id)"}, "no hidden, menu or countdown"),
        ("pre-install.d/50-boot-fast", {"DIB_BOOT_FAST_CMDLINE": 'quiet "`id`"'}, "no word for the kernel"),
        ("pre-install.d/50-boot-fast", {"DIB_BOOT_FAST_SERVICES_OFF": "*"}, "no unit"),
        ("pre-install.d/50-boot-fast", {"DIB_BOOT_FAST_SERVICES_KEEP": "--root=/ x.service"}, "no unit"),
    ],
)
def test_what_makes_no_sense_ends_the_build(
    trees: Trees, debian: Tree, name: str, variables: dict[str, str], said: str
) -> None:
    with trees.changeable(debian) as tree:
        done = hook(tree, name, **variables)
        assert done.returncode == 1
        assert said in done.stderr
