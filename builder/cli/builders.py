"""Tell builders apart that are alive, gone or forgotten, what each has, and what goes with it; pure.

A builder is an installation with files: its id is on every build it made. Daemons show themselves for as
long as they live, those included that build nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from builder.cli import guard, text
from builder.config.model import Config
from builder.errors import NotFoundError, RefusedError
from builder.model import Build, BuildState, Daemon, Pause, Snapshot, Upload, UploadState, name_problem
from builder.planning.due import awaiting
from builder.planning.records import has_file, newest_good
from builder.planning.words import counted, listed, short


class Presence(StrEnum):
    """Whether a builder can be reckoned with."""

    ALIVE = "alive"  #: its daemon has a session
    GONE = "gone"  #: it has none: it is down, cut off, or was taken away
    FORGOTTEN = "forgotten"  #: somebody said that it won't come back


@dataclass(frozen=True, kw_only=True)
class BuilderStatus:
    """One builder, or a daemon that builds nothing, at one moment."""

    hostname: str | None
    builder_id: str | None  #: None for a daemon of an earlier version that has built nothing
    daemon: Daemon | None  #: None when it is not alive
    forgotten: Pause | None
    leads: bool  #: its scheduler files the requests
    builds: tuple[Build, ...]  #: all on record that it made
    running: tuple[Build, ...]  #: those that it works on

    @property
    def presence(self) -> Presence:
        """Whether it can be reckoned with."""
        if self.daemon is not None or self.running:
            return Presence.ALIVE
        return Presence.GONE if self.forgotten is None else Presence.FORGOTTEN

    @property
    def holds(self) -> tuple[Build, ...]:
        """The ready builds whose files it has, or had when it was last seen."""
        if self.forgotten is not None:
            return ()
        return tuple(b for b in self.builds if b.state is BuildState.READY and _has_files(b))

    @property
    def last_build(self) -> datetime | None:
        """When it began the newest of its builds on record."""
        return max((build.began for build in self.builds), default=None)

    @property
    def name(self) -> str:
        """What to call it in a sentence."""
        known = f" ({short(self.builder_id)})" if self.builder_id else ""
        return text.one_line(f"{self.hostname or 'a builder'}{known}")


def of_all(snapshot: Snapshot) -> tuple[BuilderStatus, ...]:
    """Every daemon that is alive, then every builder that records know, those forgotten last."""
    made = _by_builder(snapshot)
    alive = [_alive(snapshot, daemon, made) for daemon in snapshot.daemons]
    known = {status.builder_id for status in alive}
    others = [_other(snapshot, i, made.get(i, ())) for i in {*made, *snapshot.forgotten} - known]
    return tuple(
        sorted(
            (*alive, *others),
            key=lambda s: (list(Presence).index(s.presence), s.hostname or "", s.builder_id or ""),
        )
    )


def named(snapshot: Snapshot, name: str) -> BuilderStatus:
    """The builder of that host name, id, or unique beginning of an id; else NotFoundError. RefusedError for
    one of whom no word can be put on record, for its id is none that we make."""
    known = [status for status in of_all(snapshot) if status.builder_id]
    found = (
        [s for s in known if s.builder_id == name]
        or [s for s in known if s.hostname == name]
        or [s for s in known if name and str(s.builder_id).startswith(name)]
    )
    if len(found) == 1:
        if problem := name_problem(str(found[0].builder_id)):
            raise RefusedError(f"no word on {found[0].name} can be kept, for of its id: {problem}")
        return found[0]
    if found:
        fits = ", ".join(f"{s.builder_id} ({s.hostname}, {s.presence})" for s in found)
        raise NotFoundError(f"{name!r} fits {len(found)} builders: {fits}", hint="Name it by its id.")
    raise NotFoundError(f"there is no builder {name!r}", hint="'imagepool builder list' shows all builders.")


def consequences(config: Config, snapshot: Snapshot, status: BuilderStatus) -> tuple[str, ...]:
    """What becomes of the builds and uploads of a builder that is forgotten, a sentence each."""
    return tuple(_consequences(config, snapshot, status))


def _consequences(config: Config, snapshot: Snapshot, status: BuilderStatus) -> Iterator[str]:
    for build in status.builds:
        if build.state is BuildState.BUILDING:
            yield f"Build {short(build.id)} of {build.image} will be failed: nobody works on it any more."
    ready = [build for build in status.builds if build.state is BuildState.READY]
    if ready:
        yield (
            f"{counted(len(ready), 'ready build')} of it ({_images(ready)}): what is in the clouds stays in"
            " use, and goes only when successors are ready; nothing is uploaded from its files any more."
        )
    for build in ready:
        if waiting := _waiting_for(config, snapshot, build):
            yield (
                f"{listed(waiting)} {'waits' if len(waiting) == 1 else 'wait'} for build {short(build.id)}"
                f" of {build.image}, so a new one is due."
            )
    going = [build for build in status.builds if build.state is BuildState.DELETING]
    if going:
        yield (
            f"{counted(len(going), 'build')} of it that was to be deleted ({_images(going)}): only the"
            " records go, and what is left on its disk stays there."
        )
    if moving := _moving(snapshot, status):
        yield f"{counted(len(moving), 'upload')} that it worked on will be failed, and cleaned up by others."


def _waiting_for(config: Config, snapshot: Snapshot, build: Build) -> list[str]:
    """The providers that still need the file of this build, if it is its image's newest good one."""
    newest = newest_good(snapshot.image(build.image))
    if newest is None or newest.id != build.id:
        return []
    return [provider.name for provider in awaiting(config, snapshot, build)]


def _moving(snapshot: Snapshot, status: BuilderStatus) -> list[Upload]:
    return [
        upload
        for upload in snapshot.uploads()
        if upload.state is UploadState.UPLOADING and upload.uploader_id == status.builder_id
    ]


def _images(builds: Sequence[Build]) -> str:
    return ", ".join(dict.fromkeys(build.image for build in builds))


def _has_files(build: Build) -> bool:
    return any(has_file(build, artifact.format) for artifact in build.artifacts)


def _by_builder(snapshot: Snapshot) -> dict[str, tuple[Build, ...]]:
    made: dict[str, list[Build]] = {}
    for build in snapshot.builds():
        if build.builder_id:
            made.setdefault(build.builder_id, []).append(build)
    return {builder_id: tuple(builds) for builder_id, builds in made.items()}


def _alive(snapshot: Snapshot, daemon: Daemon, made: dict[str, tuple[Build, ...]]) -> BuilderStatus:
    # Earlier versions don't say whose files they have; what was last built on that host tells.
    builder_id = daemon.builder_id or _newest_on(daemon.hostname, made)
    builds = made.get(builder_id, ()) if builder_id else ()
    return BuilderStatus(
        hostname=daemon.hostname,
        builder_id=builder_id,
        daemon=daemon,
        forgotten=snapshot.forgotten.get(builder_id) if builder_id else None,
        leads=snapshot.leader == daemon.hostname and "scheduler" in daemon.roles,
        builds=builds,
        running=_running(snapshot, builds),
    )


def _newest_on(hostname: str, made: dict[str, tuple[Build, ...]]) -> str | None:
    there = [build for builds in made.values() for build in builds if build.builder == hostname]
    return max(there, key=lambda b: (b.began, b.id)).builder_id if there else None


def _other(snapshot: Snapshot, builder_id: str, builds: tuple[Build, ...]) -> BuilderStatus:
    newest = max(builds, key=lambda b: (b.began, b.id), default=None)
    return BuilderStatus(
        hostname=newest.builder if newest is not None else None,
        builder_id=builder_id,
        daemon=None,
        forgotten=snapshot.forgotten.get(builder_id),
        leads=False,
        builds=builds,
        running=_running(snapshot, builds),
    )


def _running(snapshot: Snapshot, builds: Sequence[Build]) -> tuple[Build, ...]:
    return tuple(
        build
        for build in builds
        if build.state is BuildState.BUILDING and guard.is_alive(snapshot.image(build.image), build)
    )
