"""The notifier: builds that end are told, once and whatever happens, and nothing waits for it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from builder.config.model import NotifyTarget
from builder.dib.output import artifacts
from builder.model import Build, BuildState, Failure, FailureClass, Withholding
from builder.notify import outbox
from builder.notify.pacing import TRIES
from builder.planning.checking import check_in
from builder.workers.notifier import Notifier
from builder.workers.once import run_once
from tests.fakes import receiver as fake
from tests.fakes.receiver import Receiver, receiving
from tests.unit.worker_world import NOW, Stage, build

BROKEN = Failure(failure_class=FailureClass.MIRROR, message="no mirror")
LONG = timedelta(hours=2)


@pytest.fixture
def server() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def stage(tmp_path: Path, server: Receiver) -> Stage:
    """A daemon that has told of nothing yet, and has `chat` to tell."""
    stage = Stage(tmp_path)
    listens(stage, NotifyTarget(name="chat", webhook=server.url, secret="hush"))
    return stage


def listens(stage: Stage, *targets: NotifyTarget) -> None:
    """These are to be told, and no others."""
    stage.config = replace(stage.config, notify={target.name: target for target in targets})


def started(stage: Stage) -> Notifier:
    """The notifier of a daemon's life, after its first look."""
    notifier = Notifier(stage.world, "notifier")
    notifier.step()
    return notifier


def over(notifier: Notifier) -> None:
    """Everything that can be told now has been tried, at most a hundred times."""
    for _ in range(100):
        notifier.step()
        if not notifier.drain():
            return
    raise AssertionError("it never ends")


def ends(stage: Stage, number: int, state: BuildState = BuildState.READY, **more: Any) -> Build:
    """A build of this machine ends now."""
    reason = BROKEN if state is BuildState.FAILED else None
    record = build(number, state, state_time=stage.now, ended=stage.now, reason=reason, **more)
    stage.store.put(record)
    return record


def heard(server: Receiver) -> list[tuple[int, str]]:
    """The number of each build that was told, and how it ended."""
    said = [json.loads(delivery.body) for delivery in server.got]
    return [(int(each["build"], 16), each["state"]) for each in said]


def waits(stage: Stage) -> dict[str, int]:
    return dict(outbox.count_waiting(outbox.home(stage.root)))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# -- what is told, and what is not ------------------------------------------------------------------


def test_builds_are_told_when_they_end_and_not_before(stage: Stage, server: Receiver) -> None:
    ends(stage, 1)  # before anybody listened
    notifier = started(stage)
    stage.store.put(build(2, BuildState.BUILDING))
    over(notifier)
    assert server.got == []
    stage.store.put(build(2, BuildState.FAILED, state_time=NOW, reason=BROKEN))
    ends(stage, 3)
    over(notifier)
    assert sorted(heard(server)) == [(2, "failed"), (3, "ready")]
    over(notifier)
    assert len(server.got) == 2 and waits(stage) == {}


def test_builds_of_others_are_told_by_them(stage: Stage, server: Receiver) -> None:
    notifier = started(stage)
    ends(stage, 1, builder_id="there")
    over(notifier)
    assert server.got == []


def test_a_build_that_was_taken_for_lost_and_is_whole_after_all_is_told_twice(
    stage: Stage, server: Receiver
) -> None:
    notifier = started(stage)
    lost = ends(stage, 1, BuildState.FAILED)
    over(notifier)
    stage.store.update_build(replace(stage.store.get_build("img", lost.id), state=BuildState.READY))
    over(notifier)
    assert heard(server) == [(1, "failed"), (1, "ready")]


def test_what_has_changed_is_told_with_it(stage: Stage, server: Receiver) -> None:
    notifier = started(stage)
    changes = {"schema": 1, "summary": "2 packages upgraded", "packages": ["\u202e"]}
    for number, written in enumerate([json.dumps(changes), "{", "[]", f'"{"x" * (1 << 20)}"', None], start=1):
        home = artifacts.directory(stage.config.images_dir, "img", f"{number:032x}")
        home.mkdir()
        if written is not None:
            (home / "changes.json").write_text(written)
        stage.now += timedelta(seconds=1)
        ends(stage, number)
    over(notifier)
    said = [json.loads(delivery.body) for delivery in server.got]
    assert [each["changes"] for each in said] == [changes, None, None, None, None]
    assert said[0]["text"].endswith(": 2 packages upgraded")


def test_each_hears_what_it_wants_of_the_images_that_want_it(stage: Stage, tmp_path: Path) -> None:
    said = tmp_path / "said"
    listens(
        stage,
        *(
            NotifyTarget(name=name, command=("sh", "-c", f"echo {name} >> {said}"), events=frozenset(events))
            for name, events in {"all": ("ready", "failed"), "bad": ("failed",)}.items()
        ),
    )
    stage.image("quiet", notify=())
    notifier = started(stage)
    ends(stage, 1)
    ends(stage, 2, BuildState.FAILED)
    ends(stage, 3, BuildState.FAILED, image="quiet")
    # What is held waits for whoever is told of failures.
    ends(stage, 4, withheld=(Withholding(provider=None, by="imagepool", time=NOW, held=True),))
    over(notifier)
    assert sorted(said.read_text().split()) == ["all", "all", "all", "bad", "bad"]


def test_news_of_long_ago_is_none(stage: Stage, server: Receiver) -> None:
    """A daemon that comes back after a week, in which others have found what it left."""
    started(stage)
    ends(stage, 1, BuildState.FAILED)
    stage.now += timedelta(days=7)
    over(started(stage))
    assert server.got == []


def test_who_is_told_nothing_for_a_while_is_not_told_what_was_meanwhile(
    stage: Stage, server: Receiver
) -> None:
    targets = stage.config.notify
    notifier = started(stage)
    listens(stage)
    notifier.step()
    ends(stage, 1)
    notifier.step()
    listens(stage, *targets.values())
    over(notifier)
    ends(stage, 2)
    over(notifier)
    assert heard(server) == [(2, "ready")]


def test_without_targets_nothing_is_written(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    notifier = started(stage)
    ends(stage, 1)
    assert notifier.step().due is None
    assert not outbox.home(stage.root).exists()


# -- when it can't be told --------------------------------------------------------------------------


def test_what_fails_is_tried_again_later_and_later(stage: Stage, server: Receiver) -> None:
    notifier = started(stage)
    ends(stage, 1)
    server.answers = [500, 302, fake.cut, 503]
    pauses = []
    for _ in range(4):
        over(notifier)
        due = notifier.step().due
        assert due is not None
        pauses.append((due - stage.now).total_seconds())
        stage.now = due - timedelta(seconds=1)
        over(notifier)  # too early
        stage.now = due
    assert len(server.got) == 4
    assert [
        10 <= pauses[0] <= 12.5,
        20 <= pauses[1] <= 25,
        40 <= pauses[2] <= 50,
        80 <= pauses[3] <= 100,
    ] == [True] * 4
    over(notifier)
    assert heard(server) == [(1, "ready")] * 5 and waits(stage) == {}
    # The same each time, so that who was told and did not say so can tell.
    assert len({(each.body, each.headers["webhook-id"]) for each in server.got}) == 1


def test_in_the_end_it_is_given_up_with_a_word(
    stage: Stage, server: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = started(stage)
    ends(stage, 1)
    server.answers = [500] * (TRIES + 5)
    for _ in range(TRIES + 5):
        over(notifier)
        stage.now += LONG
    assert len(server.got) == TRIES and waits(stage) == {}
    assert "is not told to chat: it failed 20 times, at last because it answered 500" in warnings(caplog)[-1]


def test_what_is_never_taken_keeps_nothing_else_back(stage: Stage, tmp_path: Path) -> None:
    said = tmp_path / "said"
    picky = f'grep -o \'"id": "[^"]*"\' > {tmp_path}/one; grep -q {1:032x} {tmp_path}/one && exit 1'
    listens(stage, NotifyTarget(name="picky", command=("sh", "-c", f"{picky}; cat {tmp_path}/one >> {said}")))
    notifier = started(stage)
    for number in (1, 2, 3):
        stage.now += timedelta(seconds=1)
        ends(stage, number)
        over(notifier)
    stage.now += timedelta(minutes=1)
    over(notifier)
    assert [f"{n:032x}.ready" in said.read_text() for n in (1, 2, 3)] == [False, True, True]
    assert waits(stage) == {"picky": 1}


def test_one_that_hangs_delays_no_other(stage: Stage, server: Receiver) -> None:
    with receiving() as other:
        other.answers = [fake.hang]
        listens(
            stage,
            NotifyTarget(name="a-hangs", webhook=other.url, timeout=timedelta(seconds=60)),
            NotifyTarget(name="chat", webhook=server.url),
        )
        notifier = started(stage)
        ends(stage, 1)
        notifier.step()  # returns, although the other has not answered
        stage.until(lambda: server.got and other.got)
        ends(stage, 2)
        stage.until(lambda: notifier.step() and len(server.got) == 2)
        assert len(other.got) == 1
        other.released.set()
        over(notifier)


def test_zookeeper_need_not_be_there_to_tell_what_waits(stage: Stage, server: Receiver) -> None:
    notifier = started(stage)
    ends(stage, 1)
    server.answers = [500]
    over(notifier)
    stage.store.lose_session()
    due = notifier.cut_off(stage.now)
    assert due is not None
    stage.now = due
    assert notifier.cut_off(stage.now) is None
    assert notifier.drain() and len(server.got) == 2


def test_a_disk_that_can_not_be_written_is_told_and_tried_again(
    stage: Stage, server: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = started(stage)
    home = outbox.home(stage.root)
    away = home.rename(stage.root / "away")
    home.write_text("in the way")
    ends(stage, 1)
    assert notifier.step().due == stage.now + timedelta(minutes=1)
    assert "how builds ended can't be told now" in warnings(caplog)[0]
    home.unlink()
    away.rename(home)
    over(notifier)
    assert heard(server) == [(1, "ready")]


# -- what a crash leaves ----------------------------------------------------------------------------


def test_a_build_that_ended_while_nobody_was_there_to_tell_it_is_told(stage: Stage, server: Receiver) -> None:
    """A crash between the last word on the record and the outbox."""
    started(stage)
    ends(stage, 1)
    over(started(stage))
    assert heard(server) == [(1, "ready")]


def test_a_crash_between_the_outbox_and_the_sending_loses_nothing(
    stage: Stage, server: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    notifier = started(stage)
    ends(stage, 1)
    server.answers = [fake.hang]
    notifier.step()
    stage.until(lambda: server.got)  # it dies now
    over(later := started(stage))
    assert heard(server) == [(1, "ready")] * 2 and waits(stage) == {}
    assert server.got[0].body == server.got[1].body
    server.released.set()
    notifier.drain()
    over(later)
    assert len(server.got) == 2


def test_a_crash_between_the_files_of_two_targets_costs_none_of_them(stage: Stage, server: Receiver) -> None:
    listens(
        stage, *(NotifyTarget(name=name, webhook=f"{server.url}/{name}") for name in ("one", "two", "three"))
    )
    started(stage)
    told = (outbox.home(stage.root) / "told.json").read_bytes()
    first = started(stage)
    server.answers = [500, 500, 500]
    ends(stage, 1)
    over(first)
    # As after the first file: the others, and what says that there was anything, are not on disk.
    for file in (outbox.home(stage.root) / "queue").iterdir():
        if "one" not in file.name:
            file.unlink()
    (outbox.home(stage.root) / "told.json").write_bytes(told)
    server.got.clear()
    stage.now += LONG
    over(started(stage))
    assert sorted(each.path for each in server.got) == ["/one", "/three", "/two"]


def test_what_was_told_is_remembered_for_as_long_as_it_could_be_told_again(
    stage: Stage, server: Receiver
) -> None:
    notifier = started(stage)
    for number in (1, 2, 3):
        ends(stage, number)
        over(notifier)
        over(started(stage))  # nothing twice
        stage.now += timedelta(days=2)
    told = json.loads((outbox.home(stage.root) / "told.json").read_text())["told"]
    assert sorted(told) == [f"{2:032x}.ready", f"{3:032x}.ready"]
    over(started(stage))
    assert [number for number, _ in heard(server)] == [1, 2, 3]


def test_records_that_are_gone_for_a_while_are_not_told_anew(stage: Stage, server: Receiver) -> None:
    notifier = started(stage)
    first = ends(stage, 1)
    over(notifier)
    stage.store.delete_build(stage.store.get_build("img", first.id))
    ends(stage, 2)
    over(notifier)
    stage.store.put(first)
    over(notifier)
    over(started(stage))
    assert heard(server) == [(1, "ready"), (2, "ready")]


# -- secrets ----------------------------------------------------------------------------------------


def test_no_secret_is_in_the_log_or_in_a_file(
    stage: Stage, server: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    file = stage.root / "chat.secret"
    file.write_text("hush one\n")
    listens(
        stage,
        NotifyTarget(name="chat", webhook=f"{server.url}/T0K3N", webhook_is_secret=True, secret_file=file),
        NotifyTarget(name="other", webhook=f"{server.url}/T0K3N?key=T0K3N", secret="hush two"),
    )
    notifier = started(stage)
    ends(stage, 1)
    server.answers = [302, 500]
    over(notifier)
    file.unlink()
    stage.now += LONG
    over(notifier)
    written = "".join(each.read_text() for each in outbox.home(stage.root).rglob("*.json"))
    assert len(server.got) == 3 and waits(stage) == {"chat": 1}
    assert "chat.secret can't be read: No such file or directory" in written
    for words in (written, caplog.text):
        assert "hush" not in words and "T0K3N" not in words
    cmdlines = [p for p in Path("/proc").glob("[0-9]*/cmdline") if p.parent.name != str(os.getpid())]
    assert not any(b"T0K3N" in content(each) for each in cmdlines)


def content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


# -- once -------------------------------------------------------------------------------------------


def test_a_daemon_that_runs_once_tells_what_it_can(stage: Stage, server: Receiver) -> None:
    notifier = Notifier(stage.world, "notifier")
    notifier.step()
    ends(stage, 1)
    ends(stage, 2)
    server.answers = [204, 500]
    assert run_once([notifier], stage.world) == 0
    assert len(server.got) == 2 and waits(stage) == {"chat": 1}


# -- what a check refuses ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("provider", "said"),
    [(None, "is in quarantine, refused by the check in one"), ("two", "is withheld from two, refused by")],
)
def test_what_a_check_refuses_is_told_once_to_those_who_want_to_know_of_failures(
    stage: Stage, server: Receiver, provider: str | None, said: str
) -> None:
    listens(stage, NotifyTarget(name="bad", webhook=server.url, events=frozenset({"failed"})))
    notifier = started(stage)
    made = ends(stage, 1)
    over(notifier)
    word = Withholding(provider=provider, by=check_in("one"), time=stage.now, why="no network\x1b[2J\nat all")
    stage.store.withhold("img", made.id, word)
    stage.store.withhold("img", made.id, replace(word, provider="three", by="ann"))
    over(notifier)
    over(started(stage))
    (told,) = [json.loads(delivery.body) for delivery in server.got]
    assert (told["event"], told["build"], told["provider"]) == ("refusal", made.id, provider)
    assert (told["by"], told["why"]) == ("check in one", word.why)
    assert said in told["text"] and "\x1b" not in told["text"] and "\n" not in told["text"]


def test_a_refusal_that_waits_is_counted_for_its_target(stage: Stage, server: Receiver) -> None:
    notifier = started(stage)
    made = ends(stage, 1)
    over(notifier)
    server.answers = [500]
    word = Withholding(provider="two.example", by=check_in("two.example"), time=stage.now, why="no network")
    stage.store.withhold("img", made.id, word)
    over(notifier)
    assert waits(stage) == {"chat": 1}
