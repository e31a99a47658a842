"""The file beside a build's artifacts that tells who withheld it, so that this outlives the records.

<images_dir>/<image>-<build_id>.d/withheld.json
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from builder.dib.output import artifacts
from builder.model import Withholding, name_problem

NAME: Final = "withheld.json"
DRAFT: Final = f".{NAME}.partial"
#: Bytes, and words of people in it; ours are far smaller.
_LIMIT: Final = 1 << 20
_TEXT: Final = 2000
_NOBODY: Final = "somebody"


def write(images_dir: Path, image: str, build_id: str, withheld: tuple[Withholding, ...]) -> None:
    """Let the file say this; with none there is no such file. Nothing happens where no build of ours is.

    Raises OSError, and RefusedError for names that can't be those of files.
    """
    home = artifacts.directory(images_dir, image, build_id)
    if not (home / artifacts.PROOF).is_file():
        return
    if not withheld:
        (home / NAME).unlink(missing_ok=True)
        return
    draft = home / DRAFT
    with draft.open("w") as stream:
        json.dump([_fields(each) for each in withheld], stream, indent=1)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    # Should a power cut undo this, the record still says it, and the next start writes it again.
    draft.rename(home / NAME)


def read(images_dir: Path, image: str, build_id: str) -> tuple[Withholding, ...]:
    """What the file says, none when there is no such file. What makes no sense in it says all the same that
    the build is withheld, everywhere: somebody meant it. RefusedError as above, OSError."""
    file = artifacts.directory(images_dir, image, build_id) / NAME
    try:
        with file.open("rb") as stream:
            written = datetime.fromtimestamp(os.fstat(stream.fileno()).st_mtime, UTC)
            told = json.loads(stream.read(_LIMIT))
    except FileNotFoundError:
        return ()
    except (ValueError, RecursionError):
        told = None
    there = told if isinstance(told, list) else [told]
    return tuple({each.provider: each for each in _sensible(there, written)}.values())


def _fields(withholding: Withholding) -> dict[str, Any]:
    return {
        "provider": withholding.provider,
        "by": withholding.by,
        "time": withholding.time.isoformat(),
        "why": withholding.why,
        **({"held": True} if withholding.held else {}),
    }


def _sensible(there: list[object], written: datetime) -> Iterator[Withholding]:
    for each in there:
        said = each if isinstance(each, dict) else {}
        provider = said.get("provider")
        named = isinstance(provider, str) and name_problem(provider) is None
        yield Withholding(
            provider=str(provider) if named else None,
            by=_text(said.get("by")) or _NOBODY,
            time=_time(said.get("time")) or written,
            why=_text(said.get("why")),
            held=said.get("held") is True and not named,
        )


def _text(value: object) -> str:
    return value[:_TEXT] if isinstance(value, str) else ""


def _time(value: object) -> datetime | None:
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
        return None if time is None or time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
