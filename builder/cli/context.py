"""What a command needs of the world: the configuration, the store, the clouds, the clock, who asks.

`Parts` says how each is reached; tests hand in other ones. Nothing is opened before it is asked
for, so that `config validate` needs no ZooKeeper and `--help` nothing at all.
"""

from __future__ import annotations

import getpass
import os
import pkgutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from builder.config.problems import Problems
from builder.config.text import expand, fingerprint, includes_in, read_text, state_dir_in
from builder.errors import ConfigError, UnavailableError
from builder.model import ImageFormat, Snapshot, UploadWish
from builder.store import asking
from builder.store.asking import Told
from builder.store.wire import SERVERS_VARIABLE, Question

if TYPE_CHECKING:
    from builder.cloud.base import Cloud
    from builder.cloud.pool import CloudPool
    from builder.config.model import Config, Provider
    from builder.config.providers import ImageFormatOf
    from builder.store.base import Store

DEFAULT_CONFIG: Final = Path("/etc/imagepool/imagepool.yaml")
CONFIG_VARIABLE: Final = "IMAGEPOOL_CONFIG"
SECURE_VARIABLE: Final = "IMAGEPOOL_SECURE"


#: Where the formats that clouds want are looked up (clouds.yaml, openstacksdk's vendor profiles).
#: Named, not imported: openstacksdk takes longer to import than most commands take to run.
_FORMATS: Final = "builder.cloud.openstack:image_format_of"
#: The real cloud of a provider, and the pool of them; named for the same reason.
_CLOUD: Final = "builder.cloud.openstack:OpenStackCloud"
_POOL: Final = "builder.cloud.pool:CloudPool"
#: What a command needs only when the daemon of this machine doesn't answer, or there is more to do than to
#: list records: a configuration as a whole, and ZooKeeper.
_LOAD: Final = "builder.config.loader:load"
_STORE: Final = "builder.store.zookeeper:ZooKeeperStore"
_EMBEDDED: Final = "builder.store.embedded"
#: Seconds for each request to a cloud: somebody waits for the answer.
CLOUD_TIMEOUT: Final = 10.0


def _cloud_format(cloud: str, region: str | None, /) -> ImageFormat:
    look_up: ImageFormatOf = pkgutil.resolve_name(_FORMATS)
    return look_up(cloud, region)


def _any_format(cloud: str, region: str | None, /) -> ImageFormat:
    return ImageFormat.QCOW2


def _cloud(provider: Provider) -> Cloud:
    make: Callable[..., Cloud] = pkgutil.resolve_name(_CLOUD)
    return make(provider, answer_timeout=CLOUD_TIMEOUT)


def _load(path: Path, secure: Path | None, environ: Mapping[str, str], format_of: ImageFormatOf) -> Config:
    load: Callable[..., Config] = pkgutil.resolve_name(_LOAD)
    return load(path, image_format_of=format_of, environ=environ, secure=secure)


def _open_store(config: Config, environ: Mapping[str, str], watch: bool) -> Store:
    servers = pkgutil.resolve_name(_EMBEDDED).resolve(config, environ)
    if servers is None:
        raise UnavailableError(
            "'imagepool run' isn't running here, and the configuration names no ZooKeeper servers",
            hint=f"Start 'imagepool run', or set zookeeper-servers in {config.path}.",
        )
    return _zookeeper_store(servers, watch=watch)


def _zookeeper_store(servers: Any, *, watch: bool) -> Store:
    make: Callable[..., Store] = pkgutil.resolve_name(_STORE)
    return make(servers, watch=watch)


@contextmanager
def _own_store(config: Config, environ: Mapping[str, str]) -> Iterator[Store]:
    with pkgutil.resolve_name(_EMBEDDED).serving(config, environ) as where:
        yield _zookeeper_store(where, watch=False)


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """How the world is reached.

    `load(path, secure, environ, format_of)` reads the configuration; `open_store(config, environ,
    watch)` returns a store that is not started, `own_store(config, environ)` one for a block, with a private
    server where the daemon would start one; `format_of(cloud, region)` is the format that clouds.yaml
    says, or a ConfigError; `ask(state_dir, question)` is what the daemon of this machine tells, if it does;
    `cloud(provider)` makes a Cloud that is not connected yet; `now()` is the time,
    aware and in UTC; `connect_timeout` is how many seconds a command tries to reach ZooKeeper.
    """

    load: Callable[[Path, Path | None, Mapping[str, str], ImageFormatOf], Config] = _load
    open_store: Callable[[Config, Mapping[str, str], bool], Store] = _open_store
    own_store: Callable[[Config, Mapping[str, str]], AbstractContextManager[Store]] = _own_store
    ask: Callable[[Path, Question], Told | None] = asking.ask
    format_of: ImageFormatOf = _cloud_format
    cloud: Callable[[Provider], Cloud] = _cloud
    now: Callable[[], datetime] = _now
    connect_timeout: float = 15.0
    environ: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Known:
    """All records, and the names that the configuration has, in its order."""

    snapshot: Snapshot
    images: tuple[str, ...]
    providers: tuple[str, ...]


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
        return self._load(path, self._parts.format_of)

    def config_to_show(self, note: Callable[[str], None]) -> Config:
        """The configuration for commands that show what the daemon would do, or look for what is wrong.

        A cloud that clouds.yaml doesn't describe as it should is no reason to show nothing: `note` is told,
        once for each, and such a cloud is taken to want qcow2.
        """
        noted: set[str] = set()

        def forgiving(cloud: str, region: str | None, /) -> ImageFormat:
            try:
                return self._parts.format_of(cloud, region)
            except ConfigError as error:
                if error.message not in noted:
                    noted.add(error.message)
                    meanwhile = f"Its providers are taken to want {ImageFormat.QCOW2}."
                    note(f"{error.message}. {error.hint} {meanwhile}")
                return ImageFormat.QCOW2

        return self._load(None, forgiving)

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

    @cached_property
    def clouds(self) -> CloudPool:
        """The clouds of all providers; none is connected before it is asked something."""
        make: Callable[..., CloudPool] = pkgutil.resolve_name(_POOL)
        return make(self._parts.cloud)

    def knows_cloud(self, cloud: str, region: str | None) -> bool:
        """Whether clouds.yaml has such a cloud and region, whether it answers or not."""
        try:
            self._parts.format_of(cloud, region)
        except ConfigError:
            return False
        return True

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
            store.start(self._parts.connect_timeout)
            yield store
        finally:
            store.close()

    def snapshot(self, config: Config, *, uploads: bool = True) -> Snapshot:
        """All records at this moment, for a command that only reads: from the daemon of this machine, or
        else from ZooKeeper. Raises as `store`. Without `uploads` these may be missing, which is quicker."""
        told = self._ask(config.state_dir, config.fingerprint, uploads) if config.fingerprint else None
        return self._read(config) if told is None else told.snapshot

    def known(self, *, uploads: bool = True) -> Known:
        """The same, and the names that the configuration has; it is loaded only where no daemon answers.

        Raises as `store` and `config_for_records`.
        """
        told = self._ask_unloaded(uploads)
        if told is not None:
            return Known(snapshot=told.snapshot, images=told.images, providers=told.providers)
        config = self.config_for_records()
        images, providers = tuple(config.diskimages), tuple(config.providers)
        return Known(snapshot=self._read(config), images=images, providers=providers)

    def _read(self, config: Config) -> Snapshot:
        with self.store(config) as store:
            return store.snapshot()

    def _ask(self, state_dir: Path, config: str, uploads: bool) -> Told | None:
        servers = self._parts.environ.get(SERVERS_VARIABLE, "")
        return self._parts.ask(state_dir, Question(config=config, servers=servers, uploads=uploads))

    def _ask_unloaded(self, uploads: bool) -> Told | None:
        """What a daemon tells that has the very same configuration, which it need not be known to be sound;
        None as well when that can't be read, as those who load it will say."""
        try:
            text = self._text(self.config_path)
            secure = "" if self.secure is None else self._text(self.secure)
            files = includes_in(text, self.config_path)
            # To open a pipe might take for ever.
            if not all(map(os.path.isfile, files)):
                return None
            included = [self._text(file) for file in files]
        except ConfigError:
            return None
        return self._ask(state_dir_in(text, self.config_path), fingerprint(text, secure, included), uploads)

    def _text(self, file: Path) -> str:
        return expand(read_text(file), file, self._parts.environ, Problems())

    @contextmanager
    def own_store(self, config: Config) -> Iterator[Store]:
        """A started store for what stands in for the daemon and holds its state directory: where none is
        configured, a private server runs meanwhile. Raises as `store`, and ToolMissingError without one."""
        with self._parts.own_store(config, self._parts.environ) as store:
            try:
                store.start(self._parts.connect_timeout)
                yield store
            finally:
                store.close()

    def who(self) -> str:
        """Who asks, as `user@host`; the person behind sudo rather than root."""
        user = self._parts.environ.get("SUDO_USER") or _login_name()
        return f"{user}@{socket.gethostname()}"

    def wish(self, provider: str, why: str, *, wanted: bool) -> UploadWish:
        """What whoever asks wants of a build in a provider, from now on."""
        return UploadWish(provider=provider, wanted=wanted, by=self.who(), time=self.now(), why=why)


def builder_id(config: Config) -> str | None:
    """The id of this machine's images directory, None when it has never built anything."""
    file: Path = config.images_dir / "builder_id.txt"
    with suppress(OSError):
        return file.read_text().strip()
    return None


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container may run under a user id that has no name.
        return str(os.getuid())
