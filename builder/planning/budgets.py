"""Judge a finished build by its budgets, beside the last good one: which it keeps to, and what follows.

Whatever is not known is within its budget: an image that nobody booted has no boot time, and the first build
of an image is larger than none. Seconds of a machine that was emulated tell nothing about one that was not,
so they are compared with those of the same kind alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from builder.config.model import Budget
from builder.model import BootResult, BudgetAction, BudgetCheck, Build, ImageRecords, Measure
from builder.planning.records import ready_builds
from builder.planning.words import short
from builder.shown import size, visible

#: What the boot test calls it.
_BOOTED: Final = {
    Measure.DISK_CLAIMED: "disk_claimed",
    Measure.BOOT_SECONDS: "userspace_seconds",
    Measure.SSH_SECONDS: "ssh_seconds",
    Measure.MEMORY: "memory_used",
}
_OF_THE_MACHINE: Final = frozenset({Measure.BOOT_SECONDS, Measure.SSH_SECONDS})
#: Decimals of what is compared and shown, as many as a budget may have: what nobody can see is not over.
_DECIMALS: Final = 3
#: How many new files or ports a sentence names.
_NAMED: Final = 5
_NO_BASELINE: Final = "nothing to compare with"


def last_good(records: ImageRecords, build: Build) -> Build | None:
    """The build that another is compared with: the newest ready one before it that is withheld nowhere."""
    return next((b for b in ready_builds(records) if b.id != build.id and not b.withheld), None)


def judge(budgets: Iterable[Budget], build: Build, last: Build | None) -> tuple[BudgetCheck, ...]:
    """What comes of each budget of a build that has all it is measured by on its record, apart from its end;
    `last` is the last good one, None without one."""
    return tuple(
        _judge_new(budget, build, last) if budget.measure.is_new else _judge(budget, build, last)
        for budget in budgets
    )


def worst(checks: Iterable[BudgetCheck]) -> BudgetAction | None:
    """What follows from all of them: the worst of what follows from any; None when nothing does."""
    order = list(BudgetAction)
    return max((check.over for check in checks if check.over is not None), key=order.index, default=None)


def sentence(checks: Iterable[BudgetCheck]) -> str:
    """Why something follows, without full stop: "over budget: size is ...; packages is ..."."""
    return f"over budget: {'; '.join(check.sentence for check in checks if check.over is not None)}"


# -- numbers --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Limit:
    value: float
    why: str = ""  #: what it comes from, where that is not a number of the configuration


def _judge(budget: Budget, build: Build, last: Build | None) -> BudgetCheck:
    measure, value = budget.measure, value_of(build, budget.measure)
    name = str(measure)
    if value is None:
        return BudgetCheck(measure=name, sentence=f"{name}: not measured")
    baseline = _comparable(measure, build, last)
    limits = list(_limits(budget, baseline, last))
    if not limits:
        text = f"{name} is {_shown(measure, value)}: {_NO_BASELINE}"
        return BudgetCheck(measure=name, sentence=text, value=value)
    limit = min(limits, key=lambda each: each.value)
    over = _rounded(measure, value) > limit.value
    allowed = f"{_shown(measure, limit.value)}{limit.why}"
    if over:
        text = f"{name} is {_shown(measure, value)}, {_shown(measure, value - limit.value)} over {allowed}"
    else:
        text = f"{name} is {_shown(measure, value)} of at most {allowed}"
    if budget.grows is not None and baseline is None:
        text += f"; {_NO_BASELINE}"
    return BudgetCheck(
        measure=name,
        sentence=text,
        over=budget.over if over else None,
        value=value,
        limit=limit.value,
        baseline=baseline if budget.grows is not None else None,
    )


def _limits(budget: Budget, baseline: float | None, last: Build | None) -> Iterable[_Limit]:
    if budget.most is not None:
        yield _Limit(value=budget.most)
    if budget.grows is not None and baseline is not None and last is not None:
        grows = baseline * budget.grows / 100 if budget.relative else budget.grows
        more = f"{_plain(budget.grows)} %" if budget.relative else _shown(budget.measure, budget.grows)
        than = f"the {_shown(budget.measure, baseline)} of build {short(last.id)}"
        most = _rounded(budget.measure, baseline + grows)
        yield _Limit(value=most, why=f" ({more} more than {than})")


def value_of(build: Build, measure: Measure) -> float | None:
    """What a build comes to in a measure that is a number of its own; None when nobody measured it."""
    match measure:
        case Measure.SIZE:
            return max((artifact.size for artifact in build.artifacts), default=None)
        case Measure.ALLOCATED_SIZE | Measure.PACKAGES:
            return build.measures.get(measure)
        case Measure.BUILD_SECONDS:
            return build.duration
    return None if build.test is None else build.test.measures.get(_BOOTED[measure])


def _comparable(measure: Measure, build: Build, last: Build | None) -> float | None:
    """The value of the last good build; None when it has none, or its machine was of another kind."""
    if last is None:
        return None
    if measure in _OF_THE_MACHINE and _accelerator(build) != _accelerator(last):
        return None
    return value_of(last, measure)


def _accelerator(build: Build) -> str | None:
    return build.test.accelerator if build.test is not None else None


def _shown(measure: Measure, value: float) -> str:
    if measure.is_bytes:
        return size(round(value))
    return f"{_plain(value)} s" if measure.is_seconds else _plain(value)


def _rounded(measure: Measure, value: float) -> float:
    return round(value) if measure.is_bytes else round(value, _DECIMALS)


def _plain(value: float) -> str:
    """A number with the decimals it has, and no exponent."""
    return f"{value:.{_DECIMALS}f}".rstrip("0").rstrip(".")


# -- what is new ----------------------------------------------------------------------------------


def _judge_new(budget: Budget, build: Build, last: Build | None) -> BudgetCheck:
    name, limit = str(budget.measure), budget.most
    there = _names(budget.measure, build.test)
    before = _names(budget.measure, last.test if last is not None else None)
    if there is None:
        return BudgetCheck(measure=name, sentence=f"{name}: not measured")
    if before is None or len(before) >= BootResult.MOST_NAMES or last is None:
        # A record has no more names than that, and what it lacks would all count as new.
        return BudgetCheck(measure=name, sentence=f"{name}: {_NO_BASELINE}")
    new = sorted(there - before)
    count, than = len(new), f"build {short(last.id)} did not have them"
    over = limit is not None and count > limit
    text = f"{name} is {count} of at most {_plain(limit or 0)}" + (f": {_listed(new)}; {than}" if new else "")
    return BudgetCheck(
        measure=name, sentence=text, over=budget.over if over else None, value=count, limit=limit
    )


def _names(measure: Measure, test: BootResult | None) -> frozenset[str] | None:
    """The files or ports that were found, cut as on record; None when there are none: whoever can log in to
    look found a port at least, and whoever becomes root a setuid file."""
    if test is None:
        return None
    found = test.setuid if measure is Measure.NEW_SETUID_FILES else test.ports
    return frozenset(name[: BootResult.LONGEST_NAME] for name in found) or None


def _listed(names: list[str]) -> str:
    # What files are called is up to whoever made the image.
    more = len(names) - _NAMED
    return ", ".join([*map(visible, names[:_NAMED]), *([f"{more} more"] if more > 0 else [])])
