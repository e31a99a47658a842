"""What an event says, to programs and to people."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from builder.model import BudgetAction, BudgetCheck, BuildState, Failure, FailureClass, Withholding
from builder.notify import event
from tests.unit.worker_world import build

DOCS = (Path(__file__).parents[2] / "docs" / "notify.md").read_text()
BUILT = build(1)
READY = replace(BUILT, ended=BUILT.began + timedelta(minutes=75))
REASON = Failure(
    failure_class=FailureClass.MIRROR,
    message="the mirror has no \x1b[31msuite\nbookworm",
    phase="packages",
    step="dpkg/x",
    exit_code=100,
    lines=("E: \x1b[2J", "b"),
)
FAILED = replace(READY, state=BuildState.FAILED, reason=REASON)


def test_a_build_that_is_ready() -> None:
    changes = {"schema": 1, "packages": {"added": ["x"]}, "summary": "1 package added"}
    assert json.loads(event.body_of(READY, changes)) == {
        "schema": 1,
        "event": "build",
        "id": f"{READY.id}.ready",
        "image": "img",
        "build": READY.id,
        "state": "ready",
        "reason": None,
        "builder": "here.test",
        "started": "2026-11-17T09:00:00+00:00",
        "ended": "2026-11-17T10:15:00+00:00",
        "budgets": [],
        "held": None,
        "changes": changes,
        "text": "img: build 00000000 is ready after 1 h 15 min: 1 package added",
    }


OVER = BudgetCheck(
    measure="size", sentence="size is 7 B, 1 B over 6 B", over=BudgetAction.WARN, value=7, limit=6
)


def test_a_build_that_is_over_budget_says_so() -> None:
    said = json.loads(event.body_of(replace(READY, budgets=(OVER,)), {"summary": "1 package added"}))
    assert said["text"] == (
        "img: build 00000000 is ready after 1 h 15 min: over budget: size is 7 B, 1 B over 6 B;"
        " 1 package added"
    )
    assert said["budgets"] == [
        {
            "measure": "size",
            "over": "warn",
            "value": 7,
            "limit": 6,
            "baseline": None,
            "sentence": "size is 7 B, 1 B over 6 B",
        }
    ]
    assert said["held"] is None


def test_a_build_that_is_held_is_ready_to_programs_and_held_to_people() -> None:
    hold = Withholding(
        provider=None, by="imagepool", time=READY.state_time, why="over budget: it is fat", held=True
    )
    check = replace(OVER, over=BudgetAction.HOLD)
    said = json.loads(event.body_of(replace(READY, budgets=(check,), withheld=(hold,)), None))
    assert (said["state"], said["held"]) == ("ready", "over budget: it is fat")
    assert said["text"] == (
        "img: build 00000000 is held after 1 h 15 min: over budget: it is fat;"
        " 'imagepool build release 00000000' lets it go"
    )


def test_a_build_that_failed() -> None:
    said = json.loads(event.body_of(FAILED, None))
    assert said["reason"] == {
        "class": "mirror",
        "message": REASON.message,
        "phase": "packages",
        "step": "dpkg/x",
        "exit_code": 100,
        "lines": list(REASON.lines),
    }
    assert (said["state"], said["changes"]) == ("failed", None)


@pytest.mark.parametrize("provider", [None, "cloud.example-one", "../../etc/x", "\ud800"])
def test_the_id_of_a_refusal_can_be_part_of_a_file_s_name(provider: str | None) -> None:
    word = Withholding(provider=provider, by="check in one", time=READY.state_time)
    said = event.id_of_refusal(READY, word)
    assert re.fullmatch(rf"{READY.id}\.[a-z0-9-]+", said)
    others = [
        replace(word, provider="another"),
        replace(word, time=word.time + timedelta(milliseconds=1)),
    ]
    assert said not in {event.id_of_refusal(READY, other) for other in others}


def test_the_text_is_one_line_that_no_terminal_obeys() -> None:
    text = json.loads(event.body_of(FAILED, None))["text"]
    assert text == (
        "img: build 00000000 failed: mirror: the mirror has no  [31msuite bookworm"
        " (phase packages, step dpkg/x, exit code 100)"
    )
    endless = replace(FAILED, reason=replace(REASON, message="\u202e" + "x" * 5000))
    assert len(event.text_of(endless, None)) == event.LONGEST_TEXT
    assert event.text_of(endless, None).isprintable()


def test_a_summary_that_is_no_text_is_left_out() -> None:
    assert event.text_of(READY, {"summary": ["x"]}).endswith("15 min")
    assert event.text_of(replace(BUILT, started=None), None) == "img: build 00000000 is ready"


def test_an_end_that_nodepool_did_not_write_down_is_when_the_state_changed() -> None:
    said = json.loads(event.body_of(BUILT, None))
    assert said["ended"] == BUILT.state_time.isoformat()


def test_the_docs_name_every_key() -> None:
    said = json.loads(event.body_of(FAILED, None))
    named = set(re.findall(r"`(\w+)`", DOCS))
    assert set(said) | set(said["reason"]) <= named
