"""Reads YAML into plain data that remembers the line of every entry.

A document holds mappings with text keys, lists, text, numbers, true, false and null, nothing else;
a date is text. Whatever is wrong becomes a problem with file and line. What a file can make us do
is bounded: aliases may not explode, nor contain themselves, and nesting has a limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from builder.config.problems import (
    KeyPath,
    Place,
    Problems,
    looks_secret,
    path_text,
    shortened,
    suggestion,
    text_problem,
)
from builder.config.text import expand, read_text

MAX_ENTRIES: Final = 100_000
MAX_DEPTH: Final = 50

_TAG = "tag:yaml.org,2002:"
_SCALARS = frozenset(_TAG + kind for kind in ("str", "int", "float", "bool", "null"))


@dataclass(frozen=True, kw_only=True)
class Document:
    """What a YAML file says. `data` is plain; `place` tells where each entry of it is written."""

    file: Path
    text: str = ""  #: with the environment's values
    data: Any = None
    lines: Mapping[KeyPath, int] = field(default_factory=dict)

    def place(self, path: KeyPath) -> Place:
        """Where the entry is written; for an entry that isn't there, what encloses it."""
        if path not in self.lines and path and isinstance(path[-1], int):
            path = path[:-1]  # one text, where a list of them may stand
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        return Place(file=self.file, line=self.lines.get(known, 1), path=path_text(path))


def read_document(
    file: Path, environ: Mapping[str, str], problems: Problems, *, secret: bool = False
) -> Document:
    """Read, expand and parse one file; what is wrong inside it goes to `problems`.

    `secret`: nothing that stands in this file may appear in a message.

    Raises ConfigError when the file can't be read at all.
    """
    text = expand(read_text(file, secret=secret), file, environ, problems)
    try:
        root = _compose(text)
    except yaml.MarkedYAMLError as error:
        problems.add(_marked_place(file, error), _syntax_message(error, secret=secret))
        return Document(file=file)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problems.add(Place(file=file, line=line), f"not a text file: {error.reason}")
        return Document(file=file)
    reading = _Reading(file, problems, secret=secret)
    try:
        data = reading.value(root, ()) if root is not None else None
    except _TooMuchError as error:
        problems.add(error.place, error.message)
        return Document(file=file)
    return Document(file=file, text=text, data=data, lines=reading.lines)


def _compose(text: str) -> yaml.Node | None:
    """The nodes of the one document in a text; raises yaml.YAMLError."""
    if yaml.__with_libyaml__:
        # PyYAML's own parser has the last word: its messages are better, and point to the right place.
        with suppress(yaml.YAMLError):
            return _QuickLoader(text).get_single_node()
    return _BoundedLoader(text).get_single_node()


class _BoundedLoader(yaml.SafeLoader):
    """A SafeLoader that refuses deep nesting (Python's stack would end) and leaves dates as text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML reads it from the class
        first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self._depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, f"nested deeper than {MAX_DEPTH} levels", mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


class _QuickLoader(_BoundedLoader):
    """The same with the events of libyaml's parser, five times as fast.

    libyaml would compose the nodes as well, but with no bound to their depth.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._parser = yaml.CSafeLoader(text)

    def check_event(self, *choices: Any) -> bool:
        return bool(self._parser.check_event(*choices))

    def peek_event(self) -> Any:
        return self._parser.peek_event()

    def get_event(self) -> Any:
        return self._parser.get_event()


class _TooMuchError(Exception):
    """The document would grow beyond all bounds."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place
        self.message = message


class _Reading:
    """Turns nodes into plain data and notes lines on the way."""

    def __init__(self, file: Path, problems: Problems, *, secret: bool) -> None:
        self._secret = secret
        self.lines: dict[KeyPath, int] = {}
        self._file = file
        self._problems = problems
        self._scalars = yaml.constructor.SafeConstructor()
        self._open: list[yaml.Node] = []  # what encloses the node at hand: an alias to it never ends
        self._entries = 0

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        """The plain value of a node."""
        self.lines.setdefault(path, node.start_mark.line + 1)
        self._entries += 1
        if self._entries > MAX_ENTRIES:
            raise _TooMuchError(self._place(node, path), f"more than {MAX_ENTRIES} entries, aliases included")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if any(node is enclosing for enclosing in self._open):
            raise _TooMuchError(self._place(node, path), "an alias to what encloses it")
        self._open.append(node)
        try:
            return self._collection(node, path)
        finally:
            self._open.pop()

    def _collection(self, node: yaml.Node, path: KeyPath) -> Any:
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self.value(item, (*path, position)) for position, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, path)
        self._unknown_tag(node, path)
        return None

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAG}merge":
                merged = {**self._merged(value_node, path), **merged}
                continue
            key = self._key(key_node, path)
            if key is None:
                continue
            entry = (*path, key)
            if key in own:
                first = self.lines[entry]
                message = f"the key is given twice, first on line {first}"
                self._problems.add(self._place(key_node, entry), message)
                continue
            self.lines[entry] = key_node.start_mark.line + 1
            own[key] = self.value(value_node, entry)
        return {**merged, **own}

    def _merged(self, node: yaml.Node, path: KeyPath) -> dict[str, Any]:
        """What `<<` brings in; where several mappings have a key, the first one wins."""
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        merged: dict[str, Any] = {}
        for source in sources:
            if not isinstance(source, yaml.MappingNode):
                self._problems.add(self._place(node, path), "'<<' takes a mapping or a list of mappings")
                continue
            value = self.value(source, path)
            merged = {**(value or {}), **merged}
        return merged

    def _key(self, node: yaml.Node, path: KeyPath) -> str | None:
        if not isinstance(node, yaml.ScalarNode) or node.tag != f"{_TAG}str":
            written = (
                self._quoted(node.value, path) if isinstance(node, yaml.ScalarNode) else "a list or mapping"
            )
            message = f"a key must be text, not {written}; put it in quotes"
            self._problems.add(self._place(node, path), message)
            return None
        key: str = node.value
        return key if self._is_sound(key, node, path) else None

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        if node.tag not in _SCALARS:
            self._unknown_tag(node, path)
            return None
        try:
            value = self._scalars.construct_object(node)
        except (ValueError, KeyError, OverflowError):
            kind = node.tag.removeprefix(_TAG)
            self._problems.add(self._place(node, path), f"{self._quoted(node.value, path)!r} is no {kind}")
            return None
        if isinstance(value, str) and not self._is_sound(value, node, path):
            return None
        return value

    def _is_sound(self, text: str, node: yaml.Node, path: KeyPath) -> bool:
        problem = text_problem(text)
        if problem:
            self._problems.add(self._place(node, path), problem)
        return problem is None

    def _quoted(self, text: str, path: KeyPath) -> str:
        """What was written, for a message, unless it may be a secret (`password: !x` has x for a tag)."""
        hidden = self._secret or any(isinstance(step, str) and looks_secret(step) for step in path)
        return "(not shown)" if hidden else shortened(text)

    def _unknown_tag(self, node: yaml.Node, path: KeyPath) -> None:
        known = ["!!str", "!!int", "!!float", "!!bool", "!!null", "!!map", "!!seq"]
        tag = self._quoted(node.tag.replace(_TAG, "!!"), path)
        self._problems.add(self._place(node, path), f"unknown tag {tag}{suggestion(tag, known)}")

    def _place(self, node: yaml.Node, path: KeyPath) -> Place:
        return Place(file=self._file, line=node.start_mark.line + 1, path=path_text(path))


def _marked_place(file: Path, error: yaml.MarkedYAMLError) -> Place:
    mark = error.problem_mark or error.context_mark
    return Place(file=file, line=mark.line + 1 if mark else 1)


def _syntax_message(error: yaml.MarkedYAMLError, *, secret: bool) -> str:
    if secret:
        # PyYAML quotes what it stumbled over: `password: *x` is an alias that it names.
        return f"not valid YAML: {str(error.problem).partition(chr(39))[0].rstrip()}; put secrets in quotes"
    context = f" ({error.context})" if error.context else ""
    return f"not valid YAML: {error.problem}{context}"
