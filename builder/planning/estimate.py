"""Say how long a build takes and how far it is, from the builds of that image before it.

What is expected of each phase is the median of the newest builds that came out well: one slow
mirror one day changes nothing. Formats are made at the same time, so what is timed for each
of them ("convert qcow2") tells nothing of the whole, and is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Final

from builder.model import Build, BuildPhase, ImageRecords
from builder.planning.records import was_ready

#: How many builds are looked at.
_EARLIER: Final = 5
#: Bytes tell better than the clock how long a phase still takes, once so much of it is done.
_TELLING: Final = 0.05


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What is expected of a build that runs; durations are seconds."""

    total: float  #: from beginning to end
    left: float  #: until the end; 0 when nothing is known any more
    share: float  #: of the whole that is done, 0 to 1
    over: float = 0.0  #: by how much it takes longer already than any build that was looked at

    @property
    def known_left(self) -> float | None:
        """Seconds until the end, None when it should have ended by now: nobody knows any more."""
        return self.left if self.left > 0 and not self.over else None


def expected_duration(records: ImageRecords) -> float | None:
    """Seconds that the next build of the image takes, None when there is nothing to tell it by."""
    earlier = _earlier(records.builds)
    return sum(_expected(earlier).values()) if earlier else None


def estimate(build: Build, records: ImageRecords, now: datetime) -> Estimate | None:
    """How far a build is that runs; None when it does not, or there is nothing to tell it by."""
    earlier = _earlier(b for b in records.builds if b.id != build.id)
    if build.ended is not None or not earlier:
        return None
    elapsed = max(0.0, (now - build.began).total_seconds())
    left = _left(build, _expected(earlier), elapsed)
    total = elapsed + left
    return Estimate(
        total=total,
        left=left,
        share=elapsed / total if total else 0.0,
        over=max(0.0, elapsed - max(sum(_phases(b).values()) for b in earlier)),
    )


def phase_seconds(build: Build, now: datetime) -> float | None:
    """Seconds that a running build has spent in its phase so far; None when it does not run, or in a phase
    that imagepool doesn't know."""
    if build.ended is not None or build.phase not in list(BuildPhase):
        return None
    return _here(build, max(0.0, (now - build.began).total_seconds()))


def _here(build: Build, elapsed: float) -> float:
    """What the phases that are over leave of the time, which is all of the phase that runs."""
    return max(0.0, elapsed - sum(t for phase, t in _phases(build).items() if phase != build.phase))


def _earlier(builds: Iterable[Build]) -> tuple[Build, ...]:
    """The newest builds that came out well and say how long each phase took."""
    timed = [build for build in builds if was_ready(build) and _phases(build)]
    return tuple(sorted(timed, key=lambda b: (b.began, b.id), reverse=True)[:_EARLIER])


def _phases(build: Build) -> dict[str, float]:
    """Seconds of the phases, which follow each other, in their order."""
    return {phase: build.timings[phase] for phase in BuildPhase if phase in build.timings}


def _expected(earlier: tuple[Build, ...]) -> dict[str, float]:
    each = [_phases(build) for build in earlier]
    return {phase: median(phases.get(phase, 0.0) for phases in each) for phase in BuildPhase}


def _left(build: Build, expected: Mapping[str, float], elapsed: float) -> float:
    order = [str(phase) for phase in BuildPhase]
    if build.phase not in order:  # another version's; all there is to tell by is the clock
        return max(0.0, sum(expected.values()) - elapsed)
    later = sum(expected[phase] for phase in order[order.index(build.phase) + 1 :])
    here = _here(build, elapsed)
    done = build.bytes_done / build.bytes_total if build.bytes_total else 0.0
    if _TELLING <= done <= 1:
        return here * (1 - done) / done + later
    return max(0.0, expected[build.phase] - here) + later
