"""Ask the package mirrors of a build whether they answer, before an hour is spent on finding out.

Asked is what the build will ask first: the index of the release where it is known how the distribution's
mirrors are laid out, else the mirror's root. Only mirrors that are named are asked; where none is, the
elements have defaults that are theirs alone to know.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

import requests

from builder.config.model import DiskImage, masked_credentials
from builder.dib.checks.expiry import HEAD, expired, is_unchecked
from builder.dib.contents import download
from builder.dib.mirrors import ONE_SUITE
from builder.findings import Finding, fine, problem, warning
from builder.model import FailureClass

#: Seconds to connect, and seconds for an answer to begin.
TIMEOUT: Final = 5.0
#: Seconds between the first try and the only other one.
PAUSE: Final = 1.0
NAME: Final = "mirror"

_DEBIAN_FAMILY: Final = ("debian", "ubuntu")
#: Where a release is below the mirror of a distribution of the Red Hat family (docs/platforms.md).
_REPOSITORY: Final = {
    "almalinux": "/{release}/BaseOS/{machine}/os",
    "centos": "/{release}/BaseOS/{machine}/os",
    "fedora": "/releases/{release}/Everything/{machine}/os",
    "openeuler": "/openEuler-{release}/OS/{machine}",
    "rocky": "/{release}/BaseOS/{machine}/os",
}
_MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
#: A line of DIB_APT_SOURCES_CONF: its name, options, URL and suite.
_APT_SOURCE = re.compile(r"\w+:deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)\s")
#: What a mirror may say today and not tomorrow, besides 5xx: request timeout, too many requests.
_PASSING: Final = (408, 429)


@dataclass(frozen=True, kw_only=True)
class Mirror:
    """A mirror that a build will use; `indexes` are below `url`, and one of them has to be there."""

    variable: str  #: the variable that names it to diskimage-builder
    url: str
    suite: str = ""  #: "" where there is no telling how it is laid out
    indexes: tuple[str, ...] = ("",)

    @property
    def shown(self) -> str:
        """The mirror's URL without credentials."""
        return masked_credentials(self.url)


def mirrors_of(image: DiskImage, environment: Mapping[str, str]) -> tuple[Mirror, ...]:
    """The mirrors named in the environment of a build of `image`; each suite of each once."""
    distribution = _distribution(image)
    release = environment.get("DIB_RELEASE", "")
    if distribution in _DEBIAN_FAMILY:
        found = _of_debian(distribution, release, environment)
    else:
        url = environment.get("DIB_DISTRIBUTION_MIRROR")
        found = iter([_of_redhat(distribution, release, url, environment)] if url else [])
    return tuple({(mirror.url.rstrip("/"), mirror.suite): mirror for mirror in found}.values())


def _of_debian(distribution: str, release: str, environment: Mapping[str, str]) -> Iterator[Mirror]:
    main = "DIB_DISTRIBUTION_MIRROR"
    if distribution == "debian" and environment.get("DIB_DEBIAN_DISTRIBUTION_MIRROR"):
        main = "DIB_DEBIAN_DISTRIBUTION_MIRROR"
    if environment.get(main):
        yield _mirror(main, environment[main], release)
    if distribution != "debian":
        return
    for url, suite in _APT_SOURCE.findall(environment.get("DIB_APT_SOURCES_CONF", "")):
        # Beside a source file, variables of single mirrors are not read.
        yield _mirror("DIB_APT_SOURCES_CONF", url, suite.rstrip("/"))
    security = "DIB_DEBIAN_SECURITY_MIRROR"
    if environment.get("DIB_APT_SOURCES_CONF") or release in ONE_SUITE or not environment.get(security):
        return
    subpath = environment.get("DIB_DEBIAN_SECURITY_SUBPATH", "")
    yield _mirror(security, environment[security], f"{release}-security{subpath}" if release else "")


def _of_redhat(distribution: str, release: str, url: str, environment: Mapping[str, str]) -> Mirror:
    variable = "DIB_DISTRIBUTION_MIRROR"
    layout = _REPOSITORY.get(distribution)
    if not (layout and release):
        return Mirror(variable=variable, url=url)
    architecture = environment.get("ARCH", "amd64")
    place = layout.format(release=release, machine=_MACHINES.get(architecture, architecture))
    return Mirror(
        variable=variable, url=url, suite=place.lstrip("/"), indexes=(f"{place}/repodata/repomd.xml",)
    )


def _distribution(image: DiskImage) -> str:
    """ "debian", "rocky"..., by platform or else by elements such as debian-minimal; "" for others."""
    if image.platform is not None:
        return image.platform.distribution
    words = [element.partition("-")[0] for element in image.elements]
    return next((word for word in words if word in _DEBIAN_FAMILY or word in _REPOSITORY), "")


def _mirror(variable: str, url: str, suite: str) -> Mirror:
    if not suite:
        return Mirror(variable=variable, url=url)
    # debootstrap takes the signature that is apart (Release.gpg) where there is no InRelease.
    indexes = (f"/dists/{suite}/InRelease", f"/dists/{suite}/Release")
    return Mirror(variable=variable, url=url, suite=suite, indexes=indexes)


def ask(
    mirror: Mirror, environment: Mapping[str, str], *, timeout: float = TIMEOUT, pause: float = PAUSE
) -> Finding:
    """Whether the mirror answers, by the proxy of the environment if it names one; asked twice at most.

    `timeout` seconds to connect, and for the answer to begin. It takes longer where a name has
    several addresses or the resolver is slow: whoever can't wait puts an end to it.
    """
    try:
        scheme = urlsplit(mirror.url).scheme
    except ValueError:
        return _trouble(mirror, None, "is no URL", FailureClass.CONFIG)
    if scheme not in ("http", "https"):
        return warning(NAME, f"{mirror.shown} ({mirror.variable}) is not asked: it is no http or https URL")
    finding = _try(mirror, environment, timeout)
    if finding.failure_class is FailureClass.MIRROR:
        time.sleep(pause)
        finding = _try(mirror, environment, timeout)
    return finding


def silent(mirror: Mirror, seconds: float) -> Finding:
    """What is to be said of a mirror that was asked and had not answered after so many seconds."""
    return _trouble(mirror, None, f"does not answer within {seconds:g} s", FailureClass.MIRROR)


def _try(mirror: Mirror, environment: Mapping[str, str], timeout: float) -> Finding:
    proxies = download.proxies(mirror.url, environment)
    proxy = proxies.get(urlsplit(mirror.url).scheme) or proxies.get("all")
    began = time.monotonic()
    try:
        host = urlsplit(proxy or mirror.url).hostname or ""
        status, head = _answer(mirror, environment, timeout)
    except ValueError:
        # Those of requests for what is no URL are ValueErrors too; their texts may have passwords in them.
        what = "its URL, the proxy's or that of a redirect is malformed"
        return _trouble(mirror, proxy, f"can't be asked: {what}", FailureClass.CONFIG)
    except requests.RequestException as error:
        why = _why(error, host, timeout)
        return _trouble(mirror, proxy, f"does not answer: {why}", FailureClass.MIRROR)
    since = expired(head)
    if since is not None and not is_unchecked(environment):
        return _expired(mirror, proxy, since)
    return _judge(mirror, proxy, status, time.monotonic() - began)


def _answer(mirror: Mirror, environment: Mapping[str, str], timeout: float) -> tuple[int, bytes]:
    """The status of the first index that is there, or of the last, and how it begins where that matters."""
    status, head = 0, b""
    for index in mirror.indexes:
        with download.answered(
            mirror.url.rstrip("/") + (index or "/"), environment, timeout=timeout
        ) as answer:
            status = answer.status_code
            if status == requests.codes.ok and index.startswith("/dists/"):
                head = download.head(answer, HEAD)
        if status != requests.codes.not_found:
            break
    return status, head


def _expired(mirror: Mirror, proxy: str | None, since: datetime) -> Finding:
    trouble = _trouble(
        mirror, proxy, f"has {mirror.suite}, but its index expired on {since:%Y-%m-%d}", FailureClass.MIRROR
    )
    return replace(trouble, hint="Wait for it to follow, or name another one; see docs/platforms.md.")


def _judge(mirror: Mirror, proxy: str | None, status: int, seconds: float) -> Finding:
    if status < 400 or (not mirror.suite and status in (403, 404)):
        # A root that nobody may list is still a mirror's.
        what = f" has {mirror.suite}" if mirror.suite else " answers"
        return fine(NAME, f"{mirror.shown}{what} ({seconds * 1000:.0f} ms)")
    if status in (401, 403, 407):
        who = "the proxy" if status == 407 else "it"
        return _trouble(mirror, proxy, f"can't be used: {who} refuses us ({status})", FailureClass.CONFIG)
    if status == 404:
        text = f"has no {mirror.suite}: it answers 404 for {mirror.indexes[0].lstrip('/')}"
        return _trouble(mirror, proxy, text, FailureClass.CONFIG)
    passing = status >= 500 or status in _PASSING
    return _trouble(
        mirror, proxy, f"answers {status}", FailureClass.MIRROR if passing else FailureClass.CONFIG
    )


def _trouble(mirror: Mirror, proxy: str | None, text: str, failure_class: FailureClass) -> Finding:
    by = f" by the proxy {masked_credentials(proxy)}" if proxy else ""
    return problem(
        NAME,
        f"{mirror.shown} ({mirror.variable}){by} {text}",
        hint="Mend it, or name another one with mirrors, or with mirror and security-mirror of the platform.",
        failure_class=failure_class,
    )


def _why(error: requests.RequestException, host: str, timeout: float) -> str:
    """The reason in the system's own words, without the URLs that libraries put in theirs."""
    chain = list(_chain(error))
    if any(isinstance(each, socket.gaierror) for each in chain):
        return f"the name {host} can't be resolved"
    for each in reversed(chain):
        if isinstance(each, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted: {each.verify_message}"
        if isinstance(each, (TimeoutError, requests.Timeout)):
            return f"nothing came within {timeout:g} s"
        if isinstance(each, OSError) and each.strerror and not isinstance(each, requests.RequestException):
            return each.strerror.lower()
    return type(error).__name__


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
