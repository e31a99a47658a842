"""Says which package manager a system has."""

from __future__ import annotations

from pathlib import Path

from distro_packages.apt import Apt
from distro_packages.dnf import Dnf
from distro_packages.managers import Manager, PackageError


def manager() -> Manager:
    """The one that is here. Raises PackageError."""
    if Path("/usr/bin/apt-get").exists():
        return Apt()
    if Path("/usr/bin/dnf").exists():
        return Dnf()
    raise PackageError("there is neither apt-get nor dnf in /usr/bin")
