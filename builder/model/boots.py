"""What came of booting a build's finished image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from builder.model.names import empty


class BootVerdict(StrEnum):
    """What came of the boot test of a build."""

    PASSED = "passed"  #: the image does all that it must
    FAILED = "failed"  #: it does not; `BootResult.failed` says what
    BROKEN = "broken"  #: the test itself came to nothing, which says nothing of the image


@dataclass(frozen=True, kw_only=True)
class BootResult:
    """What came of booting a build's image, in short; all of it is in test.json beside the build's files."""

    #: How many names of each kind are on record at most, and their characters.
    MOST_NAMES: ClassVar[int] = 100
    LONGEST_NAME: ClassVar[int] = 255

    verdict: BootVerdict
    failed: tuple[str, ...] = ()  #: names of the proofs that failed, in the order in which they are asked for
    seconds: float = 0.0  #: of the whole test
    accelerator: str | None = None  #: "kvm" or "tcg": how fast the machine was that was booted
    #: What was measured, by name, such as "ssh_seconds" or "disk_claimed".
    measures: Mapping[str, float] = field(default_factory=empty)
    ports: tuple[str, ...] = ()  #: that others can reach, as "tcp/22"
    setuid: tuple[str, ...] = ()  #: paths of files with the setuid or setgid bit
    #: Fields of the record that we don't know, and words in it that we don't; written back as they were.
    extra: Mapping[str, Any] = field(default_factory=empty, compare=False, repr=False)
