"""`image build --wait`: every change is told once, and the end is the right one."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from builder.cli.follow import PATIENCE, Follower, News, Scene
from builder.config.model import Config
from builder.model import (
    Build,
    BuildState,
    Cancellation,
    Failure,
    FailureClass,
    Pause,
    Request,
    Upload,
    UploadState,
)
from tests.fakes.store import FakeStore
from tests.unit.cli_world import World
from tests.unit.planning_world import (
    DAY,
    IMAGE,
    MINUTE,
    NOW,
    asked,
    build_id,
    building,
    config,
    diskimage,
    failed,
    provider,
    ready,
    records,
    snapshot,
    upload,
)

SECOND = timedelta(seconds=1)
REQUEST = asked(NOW)
CONFIG = config(diskimage(), provider("north"), provider("south"))
OURS = building(2, NOW, request=REQUEST)
READY = ready(2, NOW + 5 * MINUTE, took=5 * MINUTE, request=REQUEST)
QUOTA = Failure(failure_class=FailureClass.QUOTA, message="the cloud is full")


class Story:
    """A follower, and the moments it is shown one after the other."""

    def __init__(self, *known: Build, settings: Config = CONFIG) -> None:
        self.settings = settings
        self.follower = Follower(request=REQUEST, known=frozenset(b.id for b in known), since=NOW)

    def look(self, *parts: Build | Upload | Request, at: datetime = NOW, **more: object) -> News:
        return self.follower.look(Scene(self.settings, snapshot(records(*parts, **more)), at))


def sending(to: str, sent: int = 0, **more: object) -> Upload:
    return upload(
        2, UploadState.UPLOADING, NOW + 6 * MINUTE, to=to, size=100_000_000, sent=sent, phase="send", **more
    )


def there(to: str) -> Upload:
    return upload(2, UploadState.READY, NOW + 6 * MINUTE, to=to, ended=NOW + 6 * MINUTE)


def refused(to: str, minute: int = 6, number: int = 1, failure: Failure = QUOTA) -> Upload:
    when = NOW + minute * MINUTE
    return upload(2, UploadState.FAILED, when, to=to, reason=failure, ended=when, id=f"{number:010}")


def claimed(*providers: str) -> frozenset[tuple[str, str]]:
    return frozenset((build_id(2), name) for name in providers)


# -- before the build -----------------------------------------------------------------------------


def test_while_nobody_takes_the_request_it_says_what_it_waits_for() -> None:
    story = Story()
    assert story.look(REQUEST).lines == (f"waiting for a builder to take the request for {IMAGE}",)
    assert story.look(REQUEST, at=NOW + SECOND).lines == ()
    (line,) = story.look(REQUEST, at=NOW + PATIENCE).lines
    assert "no builder has taken the request yet" in line and "imagepool run" in line
    assert story.look(REQUEST, at=NOW + DAY) == News(lines=())


def test_who_waits_for_a_request_that_no_builder_can_take_learns_why() -> None:
    waits = replace(snapshot(records(REQUEST)), daemons=())
    (_, line) = Story().follower.look(Scene(CONFIG, waits, NOW + PATIENCE)).lines
    assert line.endswith("No builder is alive.")


def test_a_build_of_somebody_else_that_runs_meanwhile_is_not_ours() -> None:
    theirs = building(1, NOW - MINUTE, request=asked(NOW - DAY, manual=False))
    story = Story(theirs)
    news = story.look(REQUEST, theirs, at=NOW + PATIENCE, build_claimed=True)
    assert news.outcome is None and "another build of this image is running" in news.lines[-1]
    done = ready(1, NOW + MINUTE, request=asked(NOW - DAY, manual=False))
    assert story.look(REQUEST, done, at=NOW + 2 * MINUTE).outcome is None


def test_a_request_that_is_withdrawn_ends_the_waiting() -> None:
    story = Story()
    story.look(REQUEST)
    # Between the request that goes and the record that comes, nothing is concluded.
    assert story.look(at=NOW + SECOND).outcome is None
    outcome = story.look(at=NOW + PATIENCE).outcome
    assert outcome is not None and "withdrawn" in str(outcome.reason)


def test_an_older_request_is_followed_into_the_build_that_took_it() -> None:
    story = Story(OURS)  # it began before we asked, for the very request that was open then
    assert f"build {OURS.id} on host-a: packages" in story.look(REQUEST, OURS).lines


def test_a_builder_that_puts_no_request_on_record_is_followed_by_its_new_build() -> None:
    story = Story(ready(1, NOW - DAY))
    nodepools = building(2, NOW)
    assert story.look(REQUEST, nodepools, ready(1, NOW - DAY)).lines == (
        f"build {build_id(2)} on host-a: packages",
    )


def test_who_waits_while_everything_is_frozen_learns_that() -> None:
    waits = replace(snapshot(records(REQUEST)), frozen=Pause(by="ann", time=NOW, why="release day"))
    (_, line) = Story().follower.look(Scene(CONFIG, waits, NOW + PATIENCE)).lines
    assert "release day" in line and "imagepool unfreeze" in line


def test_a_build_that_was_forced_while_frozen_is_followed_until_its_uploads_may_begin() -> None:
    story, frozen = Story(), Pause(by="ann", time=NOW, why="release day")
    waits = replace(snapshot(records(READY, there("north"))), frozen=frozen)
    news = story.follower.look(Scene(CONFIG, waits, NOW + 7 * MINUTE))
    assert news.outcome is None and any(
        "upload to south: Everything is frozen" in line for line in news.lines
    )
    done = story.look(READY, there("north"), there("south"), at=NOW + 8 * MINUTE).outcome
    assert done is not None and (done.reason, done.without) == (None, ())


def test_a_provider_that_is_paused_is_not_waited_for_but_told() -> None:
    paused = replace(
        snapshot(records(READY, there("north"))), paused_providers={"south": Pause(by="ann", time=NOW)}
    )
    outcome = Story().follower.look(Scene(CONFIG, paused, NOW + 7 * MINUTE)).outcome
    assert outcome is not None and (outcome.reason, outcome.without) == (None, ("south",))


# -- the build ------------------------------------------------------------------------------------


def test_every_phase_is_told_once() -> None:
    story = Story()
    told = [
        line
        for phase in ("prepare", "prepare", "bootstrap", "packages", "packages")
        for line in story.look(REQUEST, replace(OURS, phase=phase)).lines
    ]
    assert [line.rpartition(" ")[2] for line in told] == ["prepare", "bootstrap", "packages"]


def test_what_is_left_of_a_build_is_told_with_each_step_and_not_each_second() -> None:
    before = ready(1, NOW - DAY, timings={"packages": 60.0, "convert": 40.0})
    story = Story(before)
    build = replace(OURS, phase="packages")
    assert story.look(REQUEST, build, before).lines == (
        f"build {OURS.id} on host-a: packages, about 1m 40s left",
    )
    assert story.look(REQUEST, build, before, at=NOW + 20 * SECOND).lines == ()
    build = replace(build, phase="convert", timings={"packages": 60.0}, bytes_total=2_000_000_000)
    told = [
        line
        for second, done in ((60, 0), (63, 150_000_000), (65, 700_000_000), (66, 710_000_000))
        for line in story.look(
            REQUEST, replace(build, bytes_done=done), before, at=NOW + second * SECOND
        ).lines
    ]
    assert told == [
        f"build {OURS.id} on host-a: convert 0 % of 2.0 GB, about 40s left",
        f"build {OURS.id} on host-a: convert 30 % of 2.0 GB, about 10s left",
    ]


def test_who_cancels_the_build_is_told_once() -> None:
    story = Story()
    story.look(REQUEST, OURS)
    wish = Cancellation(image=IMAGE, build_id=OURS.id, by="ann", time=NOW, why="wrong mirror")
    (line,) = story.look(REQUEST, OURS, cancellation=wish).lines
    assert line == f"build {OURS.id} was cancelled by ann at 2026-11-21 14:30 UTC: wrong mirror"
    assert story.look(REQUEST, OURS, cancellation=wish).lines == ()
    other = replace(wish, build_id=build_id(7))
    assert Story().look(REQUEST, OURS, cancellation=other).lines == Story().look(REQUEST, OURS).lines


def test_what_had_changed_is_told_once() -> None:
    story = Story()
    changed = replace(OURS, changes=("packages: a 1 -> 2", "b", "c", "d"))
    assert story.look(REQUEST, changed).lines[-1] == (
        "changed since the build before: packages: a 1 -> 2; b; c; 1 more"
    )
    assert story.look(REQUEST, changed).lines == ()


def test_a_failed_build_says_when_it_is_tried_again() -> None:
    story = Story()
    broken = failed(2, NOW + MINUTE, request=REQUEST, next_try=NOW + 5 * MINUTE)
    outcome = story.look(broken).outcome
    assert outcome is not None and outcome.reason is not None
    assert outcome.reason.endswith("the next try is at 2026-11-21 14:35:00 UTC")


def test_a_failed_build_ends_it_with_the_reason() -> None:
    broken = failed(2, NOW + MINUTE, FailureClass.PACKAGE, request=REQUEST)
    outcome = Story().look(broken).outcome
    assert outcome is not None and outcome.reason == f"build {build_id(2)} failed: package: it broke"


def test_an_interrupted_build_is_begun_again_and_followed() -> None:
    story = Story()
    died = failed(2, NOW + MINUTE, FailureClass.INTERRUPTED, request=REQUEST)
    news = story.look(REQUEST, died)
    assert news.outcome is None
    assert news.lines == (f"build {build_id(2)}: interrupted; it is begun again",)
    again = building(3, NOW + 2 * MINUTE, request=REQUEST)
    assert story.look(REQUEST, again, died).lines == (f"build {build_id(3)} on host-a: packages",)


def test_a_build_that_is_deleted_meanwhile_ends_it() -> None:
    going = READY.become(BuildState.DELETING, NOW + 6 * MINUTE)
    outcome = Story().look(going).outcome
    assert outcome is not None and "being deleted" in str(outcome.reason)


def test_a_newer_build_takes_the_place_of_ours() -> None:
    newer = ready(3, NOW + 10 * MINUTE)
    outcome = Story().look(newer, READY, at=NOW + 11 * MINUTE).outcome
    assert outcome is not None and "newer one" in str(outcome.reason)


# -- the uploads ----------------------------------------------------------------------------------


def test_it_ends_well_when_every_provider_has_it() -> None:
    story = Story()
    assert story.look(READY, at=NOW + 5 * MINUTE).outcome is None
    assert story.look(READY, there("north"), at=NOW + 6 * MINUTE).outcome is None
    news = story.look(READY, there("north"), there("south"), at=NOW + 7 * MINUTE)
    assert news.outcome is not None and news.outcome.reason is None
    assert news.lines == ("upload to south: ready after 1m 0s",)


def test_bytes_are_told_in_steps() -> None:
    story = Story()
    told = [
        line
        for percent in range(0, 101, 4)
        for line in story.look(
            READY, sending("north", percent * 1_000_000), there("south"), uploads_claimed=claimed("north")
        ).lines
        if "north" in line
    ]
    assert [line.partition("(")[2].partition(" ")[0] for line in told] == [str(n) for n in range(0, 101, 10)]


@pytest.mark.parametrize(
    ("other", "over"),
    [
        (sending("south"), False),  # still moving
        (there("south"), True),
        (refused("south"), True),
    ],
    ids=["moving", "there", "refused"],
)
def test_a_failed_upload_ends_it_once_nothing_else_moves(other: Upload, over: bool) -> None:
    claims = claimed("south") if other.state is UploadState.UPLOADING else frozenset()
    news = Story().look(READY, refused("north"), other, at=NOW + 7 * MINUTE, uploads_claimed=claims)
    assert (news.outcome is not None) == over
    if news.outcome is not None:
        assert "north: quota: the cloud is full; the next try is at" in str(news.outcome.reason)


def test_a_retry_that_is_due_is_waited_for() -> None:
    story = Story()
    broken = refused("north", failure=replace(QUOTA, failure_class=FailureClass.NETWORK))
    assert story.look(READY, broken, there("south"), at=NOW + 7 * MINUTE).outcome is not None
    assert story.look(READY, broken, there("south"), at=NOW + 60 * MINUTE).outcome is None


def test_providers_that_take_no_uploads_now_are_not_waited_for() -> None:
    settings = config(diskimage(), provider("north"), provider("south", pause=True))
    news = Story(settings=settings).look(READY, there("north"), at=NOW + 7 * MINUTE)
    assert news.outcome is not None and news.outcome.reason is None
    assert any("south" in line and "paused" in line for line in news.lines)


# -- the command ----------------------------------------------------------------------------------


class Daemon:
    """A stand-in for the daemon: on another session, answers the request with the builds it is given."""

    def __init__(self, store: FakeStore, *answer: Build | Upload, image: str = IMAGE) -> None:
        self._store = store
        self._answer = [replace(record, image=image) for record in answer]
        self._image = image
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        seen, request = -1, None
        while request is None:
            seen = self._store.wait(seen, 10)
            request = self._store.get_request(self._image)
        for record in self._answer:
            self._store.put(replace(record, request=request) if isinstance(record, Build) else record)
        self._store.withdraw_request(request)

    def join(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture
def world() -> World:
    return World(now=NOW + 7 * MINUTE)


def test_wait_ends_with_0_when_the_image_is_everywhere(world: World) -> None:
    daemon = Daemon(world.store, READY, there("north"), there("south"))
    done = world.run("image", "build", IMAGE, "--wait")
    daemon.join()
    assert done.code == 0, done.err
    assert "ready in all its providers" in done.out and f"build {build_id(2)}: ready" in done.err


def test_wait_ends_with_1_and_the_reason_when_the_build_failed(world: World) -> None:
    reason = Failure(
        failure_class=FailureClass.PACKAGE, message="apt failed", lines=("E: no such package \x1b[31mx",)
    )
    daemon = Daemon(world.store, failed(2, NOW + MINUTE, reason=reason))
    done = world.run("image", "build", IMAGE, "--wait")
    daemon.join()
    assert done.code == 1
    assert f"imagepool build show {build_id(2)}" in done.err
    assert "package: apt failed" in done.err and "E: no such package \\x1b[31mx" in done.err


def test_wait_ends_with_1_and_the_reason_when_an_upload_failed(world: World) -> None:
    daemon = Daemon(world.store, READY, there("north"), refused("south"))
    done = world.run("image", "build", IMAGE, "--wait")
    daemon.join()
    assert done.code == 1 and "south: quota: the cloud is full" in done.err


def several() -> World:
    """Two images, each of which goes to one provider."""
    return World(
        config=config(diskimage("one"), diskimage("two"), provider("north", "one", "two")),
        now=NOW + 7 * MINUTE,
    )


def test_several_are_followed_at_once_and_each_line_says_whose_it_is() -> None:
    world = several()
    daemons = [
        Daemon(world.store, READY, there("north"), image="two"),
        Daemon(
            world.store,
            replace(READY, id=build_id(3)),
            replace(there("north"), build_id=build_id(3)),
            image="one",
        ),
    ]
    done = world.run("image", "build", "one", "two", "--wait")
    for daemon in daemons:
        daemon.join()
    assert done.code == 0, done.err
    assert sorted(done.out.splitlines()) == [
        f"{name} is ready in all its providers" for name in ("one", "two")
    ]
    assert f"one: build {build_id(3)}: ready" in done.err and f"two: build {build_id(2)}: ready" in done.err


def test_of_several_one_that_fails_is_told_and_the_others_are_waited_for() -> None:
    world = several()
    daemons = [
        Daemon(world.store, failed(2, NOW + MINUTE), image="one"),
        Daemon(
            world.store,
            replace(READY, id=build_id(3)),
            replace(there("north"), build_id=build_id(3)),
            image="two",
        ),
    ]
    done = world.run("image", "build", "one", "two", "--wait")
    for daemon in daemons:
        daemon.join()
    assert done.code == 1 and done.out == "two is ready in all its providers\n"
    assert f"one: build {build_id(2)} failed: mirror: it broke" in done.err
    assert "1 of 2 images did not get ready: one" in done.err


def test_of_several_one_that_is_refused_is_no_reason_not_to_wait_for_the_others() -> None:
    world = several()
    world.config = config(diskimage("one"), diskimage("two", pause=True), provider("north", "one", "two"))
    daemon = Daemon(world.store, READY, there("north"), image="one")
    done = world.run("image", "build", "one", "two", "--wait")
    daemon.join()
    assert done.code == 4 and "one is ready in all its providers" in done.out and "two is paused" in done.out


class Interrupted(FakeStore):
    """A store that somebody waits on until they press Ctrl-C."""

    def wait(self, seen: int, timeout: float | None = None) -> int:
        raise KeyboardInterrupt


def test_ctrl_c_ends_the_waiting_but_not_the_request() -> None:
    class Impatient(World):
        def parts(self):  # type: ignore[no-untyped-def]
            return replace(super().parts(), open_store=lambda *_: Interrupted(self.store.tree))

    world = Impatient()
    done = world.run("image", "build", IMAGE, "--wait")
    assert done.code == 130 and "no longer waiting" in done.err
    assert world.store.get_request(IMAGE) is not None


class Flaky(FakeStore):
    """A store whose connection breaks when somebody waits on it, and is there again at the next look."""

    def wait(self, seen: int, timeout: float | None = None) -> int:
        if self.connected and seen == -1:
            self.disconnect()
            return 0
        self.reconnect()
        return super().wait(seen, timeout)


def test_who_waits_is_told_while_zookeeper_is_away() -> None:
    class Unlucky(World):
        def parts(self):  # type: ignore[no-untyped-def]
            return replace(super().parts(), open_store=lambda *_: Flaky(self.store.tree))

    world = Unlucky(now=NOW + 7 * MINUTE)
    daemon = Daemon(world.store, READY, there("north"), there("south"))
    done = world.run("image", "build", IMAGE, "--wait")
    daemon.join()
    assert done.code == 0, done.err
    assert done.err.index("ZooKeeper does not answer; it is waited for") < done.err.index("ZooKeeper is back")


# -- uploads that move ----------------------------------------------------------------------------


def test_an_upload_that_moves_tells_how_fast_and_how_long_still() -> None:
    story = Story()
    moving = sending("north", 50_000_000, started=NOW, timings={"create": 5.0})
    lines = story.look(
        READY, moving, there("south"), at=NOW + 10 * SECOND, uploads_claimed=claimed("north")
    ).lines
    assert "upload to north: send (50 % of 100.0 MB), 10.0 MB/s, about 5s left" in lines
    # The rate alone is no news.
    later = replace(moving, sent=55_000_000)
    assert (
        story.look(READY, later, there("south"), at=NOW + 12 * SECOND, uploads_claimed=claimed("north")).lines
        == ()
    )


def test_uploads_that_begin_while_the_build_still_runs_are_told() -> None:
    story = Story()
    story.look(REQUEST)
    lines = story.look(OURS, sending("north"), build_claimed=True, uploads_claimed=claimed("north")).lines
    assert "upload to north: send (0 % of 100.0 MB)" in lines
    waiting = replace(sending("north", 100_000_000), phase="hold")
    news = story.look(OURS, waiting, build_claimed=True, uploads_claimed=claimed("north"))
    assert news == News(lines=("upload to north: it is there, and waits for the build to be ready",))


def test_a_build_that_is_ready_later_than_its_uploads_is_done_with_them() -> None:
    story = Story()
    story.look(REQUEST)
    held = [replace(sending(to, 100_000_000), phase="hold") for to in ("north", "south")]
    story.look(OURS, *held, build_claimed=True, uploads_claimed=claimed("north", "south"))
    done = story.look(READY, there("north"), there("south")).outcome
    assert done is not None and done.reason is None
