"""Fills the image's cache with the packages of a list; run while the image is built.

python -m distro_packages.fill LIST
"""

from __future__ import annotations

import sys
from pathlib import Path

from distro_packages.choice import manager
from distro_packages.managers import PLACE, PackageError


def main(file: Path) -> int:
    """Do it, and say what can't be had; the exit code."""
    names = file.read_text().split()
    PLACE.mkdir(parents=True, exist_ok=True)
    try:
        packages = manager()
        strange = [name for name in names if not packages.name.fullmatch(name)]
        notes = packages.download([name for name in names if name not in strange])
    except PackageError as error:
        sys.stdout.write(f"cache-bindep: ERROR: {error}\n")
        return 1
    notes += [f"{name} is no name of a package of this platform" for name in map(ascii, strange)]
    sys.stdout.write("".join(f"cache-bindep: note: {note}\n" for note in sorted(notes)))
    files = [found for found in PLACE.rglob("*") if found.suffix in {".deb", ".rpm"}]
    size = sum(found.stat().st_size for found in files)
    sys.stdout.write(
        f"cache-bindep: {len(names)} packages are asked for; {len(files)} are cached with what they need,"
        f" {size / 1e6:.1f} MB\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
