"""Runs one upload under its claim, and keeps its record true from the first word to the last.

Which crash leaves what, step by step:
    after the record, before `create`   `uploading` without external_id: the janitor looks for an
                                        image with our properties, finds none, records the failure
    after `create`                      `uploading`, and an image that carries the upload's name in
                                        its properties: the janitor deletes it, by id or by property
    between two of several images       the same: each part carries that name, too
    after the last byte                 the same: a `ready` that was never written is not trusted,
                                        whether the image was verified, held or with the hook
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, TypeVar, cast

from builder.bounded import at_once
from builder.cloud import transfer
from builder.cloud.base import Cloud, NewImage
from builder.cloudimage import CloudImage, GlanceStatus
from builder.config.model import Config, Provider
from builder.dib.output import artifacts
from builder.errors import (
    ActionFailedError,
    CloudError,
    CloudUnavailableError,
    ConfigError,
    ConflictError,
    ImagepoolError,
    NotFoundError,
    StoreUnavailableError,
    ToolMissingError,
)
from builder.model import Artifact, Build, BuildState, Failure, FailureClass, Upload, UploadPhase, UploadState
from builder.planning import ways
from builder.store.base import Claim
from builder.ways import AUTO, Capabilities, Choice, Way
from builder.workers import hook
from builder.workers.base import World, unforeseen
from builder.workers.files import CheckedFiles
from builder.workers.progress import UploadProgress
from builder.workers.settle import Ending, Settler
from builder.workers.stopping import UploadStop, severity

LOG = logging.getLogger(__name__)
Answer = TypeVar("Answer")

#: Longest wait for a cloud to delete what failed, in seconds; what is left then is the janitor's.
DISCARD_LIMIT: Final = 10.0
#: Longest wait between two looks at the build that a held upload waits for, and at the wish to stop.
HOLD_PAUSE: Final = 1.0

#: When a provider can't even be asked what it can do for such a reason, it can't take an image either.
_HOPELESS: Final = frozenset({FailureClass.AUTH, FailureClass.NETWORK, FailureClass.CONFIG})

#: What an error of ours, without a class of its own, means for an upload.
_CLASSES: Final = (
    (ConfigError, FailureClass.CONFIG),
    (ToolMissingError, FailureClass.TOOL),
    (StoreUnavailableError, FailureClass.INTERRUPTED),
    (ConflictError, FailureClass.INTERRUPTED),
    (NotFoundError, FailureClass.INTERRUPTED),
)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What goes where, as decided under the claim of the pair."""

    config: Config
    provider: Provider
    build: Build
    artifact: Artifact
    claim: Claim
    files: CheckedFiles
    parts: tuple[Artifact, ...] = ()  #: of the artifact's format; each becomes an image before it

    def path(self, artifact: Artifact) -> Path:
        """Where a file of the build is."""
        return artifacts.path(self.config.images_dir, self.build.image, self.build.id, artifact.format)


def upload(world: World, settler: Settler, task: Task, on_moved: Callable[[], None]) -> Upload:
    """Upload, and write how it ended; the last word, whether or not it could be written.

    `on_moved` is called whenever bytes have moved.
    """
    record = world.store.create_upload(_new_record(world, task))
    with world.active.hold(record.name):
        progress = UploadProgress(record, world.store, world.clock, on_moved)
        run = _Run(world, task, progress)
        final = run.run()
        ending = settler.finish_upload(final, task.claim, partial(run.recheck, final))
        if ending is Ending.OVERRULED and final.state is UploadState.READY:
            _take_back(world, task, final)
        _forget_cancellation(world, final)
    return final


def _new_record(world: World, task: Task) -> Upload:
    now, build, provider = world.clock(), task.build, task.provider
    return Upload(
        id="",
        build_id=build.id,
        image=build.image,
        provider=provider.name,
        state=UploadState.UPLOADING,
        state_time=now,
        format=task.artifact.format,
        username=build.username,
        python_path=build.python_path,
        shell_type=build.shell_type,
        cloud=provider.cloud,
        region=provider.region,
        uploader=world.identity.hostname,
        uploader_id=world.identity.builder_id,
        phase=UploadPhase.PREFLIGHT,
        started=now,
        size=task.artifact.size + sum(part.size for part in task.parts),
    )


def _take_back(world: World, task: Task, final: Upload) -> None:
    """Delete a good image that came too late: its record says otherwise by now, so nobody would find it."""
    try:
        said = transfer.remove(
            world.cloud(task.provider), final, installation_id=world.identity.installation_id
        )
        LOG.warning("upload %s came too late: %s", final.name, said)
    except ImagepoolError as error:
        LOG.warning("upload %s came too late, and its image stays for now: %s", final.name, error.message)


def _forget_cancellation(world: World, upload: Upload) -> None:
    """Take away the wish that the upload ends, now that it has; the janitor does it if we can't."""
    try:
        world.store.withdraw_upload_cancellation(upload.image, upload.name)
    except StoreUnavailableError as error:
        LOG.info("the wish to cancel upload %s stays for now: %s", upload.name, error.message)


def _without_image(record: Upload) -> Upload:
    """The record when nothing of it is in the cloud any more."""
    return replace(record, external_id=None, external_name=None, parts={})


class _Run:
    """One upload under way."""

    def __init__(self, world: World, task: Task, progress: UploadProgress) -> None:
        self._world = world
        self._task = task
        self._progress = progress
        self._stop = UploadStop(world, progress.timed)
        self._file = task.path(task.artifact)

    def run(self) -> Upload:
        """Through all phases; the last word on the record, whatever happens."""
        try:
            self._send()
        except transfer.TransferError as error:
            if not error.image_left:
                self._forget_image()
            return self._failed(error.cause)
        except ImagepoolError as error:
            return self._failed(_translated(error))
        except Exception as error:
            # A bug: the record must say so all the same, or nobody ever learns.
            LOG.exception("upload %s broke", self._record.name)
            return self._failed(unforeseen(error, self._record.phase))
        now = self._world.clock()
        LOG.info("upload %s of %s is ready", self._record.name, self._record.image)
        return self._progress.timed().become(UploadState.READY, now, ended=now, phase=None)

    def recheck(self, final: Upload) -> Upload:
        """The last word again, after others had reason to take us for dead: whoever began to clean up after
        us may have deleted the image, and died before that was on record. Raises as the cloud does."""
        if final.state is not UploadState.READY or final.external_id is None:
            return final
        cloud = self._world.cloud(self._task.provider)
        images = [self._ask(partial(cloud.get, image_id)) for image_id in final.external_ids]
        if all(image is not None and image.status is GlanceStatus.ACTIVE for image in images):
            return final
        message = "the session with ZooKeeper was lost, and when it was back the image was gone"
        LOG.warning("upload %s: %s", final.name, message)
        failure = Failure(failure_class=FailureClass.INTERRUPTED, message=message, phase=UploadPhase.VERIFY)
        failed = replace(final, state=UploadState.FAILED, reason=failure)
        # Of several, some may be left: then the record keeps all names, and the janitor sees to them.
        return failed if any(images) else _without_image(failed)

    @property
    def _record(self) -> Upload:
        return self._progress.record

    def _forget_image(self) -> None:
        self._progress.record = _without_image(replace(self._record, task=None))

    def _failed(self, failure: Failure) -> Upload:
        now, record = self._world.clock(), self._progress.timed()
        failure = replace(failure, phase=failure.phase or record.phase)
        LOG.log(severity(failure), "upload %s of %s failed: %s", record.name, record.image, failure.summary)
        return record.become(UploadState.FAILED, now, ended=now, reason=failure)

    def _send(self) -> None:
        """From the first look at the file to an image that may be called ready."""
        task, world = self._task, self._world
        for artifact in (task.artifact, *task.parts):
            task.files.check(task.path(artifact), artifact)
        if task.provider.post_upload_hook is not None:
            hook.check(task.provider.post_upload_hook)
        cloud, capabilities = world.cloud(task.provider), self._capabilities()
        with ExitStack() as offered:
            # Of each file, and of the artifact first.
            urls = [
                offered.enter_context(self._url(capabilities, task.path(each)))
                for each in (task.artifact, *task.parts)
            ]
            order = self._order(self._choices(capabilities, urls[0]), urls)
            self._progress.named(order.image.name)
            image = transfer.upload(cloud, order, self._progress, self._look)
        with self._discarding(cloud):
            if self._hold(cloud) | self._hook(image):
                self._check_still_there(cloud)

    def _look(self) -> Failure | None:
        """Why it shall stop, None to go on; asked several times a second, whatever it waits for."""
        self._progress.look()
        return self._stop()

    def _check_stop(self) -> None:
        if (failure := self._look()) is not None:
            raise ActionFailedError(failure.message, failure)

    def _ask(self, call: Callable[[], Answer]) -> Answer:
        """What a call returns; when it hangs, it is left behind as soon as the upload shall stop."""
        # Without a limit of time there is always an answer.
        return cast(Answer, at_once([call], seconds=math.inf, on_look=self._check_stop)[0])

    # -- preflight ----------------------------------------------------------------------------

    def _capabilities(self) -> Capabilities:
        """What the provider can do; nothing special, when all we know is that it would not say."""
        provider = self._task.provider
        try:
            return self._ask(lambda: self._world.capabilities(provider))
        except (CloudError, CloudUnavailableError) as error:
            if error.failure_class in _HOPELESS:
                raise
            LOG.warning(
                "%s does not say what it can do, so it gets the bytes: %s", provider.name, error.message
            )
            return Capabilities(checked=self._world.clock())

    @contextmanager
    def _url(self, capabilities: Capabilities, file: Path) -> Iterator[str | None]:
        """Where the cloud can fetch a file while the block runs; None when it can't or shall not."""
        provider, offers = self._task.provider, self._world.offers
        if provider.download_url:
            yield provider.download_url + file.name
            return
        wanted = provider.upload_method in (AUTO, Way.WEB_DOWNLOAD)
        if offers is None or not wanted or Way.WEB_DOWNLOAD not in capabilities.import_methods:
            yield None
            return
        try:
            url = offers.offer(file)
        except ImagepoolError as error:
            LOG.warning("%s gets the bytes from us: %s", provider.name, error.message)
            yield None
            return
        try:
            yield url
        finally:
            offers.withdraw(url)

    def _choices(self, capabilities: Capabilities, url: str | None) -> tuple[Choice, ...]:
        choices = ways.choose(self._task.provider, capabilities, self._task.artifact, url=url)
        # What only could be adopted, if it were there, does not count as a way.
        only_adopt = self._task.provider.upload_method == Way.ADOPT
        if any(choice.usable and (only_adopt or choice.way is not Way.ADOPT) for choice in choices):
            return choices
        why = "; ".join(f"{choice.way}: {choice.reason}" for choice in choices)
        message = f"there is no way for the image into {self._task.provider.name}: {why}"
        raise ActionFailedError(message, Failure(failure_class=FailureClass.CONFIG, message=message))

    def _order(self, choices: tuple[Choice, ...], urls: Sequence[str | None]) -> transfer.Order:
        task, world = self._task, self._world
        image = transfer.new_image(
            task.config.diskimages[task.build.image],
            task.provider,
            self._record,
            task.artifact,
            build=task.build,
            installation_id=world.identity.installation_id,
            now=world.clock(),
        )
        LOG.info(
            "upload %s of %s: %d bytes as %s",
            self._record.name,
            self._record.image,
            self._record.size,
            image.name,
        )
        return transfer.Order(
            image=image,
            path=self._file,
            artifact=task.artifact,
            parts=tuple(map(partial(self._part, image), task.parts, urls[1:])),
            upload=self._record,
            installation_id=world.identity.installation_id,
            choices=choices,
            url=urls[0],
            members=task.provider.images[task.build.image].sharing.members,
            owned=self._owned(),
            timeout=task.provider.upload_timeout.total_seconds(),
            stall_timeout=task.config.stall_timeout.total_seconds(),
            limiter=world.limiter.of(task.provider),
        )

    def _part(self, whole: NewImage, artifact: Artifact, url: str | None) -> transfer.Part:
        task, installation_id = self._task, self._world.identity.installation_id
        image = transfer.new_part(
            whole, artifact, self._record, build=task.build, installation_id=installation_id
        )
        return transfer.Part(image=image, path=task.path(artifact), artifact=artifact, url=url)

    def _owned(self) -> frozenset[str]:
        """What other uploads of the image have, or may have: what an upload may adopt is of its own build.
        One that has just ended may not be seen yet."""
        store, mine = self._world.store, self._record
        fresh = store.list_uploads(mine.image, mine.build_id, mine.provider)
        known = store.snapshot().image(mine.image)
        others = [upload for upload in (*known.uploads, *fresh) if upload.name != mine.name]
        ids = {image_id for upload in others for image_id in upload.external_ids}
        return frozenset(ids | {upload.name for upload in others})

    # -- once it is there ---------------------------------------------------------------------

    @contextmanager
    def _discarding(self, cloud: Cloud) -> Iterator[None]:
        """Delete the image when the block fails: it is whole, but nobody may use it."""
        try:
            yield
        except ImagepoolError as error:
            failure = _translated(error)
            self._progress.record = replace(
                self._record, hook_output=self._record.hook_output or failure.lines
            )
            left = self._discard(cloud)
            failure = replace(failure, message=failure.message + left)
            raise transfer.TransferError(failure, image_left=bool(left)) from error

    def _discard(self, cloud: Cloud) -> str:
        """Delete it; what could not be done, as text to append."""
        record, installation_id = self._record, self._world.identity.installation_id
        said = at_once([lambda: transfer.discard(cloud, record, installation_id)], seconds=DISCARD_LIMIT)[0]
        if said is None:
            said = f"image {record.external_id} stays behind, the cloud gave no answer in time"
        return f"; {said}" if said else ""

    def _hold(self, cloud: Cloud) -> bool:
        """Wait for the build to be ready; whether there was anything to wait for."""
        task, store, seen = self._task, self._world.store, -1
        if task.build.state is BuildState.READY:
            return False
        while (build := self._ready_build()) is None:
            self._progress.phase(UploadPhase.HOLD)
            self._check_stop()
            seen = store.wait(seen, HOLD_PAUSE)
        # By now more is known of it than when the image was made.
        record, installation_id = self._record, self._world.identity.installation_id
        self._ask(lambda: transfer.add_build_facts(cloud, record, build, installation_id=installation_id))
        return True

    def _ready_build(self) -> Build | None:
        """The build, None as long as it is not ready; ActionFailedError when it never will be."""
        store, build = self._world.store, self._task.build
        seen = store.snapshot().image(build.image).build(build.id)
        if seen is not None and seen.state is BuildState.BUILDING:
            return None
        try:
            build = store.get_build(build.image, build.id)
        except StoreUnavailableError:
            return None
        except NotFoundError as error:
            if not self._world.at_home(store.snapshot()):
                return None
            raise self._without_build("its build is gone") from error
        if build.state is BuildState.FAILED:
            why = build.reason.message if build.reason else "nobody said why"
            raise self._without_build(f"its build failed: {why}")
        if build.state is BuildState.DELETING:
            raise self._without_build("its build is to go")
        return build if build.state is BuildState.READY else None

    def _without_build(self, message: str) -> ActionFailedError:
        failure = Failure(failure_class=FailureClass.INTERRUPTED, message=message, phase=self._record.phase)
        return ActionFailedError(message, failure)

    def _hook(self, image: CloudImage) -> bool:
        """Let the provider's hook judge the image; whether there is one."""
        task = self._task
        if task.provider.post_upload_hook is None:
            return False
        self._progress.phase(UploadPhase.HOOK)
        output = hook.run(
            task.provider.post_upload_hook,
            (task.provider.name, image.id, str(self._file)),
            cwd=task.config.state_dir,
            timeout=task.provider.hook_timeout.total_seconds(),
            stop=self._look,
        )
        self._progress.record = replace(self._record, hook_output=output)
        return True

    def _check_still_there(self, cloud: Cloud) -> None:
        """Time has passed since it was verified."""
        for image_id in self._record.external_ids:
            image = self._ask(partial(cloud.get, image_id))
            if image is None or image.status is not GlanceStatus.ACTIVE:
                now = "gone" if image is None else f"{image.status}"
                message = f"the image {image_id} was verified, but by the end it is {now}"
                raise CloudError(message, failure_class=FailureClass.CLOUD)


def _translated(error: ImagepoolError) -> Failure:
    """What a record says of an error; of one that knows its Failure, just that."""
    known = getattr(error, "failure", None)
    if isinstance(known, Failure):
        return known
    other = next((each for kind, each in _CLASSES if isinstance(error, kind)), FailureClass.UNKNOWN)
    return Failure(failure_class=getattr(error, "failure_class", other), message=error.message)
