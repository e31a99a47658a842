"""Which record is the newest: the one order that builds, uploads and clean-up agree on.

Ties are broken by id, so that every machine finds the same one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from builder.model import BudgetAction, Build, BuildState, ImageRecords, Upload, UploadState, UploadWish

#: The time of what has not happened: before all others.
NEVER: Final = datetime.min.replace(tzinfo=UTC)


def ready_builds(records: ImageRecords) -> tuple[Build, ...]:
    """The ready builds, that which became ready last first."""
    return tuple(sorted(records.ready_builds, key=lambda b: (b.state_time, b.id), reverse=True))


def newest_ready(records: ImageRecords) -> Build | None:
    """The build that is uploaded and that decides whether a new one is due; None without one."""
    return next(iter(ready_builds(records)), None)


def may_go_out(build: Build | None, provider: str | None) -> bool:
    """Whether nobody withholds a build from a provider; from everywhere, if that is None. Of a build whose
    record is gone nobody knows of any such word."""
    if build is None:
        return True
    return (build.quarantine if provider is None else build.withheld_from(provider)) is None


def good_builds(records: ImageRecords, provider: str | None = None) -> tuple[Build, ...]:
    """The ready builds that are not withheld from a provider, or not in quarantine, as `ready_builds`."""
    return tuple(build for build in ready_builds(records) if may_go_out(build, provider))


def newest_good(records: ImageRecords, provider: str | None = None) -> Build | None:
    """The build that is wanted in a provider, or the last one that is worth anything anywhere; None without
    one."""
    return next(iter(good_builds(records, provider)), None)


def undecided(records: ImageRecords) -> Build | None:
    """The held build on which somebody is to decide: the newest one that is newer than what is good; None
    without one."""
    good = newest_good(records)
    newer = itertools.takewhile(lambda build: build is not good, ready_builds(records))
    return next((build for build in newer if build.hold is not None), None)


def turned_away(build: Build) -> bool:
    """Whether a build was held over its budget, and nobody has let it go: it waits, or was rejected."""
    word = build.quarantine
    over = word is not None and (word.held or bool(build.over_budget(BudgetAction.HOLD)))
    return over and build.release is None


def newest_first(uploads: Iterable[Upload]) -> tuple[Upload, ...]:
    """Uploads by the time of their state, which on ready ones is nodepool's (`picked`)."""
    return tuple(sorted(uploads, key=lambda u: (u.state_time, u.build_id, u.id), reverse=True))


def ready_uploads(uploads: Iterable[Upload]) -> tuple[Upload, ...]:
    """The ready ones, that first which nodepool's launcher takes."""
    return newest_first(u for u in uploads if u.state is UploadState.READY)


def picked(uploads: Iterable[Upload]) -> Upload | None:
    """The ready upload that nodepool's launcher takes, of those of one image to one provider: it knows no
    other order than that of `state_time`."""
    return next(iter(ready_uploads(uploads)), None)


Place = tuple[datetime, str]


def place(build: Build | None, upload: Upload) -> Place:
    """Where the build of an upload stands among all of its image: what is newer has the greater place."""
    # When it began: a build that is to go has another time of state.
    return (build.began if build is not None else upload.started or upload.since, upload.build_id)


def by_age(records: ImageRecords, uploads: Iterable[Upload]) -> tuple[Upload, ...]:
    """Uploads by the age of their builds, the newest first, whichever of them serves."""
    builds = {build.id: build for build in records.builds}
    return tuple(
        sorted(uploads, key=lambda u: (place(builds.get(u.build_id), u), u.since, u.id), reverse=True)
    )


def in_service(records: ImageRecords, provider: str) -> Upload | None:
    """The ready upload that serves a provider, as far as that is known: where no record says it, that which
    nodepool's launcher takes."""
    ready = [u for u in records.uploads_to(provider) if u.state is UploadState.READY]
    serving = [u for u in ready if u.serving is not None]
    return next(iter(by_age(records, serving)), None) or picked(ready)


def may_serve(upload: Upload) -> bool:
    """Whether it serves, for all we know.

    nodepool's commands write `deleting` without what is ours, so whether that one serves is lost.
    """
    lost = upload.state is UploadState.DELETING and upload.deletion is None
    return lost or upload.serving is not None


def has_file(build: Build, image_format: str) -> bool:
    """Whether a build has a file of that format that was not pruned since."""
    return build.artifact(image_format) is not None and image_format not in build.pruned


def is_there(records: ImageRecords, build: Build, provider: str) -> bool:
    """Whether an upload of the build is ready in the provider."""
    return any(u.state is UploadState.READY for u in records.uploads_of(build.id, provider))


def was_ready(build: Build) -> bool:
    """Whether a build came out well, although it may have been told to go since."""
    if build.state is BuildState.DELETING:
        return bool(build.formats or build.artifacts)  # a failed build has neither
    return build.state is BuildState.READY


def runs(build: Build, records: ImageRecords) -> bool:
    """Whether a build that says it is being built is: the lock is the image's, so only the newest can be."""
    if build.state is not BuildState.BUILDING or not records.build_claimed:
        return False
    alive = max((b for b in records.builds if b.state is BuildState.BUILDING), key=lambda b: (b.began, b.id))
    return alive.id == build.id


def moving(records: ImageRecords) -> tuple[Upload, ...]:
    """The uploads that are under way: of those of a claimed pair, the newest that says so."""
    alive: dict[tuple[str, str], Upload] = {}
    for upload in newest_first(u for u in records.uploads if u.state is UploadState.UPLOADING):
        pair = (upload.build_id, upload.provider)
        # The lock is the pair's, so of several records only the newest can be alive.
        if pair in records.uploads_claimed:
            alive.setdefault(pair, upload)
    return tuple(alive.values())


def unwanted(records: ImageRecords, build: Build, provider: str) -> UploadWish | None:
    """The wish that keeps a build away from a provider, None when nothing does.

    Whoever deletes an upload with another tool, such as nodepool's CLI, just writes `deleting`; the
    janitor makes a wish of that, and until then the record itself counts as one.
    """
    wishes = [wish] if (wish := build.wish(provider)) else []
    wishes += [
        UploadWish(provider=provider, wanted=False, by="another tool", time=upload.state_time)
        for upload in records.uploads_of(build.id, provider)
        if upload.state is UploadState.DELETING and upload.deletion is None
    ]
    latest = max(wishes, key=lambda wish: wish.time, default=None)
    return None if latest is None or latest.wanted else latest
