"""A root tree to run the hooks of our elements in, made of this machine's own /usr."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import diskimage_builder  # type: ignore[import-untyped]

ELEMENTS = Path(__file__).parents[2] / "elements"
DIB_ELEMENTS = Path(diskimage_builder.__file__).parent / "elements"
_UNSHARE = ("unshare", "--mount", "--propagation", "private")
#: Mounts the tree in a mount namespace of its own and runs a command in it.
_INSIDE = """
set -eu
mount -t overlay overlay -o "lowerdir=/usr,upperdir=$1/usr,workdir=$1/work" "$1/root/usr"
mount --bind "$1/hooks" "$1/root/tmp/in_target.d"
mount --bind /dev "$1/root/dev"
mount -t proc none "$1/root/proc"
root=$1/root
shift
exec chroot "$root" "$@"
"""


class Tree:
    """A Debian root tree whose /usr is this machine's, with changes of its own; hooks as dib has them."""

    def __init__(self, directory: Path, *elements: str) -> None:
        self.directory = directory
        self.root, self.hooks = directory / "root", directory / "hooks"
        for name in ("usr", "work", "root/usr", "root/tmp/in_target.d", "root/dev", "root/proc", "hooks"):
            (directory / name).mkdir(parents=True)
        for name in ("boot", "etc/apt/apt.conf.d", "etc/kernel/postinst.d", "var/tmp", "var/lib/dpkg"):
            (self.root / name).mkdir(parents=True)
        for name in ("bin", "sbin", "lib", "lib64"):
            (self.root / name).symlink_to(f"usr/{name}")
        (self.root / "etc" / "debian_version").write_text("12.0\n")
        for element in elements:
            copy_hooks(ELEMENTS / element, self.hooks)

    def program(self, path: str, text: str) -> None:
        """Put a shell script into the tree's /usr."""
        file = self.directory / "usr" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)

    def run(self, *argv: str, path: str = "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin") -> str:
        """Run a command in the tree; what it prints. It must end with 0."""
        done = subprocess.run(
            [*_UNSHARE, "bash", "-c", _INSIDE, "bash", str(self.directory), *argv],
            env={"PATH": path, "DIB_DEBUG_TRACE": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def hook(self, name: str) -> str:
        """Run a hook, such as post-install.d/99-some, in the tree; what it prints."""
        return self.run(f"/tmp/in_target.d/{name}")

    def files(self) -> set[str]:
        """Everything in the tree that is not this machine's: the paths of files, links and whiteouts."""
        places = {Path("/"): self.root, Path("/usr"): self.directory / "usr"}
        return {
            str(prefix / path.relative_to(place))
            for prefix, place in places.items()
            for path in place.rglob("*")
            if path.is_symlink() or not path.is_dir()
        }


def copy_hooks(element: Path, hooks: Path) -> None:
    """Copy the directories of an element into a directory of hooks, as dib does."""
    for directory in element.iterdir():
        if directory.is_dir():
            shutil.copytree(directory, hooks / directory.name, dirs_exist_ok=True)


def run_parts(hooks: Path, phase: str, environment: Mapping[str, str], directory: Path | None = None) -> str:
    """Run the hooks of a phase outside the tree by dib's own dib-run-parts; what they print.

    They are started in `directory`, if one is given. Their mounts end with them.
    """
    program = DIB_ELEMENTS.parent / "lib" / "dib-run-parts"
    done = subprocess.run(
        [*_UNSHARE, str(program), str(hooks / f"{phase}.d")],
        env=dict(environment),
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
