"""Makes bindep one file that runs with any Python of an image, and keeps it."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
import zipapp
from collections.abc import Callable
from pathlib import Path

#: The oldest Python of an image; what is packed is the same for all.
_PYTHON = "3.9"
#: Packages that come along and that bindep runs without.
_NEEDLESS = ("_distutils_hack", "bin", "setuptools", "setuptools-*")
_MAIN = "import sys\n\nfrom bindep.__main__ import main\n\nsys.exit(main())\n"
#: Seconds for the package index.
_TIMEOUT = 300.0


class ToolError(Exception):
    """There is no bindep to be had."""


def tool(cache: Path, requirement: str, *, days: float, offline: bool, say: Callable[[str], None]) -> Path:
    """The file; asked for anew from the package index when it is older than so many days.

    Raises ToolError when there is none and none can be made.
    """
    file = cache / f"bindep-{hashlib.sha256(requirement.encode()).hexdigest()[:16]}.pyz"
    if file.exists() and (offline or time.time() - file.stat().st_mtime < days * 86400):
        return file
    try:
        if offline:
            raise ToolError("DIB_OFFLINE is set, and there is no bindep in the cache")
        _make(file, requirement)
    except ToolError as error:
        if not file.exists():
            raise
        say(f"WARNING: the bindep of last time is used: {error}")
    return file


def _make(file: Path, requirement: str) -> None:
    with tempfile.TemporaryDirectory(prefix="bindep-", dir=file.parent) as name:
        place = Path(name) / "tree"
        try:
            done = subprocess.run(
                [
                    *(sys.executable, "-I", "-m", "pip", "install", "--quiet", "--no-compile", "--no-input"),
                    *("--disable-pip-version-check", "--python-version", _PYTHON, "--only-binary=:all:"),
                    *("--target", str(place), "--", requirement),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ToolError(f"the package index took longer than {_TIMEOUT:.0f} s") from None
        if done.returncode != 0:
            lines = [line for line in done.stdout.splitlines() if "ERROR" in line or "No module" in line]
            raise ToolError(f"pip can't get {requirement}: {' '.join(lines)[-500:] or done.returncode}")
        for pattern in _NEEDLESS:
            for found in place.glob(pattern):
                shutil.rmtree(found)
        for found in place.glob("*.pth"):
            found.unlink()
        (place / "__main__.py").write_text(_MAIN)
        new = Path(name) / "bindep.pyz"
        zipapp.create_archive(place, new, interpreter="/usr/bin/python3", compressed=True)
        new.chmod(0o755)
        new.replace(file)
