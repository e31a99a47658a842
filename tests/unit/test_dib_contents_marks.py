"""What of an image matters most: setuid files and /etc, services, kernels."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from builder.dib.contents import marks
from builder.dib.contents.listing import Entry
from builder.dib.contents.marks import Marked, Marks, Service

PLAIN = Entry(inode=("1", "1"), kind="f", path="./x", length=10, allocated=512, mode=0o644, uid=0, gid=0)


def entry(path: str, kind: str = "f", mode: int = 0o644, **changes: object) -> Entry:
    return replace(PLAIN, path=path, kind=kind, mode=mode, **changes)  # type: ignore[arg-type]


def link(path: str, target: str) -> Entry:
    return entry(path, "l", 0o777, target=target)


def services(*entries: Entry, raw: Path = Path("/nowhere")) -> dict[str, str]:
    """Unit -> state and who starts it."""
    found = marks.find(entries, raw).services
    return {each.unit: f"{each.state} {','.join(each.by)}".strip() for each in found}


def test_setuid_and_setgid_files_are_listed_wherever_they_are_and_all_of_etc(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("root:0\nzuul:1000\n")
    (tmp_path / "group").write_text("root:0\nshadow:42\n")
    found = marks.find(
        [
            entry("./usr/bin/su", mode=0o4755),
            entry("./opt/x/wall", mode=0o2755, gid=7),
            entry("./usr/bin/ls", mode=0o755),
            entry("./var/mail", "d", mode=0o2775),
            entry("./etc", "d", mode=0o755),
            entry("./etc/shadow", mode=0o640, gid=42),
            entry("./etc/sudoers.d", "d", mode=0o750),
            entry("./etc/fifo", "p", uid=1000),
            link("./etc/os-release", "../usr/lib/os-release"),
        ],
        tmp_path,
    )
    assert [f"{f.mode} {f.owner}:{f.group} {f.kind} {f.path}".strip() for f in found.files] == [
        "0644 zuul:root pipe /etc/fifo",
        "root:root link /etc/os-release",
        "0640 root:shadow file /etc/shadow",
        "0750 root:root directory /etc/sudoers.d",
        "2755 root:7 file /opt/x/wall",
        "4755 root:root file /usr/bin/su",
    ]


def test_an_owner_is_the_same_whatever_number_it_was_given(tmp_path: Path) -> None:
    found = []
    for number in (105, 106):
        (tmp_path / "passwd").write_text(f"_chrony:{number}\n")
        found.append(marks.find([entry("./etc/chrony", uid=number)], tmp_path))
    assert found[0] == found[1]
    assert found[0].files[0].owner == "_chrony"


def test_nobody_but_number_0_is_root_whatever_the_image_says(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("toor:0\nroot:1000\n:5\nbroken\nx:٣\ny:-1\n")
    found = marks.find([entry("./etc/a"), entry("./etc/b", uid=1000)], tmp_path)
    assert [file.owner for file in found.files] == ["root", "1000"]


def test_services_are_those_that_links_enable_by_whom_they_are_started() -> None:
    assert services(
        entry("./usr/lib/systemd/system/ssh.service"),
        link("./etc/systemd/system/multi-user.target.wants/ssh.service", "/lib/systemd/system/ssh.service"),
        link("./etc/systemd/system/cloud-init.target.wants/ssh.service", "/lib/systemd/system/ssh.service"),
        link("./usr/lib/systemd/system/sysinit.target.wants/udev.service", "../udev.service"),
        link("./etc/systemd/system/x.service.requires/y.socket", "/lib/systemd/system/y.socket"),
        link("./etc/systemd/system/dbus-alias.service", "/lib/systemd/system/dbus.service"),
        link("./opt/multi-user.target.wants/no.service", "x"),
    ) == {
        "ssh.service": "enabled cloud-init.target,multi-user.target",
        "udev.service": "enabled sysinit.target",
        "y.socket": "enabled x.service",
    }


def test_a_mask_has_precedence_and_so_has_what_the_image_itself_says() -> None:
    assert services(
        link("./usr/lib/systemd/system/multi-user.target.wants/a.service", "../a.service"),
        link("./etc/systemd/system/a.service", "/dev/null"),
        entry("./etc/systemd/system/b.service", length=0),
        link("./lib/systemd/system/multi-user.target.wants/c.service", "../c.service"),
        link("./etc/systemd/system/multi-user.target.wants/c.service", "/dev/null"),
        link("./usr/lib/systemd/system/d.service", "/dev/null"),
    ) == {"a.service": "masked", "b.service": "masked"}


@pytest.mark.parametrize(
    ("entries", "kernels"),
    [
        ((entry("./boot/vmlinuz-6.1.0-27-amd64"), entry("./boot/vmlinuz-6.1.0-28-amd64")), 2),
        ((entry("./boot/vmlinuz-0-rescue-0123"), entry("./boot/vmlinuz-6.1")), 1),
        ((entry("./usr/lib/modules/6.1/vmlinuz"), entry("./usr/lib/modules/5.9", "d")), 1),
        ((entry("./lib/modules/6.1", "d"), entry("./lib/modules/6.1/kernel", "d")), 1),
        ((entry("./boot/config-6.1"),), 0),
    ],
)
def test_kernels_are_those_that_can_be_booted(entries: tuple[Entry, ...], kernels: int) -> None:
    found = marks.find(entries, Path("/nowhere")).kernels
    assert len(found) == kernels
    assert all(release.startswith("6.1") for release in found)


def test_of_too_many_files_those_that_are_setuid_stay_and_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "LIMIT", 2)
    found = marks.find(
        [entry("./etc/a"), entry("./etc/b"), entry("./zz", mode=0o4755)], Path("/nowhere"), ["before"]
    )
    assert [file.path for file in found.files] == ["/etc/a", "/zz"]
    assert found.problems[0] == "before"
    assert "of 3 files" in found.problems[1]


def test_what_is_written_is_read_again_whatever_the_names_are(tmp_path: Path) -> None:
    made = Marks(
        files=(
            Marked(path="/etc/no text \udc80\n", kind="link", mode="", owner="root", group="root"),
            Marked(path="/usr/bin/su", kind="file", mode="4755", owner="root", group="root"),
        ),
        services=(Service(unit="ssh.service", state="enabled", by=("multi-user.target",)),),
        kernels=("6.1",),
        problems=("something",),
    )
    marks.save(tmp_path, made)
    assert marks.parsed(json.loads((tmp_path / "files.json").read_text())) == made
