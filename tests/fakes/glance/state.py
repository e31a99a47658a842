"""What the fake cloud remembers: images, staged bytes, tasks, objects, tokens, requests and faults."""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.fakes.glance.faults import Fault

USER, PASSWORD, PROJECT = "imagepool", "kept-in-clouds-yaml", "ci"
PROJECT_ID = "9b1f6f3a0d6c4c5f8a4a0f6b6f0f1c2d"
MIB = 1024**2
#: Attributes that Glance shows with null when they have no value; properties are left out.
ATTRIBUTES = frozenset(
    {"id", "name", "status", "size", "virtual_size", "checksum", "os_hash_algo", "os_hash_value", "os_hidden"}
    | {"protected", "min_disk", "min_ram", "visibility", "owner", "tags", "created_at", "updated_at"}
    | {"container_format", "disk_format"}
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request as the server saw it: `status` is 0 when it was broken off, `body` the bytes read."""

    on: str
    method: str
    path: str
    region: str | None
    status: int
    headers: Mapping[str, str]
    body: int = 0


@dataclass(frozen=True, kw_only=True)
class Content:
    """What is known of bytes that were read to their end: never the bytes themselves."""

    size: int
    sha512: str
    md5: str

    def attributes(self) -> dict[str, Any]:
        """What Glance says of an image with them."""
        return {
            "size": self.size,
            "os_hash_algo": "sha512",
            "os_hash_value": self.sha512,
            "checksum": self.md5,
        }


class Digest:
    """Takes bytes and becomes their Content."""

    def __init__(self) -> None:
        self._sha512, self._md5 = hashlib.sha512(), hashlib.md5(usedforsecurity=False)
        self._size = 0

    def update(self, chunk: bytes) -> None:
        """The next bytes."""
        self._sha512.update(chunk)
        self._md5.update(chunk)
        self._size += len(chunk)

    def content(self) -> Content:
        """All there were."""
        return Content(size=self._size, sha512=self._sha512.hexdigest(), md5=self._md5.hexdigest())


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """An object in Swift: its bytes, or the names of the segments of a large one."""

    data: bytes
    segments: tuple[str, ...]
    headers: Mapping[str, str]  #: as they came, names in lower case


@dataclass
class Region:
    """One region's image service and object store."""

    images: dict[str, dict[str, Any]] = field(default_factory=dict)
    members: dict[str, list[dict[str, str]]] = field(default_factory=dict)  #: by image id
    staged: dict[str, Content] = field(default_factory=dict)  #: by image id
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    objects: dict[str, StoredObject] = field(default_factory=dict)  #: "<container>/<name>"
    containers: set[str] = field(default_factory=set)


class CloudState:
    """The memory of a FakeGlance, with a lock for it. What is public here, tests may set."""

    def __init__(self, regions: Sequence[str], *, token_life: float, page_size: int, swift: bool) -> None:
        self.regions = tuple(regions)
        self.token_life = token_life
        self.page_size = page_size
        self.swift = swift  #: an object store is in the catalogue
        #: That its schema lists.
        self.disk_formats = {"qcow2", "raw", "vhd", "vhdx", "vmdk", "ami", "aki", "ari"}
        self.import_methods = ["glance-direct", "web-download"]
        self.stores = ["fast", "slow"]  #: the first is the default
        #: Glance's names to limits, sizes in MiB; enforced and told when not empty.
        self.quotas: dict[str, int] = {}
        #: Ports that web-download may fetch from; Glance's own default is 80 and 443. None: all.
        self.download_ports: set[int] | None = None
        self.in_use: set[str] = set()  #: ids of images that servers run from
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.lock = threading.RLock()
        self.released = threading.Event()
        self.password = PASSWORD
        self._there: dict[str, Region] = {region: Region() for region in regions}
        self._tokens: dict[str, datetime] = {}

    # -- what tests ask -----------------------------------------------------------------------

    def images(self, region: str | None = None) -> list[dict[str, Any]]:
        """The images of a region, or of all; Glance's own names."""
        with self.lock:
            regions = self.regions if region is None else (region,)
            return [dict(image) for name in regions for image in self._there[name].images.values()]

    def objects(self, region: str | None = None) -> dict[str, StoredObject]:
        """The objects of a region, or of all, by "<container>/<name>"."""
        with self.lock:
            regions = self.regions if region is None else (region,)
            return {key: thing for name in regions for key, thing in self._there[name].objects.items()}

    def staged(self, region: str | None = None) -> list[str]:
        """Ids of the images with staged bytes."""
        with self.lock:
            regions = self.regions if region is None else (region,)
            return [image_id for name in regions for image_id in self._there[name].staged]

    def members(self, image_id: str) -> list[str]:
        """The projects an image was offered to."""
        with self.lock:
            return [m["member_id"] for r in self._there.values() for m in r.members.get(image_id, ())]

    def add(self, region: str, **image: Any) -> str:
        """Put an image there as somebody else would; returns its id."""
        made = self.new_image({"name": "foreign", "disk_format": "qcow2", "status": "active", **image})
        with self.lock:
            self._there[region].images[made["id"]] = made
        return str(made["id"])

    def change(self, image_id: str, **change: Any) -> None:
        """Change an image behind everybody's back."""
        with self.lock:
            for region in self._there.values():
                if image_id in region.images:
                    region.images[image_id].update(change)

    def count(self, on: str, region: str | None = None) -> int:
        """How many requests of a kind came."""
        with self.lock:
            return sum(1 for r in self.requests if r.on == on and region in (None, r.region))

    def revoke_tokens(self) -> None:
        """Every token given so far is worth nothing."""
        with self.lock:
            self._tokens.clear()

    def revoke_token(self, token: str) -> None:
        """One token is worth nothing any more."""
        with self.lock:
            self._tokens.pop(token, None)

    # -- what the handler asks ----------------------------------------------------------------

    def next_fault(self, on: str, region: str | None) -> Fault | None:
        """The first fault that fits, used up once; None when all is well."""
        with self.lock:
            for fault in self.faults:
                if fault.on == on and fault.times != 0 and fault.region in (None, region):
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
            return None

    def new_token(self) -> tuple[str, datetime]:
        """A token and when it ends."""
        token, expires = uuid.uuid4().hex, datetime.now(UTC) + timedelta(seconds=self.token_life)
        with self.lock:
            self._tokens[token] = expires
        return token, expires

    def accepts(self, token: str | None) -> bool:
        """Whether a token is good now."""
        with self.lock:
            expires = self._tokens.get(token or "")
        return expires is not None and expires > datetime.now(UTC)

    def there(self, region: str) -> Region:
        """A region itself; take `lock`."""
        return self._there[region]

    def new_image(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """A new image record as Glance makes it."""
        now = stamp()
        return {
            "id": str(uuid.uuid4()),
            "status": "queued",
            "size": None,
            "checksum": None,
            "os_hash_algo": None,
            "os_hash_value": None,
            "os_hidden": False,
            "protected": False,
            "min_disk": 0,
            "min_ram": 0,
            "visibility": "shared",
            "owner": PROJECT_ID,
            "tags": [],
            "virtual_size": None,
            "created_at": now,
            "updated_at": now,
            **document,
        }

    def record(self, request: Request) -> None:
        """Remember a request."""
        with self.lock:
            self.requests.append(request)

    def object_data(self, region: str, key: str) -> bytes | None:
        """The bytes of an object, its segments put together; None when there is none. Take `lock`."""
        objects = self._there[region].objects
        stored = objects.get(key)
        if stored is None or any(segment not in objects for segment in stored.segments):
            return None
        return stored.data + b"".join(objects[segment].data for segment in stored.segments)

    def over_quota(self, region: str, name: str, more: int = 0) -> str:
        """What Glance says when so much more (MiB or images) is over a limit; "" when it is not."""
        limit, used = self.quotas.get(name, -1), self.usage(region)[name]
        if limit < 0 or used + more <= limit:
            return ""
        return f"Project {PROJECT_ID} is over a limit for [Resource {name} is over limit of {limit} due to"

    def usage(self, region: str) -> dict[str, int]:
        """What is taken of each quota."""
        with self.lock:
            images = list(self._there[region].images.values())
            staged = sum(content.size for content in self._there[region].staged.values())
        return {
            "image_size_total": sum(image["size"] or 0 for image in images) // MIB,
            "image_stage_total": staged // MIB,
            "image_count_total": len(images),
            "image_count_uploading": sum(
                image["status"] in ("saving", "uploading", "importing") for image in images
            ),
        }

    def after(self, fault: Fault | None, region: str, image_id: str) -> None:
        """What a fault does to an image once the work is done."""
        with self.lock:
            images = self._there[region].images
            if fault is None or image_id not in images:
                return
            if fault.do == "lose":
                del images[image_id]
            elif fault.do == "change":
                _change(images[image_id], fault.change)


def _change(image: dict[str, Any], change: Mapping[str, Any]) -> None:
    image.update(change)
    for name, value in change.items():
        if value is None and name not in ATTRIBUTES:
            del image[name]


def stamp() -> str:
    """Now, as Glance writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def task_stamp() -> str:
    """Now, as Glance writes it where it lists an image's tasks."""
    return datetime.now(UTC).replace(tzinfo=None).isoformat()
