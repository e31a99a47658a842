"""The shipped platforms for real: built as shipped, booted as a cloud does, asked over SSH, and restarted.

trixie has a handful of the elements one may add, sid is as it ships; bookworm is in test_main_job.py. Needs
root, loop devices and a Debian package mirror; takes some minutes, most of which are the emulator's.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final, Literal

import pytest

from tests.e2e import trial
from tests.e2e.machine import left_of
from tests.e2e.trial import FIRST, HOST_NAME, LARGER, OTHER_KEY, SECOND, USER, VOLUME, Trial, interface

pytestmark = pytest.mark.e2e

PLATFORMS: Final = ("debian-trixie", "debian-sid")
#: What trixie has besides: a login user, and a file in the image's cache.
EXTRA = ("cloud-user", "cache-files")
CACHED = b"what jobs would fetch\n"
#: sid's index says until when it may be used, and a mirror may lag: this is about the image, not the mirror.
LAGGING = 'Acquire::Check-Valid-Until "false";\n'

#: Nova gives a config drive as a CD-ROM, some clouds as a disk.
DRIVES: Final[Mapping[str, Literal["cdrom", "virtio"]]] = {"debian-trixie": "cdrom", "debian-sid": "virtio"}

#: Of root's shell, by name: the question, and the answer as a pattern for all of it, which holds at the first
#: boot and after a restart.
CHECKS = {
    "state": ("systemctl is-system-running", "running"),
    "failed units": ("systemctl --failed --plain --no-legend", ""),
    "host name": ("hostname", HOST_NAME),
    "own name": ("getent hosts $(hostname)", rf"\S+\s.*\b{HOST_NAME}\b.*"),
    "static IPv4": (
        f"ip -o -4 addr show dev {interface(FIRST)}",
        r".*\binet 192\.0\.2\.10/24\b(?!.*dynamic).*",
    ),
    "static IPv6": (f"ip -o -6 addr show dev {interface(FIRST)}", r"(?s).*\binet6 2001:db8:1::10/64\b.*"),
    "DHCP": (f"ip -o -4 addr show dev {interface(SECOND)}", r".*\binet 10\.0\.\d+\.\d+/24\b.*\bdynamic\b.*"),
    "IPv4 route": ("ip -4 route show default", rf"(?s).*via {FIRST.ipv4_gateway} .*"),
    "IPv6 route": ("ip -6 route show default", rf"(?s).*via {FIRST.ipv6_gateway} .*"),
    "IPv6 neighbour": (
        f"echo x >/dev/udp/{FIRST.ipv6_gateway}/9; sleep 1; ip -6 neigh show {FIRST.ipv6_gateway}",
        r".*\blladdr\b.*",
    ),
    "name server": ("cat /etc/resolv.conf", rf"(?ms).*^nameserver {FIRST.ipv4_name_server}$.*"),
    "keys": (
        f"getent passwd {USER} | cut -d: -f6 | sed 's,$,/.ssh/authorized_keys,' | xargs cat",
        rf"(?s).*{re.escape(OTHER_KEY.split()[1])}.*",
    ),
    "ssh settings": (
        # Newer ones write the names of settings as the manual does.
        "sshd -T | grep -iE '^passwordauthentication|^permitemptypasswords'",
        r"(?s)(.* no\n?){2}",
    ),
    "host keys": ("ls /etc/ssh/ssh_host_*_key", r"(?s).*ssh_host_ed25519_key.*"),
    "machine id": ("cat /etc/machine-id", "[0-9a-f]{32}"),
    "journal": ("ls -d /var/log/journal/$(cat /etc/machine-id)", "/var/log/journal/.*"),
    "time": ("systemctl is-active systemd-timesyncd", "active"),
    "no timers of packages": (
        "systemctl list-timers --no-legend | grep -E 'apt-daily|man-db|dpkg-db-backup'",
        "",
    ),
    "cron": (
        "find /etc/cron.d /etc/cron.daily /etc/cron.hourly /etc/cron.weekly /etc/cron.monthly "
        "-type f ! -name .placeholder 2>/dev/null",
        "",
    ),
    "no waiting": ("systemd-analyze blame | grep -E 'time-wait-sync|chrony-wait'", ""),
    "no persistent MAC": ("find /etc/udev/rules.d /etc/systemd/network -type f | xargs -r grep -il mac", ""),
    "router advertisements": (
        "sysctl -n net.ipv6.conf.default.accept_ra net.ipv6.conf.default.use_tempaddr",
        "2\n0",
    ),
    "no unattended upgrades": ("dpkg-query -W unattended-upgrades 2>/dev/null | grep -v '\\s$'", ""),
    "image": ("cat /etc/image-info.json", r'(?s)\{.*"image": "debian-.*\}'),
    "boots": ("journalctl --list-boots --quiet | wc -l", r"\d+"),
    "python": ("command -v python3", ".*"),
    "root": ("df --block-size=1 --output=size / | tail -1", r"\s*\d+"),
    "fresh keys": (
        "test $(stat -c %Y /etc/ssh/ssh_host_ed25519_key) -ge $(stat -c %Y /etc/image-info.json)",
        "",
    ),
}
#: What cloud-user and cache-files make of trixie.
EXTRA_CHECKS = {
    "cloud": ("getent passwd cloud && sudo -l -U cloud", r"(?s)cloud:.*NOPASSWD: ALL.*"),
    "keys of cloud": ("cat /home/cloud/.ssh/authorized_keys", rf"(?s).*{re.escape(OTHER_KEY.split()[1])}.*"),
    "no root": ("sshd -T | grep -i ^permitrootlogin", r"permitrootlogin no"),
    "cached": ("find /opt/cache/files -type f | xargs sha256sum", hashlib.sha256(CACHED).hexdigest() + ".*"),
}


@pytest.fixture(scope="module", params=PLATFORMS)
def machine(request: pytest.FixtureRequest) -> Iterator[Trial]:
    """A platform's trial, carried out once."""
    if os.geteuid() != 0:
        pytest.fail("building an image needs root: run the end-to-end tests as root")
    with tempfile.TemporaryDirectory(prefix="imagepool-e2e-", dir="/var/tmp") as name:
        directory, platform = Path(name), request.param
        checks = CHECKS | (EXTRA_CHECKS if platform == "debian-trixie" else {})
        with served("cached.txt", CACHED) as files:
            built = trial.build(platform, directory, *options(platform, directory, files))
        questions = {name: question for name, (question, _) in checks.items()}
        yield trial.carry_out(platform, directory, built, questions, drive=DRIVES[platform])
        assert left_of(directory) == []


@contextmanager
def served(name: str, content: bytes) -> Iterator[str]:
    """A web server on loopback with one file; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == f"/{name}" else 404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def options(platform: str, directory: Path, files: str) -> list[str]:
    """What is built otherwise than it is shipped; `files` is where files are served."""
    if platform == "debian-sid":
        settings = directory / "lagging"
        settings.write_text(LAGGING)
        return ["--env", f"DIB_MMDEBSTRAP_EXTRA_ARGS=--aptopt={settings}"]
    line = f"{files}/cached.txt sha256:{hashlib.sha256(CACHED).hexdigest()} cached.txt"
    return ["--env", f"DIB_CACHE_FILES={line}", "--", *EXTRA]


@pytest.mark.parametrize("name", [*CHECKS, *EXTRA_CHECKS])
def test_it_is_as_it_should_be_at_first_and_after_a_restart(name: str, machine: Trial) -> None:
    if name in EXTRA_CHECKS and machine.platform != "debian-trixie":
        assert name not in machine.first
        return
    _, wanted = (CHECKS | EXTRA_CHECKS)[name]
    for when, answers in (("at first", machine.first), ("after a restart", machine.second)):
        assert re.fullmatch(wanted, answers[name].text), f"{when}: {answers[name]}"


def test_the_root_file_system_has_all_of_the_larger_disk(machine: Trial) -> None:
    # What is not there is what a file system needs for itself.
    assert machine.size - LARGER / 2 < int(machine.first["root"].text) <= machine.size


def test_keys_and_ids_are_the_machines_own_and_stay(machine: Trial) -> None:
    assert machine.first["fresh keys"].code == 0
    for name in ("machine id", "host keys"):
        assert machine.first[name] == machine.second[name]


def test_it_is_up_again_without_the_systems_python(machine: Trial) -> None:
    assert machine.first["python"].code == 0
    assert machine.second["python"].code != 0


def test_the_journal_outlives_a_restart(machine: Trial) -> None:
    assert (machine.first["boots"].text, machine.second["boots"].text) == ("1", "2")


def test_interfaces_and_volumes_come_and_go_while_it_runs(machine: Trial) -> None:
    assert [name for name, said in machine.plugged.items() if said.code != 0] == []
    assert "64M" in machine.plugged["volume"].text and VOLUME in machine.plugged["volume"].text
    assert [name for name, said in machine.unplugged.items() if said.code == 0] == []


def test_a_config_drive_that_is_found_late_lets_in_whom_it_names(machine: Trial) -> None:
    assert {name: said.code for name, said in machine.late.items()} == {"keys": 0, "read": 0, "by whom": 0}


def test_it_says_what_it_is(machine: Trial) -> None:
    assert f'"image": "{machine.platform}"' in machine.first["image"].text


def test_its_console_tells_how_far_it_is(machine: Trial) -> None:
    seconds = machine.seconds
    assert seconds.kernel is not None and seconds.ssh is not None
    assert 0 < seconds.kernel < seconds.ssh
