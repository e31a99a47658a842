"""Keeps in ZooKeeper which build served which provider from when to when, for each image and provider.

Nobody watches these nodes: they are written when something begins to serve, and read when a person asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType

from builder.errors import ConflictError, NotFoundError
from builder.model import Turn, name_problem
from builder.store import paths
from builder.store.nodes import ATTEMPTS, Part, deleting
from builder.store.turns import begun, decode_turns, encode_turns, ended

_Turns = tuple[Turn, ...]


class History(Part):
    """The turns of builds."""

    def history(self, image: str) -> Mapping[str, _Turns]:
        parent = paths.history(image)
        names = [name for name in self._nodes.children(parent) if name_problem(name) is None]
        read = self._nodes.read_all((name, f"{parent}/{name}") for name in sorted(names))
        turns = {name: decode_turns(node.data) for name, node in read}
        return MappingProxyType({name: each for name, each in turns.items() if each})

    def begin_turn(self, image: str, provider: str, turn: Turn) -> None:
        self._change_turns(paths.turns(image, provider), lambda there: begun(there, turn))

    def end_turn(self, image: str, provider: str, upload: str, until: datetime, why: str) -> None:
        self._change_turns(paths.turns(image, provider), lambda there: ended(there, upload, until, why))

    def forget_history(self, image: str) -> None:
        for _ in range(ATTEMPTS):
            nodes = self._nodes.subtree(paths.history(image))
            if not nodes or self._nodes.commit(map(deleting, nodes)):
                return
        raise ConflictError(f"{paths.history(image)} keeps changing while it is deleted")

    def _change_turns(self, path: str, change: Callable[[_Turns], _Turns]) -> None:
        for _ in range(ATTEMPTS):
            try:
                node = self._nodes.read(path)
            except NotFoundError:
                node = None
            there = () if node is None else decode_turns(node.data)
            turns = change(there)
            if turns == there:
                return None
            try:
                if node is None:
                    return self._nodes.create(path, encode_turns(turns))
                self._nodes.write(path, encode_turns(turns), node.version)
                return None
            except (ConflictError, NotFoundError):
                continue
        raise ConflictError(f"{path} keeps changing")
