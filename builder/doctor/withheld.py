"""Looks at builds that are kept out of service: which they are, which wait for somebody's word, where one
serves all the same, and whether all daemons know of such a word."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Final

from builder.config.model import Config
from builder.findings import Finding, fine, warning
from builder.model import Build, Snapshot
from builder.planning.promotion import promotions_of
from builder.planning.records import in_service, may_go_out, undecided
from builder.planning.rollback import too_old
from builder.planning.words import at, counted, short, withheld

NAME: Final = "withheld"
#: How many builds are named.
_NAMED: Final = 5


def look(config: Config, snapshot: Snapshot, now: datetime) -> Iterator[Finding]:
    """Nothing when no build is withheld."""
    builds = [build for build in snapshot.builds() if build.withheld]
    if not builds:
        return
    yield from _undecided(snapshot)
    images = sorted({build.image for build in builds})
    misfits = [*_serving(config, snapshot, now, images), *_left(config, snapshot, images)]
    if not misfits:
        yield fine(NAME, f"no region serves what is withheld: {_list(builds)}")
    yield from misfits
    for daemon in too_old(snapshot):
        yield warning(
            NAME,
            f"{daemon.hostname} runs version {daemon.version}, which knows nothing of withheld builds",
            hint="It may let them serve again, and delete what takes their place: upgrade it, or stop it.",
        )


def _undecided(snapshot: Snapshot) -> Iterator[Finding]:
    """The held builds that wait for somebody."""
    for records in snapshot.images.values():
        build = undecided(records)
        if build is not None and build.hold is not None:
            name = short(build.id)
            yield warning(
                NAME,
                f"{build.image}: build {name} is held since {at(build.hold.time)}: {build.hold.why}",
                hint=f"`imagepool build release {name}` lets it go, `imagepool build reject {name}` keeps it"
                " out; a newer build that is good takes its place.",
            )


def _serving(config: Config, snapshot: Snapshot, now: datetime, images: Iterable[str]) -> Iterator[Finding]:
    """The regions that serve a build which is withheld from them, for they have nothing else."""
    for image in config.diskimages.values():
        if image.name not in images:
            continue
        records = snapshot.image(image.name)
        for promotion in promotions_of(image, config, snapshot, now):
            heir = promotion.upload
            if heir is not None and not may_go_out(records.build(heir.build_id), promotion.provider):
                yield warning(
                    NAME,
                    f"{image.name}: {promotion.reason.rstrip('.')}",
                    hint="A region is never left without any. `imagepool image build` makes another,"
                    f" `imagepool image explain {image.name}` says what comes next.",
                )


def _left(config: Config, snapshot: Snapshot, images: Iterable[str]) -> Iterator[Finding]:
    """The places that serve one, and where nothing takes over: the configuration has left the image there."""
    for name in images:
        records = snapshot.image(name)
        listing = {p.name for p in config.providers_of(name)} if name in config.diskimages else set()
        for provider in sorted({upload.provider for upload in records.uploads} - listing):
            serving = in_service(records, provider)
            build = records.build(serving.build_id) if serving is not None else None
            word = build.withheld_from(provider) if build is not None else None
            if build is not None and word is not None:
                yield warning(
                    NAME,
                    f"{name}: {withheld(build.id, word)}, and serves in {provider} all the same: the"
                    " configuration does not let the image go there, so nothing takes over",
                    hint="`imagepool cleanup` deletes what is left there. Configured again, it gets another.",
                )


def _list(builds: list[Build]) -> str:
    named = "; ".join(_told(build) for build in builds[:_NAMED])
    return f"{named}; {counted(len(builds) - _NAMED, 'build')} more" if len(builds) > _NAMED else named


def _told(build: Build) -> str:
    return f"{', '.join(withheld(build.id, word) for word in build.withheld)} ({build.image})"
