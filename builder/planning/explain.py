"""Explain an image: whether it is built, uploaded, in use by name, kept or deleted, when, and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime

from builder.config.model import Config, DiskImage
from builder.errors import NotFoundError
from builder.model import Build, BuildState, Daemon, ImageRecords, Snapshot, Upload, UploadState, Withholding
from builder.planning.actions import BuildDecision, CleanupAction, CleanupKind, Explanation, Verdict
from builder.planning.assignment import BUILDER, Assignment, assign, running, why_nobody, why_not
from builder.planning.builds import decide_builds
from builder.planning.canary import Clearing, steps_of
from builder.planning.cleanup import plan_cleanup
from builder.planning.departed import why_departed
from builder.planning.promotion import promotions_of
from builder.planning.records import by_age, in_service, may_go_out, ready_uploads, turned_away
from builder.planning.retention import kept, lasting_uploads, marks_of
from builder.planning.uploads import decide_uploads
from builder.planning.words import at, changed, counted, failure, gone_for_good, listed, short, withheld


def explain(
    config: Config, snapshot: Snapshot, now: datetime, image: str, builder_id: str | None
) -> tuple[Explanation, ...]:
    """One row each for the next build, each builder that is alive, the upload to each provider, and every
    build and upload there is.

    A builder's row says whether it takes the next build, and if not, why. One more for each provider says
    what serves there. Pass the whole snapshot: what became of other images in a provider tells whether it
    takes any.

    `builder_id` is this machine's, None on one that builds nothing. Raises NotFoundError when
    neither the configuration nor the store knows the image.
    """
    if image not in config.diskimages and image not in snapshot.images:
        raise NotFoundError(
            f"there is no image {image}", hint="`imagepool image list` shows the images there are."
        )
    records = snapshot.image(image)
    alone = replace(snapshot, images={image: records})
    plan = plan_cleanup(config, alone, now, builder_id=builder_id or "", active=frozenset())
    return (
        *_next_build(config, snapshot, now, image),
        *_next_uploads(config, snapshot, now, image),
        *_promotions(config, snapshot, now, image),
        *_canaries(config, snapshot, now, image),
        *_builds(config, snapshot, records, plan),
        *_uploads(config, records, plan),
    )


def _next_build(config: Config, snapshot: Snapshot, now: datetime, name: str) -> Iterator[Explanation]:
    image = config.diskimages.get(name)
    if image is None:
        reason = "The image is not in the configuration, so it is neither built nor uploaded."
        yield Explanation(what="next build", verdict=Verdict.NO, reason=reason)
        return
    decisions = decide_builds(config, snapshot, now)
    decision = next(each for each in decisions if each.image == name)
    reason = f"{decision.reason}{_changed(snapshot.image(name))}"
    stuck = decision.verdict is Verdict.NOW and why_nobody(image, snapshot) is not None
    verdict = Verdict.NO if stuck else decision.verdict
    yield Explanation(what="next build", verdict=verdict, due=decision.due, reason=reason)
    # A builder takes one image or another: who takes this one depends on all.
    assigned = assign(config, snapshot, now, decisions).get(name)
    load = running(snapshot)
    for daemon in snapshot.daemons:
        if BUILDER in daemon.roles:
            yield _builder(image, daemon, decision, assigned, load[daemon.builder_id or ""])


def _builder(
    image: DiskImage, daemon: Daemon, decision: BuildDecision, assigned: Assignment | None, busy: int
) -> Explanation:
    """Whether a builder takes the next build."""
    why = why_not(image, daemon)
    verdict, due = Verdict.NO, None
    if why is not None:
        reason = f"It can't take it: {why}."
    elif assigned is None:
        verb = "is" if daemon.build_workers == 1 else "are"
        load = f"{busy} of {counted(daemon.build_workers, 'worker')} {verb} busy now"
        reason = f"It can take the next one; {load}."
        if decision.verdict is Verdict.LATER:
            verdict, due = Verdict.LATER, decision.due
    elif assigned.builder_id is None:
        verdict, reason = Verdict.NO, assigned.reason
    elif assigned.builder_id == daemon.builder_id:
        verdict, reason = Verdict.NOW, assigned.reason
    else:
        reason = f"{assigned.reason} Others wait until {at(assigned.open_from)}, and take it if that did not."
    return Explanation(what=f"build on {daemon.hostname}", verdict=verdict, due=due, reason=reason)


def _next_uploads(config: Config, snapshot: Snapshot, now: datetime, image: str) -> Iterator[Explanation]:
    for upload in decide_uploads(config, snapshot, now):
        if upload.image == image:
            yield Explanation(
                what=f"upload to {upload.provider}",
                verdict=upload.verdict,
                due=upload.due,
                reason=upload.reason,
            )


def _promotions(config: Config, snapshot: Snapshot, now: datetime, name: str) -> Iterator[Explanation]:
    image = config.diskimages.get(name)
    if image is None:
        return
    for promotion in promotions_of(image, config, snapshot, now):
        yield Explanation(
            what=f"{marks_of(image) or 'image in service'} in {promotion.provider}",
            verdict=promotion.verdict,
            due=promotion.due,
            reason=promotion.reason,
        )


def _canaries(config: Config, snapshot: Snapshot, now: datetime, name: str) -> Iterator[Explanation]:
    image = config.diskimages.get(name)
    if image is None:
        return
    for step in steps_of(image, config, snapshot, now):
        if isinstance(step, Clearing):
            what = f"build {short(step.build.id)} in the canaries"
        else:
            what = f"check of build {short(step.upload.build_id)} in {step.upload.provider}"
        yield Explanation(what=what, verdict=step.verdict, due=step.due, reason=step.reason)


def _builds(
    config: Config, snapshot: Snapshot, records: ImageRecords, plan: tuple[CleanupAction, ...]
) -> Iterator[Explanation]:
    wish = CleanupKind.WITHDRAW_CANCELLATION  # takes nothing from the build
    planned = {a.build.id: a for a in plan if a.build and not a.upload and a.kind is not wish}
    for build in records.builds:
        what = f"clean-up of {build.state} build {short(build.id)}"
        stays = f"{_build_stays(config, records, build)}{_lost(snapshot, build)}"
        yield _clean_up(what, planned.get(build.id), stays)


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
    if turned_away(build):
        newer = f"{counted(kept(image), 'newer build')} {'is' if kept(image) == 1 else 'are'}"
        return f"It stays until {newer} good, or held or rejected as well.{_said(build.withheld, build)}"
    if not may_go_out(build, None):
        return f"{_until_others(kept(image), 'build', '')}{_said(build.withheld, build)}{_pruned(build)}"
    stays = f"It stays: it is {_among(kept(image), 'build')}."
    return f"{stays}{_said(build.withheld, build)}{_pruned(build)}"


def _said(words: Iterable[Withholding], build: Build) -> str:
    """Where a build is not to serve, as sentences with a space before each; "" where it may."""
    said = [withheld(build.id, word) for word in words]
    return "".join(f" {each[0].upper()}{each[1:]}." for each in said)


def _until_others(keep: int, noun: str, where: str) -> str:
    number = counted(keep, f"good newer {noun}")
    return f"It stays until {number} {'is' if keep == 1 else 'are'} ready{where}."


def _pruned(build: Build) -> str:
    return f" Of its files {listed(build.pruned)} went after the uploads." if build.pruned else ""


def _lost(snapshot: Snapshot, build: Build) -> str:
    word = snapshot.forgotten.get(build.builder_id or "")
    if word is None or build.state is not BuildState.READY:
        return ""
    return f" It counts as ready, although {gone_for_good(build, word)}."


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
    build = records.build(upload.build_id)
    word = build.withheld_from(upload.provider) if build is not None else None
    said = _said([word], build) if build is not None and word is not None else ""
    ready = by_age(records, ready_uploads(lasting_uploads(records, upload.provider)))
    if upload == in_service(records, upload.provider):
        what = (
            "the newest ready one there, the image" if ready[:1] == (upload,) else "the image there that is"
        )
        return f"It stays: it is {what} in service.{said}"
    keep = kept(config.providers[upload.provider].images[image.name])
    if said:
        return f"{_until_others(keep, 'upload', ' there')}{said}"
    return f"It stays: it is {_among(keep, 'upload')} there."


def _among(keep: int, noun: str) -> str:
    return f"the newest ready {noun}" if keep == 1 else f"one of the {counted(keep, 'newest ready ' + noun)}"
