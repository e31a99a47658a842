"""Words an event: what the end of a build, or its refusal by a check, is for those who are told; pure.

An event is one JSON object. `text` is for people, the rest for programs:

    schema, event, id          1, "build", and what tells this event from all others
    image, build, state        names as on record; "ready" or "failed"
    reason                     of a failed build: class, message, phase, step, exit_code, lines; else null
    builder, started, ended    the machine's name; ISO 8601, UTC
    budgets                    what came of each of its budgets: measure, over ("warn", "hold", "fail" or
                               null), value, limit, baseline, sentence
    held                       why it goes nowhere until somebody releases it, null if it is not held
    changes                    how it differs from the build before it (its changes.json), null if unknown
    text                       one line

Of a refusal, `event` is "refusal"; `provider` is from where the build is withheld, null for everywhere; `by`
is which check it was, `time` when, and `why` the last line that it printed, or how it ended; the rest is not
in it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from builder.model import BudgetAction, BudgetCheck, Build, Failure, Withholding

SCHEMA: Final = 1
#: Characters of a text for people.
LONGEST_TEXT: Final = 1000
#: What could end a line or steer a terminal, and what turns the direction of writing.
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")


def id_of(build: Build) -> str:
    """What tells a build's end from all others; a build that was taken for lost can end twice."""
    return f"{build.id}.{build.state}"


def body_of(build: Build, changes: Mapping[str, Any] | None) -> str:
    """The event of a build that is ready or failed, as JSON; the same for everybody and at each try."""
    event = {
        "schema": SCHEMA,
        "event": "build",
        "id": id_of(build),
        "image": build.image,
        "build": build.id,
        "state": str(build.state),
        "reason": _reason(build.reason),
        "builder": build.builder,
        "started": _time(build.started),
        "ended": _time(build.ended or build.state_time),
        "budgets": [_budget(check) for check in build.budgets],
        "held": build.hold.why if build.hold is not None else None,
        "changes": changes,
        "text": text_of(build, changes),
    }
    return json.dumps(event)


def id_of_refusal(build: Build, word: Withholding) -> str:
    """What tells the refusal of a build from all others; with one dot, as the id of every event."""
    # A name may have dots, and it may be anything: a record says it.
    name = "" if word.provider is None else hashlib.sha256(word.provider.encode(errors="replace")).hexdigest()
    return f"{build.id}.refused-{name[:8] or 'all'}-{round(word.time.timestamp() * 1000)}"


def body_of_refusal(build: Build, word: Withholding) -> str:
    """The event of a build that is withheld because a check refused it, as JSON."""
    where = "in quarantine" if word.provider is None else f"withheld from {word.provider}"
    why = f": {word.why}" if word.why else ""
    event = {
        "schema": SCHEMA,
        "event": "refusal",
        "id": id_of_refusal(build, word),
        "image": build.image,
        "build": build.id,
        "provider": word.provider,
        "by": word.by,
        "time": _time(word.time),
        "why": word.why,
        "text": _one_line(f"{build.image}: build {build.id[:8]} is {where}, refused by the {word.by}{why}"),
    }
    return json.dumps(event)


def text_of(build: Build, changes: Mapping[str, Any] | None) -> str:
    """One line for people; what is in it of an image or a log is without control characters."""
    name = f"{build.image}: build {build.id[:8]}"
    if build.reason is not None:
        text = f"{name} failed: {build.reason.summary}"
    else:
        took = "" if build.duration is None else f" after {_duration(build.duration)}"
        summary = changes.get("summary") if changes else None
        more = [*filter(None, [_over(build)]), *([summary] if isinstance(summary, str) else [])]
        state = "held" if build.hold is not None else build.state
        text = ": ".join([f"{name} is {state}{took}", *(["; ".join(more)] if more else [])])
    return _one_line(text)


def _one_line(text: str) -> str:
    text = _CONTROL.sub(" ", text)
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 3]}..."


def _over(build: Build) -> str | None:
    """What is over budget of a build that did not fail for it, and what is to be done; None when nothing
    is."""
    if build.hold is not None:
        return f"{build.hold.why}; 'imagepool build release {build.id[:8]}' lets it go"
    over = build.over_budget(BudgetAction.WARN)
    return f"over budget: {', '.join(check.sentence for check in over)}" if over else None


def _budget(check: BudgetCheck) -> dict[str, Any]:
    return {
        "measure": check.measure,
        "over": None if check.over is None else str(check.over),
        "value": check.value,
        "limit": check.limit,
        "baseline": check.baseline,
        "sentence": check.sentence,
    }


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _reason(failure: Failure | None) -> dict[str, Any] | None:
    if failure is None:
        return None
    return {
        "class": str(failure.failure_class),
        "message": failure.message,
        "phase": failure.phase,
        "step": failure.step,
        "exit_code": failure.exit_code,
        "lines": list(failure.lines),
    }


def _time(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()
