"""The trial of a shipped platform: built by tools/build-image, booted as a cloud would, asked, and restarted.

What a machine says is collected in one scenario of a minute or two; tests then look at what was collected.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path
from typing import Final, Literal

from builder.emulator.guest import Guest, Seconds, boot
from builder.emulator.machine import ConfigDrive, Disk, Machine, Network
from builder.process.child import wait_for
from tests.e2e.machine import run

PROJECT: Final = Path(__file__).resolve().parents[2]
BUILD_LIMIT: Final = 1200.0
BOOT_LIMIT: Final = 600.0
LOGIN_LIMIT: Final = 120.0
#: Seconds for a machine to do what takes it a moment, emulated and on a busy host.
PATIENCE: Final = 90.0
#: Bytes by which the disk is larger than the image.
LARGER: Final = 3 << 30

#: Who the shipped images are for; may do everything by sudo.
USER: Final = "zuul"
HOST_NAME: Final = "trial-host"
FIRST: Final = Network(
    mac="fa:16:3e:aa:00:01", ipv4=IPv4Interface("192.0.2.10/24"), ipv6=IPv6Interface("2001:db8:1::10/64")
)
SECOND: Final = Network(mac="fa:16:3e:aa:00:02", ipv4="dhcp")
PLUGGED: Final = Network(mac="fa:16:3e:aa:00:03", ipv4="dhcp")
VOLUME: Final = "1e4c0d7a-5c1f-4d2b"
#: A key of somebody else's, beside the one that logs in.
OTHER_KEY: Final = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE9ZQ1X5m1d3D3mB0mYwqQ0f7l2Z7m3qv5k9k4y8hT1a somebody"


@dataclass(frozen=True, kw_only=True)
class Said:
    """How a command ended in the guest, and what it printed on both streams, without the last newline."""

    code: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What came out; the answers by the names of the questions."""

    platform: str
    directory: Path
    built: str  #: what the tool said
    size: int  #: bytes of the disk that the machine saw
    seconds: Seconds
    first: Mapping[str, Said]
    plugged: Mapping[str, Said]
    unplugged: Mapping[str, Said]
    late: Mapping[str, Said]  #: once a config drive turned up late
    second: Mapping[str, Said]  #: after a restart, without the system's Python


def build(platform: str, output: Path, *options: str) -> str:
    """Build a platform as shipped with tools/build-image, but for what that installs; what it says."""
    done = subprocess.run(
        [
            sys.executable,
            "-B",
            "-P",
            "-m",
            "build_image",
            platform,
            "--output",
            output,
            *options,
        ],
        env={**os.environ, "PYTHONPATH": f"{PROJECT / 'tools' / 'lib'}:{PROJECT}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BUILD_LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def carry_out(
    platform: str,
    directory: Path,
    built: str,
    questions: Mapping[str, str],
    *,
    drive: Literal["cdrom", "virtio"] = "cdrom",
) -> Trial:
    """Boot the image that was built in a directory, and put every question, twice."""
    image = directory / f"{platform}.qcow2"
    size = json.loads(run("qemu-img", "info", "--output=json", str(image)))["virtual-size"] + LARGER
    machine = Machine(
        image=Disk(path=image.resolve()),
        size=size,
        networks=(FIRST, SECOND),
        config_drive=ConfigDrive(host_name=HOST_NAME, public_keys={"somebody": OTHER_KEY}, bus=drive),
    )
    with boot(machine, directory) as guest:
        seconds = _wait(guest)
        first = ask(guest, questions)
        plugged, unplugged = _plug(guest)
        late = _find_late(guest)
        guest.ssh(_sudo("rm -rf /usr/bin/python3* /usr/lib/python3*"), user=USER)
        guest.reboot(user=USER)
        _wait(guest)
        second = ask(guest, questions)
    return Trial(
        platform=platform,
        directory=directory,
        built=built,
        size=size,
        seconds=seconds,
        first=first,
        plugged=plugged,
        unplugged=unplugged,
        late=late,
        second=second,
    )


def ask(guest: Guest, questions: Mapping[str, str]) -> Mapping[str, Said]:
    """The answers of root's shell to all questions, in one go."""
    script = "\n".join(
        f'echo {shlex.quote(f"@@@ {name}")}; ( {question}\n) 2>&1 </dev/null; code=$?; echo; echo "@@@ $code"'
        for name, question in questions.items()
    )
    text = guest.ssh(_sudo(script), user=USER, timeout=10 * PATIENCE).stdout
    found = re.findall(r"^@@@ ([A-Za-z].*)\n((?:.*\n)*?)@@@ (\d+)$", text, re.MULTILINE)
    return {name: Said(code=int(code), text=said.strip("\n")) for name, said, code in found}


def _wait(guest: Guest) -> Seconds:
    guest.wait_for_ssh(BOOT_LIMIT)
    guest.wait_for_login(LOGIN_LIMIT, user=USER)
    # All that starts has started, or has failed to.
    guest.ssh("systemctl is-system-running --wait", user=USER, timeout=BOOT_LIMIT, check=False)
    return guest.seconds


def _plug(guest: Guest) -> tuple[Mapping[str, Said], Mapping[str, Said]]:
    """Plug in an interface and a volume, and pull them out again; what the machine has then."""
    questions = {
        "interface": f"ip -br link | grep -i {PLUGGED.mac}",
        "address": f"ip -4 -o addr show dev {interface(PLUGGED)} | grep -w inet",
        "volume": f"lsblk --noheadings --output SERIAL,SIZE | grep {VOLUME}",
    }
    names = [guest.plug_network(PLUGGED), guest.plug_volume(64 << 20, serial=VOLUME)]
    plugged = _until(guest, questions, code=0)
    for name in names:
        guest.unplug(name)
    return plugged, _until(guest, questions, code=1)


def _find_late(guest: Guest) -> Mapping[str, Said]:
    """Have udev find a config drive after the boot, as if there had been none before; what came of it."""
    keys = f"$(getent passwd {USER} | cut -d: -f6)/.ssh/authorized_keys"
    volume = f"/dev/disk/by-id/virtio-{VOLUME}"
    name = guest.plug_volume(64 << 20, serial=VOLUME)
    _until(guest, {"volume": f"test -e {volume}"}, code=0)
    steps = ("rm /run/network-glean/read", f": >{keys}", f"dd if=/dev/network-glean-drive of={volume}")
    guest.ssh(_sudo(" && ".join(steps)), user=USER)
    questions = {
        "keys": f"grep -F {shlex.quote(OTHER_KEY)} {keys}",
        "read": "test -e /run/network-glean/read",
        "by whom": "systemctl show -P ConditionResult network-glean-late.service | grep yes",
    }
    found = _until(guest, questions, code=0)
    guest.unplug(name)
    return found


def interface(network: Network) -> str:
    """Words of a shell that stand for the name of a network's interface."""
    return f"$(ip -br link | grep -i {network.mac} | cut -d' ' -f1)"


def _until(guest: Guest, questions: Mapping[str, str], *, code: int) -> Mapping[str, Said]:
    """The answers once all of them end with `code`, or as they are when patience ends."""
    answers: Mapping[str, Said] = {}

    def all_so() -> bool:
        nonlocal answers
        answers = ask(guest, questions)
        return all((said.code == 0) is (code == 0) for said in answers.values())

    wait_for(all_so, timeout=PATIENCE, interval=1.0)
    return answers


def _sudo(script: str) -> str:
    return f"sudo -n bash -c {shlex.quote(script)}"
