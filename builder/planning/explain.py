"""Explain an image: whether it is built, uploaded, in use by name, kept or deleted, when, and why."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from builder.config.model import Config
from builder.errors import NotFoundError
from builder.model import Build, BuildState, ImageRecords, Snapshot, Upload, UploadState
from builder.planning.actions import CleanupAction, CleanupKind, Explanation, Verdict
from builder.planning.builds import decide_build
from builder.planning.cleanup import plan_cleanup
from builder.planning.departed import why_departed
from builder.planning.promotion import promotions_of
from builder.planning.records import ready_uploads
from builder.planning.retention import kept, lasting_uploads, marks_of
from builder.planning.uploads import decide_uploads
from builder.planning.words import changed, counted, failure, listed, short


def explain(
    config: Config, snapshot: Snapshot, now: datetime, image: str, builder_id: str | None
) -> tuple[Explanation, ...]:
    """One row each for the next build, the upload to each provider, and every build and upload there is.

    For an image with a stable name or tag, one more for each provider. Pass the whole snapshot: what
    became of other images in a provider tells whether it takes any.

    `builder_id` is this machine's, None on one that builds nothing. Raises NotFoundError when
    neither the configuration nor the store knows the image.
    """
    if image not in config.diskimages and image not in snapshot.images:
        raise NotFoundError(
            f"there is no image {image}", hint="`imagepool image list` shows the images there are."
        )
    records = snapshot.image(image)
    plan = plan_cleanup(
        config, Snapshot(images={image: records}), now, builder_id=builder_id or "", active=frozenset()
    )
    return (
        *_next_build(config, records, now),
        *_next_uploads(config, snapshot, now, image),
        *_promotions(config, records, now),
        *_builds(config, records, plan),
        *_uploads(config, records, plan),
    )


def _next_build(config: Config, records: ImageRecords, now: datetime) -> Iterator[Explanation]:
    image = config.diskimages.get(records.name)
    if image is None:
        reason = "The image is not in the configuration, so it is neither built nor uploaded."
        yield Explanation(what="next build", verdict=Verdict.NO, reason=reason)
    else:
        build = decide_build(image, records, config, now)
        reason = f"{build.reason}{_changed(records)}"
        yield Explanation(what="next build", verdict=build.verdict, due=build.due, reason=reason)


def _next_uploads(config: Config, snapshot: Snapshot, now: datetime, image: str) -> Iterator[Explanation]:
    for upload in decide_uploads(config, snapshot, now):
        if upload.image == image:
            yield Explanation(
                what=f"upload to {upload.provider}",
                verdict=upload.verdict,
                due=upload.due,
                reason=upload.reason,
            )


def _promotions(config: Config, records: ImageRecords, now: datetime) -> Iterator[Explanation]:
    image = config.diskimages.get(records.name)
    if image is None:
        return
    for promotion in promotions_of(image, config, records, now):
        yield Explanation(
            what=f"{marks_of(image) or 'stable name or tag'} in {promotion.provider}",
            verdict=promotion.verdict,
            due=promotion.due,
            reason=promotion.reason,
        )


def _builds(config: Config, records: ImageRecords, plan: tuple[CleanupAction, ...]) -> Iterator[Explanation]:
    wish = CleanupKind.WITHDRAW_CANCELLATION  # takes nothing from the build
    planned = {a.build.id: a for a in plan if a.build and not a.upload and a.kind is not wish}
    for build in records.builds:
        what = f"clean-up of {build.state} build {short(build.id)}"
        yield _clean_up(what, planned.get(build.id), _build_stays(config, records, build))


def _build_stays(config: Config, records: ImageRecords, build: Build) -> str:
    image = config.diskimages.get(records.name)
    if build.state is BuildState.BUILDING:
        return "It is being built."
    if build.state is BuildState.FAILED:
        return f"It failed, {failure(build)}. Its record stays until a newer build is ready."
    if image is None:
        return (
            "It stays: its image is not in the configuration, but it goes only when somebody says so,"
            " with `imagepool cleanup`."
        )
    return f"It stays: it is {_among(kept(image), 'build')}.{_pruned(build)}"


def _pruned(build: Build) -> str:
    return f" Of its files {listed(build.pruned)} went after the uploads." if build.pruned else ""


def _changed(records: ImageRecords) -> str:
    """Why the last build was made after all, where it would have been left out had nothing changed."""
    last = max(records.builds, key=lambda b: (b.began, b.id), default=None)
    if last is None or not last.changes:
        return ""
    return f" Before build {short(last.id)} was begun, this had changed: {changed(last)}."


def _uploads(config: Config, records: ImageRecords, plan: tuple[CleanupAction, ...]) -> Iterator[Explanation]:
    planned = {a.upload.name: a for a in plan if a.upload}
    for upload in records.uploads:
        what = f"clean-up of {upload.state} upload of {short(upload.build_id)} in {upload.provider}"
        yield _clean_up(what, planned.get(upload.name), _upload_stays(config, records, upload))


def _clean_up(what: str, action: CleanupAction | None, stays: str) -> Explanation:
    """What is planned for a record, or why it stays when nothing is."""
    if action is None:
        return Explanation(what=what, verdict=Verdict.NO, reason=stays)
    return Explanation(what=what, verdict=action.verdict, due=action.due, reason=action.reason)


def _upload_stays(config: Config, records: ImageRecords, upload: Upload) -> str:
    image = config.diskimages.get(records.name)
    if upload.state is UploadState.UPLOADING:
        return "It is being uploaded."
    if upload.state is UploadState.FAILED:
        return f"It failed, {failure(upload)}. Its record stays until a later upload there is ready."
    why = why_departed(config, upload)
    if image is None or why is not None:
        return f"It stays: {why}, but it goes only when somebody says so, with `imagepool cleanup`."
    if upload == next(iter(ready_uploads(lasting_uploads(records, upload.provider))), None):
        return "It stays: it is the newest ready one there, the image in service."
    keep = kept(config.providers[upload.provider].images[image.name])
    return f"It stays: it is {_among(keep, 'upload')} there."


def _among(keep: int, noun: str) -> str:
    return f"the newest ready {noun}" if keep == 1 else f"one of the {counted(keep, 'newest ready ' + noun)}"
