"""Find the package mirrors this host itself uses, so that images can be built from the same ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from builder.config.model import Platform

HOST: Final = "host"
_OPTIONS = re.compile(r"\[[^]]*\]")


@dataclass(frozen=True, kw_only=True)
class HostMirrors:
    """URLs of a distribution's mirrors; None where the host names none."""

    main: str | None = None
    security: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A package source of apt: one URL, one suite."""

    url: str
    suite: str


def mirror_environment(platform: Platform, root: Path = Path("/")) -> Mapping[str, str]:
    """The variables that point diskimage-builder at the platform's mirrors.

    Empty where diskimage-builder's defaults stay: nothing is configured, or "host" is and this host
    runs another distribution. `root` is where the host's file system starts.
    """
    host = HostMirrors()
    if HOST in (platform.mirror, platform.security_mirror):
        host = host_mirrors(platform.distribution, root)
    main = host.main if platform.mirror == HOST else platform.mirror
    security = host.security if platform.security_mirror == HOST else platform.security_mirror
    environment = {}
    if main:
        environment["DIB_DISTRIBUTION_MIRROR"] = main
    # Only Debian's elements take a security mirror; the others use the main one for everything.
    if security and platform.distribution == "debian":
        environment["DIB_DEBIAN_SECURITY_MIRROR"] = security
    return environment


def host_mirrors(distribution: str, root: Path = Path("/")) -> HostMirrors:
    """What the host's apt uses for its own distribution, if that is `distribution` ("debian"...).

    Both apt formats are read. Sources of third parties are told apart by suite and URL.
    """
    release = _os_release(root)
    codename = release.get("VERSION_CODENAME", "")
    if release.get("ID") != distribution or not codename:
        return HostMirrors()
    sources = tuple(_sources(root))
    main = [s.url for s in sources if s.suite == codename]
    security = [s.url for s in sources if s.suite in (f"{codename}-security", f"{codename}/updates")]
    return HostMirrors(main=_best(main, distribution), security=_best(security, distribution))


def _best(urls: list[str], distribution: str) -> str | None:
    """The first URL that has the distribution in it, as mirrors do (".../debian", ".../ubuntu")."""
    return next((url for url in urls if distribution in url), None)


def _os_release(root: Path) -> Mapping[str, str]:
    for name in ("etc/os-release", "usr/lib/os-release"):
        try:
            lines = (root / name).read_text().splitlines()
        except FileNotFoundError:
            continue
        pairs = (line.partition("=") for line in lines if "=" in line)
        return {key.strip(): value.strip().strip("\"'") for key, _, value in pairs}
    return {}


def _sources(root: Path) -> Iterator[_Source]:
    apt = root / "etc/apt"
    files = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]
    for file in files:
        if not file.is_file():
            continue
        text = file.read_text(errors="replace")
        if file.suffix == ".list":
            yield from _one_line(text)
        elif file.suffix == ".sources":
            yield from _deb822(text)


def _one_line(text: str) -> Iterator[_Source]:
    for line in text.splitlines():
        words = _OPTIONS.sub(" ", line.partition("#")[0]).split()
        if len(words) >= 3 and words[0] == "deb":
            yield from _usable([words[1]], [words[2]])


def _deb822(text: str) -> Iterator[_Source]:
    for paragraph in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in paragraph.splitlines():
            if line.startswith("#"):
                continue
            if line[:1].isspace():
                fields[name] = f"{fields.get(name, '')} {line.strip()}"
            else:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if "deb" in fields.get("types", "").split() and fields.get("enabled", "yes").lower() != "no":
            yield from _usable(fields.get("uris", "").split(), fields.get("suites", "").split())


def _usable(urls: list[str], suites: list[str]) -> Iterator[_Source]:
    for url in urls:
        # debootstrap and the image's own apt must reach it too: no cdrom:, no mirror+file:.
        if _scheme(url) in ("http", "https"):
            for suite in suites:
                yield _Source(url=url.rstrip("/"), suite=suite.rstrip("/"))


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme
    except ValueError:
        return ""  # what is no URL is nobody's mirror; apt itself tells of it
