"""Makes providers of what the file says about them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Final

from builder.config.checking import Checked
from builder.config.diskimages import DiskImages, checked_sharing
from builder.config.model import DiskImage, Provider, ProviderImage, Sharing
from builder.config.problems import KeyPath, Problems, suggestion, text_problem
from builder.config.schema import ConfigFile, ForeignProviderEntry, ProviderEntry, ProviderImageEntry
from builder.config.values import (
    BadValueError,
    days,
    image_format,
    image_name_format_problem,
    layout_problem,
    seconds,
    size,
    url_prefix,
)
from builder.errors import ConfigError
from builder.model import ImageFormat, layouts_conflict, name_problem
from builder.ways import AUTO, Way

#: Less is no limit but a mistake in the unit.
_LEAST_BANDWIDTH: Final = 1024
#: The shipped element that makes a root file system without partitions, which boots with its parts.
_ROOT_ALONE: Final = "ami"

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
        if not isinstance(entry, ForeignProviderEntry):
            providers[entry.name] = maker.provider(position, entry)
    return MappingProxyType(providers)


def wanted_formats(providers: Mapping[str, Provider]) -> Mapping[str, set[ImageFormat]]:
    """The formats that providers need of each diskimage."""
    wanted: dict[str, set[ImageFormat]] = {}
    for provider in providers.values():
        for image in provider.images:
            wanted.setdefault(image, set()).add(provider.image_format)
    return wanted


def bandwidth(
    file: Checked[ConfigFile], value: str | None, problems: Problems, *path: str | int
) -> int | None:
    """Bytes per second, None for no limit; what can't be one is a problem."""
    if value is None:
        return None
    try:
        limit = size(value)
    except BadValueError as problem:
        problems.add(file.place(*path), str(problem))
        return None
    if limit < _LEAST_BANDWIDTH:
        problems.add(file.place(*path), f"must be at least {_LEAST_BANDWIDTH} bytes per second, not {value}")
    return limit


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
        self._formats: dict[str, list[ImageFormat]] = {}  #: by diskimage: those wanted so far

    def provider(self, position: int, entry: ProviderEntry) -> Provider:
        """The provider at a position of the file."""
        wanted = self._format(position, entry)
        return Provider(
            name=entry.name,
            cloud=entry.cloud,
            region=entry.region_name,
            image_format=wanted,
            image_name_format=self._name_format(position, entry, wanted),
            upload_timeout=self._timeout(entry),
            upload_method=self._method(position, entry),
            download_url=self._download_url(position, entry),
            max_uploads=entry.max_uploads or Provider.max_uploads,
            bandwidth=self._bandwidth(position, entry),
            rate=entry.rate or Provider.rate,
            post_upload_hook=self._hook(position, entry),
            hook_timeout=(
                Provider.hook_timeout
                if entry.post_upload_hook_timeout is None
                else seconds(entry.post_upload_hook_timeout)
            ),
            images=MappingProxyType(self._images(position, entry, wanted)),
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

    def _name_format(self, position: int, entry: ProviderEntry, wanted: ImageFormat) -> str:
        if entry.image_name_format is None:
            return Provider.image_name_format
        images = [image.name for image in entry.diskimages or ()]
        problem = image_name_format_problem(entry.image_name_format, images, wanted)
        if problem:
            self._problems.add(self._file.place("providers", position, "image-name-format"), problem)
        return entry.image_name_format

    def _method(self, position: int, entry: ProviderEntry) -> str:
        known = [AUTO, *(way for way in Way if way is not Way.ADOPT)]
        method = entry.upload_method or AUTO
        if method not in known:
            place = self._file.place("providers", position, "upload-method")
            self._problems.add(place, f"there is no way {method!r}{suggestion(method, known)}")
        return method

    def _download_url(self, position: int, entry: ProviderEntry) -> str | None:
        if entry.download_url is None:
            return None
        try:
            return url_prefix(entry.download_url)
        except BadValueError as problem:
            self._problems.add(self._file.place("providers", position, "download-url"), str(problem))
            return None

    def _bandwidth(self, position: int, entry: ProviderEntry) -> int | None:
        return bandwidth(self._file, entry.bandwidth, self._problems, "providers", position, "bandwidth")

    def _hook(self, position: int, entry: ProviderEntry) -> Path | None:
        if entry.post_upload_hook is None:
            return None
        if not entry.post_upload_hook.strip() or text_problem(entry.post_upload_hook):
            place = self._file.place("providers", position, "post-upload-hook")
            self._problems.add(place, "must name a program")
        return self._file.document.file.absolute().parent / entry.post_upload_hook

    @staticmethod
    def _timeout(entry: ProviderEntry) -> timedelta:
        if entry.image_upload_timeout is None:
            return Provider.upload_timeout
        return seconds(entry.image_upload_timeout)

    def _images(self, position: int, entry: ProviderEntry, wanted: ImageFormat) -> dict[str, ProviderImage]:
        images: dict[str, ProviderImage] = {}
        for index, image in enumerate(entry.diskimages or []):
            problem = self._image_problem(image.name)
            if image.name in images:
                problem = f"diskimage {image.name!r} is listed twice"
            problem = problem or self._layout_problem(image.name, wanted)
            if problem:
                place = self._file.place("providers", position, "diskimages", index, "name")
                self._problems.add(place, problem)
                continue
            images[image.name] = self._image(position, index, entry, image)
        self._check_stable_names(position, images)
        return images

    def _layout_problem(self, image: str, wanted: ImageFormat) -> str | None:
        """Why a diskimage can't be made in the format of a provider, too; None when it can."""
        base = self._diskimages.images.get(image)
        if base and _ROOT_ALONE in base.elements and wanted is not ImageFormat.AMI:
            return (
                f"it is wanted as {wanted} here, but its element {_ROOT_ALONE} makes a root file system "
                f"and no disk: give this provider image-format: {ImageFormat.AMI}, or the diskimage other "
                "elements"
            )
        known = self._formats.setdefault(image, [*base.formats] if base else [])
        if layouts_conflict(known):
            return None  # that is a problem of its own already
        problem = layout_problem([*known, wanted])
        if problem is None:
            known.append(wanted)
            return None
        return f"it is wanted as {wanted} here: {problem}"

    def _check_stable_names(self, position: int, images: Iterable[str]) -> None:
        """Of two diskimages with one stable name or tag, nobody could tell which a cloud's image is."""
        known: dict[str, str] = {}
        for name in images:
            image = self._diskimages.images.get(name)
            for key in ("stable_name", "stable_tag") if image else ():
                value = getattr(image, key)
                other = known.setdefault(f"{key} {value}", name)
                if value is not None and other != name:
                    self._problems.add(
                        self._file.place("providers", position, "diskimages"),
                        f"{other} and {name} have the same {key.replace('_', '-')}, {value!r}",
                    )

    def _image(
        self, position: int, index: int, entry: ProviderEntry, image: ProviderImageEntry
    ) -> ProviderImage:
        """What holds for a diskimage there: its entry wins over the provider's, that over the diskimage's."""
        base = self._diskimages.images.get(image.name) or DiskImage(name=image.name)
        wanted_days = image.keep_days or entry.keep_days
        return ProviderImage(
            diskimage=image.name,
            pause=bool(image.pause),
            keep=image.keep or entry.keep or base.keep,
            keep_for=days(wanted_days) if wanted_days else base.keep_for,
            sharing=self._sharing(("providers", position, "diskimages", index), image, base.sharing),
            metadata=MappingProxyType(dict(image.meta or {})),
        )

    def _sharing(self, path: KeyPath, image: ProviderImageEntry, base: Sharing) -> Sharing:
        visibility = image.visibility or base.visibility
        # Who gives another visibility there does not want the diskimage's members.
        members = base.members if visibility == base.visibility else ()
        sharing = Sharing(
            visibility=visibility,
            members=members if image.members is None else tuple(image.members),
            tags=base.tags if image.tags is None else tuple(image.tags),
            hidden=base.hidden if image.hidden is None else image.hidden,
        )
        return checked_sharing(sharing, lambda *keys: self._file.place(*path, *keys), self._problems)

    def _image_problem(self, name: str) -> str | None:
        if name in self._diskimages.abstract:
            return f"diskimage {name!r} is abstract: it is never built, so it can't be uploaded"
        if name not in self._diskimages.written:
            return f"there is no diskimage {name!r}{suggestion(name, self._diskimages.images)}"
        return None
