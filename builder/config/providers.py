"""Makes providers of what the file says about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from types import MappingProxyType

from builder.config.checking import Checked
from builder.config.diskimages import DiskImages
from builder.config.model import Provider, ProviderImage
from builder.config.problems import Problems, suggestion
from builder.config.schema import ConfigFile, ForeignProviderEntry, ProviderEntry
from builder.config.values import BadValueError, image_format, image_name_format_problem, seconds
from builder.errors import ConfigError
from builder.model import ImageFormat, name_problem

#: Tells the format a cloud's region wants, from (cloud, region); raises ConfigError.
ImageFormatOf = Callable[[str, str | None], ImageFormat]


def build_providers(
    file: Checked[ConfigFile], diskimages: DiskImages, image_format_of: ImageFormatOf, problems: Problems
) -> Mapping[str, Provider]:
    """Every provider that images can go to, by name, in the order of the file."""
    maker = _Maker(file, diskimages, image_format_of, problems)
    providers: dict[str, Provider] = {}
    names: set[str] = set()
    for position, entry in enumerate(file.content.providers or []):
        problem = name_problem(entry.name)
        if entry.name in names:
            problem = f"there are two providers named {entry.name!r}"
        if problem:
            problems.add(file.place("providers", position, "name"), problem)
        names.add(entry.name)
        if isinstance(entry, ForeignProviderEntry):
            maker.check_foreign(position, entry)
        else:
            providers[entry.name] = maker.provider(position, entry)
    return MappingProxyType(providers)


def wanted_formats(providers: Mapping[str, Provider]) -> Mapping[str, set[ImageFormat]]:
    """The formats that providers need of each diskimage."""
    wanted: dict[str, set[ImageFormat]] = {}
    for provider in providers.values():
        for image in provider.images:
            wanted.setdefault(image, set()).add(provider.image_format)
    return wanted


class _Maker:
    """Makes one provider after the other; holds what all of them need."""

    def __init__(
        self,
        file: Checked[ConfigFile],
        diskimages: DiskImages,
        image_format_of: ImageFormatOf,
        problems: Problems,
    ) -> None:
        self._file = file
        self._diskimages = diskimages
        self._image_format_of = image_format_of
        self._problems = problems

    def provider(self, position: int, entry: ProviderEntry) -> Provider:
        """The provider at a position of the file."""
        return Provider(
            name=entry.name,
            cloud=entry.cloud,
            region=entry.region_name,
            image_format=self._format(position, entry),
            image_name_format=self._name_format(position, entry),
            upload_timeout=self._timeout(entry),
            images=MappingProxyType(self._images(position, entry)),
        )

    def check_foreign(self, position: int, entry: ForeignProviderEntry) -> None:
        """Note that a provider of another driver wants images, which nobody would upload."""
        if entry.diskimages:
            self._problems.add(
                self._file.place("providers", position, "diskimages"),
                f"images can't go to a provider with driver {entry.driver!r}, only to openstack",
            )

    def _format(self, position: int, entry: ProviderEntry) -> ImageFormat:
        try:
            if entry.image_format is not None:
                return image_format(entry.image_format)
            return self._image_format_of(entry.cloud, entry.region_name)
        except BadValueError as problem:
            self._problems.add(self._file.place("providers", position, "image-format"), str(problem))
        except ConfigError as error:
            # What to do about it would be lost among the problems of the rest of the file.
            hint = f". {error.hint}" if error.hint else ""
            for text in error.problems:
                self._problems.add(self._file.place("providers", position, "cloud"), f"{text}{hint}")
        return Provider.image_format

    def _name_format(self, position: int, entry: ProviderEntry) -> str:
        if entry.image_name_format is None:
            return Provider.image_name_format
        problem = image_name_format_problem(entry.image_name_format)
        if problem:
            self._problems.add(self._file.place("providers", position, "image-name-format"), problem)
        return entry.image_name_format

    @staticmethod
    def _timeout(entry: ProviderEntry) -> timedelta:
        if entry.image_upload_timeout is None:
            return Provider.upload_timeout
        return seconds(entry.image_upload_timeout)

    def _images(self, position: int, entry: ProviderEntry) -> dict[str, ProviderImage]:
        images: dict[str, ProviderImage] = {}
        for index, image in enumerate(entry.diskimages or []):
            problem = self._image_problem(image.name)
            if image.name in images:
                problem = f"diskimage {image.name!r} is listed twice"
            if problem:
                place = self._file.place("providers", position, "diskimages", index, "name")
                self._problems.add(place, problem)
                continue
            images[image.name] = ProviderImage(
                diskimage=image.name,
                pause=bool(image.pause),
                metadata=MappingProxyType(dict(image.meta or {})),
            )
        return images

    def _image_problem(self, name: str) -> str | None:
        if name in self._diskimages.abstract:
            return f"diskimage {name!r} is abstract: it is never built, so it can't be uploaded"
        if name not in self._diskimages.written:
            return f"there is no diskimage {name!r}{suggestion(name, self._diskimages.images)}"
        return None
