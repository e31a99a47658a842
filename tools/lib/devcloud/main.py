"""The command line of tools/devcloud."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from devcloud import cloud
from devcloud.errors import DevCloudError, refusal
from devcloud.place import REGIONS, Place, State

_PROJECT = Path(__file__).resolve().parents[3]

_EPILOG = """\
environment:
  DEVCLOUD_DIR        where this cloud keeps everything (default: .devcloud of the project)
  DEVCLOUD_VENV       the virtual environment with Keystone and Glance, which several clouds
                      may share (default: .devcloud/venv of the project)
  DEVCLOUD_PORT_BASE  the first of three ports (default: free ones, kept from then on)
  DEVCLOUD_LIMITS     the regions where Glance has limits for projects (default: none)

exit codes: 0 all is as asked, 1 it isn't (the reason is on stderr), 2 wrong usage
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        place = Place.from_environment(os.environ, _PROJECT)
        code: int = options.command(place, options)
    except DevCloudError as error:
        print(f"devcloud: {error}", file=sys.stderr)
        return 1
    except PermissionError as error:
        print(f"devcloud: {refusal(error)}", file=sys.stderr)
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="devcloud",
        description="A development cloud on loopback: real Keystone and Glance, "
        f"regions {' and '.join(REGIONS)}, SQLite and files. "
        'Clients use clouds.yaml in its directory: cloud "devcloud", or "devcloud-admin".',
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("up", help="start what doesn't run; repeat as you like").set_defaults(command=_up)
    down = commands.add_parser("down", help="stop what this tool started")
    down.add_argument("--purge", action="store_true", help="remove images, databases and passwords too")
    down.set_defaults(command=_down)
    commands.add_parser("status", help="show whether each service answers").set_defaults(command=_status)
    commands.add_parser("install", help="make the virtual environment only").set_defaults(command=_install)
    return parser


def _say(text: str) -> None:
    print(text, flush=True)


def _install(place: Place, _options: argparse.Namespace) -> int:
    cloud.install(place, _say)
    return 0


def _up(place: Place, options: argparse.Namespace) -> int:
    started = time.monotonic()
    cloud.up(place, _say)
    _say(f"up after {time.monotonic() - started:.1f} s; clients: OS_CLIENT_CONFIG_FILE={place.clouds_file}")
    return _status(place, options)


def _down(place: Place, options: argparse.Namespace) -> int:
    cloud.down(place, purge=options.purge, say=_say)
    return 0


def _status(place: Place, _options: argparse.Namespace) -> int:
    state = State.load(place)
    if state is None:
        raise DevCloudError(f"there is no cloud in {place.root}; make one with: devcloud up")
    services = cloud.health(place, state)
    for service in services:
        _say(f"{service.name:<18} {service.url:<28} {service.trouble or 'up'}")
    return 1 if any(service.trouble for service in services) else 0
