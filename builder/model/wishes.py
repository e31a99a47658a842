"""What people want, whose word that is, and the daemons that are there to do it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from builder.model.names import empty


@dataclass(frozen=True, kw_only=True)
class Request:
    """The wish for a build of an image: who or what wished it, when, and why.

    nodepool's own request node is empty: `by` and `why` then say so. `stamp` tells two requests
    for the same image apart (the id of the transaction that wrote the znode); 0 when not stored yet.
    Two requests are the same when who, why and when are; how it is to be served may be changed meanwhile.
    """

    image: str
    by: str
    why: str
    time: datetime
    manual: bool = True  #: a person asked, against the scheduler by itself
    force: bool = field(default=False, compare=False)  #: build although the configuration or a freeze says no
    urgent: bool = field(default=False, compare=False)  #: before all others that wait
    #: The time of the schedule that it is for, which is not when it was filed; None: not by schedule.
    tick: datetime | None = field(default=None, compare=False)
    stamp: int = field(default=0, compare=False)
    #: Fields of the record that we don't know, and words in it that we don't; written back as they were.
    extra: Mapping[str, Any] = field(default_factory=empty, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class Pause:
    """Somebody's word that something stands still (a pause, a freeze) or is gone for good (a forgotten
    builder), until it is taken back: whose, when, and why if they said so."""

    by: str
    time: datetime
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Daemon:
    """A daemon that is alive, as it shows itself in ZooKeeper for as long as its session lasts."""

    hostname: str
    roles: tuple[str, ...]
    version: str
    started: datetime
    builder_id: str | None = None  #: whose files it holds; None on records of earlier versions
    labels: frozenset[str] = frozenset()  #: what diskimages may require: its architecture, and its own
    build_workers: int = 1
    unfit: str | None = None  #: why it takes no builds now: a tool is missing, a disk is full
    draining: bool = False  #: it stops: what runs may end, nothing new begins
    withholds: bool = True  #: it keeps away what is withheld, of which earlier versions know nothing


@dataclass(frozen=True, kw_only=True)
class Cancellation:
    """The wish that a running build ends: whose, when, and why if they said so."""

    image: str
    build_id: str
    by: str
    time: datetime
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class UploadCancellation:
    """The wish that a running upload ends: whose, when, and why if they said so."""

    upload: str  #: `Upload.name`
    image: str
    by: str
    time: datetime
    why: str = ""
    #: Fields of the record that we don't know, and words in it that we don't; written back as they were.
    extra: Mapping[str, Any] = field(default_factory=empty, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class UploadWish:
    """What somebody wants of a build in one provider, against what would happen by itself.

    Not `wanted`: it stays away from there; whoever deletes an upload wishes that. `wanted`: it goes
    there, and failures before `time` don't count any more. The latest wish for a provider holds.
    """

    provider: str
    wanted: bool
    by: str
    time: datetime
    why: str = ""
    #: Fields of the record that we don't know, and words in it that we don't; written back as they were.
    extra: Mapping[str, Any] = field(default_factory=empty, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class Withholding:
    """The word that a build is not to serve: in one provider, or nowhere at all, which is its quarantine.

    A hold is one that nobody has said yet: the build is over budget, and goes nowhere until somebody releases
    or rejects it. Versions that know of no holds take it for a quarantine.
    """

    provider: str | None  #: None: everywhere
    by: str
    time: datetime
    why: str = ""
    held: bool = False  #: it waits for somebody to decide; everywhere alone
    #: Fields of the record that we don't know, and words in it that we don't; written back as they were.
    extra: Mapping[str, Any] = field(default_factory=empty, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class Release:
    """Who let a build go out that was held, when and why."""

    by: str
    time: datetime
    why: str = ""
    #: Fields of the record that we don't know, and words in it that we don't; written back as they were.
    extra: Mapping[str, Any] = field(default_factory=empty, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class Clearance:
    """The word that a build may serve in one provider, or everywhere, whatever `promote` has it wait for."""

    provider: str | None  #: None: everywhere
    by: str  #: "imagepool" when the canaries have served it as long as they had to
    time: datetime
    why: str = ""
    #: Fields of the record that we don't know, and words in it that we don't; written back as they were.
    extra: Mapping[str, Any] = field(default_factory=empty, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """Who wanted a record to go, when and why; `by` is "imagepool" for retention's own decisions."""

    by: str
    time: datetime
    why: str = ""
    #: Fields of the record that we don't know, and words in it that we don't; written back as they were.
    extra: Mapping[str, Any] = field(default_factory=empty, compare=False, repr=False)
