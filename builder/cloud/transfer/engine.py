"""Goes the ways into a cloud one after the other, until one leads to a verified image."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Final

from builder.cloud.base import Cloud
from builder.cloud.transfer import adoption, making, preflight, tasks
from builder.cloud.transfer.discarding import cleaning, discard, discarding
from builder.cloud.transfer.order import Listener, Order, TransferError
from builder.cloud.transfer.run import CLOUD_FAILURES, Run
from builder.cloudimage import CloudImage, GlanceStatus
from builder.model import Failure, FailureClass, UploadPhase
from builder.ways import Quota, Way

LOG = logging.getLogger(__name__)

_MAKERS: Final[Mapping[Way, Callable[[Run], CloudImage]]] = {
    Way.PUT: making.put,
    Way.GLANCE_DIRECT: making.stage_and_import,
    Way.WEB_DOWNLOAD: making.let_download,
    Way.TASKS: tasks.send_and_import,
}
#: What another way into the same cloud may not share. Of these, those before a byte moved are not meant:
#: a cloud where no image can be created takes none by any way.
_MENDABLE: Final = frozenset({FailureClass.CLOUD, FailureClass.NETWORK, FailureClass.TIMEOUT})
_ON_THE_WAY: Final = frozenset({UploadPhase.SEND, UploadPhase.WAIT, UploadPhase.VERIFY})


def upload(
    cloud: Cloud,
    order: Order,
    listener: Listener,
    stop: Callable[[], Failure | None],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> CloudImage:
    """Bring the order's file, and before it its parts, into the cloud; returns the verified, active image.

    `stop` is asked several times a second: the Failure it returns ends the upload within seconds,
    even when the cloud hangs. `clock` (seconds) and `sleep` are there for tests.

    TransferError, with a Failure that names phase and class, when there is no such image in the
    end; it says so if one stays behind all the same. What the listener raises is raised.
    """
    run = Run(cloud=cloud, order=order, listener=listener, stop=stop, clock=clock, sleep=sleep)
    try:
        image = _bring(run)
    except TransferError as error:
        raise TransferError(error.cause, image_left=run.image_left) from error
    except CLOUD_FAILURES as error:
        raise run.failure(error.failure_class, error.message) from error
    return image


def _bring(run: Run) -> CloudImage:
    """The verified image of an order, those of its parts being there before it. When one fails, they go, too:
    the image first, and then what it needs. What may still be there keeps its parts: whoever clears up after
    the upload removes all of them in that order."""
    order, made = run.order, dict[str, str]()
    run.enter(UploadPhase.PREFLIGHT)
    preflight.check_files(run)
    with ExitStack() as held:
        for part in order.parts:
            run.turn_to(order.of_part(part))
            image = _Ways(run).go()
            held.enter_context(cleaning(run, partial(_discard_part, run, image)))
            made[part.artifact.format] = image.id
        if made:
            run.turn_to(order.naming(made))
        image = _Ways(run).go()
        if made:
            held.enter_context(discarding(run, image.id))
            # Hours may have passed since they were verified.
            for image_format, image_id in made.items():
                _check_still_there(run, image_format, image_id)
        return image


def _discard_part(run: Run, part: CloudImage) -> str:
    """`discard` a part, unless what needs it stays. What may come yet from a request without an answer has no
    bytes, and nobody can boot it: it keeps nothing."""
    if run.whole_left:
        return f"; its part, image {part.id}, stays with it"
    return discard(run, part.id)


def _check_still_there(run: Run, image_format: str, image_id: str) -> None:
    image = run.ask(lambda: run.cloud.get(image_id))
    if image is None or image.status is not GlanceStatus.ACTIVE:
        now = "gone" if image is None else f"{image.status}"
        raise run.failure(
            FailureClass.CLOUD, f"its {image_format}, image {image_id}, was verified and is {now} by now"
        )


class _Ways:
    """The ways that were gone so far, and where each of them ended."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._quotas: Mapping[str, Quota] | None = None
        self._last: Failure | None = None

    def go(self) -> CloudImage:
        run = self._run
        for choice in run.order.choices:
            image = self._try(choice.way) if choice.usable else None
            if image is not None:
                return image
        raise self._dead_end()

    def _try(self, way: Way) -> CloudImage | None:
        """The image this way leads to, None when the next one is to be tried."""
        run = self._run
        try:
            if way is Way.ADOPT:
                return adoption.adopt(run)
            failure = self._obstacle(way)
            if failure is None:
                run.way(way)
                return _MAKERS[way](run)
        except TransferError as error:
            failure = self._mendable(way, error.cause)
        except CLOUD_FAILURES as error:
            failure = self._mendable(way, run.failure(error.failure_class, error.message).cause)
        LOG.info("upload %s: the way %s fails: %s", run.order.upload.name, way, failure.message)
        run.fallbacks = (*run.fallbacks, f"{way}: {failure.message}")
        self._last = failure
        return None

    def _obstacle(self, way: Way) -> Failure | None:
        """Why this way can't be gone; TransferError when none can."""
        if self._quotas is None:
            self._quotas = preflight.ask_quotas(self._run)
            preflight.check_room(self._run, self._quotas)
        return preflight.obstacle(self._run, way, self._quotas)

    def _mendable(self, way: Way, failure: Failure) -> Failure:
        """The failure, when another way may do better; else it is raised."""
        run = self._run
        # An adoption creates nothing: it changes what is there.
        changing = way is Way.ADOPT and failure.phase == UploadPhase.CREATE
        on_the_way = changing or failure.phase in _ON_THE_WAY
        may_mend = on_the_way and failure.failure_class in _MENDABLE
        if run.is_over or run.image_left or not may_mend:
            raise self._final(failure, run.fallbacks)
        return failure

    def _dead_end(self) -> TransferError:
        """No way is left."""
        if self._last is not None:
            return self._final(self._last, self._run.fallbacks[:-1])
        usable = [choice for choice in self._run.order.choices if choice.usable]
        if usable:
            return self._run.failure(FailureClass.CLOUD, "no image with these bytes is there to adopt")
        reasons = "; ".join(f"{choice.way}: {choice.reason}" for choice in self._run.order.choices)
        return self._run.failure(FailureClass.CONFIG, f"there is no way into this cloud: {reasons or 'none'}")

    def _final(self, failure: Failure, before: tuple[str, ...]) -> TransferError:
        """The end, with what was tried before it."""
        return TransferError(
            replace(failure, lines=(*failure.lines, *before)), image_left=self._run.image_left
        )
