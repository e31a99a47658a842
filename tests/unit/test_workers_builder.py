"""The builder with the real engine on a scripted disk-image-create: what a build leaves on its record."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from builder.config.model import DEFAULT_SCHEDULE, Config, DiskImage, Platform, ScheduleEntry
from builder.dib import engine
from builder.dib.contents import inputs, packages
from builder.dib.contents.unchanged import Comparison
from builder.dib.limits import Limits
from builder.dib.output import artifacts
from builder.model import (
    Build,
    BuildPhase,
    BuildState,
    Cancellation,
    Failure,
    FailureClass,
    ImageFormat,
    ImageRecords,
    Request,
    UploadWish,
    Withholding,
)
from builder.planning.explain import explain
from builder.workers import progress
from builder.workers.builder import Builder
from builder.workers.fitness import FRESH, Fitness
from builder.workers.scheduler import Scheduler
from tests.unit.dib_world import FAKE_DIB, SMALL, eventually, need_root, processes_naming
from tests.unit.mirror_world import INSTALLED, MAIN, Handler, Mirror, running_mirror
from tests.unit.worker_world import NOW, Stage
from tests.unit.worker_world import build as record_of

Schedule = tuple[ScheduleEntry, ...]
DAY = timedelta(days=1)
NEVER: Schedule = ()
DAILY: Schedule = DEFAULT_SCHEDULE
NEXT_TICK = NOW.replace(hour=14, minute=14)
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


class Workshop(Stage):
    """A stage whose diskimage the scripted disk-image-create makes, obeying a control directory."""

    scheduler: Scheduler | None = None

    @property
    def control(self) -> Path:
        return self.root / "control"

    @property
    def image(self) -> DiskImage:
        return self.config.diskimages["img"]

    @property
    def records(self) -> ImageRecords:
        return self.store.snapshot().image("img")

    @property
    def newest(self) -> Build:
        return self.records.builds[0]

    @property
    def runs(self) -> int:
        """How often disk-image-create was started."""
        runs = self.control / "runs"
        return len(runs.read_text().splitlines()) if runs.exists() else 0

    def set(self, **changes: object) -> None:
        """Change the diskimage."""
        image = replace(self.image, **changes)  # type: ignore[arg-type]
        self.config = replace(self.config, diskimages={"img": image})

    def knob(self, name: str, text: str = "") -> Path:
        """Set a knob of the scripted disk-image-create; returns its file, which may be removed."""
        file = self.control / name
        file.write_text(text)
        return file

    def ask(self) -> Request:
        """Somebody asks for a build."""
        return self.store.request_build(Request(image="img", by="me@here", why="for fun", time=self.now))

    def cancel(self, build_id: str, why: str = "") -> None:
        """Somebody wishes that a build ends."""
        wish = Cancellation(image="img", build_id=build_id, by="ops@here", time=self.now, why=why)
        self.store.cancel_build(wish)

    def schedule(self) -> None:
        """The scheduler asks for what is due."""
        if self.scheduler is None:
            self.scheduler = Scheduler(self.world, "scheduler")
        self.scheduler.step()

    def work(self) -> bool:
        """The builder takes what is asked for; whether there was anything."""
        return Builder(self.world, "builder").step().did

    def built(self) -> Build:
        """Let the builder work, and give what came of it."""
        assert self.work()
        return self.newest

    @contextmanager
    def working(self) -> Iterator[Future[bool]]:
        """The builder works in the background; it is stopped when the block fails."""
        with ThreadPoolExecutor(1) as pool:
            try:
                work = pool.submit(self.work)
                yield work
                work.result(30)
            finally:
                self.world.stopping.set()

    def paused_at(self, phase: str) -> Build:
        """Wait until disk-image-create is in that phase; the record of its build."""
        paused = self.control / "paused"
        eventually(lambda: paused.exists() and paused.read_text() == phase, f"the build is in {phase}")
        return self.newest

    def next_build(self) -> datetime | None:
        """When `image explain` says the next build is due."""
        rows = explain(self.config, self.store.snapshot(), self.now, "img", "here")
        return next(row.due for row in rows if row.what == "next build")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    need_root()
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    stage = Workshop(tmp_path)
    stage.control.mkdir()
    # Not by the diskimage's env-vars: the files that those name are part of what goes into a build.
    stage.set(dib_cmd=("env", f"FAKE_DIB_CONTROL={stage.control}", str(FAKE_DIB)))
    stage.config = replace(stage.config, disk_reserve=0)
    return stage


def reason_of(build: Build) -> tuple[FailureClass, str]:
    assert build.state is BuildState.FAILED
    assert build.reason is not None
    return build.reason.failure_class, build.reason.message


# -- a build that fails, and the next try -----------------------------------------------------------


def _package(shop: Workshop) -> None:
    shop.knob("fail", "install 100\nE: Unable to locate package linux-image-nonsense\n")


def _mirror(shop: Workshop) -> None:
    shop.knob(
        "fail", "root 1\nE: Failed to fetch http://mirror.test/x.deb  Could not connect to mirror.test:80\n"
    )


def _no_url(shop: Workshop) -> None:
    shop.set(environment={**shop.image.environment, "DIB_DISTRIBUTION_MIRROR": "http://[bad/"})


def _no_program(shop: Workshop) -> None:
    shop.set(dib_cmd=("no-such-disk-image-create",))


Spoil = Callable[[Workshop], None]


@pytest.mark.parametrize(
    ("spoil", "expected"), [(_package, FailureClass.PACKAGE), (_mirror, FailureClass.MIRROR)]
)
@pytest.mark.parametrize("schedule", [NEVER, DAILY])
def test_a_failed_build_says_when_the_next_try_is_as_explain_does(
    shop: Workshop, schedule: Schedule, spoil: Spoil, expected: FailureClass
) -> None:
    spoil(shop)
    shop.set(schedule=schedule)
    shop.schedule()
    failed = shop.built()
    assert reason_of(failed)[0] is expected
    assert failed.next_try is not None
    first = shop.config.build_retry.first
    assert NOW + first <= failed.next_try <= NOW + first * 1.25
    assert shop.next_build() == failed.next_try
    assert shop.records.request is None
    # Neither before that time, nor later than it, is there another one.
    shop.now = failed.next_try - timedelta(seconds=1)
    shop.schedule()
    assert not shop.work()
    shop.now = failed.next_try
    shop.schedule()
    assert shop.built().id != failed.id


@pytest.mark.parametrize(
    ("spoil", "expected"), [(_no_url, FailureClass.CONFIG), (_no_program, FailureClass.TOOL)]
)
@pytest.mark.parametrize(("schedule", "next_try"), [(NEVER, None), (DAILY, NEXT_TICK)])
def test_what_a_retry_can_not_mend_waits_for_the_next_tick_or_for_a_person(
    shop: Workshop, schedule: Schedule, next_try: datetime | None, spoil: Spoil, expected: FailureClass
) -> None:
    spoil(shop)
    shop.set(schedule=schedule)
    shop.schedule()
    failed = shop.built()
    assert reason_of(failed)[0] is expected
    assert failed.next_try == next_try == shop.next_build()
    shop.schedule()
    assert not shop.work()
    assert shop.runs == 0


def test_a_preflight_that_finds_no_room_is_a_reason_and_no_build(shop: Workshop) -> None:
    shop.store.put(record_of(1, artifacts=SMALL.artifacts, work_bytes=1 << 60))
    shop.ask()
    failed = shop.built()
    failure_class, message = reason_of(failed)
    assert failure_class is FailureClass.DISK
    assert "disk-reserve" in message
    assert failed.reason is not None and failed.reason.phase == BuildPhase.PREFLIGHT
    assert shop.runs == 0
    assert list(shop.config.work_dir.iterdir()) == []


# -- a machine that can't build ---------------------------------------------------------------------


def _below_the_reserve(shop: Workshop) -> None:
    shop.config = replace(shop.config, disk_reserve=1 << 60)


def _no_work_dir(shop: Workshop) -> None:
    (shop.root / "file").touch()
    shop.config = replace(shop.config, work_dir=shop.root / "file" / "work")


def _no_tool(shop: Workshop) -> None:
    shop.world = replace(shop.world, fitness=Fitness(lambda config: "qemu-img is not installed"))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [(_below_the_reserve, "disk-reserve"), (_no_work_dir, "work-dir"), (_no_tool, "qemu-img")],
)
def test_a_machine_that_can_not_build_leaves_the_request_to_others_and_says_why(
    shop: Workshop, spoil: Spoil, told: str
) -> None:
    spoil(shop)
    wish = shop.ask()
    waits = Builder(shop.world, "builder").step()
    assert not waits.did
    assert waits.due == shop.now + timedelta(seconds=FRESH)
    assert shop.records.request == wish
    assert shop.records.builds == ()
    (shown,) = shop.store.snapshot().daemons
    assert shown.unfit is not None and told in shown.unfit


def test_once_it_can_build_again_it_says_so_and_builds(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    _below_the_reserve(shop)
    wish = shop.ask()
    assert not shop.work()
    shop.config = replace(shop.config, disk_reserve=0)
    assert shop.work()
    (shown,) = shop.store.snapshot().daemons
    assert shown.unfit is None
    made = shop.built()
    assert (made.state, made.request) == (BuildState.READY, wish)


def test_the_machine_is_looked_at_again_after_a_moment_and_not_for_each_pass(
    monkeypatch: pytest.MonkeyPatch, shop: Workshop
) -> None:
    asked: list[Config] = []

    def ask(config: Config) -> None:
        asked.append(config)

    fitness, config = Fitness(ask), shop.config
    for _ in range(3):
        fitness.unfit(config)
    assert len(asked) == 1
    monkeypatch.setattr("builder.workers.fitness.FRESH", 0.0)
    fitness.unfit(config)
    assert len(asked) == 2


def test_at_rest_the_machine_is_not_looked_at(shop: Workshop) -> None:
    _no_tool(shop)
    assert Builder(shop.world, "builder").step().due is None
    assert shop.store.snapshot().daemons[0].unfit is None


# -- cancellation -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("schedule", "next_try"), [(NEVER, None), (DAILY, NEXT_TICK)])
@pytest.mark.parametrize("by_hand", [True, False])
def test_a_cancelled_build_says_by_whom_and_why_and_is_not_made_again(
    shop: Workshop, schedule: Schedule, next_try: datetime | None, by_hand: bool
) -> None:
    shop.set(schedule=schedule)
    if by_hand:
        shop.ask()
    else:
        shop.schedule()
    shop.knob("hang.install")
    with shop.working():
        running = shop.paused_at("install")
        shop.cancel(running.id, "the mirror is half synced")
    ended = shop.newest
    assert ended.id == running.id
    assert reason_of(ended) == (FailureClass.CANCELLED, "cancelled by ops@here: the mirror is half synced")
    assert ended.reason is not None and ended.reason.phase == BuildPhase.PACKAGES
    assert ended.next_try == next_try == shop.next_build()
    assert shop.records.cancellation is None
    assert shop.records.request is None
    assert processes_naming(shop.control) == []
    assert list(shop.config.work_dir.iterdir()) == []
    shop.world.stopping.clear()
    shop.schedule()
    assert not shop.work()
    assert shop.runs == 1


def test_the_cancellation_of_another_build_ends_nothing_and_stays(shop: Workshop) -> None:
    shop.cancel("f" * 32)
    shop.schedule()
    assert shop.built().state is BuildState.READY
    wish = shop.records.cancellation
    assert wish is not None and wish.build_id == "f" * 32


def test_a_build_that_was_cancelled_may_be_asked_for_again(shop: Workshop) -> None:
    shop.schedule()
    hang = shop.knob("hang.root")
    with shop.working():
        shop.cancel(shop.paused_at("root").id)
    hang.unlink()
    (shop.control / "paused").unlink(missing_ok=True)
    shop.world.stopping.clear()
    assert reason_of(shop.newest) == (FailureClass.CANCELLED, "cancelled by ops@here")
    shop.now += timedelta(minutes=1)
    wish = shop.ask()
    again = shop.built()
    assert (again.state, again.request) == (BuildState.READY, wish)
    assert shop.records.request is None


# -- a builder that died ----------------------------------------------------------------------------


def abandoned_build(request: Request | None = None) -> Build:
    """A build whose builder is gone: it says `building`, and nobody has the claim."""
    return record_of(99, BuildState.BUILDING, phase=BuildPhase.IMAGE, builder="there.test", request=request)


def test_what_a_dead_builder_left_is_failed_before_the_next_build_begins(shop: Workshop) -> None:
    wish = shop.ask()
    lost = abandoned_build(wish)
    shop.store.put(lost)
    shop.knob("hang.root")
    with shop.working():
        running = shop.paused_at("root")
        failed = shop.records.build(lost.id)
        (shop.control / "hang.root").unlink()
    assert failed is not None
    assert reason_of(failed) == (
        FailureClass.INTERRUPTED,
        "the builder there.test went away while it built",
    )
    assert failed.reason is not None and failed.reason.phase == BuildPhase.IMAGE
    assert failed.next_try == NOW
    assert shop.newest.id == running.id
    assert (shop.newest.state, shop.newest.request) == (BuildState.READY, wish)


def test_files_that_a_dead_build_had_published_are_gone_before_the_next_begins(shop: Workshop) -> None:
    artifact = SMALL.artifacts[0]
    lost = abandoned_build(shop.ask())
    shop.store.put(replace(lost, artifacts=(artifact,)))
    publication = artifacts.Publication(
        shop.config.images_dir,
        artifacts.Proof(
            installation_id=shop.store.installation_id(),
            image="img",
            build_id=lost.id,
            created=NOW,
            environment={},
            tools={},
        ),
    )
    publication.begin()
    (shop.root / "made").write_bytes(b"x")
    publication.add(shop.root / "made", artifact.format, Limits())
    shop.knob("hang.root")
    with shop.working():
        shop.paused_at("root")
        assert list(shop.config.images_dir.iterdir()) == []
        failed = shop.records.build(lost.id)
        (shop.control / "hang.root").unlink()
    assert failed is not None
    assert (failed.state, failed.artifacts) == (BuildState.FAILED, ())


@pytest.mark.parametrize(("schedule", "next_try"), [(NEVER, None), (DAILY, NEXT_TICK)])
@pytest.mark.parametrize("by_hand", [True, False])
def test_what_a_dead_builder_left_and_somebody_cancelled_is_not_made_again(
    shop: Workshop, schedule: Schedule, next_try: datetime | None, by_hand: bool
) -> None:
    shop.set(schedule=schedule)
    if by_hand:
        shop.ask()
    else:
        shop.schedule()
    lost = abandoned_build(shop.records.request)
    shop.store.put(lost)
    shop.cancel(lost.id, "enough")
    assert not shop.work()
    failed = shop.newest
    assert failed.id == lost.id
    failure_class, message = reason_of(failed)
    assert failure_class is FailureClass.CANCELLED
    assert message == ("cancelled by ops@here: enough; the builder there.test went away while it built")
    assert failed.next_try == next_try == shop.next_build()
    assert not shop.work()
    assert shop.runs == 0


# -- progress ---------------------------------------------------------------------------------------


def test_the_record_tells_the_phase_and_the_bytes_while_it_runs(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    programs, half, hold = shop.root / "programs", shop.root / "half", shop.root / "hold"
    programs.mkdir()
    hold.touch()
    # It reads some of the image, and the rest when it may.
    (programs / "qemu-img").write_text(
        f'#!/bin/bash\nif [ "$1" = convert ]; then head -c 2M "${{@: -2:1}}" >/dev/null; touch {half}\n'
        f'while [ -e {hold} ]; do sleep 0.05; done; fi\nexec {shutil.which("qemu-img")} "$@"\n'
    )
    (programs / "qemu-img").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    shop.knob("size", "16")
    shop.knob("data", "8")
    pause = shop.knob("pause.root")
    shop.schedule()
    with shop.working():
        bootstrap = shop.paused_at("root")
        eventually(lambda: shop.newest.phase == BuildPhase.BOOTSTRAP, "the bootstrap is on record")
        pause.unlink()
        eventually(half.exists, "the conversion is half done")
        eventually(lambda: shop.newest.bytes_done >= 2 << 20, "the bytes are on record")
        converting = shop.newest
        hold.unlink()
    assert (bootstrap.bytes_done, bootstrap.bytes_total) == (0, 0)
    assert converting.phase == BuildPhase.CONVERT
    assert converting.bytes_done < 4 << 20
    assert 8 << 20 <= converting.bytes_total < 10 << 20
    assert {"render", "preflight", "bootstrap"} <= converting.timings.keys()
    ready = shop.newest
    assert (ready.state, ready.phase) == (BuildState.READY, None)
    assert (ready.bytes_done, ready.bytes_total) == (0, 0)
    assert {"convert", "manifest", "publish", "convert qcow2", "hash qcow2"} <= ready.timings.keys()
    assert {"command", "environment", "packages"} <= ready.inputs.keys()
    assert ready.work_bytes is not None and ready.work_bytes >= 8 << 20
    assert ready.changes == ()


def held_vmdk(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the image have a vmdk too; while this file is there, none is made."""
    programs, hold = shop.root / "programs", shop.root / "hold"
    programs.mkdir()
    hold.touch()
    wait = f'while [ "$1 $5" = "convert vmdk" ] && [ -e {hold} ]; do sleep 0.05; done'
    (programs / "qemu-img").write_text(f'#!/bin/bash\n{wait}\nexec {shutil.which("qemu-img")} "$@"\n')
    (programs / "qemu-img").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    shop.set(formats=(ImageFormat.VMDK, ImageFormat.QCOW2))
    return hold


def test_a_file_is_on_record_while_another_is_still_made(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = held_vmdk(shop, monkeypatch)
    shop.schedule()
    with shop.working():
        eventually(lambda: any(b.artifacts for b in shop.records.builds), "the qcow2 is on record")
        early = shop.newest
        hold.unlink()
    assert (early.state, early.formats) == (BuildState.BUILDING, ())
    assert [each.format for each in early.artifacts] == [ImageFormat.QCOW2]
    assert early.raw_sha256 is not None and early.raw_size == 4 << 20
    ready = shop.newest
    assert ready.state is BuildState.READY
    assert {each.format for each in ready.artifacts} == {ImageFormat.QCOW2, ImageFormat.VMDK}
    assert ready.artifact("qcow2") == early.artifacts[0]
    assert (ready.raw_sha256, ready.raw_size) == (early.raw_sha256, early.raw_size)


def test_a_build_that_ends_after_a_file_was_on_record_has_it_no_more(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = held_vmdk(shop, monkeypatch)
    shop.schedule()
    with shop.working():
        eventually(lambda: any(b.artifacts for b in shop.records.builds), "the qcow2 is on record")
        shop.cancel(shop.newest.id)
    assert hold.exists()
    failed = shop.newest
    assert reason_of(failed)[0] is FailureClass.CANCELLED
    assert failed.artifacts == ()
    assert list(shop.config.images_dir.iterdir()) == []


def test_a_wish_for_an_upload_that_comes_meanwhile_stays_and_holds_up_nothing(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = held_vmdk(shop, monkeypatch)
    pause = shop.knob("pause.root")
    shop.schedule()
    wish = UploadWish(provider="one", wanted=False, by="ops@here", time=NOW)
    with shop.working():
        running = shop.paused_at("root")
        known = shop.store.get_build("img", running.id)
        shop.store.update_build(replace(known, wishes=(wish,)))
        pause.unlink()
        eventually(lambda: any(b.artifacts for b in shop.records.builds), "the qcow2 is on record")
        assert shop.newest.wishes == (wish,)
        hold.unlink()
    assert (shop.newest.state, shop.newest.wishes) == (BuildState.READY, (wish,))


@pytest.mark.parametrize(
    ("failure_class", "in_the_end"),
    [(FailureClass.INTERRUPTED, BuildState.READY), (FailureClass.CANCELLED, BuildState.FAILED)],
)
def test_progress_is_not_written_over_the_record_of_a_build_that_was_taken_for_dead(
    shop: Workshop, failure_class: FailureClass, in_the_end: BuildState
) -> None:
    pause, later = shop.knob("pause.root"), shop.knob("pause.install")
    shop.schedule()
    with shop.working():
        running = shop.paused_at("root")
        known = shop.store.get_build("img", running.id)
        reason = Failure(failure_class=failure_class, message="gone")
        shop.store.update_build(known.become(BuildState.FAILED, NOW, reason=reason))
        pause.unlink()
        shop.paused_at("install")
        assert (shop.newest.state, shop.newest.reason) == (BuildState.FAILED, reason)
        later.unlink()
    assert shop.newest.state is in_the_end


def test_the_bytes_of_one_phase_are_not_those_of_the_next(shop: Workshop) -> None:
    running = shop.store.create_build(record_of(1, BuildState.BUILDING, phase=BuildPhase.CONVERT))
    told = progress.BuildProgress(running, shop.store.update_build, lambda: shop.now)
    told.bytes(7, 9)
    told.phase(BuildPhase.CONVERT)
    assert (told.record.bytes_done, told.record.bytes_total) == (7, 9)
    told.phase(BuildPhase.HASH)
    assert (shop.newest.phase, shop.newest.bytes_done, shop.newest.bytes_total) == (BuildPhase.HASH, 0, 0)


# -- unchanged --------------------------------------------------------------------------------------


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with running_mirror() as running:
        yield running


def status(installed: Mapping[str, str]) -> str:
    """The status file of dpkg in an image with those packages."""
    return "\n".join(
        f"Package: {name}\nStatus: install ok installed\n"
        f"Architecture: {'all' if name == 'base-files' else 'amd64'}\nVersion: {version}\n"
        for name, version in installed.items()
    )


@pytest.fixture
def yesterdays(shop: Workshop, mirror: Mirror) -> Build:
    """A build of yesterday, from a mirror on which nothing has happened since; now it is today's tick."""
    shop.knob("dpkg", status(INSTALLED))
    shop.set(
        platform=Platform(name="bookworm", distribution="debian", release="bookworm"),
        elements=("debian-minimal", "vm"),
        environment={
            "DIB_DISTRIBUTION_MIRROR": f"{mirror.url}/debian",
            "DIB_DEBIAN_SECURITY_MIRROR": f"{mirror.url}/security",
            # This mirror signs nothing.
            "DIB_DEBOOTSTRAP_EXTRA_ARGS": "--no-check-gpg",
        },
        schedule=DAILY,
        skip_unchanged=True,
    )
    shop.now = NEXT_TICK - DAY
    shop.schedule()
    made = shop.built()
    assert made.state is BuildState.READY, made.reason
    files = shop.config.images_dir / f"img-{made.id}.d"
    assert (files / inputs.FILE).is_file()
    assert {each.name: each.version for each in packages.load(files) or ()} == INSTALLED
    shop.now = NEXT_TICK
    return made


def rebuilt(shop: Workshop, before: Build) -> Build:
    """The builder works, and there is a new build; the last one was not found to be unchanged."""
    made = shop.built()
    assert made.id != before.id
    assert (made.state, shop.runs) == (BuildState.READY, 2)
    known = shop.records.build(before.id)
    assert known is not None and known.checked is None
    assert shop.records.request is None
    return made


def test_when_nothing_changed_the_ready_build_is_checked_and_nothing_is_built(
    shop: Workshop, yesterdays: Build
) -> None:
    shop.schedule()
    assert shop.work()
    assert shop.records.builds == (replace(yesterdays, checked=NEXT_TICK),)
    assert shop.records.request is None
    assert shop.runs == 1
    # That settles this tick: the next is tomorrow's.
    assert shop.next_build() == NEXT_TICK + DAY
    shop.now += timedelta(hours=1)
    shop.schedule()
    assert not shop.work()


def test_one_in_quarantine_is_built_anew_however_unchanged(shop: Workshop, yesterdays: Build) -> None:
    """Else nothing good would ever come."""
    shop.store.withhold("img", yesterdays.id, Withholding(provider=None, by="ann", time=shop.now))
    shop.schedule()
    rebuilt(shop, yesterdays)


def test_what_is_compared_is_the_newest_good_one(shop: Workshop, yesterdays: Build) -> None:
    bad = replace(yesterdays, id="f" * 32, state_time=yesterdays.state_time + timedelta(minutes=1))
    shop.store.put(bad)
    shop.store.withhold("img", bad.id, Withholding(provider=None, by="ann", time=shop.now))
    shop.schedule()
    assert shop.work()
    checked = {each.id: each.checked for each in shop.records.builds}
    assert checked == {yesterdays.id: NEXT_TICK, bad.id: None}
    assert shop.runs == 1


def test_each_tick_checks_anew(shop: Workshop, yesterdays: Build, mirror: Mirror) -> None:
    shop.schedule()
    assert shop.work()
    mirror.suite(MAIN, {**INSTALLED, "curl": "7.88.1-11"})
    shop.now = NEXT_TICK + DAY
    shop.schedule()
    made = shop.built()
    assert made.changes == ("package curl 7.88.1-10 -> 7.88.1-11",)
    assert shop.runs == 2


def test_a_new_package_on_the_mirror_is_built_and_named(
    shop: Workshop, yesterdays: Build, mirror: Mirror
) -> None:
    mirror.suite(MAIN, {**INSTALLED, "curl": "7.88.1-11"})
    shop.schedule()
    assert rebuilt(shop, yesterdays).changes == ("package curl 7.88.1-10 -> 7.88.1-11",)


def test_a_changed_recipe_is_built_and_named(shop: Workshop, yesterdays: Build) -> None:
    shop.set(environment={**shop.image.environment, "DIB_BOOTLOADER_DEFAULT_CMDLINE": "quiet"})
    shop.schedule()
    assert rebuilt(shop, yesterdays).changes == ("environment variable DIB_BOOTLOADER_DEFAULT_CMDLINE new",)


def test_a_mirror_that_can_not_be_judged_is_built_from_and_the_record_says_why(
    shop: Workshop, yesterdays: Build, mirror: Mirror
) -> None:
    mirror.files[f"{MAIN}-updates/InRelease"] = lambda handler: handler.answer(500, b"")
    shop.schedule()
    (why,) = rebuilt(shop, yesterdays).changes
    assert "bookworm-updates" in why and "500" in why


def _key_is_damaged(shop: Workshop, mirror: Mirror) -> None:
    (shop.config.state_dir / inputs.KEY).write_text("no key")


def _key_is_a_directory(shop: Workshop, mirror: Mirror) -> None:
    key = shop.config.state_dir / inputs.KEY
    key.unlink()
    key.mkdir()


def _mirror_is_no_url(shop: Workshop, mirror: Mirror) -> None:
    shop.set(environment={**shop.image.environment, "DIB_DISTRIBUTION_MIRROR": "http://[bad/"})


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (_key_is_damaged, "inputs.key is damaged; remove it to have a new one"),
        (_key_is_a_directory, "can't be used: Is a directory"),
        (_mirror_is_no_url, "http://[bad/ (DIB_DISTRIBUTION_MIRROR) is no URL"),
    ],
)
def test_what_keeps_from_comparing_is_the_reason_of_a_failed_build(
    shop: Workshop,
    yesterdays: Build,
    mirror: Mirror,
    break_it: Callable[[Workshop, Mirror], None],
    told: str,
) -> None:
    break_it(shop, mirror)
    shop.schedule()
    made = shop.built()
    assert made.id != yesterdays.id
    failure_class, message = reason_of(made)
    assert failure_class is FailureClass.CONFIG
    assert told in message
    assert [line for line in made.changes if "broke" in line] == []


def test_a_bug_in_comparing_is_no_reason_to_build_nothing(
    shop: Workshop, yesterdays: Build, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> Comparison:
        raise LookupError("http://us:topsecret@mirror.test")

    monkeypatch.setattr(engine, "compare", broken)
    shop.schedule()
    assert rebuilt(shop, yesterdays).changes == ("comparing broke: LookupError",)
    assert "LookupError" in caplog.text


def test_what_somebody_asks_for_is_built_however_unchanged(shop: Workshop, yesterdays: Build) -> None:
    wish = shop.ask()
    made = rebuilt(shop, yesterdays)
    assert (made.request, made.changes) == (wish, ())


def test_after_the_max_age_it_is_built_however_unchanged(shop: Workshop, yesterdays: Build) -> None:
    shop.set(max_age=DAY)
    shop.schedule()
    assert rebuilt(shop, yesterdays).changes == ()


def test_without_if_unchanged_it_is_built(shop: Workshop, yesterdays: Build) -> None:
    shop.set(skip_unchanged=False)
    shop.schedule()
    assert rebuilt(shop, yesterdays).changes == ()


def test_a_build_that_is_told_to_go_meanwhile_is_no_reason_to_build_nothing(
    shop: Workshop, yesterdays: Build, mirror: Mirror
) -> None:
    index = f"{MAIN}-updates/InRelease"
    content = mirror.files[index]
    assert isinstance(content, bytes)

    def told_to_go(handler: Handler) -> None:
        current = shop.store.get_build("img", yesterdays.id)
        if current.state is BuildState.READY:
            shop.store.update_build(current.become(BuildState.DELETING, shop.now))
        handler.answer(200, content)

    mirror.files[index] = told_to_go
    shop.schedule()
    rebuilt(shop, yesterdays)
    known = shop.records.build(yesterdays.id)
    assert known is not None and known.state is BuildState.DELETING


def test_a_build_whose_files_are_elsewhere_can_not_be_compared(shop: Workshop, yesterdays: Build) -> None:
    moved = replace(yesterdays, builder="there.test", builder_id="there")
    yesterdays = shop.store.update_build(moved)
    shop.schedule()
    assert rebuilt(shop, yesterdays).changes == ("its package list is on builder there.test",)


def test_a_claim_that_is_lost_meanwhile_leaves_the_image_to_others(
    shop: Workshop, yesterdays: Build, mirror: Mirror
) -> None:
    index = f"{MAIN}-updates/InRelease"
    content = mirror.files[index]
    assert isinstance(content, bytes)

    def lost(handler: Handler) -> None:
        shop.store.lose_session()
        handler.answer(200, content)

    mirror.files[index] = lost
    shop.schedule()
    assert not shop.work()
    assert shop.records.builds == (yesterdays,)
    mirror.files[index] = content
    assert shop.work()
    assert shop.records.builds == (replace(yesterdays, checked=NEXT_TICK),)


def test_a_comparison_that_the_daemon_stops_in_is_not_taken_for_an_answer(
    shop: Workshop, yesterdays: Build, mirror: Mirror
) -> None:
    asked: Sequence[tuple[str, str]] = mirror.asked
    mirror.asked.clear()
    mirror.files[f"{MAIN}-updates/InRelease"] = mirror.hang
    shop.schedule()
    with shop.working():
        eventually(lambda: any("bookworm-updates" in path for _, path in asked), "the mirror is asked")
        shop.world.stopping.set()
    assert shop.records.builds == (yesterdays,)
    assert shop.records.request is not None
    assert shop.runs == 1
