"""Reads a configuration's text, puts the environment's values into it, and tells texts apart.

It is all that a command needs which asks the daemon of this machine: whether both mean the same
configuration shows in the fingerprint of their texts, which takes a hundredth of the time of loading it.
"""

from __future__ import annotations

import hashlib
import os.path
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from builder.config.problems import Place, Problems
from builder.errors import ConfigError

MAX_BYTES: Final = 8 * 1024 * 1024
STATE_DIR: Final = "/var/lib/imagepool"

_VARIABLE = re.compile(r"%\(((?:NODEPOOL|IMAGEPOOL)_[A-Za-z0-9_]*)\)")
#: The entry on a line of its own, as everybody writes it.
_STATE_DIR = re.compile(
    r"^state-dir:[ \t]+(?P<quote>[\"']?)(?P<path>[^\"'#\n\r]+?)(?P=quote)[ \t]*(?:#.*)?$", re.MULTILINE
)
#: The entry with all lines that may belong to it.
_INCLUDE = re.compile(r"^include:(?P<files>[^\n]*(?:\n(?:[ \t-][^\n]*|#[^\n]*|\]?(?=\n)))*)", re.MULTILINE)


def read_text(file: Path, *, secret: bool = False) -> str:
    """The file's text. Raises ConfigError when it is missing, unreadable, huge or not UTF-8."""
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        hint = "Name the configuration with --config FILE or IMAGEPOOL_CONFIG."
        if secret:
            hint = "Name the secure file with --secure FILE or IMAGEPOOL_SECURE."
        raise ConfigError([f"{file}: can't be read: {error.strerror or error}"], hint=hint) from error
    if len(content) > MAX_BYTES:
        raise ConfigError([f"{file}: larger than {MAX_BYTES // 1024**2} MiB, this is no configuration"])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{file}:{line}: not UTF-8 text"]) from error


def expand(text: str, file: Path, environ: Mapping[str, str], problems: Problems) -> str:
    """Replace %(NODEPOOL_X) and %(IMAGEPOOL_X) by the environment's values, before YAML is parsed.

    An unknown NODEPOOL_ name stays as it is, as nodepool has it; an unknown IMAGEPOOL_ one is a problem.
    """
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("#"):
            continue
        for name in _VARIABLE.findall(line):
            if name.startswith("IMAGEPOOL_") and name not in environ:
                problems.add(Place(file=file, line=number), f"the environment has no variable {name}")

    def value(match: re.Match[str]) -> str:
        # Where an IMAGEPOOL_ name is missing its own text keeps the YAML sound, so that the rest is checked.
        return environ.get(match[1], match[0] if match[1].startswith("NODEPOOL_") else match[1])

    return _VARIABLE.sub(value, text)


def absolute(written: str, file: Path) -> Path:
    """A path as written in `file`: a relative one is relative to the file, not to whoever reads it."""
    return Path(os.path.normpath(file.absolute().parent / written))


def fingerprint(text: str, secure: str, included: Sequence[str] = ()) -> str:
    """What tells a configuration from others: of its text, expanded, its secure file's, "" for none, and
    those of the files it includes."""
    texts = (text, secure, *included)
    parts = [hashlib.sha256(part.encode(errors="surrogatepass")).digest() for part in texts]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def state_dir_in(text: str, file: Path) -> Path:
    """Where the state directory most likely is: a hint, for nothing is parsed.

    A wrong one costs who follows it the answer and nothing more: a daemon that listens there tells nothing
    to those who mean another configuration (`fingerprint`).
    """
    found = _STATE_DIR.search(text)
    return absolute(found["path"] if found else STATE_DIR, file)


def includes_in(text: str, file: Path) -> tuple[Path, ...]:
    """Which files it most likely includes: a hint as well, and a wrong one costs as little."""
    found = _INCLUDE.search(text)
    if not found:
        return ()
    lines = (line.partition(" #")[0].strip() for line in found["files"].splitlines())
    written = (name for line in lines if not line.startswith("#") for name in line.strip("[]").split(","))
    names = (name.strip().removeprefix("- ").strip(" \"'[]") for name in written)
    return tuple(absolute(name, file) for name in names if name)
