"""Say how far the check of an upload's image is, when it is asked again, and who speaks when it refuses.

Which images are to be checked the canaries say (canary.py); this is about one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from builder.config.model import Canary
from builder.model import Checked, CheckVerdict, ImageRecords, Upload, Withholding
from builder.planning.actions import Verdict
from builder.planning.retry import backoff
from builder.planning.words import at, line, short

#: After a check that could not tell, and at most.
_FIRST, _LONGEST = timedelta(seconds=30), timedelta(hours=1)
#: Who is on record for what a check refused, with the provider behind it.
_CHECK: Final = "check in "


@dataclass(frozen=True, kw_only=True)
class Checking:
    """Whether an upload's image is to be checked. NOW: it is; RUNNING: it is being checked; LATER: again, at
    `due`."""

    upload: Upload
    verdict: Verdict
    reason: str
    due: datetime | None = None


def checking_of(upload: Upload, records: ImageRecords, now: datetime) -> Checking:
    """What becomes of the check of an upload's image, of which it has not come to a verdict yet."""
    checked = upload.checked
    if checked is None:
        return Checking(upload=upload, verdict=Verdict.NOW, reason=_sentence(upload))
    if checked.verdict is CheckVerdict.RUNNING:
        alive = (upload.build_id, upload.provider) in records.uploads_claimed
        verdict = Verdict.RUNNING if alive else Verdict.NOW
        cut = "" if alive else " It was cut off, and is begun anew."
        return Checking(upload=upload, verdict=verdict, reason=f"{_sentence(upload)}{cut}")
    due = _again(upload, checked)
    if checked.time > now + _LONGEST:
        due = now  # by a clock that was wrong, for which nothing is to wait
    verdict = Verdict.NOW if due <= now else Verdict.LATER
    return Checking(upload=upload, verdict=verdict, due=due, reason=_sentence(upload))


def told(upload: Upload) -> str:
    """How far the check of an upload's image is, as part of a sentence."""
    checked = upload.checked
    if checked is None:
        return "it is about to begin"
    if checked.verdict is CheckVerdict.RUNNING:
        return f"it runs since {at(checked.time)}"
    why = f": {line(checked.why)}" if checked.why else ""
    return f"it could not tell at {at(checked.time)}{why}; it is asked again at {at(_again(upload, checked))}"


def refused_where(canary: Canary, provider: str) -> str | None:
    """From where a build is withheld that the check refuses in a provider: a canary speaks for all."""
    return None if provider in canary.providers else provider


def check_in(provider: str) -> str:
    """Who is on record for what the check refuses in a provider."""
    return f"{_CHECK}{provider}"


def is_refusal(word: Withholding) -> bool:
    """Whether a build is withheld because a check refused it."""
    return word.by.startswith(_CHECK)


def _again(upload: Upload, checked: Checked) -> datetime:
    """When a check that could not tell is asked again."""
    return checked.time + backoff(_FIRST, _LONGEST, max(1, checked.tries), upload.name)


def _sentence(upload: Upload) -> str:
    return f"The check of build {short(upload.build_id)} in {upload.provider}: {told(upload)}."
