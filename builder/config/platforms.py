"""Makes platforms of what the files say about them: expanded, named, laid over each other, rendered."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

from builder.config.checking import Checked
from builder.config.matrix import Expansion, WrittenPlatform
from builder.config.model import Platform, masked_credentials
from builder.config.problems import Place, Problems, suggestion, text_problem
from builder.config.schema import HOST_MIRROR, ConfigFile, DistributionEntry, Library
from builder.config.sources import Sources
from builder.config.template import PlatformResolver, TemplateTextError, is_template
from builder.model import name_problem

_VARIABLE = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://\S+\Z")
#: What a platform is, of which nothing is a template.
_WORDS: Final = ("distribution", "release", "architecture")
_MIRRORS: Final = ("mirror", "security_mirror", "updates_mirror")
#: Names that no variable can have. `updates_mirror` came later, and is one only where there is such a mirror.
_FIELDS: Final = frozenset({"name", *_WORDS, "mirror", "security_mirror"})


@dataclass(frozen=True, kw_only=True)
class Platforms:
    """The platforms of a configuration, by name, and the names that are written, problems or not.

    `complete` is false when there may be more, whose names are unknown because something is wrong with them.
    """

    platforms: Mapping[str, Platform] = field(default_factory=dict)
    written: frozenset[str] = frozenset()
    complete: bool = True


def build_platforms(sources: Sources, problems: Problems) -> Platforms:
    """Every platform of the files, rendered."""
    expansion = Expansion(problems)
    included: dict[str, WrittenPlatform] = {}
    for file in sources.included:
        _add_all(_named(file, expansion, problems), included, problems)
    own: dict[str, WrittenPlatform] = {}
    _add_all(_named(sources.main, expansion, problems), own, problems)
    laid = {name: each.laid_over(included[name]) if name in included else each for name, each in own.items()}
    hint = frozenset(included)
    mirrors = _Mirrors(sources.main, problems)
    built = {
        name: _platform(mirrors.applied(each), hint, problems) for name, each in {**included, **laid}.items()
    }
    names = sources.names("platforms")
    mirrors.check_names(sources.names("platforms", "distribution"))
    return Platforms(
        platforms=MappingProxyType({name: each for name, each in built.items() if each is not None}),
        written=names | built.keys(),
        complete=not len(problems) or not (_multiplies(sources) or any(map(is_template, names))),
    )


def _multiplies(sources: Sources) -> bool:
    return any(entry.matrix is not None for file in sources.files for entry in file.content.platforms or ())


# -- names -----------------------------------------------------------------------------------------


def _named(file: Checked[Library], expansion: Expansion, problems: Problems) -> Iterator[WrittenPlatform]:
    """The platforms of a file by their rendered names; those that have none are left out."""
    for position, entry in enumerate(file.content.platforms or []):
        if entry.matrix is not None and not is_template(entry.name):
            problems.add(
                file.place("platforms", position, "name"),
                f"{entry.name!r} is the same for all rows of the matrix: write a template over the platform,"
                " as in 'debian-{{ platform.release }}'",
            )
            continue
        for platform in expansion.expanded(file, position):
            try:
                name = _resolver(platform).resolve("name")
            except TemplateTextError as problem:
                problems.add(platform.where("name"), str(problem))
                continue
            yield replace(platform, texts={**platform.texts, "name": name})


def _add_all(
    found: Iterator[WrittenPlatform], platforms: dict[str, WrittenPlatform], problems: Problems
) -> None:
    """Add them by name; of two with the same name, the first stays."""
    for platform in found:
        other = platforms.setdefault(platform.name, platform)
        if other is platform:
            continue
        message = f"there are two platforms named {platform.name!r}"
        if platform.place != platform.entry:
            message += f", one of them on line {other.place.line} of {other.place.file}"
        problems.add(platform.where("name") if platform.place == platform.entry else platform.place, message)


def _resolver(platform: WrittenPlatform) -> PlatformResolver:
    """What renders the texts of a platform; its name, too, unless that has been done."""
    texts = {"architecture": Platform.architecture, **platform.texts}
    plain = {key: text for key, text in texts.items() if key in _WORDS}
    templates: dict[str, Any] = {
        **_sound_variables(platform),
        **{k: texts[k] for k in texts if k not in plain},
    }
    name = platform.name
    if is_template(name):
        described = " ".join(plain.get(key, "") for key in _WORDS).strip()
        return PlatformResolver(f"the platform for {described}", plain, templates)
    del templates["name"]
    return PlatformResolver(f"platform {name!r}", {**plain, "name": name}, templates)


# -- mirrors ---------------------------------------------------------------------------------------


class _Mirrors:
    """What `mirrors` says of distributions."""

    def __init__(self, file: Checked[ConfigFile], problems: Problems) -> None:
        self._file = file
        self._problems = problems
        self._entries = {
            name: entry for name, entry in (file.content.mirrors or {}).items() if entry is not None
        }

    def check_names(self, known: frozenset[str]) -> None:
        """Note every distribution that no platform has."""
        for name in self._entries.keys() - known:
            self._problems.add(
                self._file.place("mirrors", name),
                f"no platform has the distribution {name!r}{suggestion(name, known)}",
            )

    def applied(self, platform: WrittenPlatform) -> WrittenPlatform:
        """The platform with the mirrors of its distribution, where it names none itself."""
        name = platform.texts.get("distribution", "")
        entry = self._entries.get(name)
        if entry is None:
            return platform
        texts, places = dict(platform.texts), dict(platform.places)
        for key, text, where in self._given(name, entry):
            if text is not None and key not in texts:
                texts[key], places[(key,)] = text, where
        if "mirror" in texts and "updates_mirror" not in texts:
            # Updates are where the rest is, but for security updates, unless somebody knows better.
            texts["updates_mirror"], places[("updates_mirror",)] = texts["mirror"], places[("mirror",)]
        keep = entry.keep if platform.keep_mirrors is None else platform.keep_mirrors
        return replace(platform, texts=texts, places=places, keep_mirrors=keep)

    def _given(self, name: str, entry: DistributionEntry) -> Iterator[tuple[str, str | None, Place]]:
        written = (("mirror", "main"), ("security_mirror", "security"), ("updates_mirror", "updates"))
        for key, word in written:
            path = ("mirrors", name, word)
            known = path in self._file.document.lines
            yield key, getattr(entry, word), self._file.place(*(path if known else path[:2]))


# -- what comes out --------------------------------------------------------------------------------


def _platform(written: WrittenPlatform, included: frozenset[str], problems: Problems) -> Platform | None:
    """The platform rendered; None, with a problem noted, when it lacks what each needs."""
    if not _is_whole(written, included, problems):
        return None
    texts = written.texts
    found = {key: name_problem(texts[key]) for key in ("name", *_WORDS) if key in texts}
    unfit = {key: problem for key, problem in found.items() if problem}
    for key, problem in unfit.items():
        if key != "name" or len(unfit) == 1:  # or it is a template over what is told already
            problems.add(written.where(key), problem)
    resolver = _resolver(written)
    mirrors = {key: _mirror(written, key, resolver, problems) for key in _MIRRORS if key in texts}
    _check_variables(written, problems)
    return Platform(
        name=written.name,
        distribution=texts["distribution"],
        release=texts["release"],
        architecture=texts.get("architecture", Platform.architecture),
        **mirrors,
        keep_mirrors=bool(written.keep_mirrors),
        properties=MappingProxyType(_rendered_all(written, "properties", resolver, problems)),
        variables=MappingProxyType(_rendered_all(written, "variables", resolver, problems)),
    )


def _is_whole(written: WrittenPlatform, included: frozenset[str], problems: Problems) -> bool:
    missing = [key for key in ("distribution", "release") if key not in written.texts]
    hint = ""
    if included and len(missing) == 2:
        hint = f": no included file has a platform {written.name!r}{suggestion(written.name, included)}"
    for key in missing:
        place = replace(written.entry, path=f"{written.entry.path}.{key}")
        if not problems.told_of(place):
            problems.add(place, f"is required{hint}")
    return not missing


def _mirror(written: WrittenPlatform, key: str, resolver: PlatformResolver, problems: Problems) -> str | None:
    """The mirror rendered; a template that comes to nothing is none."""
    try:
        mirror = str(resolver.resolve(key))
    except TemplateTextError as problem:
        problems.add(written.where(key), str(problem))
        return None
    if not mirror and written.texts[key]:
        return None
    if mirror != HOST_MIRROR and not _URL.match(mirror):
        problems.add(
            written.where(key),
            f"must be a URL, or {HOST_MIRROR!r} for the mirror this machine uses, not"
            f" {masked_credentials(mirror)!r}",
        )
    return mirror


def _rendered_all(
    written: WrittenPlatform, key: str, resolver: PlatformResolver, problems: Problems
) -> dict[str, Any]:
    """A mapping of the platform with every text in it rendered; what can't be is a problem, and left out."""
    values = _sound_variables(written) if key == "variables" else written.properties
    rendered: dict[str, Any] = {}
    for name, value in values.items():
        try:
            result = resolver.resolve(name) if key == "variables" else resolver.rendered(value)
        except TemplateTextError as problem:
            problems.add(written.where(key, name), str(problem))
            continue
        unsound = text_problem(result) if key == "properties" else None
        if unsound:
            problems.add(written.where(key, name), unsound)
        rendered[name] = result
    return rendered


def _sound_variables(written: WrittenPlatform) -> Mapping[str, Any]:
    return {
        name: value for name, value in written.variables.items() if _variable_problem(name, written) is None
    }


def _check_variables(written: WrittenPlatform, problems: Problems) -> None:
    for name in written.variables:
        problem = _variable_problem(name, written)
        if problem:
            problems.add(written.where("variables", name), problem)


def _variable_problem(name: str, written: WrittenPlatform) -> str | None:
    if name in _FIELDS or (name in _MIRRORS and name in written.texts):
        return f"{name!r} is a key of the platform itself, so no variable can be called so"
    if not _VARIABLE.match(name):
        return "a variable's name is made of letters, digits and '_', and starts with a letter"
    return text_problem(name)
