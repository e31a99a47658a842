"""Install the system packages that a project asks for.

What its bindep.txt (or other-requirements.txt) names for this platform, and is not installed yet, comes from
the packages that this image has cached, without asking any mirror; when something is not there, all of it
comes from the mirrors. A project without such a file gets the image's own list.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from distro_packages.choice import manager
from distro_packages.managers import PackageError

BINDEP = "/usr/local/bin/bindep"
FALLBACK = Path("/usr/share/cache-bindep/fallback.txt")
_FILES = ("bindep.txt", "other-requirements.txt")
#: What bindep says of a system whose packages it can't ask for.
_STRANGE = "Unknown package manager"


def main(argv: Sequence[str]) -> int:
    """Do it; the exit code: 1 when packages can't be had, 2 for a file that is not right."""
    # The job's own is not for the system's programs.
    os.environ.pop("PYTHONPATH", None)
    parser = argparse.ArgumentParser(prog="install-distro-packages", description=__doc__)
    parser.add_argument("directory", nargs="?", type=Path, default=Path(), help="of the project (default: .)")
    parser.add_argument("profiles", nargs="*", default=[], help="of the bindep file (default: none)")
    parser.add_argument("--list", action="store_true", help="only print what would be installed")
    parser.add_argument("--online", action="store_true", help="ask the mirrors even if all of it is cached")
    options = parser.parse_args(argv)
    try:
        file = _file(options.directory)
        names = _names(file, options.profiles)
        if options.list:
            sys.stdout.write("".join(f"{name}\n" for name in names))
        elif not names:
            _say(f"everything that {file} asks for is installed")
        else:
            _install(names, online=options.online)
    except PackageError as error:
        _say(f"ERROR: {error}")
        return 1
    except FileError as error:
        _say(f"ERROR: {error}")
        return 2
    return 0


class FileError(Exception):
    """A bindep file, or the directory of a project, is not what it should be."""


def _say(text: str) -> None:
    sys.stderr.write(f"install-distro-packages: {text}\n")


def _file(directory: Path) -> Path:
    if not directory.is_dir():
        raise FileError(f"{directory} is not a directory")
    found = [directory / name for name in _FILES if (directory / name).is_file()]
    if not found:
        _say(f"{directory} has no {' or '.join(_FILES)}: {FALLBACK} is used")
        return FALLBACK
    if len(found) > 1:
        _say(f"{directory} has both {' and '.join(_FILES)}: {found[0].name} is used")
    return found[0]


def _names(file: Path, profiles: Sequence[str]) -> list[str]:
    """What the file asks for and the system doesn't have. Raises FileError, PackageError."""
    # Without any, bindep takes the profile "default".
    chosen = profiles or ["default"]
    done = _bindep("--brief", f"--file={file}", "--", *chosen)
    if _STRANGE in done.stderr:
        done = _bindep(
            "--list_all=newline", f"--file={file}", "--", *chosen, "platform:rpm", "platform:redhat"
        )
    names = done.stdout.split()
    if done.returncode != 0 and not names:
        # Of what is installed in another version than asked for, it speaks only when it may be longer.
        more = done if done.stderr.strip() else _bindep(f"--file={file}", "--", *chosen)
        raise FileError(f"{file}: {' '.join((more.stderr or more.stdout).split())[-500:]}")
    pattern = manager().name
    strange = [name for name in names if not pattern.fullmatch(name)]
    if strange:
        raise FileError(f"{file} names what is no package: {' '.join(map(ascii, strange))}")
    return sorted(set(names))


def _bindep(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BINDEP, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


def _install(names: Sequence[str], *, online: bool) -> None:
    packages = manager()
    _say(f"{len(names)} packages: {' '.join(names)}")
    if not online:
        if packages.install_cached(names):
            _say("installed from what this image has cached")
            return
        _say("not all of them, with what they need, are cached in this image: the mirrors are asked")
    packages.install(names)
    _say("installed with what the mirrors have")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
