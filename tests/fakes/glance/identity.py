"""The identity service of the fake cloud: one user with a password, and a catalogue."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from tests.fakes.glance.http import FaultyHandler, Route
from tests.fakes.glance.state import PROJECT, PROJECT_ID, USER

_REFUSED = "The request you have made requires authentication."


class IdentityHandler(FaultyHandler):
    """Keystone's third API, as far as a login needs it."""

    def route(self) -> Route:
        match [self.command, *self.segments]:
            case ["POST", "identity", "v3", "auth", "tokens"]:
                return "auth", self._auth
            case ["GET", "identity", *_]:
                return "versions", self._identity_versions
        return super().route()

    def _identity_versions(self) -> None:
        version = {
            "id": "v3.14",
            "status": "stable",
            "links": [{"rel": "self", "href": f"{self.base}/identity/v3/"}],
            "media-types": [],
        }
        if self.segments[1:] == ["v3"]:
            self.json(200, {"version": version})
        else:
            self.json(300, {"versions": {"values": [version]}})

    def _auth(self) -> None:
        asked = self.document()["auth"]["identity"]["password"]["user"]
        if (asked.get("name"), asked["password"]) != (USER, self.state.password):
            self.json(401, {"error": {"code": 401, "title": "Unauthorized", "message": _REFUSED}})
            return
        token, expires = self.state.new_token()
        form = "%Y-%m-%dT%H:%M:%S.%fZ"
        document = {
            "methods": ["password"],
            "issued_at": datetime.now(UTC).strftime(form),
            "expires_at": expires.strftime(form),
            "user": {"id": "u", "name": USER, "domain": {"id": "default", "name": "Default"}},
            "project": {"id": PROJECT_ID, "name": PROJECT, "domain": {"id": "default", "name": "Default"}},
            "roles": [{"id": "r", "name": "member"}],
            "catalog": self._catalogue(),
        }
        self.json(201, {"token": document}, {"X-Subject-Token": token})

    def _catalogue(self) -> list[dict[str, object]]:
        image = {region: f"{self.base}/image/{region}" for region in self.state.regions}
        services = [_service("image", "glance", image)]
        if self.state.swift:
            there = {r: f"{self.base}/object/{r}/v1/AUTH_{PROJECT_ID}" for r in self.state.regions}
            services.append(_service("object-store", "swift", there))
        return services


def _service(kind: str, name: str, urls: dict[str, str]) -> dict[str, object]:
    endpoints = [
        {"id": uuid.uuid4().hex, "interface": "public", "region": region, "region_id": region, "url": url}
        for region, url in urls.items()
    ]
    return {"id": name, "type": kind, "name": name, "endpoints": endpoints}
