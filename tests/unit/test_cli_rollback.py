"""`image rollback`, `build quarantine` and `unquarantine`: what goes on record, and how regions move."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from builder.cli.commands import withholding as commands
from builder.model import BuildState, Pause, Turn, Upload, UploadState, Withholding
from builder.planning.actions import Promotion, Verdict
from builder.planning.promotion import plan_promotions
from tests.fakes.store import FakeStore
from tests.unit.cli_world import Result, World
from tests.unit.planning_world import (
    DAY,
    HOUR,
    IMAGE,
    MINUTE,
    NOW,
    build_id,
    building,
    config,
    daemon,
    diskimage,
    failed,
    provider,
    ready,
    upload,
)

ONE, TWO, THREE = (build_id(number)[:8] for number in (1, 2, 3))
TOLD = "by ann@nb01 at 2026-11-21 13:30 UTC: no network"


class Mover:
    """A stand-in for the daemon: does on the records what promotions say, and no more."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._store = world.store.another_daemon()
        self._store.register(daemon())
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        seen = -1
        while not self._over.is_set():
            seen = self._store.wait(seen, 10)
            for promotion in plan_promotions(self._world.config, self._store.snapshot(), NOW):
                if promotion.verdict is Verdict.NOW:
                    self._promote(promotion)

    def _promote(self, promotion: Promotion) -> None:
        heir = promotion.upload
        assert heir is not None
        current = self._read(heir)
        if promotion.renewed is not None:
            current = current.renewed(promotion.renewed)
        turn = Turn(
            build_id=heir.build_id, upload=heir.name, since=NOW, by=promotion.by, why=promotion.reason
        )
        self._store.begin_turn(promotion.image, promotion.provider, turn)
        self._store.update_upload(replace(current, serving=current.serving or NOW))
        for other in promotion.predecessors:
            self._store.update_upload(replace(self._read(other), serving=None))

    def _read(self, there: Upload) -> Upload:
        return self._store.get_upload(there.image, there.build_id, there.provider, there.id)

    def stop(self) -> None:
        self._over.set()
        self._store.wake()
        self._thread.join(10)
        assert not self._thread.is_alive()


@contextmanager
def moving(world: World) -> Iterator[None]:
    mover = Mover(world)
    try:
        yield
    finally:
        mover.stop()


def there(number: int, to: str, time: datetime, **changes: Any) -> Upload:
    """The ready upload of a build."""
    return upload(number, UploadState.READY, time, to=to, external_id=f"{to}-{number}", ended=time, **changes)


@pytest.fixture
def world() -> World:
    """Builds 1, 2 and 3, a day apart, of which north and south have the last two; 3 serves."""
    world = World(environ={"SUDO_USER": "bob"})
    for number in (1, 2, 3):
        time = NOW - (4 - number) * DAY
        world.store.put(ready(number, time))
        for region in ("north", "south") if number > 1 else ():
            serves = time + HOUR if number == 3 else None
            world.store.put(there(number, region, time + HOUR, serving=serves))
    return world


def serving(world: World) -> dict[str, str]:
    """Which build serves where, by the records; one at most."""
    found = [u for u in world.store.snapshot().uploads() if u.serving is not None]
    assert len({u.provider for u in found}) == len(found)
    return {u.provider: u.build_id[:8] for u in found}


def words(world: World) -> dict[str, set[str | None]]:
    """From where each build is withheld."""
    return {b.id[:8]: {w.provider for w in b.withheld} for b in world.store.snapshot().builds() if b.withheld}


def rows(done: Result) -> dict[str, dict[str, Any]]:
    """What was listed of each region."""
    return {row["provider"]: row for row in done.json}


def test_every_region_serves_the_build_before_and_says_how_it_moved(world: World) -> None:
    with moving(world):
        done = world.run("image", "rollback", IMAGE, "--reason", "no network", "-f", "json")
    assert done.code == 0, done.err
    assert serving(world) == {"north": TWO, "south": TWO}
    assert words(world) == {THREE: {None}}
    for name, row in rows(done).items():
        assert (row["fate"], row["outcome"]) == ("moves", "serves")
        assert (row["before"], row["after"]) == (build_id(3), build_id(2))
        assert f"{name}: serves build {TWO} after 0s\n" in done.err
    assert f"goes back to build {TWO}" in done.err
    assert f"'imagepool build unquarantine {THREE}' undoes that" in done.err


def test_who_when_and_why_are_on_record(world: World) -> None:
    with moving(world):
        assert world.run("image", "rollback", IMAGE, "--reason", " no network ").code == 0
    (word,) = world.store.get_build(IMAGE, build_id(3)).withheld
    assert word.by.startswith("bob@") and (word.time, word.why) == (NOW, "no network")


def test_a_dry_run_says_what_would_serve_and_changes_nothing(world: World) -> None:
    before = world.store.snapshot()
    done = world.run("image", "rollback", IMAGE, "--dry-run", "-f", "json")
    assert done.code == 0 and world.store.snapshot() == before
    assert {(row["after"], row["outcome"]) for row in done.json} == {(build_id(2), None)}
    assert (
        f"build {THREE} of {IMAGE} would be in quarantine" in done.err and "nothing was changed" in done.err
    )


def test_without_waiting_it_is_put_on_record_and_no_more(world: World) -> None:
    world.store.another_daemon().register(daemon())
    done = world.run("image", "rollback", IMAGE, "--no-wait")
    assert done.code == 0 and "WARNING" not in done.err
    assert words(world) == {THREE: {None}} and serving(world) == {"north": THREE, "south": THREE}


def test_a_certain_build_withholds_all_that_are_newer(world: World) -> None:
    for region in ("north", "south"):
        world.store.put(there(1, region, NOW - 3 * DAY + HOUR))
    with moving(world):
        assert world.run("image", "rollback", IMAGE, "--to", ONE).code == 0
    assert serving(world) == {"north": ONE, "south": ONE}
    assert words(world) == {TWO: {None}, THREE: {None}}


def test_one_provider_alone_goes_back(world: World) -> None:
    with moving(world):
        done = world.run("image", "rollback", IMAGE, "--provider", "north", "-f", "json")
    assert done.code == 0 and [row["provider"] for row in done.json] == ["north"]
    assert serving(world) == {"north": TWO, "south": THREE}
    assert words(world) == {THREE: {"north"}}


def test_a_build_that_is_being_made_is_named_and_not_withheld(world: World) -> None:
    world.store.put(building(4, NOW - MINUTE))
    claim = world.store.another_daemon().claim_image(IMAGE)
    done = world.run("image", "rollback", IMAGE, "--dry-run")
    assert claim is not None and f"build {build_id(4)[:8]} is being made now, and is not withheld" in done.err


def test_a_rollback_that_was_done_is_done_again_without_a_word_more(world: World) -> None:
    with moving(world):
        assert world.run("image", "rollback", IMAGE, "--to", TWO).code == 0
        before = world.store.get_build(IMAGE, build_id(3))
        again = world.run("image", "rollback", IMAGE, "--to", TWO, "-f", "json")
    assert again.code == 0 and "no newer build is left to withhold" in again.err
    assert {row["fate"] for row in again.json} == {"stays"}
    assert world.store.get_build(IMAGE, build_id(3)) == before


def test_typed_again_before_the_regions_have_moved_it_goes_back_to_the_same(world: World) -> None:
    for _ in range(2):
        again = world.run("image", "rollback", IMAGE, "--no-wait", "-f", "json")
        assert {row["after"] for row in again.json} == {build_id(2)}
    assert "no newer build is left to withhold" in again.err and words(world) == {THREE: {None}}


def test_typed_again_afterwards_it_goes_back_by_one_more(world: World) -> None:
    for region in ("north", "south"):
        world.store.put(there(1, region, NOW - 3 * DAY + HOUR))
    with moving(world):
        first = world.run("image", "rollback", IMAGE)
        again = world.run("image", "rollback", IMAGE)
    assert (first.code, again.code) == (0, 0) and serving(world) == {"north": ONE, "south": ONE}
    assert "further" not in first.err
    assert f"this goes back further: build {THREE} was put in quarantine by bob@" in again.err


def test_another_region_that_goes_back_as_well_goes_no_further(world: World) -> None:
    with moving(world):
        assert world.run("image", "rollback", IMAGE, "--provider", "north").code == 0
        for rest in (("--provider", "south"), ()):
            done = world.run("image", "rollback", IMAGE, *rest, "--dry-run")
            assert done.code == 0 and f"back to build {TWO}" in done.err
            assert "goes back further" not in done.err


def test_a_region_that_never_got_the_bad_build_stays_as_it_is(world: World) -> None:
    world.store.delete_upload(world.store.get_upload(IMAGE, build_id(3), "south", "0000000001"))
    world.store.put(there(2, "south", NOW - 2 * DAY + HOUR, serving=NOW - DAY))
    with moving(world):
        done = world.run("image", "rollback", IMAGE, "-f", "json")
    assert done.code == 0 and rows(done)["south"]["fate"] == "stays"
    assert serving(world) == {"north": TWO, "south": TWO} and words(world) == {THREE: {None}}


def test_while_everything_is_frozen_regions_go_back_all_the_same(world: World) -> None:
    world.store.freeze(Pause(by="ann", time=NOW))
    with moving(world):
        assert world.run("image", "rollback", IMAGE).code == 0
    assert serving(world) == {"north": TWO, "south": TWO}


# -- regions that don't move ----------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "PATIENCE", 0.3)
    monkeypatch.setattr(commands, "_HEARTBEAT", 0.05)


def test_without_a_daemon_it_is_on_record_and_5(world: World) -> None:
    done = world.run("image", "rollback", IMAGE)
    assert done.code == 5 and "no daemon runs that could move images" in done.err
    assert words(world) == {THREE: {None}} and TWO in done.out


@pytest.mark.parametrize(
    "changes", [{"roles": ("scheduler", "builder")}, {"roles": ("janitor",)}, {"draining": True}]
)
def test_daemons_that_stop_or_lack_the_role_move_nothing(world: World, changes: Any) -> None:
    world.store.another_daemon().register(daemon(**changes))
    assert world.run("image", "rollback", IMAGE).code == 5


def test_a_daemon_that_is_too_old_is_named(world: World) -> None:
    world.store.another_daemon().register(daemon(hostname="old", version="0.0.9", withholds=False))
    done = world.run("build", "quarantine", THREE)
    assert done.code == 5 and "WARNING: the daemon on old has version 0.0.9" in done.err


@pytest.mark.usefixtures("impatient")
def test_a_region_that_does_not_move_is_1_and_named(world: World) -> None:
    world.store.another_daemon().register(daemon())
    done = world.run("image", "rollback", IMAGE)
    assert done.code == 1 and "north and south: not yet after" in done.err and "not yet" in done.out
    assert f"north: build {TWO} takes over from build {THREE}\n" in done.err


def test_a_region_that_has_nothing_else_goes_on_and_that_is_1(world: World) -> None:
    gone = upload(2, UploadState.READY, NOW, to="south")
    world.store.delete_upload(world.store.get_upload(gone.image, gone.build_id, "south", gone.id))
    for number in (1, 2):  # its file went as well
        there_ = world.store.get_build(IMAGE, build_id(number))
        world.store.update_build(replace(there_, pruned=("qcow2",)))
    with moving(world):
        done = world.run("image", "rollback", IMAGE)
    assert done.code == 1 and serving(world) == {"north": TWO, "south": THREE}
    assert f"south: Build {THREE} goes on serving: nothing else is ready there or can be sent" in done.err
    assert f"'imagepool image build {IMAGE}' makes one" in done.err
    listed = world.run("image", "list", "-f", "json").json[0]
    assert f"south: build {THREE} serves although it was put in quarantine by bob@" in listed["reason"]


def test_a_region_that_lacks_the_build_gets_it_by_an_upload_and_is_waited_for(world: World) -> None:
    gone = upload(2, UploadState.READY, NOW, to="south")
    world.store.delete_upload(world.store.get_upload(gone.image, gone.build_id, "south", gone.id))
    sender = threading.Thread(target=_send, args=(world.store.another_daemon(),), daemon=True)
    with moving(world):
        sender.start()
        done = world.run("image", "rollback", IMAGE, "-f", "json")
    sender.join(10)
    assert done.code == 0, done.err
    assert serving(world) == {"north": TWO, "south": TWO} and rows(done)["south"]["fate"] == "upload"
    said = [line for line in done.err.splitlines() if line.startswith("south: ")]
    assert (
        said[0] == "south: waits for an upload to begin" and said[-1] == f"south: serves build {TWO} after 0s"
    )


@pytest.mark.usefixtures("impatient")
def test_while_zookeeper_is_away_nobody_waits_for_an_upload_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.store.delete_upload(world.store.get_upload(IMAGE, build_id(2), "south", "0000000001"))
    world.store.another_daemon().register(daemon())
    claim = world.store.another_daemon().claim_uploads(IMAGE, build_id(2), "south")
    world.store.put(replace(upload(2, UploadState.UPLOADING, NOW, to="south"), id="0000000002", size=100))
    ours = world.store.another_daemon()
    monkeypatch.setattr(ours, "another_daemon", lambda: ours)
    threading.Timer(0.2, ours.disconnect).start()
    world.store = ours
    done = world.run("image", "rollback", IMAGE)
    assert claim is not None and done.code == 5 and "ZooKeeper has not answered" in done.err


def _send(store: FakeStore) -> None:
    """Send build 2 to south once build 3 is withheld."""
    seen = -1
    while not store.get_build(IMAGE, build_id(3)).withheld:
        seen = store.wait(seen, 10)
    claim = store.claim_uploads(IMAGE, build_id(2), "south")
    assert claim is not None
    with claim:
        sent = store.create_upload(
            replace(upload(2, UploadState.UPLOADING, NOW, to="south"), size=100, phase="send")
        )
        store.update_upload(
            sent.become(UploadState.READY, NOW - 5 * DAY, external_id="new", ended=NOW, size=100, sent=100)
        )


def test_a_region_that_is_paused_gets_nothing_and_goes_on(world: World) -> None:
    gone = upload(2, UploadState.READY, NOW, to="south")
    world.store.delete_upload(world.store.get_upload(gone.image, gone.build_id, "south", gone.id))
    world.store.pause_provider("south", Pause(by="ann", time=NOW, why="moving"))
    with moving(world):
        done = world.run("image", "rollback", IMAGE)
    assert done.code == 1 and serving(world) == {"north": TWO, "south": THREE}


# -- what can't be gone back to -------------------------------------------------------------------


def refused(world: World, code: int, said: str, *argv: str) -> None:
    before = world.store.snapshot()
    done = world.run(*argv)
    assert (done.code, done.out) == (code, ""), done.err
    assert said in done.err and world.store.snapshot() == before


@pytest.mark.parametrize("name", ["nowhere", "", "../x", "a b", "x" * 300])
def test_what_nobody_knows_is_3(world: World, name: str) -> None:
    refused(world, 3, "there is no image", "image", "rollback", name)
    refused(world, 3, "there is no build", "image", "rollback", IMAGE, "--to", name)
    refused(world, 3, "has no provider", "image", "rollback", IMAGE, "--provider", name)
    refused(world, 3, "there is no build", "build", "quarantine", name)
    refused(world, 3, "has no provider", "build", "quarantine", THREE, "--provider", name)
    refused(world, 3, "there is no build", "build", "unquarantine", name)
    refused(world, 3, "there is no provider", "build", "unquarantine", THREE, "--provider", name)
    refused(world, 3, "there is no image", "image", "history", name)
    refused(world, 3, "there is no provider", "image", "history", IMAGE, "--provider", name)


def test_a_build_of_another_image_is_3_and_says_whose_it_is(world: World) -> None:
    world.store.put(replace(ready(9, NOW - DAY), image="ubuntu-noble"))
    said = f"is a build of ubuntu-noble, not of {IMAGE}"
    refused(world, 3, said, "image", "rollback", IMAGE, "--to", "00000009")


def test_an_id_that_fits_several_is_3_and_lists_them(world: World) -> None:
    refused(world, 3, "fits 3 builds", "image", "rollback", IMAGE, "--to", "0000")
    refused(world, 3, "fits 3 builds", "build", "quarantine", "0000")


def test_a_target_that_is_withheld_itself_is_4_and_says_by_whom_and_what_else_there_is(world: World) -> None:
    world.store.withhold(IMAGE, build_id(2), BY_ANN)
    refused(world, 4, TOLD, "image", "rollback", IMAGE, "--to", TWO)
    done = world.run("image", "rollback", IMAGE, "--to", TWO)
    assert (
        f"`imagepool build unquarantine {TWO}`" in done.err and f"{ONE} (its files are on host-a)" in done.err
    )


@pytest.mark.parametrize(
    "bad", [failed(4, NOW - HOUR), ready(4, NOW - HOUR).become(BuildState.DELETING, NOW)]
)
def test_a_target_that_is_not_ready_is_4(world: World, bad: Any) -> None:
    world.store.put(bad)
    refused(world, 4, f"is {bad.state}, not ready", "image", "rollback", IMAGE, "--to", build_id(4)[:8])


def test_a_target_that_is_nowhere_any_more_is_4_and_lists_what_could_be_taken(world: World) -> None:
    world.store.put(ready(1, NOW - 3 * DAY, pruned=("qcow2",)))
    refused(world, 4, "has no files to send", "image", "rollback", IMAGE, "--to", ONE)
    assert f"{TWO} (ready in north and south)" in world.run("image", "rollback", IMAGE, "--to", ONE).err


def test_when_there_is_nothing_before_it_is_4(world: World) -> None:
    world.store.withhold(IMAGE, build_id(2), BY_ANN)
    refused(world, 4, "is ready", "image", "rollback", IMAGE)
    empty = World()
    empty.store.put(ready(1, NOW - DAY))
    refused(empty, 4, "in service", "image", "rollback", IMAGE)


def test_an_image_that_no_provider_lists_is_3() -> None:
    world = World(config=config(diskimage(), provider("north", "other")))
    world.store.put(ready(1, NOW - DAY))
    refused(world, 3, "go to no provider", "image", "rollback", IMAGE)


@pytest.mark.parametrize("reason", ["two\nlines", "\x1b[2J", "a\u2028b"])
@pytest.mark.parametrize("command", [("image", "rollback", IMAGE), ("build", "quarantine", THREE)])
def test_a_reason_is_one_line(world: World, command: tuple[str, ...], reason: str) -> None:
    refused(world, 2, "one line", *command, "--reason", reason)


@pytest.mark.parametrize(
    "argv",
    [
        ("image", "rollback"),
        ("image", "rollback", IMAGE, THREE),
        ("image", "rollback", IMAGE, "--to"),
        ("image", "rollback", IMAGE, "--why", "x"),
        ("build", "quarantine"),
        ("build", "quarantine", THREE, TWO),
        ("build", "unquarantine", THREE, "--reason", "x"),
        ("image", "history"),
        ("image", "history", IMAGE, "--json"),
    ],
    ids=" ".join,
)
def test_wrong_words_are_2(world: World, argv: tuple[str, ...]) -> None:
    assert world.run(*argv).code == 2


# -- quarantine and back --------------------------------------------------------------------------

BY_ANN = Withholding(provider=None, by="ann@nb01", time=NOW - HOUR, why="no network")


def test_a_build_in_quarantine_is_out_of_service_until_it_is_let_out(world: World) -> None:
    with moving(world):
        away = world.run("build", "quarantine", THREE, "--reason", "no network", "-f", "json")
        assert away.code == 0 and serving(world) == {"north": TWO, "south": TWO}
        back = world.run("build", "unquarantine", THREE, "-f", "json")
        assert back.code == 0 and serving(world) == {"north": THREE, "south": THREE}
    assert words(world) == {}
    assert f"build {THREE} of {IMAGE} is let out: it was put in quarantine by bob@" in back.err
    assert {(row["before"], row["after"]) for row in back.json} == {(build_id(2), build_id(3))}


def test_an_older_build_that_does_not_serve_is_withheld_and_nothing_moves(world: World) -> None:
    done = world.run("build", "quarantine", TWO, "-f", "json")
    assert done.code == 0 and {row["fate"] for row in done.json} == {"stays"} and "WARNING" not in done.err
    assert words(world) == {TWO: {None}} and serving(world) == {"north": THREE, "south": THREE}


def test_who_withheld_a_build_first_stays_on_record(world: World) -> None:
    world.store.withhold(IMAGE, build_id(2), BY_ANN)
    done = world.run("build", "quarantine", TWO, "--reason", "me too")
    assert done.code == 0
    assert f"build {TWO} of {IMAGE} was put in quarantine {TOLD} already; that stays" in done.err
    assert world.store.get_build(IMAGE, build_id(2)).withheld == (BY_ANN,)


def test_what_is_in_quarantine_is_not_withheld_from_a_provider_besides(world: World) -> None:
    world.store.withhold(IMAGE, build_id(2), BY_ANN)
    done = world.run("build", "quarantine", TWO, "--provider", "north")
    assert done.code == 0 and "already" in done.err and words(world) == {TWO: {None}}


def test_what_is_withheld_from_a_provider_can_go_into_quarantine(world: World) -> None:
    world.store.withhold(IMAGE, build_id(2), replace(BY_ANN, provider="north"))
    assert world.run("build", "quarantine", TWO).code == 0
    assert words(world) == {TWO: {None, "north"}}


@pytest.mark.parametrize("more", [(), ("--provider", "north")], ids=["everywhere", "there"])
def test_what_left_the_configuration_is_withheld_and_let_out_and_nothing_moves(
    world: World, more: tuple[str, ...]
) -> None:
    world = World(config=config(provider("north", "other")), store=world.store)
    away = world.run("build", "quarantine", THREE, *more, "-f", "json")
    assert (away.code, away.json) == (0, []), away.err
    assert f"the configuration does not let {IMAGE} go to north" in away.err
    assert words(world) == {THREE: {"north" if more else None}}
    assert world.run("build", "unquarantine", THREE, *more).code == 0
    assert words(world) == {}


def test_a_build_that_is_being_made_can_be_withheld(world: World) -> None:
    world.store.put(building(4, NOW - MINUTE))
    claim = world.store.another_daemon().claim_image(IMAGE)
    done = world.run("build", "quarantine", build_id(4)[:8])
    assert claim is not None and done.code == 0 and "is being made now" not in done.err
    assert words(world) == {build_id(4)[:8]: {None}}


def test_a_build_that_failed_can_not_be_withheld(world: World) -> None:
    world.store.put(failed(4, NOW - HOUR))
    refused(world, 4, "is failed", "build", "quarantine", build_id(4)[:8])


def test_one_provider_alone_gets_a_build_back(world: World) -> None:
    for region in ("north", "south"):
        world.store.withhold(IMAGE, build_id(3), replace(BY_ANN, provider=region))
    with moving(world):
        done = world.run("build", "unquarantine", THREE, "--provider", "north")
    assert done.code == 0 and words(world) == {THREE: {"south"}}
    assert f"was withheld from north {TOLD}" in done.err


def test_several_providers_get_a_build_back_at_once(world: World) -> None:
    regions = ("--provider", "north", "--provider", "south")
    with moving(world):
        assert world.run("build", "quarantine", THREE, *regions).code == 0
        assert world.run("build", "unquarantine", THREE, *regions).code == 0
    assert words(world) == {} and serving(world) == {"north": THREE, "south": THREE}


def test_a_quarantine_is_not_taken_back_for_one_provider(world: World) -> None:
    world.store.withhold(IMAGE, build_id(3), BY_ANN)
    refused(
        world, 4, "is not withheld from north alone", "build", "unquarantine", THREE, "--provider", "north"
    )


def test_what_is_not_withheld_is_let_be(world: World) -> None:
    done = world.run("build", "unquarantine", THREE)
    assert done.code == 0 and "was not withheld" in done.err and words(world) == {}
    done = world.run("build", "unquarantine", THREE, "--provider", "north")
    assert done.code == 0 and "was not withheld from north" in done.err


# -- who served what ------------------------------------------------------------------------------


def test_the_history_tells_who_served_what_where_from_when_to_when_and_why(world: World) -> None:
    for region in ("south", "north"):
        was = there(3, region, NOW - DAY)
        turn = Turn(build_id=was.build_id, upload=was.name, since=NOW - DAY, by="imagepool", why="It is new.")
        world.store.begin_turn(IMAGE, region, turn)
    with moving(world):
        assert world.run("image", "rollback", IMAGE, "--reason", "no network").code == 0
    told = world.json("image", "history", IMAGE)
    assert [(row["provider"], row["build"][:8]) for row in told] == [
        ("north", TWO),
        ("north", THREE),
        ("south", TWO),
        ("south", THREE),
    ]
    now, before = told[0], told[1]
    assert now["by"].startswith("bob@") and "no network" in now["why"]
    assert (now["until"], now["lasted"]) == (None, 0)
    assert (before["since"], before["until"]) == ("2026-11-20T14:30:00Z", "2026-11-21T14:30:00Z")
    assert before["lasted"] == DAY.total_seconds() and before["why"] == "It is new."
    one = world.json("image", "history", IMAGE, "--provider", "south")
    assert {row["provider"] for row in one} == {"south"}
    assert "no network" in world.run("image", "history", IMAGE).out


def test_a_turn_that_somebody_else_wrote_is_shown_as_it_is(world: World) -> None:
    turn = Turn(build_id="x\x1b[2J", upload="no name\n", since=NOW, by="\x1b[2J", why="two\nlines")
    world.store.begin_turn(IMAGE, "gone", turn)
    shown = world.run("image", "history", IMAGE)
    assert shown.code == 0 and "\x1b" not in shown.out and "no name" in shown.out
    assert world.json("image", "history", IMAGE, "--provider", "gone")[0]["upload"] == "no name\n"


def test_without_a_history_that_is_said(world: World) -> None:
    done = world.run("image", "history", IMAGE, "-f", "json")
    assert (done.json, done.err) == ([], f"nothing is on record of what served {IMAGE}\n")
