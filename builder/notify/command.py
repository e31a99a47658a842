"""Tells an event to a program: as JSON on its standard input; it was told when the program ends with 0."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from builder.config.model import masked_credentials
from builder.config.passing import passed
from builder.errors import ToolMissingError
from builder.process.child import Child

#: Characters of the last line it printed that are kept.
_LINE: Final = 200
#: Seconds to end after TERM, before KILL.
_GRACE: Final = 5.0


def send(
    command: Sequence[str], body: str, *, timeout: float, environ: Mapping[str, str] = os.environ
) -> str | None:
    """Run a command to its end, within `timeout` seconds; why the event was not told, None when it was.

    Whatever it has started has ended by then, too, unless it left its process group.
    """
    last: deque[str] = deque(maxlen=1)
    try:
        child = Child(
            command,
            env=passed(environ),
            cwd=Path("/"),
            on_line=lambda line: last.append(line) if line.strip() else None,
            text=body.encode(),
        )
    except ToolMissingError as error:
        return error.message
    except OSError as error:
        return f"{command[0]} can't be run: {error.strerror or error}"
    code = child.wait(timeout)
    if code is None:
        child.stop(_GRACE)
        return f"{command[0]} did not end within {timeout:g} s"
    child.sweep()
    if code == 0:
        return None
    said = f": {masked_credentials(last[0])[:_LINE]}" if last else ""
    return f"{command[0]} ended with {code}{said}"
