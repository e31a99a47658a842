"""The package manager of the Red Hat family.

What is cached is a repository in the image, with an index of its own: dnf's cache is found only by whoever
has the very settings of the mirror that it was filled from.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from distro_packages.managers import PLACE, Manager, PackageError, as_root, output

_PACKAGES = PLACE / "packages"
_REPOS = PLACE / "repos.d"
_KEYS = Path("/etc/pki/rpm-gpg")


class Dnf(Manager):
    """dnf, of the fourth series or the fifth."""

    # A path is what some package provides; but a file of packages would be taken as such.
    name = re.compile(r"(?!.*\.rpm$)(?!.*//)(?!.*/\.)[A-Za-z0-9/][A-Za-z0-9+._/-]*")

    def download(self, names: Sequence[str]) -> list[str]:
        shutil.rmtree(_PACKAGES, ignore_errors=True)
        _PACKAGES.mkdir(parents=True)
        _REPOS.mkdir(exist_ok=True)
        notes = []
        if names:
            # What can't be had is left out: the first word for it is the fourth series', the others are the
            # fifth's, whose `install` has no option for the directory either, but both have the setting.
            text = output(
                *("dnf", "--assumeyes", "--setopt=strict=0", "--setopt=skip_unavailable=1"),
                *("--setopt=skip_broken=1", f"--setopt=destdir={_PACKAGES}"),
                *("install", "--downloadonly", *names),
            )
            notes = [
                line.strip()
                for line in text.splitlines()
                if line.startswith(("No match for argument", "Unable to find a match", " Problem"))
            ]
        output("createrepo_c", "--quiet", str(_PACKAGES))
        (_REPOS / "cache-bindep.repo").write_text(_repository())
        return notes

    def install_cached(self, names: Sequence[str]) -> bool:
        return (_REPOS / "cache-bindep.repo").exists() and as_root(
            *("dnf", "--assumeyes", f"--setopt=reposdir={_REPOS}", f"--setopt=cachedir={PLACE}/dnf"),
            *("install", *names),
            quiet=True,
        )

    def install(self, names: Sequence[str]) -> None:
        # Of the same version the file that is here is cheaper.
        places = f"--setopt=reposdir=/etc/yum.repos.d,{_REPOS}"
        if not as_root("dnf", "--assumeyes", places, "install", *names):
            raise PackageError("dnf could not install them")


def _repository() -> str:
    keys = " ".join(f"file://{key}" for key in sorted(_KEYS.glob("RPM-GPG-KEY-*")))
    lines = [
        "[cache-bindep]",
        "name=What is cached in this image",
        f"baseurl=file://{_PACKAGES}",
        "enabled=1",
        "cost=1",
        "metadata_expire=never",
        *([f"gpgkey={keys}"] if keys else []),
    ]
    return "\n".join([*lines, ""])
