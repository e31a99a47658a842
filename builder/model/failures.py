"""Why something failed, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from builder.model.names import empty


class FailureClass(StrEnum):
    """Whose trouble a failure is; decides whether a retry can help."""

    MIRROR = "mirror"  #: a package mirror does not answer or lacks a file
    PACKAGE = "package"  #: packages can't be installed together, or don't exist
    DISK = "disk"  #: no space left on a disk of ours
    TIMEOUT = "timeout"  #: it took longer than allowed
    BOOTLOADER = "bootloader"  #: the boot loader or the partitions could not be made
    ELEMENT = "element"  #: a script of an element failed
    TOOL = "tool"  #: a program is missing or broken
    CONFIG = "config"  #: the configuration asks for the impossible
    INTERRUPTED = "interrupted"  #: the daemon died or lost its claim meanwhile
    CANCELLED = "cancelled"  #: somebody stopped it
    AUTH = "auth"  #: the cloud refuses who we are or what we may do
    QUOTA = "quota"  #: the cloud has no room left for us
    NETWORK = "network"  #: the connection failed or broke off
    CLOUD = "cloud"  #: the cloud failed, or stored something else than we sent
    HOOK = "hook"  #: the provider's post-upload-hook refused the image
    TEST = "test"  #: the finished image does not do what it must
    UNKNOWN = "unknown"  #: nothing we recognise


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why something failed, as data; stored as `reason` on the record and never swept early."""

    failure_class: FailureClass
    message: str  #: one sentence for people
    phase: str | None = None
    step: str | None = None  #: the element and script, such as "dpkg/pre-install.d/99-x"
    exit_code: int | None = None
    lines: tuple[str, ...] = ()  #: the last lines that matter, oldest first
    #: Fields of the record that we don't know, and words in it that we don't; written back as they were.
    extra: Mapping[str, Any] = field(default_factory=empty, compare=False, repr=False)

    @property
    def summary(self) -> str:
        """One line: "mirror: <message> (phase packages, step x, exit code 100)"."""
        details = [
            text
            for text in (
                f"phase {self.phase}" if self.phase else "",
                f"step {self.step}" if self.step else "",
                f"exit code {self.exit_code}" if self.exit_code is not None else "",
            )
            if text
        ]
        # "cancelled by whom" says the class by itself.
        said = self.message.startswith(f"{self.failure_class} ")
        text = self.message if said else f"{self.failure_class}: {self.message}"
        return text + (f" ({', '.join(details)})" if details else "")
