"""The builder and images that are booted: who takes them, what is on record, when they are tried again."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.config.model import BOOT_TEST_LABEL, DEFAULT_SCHEDULE, BootTest, Budget
from builder.dib.boot import program
from builder.model import BootVerdict, BuildPhase, BuildState, FailureClass, Measure
from builder.planning.explain import explain
from tests.unit.dib_world import FAKE_BOOT_TEST, eventually
from tests.unit.test_dib_boot_testing import BAD
from tests.unit.test_workers_builder import NEXT_TICK, Workshop, reason_of, shop

__all__ = ["shop"]


@pytest.fixture
def boots(shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The knobs of a scripted program that boots images; this machine has it."""
    directory = tmp_path / "boots"
    directory.mkdir()
    monkeypatch.setattr(program, "PROGRAM", (str(FAKE_BOOT_TEST), str(directory)))
    shop.world.presence.show(labels=frozenset({BOOT_TEST_LABEL}))
    shop.set(boot_test=BootTest(mode="on"))
    return directory


def test_what_came_of_it_is_on_the_record_of_a_ready_build(shop: Workshop, boots: Path) -> None:
    shop.ask()
    made = shop.built()
    assert made.state is BuildState.READY
    assert made.test is not None
    assert (made.test.verdict, made.test.measures["ssh_seconds"]) == (BootVerdict.PASSED, 20.5)
    assert {"test", "test boots"} <= made.timings.keys()
    assert made.artifacts


def test_an_image_that_fails_is_a_failed_build_and_is_tried_once_more(shop: Workshop, boots: Path) -> None:
    (boots / "answer").write_text(BAD)
    shop.set(schedule=DEFAULT_SCHEDULE)
    longest = shop.config.build_retry.longest
    shop.schedule()
    failed = shop.built()
    assert reason_of(failed) == (FailureClass.TEST, "no SSH server answered; also: dns")
    assert failed.test is not None
    assert failed.test.failed == ("ssh", "dns")
    assert failed.artifacts == ()
    assert failed.next_try is not None
    assert shop.now + longest <= failed.next_try <= shop.now + longest * 1.25
    assert shop.next_build() == failed.next_try

    shop.now = failed.next_try
    shop.schedule()
    again = shop.built()
    assert again.id != failed.id
    # What fails twice stays until the schedule comes round.
    assert again.next_try == NEXT_TICK


def test_what_was_measured_counts_towards_the_budgets(shop: Workshop, boots: Path) -> None:
    shop.set(budgets=(Budget(measure=Measure.SSH_SECONDS, most=20), Budget(measure=Measure.MEMORY, most=1)))
    shop.ask()
    made = shop.built()
    assert made.state is BuildState.READY
    assert made.hold is not None
    assert made.hold.why == "over budget: ssh-seconds is 20.5 s, 0.5 s over 20 s"
    assert [check.sentence for check in made.budgets][1:] == ["memory: not measured"]
    assert made.artifacts


def test_no_file_is_on_record_before_the_image_has_proven_itself(shop: Workshop, boots: Path) -> None:
    pause = boots / "pause"
    pause.touch()
    shop.ask()
    with shop.working():
        eventually(
            lambda: bool(shop.records.builds) and shop.newest.phase == BuildPhase.TEST, "all else is done"
        )
        assert shop.newest.artifacts == ()
        pause.unlink()
    assert shop.newest.artifacts


def test_a_machine_that_can_not_boot_images_takes_none_of_them(shop: Workshop, boots: Path) -> None:
    shop.world.presence.show(labels=frozenset())
    shop.ask()
    assert not shop.work()
    assert shop.records.builds == ()
    rows = explain(shop.config, shop.store.snapshot(), shop.now, "img", "here")
    assert any("it can't boot images" in row.reason for row in rows)
    # Others it takes all the same.
    shop.set(boot_test=BootTest())
    assert shop.built().state is BuildState.READY


def test_a_test_ends_with_the_wish_that_its_build_ends(shop: Workshop, boots: Path) -> None:
    (boots / "pause").touch()
    shop.ask()
    with shop.working():
        eventually((boots / "running").exists, "the test runs")
        shop.cancel(shop.newest.id)
    assert reason_of(shop.newest)[0] is FailureClass.CANCELLED
    assert list(shop.config.work_dir.iterdir()) == []
