"""The two kinds of service: their configuration, their database, their server's command line."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from devcloud import processes
from devcloud.place import KEYSTONE, LOOPBACK, REGIONS, Place, State, glance_name, write_private

_LIBRARY = Path(__file__).resolve().parents[1]

SERVICE_USER = "glance"
SERVICE_PROJECT = "service"

_KEYSTONE_CONF = """\
[DEFAULT]
use_stderr = true
[database]
connection = sqlite:///{home}/keystone.sqlite
[token]
provider = fernet
[fernet_tokens]
key_repository = {home}/fernet-keys
[credential]
key_repository = {home}/credential-keys
[identity]
# The default costs a quarter of a second of CPU at each login.
password_hash_rounds = 4
"""

_GLANCE_CONF = """\
[DEFAULT]
use_stderr = true
enabled_backends = files:file
enabled_import_methods = [glance-direct,web-download]
worker_self_reference_url = {own_url}
[database]
connection = sqlite:///{home}/glance.sqlite
[glance_store]
default_backend = files
[files]
filesystem_store_datadir = {home}/images
[os_glance_staging_store]
filesystem_store_datadir = {home}/staging
[os_glance_tasks_store]
filesystem_store_datadir = {home}/tasks
[import_filtering_opts]
# What is downloaded is served on any port of loopback, which Glance refuses unless it is named.
allowed_hosts = [127.0.0.1]
allowed_ports = []
[paste_deploy]
flavor = keystone
config_file = {paste_file}
[keystone_authtoken]
www_authenticate_uri = {keystone_url}
auth_url = {keystone_url}
auth_type = password
username = {service_user}
password = {service_password}
project_name = {service_project}
user_domain_id = default
project_domain_id = default
region_name = {region}
interface = public
service_token_roles_required = true
[oslo_policy]
# Paths that don't exist: the policy in the code is the one that counts.
policy_file = {home}/policy.yaml
policy_dirs = {home}/policy.d
"""

#: Not by default: with them, Glance asks Keystone a few questions at each creation and upload.
_LIMITS_CONF = """\
[DEFAULT]
use_keystone_limits = true
[oslo_limit]
auth_url = {keystone_url}
auth_type = password
username = {service_user}
password = {service_password}
user_domain_id = default
system_scope = all
endpoint_service_type = image
endpoint_region_name = {region}
"""


@dataclass(frozen=True, kw_only=True)
class Service:
    """What it takes to run one service."""

    name: str
    module: str
    environment: Mapping[str, str]
    processes: int
    threads: int
    configure: Callable[[], bool]  #: write the configuration; returns whether it changed
    create: Callable[[], None]  #: make the database and what else must be there before the start


def all_services(place: Place, state: State) -> tuple[Service, ...]:
    """Keystone, then the image service of each region."""
    return (_keystone(place, state), *(_glance(place, state, region) for region in REGIONS))


def command_line(place: Place, state: State, service: Service) -> list[str]:
    """The uwsgi command that serves a service on its port.

    A kept-alive connection holds a thread until the client leaves or `--socket-timeout` is over,
    hence many threads: a slow or idle client must not keep the others out.
    """
    return [
        place.tool("uwsgi"),
        # --http-socket would close kept-alive connections under the client.
        *("--http11-socket", f"{LOOPBACK}:{state.ports[service.name]}"),
        *("--module", service.module, "--home", str(place.venv)),
        *("--pythonpath", str(_LIBRARY), "--import", "devcloud.sqlite"),
        *("--http-auto-chunked", "--http-chunked-input"),
        *("--master", "--no-orphans", "--die-on-term", "--need-app"),
        *("--lazy-apps", "--enable-threads"),
        *("--processes", str(service.processes), "--threads", str(service.threads)),
        *("--socket-timeout", "60", "--listen", "100", "--buffer-size", "65535"),
        *("--worker-reload-mercy", "5", "--reload-mercy", "5"),
        *("--log-date", "--disable-logging", "--log-5xx"),
        *("--procname-prefix", f"devcloud {service.name} "),
    ]


def _keystone(place: Place, state: State) -> Service:
    home = place.home(KEYSTONE)
    conf = home / "keystone.conf"
    log = place.log(KEYSTONE)

    def manage(*arguments: str, **extra: str) -> None:
        processes.run(
            [place.tool("keystone-manage"), "--config-file", str(conf), *arguments],
            what=f"keystone-manage {arguments[0]}",
            log=log,
            environment=processes.clean_environment(extra),
            timeout=180,
        )

    def create() -> None:
        manage("db_sync")
        _make_concurrent(home / "keystone.sqlite")
        for keys in ("fernet-keys", "credential-keys"):
            (home / keys).mkdir(mode=0o700, exist_ok=True)
        owner = ("--keystone-user", str(home.stat().st_uid), "--keystone-group", str(home.stat().st_gid))
        manage("fernet_setup", *owner)
        manage("credential_setup", *owner)
        # By the environment: arguments are for everyone to read in /proc.
        manage(
            *("bootstrap", "--bootstrap-region-id", REGIONS[0]),
            *("--bootstrap-public-url", place.url(state, KEYSTONE)),
            OS_BOOTSTRAP_PASSWORD=state.admin_password,
        )

    return Service(
        name=KEYSTONE,
        module="keystone.wsgi.api:application",
        environment={"OS_KEYSTONE_CONFIG_FILES": str(conf)},
        processes=1,
        threads=64,
        configure=lambda: write_private(conf, _KEYSTONE_CONF.format(home=home)),
        create=create,
    )


def _glance(place: Place, state: State, region: str) -> Service:
    name = glance_name(region)
    home = place.home(name)
    conf = home / "glance-api.conf"

    def configure() -> bool:
        template = _GLANCE_CONF + (_LIMITS_CONF if region in place.limited else "")
        text = template.format(
            home=home,
            own_url=place.url(state, name),
            paste_file=place.venv / "etc" / "glance" / "glance-api-paste.ini",
            keystone_url=place.url(state, KEYSTONE),
            service_user=SERVICE_USER,
            service_password=state.service_password,
            service_project=SERVICE_PROJECT,
            region=region,
        )
        return write_private(conf, text)

    def create() -> None:
        processes.run(
            [place.tool("glance-manage"), "--config-file", str(conf), "db_sync"],
            what=f"glance-manage db_sync of {region}",
            log=place.log(name),
            environment=processes.clean_environment({}),
            timeout=180,
        )
        _make_concurrent(home / "glance.sqlite")
        for directory in ("images", "staging", "tasks"):
            (home / directory).mkdir(mode=0o700, exist_ok=True)

    return Service(
        name=name,
        module="glance.wsgi.api:application",
        environment={"OS_GLANCE_CONFIG_DIR": str(home)},
        processes=2,
        threads=64,
        configure=configure,
        create=create,
    )


def _make_concurrent(database: Path) -> None:
    """Let readers and a writer work at the same time, or threads meet "database is locked"."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
