"""Which version is the later one: as dpkg itself says, and as rpm's documentation does."""

from __future__ import annotations

import subprocess

import pytest

from builder.dib.differences.versions import order

DEB = [
    ("1.0", "1.1"),
    ("1.9", "1.10"),
    ("2.0", "1:1.0"),
    ("9:1", "10:0"),
    ("0:1.0-1", "1.0-1"),
    ("1.0", "1.0-0"),
    ("1.0-1", "1.0-1+b1"),
    ("1.0-1", "1.0-1.1"),
    ("1.0~rc1-1", "1.0-1"),
    ("1.0~~", "1.0~"),
    ("1.0~~a", "1.0~~"),
    ("1.0-1~bpo12+1", "1.0-1"),
    ("1.0-1~deb12u1", "1.0-1+deb12u1"),
    ("1.0+dfsg-1", "1.0-1"),
    ("1.0a", "1.0+"),
    ("1.0A", "1.0a"),
    ("1.0.0", "1.0-0"),
    ("007", "7"),
    ("1.0-1-2", "1.0-2"),
    ("12.2.0-14+deb12u1+", "12.2.0-14+deb12u1"),
    ("a1", "1a"),
    ("6.1.119-1", "6.1.12-1"),
    ("1:9.2p1-2+deb12u3", "1:9.2p1-2+deb12u4"),
]


@pytest.mark.parametrize(("one", "other"), DEB)
def test_dpkg_itself_says_the_same(one: str, other: str) -> None:
    for first, second in ((one, other), (other, one), (one, one)):
        found = order("deb", first, second)
        assert found is not None
        relation = {-1: "lt", 0: "eq", 1: "gt"}[found]
        judged = subprocess.run(["dpkg", "--compare-versions", first, relation, second], check=False)
        assert judged.returncode == 0, f"{first} {relation} {second}"


#: rpm-version(7), and rpm's own tests/rpmvercmp.at.
RPM = [
    ("1.0-1", "1.0-2", -1),
    ("1.0-1.fc40", "1.0-1.fc40", 0),
    ("2.0-1", "1:1.0-1", -1),
    ("0:1.0-1", "1.0-1", 0),
    ("1.0~rc1-1", "1.0-1", -1),
    ("1.0~rc1-1", "1.0~rc2-1", -1),
    ("1.0^git1-1", "1.0-1", 1),
    ("1.0^git1-1", "1.0.1-1", -1),
    ("1.0^git1~pre-1", "1.0^git1-1", -1),
    ("1.0~rc1^git1-1", "1.0~rc1-1", 1),
    ("5.10-1", "5.9-1", 1),
    ("1.05-1", "1.5-1", 0),
    ("2_0-1", "2.0-1", 0),
    ("1.0a-1", "1.0-1", 1),
    ("1.a-1", "1.1-1", -1),
    ("4.18.0-553.el8_10", "4.18.0-80.el8", 1),
]


@pytest.mark.parametrize(("one", "other", "expected"), RPM)
def test_rpm_says_the_same(one: str, other: str, expected: int) -> None:
    assert order("rpm", one, other) == expected
    assert order("rpm", other, one) == -expected


@pytest.mark.parametrize("kind", ["deb", "rpm", "apk"])
@pytest.mark.parametrize("version", ["", "1\n2", "x:1", "1 2", "\x1b[31m1", "9" * 5000, "١"])
def test_what_is_no_version_is_not_compared(kind: str, version: str) -> None:
    assert order(kind, version, "1") is None
    assert order(kind, "1", version) is None
