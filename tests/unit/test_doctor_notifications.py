"""What the doctor says of those who are told how builds end."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from builder.config.model import NotifyTarget
from builder.doctor import notifications
from builder.findings import Finding, Level
from builder.notify.outbox import Outbox, home
from tests.unit.planning_world import NOW, config, diskimage

HOOK = "https://hooks.example/T0K3N"


def found(place: Path, target: NotifyTarget) -> Finding:
    """What is said of one target."""
    configured = config(diskimage(), state_dir=place, notify={target.name: target})
    (finding,) = notifications.look(configured)
    return finding


def outbox(place: Path) -> Outbox:
    box = Outbox(home(place))
    box.load()
    return box


def test_one_that_was_told_nothing_yet_is_fine(tmp_path: Path) -> None:
    finding = found(tmp_path, NotifyTarget(name="chat", webhook=HOOK))
    assert (finding.name, finding.level) == ("notify chat", Level.OK)
    assert finding.text == "the webhook at hooks.example: nothing told yet"
    assert not home(tmp_path).exists()


def test_one_that_was_told_is_fine(tmp_path: Path) -> None:
    box = outbox(tmp_path)
    box.file("e1.ready", "img", "{}", ["chat"], NOW)
    (notice,) = box.waiting()["chat"]
    box.arrived(notice, NOW)
    box.file("e2.ready", "img", "{}", ["chat"], NOW)
    finding = found(tmp_path, NotifyTarget(name="chat", webhook=HOOK, webhook_is_secret=True))
    assert finding.level is Level.OK
    assert finding.text == f"a webhook: told last at {NOW:%Y-%m-%d %H:%M} UTC; 1 to be told"


def test_one_whose_last_tries_failed_is_told_with_why_and_what_waits(tmp_path: Path) -> None:
    box = outbox(tmp_path)
    for number in (1, 2, 3):
        box.file(f"e{number}.ready", "img", "{}", ["chat"], NOW)
        box.put_off(
            box.waiting()["chat"][-1], "it answered 500", NOW + timedelta(hours=number), again=NOW, rest=NOW
        )
    box.give_up(box.waiting()["chat"][0], "it failed 20 times")
    finding = found(tmp_path, NotifyTarget(name="chat", webhook=HOOK))
    assert finding.level is Level.WARNING
    since = NOW + timedelta(hours=1)
    assert finding.text == (
        f"the webhook at hooks.example: the last 3 tries failed since {since:%Y-%m-%d %H:%M} UTC:"
        " it answered 500; 2 to be told; 1 never will be"
    )


def test_a_loss_is_told_until_something_arrives_again(tmp_path: Path) -> None:
    box = outbox(tmp_path)
    target = NotifyTarget(name="mail", command=("true",))
    for event in ("e1.ready", "e2.ready"):
        box.file(event, "img", "{}", ["mail"], NOW)
    box.give_up(box.waiting()["mail"][0], "more than 200 wait")
    assert found(tmp_path, target).level is Level.WARNING
    box.arrived(box.waiting()["mail"][0], NOW)
    assert found(tmp_path, target).level is Level.OK


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (NotifyTarget(name="x", command=("no-such-program",)), "no-such-program is not installed"),
        (NotifyTarget(name="x", command=(__file__, "y")), f"{__file__} is not installed"),
        (
            NotifyTarget(name="x", webhook=HOOK, secret_file=Path("/none")),
            "/none can't be read: No such file",
        ),
        (NotifyTarget(name="x", webhook=HOOK, secret_file=Path("/dev/null")), "can't be used: it is empty"),
        (NotifyTarget(name="x", webhook=HOOK, secret="whsec_hush hush"), "is no base64"),
    ],
)
def test_what_keeps_one_from_being_told_at_all_is_told(
    tmp_path: Path, target: NotifyTarget, words: str
) -> None:
    finding = found(tmp_path, target)
    assert finding.level is Level.WARNING and words in finding.text
    assert "hush" not in finding.text and "T0K3N" not in finding.text
