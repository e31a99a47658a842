"""Brings one artifact into one cloud and takes it out again, believing nothing it has not seen.

An upload goes through the phases create, send, wait and verify:

    create   the record is made with all its properties, and `on_created` told before a byte moves
    send     one PUT, in a thread of its own, so that a cloud which hangs can be left at once
    wait     until Glance says `active`; what can't become active any more fails at once
    verify   size, hash by Glance's own algorithm, properties and visibility are compared with ours

What fails in any of them is deleted from the cloud before the failure is reported.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final

from builder.cloud import ownership
from builder.cloud.base import Cloud, CloudImage, GlanceStatus, NewImage
from builder.config.model import DiskImage, Provider
from builder.errors import ActionFailedError, CloudError, CloudUnavailableError, RefusedError
from builder.model import Artifact, Failure, FailureClass, Upload, UploadPhase

LOG = logging.getLogger(__name__)

GIB: Final = 1024**3
#: Seconds between two looks at the bytes sent, the deadline and the wish to stop.
TICK: Final = 0.2
#: Seconds between two questions whether the image is active: the first, and the longest.
POLL_FIRST: Final = 0.5
POLL_LONGEST: Final = 15.0
#: Seconds an image may still be called `queued` after its bytes were taken (a replica that lags).
QUEUED_GRACE: Final = 10.0
#: Tries to delete what a failed upload left, and seconds before the second of them.
DISCARD_TRIES: Final = 3
DISCARD_PAUSE: Final = 1.0

_CloudFailure = (CloudError, CloudUnavailableError)


class TransferError(ActionFailedError):
    """An upload failed; `image_left` says whether an image of it may be left in the cloud."""

    def __init__(self, failure: Failure, *, image_left: bool) -> None:
        super().__init__(failure.message, failure)
        self.cause = failure
        self.image_left = image_left


def new_image(
    diskimage: DiskImage,
    provider: Provider,
    upload: Upload,
    artifact: Artifact,
    *,
    installation_id: str,
    now: datetime,
) -> NewImage:
    """What an upload creates in its cloud; ConfigError when the provider's name format is broken."""
    name = ownership.image_name(provider, upload, now)
    listed = provider.images.get(diskimage.name)
    return NewImage(
        name=name,
        disk_format=artifact.format,
        size=artifact.size,
        min_disk=math.ceil(artifact.virtual_size / GIB),
        properties=ownership.properties(
            metadata=diskimage.metadata,
            meta=listed.metadata if listed else {},
            upload=upload,
            artifact=artifact,
            name=name,
            installation_id=installation_id,
        ),
    )


def upload(
    cloud: Cloud,
    image: NewImage,
    path: Path,
    artifact: Artifact,
    *,
    on_created: Callable[[CloudImage], None],
    on_phase: Callable[[UploadPhase], None],
    on_progress: Callable[[int], None],
    timeout: float,
    stall_timeout: float,
    cancelled: threading.Event,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], object] | None = None,
) -> CloudImage:
    """Upload the file at `path`, which is `artifact`, as `image`; returns the verified cloud image.

    All callbacks come in the calling thread: `on_created` with the empty image before the first
    byte, `on_progress` with all bytes sent so far; what they raise ends the upload and is raised.
    `timeout`: seconds for everything; `stall_timeout`: seconds without a byte or an answer.
    `clock` (seconds) and `wait` (by default until `cancelled` is set) are there for tests.

    TransferError, with a Failure that names phase and class, when there is no such image in the
    end; it says so if one stays behind all the same.
    """
    return _Upload(
        cloud=cloud,
        image=image,
        path=path,
        artifact=artifact,
        on_created=on_created,
        on_phase=on_phase,
        on_progress=on_progress,
        timeout=timeout,
        stall_timeout=stall_timeout,
        cancelled=cancelled,
        clock=clock,
        wait=wait or cancelled.wait,
    ).run()


def remove(cloud: Cloud, upload: Upload, *, installation_id: str) -> str:
    """Delete what an upload has in its cloud; returns one sentence on what was done.

    Without an `external_id` (a crash between create and record), images that carry the upload's
    properties are looked for. RefusedError when the image on record is not provably ours, and
    what the cloud raises.
    """
    if upload.external_id is None:
        return _remove_found(cloud, upload, installation_id)
    image = cloud.get(upload.external_id)
    if image is None:
        return f"image {upload.external_id} was gone already"
    doubt = ownership.why_not_ours(image, upload, installation_id)
    if doubt:
        raise RefusedError(
            f"image {image.id} ({image.name}) in {upload.provider} is not provably of upload"
            f" {upload.name}: {doubt}",
            hint="Look at it; if it may go, delete it in the cloud by hand.",
        )
    cloud.delete(image.id)
    return f"image {image.id} ({image.name}) is deleted"


def _remove_found(cloud: Cloud, upload: Upload, installation_id: str) -> str:
    done = []
    for image in list(cloud.find(ownership.marks(upload, installation_id))):
        doubt = ownership.why_not_ours(image, upload, installation_id)
        if doubt:
            done.append(f"image {image.id} ({image.name}) is left alone: {doubt}")
        else:
            cloud.delete(image.id)
            done.append(f"image {image.id} ({image.name}) is deleted")
    return "; ".join(done) or "it had no image in the cloud"


class _StoppedError(Exception):
    """The sending thread learns that nobody wants its bytes any more."""


class _Body:
    """The file as Cloud.send reads it: counts what was read, and can be stopped from outside."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._size = size
        self._stopped = threading.Event()
        self.sent = 0

    def __len__(self) -> int:
        return self._size

    def stop(self) -> None:
        """Let the next `read` raise."""
        self._stopped.set()

    def read(self, amount: int = -1, /) -> bytes:
        if self._stopped.is_set():
            raise _StoppedError
        left = self._size - self.sent
        chunk = self._stream.read(left if amount < 0 else min(amount, left))
        if not chunk and left and amount:
            raise EOFError(f"the file ended after {self.sent} bytes, {self._size} are on record")
        self.sent += len(chunk)
        return chunk


@dataclass(kw_only=True)
class _Upload:
    """One upload under way; the arguments of `upload`, and how far it has come."""

    cloud: Cloud
    image: NewImage
    path: Path
    artifact: Artifact
    on_created: Callable[[CloudImage], None]
    on_phase: Callable[[UploadPhase], None]
    on_progress: Callable[[int], None]
    timeout: float
    stall_timeout: float
    cancelled: threading.Event
    clock: Callable[[], float]
    wait: Callable[[float], object]

    deadline: float = field(init=False)  #: by `clock`
    phase: UploadPhase = field(init=False, default=UploadPhase.CREATE)
    sent: int = field(init=False, default=0)
    image_left: bool = field(init=False, default=False)  #: something could not be deleted, or not be found

    def __post_init__(self) -> None:
        self.deadline = self.clock() + self.timeout

    def run(self) -> CloudImage:
        """Through all phases."""
        self._enter(UploadPhase.CREATE)
        self._check_file()
        image_id = self._create()
        with self._discarding(image_id):
            self._enter(UploadPhase.SEND)
            self._send(image_id)
            self._enter(UploadPhase.WAIT)
            image = self._wait_for_active(image_id)
            self._enter(UploadPhase.VERIFY)
            self._verify(image)
            return image

    def _enter(self, phase: UploadPhase) -> None:
        self.phase = phase
        self.on_phase(phase)
        self._check_time()

    def _check_time(self) -> None:
        """Raise when there is no time left, or somebody wants us to stop."""
        if self.cancelled.is_set():
            raise self._failure(FailureClass.CANCELLED, "it was stopped")
        if self.clock() >= self.deadline:
            sent = f"{self.sent} of {self.artifact.size} bytes were sent"
            raise self._failure(FailureClass.TIMEOUT, f"it was not done after {self.timeout:.0f} s; {sent}")

    def _failure(self, failure_class: FailureClass, message: str) -> TransferError:
        failure = Failure(failure_class=failure_class, message=message, phase=str(self.phase))
        return TransferError(failure, image_left=self.image_left)

    # -- create -------------------------------------------------------------------------------

    def _check_file(self) -> None:
        try:
            size = self.path.stat().st_size
        except OSError as error:
            raise self._failure(FailureClass.DISK, f"{self.path}: {error.strerror}") from error
        if size != self.artifact.size:
            raise self._failure(
                FailureClass.DISK,
                f"{self.path} has {size} bytes, {self.artifact.size} are on record",
            )

    def _create(self) -> str:
        try:
            image = self.cloud.create(self.image)
        except CloudUnavailableError as error:
            # It may have been made all the same: only the answer is missing.
            raise self._failure(error.failure_class, error.message + self._discard_unseen()) from error
        except CloudError as error:
            raise self._failure(error.failure_class, error.message) from error
        with self._discarding(image.id):
            self.on_created(image)
        return image.id

    def _discard_unseen(self) -> str:
        """Delete what a `create` without an answer may have made; what could not be done, as text."""
        wanted = {k: v for k, v in self.image.properties.items() if k.startswith("imagepool_")}
        try:
            found = [i.id for i in self.cloud.find(wanted) if i.name == self.image.name]
        except _CloudFailure as error:
            self.image_left = True
            return f"; whether an image stays behind can't be said: {error.message}"
        return "".join(self._discard(image_id) for image_id in found)

    @contextmanager
    def _discarding(self, image_id: str) -> Iterator[None]:
        """Delete the image when the block fails, and report failures of the cloud as the upload's."""
        try:
            yield
        except TransferError as error:
            left = self._discard(image_id)
            if not left:
                raise
            raise self._failure(error.cause.failure_class, error.cause.message + left) from error
        except _CloudFailure as error:
            message = error.message + self._discard(image_id)
            raise self._failure(error.failure_class, message) from error
        except BaseException:
            left = self._discard(image_id)
            if left:
                LOG.error("an upload was broken off%s", left)
            raise

    def _discard(self, image_id: str) -> str:
        """Delete an image of ours that failed; what could not be done, as text to append."""
        pause = DISCARD_PAUSE
        for attempt in range(1, DISCARD_TRIES + 1):
            try:
                self.cloud.delete(image_id)
            except _CloudFailure as error:
                # A cloud that hangs would make three long waits of it.
                if attempt == DISCARD_TRIES or error.failure_class is FailureClass.TIMEOUT:
                    self.image_left = True
                    return f"; image {image_id} stays behind, it could not be deleted: {error.message}"
                self.wait(pause)
                pause *= 2
            else:
                break
        return ""

    def _open(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise self._failure(FailureClass.DISK, f"{self.path}: {error.strerror}") from error

    # -- send ---------------------------------------------------------------------------------

    def _send(self, image_id: str) -> None:
        with self._open() as stream:
            body = _Body(stream, self.artifact.size)
            sending = self._start_sending(image_id, body)
            try:
                self._watch(sending, body)
            finally:
                body.stop()
        self._take_result(sending)

    def _start_sending(self, image_id: str, body: _Body) -> futures.Future[None]:
        """The PUT in a thread of its own, which is left behind when the cloud hangs: it ends by the
        stall timeout, and keeps nobody from going on or from exiting."""
        sending: futures.Future[None] = futures.Future()

        def send() -> None:
            try:
                self.cloud.send(image_id, body, timeout=self.stall_timeout)
            except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
                sending.set_exception(error)
            else:
                sending.set_result(None)

        threading.Thread(target=send, name=f"send-{image_id}", daemon=True).start()
        return sending

    def _watch(self, sending: futures.Future[None], body: _Body) -> None:
        """Wait for the end of the PUT, tell of progress, and mind the time."""
        while True:
            ended = futures.wait([sending], timeout=TICK).done
            if body.sent != self.sent:
                self.sent = body.sent
                self.on_progress(self.sent)
            if ended:
                return
            self._check_time()

    def _take_result(self, sending: futures.Future[None]) -> None:
        try:
            sending.result()
        except (OSError, EOFError) as error:
            reason = getattr(error, "strerror", None) or error
            raise self._failure(FailureClass.DISK, f"{self.path}: {reason}") from error
        if self.sent != self.artifact.size:
            # Whoever answers before it has all of it can't have stored it.
            raise self._failure(
                FailureClass.CLOUD,
                f"the cloud took {self.sent} bytes for the whole image, {self.artifact.size} are on record",
            )

    # -- wait ---------------------------------------------------------------------------------

    def _wait_for_active(self, image_id: str) -> CloudImage:
        began = answered = self.clock()
        pause = POLL_FIRST
        while True:
            try:
                image = self.cloud.get(image_id)
                answered = self.clock()
            except CloudUnavailableError:
                if self.clock() - answered >= self.stall_timeout:
                    raise
            else:
                active = self._judge(image, self.clock() - began)
                if active:
                    return active
            self._check_time()
            self.wait(min(pause, max(0.0, self.deadline - self.clock())))
            self._check_time()
            pause = min(pause * 2, POLL_LONGEST)

    def _judge(self, image: CloudImage | None, waited: float) -> CloudImage | None:
        """The image when it is active, None when it may become so; raises when it can't."""
        if image is None:
            raise self._failure(FailureClass.CLOUD, "the image is gone: somebody deleted it")
        if image.status is GlanceStatus.ACTIVE:
            return image
        if not image.status.is_moving:
            raise self._failure(FailureClass.CLOUD, f"the cloud says the image is {image.status}, not active")
        if image.status is GlanceStatus.QUEUED and waited >= QUEUED_GRACE:
            raise self._failure(
                FailureClass.CLOUD,
                f"the cloud took the bytes, but stored nothing: the image is still {image.status}",
            )
        return None

    # -- verify -------------------------------------------------------------------------------

    def _verify(self, image: CloudImage) -> None:
        wrong = [*self._wrong_content(image), *self._wrong_description(image)]
        if wrong:
            message = "what the cloud stored is not what was sent: " + "; ".join(wrong)
            raise self._failure(FailureClass.CLOUD, message)

    def _wrong_content(self, image: CloudImage) -> Iterator[str]:
        if image.size != self.artifact.size:
            yield f"size {image.size}, not {self.artifact.size}"
        if image.hash_algorithm and image.hash_value:
            yield from self._wrong_hash(image.hash_algorithm, image.hash_value)
        elif image.checksum:
            yield from self._wrong_hash("md5", image.checksum)
        else:
            yield "the cloud gives no hash, so it can't be verified"

    def _wrong_hash(self, algorithm: str, theirs: str) -> Iterator[str]:
        ours = self.artifact.digest(algorithm) or self._digest(algorithm)
        if ours is None:
            yield f"the cloud's hash is {algorithm!r}, which this Python can't compute: it can't be verified"
        elif ours.lower() != theirs.lower():
            yield f"{algorithm} {theirs}, not {ours}"

    def _digest(self, algorithm: str) -> str | None:
        """The file's hash by an algorithm that is not on record."""
        try:
            state = hashlib.new(algorithm, usedforsecurity=False)
        except ValueError:
            return None
        if not state.digest_size:  # a SHAKE has any length
            return None
        with self._open() as stream:
            while chunk := stream.read(1024 * 1024):
                state.update(chunk)
                self._check_time()
        return state.hexdigest()

    def _wrong_description(self, image: CloudImage) -> Iterator[str]:
        if image.visibility != self.image.visibility:
            yield f"visibility {image.visibility!r}, not {self.image.visibility!r}"
        for name, value in self.image.properties.items():
            if image.properties.get(name) != str(value):
                yield f"property {name} {image.properties.get(name)!r}, not {value!r}"
