"""The outbox: what a crash leaves of it, what is dropped and said so, and what is next."""

from __future__ import annotations

import json
import logging
import stat
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from builder.notify import outbox
from builder.notify.outbox import OLDEST, Notice, Outbox, Standing
from builder.notify.pacing import LONGEST, choose, next_due
from tests.unit.worker_world import NOW

EVENT, OTHER = f"{1:032x}.ready", f"{2:032x}.failed"
SECOND = timedelta(seconds=1)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "outbox"


def opened(home: Path) -> Outbox:
    """The outbox as a daemon finds it."""
    box = Outbox(home)
    box.load()
    return box


def the_one(box: Outbox, target: str = "chat") -> Notice:
    (notice,) = box.waiting()[target]
    return notice


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# -- what a life leaves to the next -----------------------------------------------------------------


def test_what_waits_is_there_in_the_next_life_just_as_it_was(home: Path) -> None:
    box = opened(home)
    assert box.told is None
    box.file(EVENT, "img", '{"a": 1}', ["chat", "mail"], NOW)
    box.remember({EVENT: NOW})
    box.put_off(the_one(box), "it hangs", NOW, again=NOW + SECOND, rest=NOW + 2 * SECOND)

    later = opened(home)
    assert later.waiting() == box.waiting()
    assert later.body(the_one(later, "mail")) == later.body(the_one(later)) == '{"a": 1}'
    assert the_one(later).tries == 1 and the_one(later).due == NOW + SECOND
    assert later.standing("chat") == Standing(failures=1, since=NOW, why="it hangs", due=NOW + 2 * SECOND)
    assert later.told == {EVENT: NOW}


def test_what_was_told_is_gone(home: Path) -> None:
    box = opened(home)
    box.file(EVENT, "img", "{}", ["chat"], NOW)
    box.put_off(the_one(box), "it hangs", NOW, again=NOW, rest=NOW)
    box.arrived(the_one(box), NOW)
    for each in (box, opened(home)):
        assert each.waiting() == {}
        assert each.standing("chat") == Standing(arrived=NOW)
    assert list((home / "queue").iterdir()) == []


def test_nobody_else_can_read_it(home: Path) -> None:
    box = opened(home)
    box.file(EVENT, "img", "{}", ["chat"], NOW)
    box.remember({EVENT: NOW})
    box.put_off(the_one(box), "it hangs", NOW, again=NOW, rest=NOW)
    modes = {stat.S_IMODE(each.stat().st_mode) for each in (home, *home.rglob("*")) if each.is_dir()}
    assert modes == {0o700}
    modes = {stat.S_IMODE(each.stat().st_mode) for each in home.rglob("*") if each.is_file()}
    assert modes == {0o600}


def test_a_write_that_was_cut_off_leaves_what_was_before(home: Path) -> None:
    box = opened(home)
    box.file(EVENT, "img", '{"a": 1}', ["chat"], NOW)
    (home / "queue" / ".draft").write_text('{"schema": 1, "ev')
    later = opened(home)
    assert later.body(the_one(later)) == '{"a": 1}'
    later.file(OTHER, "img", '{"b": 2}', ["chat"], NOW + SECOND)
    assert [later.body(each) for each in later.waiting()["chat"]] == ['{"a": 1}', '{"b": 2}']


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"event": 1}', "[" * 100_000, '{"event": "x"}'])
def test_what_is_no_message_is_left_alone_and_keeps_nothing_else(
    home: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    opened(home).file(EVENT, "img", "{}", ["chat"], NOW)
    strange = home / "queue" / f"{OTHER}.chat.json"
    strange.write_text(content)
    box = opened(home)
    assert the_one(box).event == EVENT
    assert strange.read_text() == content
    assert "can't be read as a message" in warnings(caplog)[0]


def test_a_message_whose_file_is_gone_is_given_up(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    box = opened(home)
    box.file(EVENT, "img", "{}", ["chat"], NOW)
    notice = the_one(box)
    (home / "queue" / notice.file_name).unlink()
    assert box.body(notice) is None
    assert box.waiting() == {} and box.standing("chat").lost == 1
    assert "can't be read any more" in warnings(caplog)[0]


# -- bounds -----------------------------------------------------------------------------------------


def test_of_too_much_for_one_target_the_oldest_goes(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    box = Outbox(home, limit=3)
    for number in range(5):
        targets = ["chat", "mail"] if number == 0 else ["chat"]
        box.file(f"{number:032x}.ready", "img", "{}", targets, NOW + number * SECOND)
    for each in (box, opened(home)):
        waiting = each.waiting()
        assert [notice.event for notice in waiting["chat"]] == [f"{n:032x}.ready" for n in (2, 3, 4)]
        assert len(waiting["mail"]) == 1
        assert each.standing("chat").lost == 2
    assert warnings(caplog)[0] == f"img: the event {0:032x}.ready is not told to chat: more than 3 wait"


def test_what_is_old_is_no_news(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    box = opened(home)
    box.file(EVENT, "img", "{}", ["chat"], NOW)
    box.expire(NOW + OLDEST)
    assert the_one(box).event == EVENT and not warnings(caplog)
    box.expire(NOW + OLDEST + SECOND)
    assert box.waiting() == opened(home).waiting() == {}
    assert "older than 3 days" in warnings(caplog)[0]


def test_a_target_that_is_no_more_is_forgotten(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    box = opened(home)
    box.file(EVENT, "img", "{}", ["chat", "mail"], NOW)
    for name in ("chat", "mail"):
        box.put_off(the_one(box, name), "it hangs", NOW, again=NOW, rest=NOW)
    box.retain(["mail"])
    assert set(box.waiting()) == set(opened(home).waiting()) == {"mail"}
    assert set(outbox.read_standings(home)) == {"mail"}
    assert "no target any more" in warnings(caplog)[0]


def test_when_nobody_is_to_be_told_all_of_it_goes_but_what_is_not_ours(home: Path) -> None:
    box = opened(home)
    box.clear()  # nothing was ever there
    assert not home.exists()
    box.file(EVENT, "img", "{}", ["chat"], NOW)
    box.remember({EVENT: NOW})
    (home / "notes.txt").write_text("mine")
    (home / "queue" / ".draft").touch()  # of a crash
    box.clear()
    assert [each.name for each in home.iterdir()] == ["notes.txt"]
    assert opened(home).told is None
    (home / "notes.txt").unlink()
    box.clear()
    assert not home.exists()


def test_what_waits_is_counted_without_reading_it(home: Path) -> None:
    box = opened(home)
    box.file(EVENT, "img", "{}", ["chat", "a.b.c"], NOW)
    box.file(OTHER, "img", "{}", ["a.b.c"], NOW)
    for file in (home / "queue").iterdir():
        file.write_bytes(b"")
    assert outbox.count_waiting(home) == {"chat": 1, "a.b.c": 2}
    assert outbox.count_waiting(home / "none") == {} == outbox.read_standings(home / "none")


def test_a_disk_that_is_full_does_not_make_us_tell_the_same_over_and_over(home: Path) -> None:
    box = opened(home)
    box.file(EVENT, "img", "{}", ["chat"], NOW)
    notice = the_one(box)
    # Whatever is in the way of the file: here, a directory in its place.
    (home / "targets").rmdir()
    (home / "targets").touch()
    with pytest.raises(OSError, match="exists"):
        box.put_off(notice, "it hangs", NOW, again=NOW + SECOND, rest=NOW + SECOND)
    assert the_one(box).due == NOW + SECOND
    with pytest.raises(OSError, match="exists"):
        box.arrived(the_one(box), NOW)
    assert box.waiting() == {}


def test_files_say_which_form_they_have(home: Path) -> None:
    box = opened(home)
    box.file(EVENT, "img", "{}", ["chat"], NOW)
    box.remember({EVENT: NOW})
    assert {json.loads(file.read_text())["schema"] for file in home.rglob("*.json")} == {1}


# -- what is next -----------------------------------------------------------------------------------


def notice(name: str, *, tries: int = 0, due: datetime = NOW) -> Notice:
    return Notice(event=name, image="img", target="chat", filed=NOW, tries=tries, due=due)


def test_the_oldest_goes_first_but_what_was_refused_comes_after_the_others() -> None:
    one, two, three = notice("a", tries=1), notice("b"), notice("c")
    assert choose([one, two, three], Standing(), NOW) == two
    assert choose([one], Standing(), NOW) == one
    assert choose([], Standing(), NOW) is None and next_due([], Standing(), NOW) is None


def test_nothing_goes_to_a_target_that_rests() -> None:
    resting = Standing(due=NOW + SECOND)
    assert choose([notice("a")], resting, NOW) is None
    assert next_due([notice("a")], resting, NOW) == NOW + SECOND
    assert choose([notice("a")], resting, NOW + SECOND) == notice("a")


def test_what_is_put_off_waits_longer_than_its_target() -> None:
    one, two = notice("a", tries=3, due=NOW + 9 * SECOND), notice("b", tries=1, due=NOW + 5 * SECOND)
    assert choose([one, two], Standing(due=NOW + SECOND), NOW + SECOND) is None
    assert next_due([one, two], Standing(due=NOW + SECOND), NOW) == NOW + 5 * SECOND


def test_a_time_that_a_broken_clock_wrote_is_none() -> None:
    year = timedelta(days=365)
    assert choose([notice("a", due=NOW + year)], Standing(due=NOW + year), NOW) is not None
    assert choose([notice("a", due=NOW + LONGEST)], Standing(), NOW) is None
