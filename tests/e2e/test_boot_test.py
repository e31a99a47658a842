"""The boot test on real parts: a good image passes, ten that are broken are found before they go anywhere.

Needs root, loop devices and a Debian package mirror. The good image is built by diskimage-builder; the broken
ones are made of it in seconds and go through the same daemon. What a machine shows that lets its user in is
broken all at once, for the test asks for all of it; what ends a test gets an image of its own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from builder.process.child import wait_for
from tests.e2e.machine import left_of, run
from tests.e2e.place import CONFIG, Place
from tests.realparts.devcloud import DevCloud, devcloud

__all__ = ["devcloud"]
pytestmark = pytest.mark.e2e

IMAGE: Final = "debian-bookworm"
PROVIDERS: Final = {"devcloud-one": "RegionOne", "devcloud-two": "RegionTwo"}
BREAKER: Final = Path(__file__).with_name("broken-image")
IN_FORCE: Final = "the changed configuration is in force"
PATIENCE: Final = 60.0
#: Seconds for three boots in emulation beside another test's.
BOOT_TEST_LIMIT: Final = 1300
#: The proofs in the order in which they are asked for.
PROOFS: Final = (
    *("boot", "ssh", "login", "sudo", "host-name", "dns", "units", "root-grown", "second-boot"),
    *("machine-id", "host-keys"),
)
#: What an operator of this image wants to be true of it, besides.
CHECKS: Final = {
    "no-rubbish": """\
        #!/bin/sh
        used=$(df -P -k / | awk 'NR == 2 { print $3 }')
        [ "$used" -lt 2000000 ] || { echo "the root file system takes $used kB"; exit 1; }
        """,
    "packages": """\
        #!/bin/sh
        echo 1..2
        for package in sudo python3; do
            status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)
            [ "$status" = installed ] || printf 'not '
            echo "ok - $package"
        done
        """,
}
#: How an image is broken -> the proof that fails, and how that is told. With these the user is let in still:
#: in the order in which they are found.
WAYS_OF_ONE: Final[Mapping[str, tuple[str, str]]] = {
    "dns-dead": ("dns", r"it can't resolve names: /etc/resolv\.conf can't be read"),
    "unit-fails": ("units", r"units failed: broken\.service"),
    "disk-not-grown": ("root-grown", r"it did not grow to the larger disk"),
    "rubbish": ("check boot-test.d/no-rubbish", r"it ended with exit code 1"),
    "package-gone": ("check boot-test.d/packages", r"1 of its 2 tests failed: python3"),
    "host-keys-baked-in": ("host-keys", r"SSH host keys are baked into the image"),
}
#: ... and with these nobody is.
WAYS: Final[Mapping[str, tuple[str, str]]] = {
    "no-ssh-server": ("ssh", r"no SSH server answered"),
    "wrong-key": ("login", r"zuul could not log in with the key of the config drive"),
    "wrong-root": ("boot", r"the initramfs does not find the root file system"),
    "no-virtio": ("boot", r"the initramfs does not find the root file system, or has no driver for the disk"),
}


class Pool:
    """A daemon with a good image in service, and how to have it build a broken one."""

    def __init__(self, directory: Path, cloud: DevCloud) -> None:
        self.directory = directory
        self.config = directory / "imagepool.yaml"
        self.place = Place(directory, cloud, self.config)
        for name, script in CHECKS.items():
            check = directory / "boot-test.d" / name
            check.parent.mkdir(exist_ok=True)
            check.write_text("".join(f"{line.strip()}\n" for line in script.splitlines()))
            check.chmod(0o755)
        self.good = ""  #: the id of the good build
        self.before: dict[str, str] = {}  #: the image that serves, by provider

    def start(self) -> None:
        """Start the daemon, and build the good image, to be tested by hand."""
        self.configure({"boot-test": False})
        self.place.start()
        self.place.until("upload", "list", shows=lambda rows: [r["state"] for r in rows] == ["ready"] * 2)
        (build,) = self.place.json("build", "list")
        self.good = build["id"]
        self.before = self.serving()

    def configure(self, image: Mapping[str, Any]) -> None:
        """Write the configuration, with more about the image, and wait until it is in force."""
        log = self.directory / "daemon.log"
        seen = log.read_text().count(IN_FORCE) if log.exists() else 0
        content = {
            "state-dir": str(self.directory),
            "embedded-zookeeper": "open",
            "include": str(CONFIG / "platforms.yaml"),
            "mirrors": {"debian": "host"},
            "schedule": "14 14 1 1 *",
            "diskimages": [{"name": IMAGE, "boot-test": {"timeout": BOOT_TEST_LIMIT}, **image}],
            "providers": [
                {
                    "name": provider,
                    "cloud": "devcloud",
                    "region-name": region,
                    "diskimages": [{"name": IMAGE}],
                }
                for provider, region in PROVIDERS.items()
            ],
        }
        draft = self.config.with_suffix(".new")
        draft.write_text(yaml.safe_dump(content))
        draft.rename(self.config)
        if log.exists():
            in_force = wait_for(lambda: log.read_text().count(IN_FORCE) > seen, timeout=PATIENCE)
            assert in_force, self.place.story()

    def break_it(self, ways: Collection[str]) -> dict[str, Any]:
        """Have a build made that is broken in these ways; what is on record of it."""
        raw = self.directory / "good.raw"
        if not raw.exists():
            file = self.directory / "images" / f"{IMAGE}-{self.good}.qcow2"
            run("qemu-img", "convert", "-O", "raw", str(file), str(raw))
        broken = {"BROKEN_WAYS": " ".join(ways), "BROKEN_FROM": str(raw)}
        self.configure({"dib-cmd": str(BREAKER), "env-vars": broken})
        known = {build["id"] for build in self.place.json("build", "list")}
        self.place.imagepool("image", "build", IMAGE, "--wait", "--why", "broken", code=1)
        (made,) = [build for build in self.place.json("build", "list") if build["id"] not in known]
        shown: dict[str, Any] = self.place.json("build", "show", made["id"])
        return shown

    def serving(self) -> dict[str, str]:
        """The cloud's id of the image that serves, by provider."""
        return {row["provider"]: row["id"] for row in self.place.json("image", "resolve", IMAGE)}

    def uploads_of(self, build: str) -> list[dict[str, Any]]:
        """The uploads of a build that are on record."""
        return [upload for upload in self.place.json("upload", "list") if upload["build_id"] == build]


@pytest.fixture(scope="module")
def pool(devcloud: DevCloud) -> Iterator[Pool]:
    """A pool outside /tmp, where the sandbox gives the build a /tmp of its own."""
    if os.geteuid() != 0:
        pytest.fail("building an image needs root: run the end-to-end tests as root")
    directory = Path(tempfile.mkdtemp(prefix="imagepool-e2e-", dir="/var/tmp"))
    pool = Pool(directory, devcloud)
    try:
        pool.start()
        yield pool
        pool.place.stop()
        assert left_of(directory) == []
    finally:
        pool.place.stop()
        shutil.rmtree(directory)


def test_a_good_image_proves_all_and_is_measured(
    pool: Pool, record_property: Callable[[str, object], None]
) -> None:
    pool.configure({})
    answer = json.loads(pool.place.imagepool("build", "test", pool.good[:8], "--json"))
    assert answer["verdict"] == "passed"
    assert {proof["name"]: proof["passed"] for proof in answer["proofs"]} == dict.fromkeys(
        [*PROOFS, *(f"check boot-test.d/{name}" for name in CHECKS)], True
    )
    assert 0 < answer["measures"]["kernel_seconds"] < answer["measures"]["ssh_seconds"]
    assert answer["measures"]["packages"] > 100
    assert 0 < answer["measures"]["disk_claimed"] < 1 << 30
    assert "tcp/22" in answer["ports"]
    assert "/usr/bin/sudo" in answer["setuid"]
    # Figures for whoever reads the results.
    for name in ("accelerator", "seconds", "measures"):
        record_property(name, answer[name])
    assert_clean(pool)


def test_all_that_is_wrong_with_an_image_is_told_at_once_and_it_goes_nowhere(pool: Pool) -> None:
    build = pool.break_it(WAYS_OF_ONE)
    assert_stopped(pool, build, *next(iter(WAYS_OF_ONE.values())))
    assert build["test"]["failed"] == [proof for proof, _ in WAYS_OF_ONE.values()]
    log = pool.place.imagepool("build", "log", build["id"])
    for proof, words in WAYS_OF_ONE.values():
        assert re.search(rf"NOT OK: {re.escape(proof)}: .*{words}", log), f"{proof}\n{log[-8000:]}"


@pytest.mark.parametrize("way", WAYS)
def test_an_image_that_lets_nobody_in_goes_nowhere(pool: Pool, way: str) -> None:
    build = pool.break_it([way])
    assert_stopped(pool, build, *WAYS[way])
    assert build["test"]["failed"] == [WAYS[way][0]]
    assert "on their consoles" in pool.place.imagepool("build", "log", build["id"])


def assert_stopped(pool: Pool, build: Mapping[str, Any], proof: str, words: str) -> None:
    # The reason names the proof, in words, with the lines that show it.
    failure = build["failure"]
    assert (build["state"], failure["class"], failure["phase"]) == ("failed", "test", "test"), build["reason"]
    assert failure["step"] == f"proof {proof}", build["reason"]
    assert re.search(words, failure["message"]), failure
    assert failure["lines"]
    assert build["test"]["verdict"] == "failed"

    # Nothing of it went anywhere, nothing of it is left here, and the good one goes on serving.
    assert pool.uploads_of(build["id"]) == []
    assert [path.name for path in (pool.directory / "images").glob(f"*{build['id']}*")] == []
    assert pool.serving() == pool.before
    assert pool.place.json("build", "show", pool.good)["state"] == "ready"
    assert_clean(pool)


def assert_clean(pool: Pool) -> None:
    assert list((pool.directory / "work").iterdir()) == []
