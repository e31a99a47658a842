"""Finds the diskimage that a command line means, and changes it as that says."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

from build_image.arguments import Options
from builder.config.loader import load
from builder.config.model import BootTest, Config, DiskImage
from builder.errors import NotFoundError
from builder.model import ImageFormat


def configuration(options: Options) -> Config:
    """The configuration, of which no cloud is asked anything; raises ConfigError."""
    # The shipped files name it for a daemon; here everything is in the output directory.
    environ = {"IMAGEPOOL_STATE_DIR": str(options.output), **os.environ}
    return load(options.config, image_format_of=_any_format, environ=environ)


def listing(config: Config) -> Iterator[str]:
    """A line for each diskimage that can be built."""
    rows = [("IMAGE", "PLATFORM", "DISTRIBUTION", "RELEASE", "ARCHITECTURE")]
    for image in config.diskimages.values():
        platform = image.platform
        if platform is not None:
            rows.append(
                (image.name, platform.name, platform.distribution, platform.release, platform.architecture)
            )
        else:
            rows.append((image.name, "", "", "", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def image(config: Config, options: Options) -> DiskImage:
    """The diskimage to build; raises NotFoundError."""
    found = _named(config, options.platform)
    missing = [element for element in options.without if element not in found.elements]
    if missing:
        raise NotFoundError(
            f"the image {found.name} has no element {missing[0]}",
            hint=f"It has: {', '.join(found.elements)}.",
        )
    elements = [element for element in found.elements if element not in options.without]
    environment: Mapping[str, str] = {**found.environment, **dict(options.environment)}
    return replace(
        found,
        elements=tuple(dict.fromkeys((*elements, *options.elements))),
        environment=MappingProxyType(environment),
        formats=tuple(sorted(ImageFormat(name) for name in options.formats)),
        # With --check and --boot it is booted here, by hand.
        boot_test=BootTest(),
    )


def _named(config: Config, name: str) -> DiskImage:
    if name in config.diskimages:
        return config.diskimages[name]
    of_platform = [
        image
        for image in config.diskimages.values()
        if image.platform is not None and image.platform.name == name
    ]
    if len(of_platform) == 1:
        return of_platform[0]
    if of_platform:
        names = ", ".join(image.name for image in of_platform)
        raise NotFoundError(f"there are several images of the platform {name}", hint=f"Name one: {names}.")
    raise NotFoundError(
        f"{config.path} has no platform and no image {name!r}{_like(name, config)}",
        hint=f"There is: {', '.join(config.diskimages) or 'none'}.",
    )


def _like(name: str, config: Config) -> str:
    close = difflib.get_close_matches(name, config.diskimages, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _any_format(cloud: str, region: str | None) -> ImageFormat:
    """The format of a cloud: what is made is said on the command line."""
    return ImageFormat.QCOW2
