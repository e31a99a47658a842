"""Builds trees with our elements: diskimage-builder and its hooks for real, but no kernel and no disk.

A base tree is made once by mmdebstrap and kept; a build unpacks it, runs every hook of the elements asked
for and of those they depend on, and leaves what the image would have in it. It takes some ten seconds.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from builder.config.model import Platform
from builder.dib.mirrors import mirror_environment

PROJECT: Final = Path(__file__).parents[2]
KEPT: Final = Path(__file__).parent / "kept"
#: What images have before any element of ours does something.
BASE_PACKAGES: Final = (
    "busybox",
    "ca-certificates",
    "cron",
    "gnupg",
    "iproute2",
    "kmod",
    "openssh-server",
    "python3",
    "sudo",
    "systemd-sysv",
)
#: What a tree of the Red Hat family has besides, for those made to look like one.
REDHAT_PACKAGES: Final = (
    "chrony",
    "dnf",
    "dracut",
    "network-manager",
    "policycoreutils",
    "rpm",
    "selinux-utils",
    "udev",
)
#: Debian's release that stands in for the Red Hat family's.
_STAND_IN: Final = "bookworm"
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: Where this Python's own programs are, diskimage-builder's among them.
_PROGRAMS: Final = Path(sys.executable).parent
#: Seconds; a base tree takes twenty, a build ten, when nothing else works; twenty times that on a bad day.
LIMIT: Final = 600.0
#: Mounts and processes end with the command, whatever becomes of it.
_UNSHARE: Final = (
    "unshare",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "--propagation",
    "private",
)


@dataclass(frozen=True, kw_only=True)
class Tree:
    """What a build left: the file tree, what it left beside the image, and what it said."""

    root: Path
    beside: Path  #: the directory IMAGE_NAME.d
    log: str

    def read(self, path: str) -> str:
        """The text of a file of the tree."""
        return (self.root / path.lstrip("/")).read_text()

    def run(self, *argv: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the tree in it, with /proc, /dev and the network of this machine."""
        inside = (
            'cd "$0" && mkdir -p proc dev run tmp && mount -t proc proc proc && mount --rbind /dev dev && '
            'mount -t tmpfs tmpfs run && exec chroot . "$@"'
        )
        done = subprocess.run(
            [*_UNSHARE, "bash", "-c", inside, str(self.root), *argv],
            env={
                "PATH": _PATH,
                "LANG": "C.UTF-8",
                "HOME": "/root",
            }
            | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        if check and done.returncode != 0:
            raise RunFailedError(done.returncode, argv, done.stdout, done.stderr)
        return done


class Trees:
    """Builds trees below a directory; the same wishes get the same tree, which nobody may change."""

    def __init__(self, directory: Path, shared: Path) -> None:
        self._directory = directory
        self._shared = shared  # of all processes of one run
        self._built: dict[tuple[object, ...], Tree] = {}

    def build(
        self,
        *elements: str,
        distribution: str | None = None,
        release: str | None = None,
        family: Literal["debian", "redhat"] = "debian",
        environment: Mapping[str, str] | None = None,
        only: Sequence[str] = (),
    ) -> Tree:
        """The tree of an image of these elements on Debian's `release`, named as `distribution`'s.

        With the family "redhat" it is a stand-in (kept/kept-redhat/README.rst), by default for Rocky 9.
        `only` is not used by the build, but tells trees apart that shall not be the same one.
        """
        default = ("debian", "bookworm") if family == "debian" else ("rocky", "9")
        named = (distribution or default[0], release or default[1])
        key = (elements, family, named, tuple(sorted((environment or {}).items())), tuple(only))
        if key not in self._built:
            self._built[key] = self._build(elements, family, named, environment or {})
        return self._built[key]

    def installed(self, release: str, packages: Sequence[str], later: Sequence[str] = ()) -> Tree:
        """A tree of Debian's `release` with some packages, of no build and no element.

        Those that a test is to install `later`, it installs from apt's cache.
        """
        fetch = ("apt-get", "--yes", "--no-install-recommends", "--download-only", "install", *later)
        name = hashlib.sha256(" ".join((*packages, *fetch)).encode()).hexdigest()[:8]
        base = self._kept(
            *(f"{release}-{name}", release, packages, '--aptopt=Acquire::Check-Valid-Until "false"'),
            *("--skip=cleanup/apt", f'--customize-hook=chroot "$1" {" ".join(fetch)}'),
        )
        place = self._place("installed")
        root = place / "root"
        root.mkdir()
        subprocess.run(
            ["tar", "-C", str(root), "--numeric-owner", "--zstd", "-xpf", str(base)],
            check=True,
            timeout=LIMIT,
        )
        return Tree(root=root, beside=place, log="")

    @contextmanager
    def changeable(self, tree: Tree) -> Iterator[Tree]:
        """A tree over `tree` that may be changed; what is changed goes with it."""
        place = self._place("over")
        for name in ("upper", "work", "root"):
            (place / name).mkdir()
        layers = f"lowerdir={tree.root},upperdir={place / 'upper'},workdir={place / 'work'}"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, str(place / "root")], check=True)
        try:
            yield Tree(root=place / "root", beside=tree.beside, log=tree.log)
        finally:
            subprocess.run(["umount", str(place / "root")], check=True)
            shutil.rmtree(place)

    def _build(
        self, elements: Sequence[str], family: str, named: tuple[str, str], environment: Mapping[str, str]
    ) -> Tree:
        distribution, release = named
        base = self._base(release) if family == "debian" else self._stand_in()
        place = self._place("tree")
        output = place / "image"
        base_element = "kept-tree" if family == "debian" else "kept-redhat"
        argv = (
            *(*_UNSHARE, str(_PROGRAMS / "disk-image-create"), "-x", "-n"),
            *("-t", "tar", "-o", str(output), base_element, *elements),
        )
        builds_by = {
            "PATH": f"{_PROGRAMS}:{_PATH}",
            "LANG": "C.UTF-8",
            "HOME": str(place),
            "USER": "root",
            "TMPDIR": str(place),
            "TMP_DIR": str(place),
            "ELEMENTS_PATH": f"{KEPT}:{PROJECT / 'elements'}",
            "DIB_IMAGE_CACHE": str(self._directory / "cache"),
            "DIB_LOCKFILES": str(self._directory / "locks"),
            "DIB_NO_TIMESTAMP": "1",
            "DIB_RELEASE": release,
            "DIB_IMAGE_NAME": "tree",
            "ARCH": "amd64",
            "KEPT_TREE": str(base),
            "KEPT_TREE_DISTRIBUTION": distribution,
            **_mirrors(release),
        }
        done = subprocess.run(
            argv,
            env=builds_by | dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=LIMIT,
            check=False,
        )
        if done.returncode != 0:
            raise BuildFailedError(done.returncode, done.stdout)
        # Not through a pipe: tar takes a write to it that is cut short for a broken disk.
        tar, root = Path(f"{output}.tar"), place / "root"
        root.mkdir()
        subprocess.run(
            ["tar", "-C", str(root), "--numeric-owner", "-xpf", str(tar)], check=True, timeout=LIMIT
        )
        tar.unlink()
        return Tree(root=root, beside=place / "image.d", log=done.stdout)

    def _base(self, release: str) -> Path:
        """The tar file of a base tree; made by whoever needs it first."""
        return self._kept(release, release, BASE_PACKAGES)

    def _stand_in(self) -> Path:
        """The tar file of the stand-in for the Red Hat family; of each version of it one."""
        customize = KEPT / "kept-redhat/stand-in/customize"
        version = hashlib.sha256(customize.read_bytes()).hexdigest()[:8]
        packages = (*BASE_PACKAGES, *REDHAT_PACKAGES)
        return self._kept(f"redhat-{version}", _STAND_IN, packages, f"--customize-hook={customize}")

    def _kept(self, name: str, release: str, packages: Sequence[str], *options: str) -> Path:
        kept = self._shared / f"{name}.tar.zst"
        with (self._shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not kept.exists():
                new = kept.with_suffix(".new")
                mirror = _mirrors(release).get("DIB_DISTRIBUTION_MIRROR")
                subprocess.run(
                    [
                        *("mmdebstrap", "--quiet", "--variant=apt", f"--include={','.join(packages)}"),
                        *(*options, release, f"{new}.tar", *([mirror] if mirror else [])),
                    ],
                    check=True,
                    timeout=LIMIT,
                )
                subprocess.run(["zstd", "-q", "-1", "-T0", "--rm", f"{new}.tar", "-o", str(new)], check=True)
                new.rename(kept)
        return kept

    def _place(self, name: str) -> Path:
        self._directory.mkdir(parents=True, exist_ok=True)
        place = self._directory / f"{name}-{len(list(self._directory.iterdir()))}"
        place.mkdir()
        return place


class RunFailedError(subprocess.CalledProcessError):
    """A program of a tree ended with another exit code than 0; it is told with what it said."""

    def __str__(self) -> str:
        return f"{super().__str__()}\n{self.stdout[-6000:]}\n{self.stderr[-6000:]}"


class BuildFailedError(Exception):
    """A build of a tree ended with another exit code than 0."""

    def __init__(self, code: int, log: str) -> None:
        # The last words are those of the clean-up.
        super().__init__(f"disk-image-create ended with {code}:\n{log[-30000:]}")
        self.log = log


def _mirrors(release: str) -> Mapping[str, str]:
    """The mirrors this machine itself uses."""
    platform = Platform(
        name="test", distribution="debian", release=release, mirror="host", security_mirror="host"
    )
    return mirror_environment(platform)


def require_root() -> None:
    """Fail unless chroots and mounts are allowed."""
    if os.geteuid() != 0:
        raise PermissionError("elements are tried in chroots: run these tests as root")
