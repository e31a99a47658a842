"""Say what an error that ended a build means, to the one who reads its record."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from builder.errors import ActionFailedError, ImagepoolError, RefusedError, UnavailableError
from builder.model import Failure, FailureClass

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


def failure_of(error: ImagepoolError | OSError) -> Failure:
    """The error as data: its class, and one sentence that says what, where and what to do."""
    if isinstance(error, ActionFailedError) and error.failure is not None:
        return error.failure
    if isinstance(error, ImagepoolError):
        message = f"{error.message}. {error.hint}".strip() if error.hint else error.message
        return Failure(failure_class=_class_of(error), message=message)
    if error.errno in _FULL:
        where = f" ({error.filename})" if error.filename else ""
        return Failure(failure_class=FailureClass.DISK, message=f"no space left on the disk{where}")
    return Failure(failure_class=FailureClass.UNKNOWN, message=f"{type(error).__name__}: {error}")


def _class_of(error: ImagepoolError) -> FailureClass:
    if isinstance(error, UnavailableError):
        return FailureClass.TOOL
    return FailureClass.CONFIG if isinstance(error, RefusedError) else FailureClass.UNKNOWN


@contextmanager
def usable(key: str, directory: Path) -> Iterator[None]:
    """Blame the setting `key` for what the block can't do in its directory, but for a full disk.

    Raises RefusedError in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise
        where = f" ({error.filename})" if error.filename not in (None, str(directory)) else ""
        raise RefusedError(
            f"the {key} {directory} can't be used: {error.strerror}{where}",
            hint=f"Name a directory with {key} that can be made and written.",
        ) from error
