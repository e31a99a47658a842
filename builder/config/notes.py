"""Lists the keys a file gives that have no effect, so that nobody relies on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from builder.config.checking import Checked
from builder.config.model import DiskImage
from builder.config.problems import Place, suggestion
from builder.config.schema import ConfigFile, ForeignProviderEntry, Library, ProviderEntry
from builder.config.sources import Sources


def notes_of(sources: Sources, images: Mapping[str, DiskImage]) -> tuple[str, ...]:
    """One "file:line: key: has no effect: why" for each such key, in the order of the files.

    `images` are the diskimages that the files come to.
    """
    kept = (found for file in sources.files for found in _keeps_what_stays(file, images))
    found = sorted([*kept, *_goes_nowhere(sources.main), *_laid_over_nothing(sources, images)])
    return tuple(f"{place}has no effect: {why}" for place, why in found)


def _keeps_what_stays(file: Checked[Library], images: Mapping[str, DiskImage]) -> Iterator[tuple[Place, str]]:
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


def _laid_over_nothing(sources: Sources, images: Mapping[str, DiskImage]) -> Iterator[tuple[Place, str]]:
    """Diskimages whose names are almost those of included ones, and of which nothing else makes an image."""
    listed = {
        image.name
        for provider in sources.main.content.providers or ()
        if isinstance(provider, ProviderEntry)
        for image in provider.diskimages or ()
    }
    for position, entry in enumerate(sources.main.content.diskimages or () if sources.included else ()):
        image = images.get(entry.name)
        if image is None or image.formats or image.platform or entry.parent or entry.name in listed:
            continue
        likely = suggestion(entry.name, images.keys() - {entry.name})
        yield (
            sources.main.place("diskimages", position, "name"),
            f"no included file has a diskimage {entry.name!r}{likely}",
        )
