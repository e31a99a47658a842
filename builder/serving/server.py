"""The artifact server, from which clouds fetch the files that they shall import.

It serves what is offered, for as long as it is offered, to whoever knows the address; it lists nothing,
takes nothing, and knows no directories. By default Glance fetches from ports 80 and 443 only
(`import_filtering_opts` of glance-image-import.conf), so a proxy may stand before it: it may put any prefix
before the path, and its own URL prefix is then the `url` here.
"""

from __future__ import annotations

import logging
import socket
import threading
from pathlib import Path
from typing import Final
from urllib.parse import quote

from builder.errors import UnavailableError
from builder.serving.http import REQUEST_TIMEOUT, HttpServer
from builder.serving.offers import Offers, Token

LOG = logging.getLogger(__name__)

#: Seconds that the thread has to begin, and to end.
_PATIENCE: Final = 10.0


class ArtifactServer:
    """Serves offered files over HTTP, in a thread of its own.

    `host` and `port` are where it listens; port 0 is any that is free. `url` is the prefix, ending in "/",
    by which clouds reach it; None when that is its own address. Clients have `request_timeout` seconds
    to say what they want.
    """

    def __init__(
        self, host: str, port: int, url: str | None = None, *, request_timeout: float = REQUEST_TIMEOUT
    ) -> None:
        self._host = host
        self._port = port
        self._url = url
        self._request_timeout = request_timeout
        self._offers = Offers()
        self._server: HttpServer | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen and serve; UnavailableError when that can't be."""
        listener = self._listen()
        self._port = int(listener.getsockname()[1])
        self._server = HttpServer(self._offers, request_timeout=self._request_timeout)
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="artifact-server", daemon=True
        )
        self._thread.start()
        if not self._server.ready.wait(_PATIENCE):
            self.stop()
            raise UnavailableError(f"the artifact server on {self._place} does not begin to serve")
        LOG.info("the artifact server listens on %s", self._place)

    def stop(self) -> None:
        """End all offers and break off all transfers; in seconds. May be called twice."""
        server, self._server = self._server, None
        thread, self._thread = self._thread, None
        self._offers.clear()
        if server is None or thread is None:
            return
        server.end()
        thread.join(_PATIENCE)
        if thread.is_alive():
            LOG.warning("the artifact server on %s takes long to end, and is left behind", self._place)

    @property
    def url(self) -> str:
        """What the address of everything on offer begins with."""
        return f"http://{self._place}/" if self._url is None else self._url

    def offer(self, path: Path) -> str:
        """Serve a file until it is withdrawn; returns its URL, which is a secret.

        The file that is there now is served, whatever takes its name later. Raises NotFoundError when it is
        none that can be read, UnavailableError when the server does not run.
        """
        if self._thread is None or not self._thread.is_alive():
            raise UnavailableError(f"the artifact server on {self._place} does not run")
        token = self._offers.add(path)
        return f"{self.url}{token.text}/{quote(path.name)}"

    def withdraw(self, url: str) -> None:
        """Serve that no longer, and break off who is fetching it; no error when it is not on offer."""
        pieces = ["", "", *url.split("/")]
        offer = self._offers.remove(Token(text=pieces[-2]))
        if offer is None:
            return
        if self._server is not None:
            self._server.cut(offer)
        offer.drop()

    @property
    def _place(self) -> str:
        return f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"

    def _listen(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        try:
            return socket.create_server((self._host, self._port), family=family)
        except OSError as error:
            raise UnavailableError(
                f"the artifact server can't listen on {self._place}: {error}",
                hint="Check artifact-server in the configuration, and what else listens there.",
            ) from error
