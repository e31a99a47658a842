"""What is measured of a build that has a budget, and what came of comparing both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from builder.model.names import empty


class Measure(StrEnum):
    """What a build can have a budget of; the words are those of the configuration."""

    SIZE = "size"  #: bytes of its largest file
    ALLOCATED_SIZE = "allocated-size"  #: bytes of the raw image that are no holes
    DISK_CLAIMED = "disk-claimed"  #: bytes that its first boot wrote
    PACKAGES = "packages"  #: how many are in its package database
    BOOT_SECONDS = "boot-seconds"  #: from power-on until the console shows userspace
    SSH_SECONDS = "ssh-seconds"  #: from power-on until an SSH server answered
    MEMORY = "memory"  #: bytes in use on a machine that has just come up
    NEW_SETUID_FILES = "new-setuid-files"  #: setuid or setgid files that the last good build did not have
    NEW_PORTS = "new-ports"  #: ports open to others that were not on the last good build
    BUILD_SECONDS = "build-seconds"  #: that building it took

    @property
    def is_bytes(self) -> bool:
        """Whether it is a number of bytes."""
        return self in _BYTES

    @property
    def is_seconds(self) -> bool:
        """Whether it is a number of seconds; what is neither is how many there are."""
        return self in _SECONDS

    @property
    def is_booted(self) -> bool:
        """Whether only an image that is booted tells it."""
        return self in _BOOTED

    @property
    def is_new(self) -> bool:
        """Whether it counts what was added since the last good build."""
        return self in _NEW


_BYTES: Final = frozenset({Measure.SIZE, Measure.ALLOCATED_SIZE, Measure.DISK_CLAIMED, Measure.MEMORY})
_SECONDS: Final = frozenset({Measure.BOOT_SECONDS, Measure.SSH_SECONDS, Measure.BUILD_SECONDS})
_NEW: Final = frozenset({Measure.NEW_SETUID_FILES, Measure.NEW_PORTS})
_BOOTED: Final = _NEW | {
    *(Measure.DISK_CLAIMED, Measure.BOOT_SECONDS, Measure.SSH_SECONDS, Measure.MEMORY),
}


class BudgetAction(StrEnum):
    """What follows from a build that is over budget, the mildest first."""

    WARN = "warn"  #: it is said, and nothing else happens
    HOLD = "hold"  #: the build goes nowhere before somebody lets it
    FAIL = "fail"  #: the build fails


@dataclass(frozen=True, kw_only=True)
class BudgetCheck:
    """What came of comparing one measure of a build with its budget; in the unit of the measure."""

    measure: str  #: a `Measure`, or that of a later version
    sentence: str  #: for people: the value and the most that is allowed, or why nobody can tell; no full stop
    over: BudgetAction | None = None  #: what follows; None when it is within its budget, or nobody can tell
    value: float | None = None  #: None: it was not measured
    limit: float | None = None  #: the most that is allowed; None: there was nothing to compare with
    baseline: float | None = None  #: of the last good build, where that counts
    #: Fields of the record that we don't know, and words in it that we don't; written back as they were.
    extra: Mapping[str, Any] = field(default_factory=empty, compare=False, repr=False)
