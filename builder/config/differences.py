"""Says how two platforms, or two diskimages, differ once they are rendered; secrets stay masked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Final

from builder.config.model import Config, DiskImage, Platform
from builder.config.problems import suggestion
from builder.config.show import diskimage_data, platform_data
from builder.errors import NotFoundError

#: Stands for a key that one of the two does not have.
ABSENT: Final = object()
#: Follows a value that looks like the one it is compared with for what is masked in it, and is another.
_ANOTHER: Final = " (another)"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One key that differs; `before` and `after` may be ABSENT.

    `inner` is what differs inside, where both are mappings.
    """

    key: str
    before: Any
    after: Any
    inner: tuple[Change, ...] = ()

    @property
    def is_list(self) -> bool:
        """Whether it is the items of a list that differ."""
        sides = [side for side in (self.before, self.after) if side is not ABSENT]
        return all(isinstance(side, list) for side in sides)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How `after` differs from `before`, both of a `kind`: "platform" or "diskimage"."""

    kind: str
    before: str
    after: str
    changes: tuple[Change, ...]


def compare(config: Config, before: str, after: str) -> Comparison:
    """How two diskimages differ, or, where these are not the names of diskimages, two platforms.

    What differs in the platforms of two diskimages is below `platform`. Raises NotFoundError.
    """
    if before in config.diskimages and after in config.diskimages:
        changes = _differing(*(_image_sides(config.diskimages[name]) for name in (before, after)))
        return Comparison(kind="diskimage", before=before, after=after, changes=changes)
    if before in config.platforms and after in config.platforms:
        changes = _differing(*(_platform_sides(config.platforms[name]) for name in (before, after)))
        return Comparison(kind="platform", before=before, after=after, changes=changes)
    raise _not_found(config, before, after)


def as_data(comparison: Comparison) -> dict[str, Any]:
    """The comparison in lists and mappings: of each key that differs what it was `from` and what it comes
    `to`, or, of a list, which items are `removed` and `added`."""
    return {
        f"{comparison.kind}s": [comparison.before, comparison.after],
        "same": not comparison.changes,
        "differences": _data(comparison.changes),
    }


def steps(change: Change) -> Iterator[tuple[str, Any]]:
    """The items of both lists of a change, in their order: "-" and an item that only the first has there,
    "+" and one that only the second has, " " and one of both."""
    before, after = _items(change.before), _items(change.after)
    for _tag, start, end, begin, stop in _opcodes(before, after):
        if before[start:end] == after[begin:stop]:
            yield from ((" ", item) for item in before[start:end])
        else:
            yield from (("-", item) for item in before[start:end])
            yield from (("+", item) for item in after[begin:stop])


def _opcodes(before: Sequence[Any], after: Sequence[Any]) -> list[tuple[str, int, int, int, int]]:
    # Lists in lists have no hash, which SequenceMatcher needs.
    return list(
        SequenceMatcher(None, [*map(repr, before)], [*map(repr, after)], autojunk=False).get_opcodes()
    )


def _data(changes: Sequence[Change]) -> dict[str, Any]:
    return {change.key: _change_data(change) for change in changes}


def _change_data(change: Change) -> dict[str, Any]:
    if change.inner:
        return _data(change.inner)
    if change.is_list:
        found = list(steps(change))
        return {
            "removed": [item for sign, item in found if sign == "-"],
            "added": [item for sign, item in found if sign == "+"],
        }
    sides = {"from": change.before, "to": change.after}
    return {side: value for side, value in sides.items() if value is not ABSENT}


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Change, ...]:
    """What differs between two mappings, in the order of the first and then the second."""
    return tuple(
        _change(key, before.get(key, ABSENT), after.get(key, ABSENT))
        for key in {**before, **after}
        if before.get(key, ABSENT) != after.get(key, ABSENT)
    )


def _change(key: str, before: Any, after: Any) -> Change:
    sides = [side for side in (before, after) if side is not ABSENT]
    inner: tuple[Change, ...] = ()
    if all(isinstance(side, dict) for side in sides):
        inner = _changes(*({} if side is ABSENT else side for side in (before, after)))
    return Change(key=key, before=before, after=after, inner=inner)


def _items(value: Any) -> list[Any]:
    return [] if value is ABSENT else list(value)


# -- secrets ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Sides:
    """What is shown of one of the two, and beside it, by the same keys, what is really there where parts of
    that may be masked."""

    shown: Mapping[str, Any]
    real: Mapping[str, Any]


def _image_sides(image: DiskImage) -> _Sides:
    """A diskimage with its platform's data in it."""
    shown = _nameless(diskimage_data(image))
    real = {"env-vars": image.environment, "metadata": image.metadata, "dib-cmd": image.dib_cmd}
    if image.platform is None:
        return _Sides(shown=shown, real=real)
    return _Sides(
        shown={**shown, "platform": platform_data(image.platform)},
        real={**real, "platform": _platform_sides(image.platform).real},
    )


def _platform_sides(platform: Platform) -> _Sides:
    real = {
        "mirror": platform.mirror,
        "security-mirror": platform.security_mirror,
        "updates-mirror": platform.updates_mirror,
        "properties": platform.properties,
        "variables": platform.variables,
    }
    return _Sides(shown=_nameless(platform_data(platform)), real=real)


def _nameless(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key != "name"}


def _differing(before: _Sides, after: _Sides) -> tuple[Change, ...]:
    return _changes(before.shown, _told_apart(after.shown, before.shown, after.real, before.real))


def _told_apart(shown: Any, beside: Any, real: Any, real_beside: Any) -> Any:
    """What is shown, with all in it marked that looks like what is `beside` it, and really is another."""
    sides = (shown, beside, real, real_beside)
    if all(isinstance(side, Mapping) for side in sides):
        return {
            key: _told_apart(value, beside[key], real[key], real_beside[key])
            if all(key in side for side in sides)
            else value
            for key, value in shown.items()
        }
    if all(isinstance(side, list) for side in sides) and len(shown) == len(beside):
        return [_told_apart(*items) for items in zip(*sides, strict=True)]
    return f"{shown}{_ANOTHER}" if shown == beside and real != real_beside else shown


def _not_found(config: Config, before: str, after: str) -> NotFoundError:
    known: Mapping[str, DiskImage | Platform] = {**config.platforms, **config.diskimages}
    for name in (before, after):
        if name in config.abstract and name not in known:
            return NotFoundError(
                f"{name} is abstract: only a parent of others", hint="Compare diskimages that are built."
            )
        if name not in known:
            return NotFoundError(
                f"the configuration {config.path} has no platform or diskimage {name!r}"
                f"{suggestion(name, known)}"
            )
    return NotFoundError(
        f"{before} and {after} are not both platforms, nor both diskimages", hint="Compare two of a kind."
    )
