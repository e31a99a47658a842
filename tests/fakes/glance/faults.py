"""What can be made to go wrong in the fake cloud, as the lines of a script."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Fault:
    """One thing that goes wrong; made by the functions below."""

    on: str
    do: str
    status: int = 503
    text: str = ""
    after: float = 0.0
    change: Mapping[str, Any] = field(default_factory=dict)
    region: str | None = None
    times: int | None = 1


def answers(status: int, *, on: str, text: str = "", after: float = 1.0, **more: Any) -> Fault:
    """The service answers so instead of doing its work."""
    return Fault(on=on, do="answer", status=status, text=text, after=after, **more)


def resets(*, on: str, after: float = 0.0, **more: Any) -> Fault:
    """The connection is reset (RST), without an answer."""
    return Fault(on=on, do="reset", after=after, **more)


def hangs(*, on: str, after: float = 1.0, **more: Any) -> Fault:
    """No answer ever comes; with `after` below 1.0 the server stops reading, too."""
    return Fault(on=on, do="hang", after=after, **more)


def floods(size: int, *, on: str, **more: Any) -> Fault:
    """An answer of so many bytes."""
    return Fault(on=on, do="flood", status=size, **more)


def trickles(*, on: str, **more: Any) -> Fault:
    """An answer that comes byte by byte, and never to its end."""
    return Fault(on=on, do="trickle", **more)


def stores_nothing(status: int = 204, *, on: str = "send", **more: Any) -> Fault:
    """A send, stage or object that is answered with success, and nothing was stored."""
    return Fault(on=on, do="store-nothing", status=status, **more)


def then_changes(*, on: str = "send", **change: Any) -> Fault:
    """The service does its work, and then the image says something else (Glance's own names).

    A value of None takes an attribute's value away, and a property as a whole.
    """
    more = {name: change.pop(name) for name in ("region", "times") if name in change}
    return Fault(on=on, do="change", change=change, **more)


def then_loses(*, on: str = "send", **more: Any) -> Fault:
    """The service does its work, and then somebody deletes the image."""
    return Fault(on=on, do="lose", **more)


def loses_answer(*, on: str, **more: Any) -> Fault:
    """The service does its work, and the connection breaks before the answer."""
    return Fault(on=on, do="mute", **more)


def expires_token(*, on: str = "send", **more: Any) -> Fault:
    """The token ends while the bytes move: Glance throws away the image with them, and answers 401."""
    return Fault(on=on, do="expire", status=401, after=1.0, **more)


def fails_import(text: str = "told to fail", *, on: str = "imported", **more: Any) -> Fault:
    """The import or task is accepted, and comes to nothing; its task says why."""
    return Fault(on=on, do="fail-import", text=text, **more)


def never_imports(*, on: str = "imported", **more: Any) -> Fault:
    """The import or task is accepted, and goes on for ever."""
    return Fault(on=on, do="never-import", **more)
