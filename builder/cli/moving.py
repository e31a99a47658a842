"""Follow the regions of an image until each serves what it is to serve now; pure: snapshots in, lines out.

What is to become of each is a `Move`, planned before anything was written. A region that has another image is
there once that one serves. One that has none gets one by an upload, which is followed as long as it moves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from builder.cli import text
from builder.cli.follow import Scene, last_try, progress
from builder.cli.motion import motion, told
from builder.model import ImageRecords, Snapshot, Upload, UploadState
from builder.planning.actions import UploadDecision, Verdict
from builder.planning.records import in_service, may_go_out
from builder.planning.rollback import Move, MoveFate, moved
from builder.planning.words import short

#: The verdicts on an upload that is under way, or begins as soon as somebody takes it.
_COMING = (Verdict.RUNNING, Verdict.NOW)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far a region is at one moment."""

    move: Move
    serving: Upload | None  #: now
    there: bool  #: it serves what it is to serve, or nothing that is withheld
    coming: bool  #: it is not there, and something moves or is about to
    sending: bool = False  #: bytes are on their way to it
    seconds: float | None = None  #: it took so long, None when it was there before, or is not yet
    trouble: str | None = None  #: why it is not there and nothing moves


@dataclass
class Follower:
    """Compares each snapshot with what it said before, so that every change is one line."""

    image: str
    moves: Sequence[Move]
    since: datetime
    _said: dict[str, str] = field(default_factory=dict)  #: the last line on each region, times left out
    _took: dict[str, float] = field(default_factory=dict)

    def look(self, scene: Scene) -> tuple[str, ...]:
        """What is new at this moment, a line each."""
        return tuple(self._new(scene))

    def standings(self, scene: Scene) -> tuple[Standing, ...]:
        """How far each region is, in the order of the moves."""
        records = scene.snapshot.image(self.image)
        return tuple(self._standing(move, records, scene) for move in self.moves)

    def _standing(self, move: Move, records: ImageRecords, scene: Scene) -> Standing:
        serving = in_service(records, move.provider)
        standing = Standing(move=move, serving=serving, there=False, coming=False)
        if move.fate is MoveFate.STUCK:
            return replace(standing, trouble=move.reason)
        if _is_there(move, serving, scene.snapshot):
            if move.fate is not MoveFate.STAYS:
                self._took.setdefault(move.provider, (scene.now - self.since).total_seconds())
            return replace(standing, there=True, seconds=self._took.get(move.provider))
        if not _is_sent_first(move):
            # It moves whatever is uploaded; and to decide on all uploads there are takes a while.
            return replace(standing, coming=True)
        decision = _decision(scene, self.image, move.provider)
        coming = _is_coming(move, records, decision)
        return replace(
            standing,
            coming=coming,
            sending=decision is not None and decision.verdict is Verdict.RUNNING,
            trouble=None if coming else _why(decision),
        )

    def _new(self, scene: Scene) -> Iterator[str]:
        records = scene.snapshot.image(self.image)
        for standing in self.standings(scene):
            name = standing.move.provider
            line = _line(standing, records)
            if line is not None and self._said.get(name) != line:
                self._said[name] = line
                yield f"{name}: {line}{_rest(standing, records, scene.now)}"


def _is_there(move: Move, serving: Upload | None, snapshot: Snapshot) -> bool:
    """Whether a region serves what it is to serve, or what may serve meanwhile."""
    if not _is_sent_first(move):
        return moved(move, snapshot)
    # What it serves until then is withheld, if anything: that is waited for.
    build = snapshot.image(serving.image).build(serving.build_id) if serving is not None else None
    return build is not None and may_go_out(build, move.provider)


def _line(standing: Standing, records: ImageRecords) -> str | None:
    """What there is to say of a region; None of one where nothing happens."""
    move, serving = standing.move, standing.serving
    if move.fate is MoveFate.STAYS:
        return None
    if standing.there and serving is not None:
        return f"serves build {short(serving.build_id)}"
    if standing.trouble is not None:
        return text.one_line(standing.trouble)
    if not _is_sent_first(move) and move.upload is not None:
        instead = f" from build {short(move.serving.build_id)}" if move.serving is not None else ""
        return f"build {short(move.upload.build_id)} takes over{instead}"
    sent = _newest(move, records)
    if sent is None or sent.state in (UploadState.FAILED, UploadState.DELETING):
        return "waits for an upload to begin"
    if sent.state is UploadState.READY:
        return f"build {short(sent.build_id)} is there, and takes over"
    return f"upload of build {short(sent.build_id)}: {progress(sent)}"


def _rest(standing: Standing, records: ImageRecords, now: datetime) -> str:
    """What changes all the time and is told along: how long it took, or still takes."""
    if standing.there:
        return f" after {text.duration(standing.seconds)}" if standing.seconds is not None else ""
    sent = _newest(standing.move, records) if _is_sent_first(standing.move) else None
    return told(motion(sent, records, now)) if sent is not None else ""


def _newest(move: Move, records: ImageRecords) -> Upload | None:
    """The last try of sending a region what it is to get, if it is to get anything."""
    if move.build is None:
        return None
    return last_try(records, move.build.id, move.provider)


def _is_sent_first(move: Move) -> bool:
    """Whether nothing can take over before an upload is ready."""
    return move.fate is MoveFate.UPLOAD and (move.upload is None or move.upload == move.serving)


def _is_coming(move: Move, records: ImageRecords, decision: UploadDecision | None) -> bool:
    """Whether what is sent first is on its way, or there."""
    sent = _newest(move, records)
    is_ready = sent is not None and sent.state is UploadState.READY
    return is_ready or (decision is not None and decision.verdict in _COMING)


def _decision(scene: Scene, image: str, provider: str) -> UploadDecision | None:
    return next((d for d in scene.uploads if (d.image, d.provider) == (image, provider)), None)


def _why(decision: UploadDecision | None) -> str:
    return "nothing is uploaded there any more" if decision is None else decision.reason
