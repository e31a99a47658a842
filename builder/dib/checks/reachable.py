"""Ask the package mirrors of a build whether they answer, before an hour is spent on finding out.

Asked is what the build will ask first: the index of the release for Debian's family, the mirror's
root for the others. Only mirrors that are named are asked; where none is, the elements have
defaults that are theirs alone to know.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import requests

from builder.config.model import DiskImage, masked_credentials
from builder.dib.contents import download
from builder.findings import Finding, fine, problem, warning
from builder.model import FailureClass

#: Seconds to connect, and seconds for an answer to begin.
TIMEOUT: Final = 5.0
#: Seconds between the first try and the only other one.
PAUSE: Final = 1.0
NAME: Final = "mirror"

_DEBIAN_FAMILY: Final = ("debian", "ubuntu")
#: Suites without security updates of their own (the element debian-minimal, 10-debian-minimal.bash).
_WITHOUT_SECURITY: Final = ("testing", "unstable")
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
    """The mirrors named in the environment of a build of `image`."""
    family = _family(image)
    release = environment.get("DIB_RELEASE", "")
    found = []
    main = "DIB_DISTRIBUTION_MIRROR"
    if family == "debian" and environment.get("DIB_DEBIAN_DISTRIBUTION_MIRROR"):
        main = "DIB_DEBIAN_DISTRIBUTION_MIRROR"
    if environment.get(main):
        found.append(_mirror(main, environment[main], release if family else ""))
    security = "DIB_DEBIAN_SECURITY_MIRROR"
    if family == "debian" and environment.get(security) and release not in _WITHOUT_SECURITY:
        subpath = environment.get("DIB_DEBIAN_SECURITY_SUBPATH", "")
        found.append(
            _mirror(security, environment[security], f"{release}-security{subpath}" if release else "")
        )
    return tuple(found)


def _family(image: DiskImage) -> str | None:
    """ "debian" or "ubuntu", by platform or else by elements such as debian-minimal; None for others."""
    if image.platform is not None:
        words = [image.platform.distribution]
    else:
        words = [element.partition("-")[0] for element in image.elements]
    return next((word for word in words if word in _DEBIAN_FAMILY), None)


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
        statuses = list(_statuses(mirror, environment, timeout))
    except ValueError:
        # Those of requests for what is no URL are ValueErrors too; their texts may have passwords in them.
        what = "its URL, the proxy's or that of a redirect is malformed"
        return _trouble(mirror, proxy, f"can't be asked: {what}", FailureClass.CONFIG)
    except requests.RequestException as error:
        why = _why(error, host, timeout)
        return _trouble(mirror, proxy, f"does not answer: {why}", FailureClass.MIRROR)
    return _judge(mirror, proxy, statuses[-1], time.monotonic() - began)


def _statuses(mirror: Mirror, environment: Mapping[str, str], timeout: float) -> Iterator[int]:
    """The status of each index, up to the first that is there. That there is one is all we want to
    know: no body is read."""
    for index in mirror.indexes:
        with download.answered(
            mirror.url.rstrip("/") + (index or "/"), environment, timeout=timeout
        ) as answer:
            yield answer.status_code
            if answer.status_code != requests.codes.not_found:
                return


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
        hint="Mend it, or name another one with mirror and security-mirror of the platform.",
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
