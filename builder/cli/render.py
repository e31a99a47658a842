"""Turn images and builds into rows of cells; pure. The column names are an interface: scripts read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from builder.cli import guard, standstill, text, withheld
from builder.cli.cells import (
    BuildId,
    BuildIds,
    Bytes,
    Cell,
    Flag,
    Lines,
    Moment,
    Paragraph,
    Reason,
    Seconds,
    Share,
    Words,
    pairs,
    short,
)
from builder.cli.render_boot import boot_cell
from builder.cli.render_budgets import budgets_cell, release_cell
from builder.model import (
    Artifact,
    Build,
    BuildPhase,
    BuildState,
    Cancellation,
    Failure,
    ImageRecords,
    Request,
    UploadState,
)
from builder.planning import words
from builder.planning.estimate import Estimate, estimate, expected_duration, phase_seconds

if TYPE_CHECKING:
    # What decides on images takes longer to import than most lists take to print.
    from builder.cli.status import ImageStatus, Place
    from builder.config.model import DiskImage

BUILD_COLUMNS: Final = (
    "id", "image", "state", "phase", "builder", "formats", "size", "age", "duration", "reason",
    "progress", "left", "withheld",
)  # fmt: skip
IMAGE_COLUMNS: Final = (
    "image", "platform", "state", "schedule", "next_build", "last_ready", "age", "uploads_ready",
    "uploads_total", "paused", "reason", "checked", "pause", "next_builder", "withheld",
)  # fmt: skip

_PHASES: Final = tuple(str(phase) for phase in BuildPhase)

Row = Mapping[str, Cell]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Column names and rows in the same order, as cliff wants them."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def table(columns: Sequence[str], rows: Sequence[Row]) -> Table:
    """The rows with just these columns, in this order."""
    return Table(columns=tuple(columns), rows=tuple(tuple(row[c] for c in columns) for row in rows))


def build_row(build: Build, records: ImageRecords, now: datetime) -> Row:
    """What `build list` shows: size is that of all files, age counts from the build's beginning.

    `records` are those of its image: earlier builds tell how far one is that runs.
    """
    expected = _estimate(build, records, now)
    return {
        "id": BuildId(build.id),
        "image": Cell(build.image),
        "state": Cell(build.state),
        "phase": Cell(build.phase),
        "builder": Cell(build.builder),
        "formats": Words(build.formats or tuple(a.format for a in build.artifacts)),
        "size": Bytes(sum(a.size for a in build.artifacts) if build.artifacts else None),
        "age": Seconds((now - build.began).total_seconds()),
        "duration": Seconds(build.duration),
        "reason": Reason(_why(build, records)),
        "progress": Share(expected.share if expected is not None else None),
        "left": Seconds(expected.known_left if expected is not None else None),
        "withheld": Reason(withheld.of_build(build)),
    }


def build_details(build: Build, records: ImageRecords, now: datetime) -> Row:
    """What `build show` shows: the row, and everything else on record."""
    uploads = records.uploads_of(build.id)
    wish = records.cancellation
    in_phase = phase_seconds(build, now) if _runs(build, records) else None
    return {
        **build_row(build, records, now),
        "id": Cell(build.id),
        "reason": Cell(_why(build, records)),
        "failure": failure_cell(build.reason),
        "state_time": Moment(build.state_time),
        "started": Moment(build.started),
        "ended": Moment(build.ended),
        "timings": timings_cell(build.timings, build.phase, in_phase),
        "phase_seconds": Seconds(in_phase),
        "artifacts": Lines(
            [_artifact(a) for a in build.artifacts], [_artifact_line(a) for a in build.artifacts]
        ),
        "elements": Words(build.elements),
        "tools": pairs(build.tools),
        "log": Cell(build.log),
        "request": _request(build.request),
        "uploads": Lines(
            [{"id": u.name, "provider": u.provider, "state": str(u.state)} for u in uploads],
            [f"{u.provider}: {u.state} ({u.name})" for u in uploads],
        ),
        "bytes": _bytes(build),
        "estimate": _expected(_estimate(build, records, now), now),
        "next_try": _NextTry(build),
        "cancellation": _cancellation(wish if wish is not None and wish.build_id == build.id else None),
        "changes": Lines(list(build.changes), build.changes),
        "checked": _Checked(build.checked),
        "pruned": Words(build.pruned),
        "work_bytes": Bytes(build.work_bytes),
        "inputs": pairs(build.inputs),
        "withheld": withheld.cell(build),
        "cleared": withheld.cleared_cell(build),
        "test": boot_cell(build.test),
        "budgets": budgets_cell(build),
        "release": release_cell(build.release),
        "kept": Cell(build.kept),
    }


def image_row(status: ImageStatus, now: datetime) -> Row:
    """What `image list` shows; age counts from the beginning of the newest ready build."""
    diskimage, newest = status.diskimage, status.newest_ready
    platform = diskimage.platform if diskimage is not None else None
    return {
        "image": Cell(status.name),
        "platform": Cell(platform.name if platform is not None else None),
        "state": Cell(status.state),
        "schedule": Cell(_schedule(diskimage) if diskimage is not None else None),
        "next_build": Moment(status.next_build),
        "last_ready": Moment((newest.ended or newest.state_time) if newest is not None else None),
        "age": Seconds((now - newest.began).total_seconds() if newest is not None else None),
        "uploads_ready": Cell(status.uploads_ready),
        "uploads_total": Cell(len(status.places)),
        "paused": Flag(status.paused),
        "reason": Reason(status.reason),
        "checked": Moment(newest.checked if newest is not None else None),
        "pause": Reason(standstill.of_image(diskimage, status.records.pause)),
        "next_builder": Cell(status.assignment.hostname if status.assignment is not None else None),
        "withheld": BuildIds([build.id for build in status.withheld]),
    }


def image_details(status: ImageStatus, now: datetime) -> Row:
    """What `image show` shows: the row, what comes next and why, and where the image is."""
    diskimage, decision = status.diskimage, status.decision
    places = [_place(place, now) for place in status.places]
    newest = status.newest_ready
    return {
        **image_row(status, now),
        "reason": Cell(status.reason),
        "decision": Cell(decision.verdict if decision is not None else None),
        "decision_reason": Cell(
            decision.reason if decision is not None else "the configuration doesn't list this image"
        ),
        "waits": Paragraph(status.waits),
        "pause": standstill.pause_cell(status.records.pause),
        "request": _request(status.records.request),
        "requires": Words(sorted(diskimage.requires) if diskimage is not None else ()),
        "formats": Words(diskimage.formats if diskimage is not None else ()),
        "elements": Words(diskimage.elements if diskimage is not None else ()),
        "builds": Lines(
            [
                {"id": b.id, "state": str(b.state), "phase": str(b.phase) if b.phase else None}
                for b in status.records.builds
            ],
            [_build_line(b, now) for b in status.records.builds],
        ),
        "providers": Lines(places, [line for place in status.places for line in _place_lines(place, now)]),
        "checked": _Checked(newest.checked if newest is not None else None),
        "changes": Lines(list(newest.changes), newest.changes) if newest is not None else Lines([], ()),
        "next_try": _NextTry(status.newest_ended),
        "cancellation": _cancellation(status.records.cancellation),
        "estimate": _expected(_running_estimate(status.records, now), now),
        "expected_duration": Seconds(expected_duration(status.records)),
    }


def _schedule(image: DiskImage) -> str:
    """Its entries as they are written."""
    return "; ".join(entry.text for entry in image.schedule) or "never"


def _why(build: Build, records: ImageRecords) -> str | None:
    return text.summary(build.reason) or guard.nobody_works(records, build)


def failure_cell(failure: Failure | None) -> Lines:
    """Everything on record about a failure."""
    if failure is None:
        return Lines(None, ())
    data = {
        "class": str(failure.failure_class),
        "message": failure.message,
        "phase": str(failure.phase) if failure.phase else None,
        "step": failure.step,
        "exit_code": failure.exit_code,
        "lines": list(failure.lines),
    }
    return Lines(data, failure.lines or (failure.message,))


def timings_cell(
    timings: Mapping[str, float], running: str | None = None, so_far: float | None = None
) -> Lines:
    """Phases in the order in which they happen, each followed by its parts, such as the formats it made.

    People see the phase that is running as well, with the seconds `so_far`.
    """
    shown = {phase: text.duration(seconds) for phase, seconds in timings.items()}
    if running is not None and so_far is not None:
        shown[running] = f"{text.duration(so_far)} so far"
    return Lines(
        {str(phase): round(timings[phase], 3) for phase in sorted(timings, key=_when)},
        [f"{'  ' if ' ' in phase else ''}{phase}: {shown[phase]}" for phase in sorted(shown, key=_when)],
    )


def _when(key: str) -> tuple[int, bool]:
    phase, _, part = key.partition(" ")
    # Uploads have phases of their own, which are recorded in their order.
    return (_PHASES.index(phase) if phase in _PHASES else len(_PHASES), bool(part))


def _artifact(artifact: Artifact) -> dict[str, Any]:
    return {
        "format": str(artifact.format),
        "size": artifact.size,
        "virtual_size": artifact.virtual_size,
        "md5": artifact.md5,
        "sha256": artifact.sha256,
        "sha512": artifact.sha512,
    }


def _artifact_line(artifact: Artifact) -> str:
    return f"{artifact.format}: {text.size(artifact.size)}, sha256 {artifact.sha256}"


def _request(request: Request | None) -> Lines:
    if request is None:
        return Lines(None, ())
    data = {
        "by": request.by,
        "why": request.why,
        "time": text.iso(request.time),
        "manual": request.manual,
        "force": request.force,
        "urgent": request.urgent,
        "tick": text.iso(request.tick) if request.tick is not None else None,
    }
    why, by = words.line(request.why), words.line(request.by)
    how = [name for name in ("force", "urgent") if data[name]]
    return Lines(data, [f"{why} ({', '.join((by, text.moment(request.time), *how))})"])


def _runs(build: Build, records: ImageRecords) -> bool:
    return build.state is BuildState.BUILDING and guard.is_alive(records, build)


def _estimate(build: Build, records: ImageRecords, now: datetime) -> Estimate | None:
    return estimate(build, records, now) if _runs(build, records) else None


def _running_estimate(records: ImageRecords, now: datetime) -> Estimate | None:
    running = next((b for b in records.builds if _runs(b, records)), None)
    return estimate(running, records, now) if running is not None else None


def _expected(expected: Estimate | None, now: datetime) -> Lines:
    if expected is None:
        return Lines(None, ())
    left = expected.known_left
    ends = now + timedelta(seconds=expected.left)
    data = {
        "total": round(expected.total, 3),
        "left": round(left, 3) if left is not None else None,
        "share": round(expected.share, 3),
        "over": round(expected.over, 3),
        "ends": text.iso(ends) if left is not None else None,
    }
    rest = text.rest(expected.left, expected.over)
    whole = "" if left is None else f" of {text.duration(expected.total)}, until {text.moment(ends)}"
    return Lines(data, [f"{rest}{whole}"])


def _bytes(build: Build) -> Lines:
    if build.state is not BuildState.BUILDING or not build.bytes_total:
        return Lines(None, ())
    return Lines(
        {"done": build.bytes_done, "total": build.bytes_total},
        [text.progress(build.bytes_done, build.bytes_total)],
    )


def _cancellation(wish: Cancellation | None) -> Lines:
    if wish is None:
        return Lines(None, ())
    data = {"build_id": wish.build_id, "by": wish.by, "why": wish.why, "time": text.iso(wish.time)}
    why = f": {words.line(wish.why)}" if wish.why else ""
    return Lines(data, [f"cancelled by {words.line(wish.by)} at {text.moment(wish.time)}{why}"])


class _NextTry(Moment):
    """When a failed build is followed by another, as planned when it failed."""

    def __init__(self, build: Build | None) -> None:
        failed = build is not None and build.state is BuildState.FAILED
        super().__init__(build.next_try if build is not None and failed else None)
        #: nodepool's records don't say why, and so not whether there is another try.
        self._planned = build is not None and failed and build.reason is not None

    def human_readable(self) -> str:
        if self._value is None:
            return "not before the schedule or somebody asks" if self._planned else ""
        return super().human_readable()


class _Checked(Moment):
    """When a new build was last found to be needless."""

    def shown(self) -> str:
        return f"unchanged at {super().shown()}"


def _build_line(build: Build, now: datetime) -> str:
    phase = f" ({build.phase})" if build.state is BuildState.BUILDING and build.phase else ""
    checked = f", unchanged {_ago(build.checked, now)}" if build.checked is not None else ""
    return f"{build.id}: {build.state}{phase}, {_ago(build.began, now)}{checked}"


def _place(place: Place, now: datetime) -> dict[str, Any]:
    newest, ready, decision = place.newest, place.ready, place.decision
    return {
        "provider": place.provider,
        "region": place.region,
        "state": str(newest.state) if newest is not None else None,
        "build_id": newest.build_id if newest is not None else None,
        "ready_build_id": ready.build_id if ready is not None else None,
        "serving": text.iso(ready.serving) if ready is not None and ready.serving is not None else None,
        "withheld": place.misfit,
        "external_id": ready.external_id if ready is not None else None,
        "age": round((now - ready.since).total_seconds(), 3) if ready is not None else None,
        "current": place.current,
        "decision": str(decision.verdict) if decision is not None else None,
        "decision_reason": decision.reason if decision is not None else None,
        "reason": text.summary(newest.reason) if newest is not None else None,
    }


def _place_lines(place: Place, now: datetime) -> Iterator[str]:
    ready, newest = place.ready, place.newest
    has = (
        f"build {short(ready.build_id)}, {_ago(ready.since, now)}" if ready is not None else "no ready image"
    )
    moves = newest is not None and newest.state is not UploadState.READY
    doing = f"; newest upload: {newest.state}" if newest is not None and moves else ""
    yield f"{place.provider}: {has}{doing}"
    if place.misfit is not None:
        yield f"  {place.misfit}"
    if place.decision is not None:
        yield f"  {place.decision.reason}"


def _ago(moment: datetime, now: datetime) -> str:
    return f"{text.duration((now - moment).total_seconds())} ago"
