"""The object store of the fake cloud: containers, objects, and large objects made of segments."""

from __future__ import annotations

import hashlib
import json

from tests.fakes.glance.http import FaultyHandler, ResetError, Route
from tests.fakes.glance.state import PROJECT_ID, StoredObject


class SwiftHandler(FaultyHandler):
    """Swift's first API, as far as an upload needs it; every header of an object is kept."""

    def route(self) -> Route:
        match self.segments:
            case ["object", region, "info"] if region in self.state.regions:
                return "object-info", self._capabilities
            case ["object", region, "v1", account, *rest] if (
                region in self.state.regions and account == f"AUTH_{PROJECT_ID}" and self.state.swift
            ):
                self.region = region
                return self._route_object(rest)
        return super().route()

    def _route_object(self, rest: list[str]) -> Route:
        key = "/".join(rest)
        match [self.command, len(rest)]:
            case ["PUT", 1]:
                return "container", lambda: self._make_container(key)
            case ["GET" | "HEAD", 0 | 1]:
                return "container", lambda: self._list_objects(key)
            case ["PUT", _]:
                return "object", lambda: self._put_object(rest[0], key)
            case ["GET" | "HEAD", _]:
                return "object-get", lambda: self._get_object(key)
            case ["DELETE", _]:
                return "object-delete", lambda: self._delete_object(key)
        return super().route()

    def _capabilities(self) -> None:
        limits = {"swift": {"max_file_size": 5 * 1024**3}, "slo": {"min_segment_size": 1}}
        self.json(200, limits)

    def _make_container(self, name: str) -> None:
        with self.state.lock:
            there = name in self.here.containers
            self.here.containers.add(name)
        self.reply(202 if there else 201, b"")

    def _list_objects(self, container: str) -> None:
        prefix = f"{container}/{self.query.get('prefix', '')}"
        with self.state.lock:
            known = not container or container in self.here.containers
            names = [key for key in self.here.objects if key.startswith(prefix)]
        if not known:
            self.refuse(404, "The resource could not be found.")
        else:
            self.json(200, [{"name": key.partition("/")[2]} for key in names])

    def _put_object(self, container: str, key: str) -> None:
        received = bytearray()
        complete = self.read_exactly(self.length(), received.extend)
        if not complete:
            raise ResetError
        data = bytes(received)
        headers = {name.lower(): value for name, value in self.headers.items()}
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if headers.get("etag", etag).strip('"') not in (etag, ""):
            self.refuse(422, "The etag is not the body's.")
            return
        manifest = self.query.get("multipart-manifest") == "put"
        segments = tuple(s["path"].lstrip("/") for s in json.loads(data)) if manifest else ()
        with self.state.lock:
            known = container in self.here.containers
            missing = [segment for segment in segments if segment not in self.here.objects]
            if known and not missing:
                content = b"" if manifest else data
                self.here.objects[key] = StoredObject(data=content, segments=segments, headers=headers)
        if not known:
            self.refuse(404, "The resource could not be found.")
        elif missing:
            self.refuse(400, f"Errors: {missing[0]}, 404 Not Found")
        else:
            self._answer_done(201, {"Etag": etag})

    def _answer_done(self, status: int, headers: dict[str, str]) -> None:
        if self.fault is not None and self.fault.do == "mute":
            raise ResetError
        self.reply(status, b"", headers)

    def _get_object(self, key: str) -> None:
        with self.state.lock:
            data = self.state.object_data(self.region, key)
            stored = self.here.objects.get(key)
        if data is None or stored is None:
            self.refuse(404, "The resource could not be found.")
            return
        kept = {n: v for n, v in stored.headers.items() if n.startswith(("x-object-meta-", "x-delete"))}
        self.reply(200, data, kept)

    def _delete_object(self, key: str) -> None:
        with self.state.lock:
            gone = self.here.objects.pop(key, None)
            if gone is not None and self.query.get("multipart-manifest") == "delete":
                for segment in gone.segments:
                    self.here.objects.pop(segment, None)
        if gone is None:
            self.refuse(404, "The resource could not be found.")
        elif self.query.get("multipart-manifest") == "delete":
            self.json(200, {"Number Deleted": 1 + len(gone.segments), "Errors": []})
        else:
            self._answer_done(204, {})
