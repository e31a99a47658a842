"""A build of the past, as the daemon leaves it on this machine, by the scripted disk-image-create."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from builder.config.model import DiskImage, FormatOptions
from builder.dib import command
from builder.dib.contents import inputs, manifest, reproduce
from builder.dib.output import artifacts
from builder.model import ImageFormat
from tests.unit.dib_world import BUILD, INSTALLATION, image, need_root, publish

#: The database of dpkg in an image: two packages are installed.
STATUS = """\
Package: bash
Essential: yes
Status: install ok installed
Architecture: amd64
Version: 5.2.15-2+b7
Depends: base-files (>= 2.1.12)
Description: GNU Bourne Again SHell
 Version: 9 is a line of the description,
 .
 and no field.

Package: libc6
Status: hold ok unpacked
Architecture: amd64
Source: glibc (2.36-9)
Version: 1:2.36-9

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1

Package: wished
Status: install ok not-installed

"""

STARTED = datetime(2024, 5, 6, 14, 14, tzinfo=UTC)
TOOLS = {"kernel": "0.0.1", "no-such-tool": "7.2", "bash": "0.1"}


@dataclass
class Past:
    """A build of the past, with its files on this machine."""

    place: Path
    recipe: DiskImage

    @property
    def images(self) -> Path:
        return self.place / "images"

    @property
    def control(self) -> Path:
        """The control directory of the scripted disk-image-create."""
        return self.place / "a control"

    @property
    def directory(self) -> Path:
        return artifacts.directory(self.images, self.recipe.name, BUILD)

    def build(self) -> command.Command:
        """Make and publish it, as the daemon does."""
        rendered = command.render(
            self.recipe,
            build_id=BUILD,
            output=self.place / "was" / "output" / f"{self.recipe.name}-{BUILD}",
            work_dir=self.place / "was",
            cache_dir=self.place / "was" / "cache",
            elements_dirs=(self.place / "elements",),
            mirrors={},
        )
        left = self.place / "left.d"
        (left / command.MANIFEST_ELEMENT).mkdir(parents=True)
        (left / command.MANIFEST_ELEMENT / "dpkg").write_text(STATUS)
        known = inputs.collect(self.recipe, rendered, key=b"key")
        manifest.write(
            left,
            image=self.recipe.name,
            build_id=BUILD,
            started=STARTED,
            rendered=rendered,
            known=known,
            tools=TOOLS,
        )
        proof = artifacts.Proof(
            installation_id=INSTALLATION,
            image=self.recipe.name,
            build_id=BUILD,
            created=STARTED,
            command=rendered.argv,
            environment=rendered.shown_environment,
            tools=TOOLS,
        )
        publish(self.images, proof, [], left)
        return rendered

    def script(self) -> str:
        recorded = reproduce.load(self.images, self.recipe.name, BUILD)
        return reproduce.script(recorded, self.place / "by hand")

    def run(self, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the script, with nothing left of where the build was made."""
        need_root()
        file = self.place / "again"
        file.write_text(self.script())
        shutil.rmtree(self.place / "elements", ignore_errors=True)
        return subprocess.run(
            ["bash", file],
            cwd=self.place,
            env={"PATH": os.environ["PATH"], **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def made(self) -> Path:
        return self.place / "by hand" / f"{self.recipe.name}-{BUILD}"

    def ran(self) -> Any:
        """How disk-image-create was run."""
        return json.loads((self.control / "runs").read_text())


def past_build(place: Path) -> Past:
    """A build that is not made yet, of an element of its own, with a secret; below `place`."""
    control, hook = place / "a control", place / "elements" / "special" / "install.d" / "10-it"
    control.mkdir()
    hook.parent.mkdir(parents=True)
    hook.write_text("#!/bin/bash\necho special\n")
    hook.chmod(0o755)
    recipe = image(
        control,
        elements=("debian-minimal", "special"),
        environment={"FAKE_DIB_CONTROL": str(control), "WORDS": 'it\'s "$quoted"', "TOKEN": "hush hush"},
        secret_names=frozenset({"TOKEN"}),
        formats=(ImageFormat.QCOW2, ImageFormat.VHD),
        format_options={"qcow2": FormatOptions(compression="none")},
    )
    return Past(place, recipe)
