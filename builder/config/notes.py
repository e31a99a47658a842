"""Lists the keys a file gives that have no effect, so that nobody relies on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from builder.config.checking import Checked
from builder.config.model import DiskImage
from builder.config.problems import Place
from builder.config.schema import ConfigFile, ForeignProviderEntry


def notes_of(file: Checked[ConfigFile], images: Mapping[str, DiskImage]) -> tuple[str, ...]:
    """One "file:line: key: has no effect: why" for each such key, in the order of the file.

    `images` are the diskimages that the file comes to.
    """
    found = sorted([*_keeps_what_stays(file, images), *_goes_nowhere(file)])
    return tuple(f"{place}has no effect: {why}" for place, why in found)


def _keeps_what_stays(
    file: Checked[ConfigFile], images: Mapping[str, DiskImage]
) -> Iterator[tuple[Place, str]]:
    """`keep-formats` of diskimages whose files all stay anyway."""
    for position, entry in enumerate(file.content.diskimages or ()):
        image = images.get(entry.name)
        if entry.keep_formats and image is not None and not image.delete_after_upload:
            yield (
                file.place("diskimages", position, "keep-formats"),
                "without delete-after-upload, all files stay",
            )


def _goes_nowhere(file: Checked[ConfigFile]) -> Iterator[tuple[Place, str]]:
    """`diskimages` of providers that imagepool uploads nothing to."""
    for position, entry in enumerate(file.content.providers or ()):
        if isinstance(entry, ForeignProviderEntry) and entry.diskimages:
            yield (
                file.place("providers", position, "diskimages"),
                f"images go to providers with the driver openstack alone, not to {entry.driver!r}",
            )
