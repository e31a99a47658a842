"""Runs single hooks of elements: outside as on a building machine, inside on a tree that may be changed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.elements.trees import LIMIT, PROJECT, Tree

_ALL: Final = (
    'cd "$0"; for file in environment.d/*; do [ ! -e "$file" ] || . "./$file"; done; '
    'for hook in "$1"/[0-9]*; do "./$hook" || exit; done'
)
#: What diskimage-builder itself tells all hooks.
_BUILD: Final = {
    "ARCH": "amd64",
    "DIB_IMAGE_NAME": "tree",
    "DIB_PYTHON_EXEC": sys.executable,
    "DIB_RELEASE": "bookworm",
    "DISTRO_NAME": "debian",
    "IMAGE_ELEMENT": "one two",
    "IMAGE_NAME": "tree",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
}


class Hooks:
    """The hooks of some elements, laid out in a directory as a build does it."""

    def __init__(self, place: Path, *elements: str) -> None:
        self.place = place
        for element in elements:
            shutil.copytree(PROJECT / "elements" / element, place, dirs_exist_ok=True)

    def outside(self, phase: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the hooks of a phase on this machine, with nothing but `environment` set."""
        return subprocess.run(
            ["bash", "-c", _ALL, str(self.place), phase],
            env=_BUILD | {"TMP_HOOKS_PATH": str(self.place)} | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )

    def inside(
        self, tree: Tree, phase: str, *, check: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the hooks of a phase in a tree, which is changed by it."""
        hooks = tree.root / "tmp/in_target.d"
        shutil.copytree(self.place, hooks)
        try:
            return tree.run(
                "bash", "-c", _ALL, "/tmp/in_target.d", phase, check=check, **_BUILD | environment
            )
        finally:
            shutil.rmtree(hooks)
