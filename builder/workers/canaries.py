"""Asks the check what it says of an image in a provider, and lets out what has gone through the canaries.

A check may take as long as it takes to boot a server. Meanwhile the pair of build and provider is claimed,
by which others see that somebody asks, and nothing else is: neither a promotion nor a rollback waits for it.
What it said is written in this order, so that a crash between loses nothing:
    after the upload's record says that it runs     nobody has the claim: it is begun anew
    after the build of a refused image is withheld  so it is; somebody who lets it out has it checked again
    after the upload's record has the verdict       nothing is left to do
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from builder.config.model import Canary, Config, Provider
from builder.errors import ActionFailedError, ConflictError, NotFoundError
from builder.model import (
    Checked,
    CheckVerdict,
    Clearance,
    Failure,
    FailureClass,
    ImageRecords,
    Upload,
    UploadState,
    Withholding,
)
from builder.planning.actions import IMAGEPOOL, Verdict
from builder.planning.canary import Clearing, canaries_of, steps_of
from builder.planning.checking import Checking, check_in, refused_where
from builder.planning.records import may_go_out
from builder.planning.words import short, withheld
from builder.shown import plain
from builder.store.base import Claim
from builder.workers import hook
from builder.workers.base import World
from builder.workers.reading import fresh_records

LOG = logging.getLogger(__name__)

#: What a failure names as its step.
STEP: Final = "check"
#: Exit codes that say nothing of the image: EX_TEMPFAIL, and a shell's for what it can't run. Above 128, it
#: is the shell's for what a signal ended.
_CAN_NOT_TELL: Final = frozenset({75, 126, 127})
_SIGNALS: Final = 128
#: Why a check is ended that is to say nothing any more.
_NEEDLESS: Final = "nobody needs to know any more"
#: How often a record is read again that somebody else writes meanwhile.
_ATTEMPTS: Final = 10


def let_out(world: World, config: Config, clearing: Clearing) -> bool:
    """Put on record that a build has gone through the canaries, if it still has; whether that was done."""
    now = world.clock()
    again = _planned(world, config, clearing.image, ours=None)
    for step in again:
        if isinstance(step, Clearing) and step.build.id == clearing.build.id and step.verdict is Verdict.NOW:
            word = Clearance(provider=None, by=IMAGEPOOL, time=now, why=step.reason)
            # On the very record that it was decided on: somebody's word that comes meanwhile stays.
            world.store.update_build(step.build.clear(word))
            return True
    return False


def check(world: World, config: Config, checking: Checking) -> bool:
    """Ask the check, if that is still due, and write what it said; whether it said anything. Nobody else is
    asking meanwhile."""
    upload = checking.upload
    claim = world.store.claim_uploads(upload.image, upload.build_id, upload.provider)
    if claim is None:
        return False
    with claim:
        again = _planned(world, config, upload.image, ours=upload)
        due = any(
            isinstance(step, Checking) and step.upload.name == upload.name and step.verdict is Verdict.NOW
            for step in again
        )
        current = world.store.get_upload(upload.image, upload.build_id, upload.provider, upload.id)
        return due and _Asking(world, config, current, claim).ask()


def _planned(
    world: World, config: Config, image: str, *, ours: Upload | None
) -> tuple[Clearing | Checking, ...]:
    """What is due on what is true now; `ours`: the upload whose pair we have claimed ourselves."""
    fresh = fresh_records(world.store, config, image)
    if ours is not None:
        mine = (ours.build_id, ours.provider)
        fresh = replace(fresh, uploads_claimed=fresh.uploads_claimed - {mine})
    snapshot = world.store.snapshot().with_image(fresh)
    return tuple(steps_of(config.diskimages[image], config, snapshot, world.clock()))


class _Asking:
    """One check of an upload's image, whose pair is claimed."""

    def __init__(self, world: World, config: Config, upload: Upload, claim: Claim) -> None:
        policy = config.diskimages[upload.image].promote
        assert isinstance(policy, Canary)  # else nothing would be due
        self._world = world
        self._config = config
        self._policy = policy
        self._upload = upload
        self._claim = claim
        self._seen: tuple[Config, ImageRecords] | None = None  #: by which somebody needs to know

    def ask(self) -> bool:
        """Ask, and write what it said; whether it said anything."""
        before = self._upload.checked
        tries = before.tries if before is not None else 0
        self._write(Checked(verdict=CheckVerdict.RUNNING, time=self._world.clock(), tries=tries))
        verdict, why = self._answer()
        if verdict is CheckVerdict.REFUSED and not self._is_next(self._fresh()):
            verdict, why = None, _NEEDLESS  # who said so a moment ago has the last word
        if verdict is None:
            LOG.info("the check of %s was ended: %s", self._upload.name, why)
            # As if it had not been asked. The store may be away as well: then the next one begins anew.
            if self._claim.valid and not self._world.ending:
                with suppress(NotFoundError, ConflictError):
                    self._write(before)
            return False
        if not self._claim.valid:
            raise ConflictError(f"the claim of {self._upload.name} was lost while it was checked")
        if verdict is CheckVerdict.REFUSED:
            self._refuse(why)
        self._write(Checked(verdict=verdict, time=self._world.clock(), why=why, tries=tries + 1))
        level = logging.INFO if verdict is CheckVerdict.GOOD else logging.WARNING
        LOG.log(level, "the check of %s: %s%s", self._upload.name, verdict, f": {why}" if why else "")
        return True

    def _answer(self) -> tuple[CheckVerdict | None, str]:
        """What it says, and its last words; no verdict when it was ended."""
        program, *arguments = self._policy.check
        provider = self._config.providers[self._upload.provider]
        try:
            lines = hook.run(
                Path(program),
                arguments,
                cwd=self._config.state_dir,
                timeout=self._policy.check_timeout.total_seconds(),
                stop=self._why_stop,
                step=STEP,
                more=_environment(self._upload, provider),
            )
        except ActionFailedError as error:
            failure = error.failure
            assert isinstance(failure, Failure)  # as a hook's always is
            return _verdict(failure), _why(failure)
        return CheckVerdict.GOOD, _last(lines)

    def _why_stop(self) -> Failure | None:
        """Why nobody needs to know any more."""
        message = None
        if self._world.ending:
            message = "the daemon stops"
        elif not self._claim.valid:
            message = "the claim was lost"
        elif not self._is_needed():
            message = _NEEDLESS
        if message is None:
            return None
        return Failure(failure_class=FailureClass.INTERRUPTED, message=message, step=STEP)

    def _is_needed(self) -> bool:
        """Whether anybody still needs to know, as far as is seen; cheap, for it is asked all the time."""
        store, name = self._world.store, self._upload.image
        seen = self._world.config(), self._world.recent.snapshot(store).image(name)
        known = self._seen
        if known is not None and seen[0] is known[0] and seen[1] is known[1]:
            return True
        # What is recent may be from before all that made us ask.
        if not self._is_next(seen[1]) and not self._is_next(store.snapshot().image(name)):
            return False
        self._seen = seen
        return True

    def _is_next(self, records: ImageRecords) -> bool:
        """Whether by those records it is what is to be checked in its provider."""
        config = self._world.config()
        image = config.diskimages.get(records.name)
        canaries = None if image is None else canaries_of(image, config, records)
        wanted = canaries.to_check(self._upload.provider) if canaries is not None else None
        return wanted is not None and wanted.name == self._upload.name

    def _fresh(self) -> ImageRecords:
        return fresh_records(self._world.store, self._world.config(), self._upload.image)

    def _refuse(self, why: str) -> None:
        """Withhold its build, if nobody has yet."""
        upload, store = self._upload, self._world.store
        provider = refused_where(self._policy, upload.provider)
        if may_go_out(store.get_build(upload.image, upload.build_id), provider):
            by, now = check_in(upload.provider), self._world.clock()
            word = Withholding(provider=provider, by=by, time=now, why=why)
            store.withhold(upload.image, upload.build_id, word)
            again = f"'imagepool build unquarantine {short(upload.build_id)}' takes that back"
            LOG.warning("%s: %s; %s", upload.image, withheld(upload.build_id, word), again)

    def _write(self, checked: Checked | None) -> None:
        """Put on the upload's record how far the check is; NotFoundError when there is nothing to check any
        more."""
        store, upload = self._world.store, self._upload
        for _ in range(_ATTEMPTS):
            current = store.get_upload(upload.image, upload.build_id, upload.provider, upload.id)
            if current.state is not UploadState.READY:
                raise NotFoundError(f"upload {upload.name} is {current.state}")
            try:
                store.update_upload(replace(current, checked=checked))
                return
            except ConflictError:
                continue  # a promotion wrote it
        raise ConflictError(f"the record of {upload.name} keeps changing")


def _environment(upload: Upload, provider: Provider) -> Mapping[str, str]:
    """What the program is told, and by what the openstack client finds the region."""
    return {
        "IMAGEPOOL_IMAGE": upload.image,
        "IMAGEPOOL_BUILD": upload.build_id,
        "IMAGEPOOL_PROVIDER": provider.name,
        "IMAGEPOOL_REGION": provider.region or "",
        "IMAGEPOOL_IMAGE_ID": upload.external_id or "",
        "OS_CLOUD": provider.cloud,
        **({"OS_REGION_NAME": provider.region} if provider.region else {}),
    }


def _verdict(failure: Failure) -> CheckVerdict | None:
    """What it means that a check failed so; None when it was ended by us."""
    if failure.failure_class is FailureClass.INTERRUPTED:
        return None
    code = failure.exit_code
    if failure.failure_class is not FailureClass.HOOK or code is None:
        return CheckVerdict.UNKNOWN  # it could not be run, or did not end
    unknown = code < 0 or code > _SIGNALS or code in _CAN_NOT_TELL
    return CheckVerdict.UNKNOWN if unknown else CheckVerdict.REFUSED


def _why(failure: Failure) -> str:
    """Why a check did not find an image good: its last words, when it ended by itself."""
    said = _last(failure.lines)
    if failure.failure_class is not FailureClass.HOOK:
        return f"{failure.message}; it said last: {said}" if said else failure.message
    return said or f"it said nothing, and {_ended(failure.exit_code or 0)}"


def _ended(code: int) -> str:
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _last(lines: Iterable[str]) -> str:
    """The last line with anything in it that can be read, without what a terminal obeys; "" when there is
    none."""
    return next((said for line in reversed([*lines]) if (said := plain(line).strip())), "")
