"""The command line of tools/quickstart."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

from devcloud.errors import DevCloudError, refusal

from quickstart import steps
from quickstart.place import Quickstart

_LIMIT = 1500.0  #: seconds in all, installing included

_EPILOG = """\
  ./tools/quickstart           install, start and build; a second run reuses what is there
  ./tools/quickstart stop      stop what it started; nothing is deleted
  eval "$(./tools/quickstart env)"   make imagepool and openstack work in this shell

environment:
  QUICKSTART_DIR     where the daemon keeps everything (default: .quickstart of the project)
  DEVCLOUD_DIR, DEVCLOUD_VENV, DEVCLOUD_PORT_BASE    see tools/devcloud --help

exit codes: 0 done, 1 failed (the reason is on stderr), 2 wrong usage
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    started = float(os.environ.get("QUICKSTART_STARTED") or time.time())
    try:
        place = Quickstart.from_environment(os.environ)
        if options.command == "env":
            print("\n".join(steps.exports(place)))
        elif options.command == "stop":
            steps.stop(place, _say)
        else:
            steps.up(place, _say, started=started, deadline=started + _LIMIT)
    except DevCloudError as error:
        print(f"quickstart: {error}", file=sys.stderr)
        return 1
    except PermissionError as error:
        print(f"quickstart: {refusal(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("quickstart: interrupted; the daemon goes on, see ./tools/quickstart stop", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="quickstart",
        description="Build a minimal Debian image and upload it into two regions of a development cloud.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", nargs="?", choices=("up", "stop", "env"), default="up")
    return parser


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
