"""Bring the development cloud up, down, and tell how it is."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

from devcloud import processes
from devcloud.api import ApiError, Session, ask
from devcloud.clouds import clouds_yaml
from devcloud.errors import DevCloudError
from devcloud.identity import reconcile, user_login
from devcloud.place import (
    KEYSTONE,
    REGIONS,
    SERVICES,
    Place,
    State,
    choose_ports,
    glance_name,
    locked,
    port_is_free,
    write_private,
)
from devcloud.services import Service, all_services, command_line

_REQUIREMENTS = Path(__file__).with_name("requirements.txt")
_START_TIMEOUT = 90.0  #: seconds from the start of a server to its first answer
_INSTALL_TIMEOUT = 900.0

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Health:
    """One service as a client sees it; `trouble` is None when a member's request was answered."""

    name: str
    url: str
    trouble: str | None


def install(place: Place, say: Say) -> None:
    """Make the virtual environment, once per version of the requirements; DevCloudError shows pip's log."""
    # By default this is the cloud's own directory, which will hold passwords.
    place.venv.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    stamp = place.venv / "devcloud-requirements.txt"
    log = place.venv.parent / f"{place.venv.name}-install.log"
    # Several clouds may share it, and start at the same time.
    with locked(place.venv.parent / f"{place.venv.name}.lock", _INSTALL_TIMEOUT):
        if stamp.exists() and stamp.read_text() == _REQUIREMENTS.read_text():
            return
        say(f"installing Keystone and Glance into {place.venv} (about a minute)")
        environment = processes.caller_environment()
        if not (place.venv / "bin" / "pip").exists():
            processes.run(
                [sys.executable, "-m", "venv", str(place.venv)],
                what="python3 -m venv (Debian: package python3-venv)",
                log=log,
                environment=environment,
                timeout=120,
            )
        # uwsgi has the Python in it that it was compiled for, and pip's cache tells two Pythons of one
        # version on one machine not apart: so it is compiled each time, and the rest comes from the cache.
        uwsgi = next(line for line in _REQUIREMENTS.read_text().splitlines() if line.startswith("uwsgi"))
        for what in (["--no-cache-dir", uwsgi], ["--requirement", str(_REQUIREMENTS)]):
            processes.run(
                [place.tool("pip"), "install", *what],
                what="pip install of Keystone and Glance (bindep.txt, profile devcloud, has what it needs)",
                log=log,
                environment=environment,
                timeout=_INSTALL_TIMEOUT,
            )
        stamp.write_text(_REQUIREMENTS.read_text())


def up(place: Place, say: Say) -> None:
    """Make the cloud answer in every region, reusing what works; DevCloudError shows the log if not."""
    install(place, say)
    with place.lock():
        state = State.load(place) or State.new(place)
        _move_ports(place, state)
        _change_limits(place, state)
        if not any(one.trouble for one in health(place, state)):
            return
        place.create()
        state.save(place)
        _start_what_is_down(place, state, say)
        reconcile(place, state)
        write_private(place.clouds_file, clouds_yaml(place, state))
        _wait_for_users(place, state)


def down(place: Place, *, purge: bool, say: Say) -> None:
    """Stop this cloud's servers; with `purge` remove its data too (the virtual environment stays)."""
    if not place.root.exists():
        say(f"nothing to stop: {place.root} doesn't exist")
        return
    with place.lock():
        if (state := State.load(place)) is not None:
            processes.stop(state.running.values())
            state.running.clear()
            state.save(place)
        if purge:
            _remove_data(place)
    say("stopped, data removed" if purge else "stopped; the data is kept")


def health(place: Place, state: State) -> tuple[Health, ...]:
    """How each service answers an ordinary user right now."""
    session, trouble = None, None
    # Whoever listens on a port that was ours must not get the password.
    if _is_alive(state, KEYSTONE):
        try:
            session = Session(place.url(state, KEYSTONE), user_login(state))
        except ApiError as error:
            trouble = f"no token: {error}"
    else:
        trouble = f"no token: {KEYSTONE} is not running"
    answers = [_health(place, state, KEYSTONE, trouble)]
    for name in map(glance_name, REGIONS):
        if session is not None and _is_alive(state, name):
            trouble = _trouble_of(session.get, f"{place.url(state, name)}/v2/images?limit=1")
        answers.append(_health(place, state, name, trouble))
    return tuple(answers)


def _health(place: Place, state: State, name: str, trouble: str | None) -> Health:
    # Its answer doesn't count without the process: another server may listen on a port that was ours.
    alive = _is_alive(state, name)
    return Health(name=name, url=place.url(state, name), trouble=trouble if alive else "not running")


def _is_alive(state: State, name: str) -> bool:
    process = state.running.get(name)
    return process is not None and processes.is_alive(process)


def _trouble_of(ask: Callable[[str], object], url: str) -> str | None:
    try:
        ask(url)
    except ApiError as error:
        return str(error)
    return None


def _move_ports(place: Place, state: State) -> None:
    """Go to the ports of DEVCLOUD_PORT_BASE when the cloud was made with others."""
    if place.port_base is not None and state.ports != choose_ports(place):
        processes.stop(state.running.values())
        state.running.clear()
        state.ports = choose_ports(place)


def _change_limits(place: Place, state: State) -> None:
    """Stop the image services that have limits and shall have none, or the other way round."""
    changed = map(glance_name, set(place.limited).symmetric_difference(state.limited))
    processes.stop(state.running.pop(name) for name in list(changed) if name in state.running)
    state.limited = list(place.limited)


def _start_what_is_down(place: Place, state: State, say: Say) -> None:
    down = [name for name in SERVICES if not _serves(place, state, name)]
    processes.stop(state.running.pop(name) for name in down if name in state.running)
    _replace_taken_ports(place, state, down)
    services = all_services(place, state)
    changed = {service.name for service in services if service.configure()}
    processes.stop(state.running.pop(name) for name in changed.difference(down))
    starting = [service for service in services if service.name in changed.union(down)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(_create_once, repeat(place), starting))
    for service in starting:
        say(f"starting {service.name} on port {state.ports[service.name]}")
        state.running[service.name] = processes.start(
            command_line(place, state, service),
            service.environment,
            place.log(service.name),
            place.home(service.name),
        )
        state.save(place)
    deadline = time.monotonic() + _START_TIMEOUT
    for service in starting:
        _wait_for_answer(place, state, service.name, deadline)


def _serves(place: Place, state: State, name: str) -> bool:
    return _is_alive(state, name) and _first_answer(place, state, name) is None


def _first_answer(place: Place, state: State, name: str) -> str | None:
    """What is wrong with a service's list of versions, which needs no login."""
    path = "" if name == KEYSTONE else "/versions"
    return _trouble_of(ask, place.url(state, name) + path)


def _replace_taken_ports(place: Place, state: State, names: Sequence[str]) -> None:
    """Another port for each service that can't have its old one back."""
    free = choose_ports(place)
    for name in names:
        if _becomes_free(state.ports[name]):
            continue
        if place.port_base is not None:
            raise DevCloudError(
                f"port {state.ports[name]} for {name} is taken; choose another DEVCLOUD_PORT_BASE"
            )
        state.ports[name] = free[name]


def _becomes_free(port: int, timeout: float = 5.0) -> bool:
    """Whether the port is free within `timeout` seconds: workers end a moment after a killed master."""
    deadline = time.monotonic() + timeout
    while not port_is_free(port):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _create_once(place: Place, service: Service) -> None:
    marker = place.home(service.name) / "created"
    if not marker.exists():
        service.create()
        marker.touch()


def _wait_for_answer(place: Place, state: State, name: str, deadline: float) -> None:
    log = place.log(name)
    while trouble := _first_answer(place, state, name):
        if not processes.is_alive(state.running[name]):
            raise DevCloudError(f"{name} ended while starting\n{processes.tail(log)}")
        if time.monotonic() > deadline:
            raise DevCloudError(
                f"{name} doesn't answer after {_START_TIMEOUT:.0f} s: {trouble}\n{processes.tail(log)}"
            )
        time.sleep(0.2)


def _wait_for_users(place: Place, state: State) -> None:
    """Until a member's request is answered everywhere."""
    deadline = time.monotonic() + _START_TIMEOUT
    while sick := [one for one in health(place, state) if one.trouble]:
        if time.monotonic() > deadline:
            log = processes.tail(place.log(sick[0].name))
            raise DevCloudError(f"{sick[0].name} refuses an ordinary user: {sick[0].trouble}\n{log}")
        time.sleep(0.5)


def _remove_data(place: Place) -> None:
    """Everything this tool made below the root, but not a virtual environment that lives there too."""
    for directory in (place.root / "log", *map(place.home, SERVICES)):
        shutil.rmtree(directory, ignore_errors=True)
    for file in (place.clouds_file, place.state_file):
        file.unlink(missing_ok=True)
