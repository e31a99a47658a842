"""What is said while regions move: each change one line, with the rest of an upload's time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from builder.cli.follow import Scene
from builder.cli.moving import Follower, Standing
from builder.model import Build, FailureClass, Pause, Upload, UploadState, Withholding
from builder.planning.rollback import MoveFate, plan_quarantine, plan_rollback
from tests.unit.planning_world import (
    DAY,
    IMAGE,
    MINUTE,
    NOW,
    build_id,
    config,
    diskimage,
    provider,
    ready,
    records,
    snapshot,
    upload,
)

ONE, TWO = build_id(1)[:8], build_id(2)[:8]
CONFIG = config(diskimage(), provider("north"), provider("south"))
WORD = Withholding(provider=None, by="ann", time=NOW)
OLD, BAD = ready(1, NOW - 2 * DAY), ready(2, NOW - DAY)


def there(number: int, to: str, *, serves: bool = False, **changes: Any) -> Upload:
    time = NOW if serves else NOW - DAY
    return upload(
        number, UploadState.READY, time, to=to, ended=NOW - DAY, serving=time if serves else None, **changes
    )


def sending(sent: int, *, began: int) -> Upload:
    return upload(
        1,
        UploadState.UPLOADING,
        NOW,
        to="south",
        phase="send",
        size=1_000_000_000,
        sent=sent,
        started=NOW - began * MINUTE,
    )


class Story:
    """What is told of a rollback from build 2, which both regions serve and of which north alone has the
    one before."""

    def __init__(self) -> None:
        self.before = snapshot(
            records(
                OLD, BAD, there(1, "north"), there(2, "north", serves=True), there(2, "south", serves=True)
            )
        )
        plan = plan_rollback(CONFIG, self.before, IMAGE, None, None, NOW, by="ann", why="")
        self.fates = {move.provider: move.fate for move in plan.moves}
        self.follower = Follower(IMAGE, plan.moves, NOW)

    def look(self, *uploads: Upload, seconds: int = 0, **changes: Any) -> tuple[str, ...]:
        return self.follower.look(self.scene(*uploads, seconds=seconds, **changes))

    def scene(self, *uploads: Upload, seconds: int = 0, **changes: Any) -> Scene:
        builds: tuple[Build, ...] = (OLD, BAD.withhold(WORD))
        pairs = frozenset((u.build_id, u.provider) for u in uploads if u.state is UploadState.UPLOADING)
        seen = records(*builds, *uploads, uploads_claimed=pairs)
        return Scene(CONFIG, replace(snapshot(seen), **changes), NOW + seconds * MINUTE / 60)

    def standings(self, *uploads: Upload, **changes: Any) -> dict[str, Standing]:
        return {s.move.provider: s for s in self.follower.standings(self.scene(*uploads, **changes))}


NORTH_STILL = (there(1, "north"), there(2, "north", serves=True))
NORTH_MOVED = (there(1, "north", serves=True), there(2, "north"))
SOUTH_STILL = there(2, "south", serves=True)


def test_a_move_is_two_lines_and_an_upload_a_line_for_each_step_with_its_rest() -> None:
    story = Story()
    assert story.fates == {"north": MoveFate.MOVES, "south": MoveFate.UPLOAD}
    assert story.look(*NORTH_STILL, SOUTH_STILL) == (
        f"north: build {ONE} takes over from build {TWO}",
        "south: waits for an upload to begin",
    )
    assert story.look(*NORTH_STILL, SOUTH_STILL) == ()
    assert story.look(*NORTH_MOVED, SOUTH_STILL, seconds=2) == (f"north: serves build {ONE} after 2s",)
    assert story.look(*NORTH_MOVED, SOUTH_STILL, sending(250_000_000, began=1)) == (
        f"south: upload of build {ONE}: send (20 % of 1.0 GB), 4.2 MB/s, about 3m 0s left",
    )
    assert story.look(*NORTH_MOVED, SOUTH_STILL, sending(260_000_000, began=1)) == ()
    arrived = upload(1, UploadState.READY, NOW - 3 * DAY, to="south", ended=NOW)
    assert story.look(*NORTH_MOVED, SOUTH_STILL, arrived) == (f"south: build {ONE} is there, and takes over",)
    served = replace(arrived, state_time=NOW + MINUTE, serving=NOW + MINUTE)
    behind = replace(SOUTH_STILL, serving=None)
    assert story.look(*NORTH_MOVED, behind, served, seconds=95) == (
        f"south: serves build {ONE} after 1m 35s",
    )
    ended = story.standings(*NORTH_MOVED, behind, served).values()
    assert [(each.there, each.coming) for each in ended] == [(True, False), (True, False)]


def test_a_region_that_another_build_serves_meanwhile_is_not_waited_for() -> None:
    """North has an earlier build than the one that is gone back to, which is sent there besides."""
    first, both = ready(3, NOW - 3 * DAY), (there(1, "south"), there(2, "south", serves=True))
    seen = snapshot(records(first, OLD, BAD, there(3, "north"), there(2, "north", serves=True), *both))
    plan = plan_rollback(CONFIG, seen, IMAGE, OLD.id, None, NOW, by="ann", why="")
    north, south = plan.moves
    assert (north.fate, south.fate) == (MoveFate.UPLOAD, MoveFate.MOVES)
    follower = Follower(IMAGE, plan.moves, NOW)
    moved = (there(3, "north", serves=True), there(2, "north"), there(1, "south", serves=True))
    scene = Scene(CONFIG, snapshot(records(first, OLD, BAD.withhold(WORD), *moved)), NOW)
    assert follower.look(scene) == (
        f"north: serves build {build_id(3)[:8]} after 0s",
        f"south: serves build {ONE} after 0s",
    )
    assert all(standing.there for standing in follower.standings(scene))


def test_what_moves_is_told_from_what_is_about_to() -> None:
    story = Story()
    about = story.standings(*NORTH_STILL, SOUTH_STILL)
    assert {(name, each.coming, each.sending) for name, each in about.items()} == {
        ("north", True, False),
        ("south", True, False),
    }
    assert story.standings(*NORTH_STILL, SOUTH_STILL, sending(0, began=0))["south"].sending


def test_an_upload_that_failed_is_trouble_and_says_when_the_next_try_is() -> None:
    story = Story()
    broke = upload(1, UploadState.FAILED, NOW, to="south", kind=FailureClass.NETWORK, ended=NOW)
    south = story.standings(*NORTH_MOVED, SOUTH_STILL, broke)["south"]
    assert (south.there, south.coming) == (False, False)
    assert south.trouble is not None and "2026-11-21 14:4" in south.trouble
    lines = story.look(*NORTH_MOVED, SOUTH_STILL, broke)
    assert lines[1].startswith("south: ") and "network" in lines[1]


def test_a_freeze_keeps_an_upload_from_beginning_and_is_named() -> None:
    story = Story()
    frozen = Pause(by="ann", time=NOW)
    south = story.standings(*NORTH_MOVED, SOUTH_STILL, frozen=frozen)["south"]
    assert not south.coming and south.trouble is not None and "frozen by ann" in south.trouble


def test_where_nothing_else_is_it_is_said_once_and_nothing_is_waited_for() -> None:
    alone = (there(2, "north", serves=True), there(2, "south", serves=True))
    seen = snapshot(records(BAD, *alone))
    plan = plan_quarantine(CONFIG, seen, BAD, None, NOW, by="ann", why="")
    assert {move.fate for move in plan.moves} == {MoveFate.STUCK}
    follower = Follower(IMAGE, plan.moves, NOW)
    scene = Scene(CONFIG, snapshot(records(BAD.withhold(WORD), *alone)), NOW)
    lines = follower.look(scene)
    assert len(lines) == 2 and all("nothing else is ready there" in line for line in lines)
    assert follower.look(scene) == ()
    assert not any(standing.there or standing.coming for standing in follower.standings(scene))


def test_of_a_region_where_nothing_happens_nothing_is_said() -> None:
    seen = snapshot(records(OLD, BAD, there(2, "north", serves=True), there(1, "north")))
    plan = plan_quarantine(CONFIG, seen, OLD, ["north"], NOW, by="ann", why="")
    follower = Follower(IMAGE, plan.moves, NOW)
    scene = Scene(CONFIG, seen, NOW)
    assert follower.look(scene) == () and [each.there for each in follower.standings(scene)] == [True]
