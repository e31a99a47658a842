"""Reads the files that a configuration includes, and knows all that it is made of."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Final

from builder.config.checking import Checked, check
from builder.config.document import Document, read_document
from builder.config.problems import Problems
from builder.config.schema import ConfigFile, Library
from builder.config.text import absolute
from builder.errors import ConfigError

MAX_INCLUDED: Final = 100

_MAY_HAVE: Final = frozenset(field.alias or name for name, field in Library.model_fields.items())
_MAIN_HAS: Final = frozenset(field.alias or name for name, field in ConfigFile.model_fields.items())


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The file itself, and those it includes, in its order."""

    main: Checked[ConfigFile]
    included: tuple[Checked[Library], ...] = ()

    @property
    def files(self) -> tuple[Checked[Library], ...]:
        """All of them, the included ones first."""
        return (*self.included, self.main)

    def names(self, key: str, called: str = "name") -> frozenset[str]:
        """Every name that the lists `key` give, those of entries that don't fit included."""
        return frozenset(chain.from_iterable(file.names(key, called) for file in self.files))


def read_sources(main: Checked[ConfigFile], environ: Mapping[str, str], problems: Problems) -> Sources:
    """The file with all that it includes.

    Raises ConfigError with all problems so far when one of them can't be read, for then most names that the
    others use would be unknown.
    """
    documents = _documents(main, environ, problems)
    checked = tuple(_checked(document, problems) for document in documents if document is not None)
    if None in documents:
        problems.raise_any()
    return Sources(main=main, included=checked)


def files_of(path: Path, environ: Mapping[str, str]) -> tuple[Path, ...]:
    """The file and those it says it includes, whether they are there and sound or not; never raises."""
    try:
        data = read_document(path, environ, Problems()).data
    except ConfigError:
        data = None
    written = data.get("include") if isinstance(data, dict) else None
    names = [written] if isinstance(written, str) else written if isinstance(written, list) else []
    included = (absolute(name, path) for name in names[:MAX_INCLUDED] if isinstance(name, str))
    return (path, *included)


def included_documents(file: Document, environ: Mapping[str, str]) -> tuple[Document, ...]:
    """What the included files say that can be read, whatever is wrong with them."""
    checked = check(file, ConfigFile, Problems(), secret=False)
    return tuple(each for each in _documents(checked, environ, Problems()) if each is not None)


def _documents(
    main: Checked[ConfigFile], environ: Mapping[str, str], problems: Problems
) -> list[Document | None]:
    """Each included file as read; None, with a problem noted, for one that can't be."""
    seen = {_identity(main.document.file): "this file itself"}
    found: list[Document | None] = []
    for position, name in enumerate(main.content.include or ()):
        place = main.place("include", position)
        if position >= MAX_INCLUDED:
            problems.add(place, f"more than {MAX_INCLUDED} included files")
            return [*found, None]
        path = absolute(name, main.document.file)
        identity = _identity(path)
        if identity is not None and identity in seen:
            problems.add(place, f"{path} is {seen[identity]}")
            continue
        seen[identity] = "included already"
        try:
            found.append(_document(path, environ, problems))
        except ConfigError as error:
            problems.add(place, error.message)
            found.append(None)
    return found


def _document(path: Path, environ: Mapping[str, str], problems: Problems) -> Document | None:
    """The file as read; None when it is no YAML. Raises ConfigError when it can't be read at all."""
    try:
        # To open a pipe might take for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(
                [f"{path}: is no file that can be included: neither a directory nor a device can"]
            )
    except OSError as error:
        raise ConfigError([f"{path}: can't be read: {error.strerror or error}"]) from error
    before = len(problems)
    document = read_document(path, environ, problems)
    return None if document.data is None and len(problems) > before else document


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from others, however it is reached; None for one that is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _checked(document: Document, problems: Problems) -> Checked[Library]:
    data = document.data
    if isinstance(data, dict):
        for key in sorted(data.keys() & (_MAIN_HAS - _MAY_HAVE)):
            problems.add(
                document.place((key,)),
                f"an included file has {' and '.join(sorted(_MAY_HAVE))} alone; this belongs to the file that"
                " includes it",
            )
        data = {key: value for key, value in data.items() if key not in _MAIN_HAS - _MAY_HAVE}
    return check(replace(document, data=data), Library, problems, secret=False)
