"""A Keystone, a Glance and a Swift small enough to break on purpose, for the real openstacksdk to talk to.

One HTTP server on a free loopback port answers for one identity service and, per region, for one
image service and (when asked for) one object store. It keeps the hashes of images, not their bytes.
Healthy by itself; a test adds faults:

    glance = FakeGlance.start(regions=("RegionOne", "RegionTwo"))
    glance.clouds_yaml(tmp_path / "clouds.yaml")         clouds "fake" with both regions
    glance.faults.append(answers(503, on="send", after=0.5))
    glance.faults.append(hangs(on="send", after=1.0))
    ...
    glance.images("RegionOne"); glance.count("send"); glance.stop()

What can be named in `on`:

    auth                                     a login
    create, get, find, change (PATCH),
    tag, share, members, delete              the records of images
    send, stage                              the bytes (PUT)
    import, import-tasks                     the call, and the list of an image's imports
    imported                                 the work after an import or task was accepted
    start-task, task                         the tasks way
    schema, info, quota                      what the service can do, and has room for
    container, object, object-get,
    object-delete                            the object store (swift=True)

`after` is the part of a send's body that is read first: 0.0 none, 0.5 half, 1.0 all of it. A fault
happens `times` times, then no more; `times=None` is for ever. A fault with a `region` leaves the others
alone. Besides, a test may set `quotas`, `in_use`, `import_methods`, `stores`, `download_ports`,
`disk_formats` and `password`. web-download really fetches its URL.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml

from tests.fakes.glance.data import DataHandler
from tests.fakes.glance.faults import (
    Fault,
    answers,
    expires_token,
    fails_import,
    floods,
    hangs,
    loses_answer,
    never_imports,
    resets,
    stores_nothing,
    then_changes,
    then_loses,
    trickles,
)
from tests.fakes.glance.http import Server
from tests.fakes.glance.identity import IdentityHandler
from tests.fakes.glance.state import (
    PASSWORD,
    PROJECT,
    PROJECT_ID,
    USER,
    CloudState,
    Request,
    StoredObject,
)
from tests.fakes.glance.swift import SwiftHandler

__all__ = [
    "PASSWORD",
    "PROJECT",
    "PROJECT_ID",
    "USER",
    "FakeGlance",
    "Fault",
    "Request",
    "StoredObject",
    "answers",
    "expires_token",
    "fails_import",
    "floods",
    "hangs",
    "loses_answer",
    "never_imports",
    "resets",
    "stores_nothing",
    "then_changes",
    "then_loses",
    "trickles",
]


class _Handler(IdentityHandler, DataHandler, SwiftHandler):
    """All services at one port; each passes on what it doesn't know."""


class FakeGlance(CloudState):
    """The server. `requests` has every request answered or broken off, `faults` is the script."""

    def __init__(
        self,
        regions: Sequence[str],
        *,
        token_life: float = 3600.0,
        page_size: int = 25,
        swift: bool = False,
    ) -> None:
        super().__init__(regions, token_life=token_life, page_size=page_size, swift=swift)
        self._server: Server | None = None
        self._thread: threading.Thread | None = None
        self.port = 0

    @classmethod
    def start(cls, regions: Sequence[str] = ("RegionOne", "RegionTwo"), **options: Any) -> Self:
        """A running server on a free port of 127.0.0.1."""
        glance = cls(regions, **options)
        glance.up()
        return glance

    def up(self) -> None:
        """Listen: on a free port the first time, on the same one after `down`."""
        self._server = Server(("127.0.0.1", self.port), self, _Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def down(self) -> None:
        """Refuse connections and drop those there are; images stay."""
        if self._server is None or self._thread is None:
            return
        server, self._server = self._server, None
        server.shutdown()
        server.server_close()
        server.drop_connections()
        self._thread.join(5.0)

    def stop(self) -> None:
        """The end: requests that hang are let go, and nothing listens any more."""
        self.released.set()
        self.down()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def auth_url(self) -> str:
        """The identity endpoint."""
        return f"http://127.0.0.1:{self.port}/identity/v3"

    def clouds_yaml(
        self, path: Path, clouds: Mapping[str, Sequence[str]] | None = None, **settings: Any
    ) -> Path:
        """Write a clouds.yaml with these clouds and their regions ("fake" with all of them by default)."""
        entry = {
            "auth": {
                "auth_url": self.auth_url,
                "username": USER,
                "password": PASSWORD,
                "project_name": PROJECT,
                "user_domain_name": "Default",
                "project_domain_name": "Default",
            },
            "identity_api_version": 3,
            **settings,
        }
        content = {
            name: {**entry, "regions": list(regions)}
            for name, regions in (clouds or {"fake": self.regions}).items()
        }
        path.write_text(yaml.safe_dump({"clouds": content}))
        return path
