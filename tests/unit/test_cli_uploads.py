"""`upload list`, `cancel`, `delete` and `retry`: what is moving, and what a person wants of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from builder.cli.commands import upload_change as commands
from builder.config.model import BreakerPolicy
from builder.model import (
    Deletion,
    Failure,
    FailureClass,
    Upload,
    UploadCancellation,
    UploadState,
    UploadWish,
)
from builder.store.base import Claim, Store
from tests.fakes.store import FakeStore
from tests.unit.cli_world import World
from tests.unit.planning_world import (
    DAY,
    HOUR,
    IMAGE,
    MINUTE,
    NOW,
    build_id,
    building,
    config,
    diskimage,
    provider,
    ready,
    upload,
)

SECOND = timedelta(seconds=1)
MOVING = upload(
    1,
    UploadState.UPLOADING,
    NOW - MINUTE,
    phase="send",
    way="put",
    size=100_000_000,
    sent=25_000_000,
    started=NOW - 7 * SECOND,
    timings={"preflight": 1.5, "create": 0.5},
    uploader="host-a",
)


@pytest.fixture
def world() -> World:
    """A ready build on its way to one of two providers."""
    there = World(environ={"SUDO_USER": "ann"})
    there.store.put(ready(1, NOW - HOUR))
    there.store.put(MOVING)
    return there


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "CANCEL_PATIENCE", 0.1)


@pytest.fixture
def alive(world: World) -> Claim:
    """The claim that the uploader of MOVING holds."""
    claim = world.store.claim_uploads(IMAGE, build_id(1), "north")
    assert claim is not None
    return claim


def only(world: World, to: str = "north") -> Upload:
    (found,) = [u for u in world.store.snapshot().uploads() if u.provider == to]
    return found


def wishes(world: World, number: int = 1) -> dict[str, UploadWish]:
    return {w.provider: w for w in world.store.get_build(IMAGE, build_id(number)).wishes}


def cancellations(store: Store) -> tuple[UploadCancellation, ...]:
    return store.snapshot().image(IMAGE).upload_cancellations


# -- what moves -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("alive")
def test_an_upload_that_moves_tells_how_far_how_fast_and_how_long_still(world: World) -> None:
    (row,) = world.json("upload", "list")
    moving = {key: row[key] for key in ("phase", "way", "sent", "size", "progress", "rate", "left", "reason")}
    assert moving == {
        "phase": "send",
        "way": "put",
        "sent": 25_000_000,
        "size": 100_000_000,
        "progress": 0.25,
        "rate": 5_000_000,
        "left": 15.0,
        "reason": None,
    }
    shown = world.run("upload", "list").out
    assert "5.0 MB/s" in shown and "25 %" in shown


@pytest.mark.usefixtures("alive")
def test_once_all_bytes_have_left_nobody_knows_how_long_the_cloud_takes(world: World) -> None:
    over = {**MOVING.timings, "send": 10.0}
    world.store.put(replace(MOVING, phase="wait", sent=100_000_000, timings=over))
    (row,) = world.json("upload", "list")
    assert (row["progress"], row["rate"], row["left"]) == (1.0, 10_000_000, None)


@pytest.mark.usefixtures("alive")
@pytest.mark.parametrize("changes", [{"sent": 0}, {"started": NOW - 2 * SECOND}, {"started": None}])
def test_before_anything_can_be_said_of_a_rate_nothing_is(world: World, changes: dict[str, Any]) -> None:
    world.store.put(replace(MOVING, **changes))
    (row,) = world.json("upload", "list")
    assert (row["rate"], row["left"]) == (None, None)


def test_an_upload_whose_uploader_died_does_not_move_and_says_who_ends_it(world: World) -> None:
    (row,) = world.json("upload", "list")
    assert (row["progress"], row["rate"], row["left"]) == (None, None, None)
    assert row["reason"] == "no uploader works on it any more; a janitor ends it"


def test_only_what_is_in_progress_is_listed_when_asked_for(world: World) -> None:
    world.store.put(upload(1, UploadState.READY, NOW, to="south"))
    assert len(world.json("upload", "list")) == 2
    assert [row["provider"] for row in world.json("upload", "list", "--active")] == ["north"]


def test_everything_on_record_is_shown(world: World) -> None:
    world.store.put(
        replace(
            MOVING,
            state=UploadState.DELETING,
            state_time=NOW,
            fallbacks=("web-download: 403",),
            task="t-1",
            cloud="alpha",
            hook_output=("hello\x1b[2J", "bye"),
            hidden=True,
            parts={"aki": "k-1", "ari": "r-1"},
            deletion=Deletion(by="ann", time=NOW, why="bad\nkernel"),
        )
    )
    shown = world.json("upload", "show", "00000001/north")
    assert shown["fallbacks"] == ["web-download: 403"]
    assert shown["hook_output"] == ["hello\x1b[2J", "bye"]
    assert (shown["task"], shown["cloud"], shown["hidden"]) == ("t-1", "alpha", True)
    assert shown["deletion"] == {"by": "ann", "why": "bad\nkernel", "time": "2026-11-21T14:30:00Z"}
    assert shown["cancellation"] is None
    assert shown["parts"] == {"aki": "k-1", "ari": "r-1"}
    table = world.run("upload", "show", "00000001/north").out
    assert "by ann at 2026-11-21 14:30:00 UTC: bad kernel" in table and "hello\\x1b[2J" in table
    assert "aki: k-1" in table and "ari: r-1" in table


# -- cancelling -----------------------------------------------------------------------------------


class Uploader:
    """A stand-in for the daemon: holds the claim, and when told to cancel ends the upload as given."""

    def __init__(self, store: FakeStore, end: Callable[[Upload, UploadCancellation], Upload | None]) -> None:
        self._store = store.another_daemon()
        self._claim = self._store.claim_uploads(IMAGE, build_id(1), "north")
        self._end = end
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        seen, wish = -1, None
        while wish is None:
            seen = self._store.wait(seen, 10)
            wish = next(iter(cancellations(self._store)), None)
        record = self._store.get_upload(IMAGE, build_id(1), "north", MOVING.id)
        if final := self._end(record, wish):
            self._store.update_upload(final)
        else:
            self._store.delete_upload(record)

    def join(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()


def cancelled(record: Upload, wish: UploadCancellation) -> Upload:
    message = f"cancelled by {wish.by}: {wish.why}"
    reason = Failure(failure_class=FailureClass.CANCELLED, message=message, phase="send")
    return record.become(UploadState.FAILED, NOW, ended=NOW, reason=reason)


def test_an_upload_that_runs_ends_as_cancelled_by_who_asked(world: World) -> None:
    daemon = Uploader(world.store, cancelled)
    done = world.run("upload", "cancel", "00000001", "--why", "wrong image")
    daemon.join()
    assert (done.code, done.err) == (0, "")
    assert f"upload {MOVING.name} of {IMAGE} was cancelled by ann@" in done.out
    assert done.out.endswith(": wrong image\n")


@pytest.mark.usefixtures("alive")
def test_who_when_and_why_are_on_record_at_once(world: World) -> None:
    done = world.run("upload", "cancel", "00000001", "--why", " wrong image\n", "--no-wait")
    assert (done.code, done.err) == (0, "") and "will be cancelled" in done.out
    (wish,) = cancellations(world.store)
    assert wish == UploadCancellation(
        upload=MOVING.name, image=IMAGE, by=wish.by, time=NOW, why="wrong image"
    )
    assert wish.by.startswith("ann@")
    assert world.json("upload", "show", "00000001")["cancellation"]["why"] == "wrong image"


@pytest.mark.usefixtures("alive")
@pytest.mark.usefixtures("alive")
def test_of_several_tries_the_one_that_runs_is_cancelled(world: World) -> None:
    world.store.put(replace(upload(1, UploadState.FAILED, NOW - HOUR), id="0000000009"))
    done = world.run("upload", "cancel", "00000001/north", "--no-wait")
    assert (done.code, MOVING.name in done.out) == (0, True)


def test_who_cancelled_first_stays_on_record(world: World) -> None:
    first = UploadCancellation(upload=MOVING.name, image=IMAGE, by="bob \x1b[31m", time=NOW - MINUTE)
    world.store.cancel_upload(first)
    done = world.run("upload", "cancel", "00000001", "--no-wait")
    assert done.code == 0 and "was cancelled by bob \\x1b[31m" in done.err
    assert cancellations(world.store) == (first,)


def test_cancelling_what_was_cancelled_is_done(world: World) -> None:
    by_ann = Failure(failure_class=FailureClass.CANCELLED, message="cancelled by ann: wrong image")
    world.store.put(upload(1, UploadState.FAILED, NOW, to="south", reason=by_ann))
    done = world.run("upload", "cancel", "00000001/south")
    assert done.code == 0 and "was cancelled by ann: wrong image" in done.out
    assert cancellations(world.store) == ()


@pytest.mark.parametrize("state", [UploadState.READY, UploadState.FAILED, UploadState.DELETING])
def test_an_upload_that_does_not_run_is_refused(world: World, state: UploadState) -> None:
    world.store.put(upload(1, state, NOW, to="south"))
    done = world.run("upload", "cancel", "00000001/south")
    assert done.code == 4 and f"is {state}, not in progress" in done.err
    assert cancellations(world.store) == ()


def test_an_upload_that_was_ready_first_is_no_success(world: World) -> None:
    daemon = Uploader(world.store, lambda record, _: record.become(UploadState.READY, NOW))
    done = world.run("upload", "cancel", "00000001")
    daemon.join()
    assert done.code == 1 and "was ready before it could be cancelled" in done.err


def test_an_upload_that_failed_first_is_no_success_and_says_why(world: World) -> None:
    full = Failure(failure_class=FailureClass.QUOTA, message="no room")
    daemon = Uploader(world.store, lambda record, _: record.become(UploadState.FAILED, NOW, reason=full))
    done = world.run("upload", "cancel", "00000001")
    daemon.join()
    assert done.code == 1 and "failed before it could be cancelled: quota: no room" in done.err


def test_an_upload_that_is_gone_meanwhile_is_no_success(world: World) -> None:
    daemon = Uploader(world.store, lambda *_: None)
    done = world.run("upload", "cancel", "00000001")
    daemon.join()
    assert done.code == 1 and "deleted meanwhile" in done.err


@pytest.mark.usefixtures("impatient", "alive")
def test_an_upload_that_does_not_end_stays_cancelled(world: World) -> None:
    done = world.run("upload", "cancel", "00000001")
    assert done.code == 1 and "it stays cancelled" in done.err and "no uploader" not in done.err
    assert len(cancellations(world.store)) == 1


@pytest.mark.usefixtures("impatient")
def test_of_an_upload_whose_uploader_died_it_says_that_the_janitor_ends_it(world: World) -> None:
    done = world.run("upload", "cancel", "00000001")
    assert done.code == 1 and "no uploader works on it any more; the janitor" in done.err


@pytest.mark.parametrize("verb", ["cancel", "delete"])
@pytest.mark.parametrize("why", ["wrong\nupload ready", "red \x1b[31m", "\u202eback"])
def test_what_could_forge_a_line_does_not_get_on_record(world: World, verb: str, why: str) -> None:
    done = world.run("upload", verb, "00000001", "--why", why)
    assert done.code == 2 and "--why has line ends or control characters" in done.err
    assert cancellations(world.store) == () and wishes(world) == {}


@pytest.mark.parametrize("verb", ["cancel", "delete", "show"])
def test_an_upload_nobody_knows_is_3(world: World, verb: str) -> None:
    assert world.run("upload", verb, "dead/beef").code == 3


# -- deleting -------------------------------------------------------------------------------------


def test_what_is_deleted_stays_away_and_says_how_to_lift_that(world: World) -> None:
    world.store.put(upload(1, UploadState.READY, NOW, to="south"))
    done = world.run("upload", "delete", "00000001/south", "--force", "--why", "does not boot")
    assert done.code == 0
    assert f"imagepool upload retry {IMAGE} --provider south" in done.out
    wish = wishes(world)["south"]
    assert (wish.wanted, wish.time, wish.why, wish.by[:4]) == (False, NOW, "does not boot", "ann@")
    record = only(world, "south")
    assert record.state is UploadState.DELETING
    assert record.deletion == Deletion(by=wish.by, time=NOW, why="does not boot")
    (row,) = world.json("upload", "plan", IMAGE, "--provider", "south")
    assert row["decision"] == "no" and "kept away" in row["reason"]


class Watched(FakeStore):
    """A store in which the record of an upload may be marked only once its build stays away."""

    def update_upload(self, upload: Upload) -> Upload:
        wish = self.get_build(upload.image, upload.build_id).wish(upload.provider)
        assert wish is not None and not wish.wanted, "between the two, it would be uploaded again"
        return super().update_upload(upload)


class Watching(World):
    def parts(self) -> object:  # type: ignore[override]
        return replace(super().parts(), open_store=lambda *_: Watched(self.store.tree))


def test_the_wish_is_on_record_before_the_deletion() -> None:
    world = Watching()
    world.store.put(ready(1, NOW - HOUR))
    world.store.put(upload(1, UploadState.FAILED, NOW))
    assert world.run("upload", "delete", "00000001").code == 0
    assert only(world).state is UploadState.DELETING


def test_an_old_failure_goes_without_a_word_on_the_upload_that_runs(world: World) -> None:
    world.store.put(upload(1, UploadState.FAILED, NOW - HOUR, id="0000000002"))
    done = world.run("upload", "delete", "00000001/north/2")
    assert done.code == 0 and "another upload of its build to north stays" in done.out
    assert wishes(world) == {}


def test_an_upload_without_its_build_needs_no_wish(world: World) -> None:
    world.store.put(upload(7, UploadState.FAILED, NOW, to="south"))
    done = world.run("upload", "delete", "00000007")
    assert done.code == 0 and "retry" not in done.out
    assert only(world, "south").state is UploadState.DELETING


def test_an_upload_in_progress_stays_even_by_force_and_says_how_to_end_it(world: World) -> None:
    done = world.run("upload", "delete", "00000001", "--force")
    assert done.code == 4 and f"imagepool upload cancel {MOVING.name}" in done.err
    assert only(world).state is UploadState.UPLOADING and wishes(world) == {}


def test_what_is_refused_leaves_no_wish(world: World) -> None:
    world.store.put(upload(1, UploadState.READY, NOW, to="south"))
    assert world.run("upload", "delete", "00000001/south").code == 4
    assert only(world, "south").state is UploadState.READY and wishes(world) == {}


def test_what_another_tool_deletes_stays_away_as_well(world: World) -> None:
    world.store.put(upload(1, UploadState.DELETING, NOW - MINUTE, to="south"))
    done = world.run("upload", "delete", "00000001/south")
    assert done.code == 0 and "already" in done.out
    assert not wishes(world)["south"].wanted


def test_who_deletes_second_changes_nothing(world: World) -> None:
    first = upload(
        1, UploadState.DELETING, NOW - MINUTE, to="south", deletion=Deletion(by="bob", time=NOW - MINUTE)
    )
    world.store.put(first)
    done = world.run("upload", "delete", "00000001/south")
    assert done.code == 0 and "already" in done.out
    assert only(world, "south") == first and wishes(world) == {}


# -- trying again ---------------------------------------------------------------------------------

FULL = Failure(failure_class=FailureClass.QUOTA, message="no room", phase="create")


def decisions(world: World) -> dict[str, str]:
    return {row["provider"]: row["decision"] for row in world.json("upload", "plan", IMAGE)}


@pytest.fixture
def stuck() -> World:
    """A build that one provider has, that was deleted in another, and that a third refused too often."""
    there = World(
        config=config(
            diskimage(),
            *map(provider, ("north", "south", "west")),
            upload_breaker=BreakerPolicy(failures=2, first=DAY, longest=DAY),
        )
    )
    away = UploadWish(provider="south", wanted=False, by="bob", time=NOW - HOUR)
    there.store.put(ready(1, NOW - DAY, wishes=(away,)))
    there.store.put(upload(1, UploadState.READY, NOW - HOUR))
    for number in (1, 2):
        there.store.put(
            upload(
                1,
                UploadState.FAILED,
                NOW - number * MINUTE,
                to="west",
                id=f"{number:010}",
                reason=FULL,
                ended=NOW - number * MINUTE,
            )
        )
    return there


def test_it_goes_wherever_it_is_not_now_whatever_kept_it_away(stuck: World) -> None:
    assert decisions(stuck) == {"north": "no", "south": "no", "west": "later"}
    done = stuck.run("upload", "retry", IMAGE, "--why", "quota was raised")
    assert done.code == 0
    assert [line.split(": ")[:2] for line in done.out.splitlines()] == [
        ["north", "no"],
        ["south", "now"],
        ["west", "now"],
    ]
    assert {name: (w.wanted, w.time, w.why) for name, w in wishes(stuck).items()} == {
        "south": (True, NOW, "quota was raised"),
        "west": (True, NOW, "quota was raised"),
    }
    assert decisions(stuck) == {"north": "no", "south": "now", "west": "now"}


def test_it_goes_only_where_it_was_asked_for(stuck: World) -> None:
    done = stuck.run("upload", "retry", IMAGE, "--provider", "west")
    assert done.code == 0 and "south" not in done.out
    assert {name: w.wanted for name, w in wishes(stuck).items()} == {"south": False, "west": True}


def test_the_newest_ready_build_goes_not_an_older_one(stuck: World) -> None:
    stuck.store.put(ready(2, NOW - MINUTE))
    stuck.store.put(building(3, NOW))
    assert stuck.run("upload", "retry", IMAGE).code == 0
    assert {name for name, w in wishes(stuck, 2).items() if w.wanted} == {"north", "south", "west"}
    assert wishes(stuck, 3) == {}


def test_a_wish_that_it_stays_away_is_lifted_even_while_it_is_there(stuck: World) -> None:
    away = UploadWish(provider="north", wanted=False, by="bob", time=NOW - HOUR)
    stuck.store.wish_upload(IMAGE, build_id(1), away)
    assert stuck.run("upload", "retry", IMAGE, "--provider", "north").code == 0
    assert wishes(stuck)["north"].wanted


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("unknown",), "there is no image 'unknown'"),
        ((IMAGE, "--provider", "mars"), "no provider 'mars' that lists"),
        (("old",), "lets old go to no provider"),
    ],
)
@pytest.mark.parametrize("verb", ["retry", "plan"])
def test_what_goes_nowhere_is_3(stuck: World, verb: str, argv: tuple[str, ...], said: str) -> None:
    stuck.store.put(ready(9, NOW, image="old"))
    done = stuck.run("upload", verb, *argv)
    assert done.code == 3 and said in done.err and not done.out


def test_without_a_ready_build_there_is_nothing_to_upload() -> None:
    world = World()
    world.store.put(building(1, NOW))
    done = world.run("upload", "retry", IMAGE)
    assert done.code == 3 and f"imagepool image build {IMAGE}" in done.err
