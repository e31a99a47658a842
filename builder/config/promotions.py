"""Makes of `promote` when a diskimage's new builds begin to serve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from builder.config.inheritance import Recipe
from builder.config.model import Canary, DiskImage
from builder.config.problems import Problems, suggestion
from builder.config.schema import PromoteEntry
from builder.config.values import BadValueError, duration, promotion

Policy = Literal["each", "all", "manual"] | int | Canary

#: What goes with `canary` alone.
_WITH_CANARY: Final = ("soak", "check", "check_timeout")


def promote(recipe: Recipe, listing: Mapping[str, frozenset[str] | None], problems: Problems) -> Policy:
    """When its new builds begin to serve; what can't be used is a problem.

    `listing`: the diskimages that each provider lists; None where that is not known, for the provider has
    problems of its own.
    """
    entry = recipe.entry.promote
    if entry is None:
        return DiskImage.promote
    for key, problem in _problems(recipe.entry.name, entry, listing):
        problems.add(recipe.where("promote", key), problem)
    if entry.canary is not None:
        return _canary(recipe, entry, problems)
    try:
        return DiskImage.promote if entry.policy is None else promotion(entry.policy)
    except BadValueError as problem:
        problems.add(recipe.where("promote"), str(problem))
    return DiskImage.promote


def as_data(policy: Policy) -> str | int | dict[str, Any]:
    """What the file says for it."""
    if not isinstance(policy, Canary):
        return policy
    return {
        "canary": list(policy.providers),
        "soak": policy.soak.total_seconds(),
        **({"check": list(policy.check)} if policy.check else {}),
        "check-timeout": policy.check_timeout.total_seconds(),
    }


def _canary(recipe: Recipe, entry: PromoteEntry, problems: Problems) -> Canary:
    found: dict[str, Any] = {}
    for key in ("soak", "check_timeout"):
        text = getattr(entry, key)
        try:
            if text is not None:
                found[key] = duration(text)
        except BadValueError as problem:
            problems.add(recipe.where("promote", key), str(problem))
    if "check_timeout" in found and not found["check_timeout"]:
        problems.add(recipe.where("promote", "check_timeout"), "must be more than 0")
    return Canary(providers=tuple(entry.canary or ()), check=tuple(entry.check or ()), **found)


def _problems(
    image: str, entry: PromoteEntry, listing: Mapping[str, frozenset[str] | None]
) -> Iterator[tuple[str, str]]:
    """What is wrong with it, each with the key that is to blame."""
    if entry.canary is None:
        for key in _WITH_CANARY:
            if getattr(entry, key) is not None:
                yield key, "goes with `canary`, which names the providers that serve a new build first"
        return
    if entry.policy is not None:
        yield "policy", "goes without `canary`: a new build is promoted in one way"
    yield from (("canary", problem) for problem in _provider_problems(image, entry.canary, listing))
    if entry.check is not None:
        yield from (("check", problem) for problem in _command_problems(entry.check))


def _provider_problems(
    image: str, names: list[str], listing: Mapping[str, frozenset[str] | None]
) -> Iterator[str]:
    if not names:
        yield "must name at least one provider"
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield f"provider {name!r} is listed twice"
        images = listing.get(name, frozenset())
        if name not in listing:
            yield f"there is no provider {name!r}{suggestion(name, listing)}"
        elif images is not None and image not in images:
            yield f"provider {name!r} does not have {image!r}: list it there, or name another one"


def _command_problems(words: list[str]) -> Iterator[str]:
    if not words or not words[0].strip():
        yield "must name a program"
    elif not Path(words[0]).is_absolute():
        yield f"must name a program by its full path, as in '/etc/imagepool/check-image', not {words[0]!r}"
