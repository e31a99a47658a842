"""Says whether this machine can build at all, before it takes a build away from one that can.

It is a part of each build's own preflight, the part that needs no network and no time: programs,
directories, and the disk that is to stay free. What is found is remembered for some seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from builder.config.model import Config
from builder.dib import tools
from builder.dib.checks import preflight, space
from builder.errors import ImagepoolError
from builder.findings import Finding, Level, problem

#: Seconds for which an answer counts.
FRESH: Final = 10.0


def check(config: Config) -> str | None:
    """Why this machine can't build, in a sentence; None when nothing speaks against it."""
    try:
        tools.require()
    except ImagepoolError as error:
        return f"{error.message}. {error.hint}".strip() if error.hint else error.message
    named = {
        "work-dir": config.work_dir,
        "images-dir": config.images_dir,
        "cache-dir": config.cache_dir,
        "build-log-dir": config.log_dir,
    }
    found = [*preflight.directories(named, make=True)]
    if all(each.level is not Level.PROBLEM for each in found):
        found += _reserve(config, named.items())
    wrong = next((each for each in found if each.level is Level.PROBLEM), None)
    return None if wrong is None else preflight.failure(wrong).message


def _reserve(config: Config, named: Iterable[tuple[str, Path]]) -> tuple[Finding, ...]:
    """Whether each disk has the reserve free; what a build needs beyond it depends on the build."""
    try:
        uses = [space.Use(key=key, path=path) for key, path in named]
        return space.check(uses, reserve=config.disk_reserve, basis="")
    except OSError as error:
        return (problem(space.NAME, f"can't be looked at: {error.strerror} ({error.filename})"),)


class Fitness:
    """The answer, remembered for FRESH seconds and as long as the configuration stays. Thread-safe."""

    def __init__(self, ask: Callable[[Config], str | None] = check) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._asked: tuple[Config, float] | None = None
        self._answer: str | None = None

    def unfit(self, config: Config) -> str | None:
        """Why this machine can't build now; None when it can."""
        with self._lock:
            now = time.monotonic()
            if self._asked is None or self._asked[0] is not config or now - self._asked[1] >= FRESH:
                self._answer = self._ask(config)
                self._asked = (config, time.monotonic())
            return self._answer
