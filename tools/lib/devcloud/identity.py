"""What has to be in Keystone: regions, endpoints, projects, users, roles. Safe to do again and again."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from devcloud.api import Login, Session
from devcloud.place import KEYSTONE, REGIONS, Place, State, glance_name
from devcloud.services import SERVICE_PROJECT, SERVICE_USER

USER = "imagepool"
PROJECT = "imagepool"
#: What a project may have in a region with limits, by Glance's names; sizes in MiB.
LIMITS = {
    "image_size_total": 1_000_000,
    "image_stage_total": 1_000_000,
    "image_count_total": 10_000,
    "image_count_uploading": 1_000,
}
_DOMAIN = "default"


def admin_login(state: State) -> Login:
    """The cloud's administrator."""
    return Login(user="admin", password=state.admin_password, project="admin")


def user_login(state: State) -> Login:
    """A plain member of a project, as a CI system would be."""
    return Login(user=USER, password=state.user_password, project=PROJECT)


def reconcile(place: Place, state: State) -> None:
    """Make Keystone's catalogue and users what `state` says; ApiError when Keystone refuses."""
    session = Session(place.url(state, KEYSTONE), admin_login(state))
    for region in REGIONS:
        _region(session, region)
    identity = _ensure(session, "service", {"type": "identity", "name": "keystone"}, match=("type",))
    image = _ensure(session, "service", {"type": "image", "name": "glance"}, match=("type",))
    for region in REGIONS:
        _endpoint(session, identity, region, place.url(state, KEYSTONE))
        _endpoint(session, image, region, place.url(state, glance_name(region)))
    for region in place.limited:
        _limits(session, image, region)
    glance = _user(session, SERVICE_USER, state.service_password, SERVICE_PROJECT, ("admin", "service"))
    # To read everybody's limits.
    session.send("PUT", f"/system/users/{glance}/roles/{_role(session, 'reader')}")
    _user(session, USER, state.user_password, PROJECT, ("member",))


def _region(session: Session, name: str) -> None:
    if all(region["id"] != name for region in session.get("/regions")["regions"]):
        session.send("PUT", f"/regions/{name}", {"region": {"description": "development"}})


def _endpoint(session: Session, service: str, region: str, url: str) -> None:
    wanted = {"service_id": service, "region_id": region, "interface": "public", "url": url}
    _ensure(session, "endpoint", wanted, match=("service_id", "region_id", "interface"))


def _limits(session: Session, service: str, region: str) -> None:
    query = urlencode({"service_id": service, "region_id": region})
    known = session.get(f"/registered_limits?{query}")["registered_limits"]
    missing = LIMITS.keys() - {limit["resource_name"] for limit in known}
    new = [
        {"service_id": service, "region_id": region, "resource_name": name, "default_limit": LIMITS[name]}
        for name in sorted(missing)
    ]
    if new:
        session.send("POST", "/registered_limits", {"registered_limits": new})


def _user(session: Session, name: str, password: str, project: str, roles: tuple[str, ...]) -> str:
    """Make a user with roles in a project; returns its id."""
    project_id = _ensure(
        session, "project", {"name": project, "domain_id": _DOMAIN}, match=("name", "domain_id")
    )
    user = {"name": name, "domain_id": _DOMAIN, "password": password}
    user_id = _ensure(session, "user", user, match=("name", "domain_id"))
    for role in roles:
        session.send("PUT", f"/projects/{project_id}/users/{user_id}/roles/{_role(session, role)}")
    return user_id


def _role(session: Session, name: str) -> str:
    return str(session.get(f"/roles?{urlencode({'name': name})}")["roles"][0]["id"])


def _ensure(session: Session, kind: str, wanted: dict[str, Any], match: tuple[str, ...]) -> str:
    """Create what isn't there, change what differs; returns its id. `match`: the keys that identify it."""
    query = urlencode({key: wanted[key] for key in match})
    found = session.get(f"/{kind}s?{query}")[f"{kind}s"]
    if not found:
        made: str = session.send("POST", f"/{kind}s", {kind: wanted})[kind]["id"]
        return made
    current = found[0]
    # A password never comes back, so it always differs; Keystone accepts the same one again.
    if changed := {key: value for key, value in wanted.items() if current.get(key) != value}:
        session.send("PATCH", f"/{kind}s/{current['id']}", {kind: changed})
    return str(current["id"])
