"""ci-base: what every CI node has. Looks into trees built with it, and logs into them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import pytest
import yaml

from tests.elements.hooks import Hooks
from tests.elements.login import log_in, make_key
from tests.elements.trees import Tree, Trees
from tests.trees import differences

BUILD_ID: Final = "6f3a8e0c5d7b4a1f9c2e6b8d0a4f7c31"
Family = Literal["debian", "redhat"]


@dataclass(frozen=True, kw_only=True)
class Node:
    """A tree with ci-base, and what went into it."""

    family: Family
    tree: Tree
    keys: tuple[Path, ...]  #: private keys; the first two by the variable, the third by the file
    environment: dict[str, str]
    place: Path

    @property
    def public(self) -> list[str]:
        """The public keys, as they have to be in the tree."""
        return [key.with_suffix(".pub").read_text().strip() for key in self.keys]


@pytest.fixture(scope="module", params=["debian", "redhat"])
def node(request: pytest.FixtureRequest, trees: Trees, tmp_path_factory: pytest.TempPathFactory) -> Node:
    """An image of ci-base of either family, with everything set."""
    place = tmp_path_factory.mktemp("keys")
    keys = tuple(
        make_key(place, name, kind) for name, kind in (("a", "ed25519"), ("b", "rsa"), ("c", "ecdsa"))
    )
    public = [key.with_suffix(".pub").read_text() for key in keys]
    file = place / "keys.pub"
    # Of two files that are concatenated, one made on Windows.
    file.write_text(f"# of the team\n\n{public[1]}{public[2].strip()}\r\n")
    environment = {
        "DIB_CI_SSH_KEY": f"{public[0]}\n# the second\n{public[1]}",
        "DIB_CI_SSH_KEY_FILE": str(file),
        "DIB_CI_TIME_SERVERS": "time.example 192.0.2.1",
        "DIB_CI_JOURNAL_SIZE": "96M",
        "DIB_IMAGE_NAME": "Debian-12_CI.test",
        "IMAGEPOOL_BUILD_ID": BUILD_ID,
        "SOURCE_DATE_EPOCH": "1794665640",
    }
    tree = trees.build("ci-base", family=request.param, environment=environment)
    return Node(family=request.param, tree=tree, keys=keys, environment=environment, place=place)


@pytest.fixture(name="hooks")
def _hooks(tmp_path: Path) -> Callable[[str], Hooks]:
    """Lays out the hooks of ci-base in a directory of that name."""
    return lambda name: Hooks(tmp_path / name, "login-user", "ci-base")


def mode(tree: Tree, path: str) -> str:
    """Permissions and owner of a file of the tree, as the tree names them."""
    return tree.run("stat", "-c", "%a %U:%G", path).stdout.strip()


def test_the_ci_user_logs_in_with_each_key_and_is_root_without_a_password(node: Node) -> None:
    for key in node.keys:
        done = log_in(
            node.tree, "zuul", "id -un; pwd; echo $SHELL; sudo -n id -un", key=key, place=node.place
        )
        assert done.stdout.split() == ["zuul", "/home/zuul", "/bin/bash", "root"], done.stderr
    stranger = node.place / "stranger"
    if not stranger.exists():
        make_key(node.place, "stranger")
    assert log_in(node.tree, "zuul", "true", key=stranger, place=node.place).returncode == 255


def test_the_ci_user_has_no_password_the_id_1000_and_just_the_keys_that_were_given(node: Node) -> None:
    tree = node.tree
    assert tree.run("getent", "passwd", "zuul").stdout == "zuul:x:1000:1000:zuul:/home/zuul:/bin/bash\n"
    assert tree.run("passwd", "-S", "zuul").stdout.split()[:2] == ["zuul", "L"]
    assert tree.run("getent", "shadow", "zuul").stdout.split(":")[1] == "*"
    assert tree.read("/home/zuul/.ssh/authorized_keys").splitlines() == node.public
    assert mode(tree, "/home/zuul") == "755 zuul:zuul"
    assert mode(tree, "/home/zuul/.ssh") == "700 zuul:zuul"
    assert mode(tree, "/home/zuul/.ssh/authorized_keys") == "600 zuul:zuul"
    assert mode(tree, "/etc/sudoers.d/90-ci-base") == "440 root:root"
    assert "parsed OK" in tree.run("visudo", "-c").stdout


def test_the_image_says_what_it_is(node: Node) -> None:
    told = json.loads(node.tree.read("/etc/image-info.json"))
    assert {"ci-base", "login-user", "openssh-server"} <= set(told["elements"])
    assert told["elements"] == sorted(told["elements"])
    assert {name: value for name, value in told.items() if name != "elements"} == {
        "image": "Debian-12_CI.test",
        "hostname": "debian-12-ci-test",
        "build_id": BUILD_ID,
        "build_time": "2026-11-14T14:14:00Z",
        "distribution": "debian" if node.family == "debian" else "rocky",
        "release": "bookworm" if node.family == "debian" else "9",
        "architecture": "amd64",
    }
    assert mode(node.tree, "/etc/image-info.json") == "644 root:root"
    motd = f"Debian-12_CI.test, built 2026-11-14T14:14:00Z, build {BUILD_ID}; see /etc/image-info.json\n"
    assert node.tree.read("/etc/motd") == motd
    assert node.tree.read("/etc/hostname") == "debian-12-ci-test\n"
    assert node.tree.run("getent", "-s", "files", "hosts", "debian-12-ci-test").returncode == 0
    assert node.tree.run("getent", "-s", "files", "hosts", "localhost").returncode == 0
    # Where Zuul's jobs look for them.
    assert node.tree.read("/etc/image-hostname.txt") == "Debian-12_CI.test\n"
    assert node.tree.read("/etc/dib-builddate.txt") == "2026-11-14T14:14:00Z\n"


def test_the_journal_is_kept_and_bounded(node: Node) -> None:
    told = node.tree.run("systemd-analyze", "cat-config", "systemd/journald.conf").stdout
    settings = dict(line.split("=", 1) for line in told.splitlines() if line and line[0] not in "#[")
    assert (settings["Storage"], settings["SystemMaxUse"]) == ("persistent", "96M")


def test_the_time_is_kept_by_the_given_servers_and_nothing_waits_for_it(node: Node) -> None:
    if node.family == "debian":
        config = node.tree.run("systemd-analyze", "cat-config", "systemd/timesyncd.conf").stdout.splitlines()
        assert "NTP=time.example 192.0.2.1" in config
        service = "systemd-timesyncd.service"
    else:
        config = node.tree.run("chronyd", "-p", "-f", "/etc/chrony.conf").stdout.splitlines()
        assert [line for line in config if line.startswith(("server ", "pool "))] == [
            "server time.example iburst",
            "server 192.0.2.1 iburst",
        ]
        assert any(line.startswith("makestep ") for line in config)
        service = "chronyd.service"
    assert enabled(node.tree, service) == "enabled"
    assert enabled(node.tree, "systemd-time-wait-sync.service") == "masked"
    assert enabled(node.tree, "chrony-wait.service") == "masked"


def enabled(tree: Tree, unit: str) -> str:
    """What systemd would say of a unit of the tree."""
    return tree.run("systemctl", "is-enabled", unit, check=False).stdout.strip()


def test_nothing_is_upgraded_fetched_or_indexed_by_itself(node: Node) -> None:
    quiet = {"debian": ["apt-daily.timer", "apt-daily-upgrade.timer", "unattended-upgrades.service"]}
    quiet["redhat"] = ["dnf-automatic.timer", "dnf-makecache.timer", "man-db-cache-update.service"]
    for unit in [*quiet[node.family], "packagekit.service", "man-db.timer", "plocate-updatedb.timer"]:
        assert enabled(node.tree, unit) == "masked", unit
    if node.family == "debian":
        asked = node.tree.run("bash", "-c", "echo GET man-db/auto-update | debconf-communicate").stdout
        assert asked == "0 false\n"
    wanted = {
        path.name for path in (node.tree.root / "etc/systemd/system/timers.target.wants").glob("*.timer")
    }
    assert {timer for timer in wanted if enabled(node.tree, timer) == "enabled"} <= {
        "fstrim.timer",
        "e2scrub_all.timer",
        "logrotate.timer",
    }


def test_what_runs_jobs_finds_python_and_ip(node: Node) -> None:
    assert node.tree.run("ip", "-V").returncode == 0
    assert node.tree.run("python3", "-c", "import json").returncode == 0
    if node.family == "redhat":
        asked = node.tree.read("/etc/stand-in-packages").splitlines()
        assert {"+ chrony", "+ iproute", "+ python3", "+ sudo"} <= set(asked)
    else:
        assert "Map install for ci-base: iproute2" in node.tree.log


def test_cron_has_nothing_to_do_but_what_an_element_put_there(
    node: Node, trees: Trees, hooks: Callable[[str], Hooks]
) -> None:
    def jobs(tree: Tree) -> set[str]:
        found = (path for path in (tree.root / "etc").glob("cron.*/*") if path.name != ".placeholder")
        return {str(path.relative_to(tree.root / "etc")) for path in found}

    machinery = set() if node.family == "debian" else {"cron.d/0hourly", "cron.hourly/0anacron"}
    assert jobs(node.tree) == machinery
    with trees.changeable(node.tree) as tree:
        (tree.root / "etc/cron.d/ours").write_text("* * * * * root true\n")
        (tree.root / "etc/cron.daily/dpkg").write_text("#!/bin/sh\n")
        spool = tree.root / "var/spool/cron" / ("crontabs/root" if node.family == "debian" else "root")
        spool.write_text("* * * * * true\n")
        if node.family == "redhat":
            # There is no package in the stand-in's database: one that brought this very file.
            rpm = tree.root / "usr/local/bin/rpm"
            rpm.write_text('#!/bin/sh\n[ "$3" = /etc/cron.daily/dpkg ]\n')
            rpm.chmod(0o755)
        said = hooks("again").inside(tree, "finalise.d").stdout
        assert jobs(tree) == machinery | {"cron.d/ours"}
        assert not spool.exists()
        assert "/etc/cron.daily/dpkg is removed" in said
        assert "/etc/cron.d/ours is kept, for no package brought it" in said


def test_a_login_is_by_key_and_waits_for_no_name_server_and_no_kerberos(node: Node, trees: Trees) -> None:
    with trees.changeable(node.tree) as tree:
        (tree.root / "etc/ssh/sshd_config.d/50-redhat.conf").write_text(
            "GSSAPIAuthentication yes\nUseDNS yes\nPasswordAuthentication yes\n"
        )
        told = tree.run(
            "bash", "-c", "ssh-keygen -q -N '' -f /k && mkdir -p /run/sshd && sshd -T -h /k"
        ).stdout
    assert {
        "usedns no",
        "gssapiauthentication no",
        "passwordauthentication no",
        "kbdinteractiveauthentication no",
    } <= set(told.splitlines())


def test_the_same_hooks_again_change_nothing(node: Node, trees: Trees, hooks: Callable[[str], Hooks]) -> None:
    again = hooks("again")
    distribution = {"DISTRO_NAME": "debian" if node.family == "debian" else "rocky"}
    told = again.outside("extra-data.d", **node.environment | distribution)
    assert told.returncode == 0, told.stderr
    # The build's own description names all elements of the build.
    (again.place / "ci-base/image-info.json").write_text(node.tree.read("/etc/image-info.json"))
    with trees.changeable(node.tree) as tree:
        for phase in ("install.d", "post-install.d", "finalise.d"):
            again.inside(tree, phase, **node.environment | distribution)
        for part in ("etc", "home", "root", "usr/lib/systemd", "usr/local", "var/lib"):
            assert differences(node.tree.root / part, tree.root / part) == set(), part


def test_without_a_key_the_log_says_so_and_the_config_drive_has_the_user(
    node: Node, trees: Trees, hooks: Callable[[str], Hooks]
) -> None:
    bare = hooks("bare")
    assert bare.outside("extra-data.d").returncode == 0
    with trees.changeable(node.tree) as tree:
        said = bare.inside(tree, "install.d").stdout
        assert tree.read("/home/zuul/.ssh/authorized_keys") == ""
    assert "WARNING: no key of zuul is in the image" in said
    assert "DIB_CI_SSH_KEY_FILE" in said
    assert node.tree.read("/etc/network-glean/ssh-users.d/ci-base") == "zuul\n"


def test_an_image_with_cloud_init_gives_its_keys_to_the_ci_user(
    node: Node, trees: Trees, hooks: Callable[[str], Hooks]
) -> None:
    again = hooks("again")
    again.outside("extra-data.d", **node.environment)
    with trees.changeable(node.tree) as tree:
        (tree.root / "etc/cloud").mkdir(exist_ok=True)
        (tree.root / "etc/cloud/cloud.cfg").write_text("users: [default]\n")
        again.inside(tree, "post-install.d", **node.environment | {"DISTRO_NAME": "rocky"})
        told = yaml.safe_load(tree.read("/etc/cloud/cloud.cfg.d/90-ci-base.cfg"))
    user = told["system_info"]["default_user"]
    assert (user["name"], user["lock_passwd"], told["ssh_pwauth"]) == ("zuul", True, False)


@pytest.mark.parametrize(
    ("environment", "trouble"),
    [
        ({"DIB_CI_USER": "daemon"}, "the user daemon is in the image already, with user and group id 1:1"),
        ({"DIB_CI_USER": "shadow", "DIB_CI_USER_ID": "1500"}, "a group shadow without a user of that name"),
        ({"DIB_CI_USER": "other"}, "id 1000 is taken in the image by zuul (passwd): set DIB_CI_USER_ID"),
        ({"DIB_CI_USER_ID": "1234"}, "with user and group id 1000:1000 instead of 1234"),
    ],
)
def test_a_user_that_is_something_else_already_ends_the_build(
    node: Node,
    trees: Trees,
    hooks: Callable[[str], Hooks],
    environment: dict[str, str],
    trouble: str,
) -> None:
    again = hooks("again")
    assert again.outside("extra-data.d", **environment).returncode == 0
    with trees.changeable(node.tree) as tree:
        done = again.inside(tree, "install.d", check=False, **environment)
        assert done.returncode != 0
        assert trouble in done.stderr
        assert differences(node.tree.root / "etc", tree.root / "etc") == set()


def test_an_sshd_that_would_not_do_it_ends_the_build(
    node: Node, trees: Trees, hooks: Callable[[str], Hooks]
) -> None:
    again = hooks("again")
    again.outside("extra-data.d")
    with trees.changeable(node.tree) as tree:
        (tree.root / "etc/ssh/sshd_config.d/00-first.conf").write_text("PubkeyAuthentication no\n")
        done = again.inside(tree, "post-install.d", check=False)
        assert done.returncode != 0
        assert 'sshd does not take "pubkeyauthentication yes" for the user zuul' in done.stderr
        (tree.root / "etc/ssh/sshd_config.d/00-first.conf").write_text("NoSuchSetting 1\n")
        done = again.inside(tree, "post-install.d", check=False)
        assert done.returncode != 0
        assert "sshd does not accept its configuration" in done.stderr


def test_an_sshd_that_reads_no_directory_does_afterwards(
    node: Node, trees: Trees, hooks: Callable[[str], Hooks]
) -> None:
    again = hooks("again")
    again.outside("extra-data.d")
    with trees.changeable(node.tree) as tree:
        config = tree.root / "etc/ssh/sshd_config"
        config.write_text("# as openEuler has it\nUseDNS yes\nGSSAPIAuthentication yes\nUsePAM yes\n")
        # The hook itself asks sshd.
        again.inside(tree, "post-install.d")
        once = config.read_text()
        again.inside(tree, "post-install.d")
        assert config.read_text() == once


@pytest.mark.parametrize(
    ("key", "trouble"),
    [
        ("AAAA", "line 1 of DIB_CI_SSH_KEY is not a public SSH key: expected"),
        ("{good}\n\nroot ALL=(ALL) ALL", "line 3 of DIB_CI_SSH_KEY is not"),
        ("{good}\n{cut}", "line 2 of DIB_CI_SSH_KEY is not a public SSH key: its data is cut off"),
        ("ssh-rsa {data} me", "its data is not of the kind ssh-rsa"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0", "line 1 of DIB_CI_SSH_KEY is not"),
        ("{good}\x1b[2J", "it has control characters"),
        ('command="a" b" {good}', "expected [options] KIND BASE64"),
        ("  \n# nothing\n", "there is no key in DIB_CI_SSH_KEY"),
    ],
)
def test_what_is_no_key_ends_the_build_early_and_says_which_line(
    tmp_path: Path, hooks: Callable[[str], Hooks], key: str, trouble: str
) -> None:
    good = make_key(tmp_path, "good").with_suffix(".pub").read_text().strip()
    kind, data, _ = good.split()
    given = key.format(good=good, data=data, cut=f"{kind} {data[:-8]}")
    done = hooks("hooks").outside("extra-data.d", DIB_CI_SSH_KEY=given)
    assert done.returncode != 0
    assert trouble in done.stderr
    assert "c2VjcmV0" not in done.stdout + done.stderr


def test_keys_with_options_and_of_every_kind_are_keys(
    node: Node, tmp_path: Path, hooks: Callable[[str], Hooks]
) -> None:
    lines = [f'from="10.0.0.0/8,192.0.2.*",command="echo \\"hi\\"",no-pty {key}' for key in node.public]
    for line in lines:
        assert hooks("hooks").outside("extra-data.d", DIB_CI_SSH_KEY=line).stderr == ""
        break
    placed = hooks("all")
    assert placed.outside("extra-data.d", DIB_CI_SSH_KEY="\n".join(lines)).returncode == 0
    assert (placed.place / "ci-base/authorized_keys").read_text().splitlines() == lines


@pytest.mark.parametrize(
    ("environment", "trouble"),
    [
        ({"DIB_CI_USER": "zuul;reboot"}, "DIB_CI_USER is no name"),
        ({"DIB_CI_USER": "../etc"}, "DIB_CI_USER is no name"),
        ({"DIB_CI_USER": "a\nroot ALL=(ALL) ALL"}, "DIB_CI_USER is no name"),
        ({"DIB_CI_USER": "ALL"}, "DIB_CI_USER is no name"),
        ({"DIB_CI_USER": "root"}, "DIB_CI_USER is no name"),
        ({"DIB_CI_USER_ID": "0"}, "DIB_CI_USER_ID is no id"),
        ({"DIB_CI_USER_ID": "1000;id"}, "DIB_CI_USER_ID is no id"),
        ({"DIB_CI_USER_ID": "65534"}, "DIB_CI_USER_ID is no id"),
        ({"DIB_CI_JOURNAL_SIZE": "1G\nStorage=none"}, "DIB_CI_JOURNAL_SIZE is no size"),
        ({"DIB_CI_TIME_SERVERS": "a\ncmdport 0"}, "DIB_CI_TIME_SERVERS is no list"),
        ({"DIB_CI_TIME_SERVERS": "a/b"}, "DIB_CI_TIME_SERVERS is no list"),
        ({"IMAGEPOOL_BUILD_ID": 'a", "x": "'}, "IMAGEPOOL_BUILD_ID has a value that is no word"),
        ({"IMAGE_ELEMENT": 'vm "quoted"'}, "IMAGE_ELEMENT has a value that is no word"),
        ({"DIB_IMAGE_NAME": "a b\nc"}, "DIB_IMAGE_NAME has a value that is no word"),
        ({"SOURCE_DATE_EPOCH": "yesterday"}, "SOURCE_DATE_EPOCH is no number of seconds"),
        ({"DIB_CI_SSH_KEY_FILE": "keys.pub"}, "DIB_CI_SSH_KEY_FILE is no absolute path"),
        ({"DIB_CI_SSH_KEY_FILE": "/nowhere/keys.pub"}, "can't be read: /nowhere/keys.pub: No such file"),
        ({"DIB_CI_SSH_KEY_FILE": "/dev/zero"}, "DIB_CI_SSH_KEY_FILE is no file"),
        (
            {"DISTRO_NAME": "gentoo"},
            'DISTRO_NAME is "gentoo", neither of the Debian nor of the Red Hat family',
        ),
    ],
)
def test_values_that_can_not_be_end_the_build_early(
    hooks: Callable[[str], Hooks], environment: dict[str, str], trouble: str
) -> None:
    done = hooks("hooks").outside("extra-data.d", **environment)
    assert done.returncode != 0
    assert trouble in done.stderr
