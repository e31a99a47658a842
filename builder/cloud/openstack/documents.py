"""Images, changes, tasks, quotas and abilities as Glance writes them in JSON, and as we do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from builder.cloud.base import Change, NewImage, Task, TaskState
from builder.cloud.openstack.failures import short
from builder.cloudimage import CloudImage, GlanceStatus
from builder.ways import SIZE_TOTAL, STAGE_TOTAL, Quota

MIB: Final = 1024**2

_INTEGERS: Final = frozenset({"min_disk", "min_ram"})
_BOOLEANS: Final = frozenset({"protected", "os_hidden"})
#: What Glance tells of an image beside its properties. Names in _INTEGERS and _BOOLEANS may be set
#: like properties, so they are read like properties, too.
_ATTRIBUTES: Final = frozenset(
    {"id", "name", "status", "size", "virtual_size", "checksum", "os_hash_algo", "os_hash_value"}
    | {"visibility", "owner", "tags", "created_at", "updated_at", "container_format", "disk_format"}
    | {"self", "file", "schema", "locations", "direct_url", "stores"}
)


class StrangeError(Exception):
    """A document is not what Glance's API reference says; the text says what it is."""


# -- images ---------------------------------------------------------------------------------------


def of_new_image(image: NewImage) -> dict[str, object]:
    """What creates an image."""
    document: dict[str, object] = {
        "min_disk": image.min_disk,
        **{name: _typed(name, value) for name, value in image.properties.items()},
        "name": image.name,
        "disk_format": image.disk_format,
        "container_format": image.container_format,
        "visibility": image.visibility,
    }
    if image.tags:
        document["tags"] = sorted(image.tags)
    if image.hidden:
        document["os_hidden"] = True
    return document


def of_change(change: Change) -> list[dict[str, object]]:
    """A change as a JSON patch, without the tags, which have requests of their own."""
    wanted = {"name": change.name, "visibility": change.visibility, "os_hidden": change.hidden}
    values: dict[str, object] = {
        **{name: _typed(name, value) for name, value in (change.properties or {}).items()},
        **{name: value for name, value in wanted.items() if value is not None},
    }
    # In version 2.1 of Glance's media type, "add" replaces what is there.
    return [{"op": "add", "path": f"/{_pointer(name)}", "value": value} for name, value in values.items()]


def image(document: Any) -> CloudImage:
    """An image as Glance describes it; StrangeError. What is of another type than the API has counts as
    not told."""
    if not isinstance(document, dict):
        raise StrangeError("an image that is no JSON object")
    missing = [name for name in ("id", "status") if not isinstance(document.get(name), str)]
    if missing:
        raise StrangeError(f"an image without {' and '.join(missing)}")
    return CloudImage(
        id=document["id"],
        name=_string(document.get("name")) or "",
        status=GlanceStatus(document["status"]),
        size=_number(document.get("size")),
        hash_algorithm=_string(document.get("os_hash_algo")),
        hash_value=_string(document.get("os_hash_value")),
        checksum=_string(document.get("checksum")),
        visibility=_string(document.get("visibility")) or "",
        properties={
            name: _text(value)
            for name, value in document.items()
            if name not in _ATTRIBUTES and value is not None
        },
        tags=frozenset(_strings(document.get("tags"))),
        hidden=document.get("os_hidden") is True,
        created=_moment(document.get("created_at")),
        disk_format=_string(document.get("disk_format")),
        min_disk=_number(document.get("min_disk")),
    )


# -- tasks ----------------------------------------------------------------------------------------


def images(page: Mapping[str, Any]) -> list[CloudImage]:
    """The images of one page of a list; StrangeError."""
    return [image(each) for each in _list(page.get("images"))]


def next_page(page: Mapping[str, Any]) -> dict[str, str]:
    """What the page after this one is asked for by; empty after the last."""
    return dict(parse_qsl(urlsplit(_string(page.get("next")) or "").query))


def task(document: Mapping[str, Any]) -> Task:
    """A task, or an import, which is one of an image; StrangeError."""
    if not isinstance(document.get("id"), str):
        raise StrangeError("a task without id")
    state = TaskState(str(document.get("status")))
    result = document.get("result")
    made = result.get("image_id") if isinstance(result, dict) else None
    # While it goes on, some of Glance's imports tell their progress there.
    failed = not state.is_moving and state is not TaskState.SUCCESS
    return Task(
        id=document["id"],
        state=state,
        # It may name a URL that could not be fetched, with the password in it.
        message=short(str(document.get("message") or "")) if failed else "",
        image_id=_string(made) or _string(document.get("image_id")),
    )


def tasks(document: Mapping[str, Any]) -> tuple[Task, ...]:
    """A list of tasks, the newest first; StrangeError."""
    listed = [each for each in _list(document.get("tasks")) if isinstance(each, dict)]
    listed.sort(key=lambda each: str(each.get("created_at") or ""), reverse=True)
    return tuple(task(each) for each in listed)


def import_task(name: str, place: str) -> dict[str, object]:
    """What makes an image of an object; `place` is "container/object"."""
    return {"type": "import", "input": {"import_from": place, "image_properties": {"name": name}}}


# -- what a service can do --------------------------------------------------------------------------


def disk_formats(schema: Mapping[str, Any]) -> frozenset[str]:
    """The formats in the schema of an image: Glance's own configuration is in it."""
    return frozenset(_strings(_at(schema, "properties", "disk_format", "enum")))


def import_methods(document: Mapping[str, Any]) -> frozenset[str]:
    """The names of the ways to import."""
    return frozenset(_strings(_at(document, "import-methods", "value")))


def stores(document: Mapping[str, Any]) -> tuple[str, ...]:
    """The ids of the stores, where there are several."""
    listed = _list(document.get("stores"))
    return tuple(_strings([each.get("id") for each in listed if isinstance(each, dict)]))


def quotas(document: Mapping[str, Any]) -> dict[str, Quota]:
    """The limits of a project by name; sizes come in MiB and go in bytes."""
    usage = _at(document, "usage")
    return dict(_quotas(usage)) if isinstance(usage, dict) else {}


def _quotas(usage: Mapping[str, Any]) -> Iterator[tuple[str, Quota]]:
    for name, told in usage.items():
        limit, used = _at(told, "limit"), _at(told, "usage")
        if isinstance(limit, int) and isinstance(used, int):
            unit = MIB if name in (SIZE_TOTAL, STAGE_TOTAL) else 1
            yield name, Quota(limit=limit * unit if limit >= 0 else -1, used=used * unit)


# -- parts ----------------------------------------------------------------------------------------


def _at(document: Any, *path: str) -> Any:
    for name in path:
        document = document.get(name) if isinstance(document, dict) else None
    return document


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _strings(value: Any) -> Iterator[str]:
    return (each for each in _list(value) if isinstance(each, str))


def _moment(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _pointer(name: str) -> str:
    """A name in a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def _typed(name: str, value: str) -> object:
    """A property in Glance's type: all are strings but a few of its own attributes."""
    if name in _INTEGERS and value.isdigit():
        return int(value)
    if name in _BOOLEANS and value.lower() in ("true", "false"):
        return value.lower() == "true"
    return value


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
