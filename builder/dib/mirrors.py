"""Point diskimage-builder at a platform's package mirrors, and tell which of them it can't be pointed at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from builder.config.model import DiskImage, Platform
from builder.dib.hostmirrors import HostMirrors, host_mirrors
from builder.host import architectures

HOST: Final = "host"
#: That the finished image goes on using the mirrors; read by our element distribution-mirrors.
KEEP: Final = "DIB_KEEP_MIRRORS"
#: Debian's releases with one suite: no security updates, no updates before a point release (the element
#: debian-minimal, 10-debian-minimal.bash).
ONE_SUITE: Final = ("testing", "unstable")
#: Architectures that Ubuntu has on its main mirrors; the others are on those for ports.
_ON_UBUNTUS_MAIN: Final = frozenset({"amd64", "x86_64", "i386", "i686"})
#: Distributions whose elements here, those made from nothing or from containers, read no mirror themselves.
_READ_BY_OURS: Final = frozenset({"almalinux", "centos", "fedora"})
#: Elements that read it for them; those of diskimage-builder take the distribution's own cloud image.
_READERS: Final = frozenset({"distribution-mirrors", "centos", "fedora"})
_NONE: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    """The mirrors of a platform, "host" looked up; None is diskimage-builder's default."""

    main: str | None
    security: str | None
    updates: str | None


def mirror_environment(
    platform: Platform, root: Path = Path("/"), given: Mapping[str, str] = _NONE
) -> Mapping[str, str]:
    """The variables that point diskimage-builder at the platform's mirrors.

    Empty where diskimage-builder's defaults stay: nothing is configured, or "host" is and this host runs
    another distribution. `root` is where the host's file system starts; `given` are the image's own
    variables, of which the components of Debian's sources are one.
    """
    chosen = _chosen(platform, root)
    environment: dict[str, str] = {}
    if chosen.main:
        environment["DIB_DISTRIBUTION_MIRROR"] = chosen.main
    if platform.distribution == "debian" and platform.release not in ONE_SUITE:
        # The other distributions' elements take one mirror for everything.
        if chosen.security:
            environment["DIB_DEBIAN_SECURITY_MIRROR"] = chosen.security
        if _has_updates_apart(chosen) and chosen.main and chosen.security:
            environment["DIB_APT_SOURCES_CONF"] = _debian_sources(platform.release, chosen, given)
    if environment and platform.keep_mirrors:
        environment[KEEP] = "1"
    return environment


def unused(image: DiskImage, root: Path = Path("/")) -> tuple[str, ...]:
    """What the elements of an image can't do of what its platform says about mirrors, a sentence for each.

    "host" is a wish for whatever there is: that a host names no such mirror is not told here.
    """
    if image.platform is None:
        return ()
    chosen = _chosen(image.platform, root)
    return (*_unread(image, image.platform, chosen), *_unused_apart(image.platform, chosen))


def _unread(image: DiskImage, platform: Platform, chosen: _Chosen) -> Iterator[str]:
    if chosen.main and platform.distribution in _READ_BY_OURS and not _READERS.intersection(image.elements):
        yield (
            f"platform {platform.name}: mirror is not used by {image.name}: of {platform.distribution}, only"
            " the element distribution-mirrors reads it"
        )


def _unused_apart(platform: Platform, chosen: _Chosen) -> Iterator[str]:
    where = f"platform {platform.name}"
    one_suite = platform.distribution == "debian" and platform.release in ONE_SUITE
    for key, wished, url in (
        ("security-mirror", platform.security_mirror, chosen.security),
        ("updates-mirror", platform.updates_mirror, chosen.updates),
    ):
        if wished in (None, HOST) or url == chosen.main:
            continue
        if one_suite:
            yield f"{where}: {key} is not used: {platform.release} has one suite alone"
        elif platform.distribution != "debian":
            yield f"{where}: {key} is not used: of {platform.distribution}, everything comes from one mirror"
        elif key == "updates-mirror" and not (chosen.main and chosen.security):
            yield f"{where}: {key} is not used: it takes mirror and security-mirror beside it"


def _chosen(platform: Platform, root: Path) -> _Chosen:
    host = HostMirrors()
    if HOST in (platform.mirror, platform.security_mirror, platform.updates_mirror) and _same_kind(platform):
        host = host_mirrors(platform.distribution, root)
    return _Chosen(
        main=host.main if platform.mirror == HOST else platform.mirror,
        security=host.security if platform.security_mirror == HOST else platform.security_mirror,
        updates=host.updates if platform.updates_mirror == HOST else platform.updates_mirror,
    )


def _same_kind(platform: Platform) -> bool:
    """Whether the host's mirrors have the platform's architecture."""
    if platform.distribution != "ubuntu":
        return True
    return (platform.architecture in _ON_UBUNTUS_MAIN) == bool(architectures() & _ON_UBUNTUS_MAIN)


def _has_updates_apart(chosen: _Chosen) -> bool:
    return bool(chosen.updates) and chosen.updates != chosen.main


def _debian_sources(release: str, chosen: _Chosen, given: Mapping[str, str]) -> str:
    """What the element debian-minimal makes of its defaults, with the updates from elsewhere."""
    components = given.get("DIB_DEBIAN_COMPONENTS", "main").replace(",", " ")
    subpath = given.get("DIB_DEBIAN_SECURITY_SUBPATH", "")
    return "\n".join(
        (
            f"default:deb {chosen.main} {release} {components}",
            f"updates:deb {chosen.updates} {release}-updates {components}",
            f"security:deb {chosen.security} {release}-security{subpath} {components}",
        )
    )
