"""Whatever happens to machines, ZooKeeper, clouds and clocks, and whatever people do: the promises hold.

Hypothesis picks what happens and when, thousands of steps in all; the real workers of several daemons live
through it in simulated time. After each step everything is judged (promises.py), and in the end, when all
is calm again, everything wanted is there and nothing is left behind.

`SIMULATION_EXAMPLES=500 pytest tests/simulation` looks for longer, and elsewhere each time.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from builder.config.model import Budget, Canary
from builder.errors import ImagepoolError
from builder.model import (
    Build,
    BuildState,
    Cancellation,
    Deletion,
    Measure,
    Pause,
    Release,
    Request,
    Upload,
    UploadCancellation,
    UploadState,
    Withholding,
)
from builder.planning.rollback import plan_rollback
from tests.simulation.cloud import TROUBLES, Pace
from tests.simulation.daemon import Machine
from tests.simulation.world import HOUR, simulated

EXAMPLES = int(os.environ.get("SIMULATION_EXAMPLES", "0"))
#: Every run is the same, unless somebody wants to look further.
PROFILE = settings(
    max_examples=EXAMPLES or 24,
    stateful_step_count=100,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

numbers = st.integers(0, 1_000_000)
#: Seconds: within a phase, within a build, past a retry, past a tick of the schedule.
waits = st.sampled_from([0.2, 3.0, 20.0, 120.0, 900.0, 1 * HOUR, 5 * HOUR])
moments = st.integers(1, 80)
#: Seconds from one step to the next.
PAUSES = (0.0, 0.1, 2.0, 10.0, 40.0, 300.0, 900.0)


class Installation(RuleBasedStateMachine):
    """Three machines, two clouds, two diskimages, and people."""

    @initialize(
        seed=numbers,
        named=st.booleans(),
        keep=st.integers(1, 2),
        overlap=st.booleans(),
        canary=st.booleans(),
    )
    def begin(self, seed: int, named: bool, keep: int, overlap: bool, canary: bool) -> None:
        self.stack = ExitStack()
        root = Path(tempfile.mkdtemp(prefix="simulation-"))
        self.stack.callback(shutil.rmtree, root, ignore_errors=True)
        world = self.stack.enter_context(
            simulated(
                root,
                seed=seed,
                machines=3,
                pace=Pace(send=30.0),
                schedule=("14 */2 * * *", "40 */6 * * *") if overlap else ("14 */2 * * *",),
                failed_retention=timedelta(hours=4),
                upload_workers=4,
            )
        )
        self.world = world
        self.word = Pause(by="ann", time=world.kernel.clock(), why="looking into it")
        for name in world.config.diskimages:
            self._image(name, keep=keep, stable_name=f"{name}-newest" if named else None, hide_old=named)
        if canary:
            first = next(iter(world.config.providers))
            self._image(self._first(), promote=Canary(providers=(first,), soak=timedelta(hours=1)))
        self.base = world.config
        world.foreign_images()
        world.start()
        world.run(minutes=30)

    def _first(self) -> str:
        return next(iter(self.world.config.diskimages))

    def _image(self, name: str, **changes: object) -> None:
        config = self.world.config
        changed = replace(config.diskimages[name], **changes)
        self.world.config = replace(config, diskimages={**config.diskimages, name: changed})

    def _provider(self, name: str, **changes: object) -> None:
        config = self.world.config
        changed = replace(config.providers[name], **changes)
        self.world.config = replace(config, providers={**config.providers, name: changed})

    def _machine(self, number: int) -> Machine:
        return self.world.machines[number % len(self.world.machines)]

    def _name(self, number: int) -> str:
        return list(self.base.diskimages)[number % len(self.base.diskimages)]

    def _region(self, number: int) -> str:
        return list(self.base.providers)[number % len(self.base.providers)]

    def _pick(self, number: int, records: list[Build] | list[Upload]):
        return records[number % len(records)] if records else None

    # -- time -----------------------------------------------------------------------------------

    @rule(seconds=waits)
    def time_passes(self, seconds: float) -> None:
        self.world.run(seconds)

    @rule(number=numbers, minutes=st.sampled_from([-30, -2, 0, 2, 30]))
    def a_clock_is_set(self, number: int, minutes: int) -> None:
        self._machine(number).skew = timedelta(minutes=minutes)

    # -- machines -------------------------------------------------------------------------------

    @rule(number=numbers, moments=moments, seconds=waits)
    def a_daemon_dies_soon(self, number: int, moments: int, seconds: float) -> None:
        machine = self._machine(number)
        if machine.up:
            machine.life.crash_in = moments
            self.world.run(seconds)

    @rule(number=numbers)
    def a_daemon_dies_now(self, number: int) -> None:
        self._machine(number).crash()

    @rule(number=numbers)
    def a_daemon_is_told_to_stop(self, number: int) -> None:
        machine = self._machine(number)
        if machine.up:
            machine.life.stop()

    @rule(number=numbers)
    def a_daemon_starts(self, number: int) -> None:
        self._machine(number).start()

    @rule()
    def all_daemons_start(self) -> None:
        self.world.start()

    @rule(number=numbers)
    def a_disk_is_lost_and_said_to_be(self, number: int) -> None:
        machine = self._machine(number)
        machine.crash()
        self.world.run(seconds=11)
        machine.lose_disk()
        self.world.promises.lost_disks.add(machine.builder_id)
        self.world.outside.forget_builder(machine.builder_id, self.word)
        machine.new_disk()

    @rule(number=numbers)
    def a_machine_can_no_longer_build_or_can_again(self, number: int) -> None:
        machine = self._machine(number)
        machine.unfit = None if machine.unfit else "qemu-img is missing"

    # -- sessions -------------------------------------------------------------------------------

    @rule(number=numbers)
    def a_session_is_lost(self, number: int) -> None:
        machine = self._machine(number)
        if machine.up:
            machine.life.store.lose_session()

    @rule(number=numbers, seconds=waits, lost=st.booleans())
    def zookeeper_is_away_for_one(self, number: int, seconds: float, lost: bool) -> None:
        machine = self._machine(number)
        if machine.up:
            store = machine.life.store
            store.disconnect()
            self.world.run(seconds)
            if lost:
                store.lose_session()
            store.reconnect()

    @rule(seconds=waits, lost=st.booleans())
    def zookeeper_is_away_for_all(self, seconds: float, lost: bool) -> None:
        stores = [machine.life.store for machine in self.world.machines if machine.up]
        for store in stores:
            store.disconnect()
        self.world.run(seconds)
        for store in stores:
            if lost:
                store.lose_session()
            store.reconnect()

    @rule(number=numbers, answers=st.integers(1, 3))
    def answers_of_zookeeper_get_lost(self, number: int, answers: int) -> None:
        machine = self._machine(number)
        if machine.up:
            machine.life.store.lose_answers = answers

    # -- clouds and builds ------------------------------------------------------------------------

    @rule(number=numbers, kind=st.sampled_from(sorted(TROUBLES)), often=st.sampled_from([0.05, 0.5, 1.0]))
    def a_cloud_has_trouble(self, number: int, kind: str, often: float) -> None:
        self.world.clouds[self._region(number)].trouble = (kind, often)

    @rule()
    def clouds_are_well(self) -> None:
        for cloud in self.world.clouds.values():
            cloud.trouble = None
            cloud.in_use.clear()

    @rule(number=numbers, answers=st.integers(1, 3))
    def answers_of_a_cloud_get_lost(self, number: int, answers: int) -> None:
        self.world.clouds[self._region(number)].lose_answers = answers

    @rule(number=numbers)
    def an_image_is_in_use(self, number: int) -> None:
        cloud = self.world.clouds[self._region(number)]
        cloud.in_use |= set(list(cloud.images)[-1:])

    @rule(number=numbers)
    def somebody_deletes_an_image_in_the_cloud(self, number: int) -> None:
        cloud = self.world.clouds[self._region(number)]
        ours = [u for u in self.world.tree.uploads.values() if u.provider == cloud.name and u.external_id]
        upload = self._pick(number, ours)
        if upload is not None and upload.external_id in cloud.images:
            self.world.promises.stolen.add(upload.external_id)
            del cloud.images[upload.external_id]

    @rule(often=st.sampled_from([0.0, 0.3, 1.0]))
    def builds_fail(self, often: float) -> None:
        self.world.engine.fails = lambda image: often

    @rule(often=st.sampled_from([0.0, 0.5]))
    def images_grow(self, often: float) -> None:
        random = self.world.kernel.random
        self.world.engine.packages = lambda: 500.0 if random.random() < often else 300.0

    @rule(often=st.sampled_from([0.0, 0.5]))
    def nothing_changes_in_the_mirrors(self, often: float) -> None:
        self.world.engine.unchanged = often

    # -- people -----------------------------------------------------------------------------------

    @rule(number=numbers, force=st.booleans())
    def somebody_asks_for_a_build(self, number: int, force: bool) -> None:
        now = self.world.kernel.clock()
        self.world.outside.request_build(
            Request(image=self._name(number), by="ann", why="new kernel", time=now, force=force)
        )

    @rule(number=numbers)
    def somebody_takes_a_request_back(self, number: int) -> None:
        request = self.world.outside.get_request(self._name(number))
        if request is not None:
            self.world.outside.withdraw_request(request)

    @rule(number=numbers)
    def somebody_cancels_a_build(self, number: int) -> None:
        build = self._pick(number, self._builds(BuildState.BUILDING))
        if build is not None:
            now = self.world.kernel.clock()
            self.world.outside.cancel_build(
                Cancellation(image=build.image, build_id=build.id, by="ann", time=now)
            )

    @rule(number=numbers)
    def somebody_cancels_an_upload(self, number: int) -> None:
        upload = self._pick(number, self._uploads(UploadState.UPLOADING))
        if upload is not None:
            now = self.world.kernel.clock()
            self.world.outside.cancel_upload(
                UploadCancellation(upload=upload.name, image=upload.image, by="ann", time=now)
            )

    @rule(number=numbers, plainly=st.booleans())
    def somebody_deletes_an_upload(self, number: int, plainly: bool) -> None:
        """With nodepool's CLI, plainly, or with ours."""
        upload = self._pick(number, self._uploads(UploadState.READY))
        if upload is None:
            return
        now = self.world.kernel.clock()
        self.world.promises.wished_away.add(upload.name)
        deletion = None if plainly else Deletion(by="ann", time=now)
        self.world.outside.update_upload(upload.become(UploadState.DELETING, now, deletion=deletion))

    @rule(number=numbers)
    def somebody_deletes_a_build(self, number: int) -> None:
        build = self._pick(number, self._builds(BuildState.READY))
        if build is not None:
            self.world.promises.wished_away.add(build.id)
            now = self.world.kernel.clock()
            self.world.outside.update_build(build.become(BuildState.DELETING, now))

    @rule(number=numbers, everywhere=st.booleans())
    def somebody_withholds_a_build(self, number: int, everywhere: bool) -> None:
        made = [*self._builds(BuildState.READY), *self._builds(BuildState.BUILDING)]
        build = self._pick(number, made)
        if build is not None:
            self.world.outside.withhold(build.image, build.id, self._word(number, everywhere))

    @rule(number=numbers)
    def somebody_lets_a_withheld_build_go_out_again(self, number: int) -> None:
        withheld = [build for build in self.world.tree.builds.values() if build.withheld]
        build = self._pick(number, withheld)
        if build is not None:
            self.world.outside.release(build.image, build.id, None)

    @rule(number=numbers, reject=st.booleans())
    def somebody_decides_on_a_held_build(self, number: int, reject: bool) -> None:
        held = [build for build in self._builds(BuildState.READY) if build.hold is not None]
        build = self._pick(number, held)
        if build is None:
            return
        if reject:
            self.world.outside.withhold(build.image, build.id, self._word(number, everywhere=True))
        else:
            release = Release(by="ann", time=self.world.kernel.clock())
            self.world.outside.let_go(build.image, build.id, release)

    @rule(number=numbers, everywhere=st.booleans())
    def somebody_rolls_an_image_back(self, number: int, everywhere: bool) -> None:
        word = self._word(number, everywhere)
        where = None if word.provider is None else (word.provider,)
        snapshot, name = self.world.outside.snapshot(), self._name(number)
        try:
            plan = plan_rollback(
                self.world.config, snapshot, name, None, where, word.time, by=word.by, why=word.why
            )
        except ImagepoolError:
            return  # there is nothing to go back to, or it is not configured now
        for build, each in plan.withhold:
            self.world.outside.withhold(build.image, build.id, each)

    def _word(self, number: int, everywhere: bool) -> Withholding:
        return Withholding(
            provider=None if everywhere else self._region(number),
            by="ann",
            time=self.world.kernel.clock(),
            why="no SSH server",
        )

    @rule(number=numbers, paused=st.booleans())
    def builds_of_an_image_are_paused(self, number: int, paused: bool) -> None:
        if paused:
            self.world.outside.pause(self._name(number), self.word)
        else:
            self.world.outside.unpause(self._name(number))

    @rule(number=numbers, paused=st.booleans())
    def uploads_to_a_provider_are_paused(self, number: int, paused: bool) -> None:
        if paused:
            self.world.outside.pause_provider(self._region(number), self.word)
        else:
            self.world.outside.unpause_provider(self._region(number))
        self.world.promises.note_word()

    @rule(seconds=waits)
    def everything_is_frozen_for_a_while(self, seconds: float) -> None:
        self.world.outside.freeze(self.word)
        self.world.promises.note_word()
        self.world.run(seconds)
        self.world.promises.check()
        self.world.outside.unfreeze()
        self.world.promises.note_word()

    # -- the configuration --------------------------------------------------------------------------

    @rule(number=numbers)
    def a_provider_is_taken_out_of_the_configuration(self, number: int) -> None:
        config = self.world.config
        left = {name: p for name, p in config.providers.items() if name != self._region(number)}
        if left:
            self.world.config = replace(config, providers=left)

    @rule(number=numbers)
    def an_image_is_taken_out_of_the_configuration(self, number: int) -> None:
        config = self.world.config
        left = {name: i for name, i in config.diskimages.items() if name != self._name(number)}
        listed = {
            name: replace(p, images={i: each for i, each in p.images.items() if i in left})
            for name, p in config.providers.items()
        }
        if left:
            self.world.config = replace(config, diskimages=left, providers=listed)

    @rule()
    def the_configuration_is_as_before(self) -> None:
        self.world.config = self.base

    @rule(number=numbers, keep=st.integers(1, 3), tidy=st.booleans(), skip=st.booleans())
    def a_diskimage_is_changed(self, number: int, keep: int, tidy: bool, skip: bool) -> None:
        if self._name(number) in self.world.config.diskimages:
            self._image(self._name(number), keep=keep, delete_after_upload=tidy, skip_unchanged=skip)

    @rule(number=numbers)
    def a_diskimage_gets_a_budget(self, number: int) -> None:
        if self._name(number) in self.world.config.diskimages:
            self._image(self._name(number), budgets=(Budget(measure=Measure.PACKAGES, most=400),))

    # -- judgement ----------------------------------------------------------------------------------

    @invariant()
    def promises_hold(self) -> None:
        if hasattr(self, "world"):
            self.world.promises.check()
            self.world.run(self.world.kernel.random.choice(PAUSES))
            self.world.promises.check()

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self.world.calm(self.base)
            self._settle(days=3)
            self.world.run(hours=9)
            self._settle(days=1)
        finally:
            self.stack.close()

    def _settle(self, days: int) -> None:
        """Within so many days there is a moment at which nothing is left to do."""
        for _ in range(days * 48):
            self.world.run(minutes=30)
            self.world.promises.check()
            left = list(self.world.promises.unsettled())
            if not left:
                return
        raise AssertionError("\n".join(left))

    def _builds(self, state: BuildState) -> list[Build]:
        return [build for build in self.world.tree.builds.values() if build.state is state]

    def _uploads(self, state: UploadState) -> list[Upload]:
        return [upload for upload in self.world.tree.uploads.values() if upload.state is state]


TestPromises = Installation.TestCase
TestPromises.settings = PROFILE
