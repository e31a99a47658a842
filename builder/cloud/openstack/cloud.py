"""The Cloud contract in requests to Glance, one or a few each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from urllib.parse import quote

import requests

from builder.cloud.base import Body, Change, Cloud, NewImage, Task
from builder.cloud.openstack import documents
from builder.cloud.openstack.clouds_yaml import says_yes
from builder.cloud.openstack.login import Logins
from builder.cloud.openstack.requester import Requester
from builder.cloud.openstack.swift import CONTAINER, Objects
from builder.cloudimage import CloudImage
from builder.config.model import Provider
from builder.errors import NotFoundError
from builder.ways import Capabilities, Quota, Way

#: Seconds for any request but a PUT of bytes: to connect, to send, and between two bytes of the answer.
ANSWER_TIMEOUT: Final = 60.0
#: Images per page of a list.
PAGE_SIZE: Final = 200
#: Images of ours in one list: a list that never ends must not fill the memory.
IMAGES_LIMIT: Final = 50_000

_JSON_PATCH: Final = "application/openstack-images-v2.1-json-patch"
#: Answers of a service that is too old to tell of itself, or does not let us know.
_NOT_TOLD: Final = frozenset({300, 403, 404, 405, 501})
#: None that begins like an option: hooks get it as an argument.
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,254}\Z")

#: The logins of this process, which live as long as a Cloud that uses them.
_LOGINS: Final = Logins()

_Parsed = TypeVar("_Parsed")


class OpenStackCloud(Cloud):
    """The image service of one provider, reached as clouds.yaml says.

    The login is made at the first use, shared by all threads and by all regions of the cloud, and
    made anew, clouds.yaml included, after the cloud refused who we are: a corrected password needs
    no restart.
    """

    def __init__(
        self, provider: Provider, *, answer_timeout: float = ANSWER_TIMEOUT, logins: Logins = _LOGINS
    ) -> None:
        """`answer_timeout`: seconds for every request but a PUT of bytes, whose caller says how long."""
        self._requester = Requester(provider, logins, answer_timeout)
        self._failures = self._requester.failures
        self._objects = Objects(self._requester)

    # -- images ---------------------------------------------------------------------------------

    def create(self, image: NewImage) -> CloudImage:
        what = f"create image {image.name}"
        return self._image(what, self._do(what, "POST", "/images", json=documents.of_new_image(image)))

    def send(self, image_id: str, body: Body, *, timeout: float) -> None:
        self._put(f"send the bytes of image {image_id}", image_id, "file", body, timeout)

    def get(self, image_id: str) -> CloudImage | None:
        what = f"ask for image {image_id}"
        answer = self._ask(what, "GET", self._path(what, image_id))
        return None if _says_gone(answer, image_id) else self._image(what, self._accept(what, answer))

    def find(self, properties: Mapping[str, str], *, hidden: bool | None = None) -> Iterator[CloudImage]:
        # Glance's lists have the hidden images or the others, never both.
        for wanted in (False, True) if hidden is None else (hidden,):
            for image in self._list({**properties, "os_hidden": str(wanted).lower()}):
                # Some databases compare without regard to case.
                if properties.items() <= image.properties.items():
                    yield image

    def find_named(self, name: str) -> Iterator[CloudImage]:
        for hidden in ("false", "true"):
            for image in self._list({"name": name, "os_hidden": hidden}):
                # Some databases compare without regard to case.
                if image.name == name:
                    yield image

    def update(self, image_id: str, change: Change) -> CloudImage:
        what = f"change image {image_id}"
        path = self._path(what, image_id)
        for tag in sorted(change.add_tags):
            self._found(what, image_id, self._ask(what, "PUT", _tag(path, tag)))
        patch = documents.of_change(change)
        if patch:
            headers = {"Content-Type": _JSON_PATCH}
            answer = self._ask(what, "PATCH", path, json=patch, headers=headers)
            self._found(what, image_id, answer)
        for tag in sorted(change.remove_tags):
            self._remove_tag(what, path, tag)
        return self._image(what, self._found(what, image_id, self._ask(what, "GET", path)))

    def share(self, image_id: str, project_id: str) -> None:
        what = f"share image {image_id} with project {project_id}"
        answer = self._ask(what, "POST", f"{self._path(what, image_id)}/members", json={"member": project_id})
        if answer.status_code != 409:  # else it is shared with it already
            self._accept(what, answer)

    def delete(self, image_id: str) -> None:
        what = f"delete image {image_id}"
        answer = self._ask(what, "DELETE", self._path(what, image_id))
        if not _says_gone(answer, image_id):
            self._accept(what, answer)

    # -- what the service can do ------------------------------------------------------------------

    def capabilities(self) -> Capabilities:
        what = "ask what the image service can do"
        region = self._requester.connection(what).region
        return Capabilities(
            checked=datetime.now(UTC),
            disk_formats=documents.disk_formats(self._told(what, "/schemas/image")),
            import_methods=documents.import_methods(self._told(what, "/info/import")),
            stores=documents.stores(self._told(what, "/info/stores")),
            tasks=says_yes(region, "image_api_use_tasks"),
        )

    def quotas(self) -> Mapping[str, Quota]:
        return documents.quotas(self._told("ask for quotas", "/info/usage"))

    # -- imports ----------------------------------------------------------------------------------

    def stage(self, image_id: str, body: Body, *, timeout: float) -> None:
        self._put(f"stage the bytes of image {image_id}", image_id, "stage", body, timeout)

    def import_image(self, image_id: str, way: Way, *, url: str | None = None) -> None:
        what = f"import image {image_id} by {way}"
        method = {"name": way.value, **({"uri": url} if url else {})}
        self._do(what, "POST", f"{self._path(what, image_id)}/import", json={"method": method})

    def import_tasks(self, image_id: str) -> tuple[Task, ...]:
        what = f"ask for the imports of image {image_id}"
        told = self._told(what, f"{self._path(what, image_id)}/tasks")
        return self._parsed(what, documents.tasks, told)

    # -- the tasks way ----------------------------------------------------------------------------

    def put_object(self, name: str, body: Body, *, timeout: float) -> None:
        self._objects.put(name, body, timeout=timeout)

    def delete_object(self, name: str) -> None:
        self._objects.delete(name)

    def start_import_task(self, name: str, object_name: str) -> Task:
        what = f"start a task that imports {object_name}"
        answer = self._do(
            what, "POST", "/tasks", json=documents.import_task(name, f"{CONTAINER}/{object_name}")
        )
        return self._parsed(what, documents.task, self._requester.document(what, answer))

    def get_task(self, task_id: str) -> Task | None:
        what = f"ask for task {task_id}"
        answer = self._ask(what, "GET", f"/tasks/{self._id(what, task_id, 'task')}")
        if _says_gone(answer, task_id):
            return None
        return self._parsed(what, documents.task, self._requester.document(what, self._accept(what, answer)))

    # -- inside -----------------------------------------------------------------------------------

    def _ask(self, what: str, method: str, path: str, **more: Any) -> requests.Response:
        return self._requester.ask(what, method, path, **more)

    def _accept(self, what: str, answer: requests.Response) -> requests.Response:
        return self._requester.accept(what, answer)

    def _do(self, what: str, method: str, path: str, **more: Any) -> requests.Response:
        return self._accept(what, self._ask(what, method, path, **more))

    def _told(self, what: str, path: str) -> Mapping[str, Any]:
        """What the service tells there; nothing when it is too old or does not let us know."""
        answer = self._ask(what, "GET", path)
        if answer.status_code in _NOT_TOLD:
            return {}
        return self._requester.document(what, self._accept(what, answer))

    def _put(self, what: str, image_id: str, part: str, body: Body, timeout: float) -> None:
        path = f"{self._path(what, image_id)}/{part}"
        headers = {"X-OpenStack-Image-Size": str(len(body))}
        self._accept(what, self._requester.put(what, path, body, timeout=timeout, headers=headers))

    def _list(self, filters: Mapping[str, str]) -> Iterator[CloudImage]:
        what = "list images"
        project = self._requester.connection(what).project_id
        query: Mapping[str, str] = {
            **filters,
            "limit": str(PAGE_SIZE),
            **({"owner": project} if project else {}),
        }
        seen: set[str] = set()
        while query:
            page = self._requester.document(what, self._do(what, "GET", "/images", params=query))
            images = self._parsed(what, documents.images, page)
            fresh = [image for image in images if image.id not in seen]
            seen.update(image.id for image in fresh)
            yield from fresh
            # A page without news would be asked for for ever.
            query = documents.next_page(page) if fresh else {}
            if len(seen) > IMAGES_LIMIT:
                raise self._failures.strange(what, f"a list of more than {IMAGES_LIMIT} images")

    def _remove_tag(self, what: str, path: str, tag: str) -> None:
        answer = self._ask(what, "DELETE", _tag(path, tag))
        if answer.status_code != 404:  # else it has no such tag; the image itself is asked for next
            self._accept(what, answer)

    def _found(self, what: str, image_id: str, answer: requests.Response) -> requests.Response:
        """The answer about an image that exists; NotFoundError."""
        if _says_gone(answer, image_id):
            raise NotFoundError(self._failures.of_answer(what, answer).message)
        return self._accept(what, answer)

    def _image(self, what: str, answer: requests.Response) -> CloudImage:
        return self._parsed(what, documents.image, self._requester.document(what, answer))

    def _parsed(
        self, what: str, parse: Callable[[Mapping[str, Any]], _Parsed], document: Mapping[str, Any]
    ) -> _Parsed:
        try:
            return parse(document)
        except documents.StrangeError as error:
            raise self._failures.strange(what, str(error)) from None

    def _path(self, what: str, image_id: str) -> str:
        """An image's path below the endpoint."""
        return f"/images/{self._id(what, image_id, 'image')}"

    def _id(self, what: str, text: str, kind: str) -> str:
        """An id; CloudError for one that would lead elsewhere."""
        if not _ID.match(text):
            raise self._failures.wrong(what, f"{text!r} is no {kind} id")
        return text


def _tag(path: str, tag: str) -> str:
    return f"{path}/tags/{quote(tag, safe='')}"


def _says_gone(answer: requests.Response, thing_id: str) -> bool:
    """Whether it is Glance who says that there is no such thing, and not some proxy before it."""
    return answer.status_code == 404 and (
        "x-openstack-request-id" in answer.headers or thing_id in answer.text
    )
