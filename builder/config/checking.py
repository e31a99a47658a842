"""Holds a document against its schema and says in plain words where it does not fit.

What does not fit is taken out, so that the rest can still be checked and every problem of a file
is found in one go.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from builder.config.document import Document
from builder.config.problems import KeyPath, Place, Problems, looks_secret, shown, suggestion
from builder.config.schema import FOREIGN_TAG, OPENSTACK_TAG

FileT = TypeVar("FileT", bound=BaseModel)
AnyFileT_co = TypeVar("AnyFileT_co", bound=BaseModel, covariant=True)

_TAGS = ((OPENSTACK_TAG,), (FOREIGN_TAG,))
_WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "finite_number": "a finite number",
}
_RANGES = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than_equal": ("at most", "le"),
}


@dataclass(frozen=True, kw_only=True)
class Checked(Generic[AnyFileT_co]):
    """A file that fits its schema, or what of it does; `document` has the places."""

    content: AnyFileT_co
    document: Document
    #: Of each list that entries were taken out of, which of those in the file are left.
    left: Mapping[KeyPath, Sequence[int]] = field(default_factory=dict)

    def place(self, *path: str | int) -> Place:
        """Where an entry of `content` is written."""
        return self.document.place(_path_in_file(path, self.left))

    def is_cut(self, *path: str | int) -> bool:
        """Whether entries were taken out of a list of `content`, because they don't fit."""
        return _path_in_file(path, self.left) in self.left

    def names(self, key: str, called: str = "name") -> frozenset[str]:
        """Every name the list `key` gives, those of entries that don't fit included."""
        data = self.document.data
        entries = data.get(key) if isinstance(data, dict) else None
        if not isinstance(entries, list):
            return frozenset()
        named = (entry.get(called) for entry in entries if isinstance(entry, dict))
        return frozenset(name for name in named if isinstance(name, str))


def check(document: Document, schema: type[FileT], problems: Problems, *, secret: bool) -> Checked[FileT]:
    """What of a document fits the schema; all that doesn't is a problem.

    `secret`: no value of this file may appear in a message.
    """
    data = {} if document.data is None else copy.deepcopy(document.data)
    if not isinstance(data, dict):
        problems.add(document.place(()), f"the file must be a mapping of keys, not {shown(data)}")
        data = {}
    left: dict[KeyPath, list[int]] = {}
    reported = False
    while True:
        try:
            return Checked(content=schema.model_validate(data), document=document, left=left)
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=True)
        # Taking out a name makes its entry incomplete; only the first round tells what people wrote.
        if not reported:
            _report(found, document, schema, problems, secret=secret)
            reported = True
        for path in _paths_to_remove(found):
            _remove(data, path, left)


def keys_of(schema: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key a file of that schema can have, with the path to it: "diskimages[].name". Where names of a
    kind are keys, that kind stands for them: "diskimages[].format-options.<format>.compat"."""
    for name, key in schema.model_fields.items():
        path = prefix + (key.alias or name)
        yield path
        for inner in _models_in(key.annotation):
            yield from keys_of(inner, f"{path}{_entries(str(key.annotation).lower(), inner)}.")


def _entries(annotation: str, inner: type[BaseModel]) -> str:
    """What follows a key to reach an entry of it."""
    if "dict[str" in annotation:
        return f".<{inner.__name__.removesuffix('Entry').lower()}>"
    return "[]" if "list[" in annotation else ""


def _report(
    found: list[ErrorDetails],
    document: Document,
    schema: type[BaseModel],
    problems: Problems,
    *,
    secret: bool,
) -> None:
    for error in found:
        path = _path(error)
        hidden = secret or any(isinstance(step, str) and looks_secret(step) for step in path)
        problems.add(document.place(path), _message(error, schema, hidden=hidden))


def _path(error: ErrorDetails) -> KeyPath:
    """The error's path as people wrote it: below a provider pydantic adds which kind it took it for."""
    path = error["loc"]
    return (*path[:2], *path[3:]) if path[:1] == ("providers",) and path[2:3] in _TAGS else path


def _message(error: ErrorDetails, schema: type[BaseModel], *, hidden: bool) -> str:
    kind, path = error["type"], _path(error)
    if kind == "extra_forbidden":
        return f"unknown key{suggestion(str(path[-1]), _keys_at(schema, path[:-1]))}"
    if kind == "missing":
        return "is required"
    if kind in _RANGES:
        words, limit = _RANGES[kind]
        bound = float(error["ctx"][limit])
        got = "that" if hidden else error["input"]
        return f"must be {words} {int(bound) if bound.is_integer() else bound}, not {got}"
    wanted = error["ctx"]["expected"] if kind == "literal_error" else _WANTED.get(kind)
    if wanted is None:
        return error["msg"]
    got = "something else" if hidden else shown(error["input"])
    return f"must be {wanted}, not {got}" + ("; put it in quotes" if _lacks_quotes(error) else "")


def _lacks_quotes(error: ErrorDetails) -> bool:
    """Whether something is taken for a number or a truth value that probably was meant as text."""
    value = error["input"]
    if error["type"] == "literal_error":
        return isinstance(value, float)
    return error["type"] == "string_type" and isinstance(value, bool | int | float)


def _keys_at(schema: type[BaseModel], path: KeyPath) -> list[str]:
    """The keys that the schema knows at a path."""
    model = schema
    for step in path:
        # A step that is no key is the number of an entry, or a name in a mapping of entries.
        key = next((key for key in model.model_fields.values() if key.alias == step), None)
        if key is not None:
            model = next(_models_in(key.annotation), model)
    return [key.alias or name for name, key in model.model_fields.items()]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a type is made of: ServerEntry in `list[ServerEntry] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def _paths_to_remove(found: list[ErrorDetails]) -> list[KeyPath]:
    """What has to go for the rest to fit: the entries at fault, last ones first.

    An entry that lacks a required key goes as a whole.
    """
    paths = {_path(error)[:-1] if error["type"] == "missing" else _path(error) for error in found}
    return sorted(paths, key=lambda path: [(isinstance(step, str), step) for step in path], reverse=True)


def _remove(data: dict[str, Any], path: KeyPath, left: dict[KeyPath, list[int]]) -> None:
    parent: Any = data
    for step in path[:-1]:
        parent = parent[step]
    last = path[-1]
    if isinstance(last, int):
        del left.setdefault(_path_in_file(path[:-1], left), list(range(len(parent))))[last]
    del parent[last]


def _path_in_file(path: KeyPath, left: Mapping[KeyPath, Sequence[int]]) -> KeyPath:
    """The path that an entry has in the file, of its path in what is left of it."""
    found: KeyPath = ()
    for step in path:
        kept = left.get(found, ()) if isinstance(step, int) else ()
        found = (*found, kept[step] if isinstance(step, int) and step < len(kept) else step)
    return found
