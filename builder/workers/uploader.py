"""The uploader brings the newest ready build of each image to each provider that lists it.

Which crash leaves what, step by step:
    after the claim                     nothing: the lock dies with the session
    after the record, before `create`   `uploading` without external_id: the janitor looks for an
                                        image with our properties, finds none, records the failure
    after `create`                      `uploading`, and an image that carries the upload's name in
                                        its properties: the janitor deletes it, by id or by property
    after the last byte                 the same: a `ready` that was never verified is not trusted
"""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime

from builder.cloud import transfer
from builder.config.model import Config, Provider
from builder.dib.output import artifacts
from builder.errors import ImagepoolError
from builder.model import (
    Artifact,
    Build,
    Failure,
    FailureClass,
    Snapshot,
    Upload,
    UploadPhase,
    UploadState,
)
from builder.planning.actions import UploadDecision, Verdict
from builder.planning.uploads import claimable, decide_upload, decide_uploads
from builder.store.base import Claim
from builder.workers.base import Pass, Worker, World, blame, earliest, unforeseen
from builder.workers.progress import UploadProgress
from builder.workers.settle import Settler

LOG = logging.getLogger(__name__)


class Uploader(Worker):
    """Does one upload per pass; as many threads as `upload-workers` share the work by claims."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self._settler = Settler(world.store, world.stopping)

    def act(self, config: Config, snapshot: Snapshot, now: datetime) -> Pass:
        """Take the first due upload whose provider this process is not busy with."""
        decisions = decide_uploads(config, snapshot, now)
        for decision in claimable(decisions, self.world.identity.builder_id):
            # One upload per provider at a time: a slow region holds one thread, not all of them.
            with self.world.active.hold(f"provider {decision.provider}") as free:
                if free and self._take(config, decision, snapshot):
                    return Pass(did=True)
        return Pass(due=earliest(d.due for d in decisions if d.verdict is Verdict.LATER))

    def _take(self, config: Config, decision: UploadDecision, snapshot: Snapshot) -> bool:
        store, build = self.world.store, decision.build
        assert build is not None  # `claimable` only lets decisions through that name their build
        claim = store.claim_uploads(decision.image, build.id, decision.provider)
        if claim is None:
            return False
        with claim:
            again = self._decide_again(config, decision, build, snapshot)
            if again.verdict is not Verdict.NOW or again.build is None or again.build.id != build.id:
                return False
            self._upload(config, config.providers[decision.provider], again.build, claim)
            return True

    def _decide_again(
        self, config: Config, decision: UploadDecision, build: Build, snapshot: Snapshot
    ) -> UploadDecision:
        """The decision on what is true under the claim."""
        store, provider = self.world.store, config.providers[decision.provider]
        records = snapshot.image(decision.image)
        pair = (build.id, provider.name)
        others = tuple(u for u in records.uploads if (u.build_id, u.provider) != pair)
        fresh = replace(
            records,
            builds=store.list_builds(decision.image),
            uploads=store.list_uploads(decision.image, *pair) + others,
            uploads_claimed=records.uploads_claimed - {pair},
        )
        image = config.diskimages[decision.image]
        return decide_upload(image, provider, fresh, config, self.world.clock())

    def _upload(self, config: Config, provider: Provider, build: Build, claim: Claim) -> None:
        world = self.world
        artifact = build.artifact(provider.image_format)
        assert artifact is not None  # decide_upload never says NOW without one
        record = world.store.create_upload(self._new_record(provider, build, artifact))
        with world.active.hold(record.name):
            progress = UploadProgress(record, world.store.update_upload, world.clock)
            final = self._run(config, provider, build, artifact, progress)
            self._settler.finish_upload(final, claim)

    def _new_record(self, provider: Provider, build: Build, artifact: Artifact) -> Upload:
        now = self.world.clock()
        return Upload(
            id="",
            build_id=build.id,
            image=build.image,
            provider=provider.name,
            state=UploadState.UPLOADING,
            state_time=now,
            format=artifact.format,
            username=build.username,
            python_path=build.python_path,
            shell_type=build.shell_type,
            region=provider.region,
            uploader=self.world.identity.hostname,
            uploader_id=self.world.identity.builder_id,
            phase=UploadPhase.CREATE,
            started=now,
            size=artifact.size,
        )

    def _run(
        self, config: Config, provider: Provider, build: Build, artifact: Artifact, progress: UploadProgress
    ) -> Upload:
        """Run the upload to its end; the last word on its record, whatever happens."""
        name = progress.record.name
        try:
            self._send(config, provider, build, artifact, progress)
        except transfer.TransferError as error:
            if not error.image_left:
                progress.record = replace(progress.record, external_id=None, external_name=None)
            return self._failed(progress, error.cause)
        except ImagepoolError as error:
            return self._failed(progress, _translated(error, progress.record.phase))
        except Exception as error:
            # A bug: the record must say so all the same, or nobody ever learns.
            LOG.exception("upload %s broke", name)
            return self._failed(progress, unforeseen(error, progress.record.phase))
        now = self.world.clock()
        LOG.info("upload %s of %s is ready", name, build.image)
        self.done += 1
        return progress.timed().become(UploadState.READY, now, ended=now, phase=None, sent=artifact.size)

    def _send(
        self, config: Config, provider: Provider, build: Build, artifact: Artifact, progress: UploadProgress
    ) -> None:
        world, record = self.world, progress.record
        image = transfer.new_image(
            config.diskimages[build.image],
            provider,
            record,
            artifact,
            installation_id=world.identity.installation_id,
            now=world.clock(),
        )
        LOG.info("upload %s of %s: %d bytes as %s", record.name, build.image, artifact.size, image.name)
        progress.named(image.name)
        transfer.upload(
            world.cloud(provider),
            image,
            artifacts.path(config.images_dir, build.image, build.id, artifact.format),
            artifact,
            on_created=progress.created,
            on_phase=progress.phase,
            on_progress=progress.sent,
            timeout=provider.upload_timeout.total_seconds(),
            stall_timeout=config.stall_timeout.total_seconds(),
            cancelled=world.stopping,
        )

    def _failed(self, progress: UploadProgress, failure: Failure) -> Upload:
        self.failures += 1
        failure = blame(failure, self.world.stopping)
        now = self.world.clock()
        record = progress.timed()
        LOG.error("upload %s of %s failed: %s", record.name, record.image, failure.summary)
        return record.become(UploadState.FAILED, now, ended=now, reason=failure)


def _translated(error: ImagepoolError, phase: str | None) -> Failure:
    failure_class = getattr(error, "failure_class", FailureClass.UNKNOWN)
    return Failure(failure_class=failure_class, message=error.message, phase=phase)
