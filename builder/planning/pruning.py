"""Decide which files of ready builds nobody needs any more: `delete-after-upload`, `keep-formats`, old ones.

A file goes when every provider that takes its format has the image, from this build or a newer one that is
not withheld there; its parts go with it. A format that no provider takes stays: its file is the only copy
there is. Of a build whose record stays only because failed uploads of it may be looked at, all files go.

Only what is ready in a provider counts as being there, and only ready builds lose files: an upload
that began while its build was still running needs its file until it is ready, as any does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from builder.config.model import Config, Provider
from builder.model import Build, ImageFormat, ImageRecords, Pause, UploadState
from builder.planning.actions import CleanupAction, CleanupKind, Verdict
from builder.planning.records import has_file, is_there, may_go_out, ready_builds
from builder.planning.retention import kept_for_the_record
from builder.planning.words import listed, short


def spent_files(
    config: Config, records: ImageRecords, now: datetime, builder_id: str, forgotten: Mapping[str, Pause]
) -> Iterator[CleanupAction]:
    """The files to delete from the machine whose id is `builder_id`, and those that other machines will.

    None of a builder that is gone for good: its files went with it.
    """
    image = config.diskimages.get(records.name)
    if image is None:
        return
    builds = ready_builds(records)
    for_the_record = kept_for_the_record(config, records, now)
    for position, build in enumerate(builds):
        files = tuple(a.format for a in build.artifacts if has_file(build, a.format) and not a.format.is_part)
        if _moving(records, build) or build.builder_id in forgotten:
            continue
        if build.id in for_the_record:
            spent, why = files, "the build is superseded, and only its record is kept"
        elif image.delete_after_upload:
            spent = tuple(
                each
                for each in files
                if each not in image.keep_formats
                and _everywhere(config.providers_of(image.name), records, each, builds[: position + 1])
            )
            why = f"who takes {_it(spent)} has this build or a newer one"
        else:
            continue
        if spent:
            yield _prune(build, spent, why, builder_id)


def _everywhere(
    providers: Iterable[Provider], records: ImageRecords, image_format: str, builds: tuple[Build, ...]
) -> bool:
    """Whether every provider that takes the format has one of the builds that may serve there, and there is
    such a provider."""
    takers = [provider for provider in providers if provider.image_format == image_format]
    return bool(takers) and all(
        any(is_there(records, b, taker.name) and may_go_out(b, taker.name) for b in builds)
        for taker in takers
    )


def _moving(records: ImageRecords, build: Build) -> bool:
    """Whether an upload of the build is under way, which reads a file of it."""
    claimed = any(build_id == build.id for build_id, _ in records.uploads_claimed)
    return claimed or any(u.state is UploadState.UPLOADING for u in records.uploads_of(build.id))


def _prune(build: Build, formats: tuple[ImageFormat, ...], why: str, builder_id: str) -> CleanupAction:
    here = build.builder_id == builder_id
    reason = f"The {listed(formats)} of build {short(build.id)} can go from the disk: {why}"
    if not here:
        reason += f"; {build.builder or 'an unknown machine'} has the files and deletes them"
    return CleanupAction(
        kind=CleanupKind.PRUNE_BUILD,
        build=build,
        # What boots only with its parts takes them along.
        formats=tuple(file for each in formats for file in (each, *each.parts)),
        verdict=Verdict.NOW if here else Verdict.NO,
        reason=f"{reason}.",
    )


def _it(formats: tuple[ImageFormat, ...]) -> str:
    return "it" if len(formats) == 1 else "them"
