"""The platforms that ship, and what diskimage-builder would make of their images, without building one."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from unittest import mock

from builder.config.loader import load
from builder.config.model import Config, DiskImage
from builder.dib import command
from builder.dib.contents.inputs import resolve
from builder.dib.mirrors import mirror_environment
from builder.model import ImageFormat
from tests.unit.elements_world import DIB_ELEMENTS, ELEMENTS

SHIPPED = ELEMENTS.parent / "config"
#: What dib-run-parts does before each hook: source what all elements have there, sorted.
_SOURCE = """
cd "$1"; shift
for file in "$@"; do source "$file"; done
env -0
"""


@cache
def shipped() -> Config:
    """The configuration that ships."""
    return loaded(SHIPPED / "imagepool.yaml")


def loaded(path: Path) -> Config:
    """A configuration whose providers are of no interest."""
    environ = {"IMAGEPOOL_STATE_DIR": "/var/lib/imagepool"}
    return load(path, environ=environ, image_format_of=lambda *_: ImageFormat.QCOW2)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """An image as disk-image-create would find it: elements with their directories, and the environment."""

    image: DiskImage
    command: command.Command
    elements: Mapping[str, Path]

    @property
    def sourced(self) -> Mapping[str, str]:
        """The environment that hooks have: the build's, and what elements make of it."""
        return _sourced(self.image.name)

    @property
    def packages(self) -> frozenset[str]:
        """What is installed by package-installs.yaml, under the names that the distribution has for it."""
        return _packages(self.image.name)


@cache
def recipe(name: str) -> Recipe:
    """An image of those that ship; RefusedError when its elements don't fit together."""
    return made_of(shipped().diskimages[name])


def made_of(image: DiskImage) -> Recipe:
    """An image, in the environment of a machine that uses no mirrors of its own."""
    assert image.platform is not None
    rendered = command.render(
        image,
        build_id="b" * 32,
        output=Path("/build/out"),
        work_dir=Path("/build"),
        cache_dir=Path("/cache"),
        elements_dirs=(),
        mirrors=mirror_environment(image.platform, Path("/nonexistent"), image.environment),
        shipped=ELEMENTS,
    )
    return Recipe(image=image, command=rendered, elements=resolve(rendered.argv, rendered.environment))


@cache
def _sourced(name: str) -> Mapping[str, str]:
    made = recipe(name)
    files = sorted(
        (file for directory in made.elements.values() for file in directory.glob("environment.d/*")),
        key=lambda file: file.name,
    )
    said = subprocess.run(
        ["bash", "-eu", "-c", _SOURCE, "bash", str(DIB_ELEMENTS), *map(str, files)],
        env=dict(made.command.environment)
        | {"IMAGE_NAME": "image", "_LIB": str(DIB_ELEMENTS.parent / "lib")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return dict(each.partition("=")[::2] for each in said.split("\0") if "=" in each)


@cache
def _packages(name: str) -> frozenset[str]:
    made = recipe(name)
    wanted = _squash(made)
    names = set()
    for element, packages in wanted.items():
        names |= mapped(made, element, packages)
    return frozenset(names)


def _squash(made: Recipe) -> Mapping[str, list[str]]:
    """Element -> packages that it has installed and not removed again, by dib's own reading of its file."""
    squash = _program("package-installs/bin/package-installs-squash")
    data: dict[str, dict[str, list[tuple[str, str]]]] = _Phases()
    with mock.patch.dict(os.environ, made.sourced):
        for element, directory in sorted(made.elements.items()):
            file = directory / "package-installs.yaml"
            if file.exists():
                data = squash.collect_data(data, squash.yaml.safe_load(file.read_text()), element)
    wanted: dict[str, list[str]] = {}
    for phase in data.values():
        for package, element in phase["install"]:
            wanted.setdefault(element, []).append(package)
    return wanted


class _Phases(dict[str, dict[str, list[tuple[str, str]]]]):
    def __missing__(self, phase: str) -> dict[str, list[tuple[str, str]]]:
        self[phase] = {"install": [], "uninstall": []}
        return self[phase]


def mapped(made: Recipe, element: str, packages: list[str]) -> set[str]:
    """The distribution's names of an element's packages, by dib's own pkg-map."""
    file = made.elements[element] / "pkg-map"
    if not file.exists():
        return set(packages)
    said = io.StringIO()
    release = made.sourced["DIB_RELEASE"]
    argv = ["pkg-map", "--missing-ok", "--pkg-map", str(file), "--release", release]
    argv += ["--distro", made.sourced["DISTRO_NAME"], *packages]
    with (
        mock.patch.object(sys, "argv", argv),
        contextlib.redirect_stdout(said),
        contextlib.suppress(SystemExit),
    ):
        _program("pkg-map/bin/pkg-map").main()
    return set(said.getvalue().split())


@cache
def _program(path: str) -> ModuleType:
    """A program of dib as a module."""
    loader = SourceFileLoader(path.rpartition("/")[2].replace("-", "_"), str(DIB_ELEMENTS / path))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module
