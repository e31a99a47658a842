"""What is withheld so that an earlier build serves again, and what every provider does then."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builder.config.model import Config
from builder.errors import NotFoundError, RefusedError
from builder.model import Build, Snapshot, Upload, UploadState
from builder.planning.rollback import (
    Move,
    MoveFate,
    Rollback,
    moved,
    plan_quarantine,
    plan_release,
    plan_rollback,
    too_old,
)
from tests.unit.planning_world import (
    DAY,
    HOUR,
    IMAGE,
    MINUTE,
    NOW,
    building,
    config,
    daemon,
    diskimage,
    doomed,
    failed,
    held,
    paused,
    provider,
    ready,
    records,
    snapshot,
    upload,
)

READY, DELETING = UploadState.READY, UploadState.DELETING
THREE, TWO, ONE = ready(3, NOW - HOUR), ready(2, NOW - DAY), ready(1, NOW - 2 * DAY)
CONFIG = config(diskimage(stable_name="debian"), provider("north"), provider("south"))
STAYS, MOVES, UPLOAD, STUCK = MoveFate


def there(build: Build, *clouds: str, serving: bool = False) -> list[Upload]:
    """The build is ready in those providers, and serves there."""
    number, since = int(build.id[:8], 16), build.state_time + MINUTE
    sign = {"serving": since, "stable_name": "debian"} if serving else {}
    at = NOW if serving else since - 3 * DAY
    return [upload(number, READY, at, to, ended=since, **sign) for to in clouds]


def known(*parts: Build | Upload | list[Upload], **changes) -> Snapshot:
    flat = [x for part in parts for x in (part if isinstance(part, list) else [part])]
    return snapshot(records(*flat, **changes))


def rollback(world: Snapshot, to: Build | None = None, *providers: str, config_: Config = CONFIG) -> Rollback:
    chosen = providers or None
    wanted = to.id if to is not None else None
    return plan_rollback(config_, world, IMAGE, wanted, chosen, NOW, by="ann", why="it does not boot")


def withheld(plan: Rollback) -> list[tuple[str, str | None]]:
    return [(build.id[:8], word.provider) for build, word in plan.withhold]


def fates(plan: Rollback) -> dict[str, tuple[MoveFate, str | None]]:
    """What becomes of each provider, and what it serves at once."""
    return {m.provider: (m.fate, m.upload.build_id[:8] if m.upload else None) for m in plan.moves}


EVERYWHERE = (*there(THREE, "north", "south", serving=True), *there(TWO, "north", "south"))
WORLD = known(THREE, TWO, ONE, list(EVERYWHERE))


# -- going back -----------------------------------------------------------------------------------


def test_the_build_before_serves_everywhere_and_the_bad_one_is_put_in_quarantine() -> None:
    plan = rollback(WORLD)
    assert plan.target == TWO and plan.running is None
    assert withheld(plan) == [("00000003", None)]
    (word,) = (word for _, word in plan.withhold)
    assert (word.by, word.time, word.why) == ("ann", NOW, "it does not boot")
    assert fates(plan) == {"north": (MOVES, "00000002"), "south": (MOVES, "00000002")}
    assert plan.moves[0].reason == ("Build 00000002, which is ready there, takes over from build 00000003.")


def test_in_one_provider_the_others_stay_as_they_are() -> None:
    plan = rollback(WORLD, None, "south")
    assert withheld(plan) == [("00000003", "south")]
    assert fates(plan) == {"south": (MOVES, "00000002")}


def test_all_that_is_newer_than_the_target_is_withheld_the_oldest_first() -> None:
    """Cut short after the first word, nothing has moved to what was to be withheld as well."""
    four = ready(4, NOW - MINUTE)
    world = known(four, THREE, TWO, ONE, list(EVERYWHERE), there(ONE, "north", "south"))
    plan = rollback(world, ONE)
    assert withheld(plan) == [("00000002", None), ("00000003", None), ("00000004", None)]
    assert fates(plan) == {"north": (MOVES, "00000001"), "south": (MOVES, "00000001")}
    # One that never served is newer than the bad one, and no better.
    assert withheld(rollback(world)) == [("00000003", None), ("00000004", None)]


def test_who_is_behind_already_stays_there() -> None:
    world = known(THREE, TWO, there(THREE, "north", serving=True), there(TWO, "north"))
    behind = there(TWO, "south", serving=True)
    plan = rollback(world.with_image(replace(world.images[IMAGE], uploads=(*world.uploads(), *behind))))
    assert fates(plan) == {"north": (MOVES, "00000002"), "south": (STAYS, "00000002")}


def test_who_has_only_an_older_one_serves_that_until_the_target_was_sent() -> None:
    south = [*there(THREE, "south", serving=True), *there(ONE, "south")]
    world = known(THREE, TWO, ONE, there(THREE, "north", serving=True), there(TWO, "north"), south)
    plan = rollback(world)
    assert plan.target == TWO
    assert fates(plan) == {"north": (MOVES, "00000002"), "south": (UPLOAD, "00000001")}
    assert plan.moves[1].build == TWO
    assert plan.moves[1].reason == "Build 00000002 is sent there first, and Build 00000001 serves until then."


def test_who_has_nothing_else_goes_on_until_the_target_was_sent() -> None:
    both = there(THREE, "north", "south", serving=True)
    plan = rollback(known(THREE, TWO, both, there(TWO, "north")))
    assert fates(plan)["south"] == (UPLOAD, "00000003")


def test_where_nothing_can_be_sent_the_bad_one_goes_on() -> None:
    both = there(THREE, "north", "south", serving=True)
    world = known(THREE, replace(TWO, pruned=("qcow2",)), both, there(TWO, "north"))
    plan = rollback(world)
    assert fates(plan) == {"north": (MOVES, "00000002"), "south": (STUCK, "00000003")}
    assert plan.moves[1].reason.startswith(
        "Build 00000003 goes on serving: nothing else is ready there or can be sent."
        " The qcow2 file of build 00000002 was deleted after its uploads;"
    )


def test_a_target_that_no_provider_has_is_sent_when_its_files_are_there() -> None:
    plan = rollback(WORLD, ONE)
    assert plan.target == ONE
    # What is newer and ready there is withheld, too, so the bad one stays until then.
    assert fates(plan) == {"north": (UPLOAD, "00000003"), "south": (UPLOAD, "00000003")}


def test_a_build_that_is_being_made_takes_over_when_it_is_ready() -> None:
    four = building(4, NOW - MINUTE)
    world = known(four, THREE, TWO, list(EVERYWHERE), build_claimed=True)
    plan = rollback(world)
    assert (plan.running, withheld(plan)) == (four, [("00000003", None)])


def test_it_can_be_done_again_and_further() -> None:
    """The promoter has not moved yet; then it has, and the next one is bad as well."""
    again = known(held(THREE), TWO, ONE, list(EVERYWHERE))
    plan = rollback(again)
    assert (withheld(plan), plan.target) == ([], TWO)
    assert fates(plan) == {"north": (MOVES, "00000002"), "south": (MOVES, "00000002")}
    back = [*there(TWO, "north", "south", serving=True), *there(THREE, "north", "south")]
    further = known(held(THREE), TWO, ONE, back, there(ONE, "north", "south"))
    assert (withheld(rollback(further)), rollback(further).target) == ([("00000002", None)], ONE)


def test_without_name_and_tag_it_is_the_same() -> None:
    plain = config(diskimage(), provider("north"), provider("south"))
    uploads = [replace(each, serving=None, stable_name=None) for each in EVERYWHERE]
    plan = rollback(known(THREE, TWO, uploads), config_=plain)
    assert fates(plan) == {"north": (MOVES, "00000002"), "south": (MOVES, "00000002")}


def test_a_freeze_does_not_stop_it() -> None:
    assert fates(rollback(replace(WORLD, frozen=paused())))["north"] == (MOVES, "00000002")


# -- what is refused ------------------------------------------------------------------------------


def refused(world: Snapshot, to: Build | None = None, *providers: str) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        rollback(world, to, *providers)
    return caught.value


def test_without_an_earlier_one_it_says_what_there_is() -> None:
    alone = known(THREE, TWO, ONE, there(THREE, "north", serving=True))
    error = refused(alone)
    assert error.message == ("no image of debian-bookworm from before build 00000003, which serves, is ready")
    assert error.hint == (
        "Could be taken: 00000002 (its files are on host-a), 00000001 (its files are on host-a)."
    )
    assert refused(known(THREE, there(THREE, "north", serving=True))).hint == (
        "There is no other build to go back to."
    )


def test_where_nothing_serves_there_is_nothing_to_go_back_from() -> None:
    assert refused(known(THREE, TWO)).message == "no image of debian-bookworm is in service"


def test_a_build_that_can_not_serve_is_no_target() -> None:
    gone = replace(ONE, pruned=("qcow2",))
    error = refused(known(THREE, TWO, gone, list(EVERYWHERE)), gone)
    assert error.message == (
        "build 00000001 is ready in no provider that goes back, and has no files to send"
    )
    assert (
        error.hint
        == "Could be taken: 00000003 (ready in north and south), 00000002 (ready in north and south)."
    )
    lost = failed(1, NOW - 2 * DAY)
    assert refused(known(THREE, TWO, lost, list(EVERYWHERE)), lost).message == (
        "build 00000001 is failed, not ready"
    )
    assert "is deleting, not ready" in refused(known(THREE, doomed(TWO), list(EVERYWHERE)), TWO).message


def test_what_is_withheld_itself_is_no_target_before_that_is_taken_back() -> None:
    error = refused(known(THREE, held(TWO), ONE, list(EVERYWHERE)), TWO)
    assert error.message == (
        "build 00000002 was put in quarantine by ann at 2026-11-21 14:29 UTC: it does not boot"
    )
    assert error.hint.startswith("`imagepool build unquarantine 00000002` takes that back.")
    there_only = known(THREE, held(TWO, "south"), ONE, list(EVERYWHERE))
    assert "was withheld from south" in refused(there_only, TWO, "south").message
    assert rollback(there_only, TWO, "north").target == held(TWO, "south")


def test_what_does_not_exist_is_not_found() -> None:
    with pytest.raises(NotFoundError) as caught:
        rollback(known(THREE, TWO, list(EVERYWHERE)), ONE)
    assert "Could be taken: " in caught.value.hint


def test_who_does_not_list_the_image_does_not_go_back() -> None:
    assert refused(WORLD, None, "west").message == (
        "west does not have debian-bookworm, so nothing of it is promoted there"
    )
    with pytest.raises(RefusedError) as caught:
        rollback(WORLD, config_=config(provider("north", "other")))
    assert "the configuration does not have debian-bookworm" in caught.value.message


# -- quarantine, and its end ----------------------------------------------------------------------


def test_a_quarantine_tells_what_serves_instead() -> None:
    plan = plan_quarantine(CONFIG, WORLD, THREE, None, NOW, by="ann", why="")
    assert (plan.target, withheld(plan)) == (None, [("00000003", None)])
    assert fates(plan) == {"north": (MOVES, "00000002"), "south": (MOVES, "00000002")}
    older = plan_quarantine(CONFIG, WORLD, ONE, ["south"], NOW, by="ann", why="")
    assert (withheld(older), fates(older)) == ([("00000001", "south")], {"south": (STAYS, "00000003")})
    alone = known(THREE, there(THREE, "north", serving=True))
    stuck = plan_quarantine(CONFIG, alone, THREE, None, NOW, by="ann", why="")
    assert fates(stuck) == {"north": (STUCK, "00000003"), "south": (STAYS, None)}


GONE = config(provider("north", "other"))


@pytest.mark.parametrize("config_", [GONE, config(diskimage(), provider("north", "other"))])
def test_what_the_configuration_lets_go_nowhere_is_withheld_and_let_out_all_the_same(config_: Config) -> None:
    """So that it does not go out when the image is configured again."""
    everywhere = plan_quarantine(config_, WORLD, THREE, None, NOW, by="ann", why="")
    assert (withheld(everywhere), everywhere.moves) == ([("00000003", None)], ())
    here = plan_quarantine(config_, WORLD, THREE, ["south"], NOW, by="ann", why="")
    assert (withheld(here), here.moves) == ([("00000003", "south")], ())
    for word in (None, "south"):
        bad = held(THREE, word)
        released = plan_release(config_, known(bad, TWO, list(EVERYWHERE)), bad, word and [word], NOW)
        assert (released.withhold, released.moves) == ((), ())


def test_what_failed_needs_no_quarantine() -> None:
    lost = failed(3, NOW)
    with pytest.raises(RefusedError, match="build 00000003 is failed: nothing of it goes out"):
        plan_quarantine(CONFIG, known(lost), lost, None, NOW, by="ann", why="")


def test_once_released_it_comes_back() -> None:
    back = [*there(TWO, "north", "south", serving=True), *there(THREE, "north")]
    world = known(held(THREE), TWO, back)
    plan = plan_release(CONFIG, world, held(THREE), None, NOW)
    assert plan.withhold == ()
    assert fates(plan) == {"north": (MOVES, "00000003"), "south": (STAYS, "00000002")}
    there_only = known(held(THREE, "north"), TWO, back)
    assert fates(plan_release(CONFIG, there_only, held(THREE, "north"), ["north"], NOW)) == {
        "north": (MOVES, "00000003")
    }


# -- waiting, and who does not know ---------------------------------------------------------------


def move(plan: Rollback) -> Move:
    (found,) = (each for each in plan.moves if each.provider == "north")
    return found


def test_a_provider_has_moved_when_records_and_nodepool_agree() -> None:
    north = move(rollback(WORLD))
    bad, heir = (next(u for u in EVERYWHERE if u.build_id == b.id) for b in (THREE, TWO))
    serves = replace(heir.renewed(NOW + MINUTE), serving=NOW)
    ended = replace(bad, serving=None)
    assert not moved(north, WORLD)
    assert not moved(north, known([bad, serves])), "both serve"
    assert not moved(north, known([ended, replace(heir, serving=NOW)])), "nodepool takes the bad one"
    assert moved(north, known([ended, serves]))
    # A newer one has overtaken it meanwhile.
    newer = replace(there(ready(4, NOW), "north", serving=True)[0], state_time=NOW + HOUR)
    assert moved(north, known([ended, replace(serves, serving=None), newer]))


def test_where_nothing_moves_nothing_is_waited_for() -> None:
    stuck = move(rollback(known(THREE, TWO, there(THREE, "north", serving=True), there(TWO, "south"))))
    assert stuck.fate is UPLOAD and moved(stuck, WORLD)
    assert moved(move(plan_quarantine(CONFIG, WORLD, ONE, None, NOW, by="ann", why="")), WORLD)


def test_daemons_of_earlier_versions_are_named() -> None:
    new, old = daemon(), daemon("b", "host-b", withholds=False)
    assert too_old(snapshot(daemons=(new, old))) == (old,)
