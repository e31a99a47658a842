"""Where a provider's services are, and by which login they are reached."""

from __future__ import annotations

import re
import urllib.request
from dataclasses import dataclass
from urllib.parse import urlsplit

from builder.cloud.openstack.clouds_yaml import Region, region_of
from builder.cloud.openstack.login import Login, Logins
from builder.config.model import Provider
from builder.errors import ConfigError

IMAGE = "image"
OBJECT_STORE = "object-store"


@dataclass(frozen=True, kw_only=True)
class Connection:
    """What clouds.yaml said of a provider's region, and the login shared with the cloud's others."""

    region: Region
    login: Login

    def endpoint(self, service: str) -> str:
        """The URL of a service ("image", "object-store"), without a slash at the end.

        As clouds.yaml says, else as the catalogue: log in before. ConfigError and FOREIGN_ERRORS when
        there is none.
        """
        # No version discovery: when it fails, it guesses, and then every image would seem to be gone.
        url: str | None = self.region.get_endpoint(service) or self.login.session.get_endpoint(
            service_type=service,
            service_name=self.region.get_service_name(service),
            interface=self.region.get_interface(service),
            region_name=self.region.get_region_name(service),
            skip_discovery=True,
        )
        if not url:
            raise ConfigError(
                [
                    f"the catalogue of cloud {self.region.name!r} has no {service} service"
                    f" in region {self.region.get_region_name(service)!r}"
                ]
            )
        base = url.rstrip("/")
        return re.sub(r"/v[0-9.]+$", "", base) + "/v2" if service == IMAGE else base

    @property
    def project_id(self) -> str | None:
        """Our project there; log in before."""
        project: str | None = self.login.session.get_project_id()
        return project


def connect(provider: Provider, logins: Logins, timeout: float) -> Connection:
    """Read clouds.yaml; nothing is sent yet. `timeout`: seconds for each request of a login. ConfigError."""
    _check_proxies()
    region = region_of(provider.cloud, provider.region, authenticate=True, timeout=timeout)
    return Connection(region=region, login=logins.of(region))


def _check_proxies() -> None:
    """ConfigError for a proxy without a host, which requests answers with an error that tells nobody why."""
    for scheme, url in urllib.request.getproxies_environment().items():
        if scheme not in ("http", "https", "all"):
            continue
        try:
            host = urlsplit(url if "://" in url else f"http://{url}").hostname
        except ValueError:
            host = None
        if not host:
            # Not the value: it may have a password.
            raise ConfigError([f"the environment variable {scheme}_proxy names no host"])
