"""The Cloud contract on a real Glance: the one door to openstacksdk and keystoneauth.

openstacksdk reads clouds.yaml, logs in and finds the image service; every request to Glance is
made here, once. openstacksdk's own image calls re-send a broken PUT from the end of the file,
take any status for success and rename properties (peers.md section 1b), so none is used.

Repeating: a PUT is never sent twice, whatever happens. Any other request is repeated in one case
only, that the service answered 401 (it did nothing) to a token that had been revoked early.
"""

from __future__ import annotations

import html
import io
import logging
import os
import re
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import parse_qsl, urlsplit

import openstack.config
import openstack.exceptions
import requests
import urllib3
import yaml
from keystoneauth1 import exceptions as keystone_errors
from keystoneauth1.identity.base import BaseIdentityPlugin
from keystoneauth1.session import Session

from builder.cloud.base import Body, Cloud, CloudImage, GlanceStatus, NewImage
from builder.config.model import MASK, Provider, credentials_in
from builder.errors import CloudError, CloudUnavailableError, ConfigError
from builder.model import FailureClass, ImageFormat

LOG = logging.getLogger(__name__)

#: Seconds for any request but the PUT: to connect, to send, and between two bytes of the answer.
ANSWER_TIMEOUT: Final = 60.0
#: A token must live so many seconds more when a PUT starts: Glance throws a whole image away when
#: the token ends meanwhile (peers.md fact 19).
TOKEN_LIFE: Final = 30 * 60
#: Bytes of any answer: a page of images with many properties has less than a megabyte.
ANSWER_LIMIT: Final = 16 << 20
#: Images per page of a list.
PAGE_SIZE: Final = 200
#: Characters of what a service said that go into a message.
SAID_LIMIT: Final = 300

_INTEGERS: Final = frozenset({"min_disk", "min_ram"})
_BOOLEANS: Final = frozenset({"protected", "os_hidden"})
#: What Glance tells of an image beside its properties. Names in _INTEGERS and _BOOLEANS may be set
#: like properties, so they are read like properties, too.
_ATTRIBUTES: Final = frozenset(
    {"id", "name", "status", "size", "virtual_size", "checksum", "os_hash_algo", "os_hash_value"}
    | {"visibility", "owner", "tags", "created_at", "updated_at", "container_format", "disk_format"}
    | {"self", "file", "schema", "locations", "direct_url", "stores"}
)
_IMAGE_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,255}\Z")
_QUOTA: Final = re.compile(r"quota|over.?limit|limit exceeded|exceeds.{0,40}limit|storage.{0,20}full", re.I)
_TAGS: Final = re.compile(r"<head>.*?</head>|<[^>]*>", re.S | re.I)

_Failure = CloudError | CloudUnavailableError
_FOREIGN_ERRORS: Final = (
    keystone_errors.ClientException,
    openstack.exceptions.SDKException,
    requests.RequestException,
    OSError,
)


def image_format_of(cloud: str, region: str | None) -> ImageFormat:
    """The format a cloud wants its images in.

    That is `image_format` of clouds.yaml, else of the vendor's profile, else qcow2. ConfigError
    when the cloud or region is not in clouds.yaml, or the format is none we can make.
    """
    word = str(_region(cloud, region, authenticate=False).config.get("image_format") or ImageFormat.QCOW2)
    try:
        return ImageFormat(word.lower())
    except ValueError:
        known = ", ".join(ImageFormat)
        raise ConfigError(
            [f"clouds.yaml: cloud {cloud!r} wants image_format {word!r}, which can't be made; known: {known}"]
        ) from None


def config_files() -> tuple[Path, ...]:
    """The files with credentials that are in use now: clouds.yaml and secure.yaml, where there are any."""
    found = openstack.config.OpenStackConfig(app_name="imagepool")
    return tuple(Path(file) for file in (found.config_filename, found.secure_config_filename) if file)


class OpenStackCloud(Cloud):
    """The image service of one provider, reached as clouds.yaml says.

    The connection is made at the first use, shared by all threads, and made anew, clouds.yaml
    included, after the cloud refused who we are: a corrected password needs no restart.
    """

    def __init__(self, provider: Provider, *, answer_timeout: float = ANSWER_TIMEOUT) -> None:
        """`answer_timeout`: seconds for every request but the PUT, whose caller says how long."""
        self._provider = provider
        self._answer_timeout = answer_timeout
        self._lock = threading.Lock()
        self._connection: _Connection | None = None

    # -- the contract -------------------------------------------------------------------------

    def create(self, image: NewImage) -> CloudImage:
        document: dict[str, object] = {
            "min_disk": image.min_disk,
            **{name: _typed(name, value) for name, value in image.properties.items()},
            "name": image.name,
            "disk_format": image.disk_format,
            "container_format": "bare",
            "visibility": image.visibility,
        }
        what = f"create image {image.name}"
        answer = self._request(what, "POST", "/images", json=document)
        self._accept(what, answer)
        return self._parse(what, self._document(what, answer))

    def send(self, image_id: str, body: Body, *, timeout: float) -> None:
        what = f"send the bytes of image {image_id}"
        connection = self._connect(what)
        stream = _Stream(body)
        # A connection of its own: a kept-alive one may be closed by the server just as it is
        # used, and what is sent is never sent again.
        session = Session(
            auth=connection.session.auth,
            verify=connection.session.verify,
            cert=connection.session.cert,
            app_name="imagepool",
            timeout=self._answer_timeout,
        )
        try:
            _renew_token(session)
            answer = session.request(
                f"{connection.endpoint}{self._path(what, image_id)}/file",
                "PUT",
                data=stream,
                headers={
                    "Content-Type": "application/octet-stream",
                    "Accept": "*/*",
                    "X-OpenStack-Image-Size": str(len(body)),
                },
                timeout=(timeout, timeout),
                allow_reauth=False,
                **_ONCE,
            )
            self._receive(what, answer)
        except _FOREIGN_ERRORS as error:
            if stream.error is not None:
                raise stream.error from None
            self._fail(what, error)
        finally:
            session.close()
        self._accept(what, answer)

    def get(self, image_id: str) -> CloudImage | None:
        what = f"ask for image {image_id}"
        answer = self._request(what, "GET", self._path(what, image_id))
        if _says_gone(answer, image_id):
            return None
        self._accept(what, answer)
        return self._parse(what, self._document(what, answer))

    def find(self, properties: Mapping[str, str]) -> Iterator[CloudImage]:
        for hidden in ("false", "true"):
            for image in self._list({**properties, "os_hidden": hidden}):
                # Some databases compare without regard to case.
                if properties.items() <= image.properties.items():
                    yield image

    def disk_formats(self) -> frozenset[str]:
        what = "ask which formats are taken"
        answer = self._request(what, "GET", "/schemas/image")
        if answer.status_code == 404:
            return frozenset()
        self._accept(what, answer)
        # Glance's own configuration is in it: [image_format] disk_formats.
        schema = self._document(what, answer).get("properties")
        field = schema.get("disk_format") if isinstance(schema, dict) else None
        listed = field.get("enum") if isinstance(field, dict) else None
        return frozenset(word for word in listed or () if isinstance(word, str))

    def delete(self, image_id: str) -> None:
        what = f"delete image {image_id}"
        answer = self._request(what, "DELETE", self._path(what, image_id))
        if not _says_gone(answer, image_id):
            self._accept(what, answer)

    # -- requests -----------------------------------------------------------------------------

    def _path(self, what: str, image_id: str) -> str:
        """An image's path below the endpoint; CloudError for an id that would lead elsewhere."""
        if not _IMAGE_ID.match(image_id):
            raise CloudError(
                f"provider {self._provider.name}: could not {what}: {image_id!r} is no image id",
                failure_class=FailureClass.CLOUD,
            )
        return f"/images/{image_id}"

    def _list(self, filters: Mapping[str, str]) -> Iterator[CloudImage]:
        what = "list images"
        project = self._connect(what).project_id
        query: Mapping[str, str] = {
            **filters,
            "limit": str(PAGE_SIZE),
            **({"owner": project} if project else {}),
        }
        seen: set[str] = set()
        while query:
            answer = self._request(what, "GET", "/images", params=query)
            self._accept(what, answer)
            page = self._document(what, answer)
            images = [self._parse(what, document) for document in page.get("images", ())]
            fresh = [image for image in images if image.id not in seen]
            seen.update(image.id for image in fresh)
            yield from fresh
            # A page without news would be asked for for ever.
            query = dict(parse_qsl(urlsplit(page.get("next") or "").query)) if fresh else {}

    def _request(self, what: str, method: str, path: str, **more: Any) -> requests.Response:
        """One request; whatever the service answers. The failures are translated."""
        connection = self._connect(what)
        try:
            answer: requests.Response = connection.session.request(
                connection.endpoint + path,
                method,
                headers={"Accept": "application/json"},
                timeout=(self._answer_timeout, self._answer_timeout),
                **_ONCE,
                **more,
            )
            self._receive(what, answer)
        except _FOREIGN_ERRORS as error:
            self._fail(what, error)
        return answer

    def _receive(self, what: str, answer: requests.Response) -> None:
        """Read the body of an answer, within limits of size and time."""
        LOG.debug("provider %s: %s: answer %d", self._provider.name, what, answer.status_code)
        try:
            body = _read(answer, time.monotonic() + 2 * self._answer_timeout)
        except _TooLongError:
            raise self._strange(what, f"an answer of more than {ANSWER_LIMIT} bytes") from None
        # From here on `text` and `json` find it in memory.
        answer.raw = io.BytesIO(body)

    def _connect(self, what: str) -> _Connection:
        """The connection there is, or a new one; a cloud that hangs keeps only itself waiting."""
        with self._lock:
            if self._connection is None:
                try:
                    self._connection = _connect(self._provider, self._answer_timeout)
                except ConfigError as error:
                    raise CloudError(
                        f"provider {self._provider.name}: could not {what}: {error.message}",
                        failure_class=FailureClass.CONFIG,
                        hint=error.hint,
                    ) from error
                except _FOREIGN_ERRORS as error:
                    self._fail(what, error)
            return self._connection

    def _accept(self, what: str, answer: requests.Response) -> None:
        """Return when the service did it; raise what it said otherwise."""
        status = answer.status_code
        if 200 <= status < 300:
            return
        if status == 401:
            self._forget()
        raise self._refusal(what, status, _said(answer))

    def _document(self, what: str, answer: requests.Response) -> dict[str, Any]:
        try:
            document = answer.json()
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise self._strange(what, "an answer that is no JSON object")
        return document

    def _parse(self, what: str, document: Mapping[str, Any]) -> CloudImage:
        """An image as Glance describes it."""
        missing = [name for name in ("id", "status") if not isinstance(document.get(name), str)]
        if missing:
            raise self._strange(what, f"an image without {' and '.join(missing)}")
        return CloudImage(
            id=document["id"],
            name=document.get("name") or "",
            status=GlanceStatus(document["status"]),
            size=document.get("size"),
            hash_algorithm=document.get("os_hash_algo"),
            hash_value=document.get("os_hash_value"),
            checksum=document.get("checksum"),
            visibility=document.get("visibility") or "",
            properties={
                name: _text(value)
                for name, value in document.items()
                if name not in _ATTRIBUTES and value is not None
            },
        )

    # -- failures -----------------------------------------------------------------------------

    def _forget(self) -> None:
        # Not from under the lock: `_fail` is called with it held. Setting an attribute is atomic.
        self._connection = None

    def _fail(self, what: str, error: Exception) -> NoReturn:
        """Raise what a library's error means."""
        chain = tuple(_chain(error))
        http = next((e for e in chain if isinstance(e, keystone_errors.HttpError)), None)
        if http is not None:
            if http.http_status in (401, 403):
                self._forget()
            raise self._refusal(what, http.http_status, _short(str(http.message))) from error
        raise self._breakdown(what, error, chain) from error

    def _breakdown(self, what: str, error: Exception, chain: tuple[BaseException, ...]) -> _Failure:
        """What an error means that came instead of an answer."""
        message = f"provider {self._provider.name}: could not {what}: "
        timeouts = (TimeoutError, requests.Timeout, keystone_errors.ConnectTimeout)
        if any(isinstance(e, timeouts) for e in chain):
            return CloudUnavailableError(
                f"{message}no answer in time{_where(error)}", failure_class=FailureClass.TIMEOUT
            )
        if any(isinstance(e, (keystone_errors.ConnectionError, ConnectionError)) for e in chain):
            # The last in the chain is the system's own word, such as "Connection refused".
            words = next((e.strerror or str(e) for e in reversed(chain) if isinstance(e, OSError)), "")
            return CloudUnavailableError(
                f"{message}{_short(words or str(error))}{_where(error)}", failure_class=FailureClass.NETWORK
            )
        self._forget()
        refused = isinstance(error, keystone_errors.AuthorizationFailure)
        return CloudError(
            message + _short(str(error)),
            failure_class=FailureClass.AUTH if refused else FailureClass.CONFIG,
            hint=f"Check cloud {self._provider.cloud!r} in clouds.yaml.",
        )

    def _refusal(self, what: str, status: int, said: str) -> _Failure:
        """What an answer means that says no."""
        message = f"provider {self._provider.name}: could not {what}: the answer was {status}: {said}"
        failure_class = _class_of(status, said)
        if status >= 500 or status in (408, 429):
            return CloudUnavailableError(message, failure_class=failure_class)
        return CloudError(message, failure_class=failure_class, hint=self._hint(what, status))

    def _hint(self, what: str, status: int) -> str:
        deleting = what.startswith("delete")
        if deleting and status == 409:
            return "It is in use: delete the servers and volumes made from it first."
        if deleting and status == 403:
            return "If it is protected, unprotect it: openstack image set --unprotected IMAGE"
        if status in (401, 403):
            return f"Check the credentials and roles of cloud {self._provider.cloud!r} in clouds.yaml."
        return ""

    def _strange(self, what: str, said: str) -> CloudError:
        message = f"provider {self._provider.name}: could not {what}: the image service sent {said}"
        return CloudError(message, failure_class=FailureClass.CLOUD)


@dataclass(frozen=True, kw_only=True)
class _Connection:
    session: Session
    endpoint: str  #: of Glance's second API, without a slash at the end
    project_id: str | None


#: Arguments that make keystoneauth send a request once, and leave the answer's body to us: its debug
#: log would read it, however long. A redirected PUT would be an empty one.
_ONCE: Final[Mapping[str, Any]] = {
    "authenticated": True,
    "raise_exc": False,
    "redirect": False,
    "connect_retries": 0,
    "status_code_retries": 0,
    "stream": True,
    "log": False,
}


class _Stream:
    """A body for requests that has a length and can't be rewound, so that nobody sends it twice.

    `error` is what the body raised; the libraries below would translate some of it.
    """

    def __init__(self, body: Body) -> None:
        self._body = body
        self.error: BaseException | None = None

    def __len__(self) -> int:
        return len(self._body)

    def __iter__(self) -> Iterator[bytes]:
        # requests takes only what can be iterated for a stream; urllib3 then calls `read`.
        while chunk := self.read(64 * 1024):
            yield chunk

    def read(self, amount: int = -1) -> bytes:
        try:
            return self._body.read(amount)
        except BaseException as error:
            self.error = error
            raise


class _TooLongError(Exception):
    """An answer has more than ANSWER_LIMIT bytes."""


def _read(answer: requests.Response, deadline: float) -> bytes:
    """The body of an answer, read until `deadline` (monotonic): requests knows a timeout only between
    two bytes, and no limit of size. Raises requests.RequestException and _TooLongError."""
    body = bytearray()
    # One read to its end has given its connection back by then; of any other, closing ends it.
    with closing(answer):
        try:
            # Unlike `iter_content`, which waits until it has all it asked for.
            while chunk := answer.raw.read1(64 * 1024, decode_content=True):
                body += chunk
                if len(body) > ANSWER_LIMIT:
                    raise _TooLongError
                if time.monotonic() > deadline:
                    raise requests.Timeout("the answer comes too slowly")
        except urllib3.exceptions.TimeoutError as error:
            raise requests.Timeout(str(error)) from error
        except urllib3.exceptions.HTTPError as error:
            raise requests.ConnectionError(str(error)) from error
    return bytes(body)


def _region(cloud: str, region: str | None, *, authenticate: bool, **more: Any) -> Any:
    """A cloud and region as clouds.yaml describes them; ConfigError."""
    try:
        loader = openstack.config.OpenStackConfig(app_name="imagepool")
        return loader.get_one(cloud=cloud, region_name=region or "", validate=authenticate, **more)
    except (openstack.exceptions.ConfigException, yaml.YAMLError) as error:
        raise ConfigError(
            [f"cloud {cloud!r}, region {region or 'by default'}: {_short(str(error))}"],
            hint=f"Looked at {_clouds_files()}.",
        ) from error


def _clouds_files() -> str:
    """The clouds.yaml in use, or all the places where there could be one."""
    places = [os.environ.get("OS_CLIENT_CONFIG_FILE", ""), *openstack.config.loader.CONFIG_FILES]
    places = [place for place in places if place]
    there = [place for place in places if os.access(place, os.R_OK)]
    return there[0] if there else "no file; there is none of " + ", ".join(places)


def _connect(provider: Provider, timeout: float) -> _Connection:
    """Log in and find the image service."""
    _check_proxies()
    region = _region(provider.cloud, provider.region, authenticate=True, api_timeout=timeout)
    session: Session = region.get_session()
    # No version discovery: when it fails, it guesses, and then every image would seem to be gone.
    endpoint = region.get_endpoint("image") or session.get_endpoint(
        service_type="image",
        service_name=region.get_service_name("image"),
        interface=region.get_interface("image"),
        region_name=region.get_region_name("image"),
        skip_discovery=True,
    )
    if not endpoint:
        raise ConfigError(
            [f"the catalogue of cloud {provider.cloud!r} has no image service in region {provider.region!r}"]
        )
    base = re.sub(r"/v[0-9.]+$", "", endpoint.rstrip("/"))
    LOG.info("provider %s: image service at %s", provider.name, base)
    return _Connection(session=session, endpoint=f"{base}/v2", project_id=session.get_project_id())


def _check_proxies() -> None:
    """ConfigError for a proxy without a host, which requests answers with an error that tells nobody why."""
    for scheme, url in urllib.request.getproxies_environment().items():
        if scheme not in ("http", "https", "all"):
            continue
        try:
            host = urlsplit(url if "://" in url else f"http://{url}").hostname
        except ValueError:
            host = None
        if not host:
            # Not the value: it may have a password.
            raise ConfigError([f"the environment variable {scheme}_proxy names no host"])


def _renew_token(session: Session) -> None:
    """Make sure that the token lives long enough for an upload."""
    auth = session.auth
    if isinstance(auth, BaseIdentityPlugin) and auth.get_access(session).will_expire_soon(TOKEN_LIFE):
        auth.invalidate()
        auth.get_access(session)


def _typed(name: str, value: str) -> object:
    """A property in Glance's type: all are strings but a few of its own attributes."""
    if name in _INTEGERS and value.isdigit():
        return int(value)
    if name in _BOOLEANS and value.lower() in ("true", "false"):
        return value.lower() == "true"
    return value


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _says_gone(answer: requests.Response, image_id: str) -> bool:
    """Whether it is Glance who says that there is no such image, and not some proxy before it."""
    return answer.status_code == 404 and (
        "x-openstack-request-id" in answer.headers or image_id in answer.text
    )


def _class_of(status: int, said: str) -> FailureClass:
    if status == 413 or _QUOTA.search(said):
        return FailureClass.QUOTA
    if status in (401, 403):
        return FailureClass.AUTH
    if status in (408, 504):
        return FailureClass.TIMEOUT
    return FailureClass.CLOUD


def _said(answer: requests.Response) -> str:
    """What the service said, as text for people; never a token."""
    text = answer.text
    token = answer.request.headers.get("X-Auth-Token") if answer.request is not None else None
    if token:
        text = text.replace(token if isinstance(token, str) else token.decode(), MASK)
    return _short(html.unescape(_TAGS.sub(" ", text))) or answer.reason or "nothing more"


def _short(text: str) -> str:
    line = _masked(" ".join(text.split()))
    return line if len(line) <= SAID_LIMIT else line[: SAID_LIMIT - 1] + "…"


def _masked(text: str) -> str:
    """The text without the credentials of its URLs, which may be repeated elsewhere in it."""
    for each in credentials_in(text):
        text = text.replace(each, MASK)
    return text


def _where(error: Exception) -> str:
    """The address a library's message names, as " (host:port)"."""
    address = re.search(r"https?://(?:[^/@\s]*@)?([^/\s]+)", _masked(str(error)))
    return f" ({address[1]})" if address else ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and all that led to it: keystoneauth and requests wrap the one that tells."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        linked = (current.__cause__, current.__context__, getattr(current, "reason", None), *current.args)
        waiting += [e for e in linked if isinstance(e, BaseException)]
