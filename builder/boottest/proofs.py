"""Says what an image must do, what is asked of it in the guest, and whether the answer will do."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from builder.bootorder import Proof
from builder.boottest.asking import Said
from builder.shown import plain

#: Names of the proofs, in the order in which they are asked for.
BOOT: Final = "boot"
SSH: Final = "ssh"
LOGIN: Final = "login"
SUDO: Final = "sudo"
HOST_NAME: Final = "host-name"
DNS: Final = "dns"
UNITS: Final = "units"
ROOT_GROWN: Final = "root-grown"
SECOND_BOOT: Final = "second-boot"
MACHINE_ID: Final = "machine-id"
HOST_KEYS: Final = "host-keys"
#: ... and after these, one for each own check: "check <where from>/<script>".
CHECK: Final = "check"
NAMES: Final = (
    *(BOOT, SSH, LOGIN, SUDO, HOST_NAME, DNS, UNITS, ROOT_GROWN, SECOND_BOOT, MACHINE_ID, HOST_KEYS),
)

#: Of what a guest says, so many lines are kept with a proof, and so many characters of each.
LINES: Final = 20
_LONGEST: Final = 1000
_UNANSWERED: Final = "the guest gave no answer"
_HEX: Final = re.compile(r"[0-9a-f]{32}\Z")
#: The second word of what df says.
_SIZE: Final = re.compile(r"\S+\s+([0-9]{1,18})\s")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the machine around the image is, and what its config drive says."""

    user: str
    host_name: str
    name_server: IPv4Address
    image: int  #: bytes of the disk in the image
    disk: int  #: bytes of the larger one that the machine sees
    allowed_failed_units: tuple[str, ...] = ()


#: Of a shell, of root's where there is one, by name. What is not there on a system answers with an error.
QUESTIONS: Final[Mapping[str, str]] = {
    "hostname": "cat /proc/sys/kernel/hostname",
    "resolv.conf": "cat /etc/resolv.conf",
    "resolvers": "resolvectl dns 2>/dev/null; nmcli -t -f IP4.DNS device show 2>/dev/null; true",
    "state": "systemctl is-system-running",
    "jobs": "systemctl list-jobs --no-legend --no-pager",
    "failed units": "systemctl list-units --failed --plain --no-legend --no-pager",
    "words of failed units": (
        "systemctl list-units --failed --plain --no-legend --no-pager | cut -d' ' -f1 | head -n 5 |"
        ' while read -r unit; do systemctl status --no-pager --lines=6 "$unit" | tail -n 7; done'
    ),
    "root": "df -P -B1 / | tail -n 1",
    "root device": "findmnt -n -o SOURCE,FSTYPE /; lsblk -o NAME,SIZE,TYPE,MOUNTPOINT",
    "machine id": "cat /etc/machine-id",
    "host keys": "cut -d' ' -f1,2 /etc/ssh/ssh_host_*_key.pub",
    "boot id": "cat /proc/sys/kernel/random/boot_id",
}


def in_guest(said: Mapping[str, Said], facts: Facts) -> tuple[Proof, ...]:
    """What answers of one boot prove by themselves: host name, DNS, units, root."""
    judges: tuple[tuple[str, Callable[[Mapping[str, Said], Facts], _Found]], ...] = (
        (HOST_NAME, _host_name),
        (DNS, _dns),
        (UNITS, _units),
        (ROOT_GROWN, _root_grown),
    )
    return tuple(_proof(name, judge(said, facts)) for name, judge in judges)


def second_boot(first: Mapping[str, Said], second: Mapping[str, Said], facts: Facts) -> Proof:
    """Whether a machine that was restarted is as it was before."""
    if "boot id" not in second:
        return _proof(SECOND_BOOT, _no(_UNANSWERED))
    if _text(first, "boot id") == _text(second, "boot id"):
        return _proof(SECOND_BOOT, _no("the guest says that it was not restarted"))
    for what, called in (("machine id", "machine id"), ("host keys", "SSH host keys")):
        if _text(first, what) != _text(second, what):
            lines = (*_lines(first, what), *_lines(second, what))
            return _proof(SECOND_BOOT, _no(f"its {called} changed with the restart", lines))
    # Those that failed before are told already.
    before = set(_failed_units(first, facts))
    failed = [unit for unit in _failed_units(second, facts) if unit not in before]
    if failed:
        lines = _lines(second, "words of failed units")
        return _proof(SECOND_BOOT, _no(f"after a restart units failed: {', '.join(failed)}", lines))
    return _proof(SECOND_BOOT, _yes("it comes up again after a restart, and is the machine it was"))


def fresh(one: Mapping[str, Said], other: Mapping[str, Said]) -> tuple[Proof, Proof]:
    """Whether two machines made from the same image have a machine id and host keys of their own."""
    return _proof(MACHINE_ID, _machine_id(one, other)), _proof(HOST_KEYS, _host_keys(one, other))


def proof(name: str, passed: bool, sentence: str, lines: Sequence[str] = ()) -> Proof:
    """A proof with as many of its last lines as are kept."""
    told = plain(" ".join(sentence[:_LONGEST].split()))
    return Proof(name=name, passed=passed, sentence=told, lines=kept(lines))


def kept(lines: Sequence[str]) -> tuple[str, ...]:
    """As many of the last lines as are kept, and as much of each; no terminal obeys them."""
    return tuple(plain(line[:_LONGEST]) for line in lines[-LINES:])


# -- one by one ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Found:
    passed: bool
    sentence: str
    lines: tuple[str, ...] = ()


def _yes(sentence: str) -> _Found:
    return _Found(passed=True, sentence=sentence)


def _no(sentence: str, lines: Iterable[str] = ()) -> _Found:
    return _Found(passed=False, sentence=sentence, lines=tuple(lines))


def _proof(name: str, found: _Found) -> Proof:
    return proof(name, found.passed, found.sentence, found.lines)


def _host_name(said: Mapping[str, Said], facts: Facts) -> _Found:
    name = _text(said, "hostname")
    if name is None:
        return _no(_UNANSWERED)
    if name.partition(".")[0] == facts.host_name:
        return _yes(f"its host name is {facts.host_name}, as the config drive says")
    return _no(f"its host name is {name or 'empty'!r}, the config drive says {facts.host_name!r}", [name])


def _dns(said: Mapping[str, Said], facts: Facts) -> _Found:
    text = _text(said, "resolv.conf")
    if text is None:
        return _no(_UNANSWERED)
    servers = re.findall(r"^\s*nameserver\s+(\S+)", text, re.MULTILINE)
    wanted = str(facts.name_server)
    # A resolver of its own, which asks the one it was told.
    known = wanted in (_text(said, "resolvers") or "").replace(":", " ").split()
    if wanted in servers or (known and any(server.startswith("127.") for server in servers)):
        return _yes(f"it asks the name server {wanted}, as the config drive says")
    lines = (*_lines(said, "resolv.conf"), *_lines(said, "resolvers"))
    if said["resolv.conf"].code != 0:
        return _no("it can't resolve names: /etc/resolv.conf can't be read", lines)
    asks = f"asks {', '.join(servers)}" if servers else "asks no name server"
    return _no(f"it can't resolve names: it {asks}, the config drive says {wanted}", lines)


def _units(said: Mapping[str, Said], facts: Facts) -> _Found:
    if "failed units" not in said:
        return _no(_UNANSWERED)
    if said["failed units"].code == 127:
        return _yes("it has no systemd")
    if said["failed units"].code:
        return _no("systemd can't be asked which units failed", _lines(said, "failed units"))
    failed = _failed_units(said, facts)
    if failed:
        lines = (*_lines(said, "failed units"), *_lines(said, "words of failed units"))
        return _no(f"units failed: {', '.join(failed)}", lines)
    state = _text(said, "state") or ""
    if state in ("initializing", "starting"):
        return _no("it is still starting: not all jobs of systemd have ended", _lines(said, "jobs"))
    allowed = len(_lines(said, "failed units"))
    return _yes(f"no unit failed{f' but {allowed} that may' if allowed else ''}")


def _failed_units(said: Mapping[str, Said], facts: Facts) -> list[str]:
    """The units that failed and may not."""
    # UNIT LOAD ACTIVE SUB DESCRIPTION; some versions of systemctl mark them with a dot in spite of --plain.
    rows = [line.lstrip(" ●*×").split() for line in _lines(said, "failed units")]
    units = [row[0] for row in rows if row[2:3] == ["failed"]]
    return [
        unit
        for unit in units
        if not any(fnmatch.fnmatchcase(unit, each) for each in facts.allowed_failed_units)
    ]


def _root_grown(said: Mapping[str, Said], facts: Facts) -> _Found:
    text = _text(said, "root")
    if text is None:
        return _no(_UNANSWERED)
    found = _SIZE.match(text)
    if found is None:
        return _no("the size of its root file system can't be read", [text])
    size = int(found[1])
    # One that did not grow is smaller than the image. Of one that did, other partitions and what it needs
    # for itself may be missing.
    if size > facts.image:
        return _yes(f"its root file system has grown to {_gigabytes(size)}")
    return _no(
        f"its root file system has {_gigabytes(size)} of a disk of {_gigabytes(facts.disk)}:"
        " it did not grow to the larger disk",
        (text, *_lines(said, "root device")),
    )


def _machine_id(one: Mapping[str, Said], other: Mapping[str, Said]) -> _Found:
    ids = [_text(said, "machine id") for said in (one, other)]
    lines = [each for each in ids if each]
    if any(each is None or not _HEX.match(each) for each in ids):
        return _no("it has no machine id (/etc/machine-id)", lines)
    if ids[0] == ids[1]:
        return _no("the machine id is baked into the image: two machines made from it have the same", lines)
    return _yes("each machine has a machine id of its own")


def _host_keys(one: Mapping[str, Said], other: Mapping[str, Said]) -> _Found:
    keys = [set(_lines(said, "host keys")) for said in (one, other)]
    if any("host keys" not in said or said["host keys"].code for said in (one, other)) or not all(keys):
        return _no(
            "its SSH host keys can't be read", (*_lines(one, "host keys"), *_lines(other, "host keys"))
        )
    baked = sorted(keys[0] & keys[1])
    if baked:
        return _no("SSH host keys are baked into the image: two machines made from it have the same", baked)
    return _yes("each machine has SSH host keys of its own")


def _text(said: Mapping[str, Said], name: str) -> str | None:
    """The answer without white space around it; None when there is none."""
    return said[name].text.strip() if name in said else None


def _lines(said: Mapping[str, Said], name: str) -> tuple[str, ...]:
    return said[name].lines if name in said else ()


def _gigabytes(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"
