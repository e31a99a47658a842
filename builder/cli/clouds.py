"""Ask the clouds of several providers at the same time, none of them longer than somebody will wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, TypeVar

from builder.bounded import at_once
from builder.config.model import Provider
from builder.errors import CloudError, CloudUnavailableError

#: Seconds for all of them together; a few requests each, which have a timeout of their own.
PATIENCE: Final = 60.0

Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class Answer(Generic[Found]):
    """What a cloud said, or why it didn't: one of `found` and `trouble` is None."""

    provider: Provider
    found: Found | None = None
    trouble: str | None = None


def ask_each(
    providers: Sequence[Provider], ask: Callable[[Provider], Found], *, seconds: float = PATIENCE
) -> tuple[Answer[Found], ...]:
    """What `ask` returns for each provider, in their order; what a cloud raises is its trouble alone."""
    answers = at_once([partial(_ask, provider, ask) for provider in providers], seconds=seconds)
    return tuple(
        answer or Answer(provider=provider, trouble=f"no answer within {seconds:g} s")
        for provider, answer in zip(providers, answers, strict=True)
    )


def _ask(provider: Provider, ask: Callable[[Provider], Found]) -> Answer[Found]:
    try:
        return Answer(provider=provider, found=ask(provider))
    except (CloudError, CloudUnavailableError) as error:
        said = error.message.removeprefix(f"provider {provider.name}: ")
        hint = f" {error.hint}" if error.hint else ""
        return Answer(provider=provider, trouble=f"{error.failure_class}: {said}.{hint}")
