"""The janitor carries out clean-up: abandoned work, superseded images, and what somebody asked to go.

Every action is claimed, read again and decided again before anything is deleted, and can be
repeated without harm: first the image or the file, then the record, so that a crash between
leaves a record that says what is still to do. Each provider has a lane of its own, so a cloud
that hangs delays nobody else's clean-up.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import replace
from datetime import datetime, timedelta

from builder.cloud import transfer
from builder.config.model import Config
from builder.dib.output import artifacts
from builder.errors import ConflictError, ImagepoolError, NotFoundError
from builder.model import (
    Build,
    BuildState,
    Failure,
    FailureClass,
    ImageRecords,
    Snapshot,
    Upload,
    UploadState,
)
from builder.planning.actions import CleanupAction, CleanupKind, Verdict
from builder.planning.builds import next_try
from builder.planning.cleanup import plan_cleanup
from builder.store.base import Claim
from builder.workers.base import Pass, Worker, World, earliest
from builder.workers.stopping import abandoned

LOG = logging.getLogger(__name__)

FIRST_RETRY = timedelta(seconds=30)
LONGEST_RETRY = timedelta(hours=1)
#: After an action somebody else holds or has done: time for our snapshot to show it.
AFTER_A_MISS = timedelta(seconds=1)
LOCAL = "this machine"


class Backoff:
    """When each action that did not work out is tried again. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tries: dict[str, int] = {}
        self._until: dict[str, datetime] = {}

    def missed(self, key: str, now: datetime) -> None:
        """Nothing was wrong, but there was nothing to do either."""
        with self._lock:
            self._until[key] = now + AFTER_A_MISS

    def failed(self, key: str, now: datetime) -> timedelta:
        """It failed; returns the pause before the next try."""
        with self._lock:
            tries = self._tries[key] = self._tries.get(key, 0) + 1
            longest = min(LONGEST_RETRY, FIRST_RETRY * 2 ** min(tries - 1, 16))
            pause: timedelta = longest * random.uniform(0.75, 1.25)
            self._until[key] = now + pause
            return pause

    def retain(self, keys: frozenset[str], now: datetime) -> None:
        """Forget the actions that were planned no more for as long as a pause can be.

        Not at once: while an action is claimed, by ourselves too, the plan does not show it.
        """
        with self._lock:
            for key in self._until.keys() - keys:
                if self._until[key] + LONGEST_RETRY < now:
                    del self._until[key]
                    self._tries.pop(key, None)

    def until(self, key: str) -> datetime | None:
        """When the action may be tried again, None for at once."""
        with self._lock:
            return self._until.get(key)


class Janitor(Worker):
    """Plans the clean-up of everything, and does what this machine can do."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self._lanes: dict[str, Future[bool]] = {}
        self._backoff = Backoff()
        self._act_on: dict[CleanupKind, Callable[[Config, CleanupAction], bool]] = {
            CleanupKind.FAIL_BUILD: self._fail_build,
            CleanupKind.FAIL_UPLOAD: self._fail_upload,
            CleanupKind.REMOVE_LEFTOVER: self._remove_leftover,
            CleanupKind.WITHDRAW_CANCELLATION: self._withdraw_cancellation,
            CleanupKind.PRUNE_BUILD: self._prune_build,
            CleanupKind.RETIRE_BUILD: self._retire_build,
            CleanupKind.RETIRE_UPLOAD: self._retire_upload,
            CleanupKind.REMOVE_UPLOAD: self._remove_upload,
            CleanupKind.REMOVE_BUILD: self._remove_build,
        }

    def act(self, config: Config, snapshot: Snapshot, now: datetime) -> Pass:
        """Start every action that is due in the lane of its provider; returns without waiting for them."""
        actions = self._plan(config, snapshot, now)
        self._backoff.retain(frozenset(_key(action) for action in actions), now)
        waits = {_key(a): self._backoff.until(_key(a)) for a in actions}
        due = [a for a in actions if a.verdict is Verdict.NOW and (waits[_key(a)] or now) <= now]
        for lane in sorted({_lane(a) for a in due} - self.busy()):
            batch = [a for a in due if _lane(a) == lane]
            self._lanes[lane] = self._start(lane, config, batch)
        later = [a.due for a in actions if a.verdict is Verdict.LATER]
        return Pass(due=earliest([*later, *(t for t in waits.values() if t is not None and t > now)]))

    def busy(self) -> frozenset[str]:
        """The lanes that are at work: providers, and LOCAL."""
        return frozenset(lane for lane, future in self._lanes.items() if not future.done())

    def drain(self) -> bool:
        """Wait until no lane is busy; whether any of them did anything since the last drain."""
        lanes, self._lanes = self._lanes, {}
        results = [future.result() for future in lanes.values()]  # all of them, before the answer
        return any(results)

    def _start(self, lane: str, config: Config, batch: Iterable[CleanupAction]) -> Future[bool]:
        """Work off a batch in a thread that dies with the process, which is safe: a pool's threads are
        waited for when Python ends, and a cloud may hang for minutes."""
        future: Future[bool] = Future()

        def work() -> None:
            try:
                future.set_result(self._work(config, batch))
            except BaseException as error:  # noqa: BLE001 - it is raised in the thread that drains
                future.set_exception(error)

        # Not by `_work` itself: whoever wakes before the lane is free finds it busy, and sleeps on.
        future.add_done_callback(lambda _: self.world.store.wake())
        threading.Thread(target=work, name=f"{self.name}-{lane}", daemon=True).start()
        return future

    def _plan(self, config: Config, snapshot: Snapshot, now: datetime) -> tuple[CleanupAction, ...]:
        return plan_cleanup(
            config,
            snapshot,
            now,
            builder_id=self.world.identity.builder_id,
            active=self.world.active.names(),
        )

    def _work(self, config: Config, batch: Iterable[CleanupAction]) -> bool:
        """Do the actions of one lane one after the other; whether any did something."""
        did = False
        for action in batch:
            if self.world.stopping.is_set():
                break
            try:
                did |= self._do(config, action)
            except ImagepoolError as error:
                self._put_off(action, error.message)
            except Exception as error:
                # A lane must not die of a bug in one action: the others are somebody's disk space.
                LOG.exception("%s of %s broke", action.kind, _subject(action))
                self._put_off(action, f"{type(error).__name__}: {error}")
        return did

    def _do(self, config: Config, action: CleanupAction) -> bool:
        try:
            done = self._act_on[action.kind](config, action)
        except (NotFoundError, ConflictError):
            done = False  # somebody else was quicker
        if done:
            LOG.info("%s of %s: %s", action.kind, _subject(action), action.reason)
        else:
            self._backoff.missed(_key(action), self.world.clock())
        return done

    def _put_off(self, action: CleanupAction, why: str) -> None:
        self.failures += 1
        pause = self._backoff.failed(_key(action), self.world.clock())
        LOG.warning(
            "%s of %s failed, next try in %d s: %s",
            action.kind,
            _subject(action),
            pause.total_seconds(),
            why,
        )

    # -- one method per kind; each says whether it did something ---------------------------------

    def _fail_build(self, config: Config, action: CleanupAction) -> bool:
        build = _build(action)
        return self._under(self.world.store.claim_image(build.image), lambda: self._do_fail(config, build))

    def _do_fail(self, config: Config, build: Build) -> bool:
        current = self.world.store.get_build(build.image, build.id)
        if current.state is not BuildState.BUILDING:
            return False
        self._delete_files(config, current)
        store, now = self.world.store, self.world.clock()
        records = store.snapshot().image(build.image)
        failed = abandoned(current, now, records.cancellation)
        if image := config.diskimages.get(build.image):
            failed = replace(failed, next_try=next_try(image, records, failed, config, now))
        store.update_build(failed)
        store.withdraw_cancellation(build.image, build.id)
        return True

    def _withdraw_cancellation(self, config: Config, action: CleanupAction) -> bool:
        wish = action.cancellation
        assert wish is not None, f"{action.kind} without a wish"
        # An id is never used twice, so the build that has ended will not run again.
        self.world.store.withdraw_cancellation(wish.image, wish.build_id)
        return True

    def _fail_upload(self, config: Config, action: CleanupAction) -> bool:
        upload = _upload(action)
        claim = self.world.store.claim_uploads(upload.image, upload.build_id, upload.provider)
        return self._under(claim, lambda: self._do_fail_upload(config, upload))

    def _do_fail_upload(self, config: Config, upload: Upload) -> bool:
        current = self._current(upload)
        if current.state is not UploadState.UPLOADING:
            return False
        left = self._delete_image(config, current)
        now = self.world.clock()
        self.world.store.update_upload(
            current.become(
                UploadState.FAILED,
                now,
                ended=now,
                external_id=None,
                external_name=None,
                reason=Failure(
                    failure_class=FailureClass.INTERRUPTED,
                    message=f"the uploader {current.uploader or 'of unknown name'} went away; {left}",
                    phase=current.phase,
                ),
            )
        )
        return True

    def _remove_leftover(self, config: Config, action: CleanupAction) -> bool:
        upload = _upload(action)

        def remove() -> bool:
            current = self._current(upload)
            if not current.may_linger:
                return False
            self._delete_image(config, current)
            self.world.store.update_upload(replace(current, external_id=None, external_name=None))
            return True

        return self._under(self.world.store.claim_upload(upload), remove)

    def _prune_build(self, config: Config, action: CleanupAction) -> bool:
        build, store = _build(action), self.world.store

        def prune() -> bool:
            if not self._still_planned(config, action, build.image):
                return False
            current = store.get_build(build.image, build.id)
            for each in action.formats:
                artifacts.delete_artifact(
                    config.images_dir, build.image, build.id, each, self.world.identity.installation_id
                )
            pruned = tuple(sorted({*current.pruned, *map(str, action.formats)}))
            store.update_build(replace(current, pruned=pruned))
            return True

        return self._under(store.claim_build(build), prune)

    def _retire_build(self, config: Config, action: CleanupAction) -> bool:
        build = _build(action)

        def retire() -> bool:
            if not self._still_planned(config, action, build.image):
                return False
            current = self.world.store.get_build(build.image, build.id)
            self.world.store.update_build(current.become(BuildState.DELETING, self.world.clock()))
            return True

        return self._under(self.world.store.claim_build(build), retire)

    def _retire_upload(self, config: Config, action: CleanupAction) -> bool:
        upload = _upload(action)

        def retire() -> bool:
            if not self._still_planned(config, action, upload.image):
                return False
            current = self._current(upload)
            self.world.store.update_upload(current.become(UploadState.DELETING, self.world.clock()))
            return True

        return self._under(self.world.store.claim_upload(upload), retire)

    def _remove_upload(self, config: Config, action: CleanupAction) -> bool:
        upload = _upload(action)

        def remove() -> bool:
            current = self._current(upload)
            if current.state is not UploadState.DELETING:
                return False
            try:
                self._delete_image(config, current)
            except ImagepoolError as error:
                self._note(current, error)
                raise
            self.world.store.delete_upload(current)
            return True

        return self._under(self.world.store.claim_upload(upload), remove)

    def _remove_build(self, config: Config, action: CleanupAction) -> bool:
        build = _build(action)

        def remove() -> bool:
            current = self.world.store.get_build(build.image, build.id)
            if current.state is not BuildState.DELETING:
                return False
            self._delete_files(config, current)
            self.world.store.delete_build(current)
            return True

        return self._under(self.world.store.claim_build(build), remove)

    # -- parts of them ------------------------------------------------------------------------

    def _under(self, claim: Claim | None, act: Callable[[], bool]) -> bool:
        if claim is None:
            return False  # somebody else is at it; when they let go, the tree changes and wakes us
        with claim:
            return act()

    def _still_planned(self, config: Config, action: CleanupAction, image: str) -> bool:
        """Whether the plan, made on what is true now, still has the action: nothing good may go."""
        store = self.world.store
        builds = store.list_builds(image)
        known = store.snapshot().image(image)
        pairs = {(b.id, p) for b in builds for p in config.providers}
        pairs |= {(u.build_id, u.provider) for u in known.uploads}
        uploads = [u for build_id, p in sorted(pairs) for u in store.list_uploads(image, build_id, p)]
        uploads.sort(key=lambda upload: upload.state_time, reverse=True)
        fresh: ImageRecords = replace(known, builds=builds, uploads=tuple(uploads))
        plan = self._plan(config, Snapshot(images={image: fresh}), self.world.clock())
        return any(
            _key(a) == _key(action) and a.formats == action.formats and a.verdict is Verdict.NOW for a in plan
        )

    def _current(self, upload: Upload) -> Upload:
        return self.world.store.get_upload(upload.image, upload.build_id, upload.provider, upload.id)

    def _delete_image(self, config: Config, upload: Upload) -> str:
        """Delete what an upload has in its cloud, if it is provably ours; says what was done."""
        provider = config.providers[upload.provider]
        return transfer.remove(
            self.world.cloud(provider), upload, installation_id=self.world.identity.installation_id
        )

    def _delete_files(self, config: Config, build: Build) -> None:
        if build.builder_id == self.world.identity.builder_id:
            artifacts.delete(config.images_dir, build.image, build.id, self.world.identity.installation_id)

    def _note(self, upload: Upload, error: ImagepoolError) -> None:
        """Why it could not be deleted goes on the record, once per reason: someone will ask."""
        failure = Failure(
            failure_class=getattr(error, "failure_class", FailureClass.CLOUD), message=error.message
        )
        if upload.reason != failure:
            self.world.store.update_upload(replace(upload, reason=failure))


def _build(action: CleanupAction) -> Build:
    assert action.build is not None, f"{action.kind} without a build"
    return action.build


def _upload(action: CleanupAction) -> Upload:
    assert action.upload is not None, f"{action.kind} without an upload"
    return action.upload


def _subject(action: CleanupAction) -> str:
    if action.cancellation:
        return f"build {action.cancellation.build_id}"
    return f"upload {action.upload.name}" if action.upload else f"build {_build(action).id}"


def _key(action: CleanupAction) -> str:
    return f"{action.kind} {_subject(action)}"


def _lane(action: CleanupAction) -> str:
    return action.upload.provider if action.upload else LOCAL
