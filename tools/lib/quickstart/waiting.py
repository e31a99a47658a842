"""Wait for an image to be ready everywhere, and show on the way what is being done."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from devcloud.errors import DevCloudError

from quickstart.status import BuildStatus, Imagepool, Status, UploadStatus

_PAUSE = 2.0  #: seconds between two looks
_REPEAT = 30.0  #: seconds after which an unchanged line is shown again, as a sign of life

Say = Callable[[str], None]


def wait_for_image(
    imagepool: Imagepool,
    image: str,
    providers: Sequence[str],
    *,
    check: Callable[[], None],
    say: Say,
    started: float,
    deadline: float,
    uptime: float,
) -> None:
    """Return when the image is ready in every provider.

    `check` raises when waiting is in vain; `started` and `deadline` are times of the clock, for the
    whole of the command; `uptime` is for how many seconds the daemon runs.
    DevCloudError with the reason when a build fails, or the time is over.
    """
    progress = _Progress(say)
    status = imagepool.status(image)
    old = {build.id for build in status.builds if not _is_news(build, uptime, time.time() - started)}
    while not status.ready_in(providers):
        check()
        for build in status.builds:
            if build.state == "failed" and build.id not in old:
                raise DevCloudError(_why(imagepool, build))
        progress.show(_line(imagepool, status, providers))
        if time.time() > deadline:
            raise DevCloudError(_late(status, providers))
        time.sleep(_PAUSE)
        status = imagepool.status(image)


def _is_news(build: BuildStatus, uptime: float, elapsed: float) -> bool:
    """Whether the failure of this build would be an answer to the one who waits now.

    Not when the daemon found it in progress at its start, for it gives such a build up and does it
    again; nor when it had failed before this command.
    """
    return build.age < uptime and (build.state == "building" or build.age < elapsed)


class _Progress:
    """Says a line when it changed, or after a while, with the seconds that passed."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._began = time.monotonic()
        self._last = ""
        self._said = 0.0

    def show(self, line: str) -> None:
        now = time.monotonic()
        if line != self._last or now - self._said > _REPEAT:
            self._say(f"[{now - self._began:4.0f} s] {line}")
            self._last, self._said = line, now


def _line(imagepool: Imagepool, status: Status, providers: Sequence[str]) -> str:
    """One line for a person: what the build does, or how far each upload is."""
    newest = status.builds[0] if status.builds else None
    if newest is None:
        return "waiting for the build to begin"
    if newest.state != "ready":
        return f"build {newest.id[:8]}: {newest.phase if newest.state == 'building' else newest.state}"
    return ";  ".join(f"upload to {name}: {_upload(imagepool, status, newest, name)}" for name in providers)


def _upload(imagepool: Imagepool, status: Status, build: BuildStatus, provider: str) -> str:
    newest = _newest(status, provider, build.id)
    if newest is None:
        return "waiting"
    if newest.state == "uploading":
        return imagepool.progress(newest)
    if newest.state == "failed":
        return f"failed, will be tried again ({newest.reason})"
    return newest.state


def _newest(status: Status, provider: str, build_id: str) -> UploadStatus | None:
    fitting = (one for one in status.uploads if one.provider == provider and one.build_id == build_id)
    return next(fitting, None)


def _why(imagepool: Imagepool, build: BuildStatus) -> str:
    return f"build {build.id} failed:\n{imagepool.run('build', 'show', build.id).rstrip()}"


def _late(status: Status, providers: Sequence[str]) -> str:
    newest = status.builds[0] if status.builds else None
    if newest is None:
        return "the time is over and no build has begun"
    if newest.state != "ready":
        return f"the time is over and build {newest.id} is {newest.state} (phase {newest.phase})"
    reasons = [
        f"{name}: {upload.state} {upload.reason}".rstrip()
        for name in providers
        if (upload := _newest(status, name, newest.id))
    ]
    return "the time is over and not all uploads are ready: " + ("; ".join(reasons) or "none has begun")
