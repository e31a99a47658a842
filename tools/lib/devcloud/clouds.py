"""The clouds.yaml that openstacksdk and the `openstack` command read."""

from __future__ import annotations

from devcloud.api import Login
from devcloud.identity import admin_login, user_login
from devcloud.place import KEYSTONE, REGIONS, Place, State

CLOUD = "devcloud"
ADMIN_CLOUD = "devcloud-admin"


def clouds_yaml(place: Place, state: State) -> str:
    """Two clouds: `devcloud` as a plain member, `devcloud-admin` as the administrator."""
    url = place.url(state, KEYSTONE)
    return "clouds:\n" + _cloud(CLOUD, url, user_login(state)) + _cloud(ADMIN_CLOUD, url, admin_login(state))


def _cloud(name: str, url: str, login: Login) -> str:
    return f"""\
  {name}:
    auth:
      auth_url: {url}
      username: {login.user}
      password: "{login.password}"
      project_name: {login.project}
      user_domain_name: Default
      project_domain_name: Default
    identity_api_version: 3
    interface: public
    regions: [{", ".join(REGIONS)}]
"""
