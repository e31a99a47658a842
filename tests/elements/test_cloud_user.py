"""cloud-user: the classic prepared image. Logs into trees built with it, or fails to, as it shall be."""

from __future__ import annotations

import os
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

Family = Literal["debian", "redhat"]
#: "console", by `openssl passwd -6 -salt imagepool`.
PASSWORD: Final = "console"
HASH: Final = (
    "$6$imagepool$8MEg4ZeeIp6/tOmTTCyldxvlRmn1gsaiDvo1Ibe0zRZlCk.J0Eslocb7zVEHPaHLpd.7ajmxeF34eDs3ddvkb1"
)


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """A tree with cloud-user and ci-base: Debian with the defaults, Red Hat with root on the console."""

    family: Family
    tree: Tree
    place: Path
    environment: dict[str, str]

    @property
    def root_console(self) -> bool:
        """Whether root has a password."""
        return self.family == "redhat"


@pytest.fixture(scope="module", params=["debian", "redhat"])
def cloud(request: pytest.FixtureRequest, trees: Trees, tmp_path_factory: pytest.TempPathFactory) -> Cloud:
    """An image of cloud-user of either family, with the CI user beside it."""
    place = tmp_path_factory.mktemp("cloud")
    environment = {}
    if request.param == "redhat":
        file = place / "hash"
        file.write_text(f"{HASH}\n")
        file.chmod(0o600)
        environment = {"DIB_CLOUD_USER_ROOT_CONSOLE": "1", "DIB_CLOUD_USER_ROOT_HASH_FILE": str(file)}
    tree = trees.build("cloud-user", "ci-base", family=request.param, environment=environment)
    return Cloud(family=request.param, tree=tree, place=place, environment=environment)


@pytest.fixture(name="hooks")
def _hooks(tmp_path: Path) -> Callable[[str], Hooks]:
    """Lays out the hooks of cloud-user in a directory of that name."""
    return lambda name: Hooks(tmp_path / name, "login-user", "cloud-user")


def bring_key(tree: Tree, user: str, home: str, place: Path) -> Path:
    """Give a user a key, as network-glean or cloud-init does at boot."""
    key = make_key(place, user)
    directory = tree.root / home / ".ssh"
    directory.mkdir(mode=0o700, exist_ok=True)
    (directory / "authorized_keys").write_text(key.with_suffix(".pub").read_text())
    return key


def test_the_user_logs_in_with_a_key_of_the_cloud_and_is_root_without_a_password(
    cloud: Cloud, trees: Trees, tmp_path: Path
) -> None:
    assert cloud.tree.read("/home/cloud/.ssh/authorized_keys") == ""
    assert cloud.tree.read("/etc/network-glean/ssh-users.d/cloud-user") == "cloud\n"
    admins = "sudo" if cloud.family == "debian" else "wheel"
    with trees.changeable(cloud.tree) as tree:
        key = bring_key(tree, "cloud", "home/cloud", tmp_path)
        done = log_in(tree, "cloud", "id -un; id -Gn; sudo -n id -un", key=key, place=tmp_path)
        assert done.stdout.splitlines() == ["cloud", f"cloud {admins}", "root"], done.stderr


def test_root_does_not_get_in_over_ssh_with_a_key_or_a_password(
    cloud: Cloud, trees: Trees, tmp_path: Path
) -> None:
    with trees.changeable(cloud.tree) as tree:
        key = bring_key(tree, "root", "root", tmp_path)
        tree.run("bash", "-c", f"echo root:{PASSWORD} | chpasswd")
        settings = tree.root / "etc/ssh/sshd_config.d/01-cloud-user.conf"
        ours = settings.read_text()
        assert log_in(tree, "root", "true", key=key, place=tmp_path).returncode == 255
        assert log_in(tree, "root", "true", password=PASSWORD, place=tmp_path).returncode == 255
        # It is these settings that keep root out, and nothing else.
        settings.write_text("PermitRootLogin yes\nPasswordAuthentication yes\n")
        assert log_in(tree, "root", "true", key=key, place=tmp_path).returncode == 0
        assert log_in(tree, "root", "true", password=PASSWORD, place=tmp_path).returncode == 0
        # A file of another element that is read later does not matter.
        settings.write_text(ours)
        (settings.parent / "50-cloud-init.conf").write_text(
            "PermitRootLogin yes\nPasswordAuthentication yes\n"
        )
        assert log_in(tree, "root", "true", key=key, place=tmp_path).returncode == 255


def test_nobody_logs_in_with_a_password(cloud: Cloud, trees: Trees, tmp_path: Path) -> None:
    assert cloud.tree.run("passwd", "-S", "cloud").stdout.split()[1] == "L"
    with trees.changeable(cloud.tree) as tree:
        tree.run("bash", "-c", f"echo cloud:{PASSWORD} | chpasswd")
        done = log_in(tree, "cloud", "true", password=PASSWORD, place=tmp_path)
    assert done.returncode == 255
    assert "Permission denied (publickey)" in done.stderr


def test_the_console_is_as_configured_and_the_secret_only_in_the_shadow_file(cloud: Cloud) -> None:
    field = cloud.tree.run("getent", "shadow", "root").stdout.split(":")[1]
    state = cloud.tree.run("passwd", "-S", "root").stdout.split()[1]
    assert (field, state) == ((HASH, "P") if cloud.root_console else ("*", "L"))
    if cloud.root_console:
        salted = cloud.tree.run("grep", "-rlF", HASH, "/etc", "/root", "/home", "/tmp", "/var", check=False)
        assert salted.stdout.split() == ["/etc/shadow"]
        assert (cloud.tree.root / "etc/shadow").stat().st_mode & 0o007 == 0
        assert HASH not in cloud.tree.log
        beside = [path for path in cloud.tree.beside.rglob("*") if path.is_file()]
        assert not [path for path in beside if HASH.encode() in path.read_bytes()]


def test_the_same_hooks_again_change_nothing(
    cloud: Cloud, trees: Trees, hooks: Callable[[str], Hooks]
) -> None:
    again = hooks("again")
    environment = cloud.environment | {"DISTRO_NAME": "debian" if cloud.family == "debian" else "rocky"}
    assert again.outside("extra-data.d", **environment).returncode == 0
    with trees.changeable(cloud.tree) as tree:
        for phase in ("install.d", "post-install.d"):
            again.inside(tree, phase, **environment)
        for part in ("etc", "home", "root", "var/lib"):
            assert differences(cloud.tree.root / part, tree.root / part) == set(), part


def test_beside_the_ci_user_each_has_a_name_an_id_and_rights_of_its_own(
    cloud: Cloud, trees: Trees, tmp_path: Path
) -> None:
    both = Hooks(tmp_path / "both", "login-user", "ci-base", "cloud-user")
    environment = {"DISTRO_NAME": "debian" if cloud.family == "debian" else "rocky"}
    assert both.outside("extra-data.d", **environment).returncode == 0
    for user, identity in (("zuul", "1000"), ("cloud", "1001")):
        assert cloud.tree.run("runuser", "-u", user, "--", "id", "-u").stdout.strip() == identity
        assert cloud.tree.run("runuser", "-u", user, "--", "sudo", "-n", "id", "-u").stdout.strip() == "0"
    with trees.changeable(cloud.tree) as tree:
        (tree.root / "etc/cloud").mkdir()
        (tree.root / "etc/cloud/cloud.cfg").write_text("users: [default]\n")
        both.inside(tree, "post-install.d", **environment)
        # cloud-init reads them by name, and the last one counts.
        last = max((tree.root / "etc/cloud/cloud.cfg.d").iterdir())
        assert yaml.safe_load(last.read_text())["system_info"]["default_user"]["name"] == "cloud"


def test_settings_that_come_before_ours_end_the_build(
    cloud: Cloud, trees: Trees, hooks: Callable[[str], Hooks]
) -> None:
    again = hooks("again")
    environment = cloud.environment | {"DISTRO_NAME": "debian" if cloud.family == "debian" else "rocky"}
    with trees.changeable(cloud.tree) as tree:
        (tree.root / "etc/ssh/sshd_config.d/00-other.conf").write_text("PermitRootLogin yes\n")
        done = again.inside(tree, "post-install.d", check=False, **environment)
    assert done.returncode != 0
    assert 'sshd does not take "permitrootlogin no" for the user root' in done.stderr


@pytest.mark.parametrize(
    ("environment", "content", "mode", "trouble"),
    [
        ({"DIB_CLOUD_USER": "a:b"}, None, 0o600, "DIB_CLOUD_USER is no name"),
        ({"DIB_CLOUD_USER_ID": "12"}, None, 0o600, "DIB_CLOUD_USER_ID is no id"),
        ({"DIB_CLOUD_USER_ROOT_CONSOLE": "yes"}, None, 0o600, "is neither 0 nor 1"),
        ({"DIB_CLOUD_USER_ROOT_CONSOLE": "1"}, None, 0o600, "has to name a file"),
        (
            {"DIB_CLOUD_USER_ROOT_CONSOLE": "0"},
            HASH,
            0o600,
            "is set, but DIB_CLOUD_USER_ROOT_CONSOLE is not 1",
        ),
        ({"DIB_CLOUD_USER_ROOT_CONSOLE": "1"}, HASH, 0o640, "may be read by others (mode 640)"),
        ({"DIB_CLOUD_USER_ROOT_CONSOLE": "1"}, "hunter2", 0o600, "and no password"),
        ({"DIB_CLOUD_USER_ROOT_CONSOLE": "1"}, "abJnggxhB/yWI", 0o600, "and no password"),
        ({"DIB_CLOUD_USER_ROOT_CONSOLE": "1"}, "$1$x$hunter2hunter2hunter2", 0o600, "and no password"),
        ({"DIB_CLOUD_USER_ROOT_CONSOLE": "1"}, f"{HASH}\nzuul:hunter2", 0o600, "and no password"),
    ],
)
def test_values_that_can_not_be_end_the_build_early_and_no_secret_is_told(
    hooks: Callable[[str], Hooks],
    tmp_path: Path,
    environment: dict[str, str],
    content: str | None,
    mode: int,
    trouble: str,
) -> None:
    given = dict(environment, DIB_DEBUG_TRACE="1")
    if content is not None:
        file = tmp_path / "hash"
        file.write_text(content)
        file.chmod(mode)
        given["DIB_CLOUD_USER_ROOT_HASH_FILE"] = str(file)
    done = hooks("hooks").outside("extra-data.d", **given)
    assert done.returncode != 0
    assert trouble in done.stderr
    for secret in ("hunter2", HASH):
        assert secret not in done.stdout + done.stderr


def test_the_hash_waits_for_the_image_where_only_root_reads_it(
    hooks: Callable[[str], Hooks], tmp_path: Path
) -> None:
    file = tmp_path / "hash"
    file.write_text(HASH)
    file.chmod(0o400)
    placed = hooks("hooks")
    done = placed.outside(
        "extra-data.d",
        DIB_CLOUD_USER_ROOT_CONSOLE="1",
        DIB_CLOUD_USER_ROOT_HASH_FILE=str(file),
        DIB_DEBUG_TRACE="1",
    )
    assert done.returncode == 0
    assert HASH not in done.stdout + done.stderr
    kept = placed.place / "cloud-user/root-hash"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.stat().st_uid == os.geteuid()
