"""A Cloud in memory, for tests of whatever uses one, with knobs for every way a cloud goes wrong.

It passes the same contract as OpenStackCloud (tests/contract/test_cloud.py). A new FakeCloud
behaves; a test turns the knobs it needs:

    cloud.fail("send", CloudUnavailableError(...))       the next send raises
    cloud.fail("get", error, times=None)                 every get raises
    cloud.fail("create", error, after=True)              done in the cloud, but the answer is lost
    cloud.break_after = 1000                             send raises when so many bytes have arrived
    cloud.after_send = {"status": GlanceStatus.KILLED}   what Glance makes of a finished send
    cloud.after_send = None                              the image is gone after the send
    gate = cloud.hold("send"); ...; gate.set()           the call waits until the gate opens
    cloud.in_use.add(image_id)                           delete is refused with 409

What it can do is as little as an old Glance can; a test gives it more:

    cloud.import_methods |= {"glance-direct", "web-download"}
    cloud.tasks = True                                   the tasks way, and Swift beside it
    cloud.limits["image_count_total"] = Quota(limit=5, used=5)
    cloud.web["https://files.example/a.raw"] = b"..."    what is fetched there, instead of fetching
    cloud.import_error = "no such host"                  imports and tasks fail, with this message
    cloud.slow = True; ...; cloud.finish()               imports and tasks go on until then
    cloud.members[image_id]; cloud.objects; cloud.staged; cloud.image_tasks[image_id]
"""

from __future__ import annotations

import hashlib
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from builder.cloud.base import Body, Change, Cloud, NewImage, Task, TaskState
from builder.cloudimage import CloudImage, GlanceStatus
from builder.errors import CloudError, CloudUnavailableError, NotFoundError
from builder.model import FailureClass
from builder.ways import Capabilities, Quota, Way

#: A gate nobody opens must not hang a test run for ever.
GATE_LIMIT = 60.0


@dataclass
class _Fault:
    error: Exception
    times: int | None
    after: bool


class FakeCloud(Cloud):
    """Images in a dict. `images` and `contents` are by id, `calls` is (method, image id or name)."""

    def __init__(self) -> None:
        self.images: dict[str, CloudImage] = {}
        self.contents: dict[str, bytes] = {}
        self.in_use: set[str] = set()
        self.formats = {"qcow2", "raw", "vhd", "vhdx", "vmdk", "ami", "aki", "ari"}
        self.import_methods: set[str] = set()
        self.stores: tuple[str, ...] = ()
        self.tasks = False
        self.limits: dict[str, Quota] = {}
        self.web: dict[str, bytes] = {}
        self.import_error = ""
        self.slow = False
        self.staged: dict[str, bytes] = {}
        self.objects: dict[str, bytes] = {}
        self.members: dict[str, set[str]] = {}
        self.image_tasks: dict[str, list[Task]] = {}  #: imports by image id, the oldest first
        self.all_tasks: dict[str, Task] = {}
        self.calls: list[tuple[str, str]] = []
        self.break_after: int | None = None
        self.after_send: Mapping[str, Any] | None = {}
        self._faults: dict[str, list[_Fault]] = {}
        self._gates: dict[str, threading.Event] = {}
        self._unfinished: list[Callable[[], None]] = []
        self._lock = threading.RLock()

    # -- knobs --------------------------------------------------------------------------------

    def fail(self, method: str, error: Exception, *, times: int | None = 1, after: bool = False) -> None:
        """Let the next `times` calls of `method` raise (None: all), before or after doing their work."""
        with self._lock:
            self._faults.setdefault(method, []).append(_Fault(error, times, after))

    def heal(self) -> None:
        """Forget all faults and open all gates."""
        with self._lock:
            self._faults.clear()
            self.break_after, self.after_send, self.import_error = None, {}, ""
            gates, self._gates = self._gates, {}
        for gate in gates.values():
            gate.set()

    def hold(self, method: str) -> threading.Event:
        """Let every call of `method` wait until the returned event is set."""
        with self._lock:
            return self._gates.setdefault(method, threading.Event())

    def finish(self) -> None:
        """Let the imports and tasks under way come to their end."""
        with self._lock:
            unfinished, self._unfinished = self._unfinished, []
            for end in unfinished:
                end()

    def change(self, image_id: str, **changes: Any) -> None:
        """Change an image behind everybody's back."""
        with self._lock:
            self.images[image_id] = replace(self.images[image_id], **changes)

    def count(self, method: str) -> int:
        """How often a method was called."""
        with self._lock:
            return sum(1 for name, _ in self.calls if name == method)

    # -- the contract -------------------------------------------------------------------------

    def create(self, image: NewImage) -> CloudImage:
        self._begin("create", image.name)
        made = CloudImage(
            id=str(uuid.uuid4()),
            name=image.name,
            status=GlanceStatus.QUEUED,
            size=None,
            hash_algorithm=None,
            hash_value=None,
            checksum=None,
            visibility=image.visibility,
            properties=dict(image.properties),
            tags=image.tags,
            hidden=image.hidden or image.properties.get("os_hidden") == "true",
            created=datetime.now(UTC),
            disk_format=image.disk_format,
            min_disk=image.min_disk,
        )
        with self._lock:
            self.images[made.id] = made
        self._end("create")
        return made

    def send(self, image_id: str, body: Body, *, timeout: float) -> None:
        self._begin("send", image_id)
        self._keep(image_id, self._receive_for(image_id, body, GlanceStatus.SAVING))
        self._end("send")

    def get(self, image_id: str) -> CloudImage | None:
        self._begin("get", image_id)
        with self._lock:
            image = self.images.get(image_id)
        self._end("get")
        return image

    def find(self, properties: Mapping[str, str], *, hidden: bool | None = None) -> Iterator[CloudImage]:
        # As on a real cloud, nothing is asked before the first image is wanted.
        self._begin("find", "")
        with self._lock:
            images = list(self.images.values())
        self._end("find")
        for image in images:
            if properties.items() <= image.properties.items() and hidden in (None, image.hidden):
                yield image

    def find_named(self, name: str) -> Iterator[CloudImage]:
        self._begin("find_named", "")
        with self._lock:
            images = list(self.images.values())
        self._end("find_named")
        yield from (image for image in images if image.name == name)

    def capabilities(self) -> Capabilities:
        self._begin("capabilities", "")
        self._end("capabilities")
        return Capabilities(
            checked=datetime.now(UTC),
            disk_formats=frozenset(self.formats),
            import_methods=frozenset(self.import_methods),
            stores=self.stores,
            tasks=self.tasks,
        )

    def quotas(self) -> Mapping[str, Quota]:
        self._begin("quotas", "")
        self._end("quotas")
        return dict(self.limits)

    def stage(self, image_id: str, body: Body, *, timeout: float) -> None:
        self._begin("stage", image_id)
        content = self._receive_for(image_id, body, GlanceStatus.UPLOADING)
        with self._lock:
            if image_id in self.images:
                self.change(image_id, size=len(content))
                self.staged[image_id] = content
        self._end("stage")

    def import_image(self, image_id: str, way: Way, *, url: str | None = None) -> None:
        self._begin("import_image", image_id)
        wanted = GlanceStatus.UPLOADING if way is Way.GLANCE_DIRECT else GlanceStatus.QUEUED
        with self._lock:
            image = self._existing(image_id)
            if way not in self.import_methods:
                raise _refused(f"import method {way} is not enabled")
            if image.status is not wanted:
                raise _refused(f"image {image_id} is {image.status}")
            task = self._new_task(TaskState.PROCESSING, image_id)
            self.image_tasks.setdefault(image_id, []).append(task)
            self.change(image_id, status=GlanceStatus.IMPORTING)
        self._run(lambda: self._import(image_id, task.id, url))
        self._end("import_image")

    def import_tasks(self, image_id: str) -> tuple[Task, ...]:
        self._begin("import_tasks", image_id)
        with self._lock:
            tasks = tuple(self.all_tasks[t.id] for t in reversed(self.image_tasks.get(image_id, [])))
        self._end("import_tasks")
        return tasks

    def update(self, image_id: str, change: Change) -> CloudImage:
        self._begin("update", image_id)
        with self._lock:
            image = self.images.get(image_id)
            if image is None:
                raise NotFoundError(f"no image {image_id}")
            self.images[image_id] = image = replace(
                image,
                name=image.name if change.name is None else change.name,
                visibility=image.visibility if change.visibility is None else change.visibility,
                hidden=image.hidden if change.hidden is None else change.hidden,
                properties={**image.properties, **(change.properties or {})},
                tags=(image.tags | change.add_tags) - change.remove_tags,
            )
        self._end("update")
        return image

    def share(self, image_id: str, project_id: str) -> None:
        self._begin("share", image_id)
        with self._lock:
            if self._existing(image_id).visibility != "shared":
                raise _refused("only shared images have members")
            self.members.setdefault(image_id, set()).add(project_id)
        self._end("share")

    def put_object(self, name: str, body: Body, *, timeout: float) -> None:
        self._begin("put_object", name)
        content = self._receive(body)
        with self._lock:
            self.objects[name] = content
        self._end("put_object")

    def delete_object(self, name: str) -> None:
        self._begin("delete_object", name)
        with self._lock:
            self.objects.pop(name, None)
        self._end("delete_object")

    def start_import_task(self, name: str, object_name: str) -> Task:
        self._begin("start_import_task", name)
        with self._lock:
            task = self._new_task(TaskState.PENDING, None)
        self._run(lambda: self._make_image(name, object_name, task.id))
        self._end("start_import_task")
        return task

    def get_task(self, task_id: str) -> Task | None:
        self._begin("get_task", task_id)
        with self._lock:
            task = self.all_tasks.get(task_id)
        self._end("get_task")
        return task

    def delete(self, image_id: str) -> None:
        self._begin("delete", image_id)
        with self._lock:
            if image_id in self.in_use:
                raise CloudError(
                    f"image {image_id} is in use",
                    failure_class=FailureClass.CLOUD,
                    hint="Delete the servers and volumes that use it first.",
                    in_use=True,
                )
            if image_id in self.images and self.images[image_id].properties.get("protected") == "true":
                raise CloudError(
                    f"image {image_id} is protected", failure_class=FailureClass.AUTH, hint="Unprotect it."
                )
            self.images.pop(image_id, None)
            self.contents.pop(image_id, None)
            self.staged.pop(image_id, None)
            self.members.pop(image_id, None)
        self._end("delete")

    # -- inside -------------------------------------------------------------------------------

    def _existing(self, image_id: str) -> CloudImage:
        if image_id not in self.images:
            raise _refused(f"no image {image_id}")
        return self.images[image_id]

    def _receive_for(self, image_id: str, body: Body, meanwhile: GlanceStatus) -> bytes:
        """The bytes for a queued image, which is `meanwhile` from now on, and queued again if they break."""
        with self._lock:
            image = self._existing(image_id)
            if image.status is not GlanceStatus.QUEUED:
                raise _refused(f"image {image_id} is {image.status}")
            self.change(image_id, status=meanwhile)
        try:
            return self._receive(body)
        except BaseException:
            with self._lock:
                if image_id in self.images:
                    self.change(image_id, status=GlanceStatus.QUEUED)
            raise

    def _new_task(self, state: TaskState, image_id: str | None) -> Task:
        task = Task(id=str(uuid.uuid4()), state=state, message="", image_id=image_id)
        self.all_tasks[task.id] = task
        return task

    def _end_task(self, task_id: str, message: str, image_id: str | None = None) -> None:
        with self._lock:
            task = self.all_tasks[task_id]
            self.all_tasks[task_id] = replace(
                task,
                state=TaskState.FAILURE if message else TaskState.SUCCESS,
                message=message,
                image_id=image_id or task.image_id,
            )

    def _run(self, work: Callable[[], None]) -> None:
        """Do what the service does by itself: now, or at `finish`."""
        if self.slow:
            with self._lock:
                self._unfinished.append(work)
        else:
            work()

    def _import(self, image_id: str, task_id: str, url: str | None) -> None:
        message = self.import_error
        content = b""
        if not message:
            content, message = self._fetch(url) if url else (self.staged.get(image_id, b""), "")
        with self._lock:
            self.staged.pop(image_id, None)
            if image_id not in self.images:
                message = message or f"no image {image_id}"
            elif message:
                self.change(image_id, status=GlanceStatus.QUEUED, size=None)
            else:
                self._keep(image_id, content)
            self._end_task(task_id, message)

    def _fetch(self, url: str) -> tuple[bytes, str]:
        """What is at a URL, or why it can't be had."""
        if url in self.web:
            return self.web[url], ""
        try:
            with urllib.request.urlopen(url, timeout=GATE_LIMIT) as answer:
                return answer.read(), ""
        except (OSError, urllib.error.URLError) as error:
            return b"", f"{url}: {error}"

    def _make_image(self, name: str, object_name: str, task_id: str) -> None:
        message = self.import_error
        if not message and object_name not in self.objects:
            message = f"no object {object_name}"
        if message:
            self._end_task(task_id, message)
            return
        image = CloudImage(
            id=str(uuid.uuid4()),
            name=name,
            status=GlanceStatus.SAVING,
            size=None,
            hash_algorithm=None,
            hash_value=None,
            checksum=None,
            visibility="private",
            properties={},
            created=datetime.now(UTC),
        )
        with self._lock:
            self.images[image.id] = image
            self._keep(image.id, self.objects[object_name])
            self._end_task(task_id, "", image.id)

    def _receive(self, body: Body) -> bytes:
        content = bytearray()
        while len(content) < len(body):
            if self.break_after is not None and len(content) >= self.break_after:
                raise CloudUnavailableError(
                    "the connection broke off while sending", failure_class=FailureClass.NETWORK
                )
            content += body.read(64 * 1024)
        return bytes(content)

    def _keep(self, image_id: str, content: bytes) -> None:
        with self._lock:
            if image_id not in self.images:
                raise CloudError(f"image {image_id} was deleted meanwhile", failure_class=FailureClass.CLOUD)
            if self.after_send is None:
                del self.images[image_id]
                return
            self.contents[image_id] = content
            stored: dict[str, Any] = {
                "status": GlanceStatus.ACTIVE,
                "size": len(content),
                "hash_algorithm": "sha512",
                "hash_value": hashlib.sha512(content).hexdigest(),
                "checksum": hashlib.md5(content, usedforsecurity=False).hexdigest(),
            }
            self.change(image_id, **{**stored, **self.after_send})

    def _begin(self, method: str, what: str) -> None:
        with self._lock:
            self.calls.append((method, what))
            gate = self._gates.get(method)
        if gate is not None and not gate.wait(GATE_LIMIT):
            raise CloudUnavailableError("nobody opened the gate", failure_class=FailureClass.TIMEOUT)
        self._raise_fault(method, after=False)

    def _end(self, method: str) -> None:
        self._raise_fault(method, after=True)

    def _raise_fault(self, method: str, *, after: bool) -> None:
        with self._lock:
            for fault in self._faults.get(method, []):
                if fault.after is after and fault.times != 0:
                    if fault.times is not None:
                        fault.times -= 1
                    raise fault.error


def _refused(said: str) -> CloudError:
    return CloudError(said, failure_class=FailureClass.CLOUD)
