"""Tell which of two versions of a package is the later one, as its distribution does.

By libraries that follow dpkg (deb-version(7)) and rpm (rpm-version(7)): epochs, "~" and "^" included.
"""

from __future__ import annotations

import re
from typing import Final

from debian_inspector.version import Version, compare_version_objects  # type: ignore[import-untyped]
from univers.rpm import RpmVersion, compare_rpm_versions

#: Longer than any version; comparing takes time, and the image says what it likes.
_LONGEST: Final = 256
#: What dpkg takes; debian_inspector's own reading refuses some of what is in the archive ("12.2.0-14+").
_DEB: Final = re.compile(r"(?:(\d{1,9}):)?([A-Za-z0-9.+~-]+?)(?:-([A-Za-z0-9.+~]+))?", re.ASCII)
_RPM: Final = re.compile(r"(?:(\d{1,9}):)?([A-Za-z0-9._+~^]+)(?:-([A-Za-z0-9._+~^]+))?", re.ASCII)


def order(kind: str, one: str, other: str) -> int | None:
    """-1 when `one` is the earlier version, 1 when it is the later, 0 when they count as equal ("1" and
    "0:1-0"); None when that can't be told: no versions, or of a `kind` that is neither "deb" nor "rpm"."""
    if max(len(one), len(other)) > _LONGEST:
        return None
    if kind == "deb":
        return _order_deb(_DEB.fullmatch(one), _DEB.fullmatch(other))
    if kind == "rpm":
        return _order_rpm(_RPM.fullmatch(one), _RPM.fullmatch(other))
    return None


def _order_deb(one: re.Match[str] | None, other: re.Match[str] | None) -> int | None:
    if one is None or other is None:
        return None
    versions = (
        Version(epoch=int(each[1] or 0), upstream=each[2], revision=each[3] or "0") for each in (one, other)
    )
    return int(compare_version_objects(*versions))


def _order_rpm(one: re.Match[str] | None, other: re.Match[str] | None) -> int | None:
    if one is None or other is None:
        return None
    versions = (
        RpmVersion(epoch=int(each[1] or 0), version=each[2], release=each[3] or "") for each in (one, other)
    )
    return int(compare_rpm_versions(*versions))
