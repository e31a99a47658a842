"""Runs a program of the operator's that judges an image: a provider's post-upload-hook, a check.

The hook is as nodepool documents it: `HOOK <provider> <external id> <file>`, after the image is verified and
before it is ready; an exit code other than 0 fails the upload.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from builder import host
from builder.config.model import masked_credentials
from builder.config.passing import passed
from builder.errors import ActionFailedError, ToolMissingError
from builder.model import Failure, FailureClass, UploadPhase
from builder.process.child import Child

#: What a failure names as its step.
STEP: Final = "post-upload-hook"
#: Last lines of its output that are kept, and characters of each.
LINES: Final = 20
LINE: Final = 1000
#: Seconds between two looks at the clock and at the wish to stop.
TICK: Final = 0.2
#: Seconds to end after TERM, before KILL.
GRACE: Final = 5.0

#: Of our environment, what it needs to reach a cloud besides what every program needs.
_CLOUDS: Final = frozenset({"OS_CLIENT_CONFIG_FILE", "OS_CLIENT_SECURE_FILE", "OS_CLIENT_VENDOR_FILE"})


def check(hook: Path) -> None:
    """Raise ActionFailedError when a hook is missing or may not be run: better known before bytes move."""
    why = host.why_not_run(hook)
    if why is None:
        return
    message = f"the post-upload-hook {hook} can't be run: {why}"
    raise ActionFailedError(message, Failure(failure_class=FailureClass.TOOL, message=message, step=STEP))


def run(
    hook: Path,
    arguments: Sequence[str],
    *,
    cwd: Path,
    timeout: float,
    stop: Callable[[], Failure | None],
    environ: Mapping[str, str] = os.environ,
    step: str = STEP,
    more: Mapping[str, str] = MappingProxyType({}),
) -> tuple[str, ...]:
    """Run a hook to its end; the last lines it printed, on stdout and stderr together. `step` is what a
    failure calls it; it finds `more` in its environment.

    Raises ActionFailedError, whose failure has those lines, when the hook is missing, does not end with 0
    or not within `timeout` seconds, or when `stop` says so. However it ends, what it has started has been
    killed by then, unless it left its process group.
    """
    lines: deque[str] = deque(maxlen=LINES)

    def failed(failure_class: FailureClass, message: str, code: int | None = None) -> ActionFailedError:
        failure = Failure(
            failure_class=failure_class,
            message=message,
            phase=UploadPhase.HOOK,
            step=step,
            exit_code=code,
            lines=tuple(lines),
        )
        return ActionFailedError(message, failure)

    try:
        child = Child(
            [str(hook), *arguments],
            env={**passed(environ, _CLOUDS), **more},
            cwd=cwd,
            on_line=lambda line: lines.append(masked_credentials(line)[:LINE]),
        )
    except (ToolMissingError, OSError) as error:
        what = error.message if isinstance(error, ToolMissingError) else str(error)
        raise failed(FailureClass.TOOL, f"the {step} {hook} can't be run: {what}") from error
    deadline = time.monotonic() + timeout
    try:
        while (code := child.wait(TICK)) is None:
            if (wish := stop()) is not None:
                raise ActionFailedError(wish.message, wish)
            if time.monotonic() >= deadline:
                message = f"the {step} {hook} did not end within {timeout:.0f} s"
                raise failed(FailureClass.TIMEOUT, message, child.stop(GRACE))
        child.sweep()
    finally:
        child.stop(GRACE)
    if code:
        raise failed(FailureClass.HOOK, f"the {step} {hook} refused the image", code)
    return tuple(lines)
