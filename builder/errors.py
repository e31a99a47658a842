"""Every error imagepool raises on purpose, in one tree.

    ImagepoolError                 exit code 1: the action failed
      UsageError                   2: the command line asks for something that makes no sense
      ConfigError                  2: the configuration can't be used (carries every problem found)
      NotFoundError                3: no such image, build or upload, or a prefix that fits several
      RefusedError                 4: it would do harm (a build in progress, the last good image)
      UnavailableError             5: something we depend on does not answer or is not installed
        StoreUnavailableError         ZooKeeper can't be reached, or the session was lost
        CloudUnavailableError         a cloud can't be reached, hangs or answers 5xx
        ToolMissingError              a program this machine needs is not installed
      ConflictError                1: somebody else changed the record since we read it
      ActionFailedError            1: a build or an upload ended in failure (carries the Failure)
      CloudError                   1: a cloud refused or spoiled what we asked for

The exit codes are part of the interface: README.md lists them. An error says what is wrong
(`message`) and what to do about it (`hint`); names end in "Error".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from builder.model import Failure, FailureClass


class ImagepoolError(Exception):
    """Base of all errors a user is meant to read.

    `message` says what is wrong and where; `hint`, when not empty, what to do next.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(ImagepoolError):
    """The command line asks for something that makes no sense."""

    exit_code = 2


class ConfigError(ImagepoolError):
    """The configuration can't be used; `problems` has one "file:line: what is wrong" each."""

    exit_code = 2

    def __init__(self, problems: Sequence[str], *, hint: str = "") -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems), hint=hint)


class NotFoundError(ImagepoolError):
    """No such image, build, upload or provider, or an abbreviation that fits several."""

    exit_code = 3


class RefusedError(ImagepoolError):
    """The request is understood but would break a promise; the hint says how to insist."""

    exit_code = 4


class UnavailableError(ImagepoolError):
    """Something imagepool depends on does not answer or is not there."""

    exit_code = 5


class StoreUnavailableError(UnavailableError):
    """ZooKeeper can't be reached, or the session was lost; nothing may be assumed written."""


class CloudUnavailableError(UnavailableError):
    """A cloud can't be reached, hangs, or answers with a server error.

    `failure_class` is the class a failed upload records for it.
    """

    def __init__(self, message: str, *, failure_class: FailureClass, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.failure_class = failure_class


class ToolMissingError(UnavailableError):
    """A program this machine needs is not installed; the hint names the package."""


class ConflictError(ImagepoolError):
    """A record changed between our reading and our writing; read again and decide again."""


class ActionFailedError(ImagepoolError):
    """A build or an upload failed; `failure` is what its record says."""

    def __init__(self, message: str, failure: Failure | None = None, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.failure = failure


class CloudError(ImagepoolError):
    """A cloud refused what we asked for, or what it stored is not what we sent.

    `failure_class` is the class a failed upload records for it (quota, auth, cloud...); `in_use` says
    that it was refused because servers or volumes use the image.
    """

    def __init__(
        self, message: str, *, failure_class: FailureClass, hint: str = "", in_use: bool = False
    ) -> None:
        super().__init__(message, hint=hint)
        self.failure_class = failure_class
        self.in_use = in_use
