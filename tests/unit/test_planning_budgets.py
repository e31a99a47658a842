"""A build beside its budgets and the last good build: what is over, by how much, and what follows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from builder.config.model import Budget
from builder.model import (
    Artifact,
    BootResult,
    BootVerdict,
    BudgetAction,
    BudgetCheck,
    Build,
    BuildState,
    ImageFormat,
    ImageRecords,
    Measure,
    Withholding,
)
from builder.planning.budgets import judge, last_good, sentence, worst

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
MB = 1_000_000


def artifact(size: int, image_format: ImageFormat = ImageFormat.QCOW2) -> Artifact:
    return Artifact(format=image_format, size=size, virtual_size=size, md5="", sha256="", sha512="")


def boot(**more: Any) -> BootResult:
    facts: dict[str, Any] = {"verdict": BootVerdict.PASSED, "accelerator": "kvm"}
    return BootResult(**{**facts, **more})


def build(number: int = 2, **more: Any) -> Build:
    facts: dict[str, Any] = {
        "id": f"{number:032x}",
        "image": "img",
        "state": BuildState.READY,
        "state_time": NOON + timedelta(hours=number),
        "started": NOON + timedelta(hours=number - 1),
    }
    return Build(**{**facts, **more})


def check(budget: Budget, now: Build, last: Build | None = None) -> BudgetCheck:
    (found,) = judge([budget], now, last)
    return found


SIZE = Budget(measure=Measure.SIZE, most=1000 * MB, grows=10, relative=True, over=BudgetAction.FAIL)
SMALL = build(1, artifacts=(artifact(800 * MB),))


@pytest.mark.parametrize(
    ("megabytes", "is_over", "said"),
    [
        (
            880,
            False,
            "size is 880.0 MB of at most 880.0 MB (10 % more than the 800.0 MB of build 00000000)",
        ),
        (
            881,
            True,
            "size is 881.0 MB, 1.0 MB over 880.0 MB (10 % more than the 800.0 MB of build 00000000)",
        ),
    ],
)
def test_growth_is_counted_from_the_last_good_build(megabytes: int, is_over: bool, said: str) -> None:
    found = check(SIZE, build(artifacts=(artifact(megabytes * MB),)), SMALL)
    assert found == BudgetCheck(
        measure="size",
        sentence=said,
        over=BudgetAction.FAIL if is_over else None,
        value=megabytes * MB,
        limit=880 * MB,
        baseline=800 * MB,
    )


def test_the_tighter_of_two_limits_counts() -> None:
    large = build(1, artifacts=(artifact(950 * MB),))
    found = check(SIZE, build(artifacts=(artifact(1001 * MB),)), large)
    assert (found.over, found.limit) == (BudgetAction.FAIL, 1000 * MB)
    assert found.sentence == "size is 1.0 GB, 1.0 MB over 1.0 GB"


def test_the_largest_file_is_what_counts() -> None:
    files = (artifact(10), artifact(4000 * MB, ImageFormat.RAW), artifact(20, ImageFormat.VHD))
    assert check(SIZE, build(artifacts=files)).value == 4000 * MB


@pytest.mark.parametrize(
    ("measure", "record", "value"),
    [
        (Measure.ALLOCATED_SIZE, {"measures": {"allocated-size": 5.0}}, 5),
        (Measure.PACKAGES, {"measures": {"packages": 6.0}}, 6),
        (Measure.BUILD_SECONDS, {"ended": NOON + timedelta(hours=1, seconds=7)}, 7),
        (Measure.DISK_CLAIMED, {"test": boot(measures={"disk_claimed": 8})}, 8),
        (Measure.BOOT_SECONDS, {"test": boot(measures={"userspace_seconds": 9})}, 9),
        (Measure.SSH_SECONDS, {"test": boot(measures={"ssh_seconds": 10})}, 10),
        (Measure.MEMORY, {"test": boot(measures={"memory_used": 11})}, 11),
    ],
)
def test_every_measure_is_found_on_the_record(measure: Measure, record: Any, value: float) -> None:
    budget = Budget(measure=measure, most=value)
    assert check(budget, build(**record)).over is None
    found = check(replace(budget, most=value - 1), build(**record))
    assert (found.over, found.value) == (BudgetAction.HOLD, value)
    # A growth in its own unit, from a build that had two less.
    grown = Budget(measure=measure, grows=1)
    assert check(grown, build(**record), build(**record)).over is None


@pytest.mark.parametrize("measure", Measure)
def test_what_nobody_measured_is_never_over(measure: Measure) -> None:
    grows = None if measure.is_new else 0.0
    found = check(Budget(measure=measure, most=0, grows=grows, over=BudgetAction.FAIL), build(), build(1))
    assert found == BudgetCheck(measure=measure, sentence=f"{measure}: not measured")


def test_the_first_build_has_not_grown() -> None:
    grows = Budget(measure=Measure.PACKAGES, grows=0)
    found = check(grows, build(measures={"packages": 300}))
    assert found == BudgetCheck(
        measure="packages", sentence="packages is 300: nothing to compare with", value=300
    )
    both = replace(grows, most=200)
    found = check(both, build(measures={"packages": 300}))
    assert found.over is BudgetAction.HOLD
    assert found.sentence == "packages is 300, 100 over 200; nothing to compare with"


def test_seconds_of_an_emulated_machine_are_not_compared_with_those_of_a_real_one() -> None:
    budget = Budget(measure=Measure.SSH_SECONDS, grows=10, relative=True)
    fast = build(1, test=boot(measures={"ssh_seconds": 10}))
    slow = build(test=boot(measures={"ssh_seconds": 90}, accelerator="tcg"))
    assert check(budget, slow, fast).over is None
    assert check(budget, slow, replace(slow, id="0" * 32)).over is None
    assert check(budget, build(test=boot(measures={"ssh_seconds": 12})), fast).over is BudgetAction.HOLD


@pytest.mark.parametrize(
    ("measure", "grows", "before", "now", "is_over", "said"),
    [
        # Of floats, 0.7 and 0.1 are less than 0.8.
        (Measure.SSH_SECONDS, 0.1, 0.7, 0.8, False, "is 0.8 s of at most 0.8 s (0.1 s more than the 0.7 s"),
        (Measure.SSH_SECONDS, "10", 70.7, 77.8, True, "is 77.8 s, 0.03 s over 77.77 s (10 % more than"),
        (Measure.MEMORY, "0.1", 500.0, 500.0, False, "is 500 B of at most 500 B (0.1 % more than the 500 B"),
        (Measure.MEMORY, "0.1", 500.0, 501.0, True, "is 501 B, 1 B over 500 B (0.1 % more than the 500 B"),
    ],
)
def test_what_is_over_can_be_seen(
    measure: Measure, grows: float | str, before: float, now: float, is_over: bool, said: str
) -> None:
    names = {Measure.SSH_SECONDS: "ssh_seconds", Measure.MEMORY: "memory_used"}
    last, made = (build(n, test=boot(measures={names[measure]: v})) for n, v in ((1, before), (2, now)))
    budget = Budget(measure=measure, grows=float(grows), relative=isinstance(grows, str))
    found = check(budget, made, last)
    assert (found.over is not None) == is_over
    assert said in found.sentence


def test_large_numbers_are_written_out() -> None:
    found = check(Budget(measure=Measure.PACKAGES, most=1_000_000), build(measures={"packages": 1234567.0}))
    assert found.sentence == "packages is 1234567, 234567 over 1000000"


SETUID = Budget(measure=Measure.NEW_SETUID_FILES, most=0, over=BudgetAction.FAIL)


def test_new_setuid_files_are_named() -> None:
    before = build(1, test=boot(setuid=("/usr/bin/passwd", "/usr/bin/sudo")))
    same = build(test=boot(setuid=("/usr/bin/sudo",)))
    assert check(SETUID, same, before) == BudgetCheck(
        measure="new-setuid-files", sentence="new-setuid-files is 0 of at most 0", value=0, limit=0
    )
    files = ("/usr/bin/sudo", *(f"/opt/{letter}" for letter in "gfedcba"))
    found = check(SETUID, build(test=boot(setuid=files)), before)
    assert (found.over, found.value) == (BudgetAction.FAIL, 7)
    assert found.sentence == (
        "new-setuid-files is 7 of at most 0: /opt/a, /opt/b, /opt/c, /opt/d, /opt/e, 2 more;"
        " build 00000000 did not have them"
    )


def test_what_a_file_is_called_acts_on_no_terminal() -> None:
    before = build(1, test=boot(setuid=("/usr/bin/sudo",)))
    found = check(SETUID, build(test=boot(setuid=("/usr/bin/sudo", "/\x1b[2J\n"))), before)
    assert ": /\\x1b[2J\\n; build" in found.sentence


def test_new_ports_are_named() -> None:
    before = build(1, test=boot(ports=("tcp/22",)))
    found = check(
        Budget(measure=Measure.NEW_PORTS, most=1), build(test=boot(ports=("tcp/22", "udp/68"))), before
    )
    assert found.over is None
    assert found.sentence == "new-ports is 1 of at most 1: udp/68; build 00000000 did not have them"


@pytest.mark.parametrize(
    "before",
    [
        None,
        build(1),
        build(1, test=boot()),
        build(1, test=boot(setuid=tuple(f"/{number}" for number in range(BootResult.MOST_NAMES)))),
    ],
)
def test_nothing_is_new_where_it_is_not_known_what_there_was(before: Build | None) -> None:
    found = check(SETUID, build(test=boot(setuid=("/new",))), before)
    assert found == BudgetCheck(
        measure="new-setuid-files", sentence="new-setuid-files: nothing to compare with"
    )


def test_the_worst_that_follows_is_what_follows() -> None:
    checks = [
        BudgetCheck(measure="size", sentence="s", over=BudgetAction.WARN),
        BudgetCheck(measure="packages", sentence="p", over=BudgetAction.FAIL),
        BudgetCheck(measure="memory", sentence="m", over=BudgetAction.HOLD),
        BudgetCheck(measure="new-ports", sentence="n"),
    ]
    assert worst(checks) is BudgetAction.FAIL
    assert worst(checks[::2]) is BudgetAction.HOLD
    assert worst(checks[:1]) is BudgetAction.WARN
    assert worst(checks[3:]) is None
    assert sentence(checks) == "over budget: s; p; m"


def test_the_last_good_build_is_withheld_nowhere() -> None:
    def withheld(provider: str | None, *, held: bool = False) -> tuple[Withholding, ...]:
        return (Withholding(provider=provider, by="ann", time=NOON, held=held),)

    good, now = build(1), build(6)
    bad = [
        build(5, state=BuildState.FAILED),
        build(4, withheld=withheld(None, held=True)),
        build(3, withheld=withheld("one")),
        build(2, withheld=withheld(None)),
    ]
    records = ImageRecords(name="img", builds=(now, *bad, good))
    assert last_good(records, now) == good
    assert last_good(replace(records, builds=(now, *bad)), now) is None
