"""Makes diskimages of what the file says about them: named, merged, rendered, checked."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from types import MappingProxyType
from typing import Final, TypeVar

from builder.config import schedules
from builder.config.boottests import boot_test
from builder.config.budgets import budgets
from builder.config.checking import Checked
from builder.config.inheritance import Recipe, merge_all
from builder.config.model import (
    DEFAULT_SCHEDULE,
    DiskImage,
    FormatOptions,
    Platform,
    ScheduleEntry,
    Sharing,
    credentials_in,
)
from builder.config.naming import named_recipes
from builder.config.platforms import Platforms
from builder.config.problems import KeyPath, Place, Problems, looks_secret, secret_texts, suggestion
from builder.config.promotions import promote
from builder.config.rendering import check_templates, render_recipe
from builder.config.schema import ConfigFile, FormatEntry, ProviderEntry, SecureFile
from builder.config.sources import Sources
from builder.config.template import names_for
from builder.config.values import (
    BadValueError,
    days,
    element_problem,
    environment_name_problem,
    glance_text_problem,
    image_format,
    label_problem,
    layout_problem,
    project_id_problem,
    seconds,
)
from builder.model import ImageFormat

#: What diskimage-builder reads the release from.
RELEASE_VARIABLE: Final = "DIB_RELEASE"

#: What Glance and Nova call the architectures that Debian names.
_MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64", "i386": "i686", "ppc64el": "ppc64le"}

ValueT = TypeVar("ValueT")


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What a diskimage gets where neither it nor a parent says anything."""

    schedule: tuple[ScheduleEntry, ...] | None = None  #: None: none is given
    catch_up: timedelta = DiskImage.catch_up
    rebuild_age: timedelta | None = None
    keep: int = DiskImage.keep
    keep_for: timedelta | None = None
    targets: frozenset[str] = frozenset()  #: every name that `notify` gives
    #: The diskimages that each provider lists, None where that can't be read.
    listing: Mapping[str, frozenset[str] | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DiskImages:
    """The diskimages of a file: those to build, and the names that are only parents or have problems."""

    images: Mapping[str, DiskImage]
    abstract: frozenset[str]
    written: frozenset[str]


def build_defaults(file: Checked[ConfigFile], problems: Problems) -> Defaults:
    """The global keys that diskimages fall back to."""
    content = file.content
    where = partial(file.place, "schedule")
    return Defaults(
        schedule=None if content.schedule is None else _entries(content.schedule, where, problems),
        catch_up=_either(_timedelta(content.catch_up), Defaults.catch_up),
        rebuild_age=None if content.rebuild_age is None else seconds(content.rebuild_age),
        keep=content.keep or Defaults.keep,
        keep_for=None if content.keep_days is None else days(content.keep_days),
        targets=file.names("notify"),
        listing=_listing(file),
    )


def _listing(file: Checked[ConfigFile]) -> Mapping[str, frozenset[str] | None]:
    """The diskimages that each provider of a file lists, None where that does not fit the schema."""
    found: dict[str, frozenset[str] | None] = dict.fromkeys(file.names("providers"))
    for position, entry in enumerate(file.content.providers or ()):
        if isinstance(entry, ProviderEntry) and not file.is_cut("providers", position, "diskimages"):
            found[entry.name] = frozenset(image.name for image in entry.diskimages or ())
    return MappingProxyType(found)


def build_diskimages(
    sources: Sources, known: Platforms, defaults: Defaults, problems: Problems
) -> DiskImages:
    """Every diskimage of the files that is to be built, and what else is known of names."""
    recipes, platforms = named_recipes(sources, known, problems), known.platforms
    written = sources.names("diskimages") | recipes.keys()
    merged = merge_all(recipes, written, problems)
    abstract = frozenset(name for name, recipe in recipes.items() if recipe.entry.abstract)
    images: dict[str, DiskImage] = {}
    for name, recipe in merged.items():
        if name in abstract:
            check_templates(recipes[name], problems)
            continue
        platform_name = recipe.entry.platform
        if platform_name is not None and platform_name not in platforms:
            _unknown_platform(recipe, known, problems)
            continue
        platform = None if platform_name is None else platforms[platform_name]
        rendered = render_recipe(recipe, names_for(platform, name), problems)
        images[name] = _diskimage(rendered, platform, defaults, problems)
    _check_followed(images, merged, abstract, frozenset(written), problems)
    return DiskImages(images=MappingProxyType(images), abstract=abstract, written=frozenset(written))


def _check_followed(
    images: Mapping[str, DiskImage],
    recipes: Mapping[str, Recipe],
    abstract: frozenset[str],
    written: frozenset[str],
    problems: Problems,
) -> None:
    """Note who follows a diskimage that is not built, or itself in the end."""
    told: set[str] = set()
    for name, image in images.items():
        where = recipes[name].where
        for position, entry in enumerate(image.schedule):
            if entry.after in abstract:
                problems.add(where("schedule", position), f"{entry.after!r} is abstract, and so never built")
            elif entry.after is not None and entry.after not in written:
                hint = suggestion(entry.after, images)
                problems.add(where("schedule", position), f"there is no diskimage {entry.after!r}{hint}")
        circle = None if name in told else schedules.cycle(images, name)
        if circle is not None:
            told.update(circle)
            problems.add(where("schedule"), f"it follows itself: {' after '.join(circle)}")


def with_formats(
    images: Mapping[str, DiskImage], wanted: Mapping[str, set[ImageFormat]]
) -> Mapping[str, DiskImage]:
    """The images with the formats that providers need added to their own."""
    return MappingProxyType(
        {
            name: replace(image, formats=tuple(sorted({*image.formats, *wanted.get(name, ())})))
            for name, image in images.items()
        }
    )


def with_secrets(
    diskimages: DiskImages, secure: Checked[SecureFile], problems: Problems
) -> Mapping[str, DiskImage]:
    """The images with the secure file's environment on top of their own; its values are secret."""
    images = dict(diskimages.images)
    for position, entry in enumerate(secure.content.diskimages or []):
        place = secure.place("diskimages", position, "name")
        if entry.name in diskimages.abstract:
            problems.add(place, f"diskimage {entry.name!r} is abstract: name the diskimages that are built")
        elif entry.name not in diskimages.written:
            problems.add(place, f"there is no diskimage {entry.name!r}{suggestion(entry.name, images)}")
        elif entry.name in images:
            variables = entry.env_vars or {}
            for variable in variables:
                _check_variable(secure, ("diskimages", position, "env-vars", variable), variable, problems)
            images[entry.name] = _with_secret_environment(images[entry.name], variables)
    return MappingProxyType(images)


def _check_variable(file: Checked[SecureFile], path: KeyPath, name: str, problems: Problems) -> None:
    problem = environment_name_problem(name)
    if problem:
        problems.add(file.place(*path), problem)


def _with_secret_environment(image: DiskImage, variables: Mapping[str, str]) -> DiskImage:
    return replace(
        image,
        environment=MappingProxyType({**image.environment, **variables}),
        secret_names=image.secret_names | variables.keys(),
    )


def _unknown_platform(recipe: Recipe, known: Platforms, problems: Problems) -> None:
    name = recipe.entry.platform or ""
    if name not in known.written and known.complete:
        hint = suggestion(name, known.written)
        problems.add(recipe.where("platform"), f"there is no platform {name!r}{hint}")


def _diskimage(
    recipe: Recipe, platform: Platform | None, defaults: Defaults, problems: Problems
) -> DiskImage:
    """A rendered recipe as the rest of the program knows it; what can't be used is a problem."""
    entry = recipe.entry
    environment = _environment(recipe, platform, problems)
    tested = boot_test(recipe, platform, problems)
    return DiskImage(
        name=entry.name,
        platform=platform,
        elements=_elements(recipe, problems),
        environment=MappingProxyType(environment),
        secret_names=_secret_names(environment, platform),
        formats=_formats(recipe, "formats", problems),
        schedule=_schedule(recipe, defaults, problems),
        rebuild_age=_either(_timedelta(entry.rebuild_age), defaults.rebuild_age),
        build_timeout=_either(_timedelta(entry.build_timeout), DiskImage.build_timeout),
        pause=_either(entry.pause, DiskImage.pause),
        keep=_either(entry.keep, defaults.keep),
        keep_for=defaults.keep_for if entry.keep_days is None else days(entry.keep_days),
        dib_cmd=_dib_cmd(recipe, problems),
        username=_either(entry.username, DiskImage.username),
        python_path=_either(entry.python_path, DiskImage.python_path),
        shell_type=entry.shell_type,
        metadata=MappingProxyType({**_described(platform), **(entry.metadata or {})}),
        sharing=_sharing(recipe, problems),
        stable_name=_glance_text(recipe, "stable_name", problems),
        stable_tag=_glance_text(recipe, "stable_tag", problems),
        promote=promote(recipe, defaults.listing, problems),
        hide_old=_either(entry.hide_old, DiskImage.hide_old),
        format_options=MappingProxyType(_format_options(recipe, problems)),
        delete_after_upload=_either(entry.delete_after_upload, DiskImage.delete_after_upload),
        keep_formats=_formats(recipe, "keep_formats", problems),
        skip_unchanged=entry.if_unchanged == "skip",
        max_age=_timedelta(entry.max_age),
        catch_up=_either(_timedelta(entry.catch_up), defaults.catch_up),
        requires=_requires(recipe, platform, problems),
        notify=_notify(recipe, defaults, problems),
        boot_test=tested,
        budgets=budgets(recipe, tested, problems),
    )


def _either(value: ValueT | None, otherwise: ValueT) -> ValueT:
    return otherwise if value is None else value


def _timedelta(value: float | None) -> timedelta | None:
    return None if value is None else seconds(value)


def _secret_names(environment: Mapping[str, str], platform: Platform | None) -> frozenset[str]:
    """The variables that hold a secret by their names, by credentials in a URL, or because what a secret
    variable of the platform holds was rendered into them."""
    secrets = secret_texts(platform.variables) if platform else frozenset[str]()
    return frozenset(
        name
        for name, value in environment.items()
        if looks_secret(name) or credentials_in(value) or any(secret in value for secret in secrets)
    )


def _elements(recipe: Recipe, problems: Problems) -> tuple[str, ...]:
    elements = tuple(recipe.entry.elements or ())
    for position, element in enumerate(elements):
        problem = element_problem(element)
        if problem:
            problems.add(recipe.where("elements", position), problem)
    return elements


def _environment(recipe: Recipe, platform: Platform | None, problems: Problems) -> dict[str, str]:
    """The environment of diskimage-builder; `env-vars` win over `release`, that over the platform's."""
    variables = recipe.entry.env_vars or {}
    for name in variables:
        problem = environment_name_problem(name)
        if problem:
            problems.add(recipe.where("env_vars", name), problem)
    release = recipe.entry.release or (platform.release if platform else None)
    return {RELEASE_VARIABLE: release, **variables} if release else dict(variables)


def _formats(recipe: Recipe, key: str, problems: Problems) -> tuple[ImageFormat, ...]:
    formats: set[ImageFormat] = set()
    for position, text in enumerate(getattr(recipe.entry, key) or ()):
        try:
            formats.add(image_format(text))
        except BadValueError as problem:
            problems.add(recipe.where(key, position), str(problem))
    if key == "formats" and (conflict := layout_problem(sorted(formats))):
        problems.add(recipe.where(key), conflict)
    return tuple(sorted(formats))


def _described(platform: Platform | None) -> dict[str, str]:
    """The properties by which clouds know what is in an image (Glance's "useful image properties")."""
    if platform is None:
        return {}
    return {
        "os_type": "linux",
        "os_distro": platform.distribution,
        "os_version": platform.release,
        "architecture": _MACHINES.get(platform.architecture, platform.architecture),
        **platform.properties,
    }


def _sharing(recipe: Recipe, problems: Problems) -> Sharing:
    entry = recipe.entry
    return checked_sharing(
        Sharing(
            visibility=_either(entry.visibility, Sharing.visibility),
            members=tuple(entry.members or ()),
            tags=tuple(entry.tags or ()),
            hidden=_either(entry.hidden, Sharing.hidden),
        ),
        recipe.where,
        problems,
    )


def checked_sharing(sharing: Sharing, where: Callable[..., Place], problems: Problems) -> Sharing:
    """The same; what Glance would not take is a problem at `where(key)` or `where(key, position)`."""
    for position, tag in enumerate(sharing.tags):
        if problem := glance_text_problem(tag):
            problems.add(where("tags", position), f"a tag {problem}")
    for position, member in enumerate(sharing.members):
        if problem := project_id_problem(member):
            problems.add(where("members", position), problem)
    if sharing.members and sharing.visibility != "shared":
        problems.add(
            where("members"),
            f"only a shared image has members; this one is {sharing.visibility} (say `visibility: shared`)",
        )
    return sharing


def _glance_text(recipe: Recipe, key: str, problems: Problems) -> str | None:
    text: str | None = getattr(recipe.entry, key)
    if text is not None and (problem := glance_text_problem(text)):
        problems.add(recipe.where(key), f"what an image is known by {problem}")
    return text


def _format_options(recipe: Recipe, problems: Problems) -> dict[str, FormatOptions]:
    options: dict[str, FormatOptions] = {}
    for name, entry in (recipe.entry.format_options or {}).items():
        place = recipe.where("format_options", name)
        try:
            wanted = image_format(name)
        except BadValueError as problem:
            problems.add(place, str(problem))
            continue
        if problem_of_options := _options_problem(wanted, entry):
            problems.add(place, problem_of_options)
        options[wanted] = FormatOptions(compression=entry.compression, compat=entry.compat)
    return options


def _options_problem(wanted: ImageFormat, entry: FormatEntry) -> str | None:
    if wanted is not ImageFormat.QCOW2:
        return f"{wanted} has no options" if entry.compression or entry.compat else None
    if entry.compat == "0.10" and entry.compression == "zstd":
        return "zstd needs compat '1.1': choose zlib or none for '0.10'"
    return None


def _schedule(recipe: Recipe, defaults: Defaults, problems: Problems) -> tuple[ScheduleEntry, ...]:
    """Its own or inherited schedule, else the global one, else none if `rebuild-age` rules, else 14:14."""
    entry = recipe.entry
    if entry.schedule is not None:
        return _entries(entry.schedule, partial(recipe.where, "schedule"), problems)
    if defaults.schedule is not None:
        # A diskimage does not follow itself, though all others follow it.
        return tuple(found for found in defaults.schedule if found.after != entry.name)
    by_age = entry.rebuild_age is not None or defaults.rebuild_age is not None
    return () if by_age else DEFAULT_SCHEDULE


def _entries(
    texts: Sequence[str], where: Callable[..., Place], problems: Problems
) -> tuple[ScheduleEntry, ...]:
    found: list[ScheduleEntry] = []
    for position, entry in schedules.entries(texts):
        if isinstance(entry, BadValueError):
            problems.add(where() if position is None else where(position), str(entry))
        else:
            found.append(entry)
    return tuple(found)


def _requires(recipe: Recipe, platform: Platform | None, problems: Problems) -> frozenset[str]:
    """The labels its builder needs: those it names, else the architecture of its platform."""
    labels = recipe.entry.requires
    if labels is None:
        return frozenset() if platform is None else frozenset({platform.architecture})
    for position, label in enumerate(labels):
        if problem := label_problem(label):
            problems.add(recipe.where("requires", position), problem)
    return frozenset(labels)


def _notify(recipe: Recipe, defaults: Defaults, problems: Problems) -> tuple[str, ...] | None:
    names = recipe.entry.notify
    for position, name in enumerate(names or ()):
        if name not in defaults.targets:
            hint = suggestion(name, defaults.targets) or "; there are none"
            problems.add(recipe.where("notify", position), f"`notify` has no {name!r}{hint}")
    return None if names is None else tuple(names)


def _dib_cmd(recipe: Recipe, problems: Problems) -> tuple[str, ...]:
    text = recipe.entry.dib_cmd
    if text is None:
        return DiskImage.dib_cmd
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        problems.add(recipe.where("dib_cmd"), f"can't be split into words: {error}")
        return DiskImage.dib_cmd
    if not words or not words[0]:
        problems.add(recipe.where("dib_cmd"), "must name a program")
        return DiskImage.dib_cmd
    return words
