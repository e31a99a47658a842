"""The image service's records in the fake cloud: made, read, listed, changed, shared and deleted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from tests.fakes.glance.http import FaultyHandler, Route
from tests.fakes.glance.state import ATTRIBUTES, stamp

_TYPED = ("min_disk", "min_ram", "protected", "os_hidden", "tags")
#: What only the service itself may set.
_READ_ONLY = ("id", "status", "size", "checksum", "os_hash_algo", "os_hash_value", "owner", "virtual_size")
_PATCHES = tuple(f"application/openstack-images-v2.{n}-json-patch" for n in (0, 1))


class ImagesHandler(FaultyHandler):
    """Glance's second API without the bytes."""

    def route(self) -> Route:
        match self.segments:
            case ["image", region, *rest] if region in self.state.regions:
                self.region = region
                return self.route_image(rest)
        return super().route()

    def route_image(self, rest: list[str]) -> Route:
        """What is asked of the image service; `rest` is the path below the endpoint."""
        match [self.command, *rest]:
            case ["POST", "v2", "images"]:
                return "create", self._create
            case ["GET", "v2", "images"]:
                return "find", self._find
            case ["GET", "v2", "images", image_id]:
                return "get", lambda: self._get(image_id)
            case ["PATCH", "v2", "images", image_id]:
                return "change", lambda: self._patch(image_id)
            case ["DELETE", "v2", "images", image_id]:
                return "delete", lambda: self._delete(image_id)
            case [_, "v2", "images", image_id, "tags" | "members" as part, *more]:
                return self._route_part(image_id, part, more)
            case ["GET", *more]:
                return self._route_service(more)
        return super().route()

    def _route_part(self, image_id: str, part: str, more: list[str]) -> Route:
        match [self.command, part, *more]:
            case ["PUT" | "DELETE", "tags", tag]:
                return "tag", lambda: self._tag(image_id, tag)
            case ["POST", "members"]:
                return "share", lambda: self._share(image_id)
            case ["GET", "members"]:
                return "members", lambda: self._members(image_id)
        return super().route()

    def _route_service(self, rest: list[str]) -> Route:
        match rest:
            case ["v2", "schemas", "image"]:
                return "schema", self._schema
            case ["v2", "info", what]:
                return ("quota" if what == "usage" else "info"), lambda: self._info(what)
            case [] | ["versions"]:
                return "versions", self._image_versions
        return super().route()

    def image(self, image_id: str) -> dict[str, Any] | None:
        """A copy of an image; None after a 404."""
        with self.state.lock:
            image = self.here.images.get(image_id)
            if image is not None:
                return dict(image)
        self.refuse(404, f"No image found with ID {image_id}")
        return None

    # -- the service --------------------------------------------------------------------------

    def _image_versions(self) -> None:
        href = f"{self.base}/image/{self.region}/v2/"
        version = {"id": "v2.16", "status": "CURRENT", "links": [{"rel": "self", "href": href}]}
        self.json(300, {"versions": [version]})

    def _schema(self) -> None:
        listed = [None, *sorted(self.state.disk_formats)]
        self.json(200, {"name": "image", "properties": {"disk_format": {"enum": listed}}})

    def _info(self, what: str) -> None:
        limits = self.state.quotas
        if what == "import":
            methods = {
                "description": "Import methods available.",
                "type": "array",
                "value": self.state.import_methods,
            }
            self.json(200, {"import-methods": methods})
        elif what == "stores" and self.state.stores:
            stores = [{"id": name} for name in self.state.stores]
            self.json(200, {"stores": [{**stores[0], "default": "true"}, *stores[1:]]})
        elif what == "usage":
            used = self.state.usage(self.region)
            self.json(200, {"usage": {n: {"limit": limits[n], "usage": used[n]} for n in limits}})
        else:
            self.refuse(404, "Multi backend is not supported at this site.")

    # -- images -------------------------------------------------------------------------------

    def _create(self) -> None:
        document = self.document()
        refusal = _type_problem(document) or self.state.over_quota(self.region, "image_count_total", 1)
        if refusal:
            self.refuse(413 if "over" in refusal else 400, refusal)
            return
        image = self.state.new_image(document)
        with self.state.lock:
            self.here.images[image["id"]] = image
        self.after(image["id"])
        headers = {"Location": f"{self.base}/image/{self.region}/v2/images/{image['id']}"}
        if self.state.import_methods:
            headers["OpenStack-image-import-methods"] = ",".join(self.state.import_methods)
        self.json(201, image, headers)

    def _get(self, image_id: str) -> None:
        image = self.image(image_id)
        if image is not None:
            self.json(200, image)

    def _find(self) -> None:
        wanted = {k: v for k, v in self.query.items() if k not in ("limit", "marker", "sort")}
        wanted.setdefault("os_hidden", "false")
        with self.state.lock:
            images = [dict(image) for image in self.here.images.values() if _fits(image, wanted)]
        marker = self.query.get("marker")
        if marker is not None:
            ids = [image["id"] for image in images]
            images = images[ids.index(marker) + 1 :] if marker in ids else []
        page = images[: self.state.page_size]
        document: dict[str, Any] = {"images": page, "schema": "/v2/schemas/images"}
        if len(images) > len(page):
            document["next"] = "/v2/images?" + urlencode({**self.query, "marker": page[-1]["id"]})
        self.json(200, document)

    def _delete(self, image_id: str) -> None:
        image = self.image(image_id)
        if image is None:
            return
        if image["protected"]:
            self.refuse(403, f"Image {image_id} is protected and cannot be deleted.")
        elif image_id in self.state.in_use:
            self.refuse(409, f"Image {image_id} could not be deleted because it is in use: by servers")
        else:
            with self.state.lock:
                self.here.images.pop(image_id, None)
                self.here.staged.pop(image_id, None)
                self.here.members.pop(image_id, None)
            self.after(image_id)
            self.reply(204, b"")

    # -- changes ------------------------------------------------------------------------------

    def _patch(self, image_id: str) -> None:
        steps = self.document()
        image = self.image(image_id)
        if image is None:
            return
        if self.headers.get("Content-Type") not in _PATCHES:
            self.refuse(415, f"Image PATCH expects Content-Type one of: {', '.join(_PATCHES)}")
            return
        for step in steps:
            refusal = _apply(image, step)
            if refusal:
                self.refuse(*refusal)
                return
        with self.state.lock:
            if image_id in self.here.images:
                self.here.images[image_id] = {**image, "updated_at": stamp()}
        self.after(image_id)
        with self.state.lock:
            changed = dict(self.here.images.get(image_id, image))
        self.json(200, changed)

    def _tag(self, image_id: str, tag: str) -> None:
        image = self.image(image_id)
        if image is None:
            return
        if self.command == "DELETE" and tag not in image["tags"]:
            self.refuse(404, f"Tag {tag} not found")
            return
        without = [each for each in image["tags"] if each != tag]
        tags = without if self.command == "DELETE" else [*without, tag]
        self.state.change(image_id, tags=tags)
        self.after(image_id)
        self.reply(204, b"")

    def _share(self, image_id: str) -> None:
        member = self.document().get("member")
        image = self.image(image_id)
        if image is None:
            return
        if image["visibility"] != "shared":
            self.refuse(403, "Only shared images have members.")
            return
        made = {
            "member_id": member,
            "image_id": image_id,
            "status": "pending",
            "schema": "/v2/schemas/member",
        }
        with self.state.lock:
            members = self.here.members.setdefault(image_id, [])
            there = any(each["member_id"] == member for each in members)
            if not there:
                members.append(made)
        if there:
            self.refuse(409, f"The target member {member} is already associated with image {image_id}.")
        else:
            self.after(image_id)
            self.json(200, made)

    def _members(self, image_id: str) -> None:
        if self.image(image_id) is not None:
            with self.state.lock:
                members = list(self.here.members.get(image_id, ()))
            self.json(200, {"members": members, "schema": "/v2/schemas/members"})


def _type_problem(document: Mapping[str, Any]) -> str:
    wrong = [k for k, v in document.items() if k not in _TYPED and not isinstance(v, str)]
    return f"On attribute {wrong[0]!r}: not of type 'string'" if wrong else ""


def _apply(image: dict[str, Any], step: Mapping[str, Any]) -> tuple[int, str] | None:
    """Do one step of a JSON patch; what Glance answers when it refuses."""
    name = str(step["path"]).removeprefix("/").replace("~1", "/").replace("~0", "~")
    if name in _READ_ONLY:
        return 403, f"Attribute '{name}' is read-only."
    if step["op"] != "add" and name not in image:
        return 409, f"Property {name} does not exist."
    if step["op"] == "remove":
        if name in ATTRIBUTES:
            return 403, f"Property {name} may not be removed."
        del image[name]
        return None
    problem = _type_problem({name: step["value"]})
    if problem:
        return 400, problem
    image[name] = step["value"]
    return None


def _fits(image: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    tag = wanted.get("tag")
    plain = {name: value for name, value in wanted.items() if name != "tag"}
    return (tag is None or tag in image["tags"]) and all(
        _text(image.get(name)) == value for name, value in plain.items()
    )


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
