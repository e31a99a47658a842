"""Choose the ways in which an artifact may get into a provider, in the order in which they are tried.

1. adopt: nothing to send;
2. web-download: nothing to send from here, and no bytes through whatever limits this machine;
3. put: one request, whose answer means that the bytes are stored;
4. glance-direct: as many bytes, and besides a staging area that all of Glance's hosts must share,
   an import task to wait for, and plugins that may change the bytes on the way, so that their hash
   is not ours any more. It is there for clouds that allow no put, or whose operator wants the import.
Where the cloud's profile says `image_api_use_tasks`, images come in by tasks and not otherwise:
there they take the place of put and glance-direct, as they do for openstacksdk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from builder.config.model import Provider
from builder.model import Artifact
from builder.planning.words import listed
from builder.ways import AUTO, Capabilities, Choice, Way

#: What Glance fetches from unless its operator says otherwise (`import_filtering_opts` of its
#: configuration: `allowed_schemes` and `allowed_ports`).
_PORTS: Final = {"http": "80", "https": "443"}


def choose(
    provider: Provider, capabilities: Capabilities, artifact: Artifact, *, url: str | None
) -> tuple[Choice, ...]:
    """Every way there is: first those that may be tried, in their order, then the others with the reason.

    `url`: where the provider could fetch the artifact, None when nothing serves it.
    """
    case = _Case(provider=provider, capabilities=capabilities, artifact=artifact, url=url)
    choices = [_choice(case, way, rule) for way, rule in _RULES.items()]
    return tuple(sorted(choices, key=lambda choice: not choice.usable))


def unfit_format(provider: Provider, capabilities: Capabilities, image_format: str) -> str | None:
    """Why the provider can't take a format at all, as a sentence; None when it can or does not say."""
    formats = capabilities.disk_formats
    if not formats or image_format in formats:
        return None
    return f"The image service of {provider.name} takes no {image_format}, only {listed(sorted(formats))}."


@dataclass(frozen=True, kw_only=True)
class _Case:
    """What is known when ways are chosen."""

    provider: Provider
    capabilities: Capabilities
    artifact: Artifact
    url: str | None

    def forced(self, way: Way) -> bool:
        """Whether the configuration names this very way."""
        return self.provider.upload_method == way

    def imports(self, way: Way) -> str | None:
        """Why the service can't import that way, as a sentence; None when it can."""
        methods = self.capabilities.import_methods
        if way in methods:
            return None
        if methods:
            return f"The image service imports by {listed(sorted(methods))} alone."
        return "The image service does not say that it imports anything."


@dataclass(frozen=True, kw_only=True)
class _Answer:
    usable: bool
    reason: str


def _choice(case: _Case, way: Way, rule: Callable[[_Case], _Answer]) -> Choice:
    answer = _refusal(case, way) or rule(case)
    return Choice(way=way, usable=answer.usable, reason=answer.reason)


def _refusal(case: _Case, way: Way) -> _Answer | None:
    """What rules a way out whatever it is."""
    if unfit := unfit_format(case.provider, case.capabilities, case.artifact.format):
        return _no(unfit)
    method = case.provider.upload_method
    if method not in (AUTO, way) and way is not Way.ADOPT:
        return _no(f"`upload-method: {method}` allows no other.")
    return None


def _adopt(case: _Case) -> _Answer:
    return _yes("If an image of ours with these very bytes is there and no upload has it, nothing is sent.")


def _web_download(case: _Case) -> _Answer:
    if case.url is None:
        return _no(
            "There is no URL to fetch it from: neither `download-url` nor `artifact-server` is configured."
        )
    if problem := case.imports(Way.WEB_DOWNLOAD):
        return _no(problem)
    scheme, port = _scheme_and_port(case.url)
    if scheme not in _PORTS:
        return _no(f"Glance fetches from http and https, not from {scheme or 'a URL without a scheme'}.")
    if port not in _PORTS.values() and not case.forced(Way.WEB_DOWNLOAD):
        return _no(
            f"Glance fetches from ports 80 and 443 unless its operator allows more, and the URL has {port};"
            f" `upload-method: {Way.WEB_DOWNLOAD}` tries it all the same."
        )
    return _yes("The image service fetches it from us by itself.")


def _put(case: _Case) -> _Answer:
    return _by_tasks(case, Way.PUT) or _yes("The bytes are sent in one request.")


def _glance_direct(case: _Case) -> _Answer:
    if problem := case.imports(Way.GLANCE_DIRECT):
        return _no(problem)
    refusal = _by_tasks(case, Way.GLANCE_DIRECT)
    return refusal or _yes("The bytes are sent to a staging area, and imported from there.")


def _tasks(case: _Case) -> _Answer:
    if case.artifact.format.parts:
        return _no(f"A task makes one image of one file, and {case.artifact.format} is several.")
    if not case.capabilities.tasks:
        return _no("Neither clouds.yaml nor the cloud's profile says `image_api_use_tasks`.")
    return _yes("The bytes are sent to Swift, and a task of the image service imports them.")


def _by_tasks(case: _Case, way: Way) -> _Answer | None:
    if not case.capabilities.tasks or case.forced(way):
        return None
    return _no("The cloud takes images by tasks instead (`image_api_use_tasks`).")


#: In the order in which the ways are tried.
_RULES: Final[dict[Way, Callable[[_Case], _Answer]]] = {
    Way.ADOPT: _adopt,
    Way.WEB_DOWNLOAD: _web_download,
    Way.PUT: _put,
    Way.GLANCE_DIRECT: _glance_direct,
    Way.TASKS: _tasks,
}


def _yes(reason: str) -> _Answer:
    return _Answer(usable=True, reason=reason)


def _no(reason: str) -> _Answer:
    return _Answer(usable=False, reason=reason)


def _scheme_and_port(url: str) -> tuple[str, str]:
    """Of "scheme://user@host:port/path"; the scheme's own port where the URL names none."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "", ""
    host = rest.partition("/")[0].rpartition("@")[2]
    # What follows the last colon of "[2001:db8::1]" is no port.
    port = "" if host.endswith("]") else host.rpartition(":")[2] if ":" in host else ""
    return scheme.lower(), port or _PORTS.get(scheme.lower(), "")
