"""Asks bindep which packages a file names on a platform, under every profile that the file has."""

from __future__ import annotations

import functools
import re
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

#: Seconds of the clock for one file; the largest known takes two.
_PATIENCE = 60
_NAME = re.compile(r"[A-Za-z0-9/][A-Za-z0-9+._/-]{0,199}")


@dataclass(frozen=True)
class Answer:
    """The packages a file names, or what is wrong with it."""

    packages: Sequence[str] = ()
    trouble: str = ""


class Asker:
    """bindep as a library, on the platform whose /etc is below `system`; one for each process."""

    def __init__(self, tool: Path, system: Path, chosen: Sequence[str]) -> None:
        sys.path.insert(0, str(tool))
        # They are in the file that has just been made.
        self._depends = _module("bindep.depends")
        distro = _module("distro.distro")
        # Not this machine's, and nothing is run to find out.
        distro._distro = distro.LinuxDistribution(
            include_lsb=False, include_uname=False, include_oslevel=False, root_dir=str(system)
        )
        self._chosen = chosen
        # Else the grammar would be compiled for each file.
        made = functools.partial(self._depends.makeGrammar, bindings={})
        compiled = functools.lru_cache(maxsize=None)(made)
        self._depends.makeGrammar = lambda text, _: compiled(text)
        self.platform = self._platform()

    def ask(self, content: bytes) -> Answer:
        """What the file names without a profile, with each of its own and the chosen ones, and with all."""
        signal.signal(signal.SIGALRM, _too_long)
        signal.alarm(_PATIENCE)
        try:
            depends = self._depends.Depends(content.decode())
            profiles = sorted({*depends.profiles(), *self._chosen} - {"default"})
            together = [["default"], list(self._chosen), profiles, *([profile] for profile in profiles)]
            rules = [rule for each in together for rule in depends.active_rules([*each, *self.platform])]
        except UnicodeDecodeError:
            return Answer(trouble="it is not text in UTF-8")
        except (self._depends.DependsException, RecursionError, TimeoutError) as error:
            return Answer(trouble=f"bindep can't read it: {' '.join(str(error).split())[:300]}")
        finally:
            signal.alarm(0)
        names = {rule[0] for rule in rules}
        strange = sorted(name for name in names if not _NAME.fullmatch(name))
        trouble = f"these are no names of packages: {' '.join(map(ascii, strange))[:300]}" if strange else ""
        return Answer(sorted(names.difference(strange)), trouble)

    def _platform(self) -> list[str]:
        depends = self._depends.Depends("")
        words: list[str] = depends.platform_profiles()
        if isinstance(depends.platform, self._depends.Unknown):
            # Of this family are all others that these elements build.
            words = [*words, "platform:redhat", "platform:rpm"]
        return words


def _module(name: str) -> Any:
    return import_module(name)


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"it takes longer than {_PATIENCE} s")
