"""Find the package mirrors that this host's own package manager is set to: apt, or dnf and yum."""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

_OPTIONS = re.compile(r"\[[^]]*\]")
#: What follows a mirror's root in the URL of a distribution's own main repository, by its release package.
_MAIN_REPOSITORY: Final = {
    "almalinux": re.compile(r"/(?:\$releasever|\d+(?:\.\d+)?)/BaseOS/"),
    "centos": re.compile(r"/(?:\$stream|\$releasever-stream|\d+-stream)/BaseOS/"),
    "fedora": re.compile(r"/releases/(?:\$releasever|\d+)/Everything/"),
    "openeuler": re.compile(r"/openEuler-[^/]+/OS/"),
    "rocky": re.compile(r"/(?:\$releasever|\d+(?:\.\d+)?)/BaseOS/"),
}
_VARIABLE = re.compile(r"\$\{?(\w+)\}?")


@dataclass(frozen=True, kw_only=True)
class HostMirrors:
    """URLs of a distribution's mirrors; None where the host names none."""

    main: str | None = None
    security: str | None = None
    updates: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A package source of apt: one URL, one suite."""

    url: str
    suite: str


def host_mirrors(distribution: str, root: Path = Path("/")) -> HostMirrors:
    """What the host uses for its own distribution, if that is `distribution` ("debian", "rocky"...).

    `root` is where the host's file system starts. For the Red Hat family `main` is the directory that the
    releases are in (see `_MAIN_REPOSITORY`), and it is None where the host has metalinks or lists alone.
    """
    release = _os_release(root)
    if release.get("ID", "").lower() != distribution:
        return HostMirrors()
    if distribution in _MAIN_REPOSITORY:
        return HostMirrors(main=next(_roots(distribution, root), None))
    return _of_apt(distribution, release.get("VERSION_CODENAME", ""), root)


def _os_release(root: Path) -> Mapping[str, str]:
    for name in ("etc/os-release", "usr/lib/os-release"):
        try:
            lines = (root / name).read_text().splitlines()
        except FileNotFoundError:
            continue
        pairs = (line.partition("=") for line in lines if "=" in line)
        return {key.strip(): value.strip().strip("\"'") for key, _, value in pairs}
    return {}


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme
    except ValueError:
        return ""  # what is no URL is nobody's mirror; the package manager itself tells of it


# -- apt -------------------------------------------------------------------------------------------


def _of_apt(distribution: str, codename: str, root: Path) -> HostMirrors:
    """Both of apt's formats are read. Sources of third parties are told apart by suite and URL."""
    if not codename:
        return HostMirrors()
    sources = tuple(_sources(root))

    def best(*suites: str) -> str | None:
        # As mirrors do, the distribution's have it in their URLs (".../debian", ".../ubuntu-ports").
        return next((s.url for s in sources if s.suite in suites and distribution in s.url), None)

    return HostMirrors(
        main=best(codename),
        security=best(f"{codename}-security", f"{codename}/updates"),
        updates=best(f"{codename}-updates"),
    )


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


# -- dnf and yum -----------------------------------------------------------------------------------


def _roots(distribution: str, root: Path) -> Iterator[str]:
    """The roots of mirrors that enabled repositories of the distribution itself name."""
    for url in _base_urls(root):
        found = _MAIN_REPOSITORY[distribution].search(url)
        if found is None or _scheme(url) not in ("http", "https"):
            continue
        mirror = _VARIABLE.sub(lambda name: _variable(root, name), url[: found.start()])
        if "$" not in mirror:
            yield mirror.rstrip("/")


def _base_urls(root: Path) -> Iterator[str]:
    for file in sorted((root / "etc/yum.repos.d").glob("*.repo")):
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            parser.read_string(file.read_text(errors="replace"))
        except configparser.Error:
            continue  # dnf reads no such file either, and tells of it
        for name in parser.sections():
            section = parser[name]
            if section.get("enabled", "1").strip().lower() in ("1", "yes", "true", "on"):
                yield from re.split(r"[\s,]+", section.get("baseurl", "").strip())


def _variable(root: Path, name: re.Match[str]) -> str:
    """The value of one of dnf's variables; itself where the host has no file for it."""
    for place in ("etc/dnf/vars", "etc/yum/vars"):
        file = root / place / name[1]
        if file.is_file():
            return file.read_text(errors="replace").strip()
    return name[0]
