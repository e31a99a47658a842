"""Write beside a build how it differs from the one before: changes.json and changes.md."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from builder.dib.contents.manifest import CHANGES, CHANGES_TEXT
from builder.dib.differences import contents
from builder.dib.differences.compare import compare
from builder.dib.differences.document import plain
from builder.dib.differences.markdown import markdown
from builder.dib.differences.words import summary
from builder.dib.output.artifacts import PROOF
from builder.errors import ImagepoolError


def write(
    directory: Path,
    name: contents.Name,
    *,
    artifacts: Mapping[str, int],
    tools: Mapping[str, str],
    earlier: Iterable[Path],
) -> str:
    """Compare a build, whose manifests are in `directory`, with the first of the published builds `earlier`
    that is there, and write the two files into `directory`; one line about it for the log.

    Without an earlier one nothing is written. Trouble ends no build, and is in the line: what is new in an
    image is good to know, and nothing that it could not do without.
    """
    try:
        last = next((each for each in earlier if (each / PROOF).is_file()), None)
        if last is None:
            return "there is no earlier build on this machine to compare with"
        now = contents.describe(directory, name, artifacts=artifacts, tools=tools)
        found = compare(contents.load(last), now)
        _save(directory, {CHANGES: text(plain(found)), CHANGES_TEXT: markdown(found)})
    except ImagepoolError as error:
        return f"what is new could not be found out: {error.message}"
    except OSError as error:
        return f"what is new could not be written down: {error}"
    return f"since build {found.before.build_id}: {summary(found)}"


def _save(directory: Path, files: Mapping[str, str]) -> None:
    try:
        for name, content in files.items():
            (directory / name).write_text(content, encoding="utf-8")
    except OSError:
        # Half of it would tell something else.
        for name in files:
            (directory / name).unlink(missing_ok=True)
        raise


def text(document: Mapping[str, object]) -> str:
    """A document as JSON; names that are no text are in it by JSON's own escapes."""
    return json.dumps(document, indent=1) + "\n"
