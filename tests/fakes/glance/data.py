"""The image service's bytes in the fake cloud: sent, staged, imported, fetched, and made by tasks."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from tests.fakes.glance.faults import Fault
from tests.fakes.glance.http import CHUNK, HANG_LIMIT, ResetError, Route
from tests.fakes.glance.images import ImagesHandler
from tests.fakes.glance.state import PROJECT_ID, CloudState, Content, Digest, task_stamp

#: Seconds for one step of fetching a URL.
FETCH_TIMEOUT = 10.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class DataHandler(ImagesHandler):
    """Glance's PUT, stage, import and tasks."""

    def route_image(self, rest: list[str]) -> Route:
        match [self.command, *rest]:
            case ["PUT", "v2", "images", image_id, "file"]:
                return "send", lambda: self._take(image_id, "saving", self._store)
            case ["PUT", "v2", "images", image_id, "stage"]:
                return "stage", lambda: self._take(image_id, "uploading", self._keep_staged)
            case ["POST", "v2", "images", image_id, "import"]:
                return "import", lambda: self._import(image_id)
            case ["GET", "v2", "images", image_id, "tasks"]:
                return "import-tasks", lambda: self._image_tasks(image_id)
            case ["POST", "v2", "tasks"]:
                return "start-task", self._start_task
            case ["GET", "v2", "tasks", task_id]:
                return "task", lambda: self._task(task_id)
        return super().route_image(rest)

    # -- bytes --------------------------------------------------------------------------------

    def _take(self, image_id: str, status: str, use: Callable[[str, Content], None]) -> None:
        """Read an image's bytes while it is `status`, and then `use` them."""
        refusal = self._begin_taking(image_id, status)
        if refusal:
            self.refuse(*refusal)
            return
        digest = Digest()
        complete = self.read_exactly(self.length(), digest.update)
        with self.state.lock:
            image = self.here.images.get(image_id)
            if image is not None and not complete:
                image["status"] = "queued"
                raise ResetError
            if image is not None:
                use(image_id, digest.content())
        if image is None:
            self.refuse(410, f"Image {image_id} could not be found after upload.")
            return
        self.after(image_id)
        self.reply(204, b"")

    def _begin_taking(self, image_id: str, status: str) -> tuple[int, str] | None:
        quota = "image_size_total" if status == "saving" else "image_stage_total"
        over = self.state.over_quota(self.region, quota, self.length() // 1024**2) or self.state.over_quota(
            self.region, "image_count_uploading", 1
        )
        if over:
            return 413, over
        with self.state.lock:
            image = self.here.images.get(image_id)
            if image is None:
                return 404, f"No image found with ID {image_id}"
            if image["status"] != "queued":
                return 409, f"Image status transition from {image['status']} to {status} is not allowed"
            image["status"] = status
        return None

    def _store(self, image_id: str, content: Content) -> None:
        self.here.images[image_id].update(
            status="active", stores="".join(self.state.stores[:1]), **content.attributes()
        )

    def _keep_staged(self, image_id: str, content: Content) -> None:
        self.here.staged[image_id] = content
        self.here.images[image_id]["size"] = content.size

    # -- imports ------------------------------------------------------------------------------

    def _import(self, image_id: str) -> None:
        asked = self.document()
        method, uri = asked["method"]["name"], asked["method"].get("uri", "")
        image = self.image(image_id)
        if image is None:
            return
        refusal = self._why_no_import(image, method, uri)
        if refusal:
            self.refuse(*refusal)
            return
        work = _Import(self.state, self.region, image_id, method, uri)
        self.after(image_id)
        self.reply(202, b"")
        work.start()

    def _why_no_import(self, image: dict[str, Any], method: str, uri: str) -> tuple[int, str] | None:
        needed = {"glance-direct": "uploading", "web-download": "queued"}
        if method not in self.state.import_methods:
            return 400, f"Unknown import method name '{method}'."
        if image["status"] != needed[method]:
            return 409, f"Image needs to be in '{needed[method]}' state to use '{method}' method"
        if method == "web-download" and not self._may_fetch(uri):
            return 400, f"URI for web-download does not pass filtering: {uri}"
        over = self.state.over_quota(self.region, "image_size_total")
        return (413, over) if over else None

    def _may_fetch(self, uri: str) -> bool:
        parts = urlsplit(uri)
        ports = self.state.download_ports
        return parts.scheme in ("http", "https") and (
            ports is None or (parts.port or {"http": 80, "https": 443}[parts.scheme]) in ports
        )

    def _image_tasks(self, image_id: str) -> None:
        if self.image(image_id) is not None:
            with self.state.lock:
                tasks = [dict(t) for t in self.here.tasks.values() if t["image_id"] == image_id]
            self.json(200, {"tasks": tasks})

    # -- tasks --------------------------------------------------------------------------------

    def _start_task(self) -> None:
        asked = self.document()
        given = asked["input"]
        with self.state.lock:
            data = self.state.object_data(self.region, given["import_from"])
        if asked["type"] != "import" or data is None:
            self.refuse(400, f"Input to the task is wrong: nothing at {given['import_from']}")
            return
        work = _TaskImport(self.state, self.region, given, data)
        answer = dict(work.task)
        if self.fault is not None and self.fault.do == "mute":
            work.start()
            raise ResetError
        self.json(201, answer, {"Location": f"/v2/tasks/{answer['id']}"})
        work.start()

    def _task(self, task_id: str) -> None:
        with self.state.lock:
            task = self.here.tasks.get(task_id)
            answer = None if task is None else dict(task)
        if answer is None:
            self.refuse(404, f"No task found with ID {task_id}")
        else:
            self.json(200, answer)


class _Work(threading.Thread):
    """What the service does after it has answered, and its task; faults on "imported" spoil it."""

    def __init__(
        self, state: CloudState, region: str, kind: str, given: object, image_id: str | None
    ) -> None:
        super().__init__(name=f"fake-{kind}", daemon=True)
        self.state, self.region = state, region
        self.fault: Fault | None = None
        self.task: dict[str, Any] = {
            "id": str(uuid.uuid4()),
            "type": kind,
            "status": "pending",
            "owner": PROJECT_ID,
            "input": given,
            "result": None,
            "message": "",
            "image_id": image_id,
            "created_at": task_stamp(),
            "updated_at": task_stamp(),
        }
        with state.lock:
            state.there(region).tasks[self.task["id"]] = self.task

    def run(self) -> None:
        self.task["status"] = "processing"
        self.fault = self.state.next_fault("imported", self.region)
        doing = self.fault.do if self.fault is not None else ""
        if doing == "never-import":
            self.state.released.wait(HANG_LIMIT)
            return
        try:
            if self.fault is not None and doing == "fail-import":
                raise _ImportError(self.fault.text)
            content = self.fetch()
        except (_ImportError, urllib.error.URLError, OSError) as error:
            self.fail(str(error))
            return
        # At once, so that nobody sees the image as it was before the fault changed it.
        with self.state.lock:
            image_id = self.finish(content)
            self.state.after(self.fault, self.region, image_id)
            self.task.update(status="success", result={"image_id": image_id}, updated_at=task_stamp())

    def fetch(self) -> Content:
        """Get the bytes from where they are."""
        raise NotImplementedError

    def finish(self, content: Content) -> str:
        """Make them an image's; its id."""
        raise NotImplementedError

    def fail(self, why: str) -> None:
        """It came to nothing."""
        self.task.update(status="failure", message=f"Task failed due to Internal Error: {why}")


class _ImportError(Exception):
    """The import can't succeed."""


class _Import(_Work):
    """glance-direct and web-download."""

    def __init__(self, state: CloudState, region: str, image_id: str, method: str, uri: str) -> None:
        given = {"image_id": image_id, "import_req": {"method": {"name": method, "uri": uri}}}
        super().__init__(state, region, "api_image_import", given, image_id)
        self.image_id, self.method, self.uri = image_id, method, uri
        store = "".join(state.stores[:1])
        self._set(
            status="importing",
            os_glance_import_task=self.task["id"],
            os_glance_importing_to_stores=store,
            os_glance_failed_import="",
        )

    def fetch(self) -> Content:
        return self._download() if self.method == "web-download" else self._staged()

    def finish(self, content: Content) -> str:
        self._set(status="active", os_glance_importing_to_stores="", **content.attributes())
        self._release()
        return self.image_id

    def fail(self, why: str) -> None:
        # Glance keeps the record, for another try.
        store = "".join(self.state.stores[:1])
        self._set(status="queued", size=None, os_glance_importing_to_stores="", os_glance_failed_import=store)
        self._release()
        super().fail(why)

    def _set(self, **change: Any) -> None:
        self.state.change(self.image_id, **change)

    def _release(self) -> None:
        with self.state.lock:
            here = self.state.there(self.region)
            here.staged.pop(self.image_id, None)
            here.images.get(self.image_id, {}).pop("os_glance_import_task", None)

    def _staged(self) -> Content:
        with self.state.lock:
            content = self.state.there(self.region).staged.get(self.image_id)
        if content is None:
            raise _ImportError("the staged data is gone")
        return content

    def _download(self) -> Content:
        digest = Digest()
        with _DIRECT.open(self.uri, timeout=FETCH_TIMEOUT) as answer:
            promised = int(answer.headers.get("Content-Length") or -1)
            while chunk := answer.read(CHUNK):
                digest.update(chunk)
        content = digest.content()
        if promised not in (-1, content.size):
            raise _ImportError(f"{content.size} bytes came, {promised} were promised")
        return content


class _TaskImport(_Work):
    """The tasks way: an image is made of an object, with a name and nothing else."""

    def __init__(self, state: CloudState, region: str, given: dict[str, Any], data: bytes) -> None:
        super().__init__(state, region, "import", given, None)
        self._name = given.get("image_properties", {}).get("name", "")
        self._data = data

    def fetch(self) -> Content:
        digest = Digest()
        digest.update(self._data)
        return digest.content()

    def finish(self, content: Content) -> str:
        image = self.state.new_image(
            {"name": self._name, "visibility": "private", "disk_format": "vhd", "container_format": "ovf"}
        )
        image.update(status="active", **content.attributes())
        self.state.there(self.region).images[image["id"]] = image
        return str(image["id"])
