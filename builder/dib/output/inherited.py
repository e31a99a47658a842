"""Deletes the files of a build that nodepool-builder made in this images directory before us.

    <images_dir>/<image>-<build_id>.<format>        and beside it .md5 and .sha256
    <images_dir>/<image>-<build_id>.d/              dib's manifests

nodepool leaves no proof in its files. What stands for one: the record of the build is in our tree, it is
nodepool's, its `builder_id` is the one in this very directory (the caller's to check), and its id is unique.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Final

from builder.dib.output import artifacts
from builder.model import Build, ImageFormat

#: Digits of an id that no other build has, ever; nodepool 8 counted with ten.
_UNIQUE: Final = 32
_SUFFIXES: Final = ("", ".md5", ".sha256")
#: nodepool names files after whatever format it was told to build.
_FORMAT: Final = re.compile(r"[a-z0-9]+\Z")


def is_inherited(images_dir: Path, build: Build) -> bool:
    """Whether the record of a build is nodepool's, and no file of it says that it is ours.

    Our records say when the build began. RefusedError for names that can't be those of files.
    """
    proof = artifacts.directory(images_dir, build.image, build.id) / artifacts.PROOF
    by_nodepool = build.started is None and not build.artifacts and len(build.id) == _UNIQUE
    return by_nodepool and not os.path.lexists(proof)


def delete(images_dir: Path, build: Build) -> None:
    """Delete all files of a build for which `is_inherited` holds; fine when all are gone.

    Raises OSError when the disk won't.
    """
    home = artifacts.directory(images_dir, build.image, build.id)
    base = home.with_suffix("").name
    formats = {*map(str, ImageFormat), *filter(_FORMAT.match, build.formats)}
    for each in sorted(formats):
        for suffix in _SUFFIXES:
            home.with_name(f"{base}.{each}{suffix}").unlink(missing_ok=True)
    if home.is_dir() and not home.is_symlink():
        shutil.rmtree(home)
