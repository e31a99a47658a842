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
"""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from builder.cloud.base import Body, Cloud, CloudImage, GlanceStatus, NewImage
from builder.errors import CloudError, CloudUnavailableError
from builder.model import FailureClass

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
        self.formats = {"qcow2", "raw", "vhd", "vhdx", "vmdk"}
        self.calls: list[tuple[str, str]] = []
        self.break_after: int | None = None
        self.after_send: Mapping[str, Any] | None = {}
        self._faults: dict[str, list[_Fault]] = {}
        self._gates: dict[str, threading.Event] = {}
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
            self.break_after, self.after_send = None, {}
            gates, self._gates = self._gates, {}
        for gate in gates.values():
            gate.set()

    def hold(self, method: str) -> threading.Event:
        """Let every call of `method` wait until the returned event is set."""
        with self._lock:
            return self._gates.setdefault(method, threading.Event())

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
        )
        with self._lock:
            self.images[made.id] = made
        self._end("create")
        return made

    def send(self, image_id: str, body: Body, *, timeout: float) -> None:
        self._begin("send", image_id)
        with self._lock:
            image = self.images.get(image_id)
        if image is None:
            raise CloudError(f"no image {image_id}", failure_class=FailureClass.CLOUD)
        if image.status is not GlanceStatus.QUEUED:
            raise CloudError(f"image {image_id} is {image.status}", failure_class=FailureClass.CLOUD)
        self.change(image_id, status=GlanceStatus.SAVING)
        try:
            content = self._receive(body)
        except BaseException:
            with self._lock:
                if image_id in self.images:
                    self.change(image_id, status=GlanceStatus.QUEUED)
            raise
        self._keep(image_id, content)
        self._end("send")

    def get(self, image_id: str) -> CloudImage | None:
        self._begin("get", image_id)
        with self._lock:
            image = self.images.get(image_id)
        self._end("get")
        return image

    def find(self, properties: Mapping[str, str]) -> Iterator[CloudImage]:
        self._begin("find", "")
        with self._lock:
            images = list(self.images.values())
        self._end("find")
        return iter([i for i in images if properties.items() <= i.properties.items()])

    def disk_formats(self) -> frozenset[str]:
        self._begin("disk_formats", "")
        self._end("disk_formats")
        return frozenset(self.formats)

    def delete(self, image_id: str) -> None:
        self._begin("delete", image_id)
        with self._lock:
            if image_id in self.in_use:
                raise CloudError(
                    f"image {image_id} is in use",
                    failure_class=FailureClass.CLOUD,
                    hint="Delete the servers and volumes that use it first.",
                )
            if image_id in self.images and self.images[image_id].properties.get("protected") == "true":
                raise CloudError(
                    f"image {image_id} is protected", failure_class=FailureClass.AUTH, hint="Unprotect it."
                )
            self.images.pop(image_id, None)
            self.contents.pop(image_id, None)
        self._end("delete")

    # -- inside -------------------------------------------------------------------------------

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
