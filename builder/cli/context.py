"""What a command needs of the world: the configuration, the store, the clock, who asks.

`Parts` says how each is reached; tests hand in other ones. Nothing is opened before it is asked
for, so that `config validate` needs no ZooKeeper and `--help` nothing at all.
"""

from __future__ import annotations

import getpass
import os
import pkgutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from builder.config import loader
from builder.config.model import Config
from builder.config.providers import ImageFormatOf
from builder.errors import UnavailableError
from builder.model import ImageFormat
from builder.store import embedded
from builder.store.base import Store
from builder.store.zookeeper import ZooKeeperStore

DEFAULT_CONFIG: Final = Path("/etc/imagepool/imagepool.yaml")
CONFIG_VARIABLE: Final = "IMAGEPOOL_CONFIG"
SECURE_VARIABLE: Final = "IMAGEPOOL_SECURE"


#: Where the formats that clouds want are looked up (clouds.yaml, openstacksdk's vendor profiles).
#: Named, not imported: openstacksdk takes longer to import than most commands take to run.
_FORMATS: Final = "builder.cloud.openstack:image_format_of"


def _cloud_format(cloud: str, region: str | None, /) -> ImageFormat:
    look_up: ImageFormatOf = pkgutil.resolve_name(_FORMATS)
    return look_up(cloud, region)


def _any_format(cloud: str, region: str | None, /) -> ImageFormat:
    return ImageFormat.QCOW2


def _load(path: Path, secure: Path | None, environ: Mapping[str, str], format_of: ImageFormatOf) -> Config:
    return loader.load(path, image_format_of=format_of, environ=environ, secure=secure)


def _open_store(config: Config, environ: Mapping[str, str], watch: bool) -> Store:
    servers = embedded.resolve(config, environ)
    if servers is None:
        raise UnavailableError(
            "'imagepool run' isn't running here, and the configuration names no ZooKeeper servers",
            hint=f"Start 'imagepool run', or set zookeeper-servers in {config.path}.",
        )
    return ZooKeeperStore(servers, watch=watch)


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """How the world is reached.

    `load(path, secure, environ, format_of)` reads the configuration; `open_store(config, environ,
    watch)` returns a store that is not started; `now()` is the time, aware and in UTC.
    """

    load: Callable[[Path, Path | None, Mapping[str, str], ImageFormatOf], Config] = _load
    open_store: Callable[[Config, Mapping[str, str], bool], Store] = _open_store
    now: Callable[[], datetime] = _now
    environ: Mapping[str, str]


class Context:
    """The world of one command."""

    def __init__(self, parts: Parts, config_path: Path | None = None, secure: Path | None = None) -> None:
        """`config_path` and `secure` are the options of the command line; the environment is next."""
        environ = parts.environ
        self._parts = parts
        self.config_path = config_path or Path(environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG)
        self.secure = secure or (Path(environ[SECURE_VARIABLE]) if environ.get(SECURE_VARIABLE) else None)

    def config(self, path: Path | None = None) -> Config:
        """The configuration of `path`, by default the one in use; ConfigError with every problem."""
        return self._load(path, _cloud_format)

    def config_for_records(self) -> Config:
        """The configuration, without a look into clouds.yaml: for commands that only show or change
        records. The formats of its images and providers are not to be relied on."""
        return self._load(None, _any_format)

    def _load(self, path: Path | None, format_of: ImageFormatOf) -> Config:
        return self._parts.load(path or self.config_path, self.secure, self._parts.environ, format_of)

    @property
    def environ(self) -> Mapping[str, str]:
        """The environment of the command."""
        return self._parts.environ

    def now(self) -> datetime:
        """The time, aware and in UTC."""
        return self._parts.now()

    @contextmanager
    def store(self, config: Config, *, watch: bool = False) -> Iterator[Store]:
        """A started store, closed at the end; `watch` when it is to be waited on.

        UnavailableError when there is no ZooKeeper to be found, or it does not answer.
        """
        store = self._parts.open_store(config, self._parts.environ, watch)
        try:
            store.start()
            yield store
        finally:
            store.close()

    def who(self) -> str:
        """Who asks, as `user@host`; the person behind sudo rather than root."""
        user = self._parts.environ.get("SUDO_USER") or _login_name()
        return f"{user}@{socket.gethostname()}"


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container may run under a user id that has no name.
        return str(os.getuid())
