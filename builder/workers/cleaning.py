"""Carries out single clean-ups: each claims, reads again, decides again, and can be repeated without harm.

First the image or the file goes, then the record, so that a crash between leaves a record that says
what is still to do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from builder.cloud import transfer
from builder.cloud.base import Cloud
from builder.cloudimage import GlanceStatus
from builder.config.model import Canary, Config
from builder.dib.output import artifacts, inherited
from builder.errors import CloudError, ImagepoolError, NotFoundError, RefusedError
from builder.model import (
    Build,
    BuildState,
    Deletion,
    Failure,
    FailureClass,
    Upload,
    UploadCancellation,
    UploadState,
    UploadWish,
)
from builder.planning.actions import IMAGEPOOL, CleanupAction, CleanupKind, Verdict
from builder.planning.builds import next_try
from builder.planning.cleanup import plan_cleanup
from builder.planning.reach import provider_of
from builder.planning.records import may_go_out, ready_uploads
from builder.planning.retention import lasting_uploads
from builder.store.base import Claim
from builder.workers.base import World
from builder.workers.reading import fresh_records
from builder.workers.stopping import abandoned, abandoned_upload

LOG = logging.getLogger(__name__)

#: Who is behind a plain `deleting`, which says nothing of itself.
NODEPOOL = "somebody, through nodepool"


class Cleaner:
    """One method for each kind of action; each says whether it did something."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._act_on: Mapping[CleanupKind, Callable[[Config, CleanupAction], bool]] = MappingProxyType(
            {
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
        )

    def act(self, config: Config, action: CleanupAction) -> bool:
        """Do it; False when somebody else is at it or was quicker. Raises what stood in the way."""
        return self._act_on[action.kind](config, action)

    # -- builds -------------------------------------------------------------------------------

    def _fail_build(self, config: Config, action: CleanupAction) -> bool:
        build, store = _build(action), self._world.store

        def fail() -> bool:
            current = store.get_build(build.image, build.id)
            if current.state is not BuildState.BUILDING:
                return False
            self._delete_files(config, current)
            now, snapshot = self._world.clock(), store.snapshot()
            failed = abandoned(current, now, snapshot.image(build.image).cancellation)
            if image := config.diskimages.get(build.image):
                failed = replace(failed, next_try=next_try(image, snapshot, failed, config, now))
            store.update_build(failed)
            store.withdraw_cancellation(build.image, build.id)
            return True

        return _under(store.claim_image(build.image), fail)

    def _prune_build(self, config: Config, action: CleanupAction) -> bool:
        build, store = _build(action), self._world.store

        def prune() -> bool:
            if not self._still_planned(config, action, build.image):
                return False
            current = store.get_build(build.image, build.id)
            for each in action.formats:
                artifacts.delete_artifact(
                    config.images_dir, build.image, build.id, each, self._world.identity.installation_id
                )
            pruned = tuple(sorted({*current.pruned, *map(str, action.formats)}))
            store.update_build(replace(current, pruned=pruned))
            return True

        return _under(store.claim_build(build), prune)

    def _retire_build(self, config: Config, action: CleanupAction) -> bool:
        build, store = _build(action), self._world.store

        def retire() -> bool:
            if not self._still_planned(config, action, build.image):
                return False
            current = store.get_build(build.image, build.id)
            store.update_build(current.become(BuildState.DELETING, self._world.clock()))
            return True

        return _under(store.claim_build(build), retire)

    def _remove_build(self, config: Config, action: CleanupAction) -> bool:
        build, store = _build(action), self._world.store

        def remove() -> bool:
            current = store.get_build(build.image, build.id)
            if current.state is not BuildState.DELETING:
                return False
            self._delete_files(config, current)
            # Before the record: that is what brings us here again.
            if build.image not in config.diskimages and len(store.list_builds(build.image)) == 1:
                store.forget_history(build.image)
            store.delete_build(current)
            return True

        return _under(store.claim_build(build), remove)

    # -- wishes -------------------------------------------------------------------------------

    def _withdraw_cancellation(self, config: Config, action: CleanupAction) -> bool:
        wish = action.cancellation
        assert wish is not None, f"{action.kind} without a wish"
        # An id is never used twice, so what has ended will not run again.
        if isinstance(wish, UploadCancellation):
            self._world.store.withdraw_upload_cancellation(wish.image, wish.upload)
        else:
            self._world.store.withdraw_cancellation(wish.image, wish.build_id)
        return True

    # -- uploads ------------------------------------------------------------------------------

    def _fail_upload(self, config: Config, action: CleanupAction) -> bool:
        upload, store = _upload(action), self._world.store

        def fail() -> bool:
            current = self._current(upload)
            if current.state is not UploadState.UPLOADING:
                return False
            left = self._delete_image(config, current)
            wishes = store.snapshot().image(current.image).upload_cancellations
            wish = next((wish for wish in wishes if wish.upload == current.name), None)
            store.update_upload(abandoned_upload(current, self._world.clock(), wish, left))
            store.withdraw_upload_cancellation(current.image, current.name)
            return True

        return _under(store.claim_uploads(upload.image, upload.build_id, upload.provider), fail)

    def _remove_leftover(self, config: Config, action: CleanupAction) -> bool:
        upload, store = _upload(action), self._world.store

        def remove() -> bool:
            current = self._current(upload)
            if not current.may_linger:
                return False
            self._delete_image(config, current)
            store.update_upload(replace(current, external_id=None, external_name=None, parts={}))
            return True

        return _under(store.claim_upload(upload), remove)

    def _retire_upload(self, config: Config, action: CleanupAction) -> bool:
        upload, store = _upload(action), self._world.store

        def retire() -> bool:
            if not self._still_planned(config, action, upload.image):
                return False
            now, current = self._world.clock(), self._current(upload)
            if current.state is UploadState.READY:
                self._demand_successor(config, current)
            deletion = Deletion(by=IMAGEPOOL, time=now, why=action.reason)
            store.update_upload(current.become(UploadState.DELETING, now, deletion=deletion))
            return True

        return _under(store.claim_upload(upload), retire)

    def _remove_upload(self, config: Config, action: CleanupAction) -> bool:
        upload, store = _upload(action), self._world.store

        def remove() -> bool:
            current = self._current(upload)
            if current.state is not UploadState.DELETING:
                return False
            if current.deletion is None:
                self._make_it_stick(current)
            try:
                self._delete_image(config, current)
            except ImagepoolError as error:
                self._keep_for_now(config, current, error)
                raise
            # Whatever its record says, for nodepool's commands write none of what is ours.
            store.end_turn(
                current.image, current.provider, current.name, self._world.clock(), _why_gone(current)
            )
            store.delete_upload(current)
            return True

        return _under(store.claim_upload(upload), remove)

    # -- parts of them ------------------------------------------------------------------------

    def _still_planned(self, config: Config, action: CleanupAction, image: str) -> bool:
        """Whether the plan, made on what is true now, still has the action: nothing good may go."""
        world = self._world
        seen = world.store.snapshot()
        # What becomes of an upload depends on no other provider's, but for what soaks in the canaries.
        known = config.diskimages.get(image)
        soaks = known is not None and isinstance(known.promote, Canary)
        where = action.upload.provider if action.upload and not soaks else None
        records = fresh_records(world.store, config, image, provider=where)
        if where is not None:
            records = replace(records, uploads=records.uploads_to(where))
        # Who is gone for good and what stands still counts here too; the other images don't.
        fresh = replace(seen, images={image: records})
        plan = plan_cleanup(
            config,
            fresh,
            world.clock(),
            builder_id=world.identity.builder_id,
            active=world.active.names(),
        )
        return any(
            key(a) == key(action) and a.formats == action.formats and a.verdict is Verdict.NOW for a in plan
        )

    def _demand_successor(self, config: Config, upload: Upload) -> None:
        """RefusedError unless one of the other ready images is in the cloud now: records don't tell that
        somebody has deleted it there. A build that is to go takes its uploads along whatever there is."""
        records = fresh_records(self._world.store, config, upload.image, provider=upload.provider)
        build = records.build(upload.build_id)
        if build is not None and build.state is BuildState.DELETING:
            return
        others = [
            other
            for other in ready_uploads(lasting_uploads(records, upload.provider))
            if other.name != upload.name and may_go_out(records.build(other.build_id), other.provider)
        ]
        if not any(self._is_active(config, other) for other in others):
            raise RefusedError(
                f"upload {upload.name} stays: the newer images of {upload.image} that are on record as ready"
                f" are not in {upload.provider} any more, so it may be the last good one",
                hint="Delete those uploads (`imagepool upload delete`), then ask for new ones"
                " (`imagepool upload retry`).",
            )

    def _is_active(self, config: Config, upload: Upload) -> bool:
        """Whether an upload's image is there and can be used."""
        if upload.external_id is None:
            return False
        cloud = self._cloud(config, upload)
        images = (cloud.get(each) for each in upload.external_ids)
        return all(image is not None and image.status is GlanceStatus.ACTIVE for image in images)

    def _current(self, upload: Upload) -> Upload:
        return self._world.store.get_upload(upload.image, upload.build_id, upload.provider, upload.id)

    def _delete_image(self, config: Config, upload: Upload) -> str:
        """Delete what an upload has in its cloud, if it is provably ours; says what was done."""
        return transfer.remove(
            self._cloud(config, upload), upload, installation_id=self._world.identity.installation_id
        )

    def _cloud(self, config: Config, upload: Upload) -> Cloud:
        provider = provider_of(config, upload)
        if provider is None:
            raise RefusedError(
                f"the provider {upload.provider} of upload {upload.name} is not in the configuration,"
                " and the record does not say which cloud it was",
                hint="Configure it again to let this be cleaned up.",
            )
        return self._world.cloud(provider)

    def _delete_files(self, config: Config, build: Build) -> None:
        world = self._world
        if build.builder_id != world.identity.builder_id:
            return
        if inherited.is_inherited(config.images_dir, build):
            inherited.delete(config.images_dir, build)
        else:
            artifacts.delete(config.images_dir, build.image, build.id, world.identity.installation_id)

    def _make_it_stick(self, upload: Upload) -> None:
        """Note on the build that somebody deleted this upload, so that it isn't made again.

        nodepool's own commands write a plain `deleting`. With the record gone nothing else would tell.
        """
        wish = UploadWish(provider=upload.provider, wanted=False, by=NODEPOOL, time=upload.state_time)
        store = self._world.store
        try:
            known = store.get_build(upload.image, upload.build_id).wish(upload.provider)
            # What somebody said since holds.
            if known is None or known.time < wish.time:
                store.wish_upload(upload.image, upload.build_id, wish)
        except NotFoundError:
            LOG.info("build %s of upload %s is gone already", upload.build_id, upload.name)

    def _keep_for_now(self, config: Config, upload: Upload, error: ImagepoolError) -> None:
        """Why it could not be deleted goes on the record, once per reason: someone will ask. What is in
        use is hidden, so that nobody begins to use it."""
        message, hidden = error.message, upload.hidden
        if isinstance(error, CloudError) and error.in_use and not hidden:
            try:
                transfer.hide(
                    self._cloud(config, upload),
                    upload,
                    installation_id=self._world.identity.installation_id,
                )
                hidden = True
            except ImagepoolError as unhidden:
                message += f"; it could not be hidden either: {unhidden.message}"
        failure_class = getattr(error, "failure_class", FailureClass.CLOUD)
        failure = Failure(failure_class=failure_class, message=message)
        if (upload.reason, upload.hidden) != (failure, hidden):
            self._world.store.update_upload(replace(upload, reason=failure, hidden=hidden))


def _why_gone(upload: Upload) -> str:
    """Why an upload that is deleted serves no longer, as a sentence."""
    told = upload.deletion
    if told is None:
        return f"It was deleted by {NODEPOOL}."
    return f"It was deleted by {told.by}" + (f": {told.why}" if told.why else ".")


def subject(action: CleanupAction) -> str:
    """What an action is about, for people."""
    wish = action.cancellation
    if isinstance(wish, UploadCancellation):
        return f"upload {wish.upload}"
    if wish is not None:
        return f"build {wish.build_id}"
    return f"upload {action.upload.name}" if action.upload else f"build {_build(action).id}"


def key(action: CleanupAction) -> str:
    """What tells an action from all others."""
    return f"{action.kind} of {subject(action)}"


def _under(claim: Claim | None, act: Callable[[], bool]) -> bool:
    if claim is None:
        return False  # somebody else is at it; when they let go, the tree changes and wakes us
    with claim:
        return act()


def _build(action: CleanupAction) -> Build:
    assert action.build is not None, f"{action.kind} without a build"
    return action.build


def _upload(action: CleanupAction) -> Upload:
    assert action.upload is not None, f"{action.kind} without an upload"
    return action.upload
