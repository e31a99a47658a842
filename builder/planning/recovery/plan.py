"""Decides on each build, and puts all steps of a recovery in order.

A record is only made of what proves it: an upload is ready again when its image is active and has the
bytes that its properties promise, a build when an image or this machine's disk says that it became
ready. What was half done is recorded as failed, so that the janitor takes it away. Everything else is
left as it is and named, for a person to decide on; nothing here ever leads to the loss of a good image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from builder.cloudimage import CloudImage
from builder.config.model import Config
from builder.model import Build, BuildState, Failure, FailureClass, Snapshot, Upload, UploadWish, Withholding
from builder.planning.recovery.evidence import Evidence, checked_by, why_incomplete, why_unusable
from builder.planning.recovery.files import Files, files_of
from builder.planning.recovery.service import with_heirs_first
from builder.planning.recovery.steps import Fate, KeptBuild, Step, Thing
from builder.planning.recovery.trove import Found, Other, Trove
from builder.planning.recovery.uploads import failed_upload, ready_upload
from builder.planning.words import at, listed, short

#: Who is on record for what follows from what was found.
_BY: Final = "imagepool recover"


def wants_files(snapshot: Snapshot, image: str, build_id: str, builder_id: str) -> bool:
    """Whether what this machine has of a build's files is missing on record."""
    record = snapshot.image(image).build(build_id)
    return record is None or _is_bare(record, builder_id)


def plan_recovery(
    config: Config,
    snapshot: Snapshot,
    images: Mapping[str, Sequence[CloudImage]],
    kept: Iterable[KeptBuild],
    *,
    installation_id: str,
    builder_id: str,
    builds_gone: Mapping[str, datetime],
    unasked: Mapping[str, str],
    highest_upload_id: int,
    now: datetime,
) -> tuple[Step, ...]:
    """What to write, in the order in which to write it, and then what is not written, each with the reason.

    `images`: by the names of the providers that were asked, what those see; `unasked`: why the others
    were not. The `snapshot` was read after them. `builder_id` is this machine's. `builds_gone` has the
    builds whose records were removed on purpose. Writing part of the plan, and planning again, is the same
    as writing all of it.
    """
    disk = {(each.build.image, each.build.id): each for each in kept}
    trove = Trove(
        config=config,
        snapshot=snapshot,
        installation_id=installation_id,
        builds_gone=builds_gone,
        unasked=frozenset(unasked),
        highest_upload_id=highest_upload_id,
        named={build_id: name for name, build_id in disk},
        now=now,
    )
    haul = trove.sort(images)
    cases = [
        _Case(
            config=config,
            key=key,
            record=snapshot.image(key[0]).build(key[1]),
            kept=disk.get(key),
            found=haul.found.get(key, ()),
            gone=key[1] in builds_gone,
            builder_id=builder_id,
            now=now,
        )
        for key in {**haul.found, **disk}
    ]
    steps = [step for case in sorted(cases, key=_newest_first, reverse=True) for step in _steps(case)]
    steps += map(_on_other, haul.others)
    steps += [_on_provider(name, why) for name, why in unasked.items()]
    return with_heirs_first(config, snapshot, steps, now)


# -- one build ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Case:
    """A build, and all that tells of it."""

    config: Config
    key: tuple[str, str]
    record: Build | None
    kept: KeptBuild | None
    found: tuple[Found, ...]
    gone: bool
    builder_id: str
    now: datetime

    @property
    def evidence(self) -> Iterator[Evidence]:
        """What its images tell."""
        return (each.evidence for each in self.found)

    @property
    def whole(self) -> Iterator[Evidence]:
        """What those tell that are proven to be whole."""
        every = (each for found in self.found for each in found.all)
        return (each for each in every if not each.half and why_unusable(each) is None)

    @property
    def ready(self) -> datetime | None:
        """When it became ready; None when nothing tells that it ever did."""
        if self.record is not None:
            return self.record.state_time if self.record.state is BuildState.READY else None
        told = next((each.build_ready for each in self.evidence if each.build_ready), None)
        finished = self.kept.finished if self.kept is not None else None
        return told or (min(finished, self.now) if finished is not None else None)


def _newest_first(case: _Case) -> tuple[datetime, str]:
    known = [case.ready, case.kept.build.state_time if case.kept else None]
    known += [each.started for each in case.evidence]
    return max(time for time in known if time is not None), case.key[1]


def _steps(case: _Case) -> Iterator[Step]:
    files = files_of(case.kept, case.whole) if case.kept is not None and not case.gone else Files()
    restored, build_step = _build(case, files)
    if build_step is not None:
        yield build_step
    name, build_id = case.key
    for image_format, problem in files.wrong:
        reason = f"Its content can't be trusted, so it is not put on record: {problem}."
        yield Step(
            thing=Thing.FILE,
            fate=Fate.LEFT,
            name=f"{name}-{build_id}.{image_format}",
            diskimage=name,
            reason=reason,
        )
    for found in case.found:
        yield _upload(case, restored, found, files)


def _build(case: _Case, files: Files) -> tuple[Build | None, Step | None]:
    """The record that the build's uploads go below, and what becomes of it."""
    record, kept = case.record, case.kept
    if record is not None:
        if kept is None or not files.present or not _is_bare(record, case.builder_id):
            return record, _on_build(case, Fate.KNOWN, "It is on record.", record)
        known = replace(
            _with_files(record, kept, files),
            withheld=_withheld(case, record.withheld),
            extra=record.extra,
            version=record.version,
        )
        return record, _on_build(case, Fate.COMPLETE, f"Its {files.text} here.", known)
    if case.gone:
        return None, _on_build(case, Fate.LEFT, "Its record was removed, and its files stayed here.")
    if case.ready is not None:
        return _ready_build(case, case.ready, files)
    if kept is not None and kept.half:
        how = "was not finished" if kept.failed is None else "had failed"
        reason = f"It {how} when the records were lost; what it left is cleaned up."
        return _failed_build(kept), _on_build(case, Fate.RESTORE, reason, _failed_build(kept))
    if kept is None:
        return None, None  # its images say why they are left
    return None, _on_build(case, Fate.LEFT, "Nothing tells whether it was finished, or what its files were.")


def _ready_build(case: _Case, ready: datetime, files: Files) -> tuple[Build | None, Step]:
    if case.kept is not None and not files.present and not case.found:
        reason = "Nothing is left of it but its description here, and no cloud that was asked has it."
        return None, _on_build(case, Fate.LEFT, reason)
    build = _ready_record(case, ready, files)
    where = f"It was ready at {at(ready)}"
    if build.hold is not None:
        where += ", and stays held"
    elif build.withheld:
        scopes = listed("everywhere" if word.provider is None else word.provider for word in build.withheld)
        where += f", and stays withheld from {scopes}"
    if files.present:
        reason = f"{where}; its {files.text} here, with the content on record."
    elif case.kept is not None:
        reason = f"{where}; its files are gone from here."
    else:
        reason = f"{where}; its files are not on this machine, so the next build is due."
    return build, _on_build(case, Fate.RESTORE, reason, build)


def _ready_record(case: _Case, ready: datetime, files: Files) -> Build:
    name, build_id = case.key
    said, recipe = list(case.evidence), case.config.diskimages.get(name)
    build = Build(id=build_id, image=name, state=BuildState.READY, state_time=ready, ended=ready)
    if case.kept is not None:
        build = _with_files(build, case.kept, files)
    started = next((each.build_started for each in said if each.build_started), build.started)
    if recipe is not None:
        build = replace(
            build,
            username=recipe.username,
            python_path=recipe.python_path,
            shell_type=recipe.shell_type,
        )
    return replace(
        build,
        started=min(started, ready) if started is not None else None,
        raw_sha256=build.raw_sha256 or next((each.raw_sha256 for each in said if each.raw_sha256), None),
        raw_size=build.raw_size or next((each.raw_size for each in said if each.raw_size), None),
        username=next((each.username for each in said if each.username), build.username),
        python_path=next((each.python_path for each in said if each.python_path), build.python_path),
        shell_type=next((each.shell_type for each in said if each.shell_type), build.shell_type),
        wishes=tuple(_unwanted(case)),
        withheld=_withheld(case, ()),
    )


def _withheld(case: _Case, on_record: Iterable[Withholding]) -> tuple[Withholding, ...]:
    """Where the build is not to serve: as soon as its record, this machine's disk or one of its images says
    so, for who took that back may not have reached them all. Of several words for the same, the last."""
    words = [said.withheld for found in case.found for said in found.all if said.withheld is not None]
    # An image does not tell whose word it was.
    words += [*(case.kept.build.withheld if case.kept is not None else ()), *on_record]
    last = {word.provider: word for word in sorted(words, key=lambda word: word.time)}
    return tuple(sorted(last.values(), key=lambda word: (word.time, word.provider or "")))


def _unwanted(case: _Case) -> Iterator[UploadWish]:
    """That the build stays away from where nobody is to find it any more, as far as that can be seen."""
    there = {each.provider.name for each in case.found if not each.hidden}
    for name in sorted({each.provider.name for each in case.found if each.hidden} - there):
        why = "its image there was hidden when the records were restored"
        yield UploadWish(provider=name, wanted=False, by=_BY, time=case.now, why=why)


def _with_files(build: Build, kept: KeptBuild, files: Files) -> Build:
    """A build with what this machine knows of it."""
    proof = kept.build
    return replace(
        build,
        builder=proof.builder,
        builder_id=proof.builder_id,
        started=build.started or proof.started,
        tools=proof.tools,
        log=proof.log,
        raw_sha256=build.raw_sha256 or proof.raw_sha256,
        raw_size=build.raw_size or proof.raw_size,
        artifacts=files.artifacts,
        formats=tuple(sorted(str(each.format) for each in files.artifacts)),
        pruned=files.pruned,
    )


def _failed_build(kept: KeptBuild) -> Build:
    message = "the records were lost while it was being built"
    if kept.failed is not None:
        message = "it had failed when the records were lost, which said why"
    return replace(
        kept.build,
        state=BuildState.FAILED,
        ended=kept.build.state_time,
        reason=Failure(failure_class=FailureClass.INTERRUPTED, message=message),
    )


def _is_bare(record: Build, builder_id: str) -> bool:
    """Whether a record was made of cloud images alone, and may get its files."""
    nowhere = record.builder_id in (None, builder_id)
    return record.state is BuildState.READY and nowhere and not record.artifacts and not record.formats


# -- its uploads ----------------------------------------------------------------------------------


def _upload(case: _Case, build: Build | None, found: Found, files: Files) -> Step:
    evidence = found.evidence
    if build is None:
        reason = (
            f"Nothing tells that its build {short(evidence.build_id)} became ready."
            " Recover on the machine that has the build's files, or delete it by hand."
        )
        return _on_image(found, Fate.LEFT, reason)
    if evidence.half or found.is_lost:
        return _half(case, build, found)
    if found.hidden:
        reason = (
            "It is hidden, as what was to go while it was in use, or somebody hid it;"
            " so its build is kept away from there until `imagepool upload retry`."
        )
        return _on_image(found, Fate.LEFT, reason)
    problem = why_unusable(evidence) or why_incomplete(evidence, found.parts)
    if problem := problem or next(filter(None, (_other_bytes(each, files) for each in found.all)), None):
        return _on_image(found, Fate.LEFT, f"It can't be called ready: {problem}.")
    if case.ready is None and build.state is not BuildState.DELETING:
        reason = f"Its build {short(build.id)} is {build.state}: it never became ready."
        return _on_image(found, Fate.LEFT, reason)
    record = ready_upload(found, build, case.ready or evidence.started, case.now)
    marks = ", and it has the stable name or tag" if evidence.serving else ""
    reason = f"It is active, and its {checked_by(evidence)} is that of what was uploaded{marks}."
    return _on_image(found, Fate.RESTORE, reason, record)


def _half(case: _Case, build: Build, found: Found) -> Step:
    if build.state is BuildState.BUILDING:
        return _on_image(found, Fate.LEFT, f"Its build {short(build.id)} is still being built.")
    what = f"{found.evidence.format} without what it is a part of" if found.is_lost else ""
    what = what or str(found.evidence.image.status)
    reason = f"It is {what}: a failed upload, which the janitor takes away."
    return _on_image(found, Fate.RESTORE, reason, failed_upload(found, case.now))


def _other_bytes(evidence: Evidence, files: Files) -> str | None:
    """How an image differs from the file that its build has on record."""
    artifact = next((a for a in files.artifacts if a.format == evidence.format), None)
    if artifact is None or evidence.sha512 in (None, artifact.sha512):
        return None
    return f"its sha512 is {evidence.sha512}, that of the build's file is {artifact.sha512}"


# -- steps ----------------------------------------------------------------------------------------


def _on_other(other: Other) -> Step:
    return Step(
        thing=Thing.IMAGE,
        fate=Fate.KNOWN if other.known else Fate.LEFT,
        name=other.image.id,
        image=other.image,
        provider=other.provider,
        reason=other.reason,
    )


def _on_provider(name: str, why: str) -> Step:
    reason = f"It could not be asked: {why} What is there is restored when this is run again."
    return Step(thing=Thing.PROVIDER, fate=Fate.UNSEEN, name=name, provider=name, reason=reason)


def _on_build(case: _Case, fate: Fate, reason: str, build: Build | None = None) -> Step:
    name, build_id = case.key
    return Step(thing=Thing.BUILD, fate=fate, name=build_id, diskimage=name, build=build, reason=reason)


def _on_image(found: Found, fate: Fate, reason: str, upload: Upload | None = None) -> Step:
    evidence = found.evidence
    return Step(
        thing=Thing.IMAGE,
        fate=fate,
        name=evidence.image.id,
        diskimage=evidence.diskimage,
        provider=found.provider.name,
        image=evidence.image,
        upload=upload,
        reason=reason,
    )
