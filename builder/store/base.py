"""The Store contract: what may be read, claimed and written, in what order, by whom.

Two implementations pass the same tests (tests/contract/test_store.py): ZooKeeperStore and the
FakeStore of the tests. The tree, the locks and the meaning of a write are nodepool 11's
(store/paths.py draws the tree); what is ours lives in further fields of its records and below
/imagepool.

How to write
    Claim, read again under the claim, write naming the version that was read, release. A write
    with an old version raises ConflictError and changes nothing. A claim is an ephemeral lock: it
    is gone when the session is lost, and `Claim.valid` then turns False for good. Whoever finds it
    so has to claim again and re-read before the next write.

Every method may raise StoreUnavailableError: ZooKeeper can't be reached or the session was lost
(then nothing may be assumed about whether the write happened). Methods that take a record name
what else they raise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self

from builder.cloudimage import Sighting
from builder.model import (
    CLOCKS_DIFFER,
    NO_TICKS,
    Build,
    Cancellation,
    Clearance,
    Daemon,
    Pause,
    Release,
    Request,
    Snapshot,
    Turn,
    Upload,
    UploadCancellation,
    UploadWish,
    Withholding,
)

#: What `restore_upload` takes at most: ids count uploads of one build to one provider, and to go on above
#: one, ZooKeeper has to be brought to count so far.
HIGHEST_UPLOAD_ID: Final = 100_000
#: Digits of an id that is unique everywhere.
_UNIQUE: Final = 32


class Claim(ABC):
    """A held lock. Leaving the `with` block releases it; releasing a lost claim does nothing."""

    @property
    @abstractmethod
    def valid(self) -> bool:
        """Whether the lock is still ours; False from the moment the session was lost."""

    @abstractmethod
    def release(self) -> None:
        """Give the lock back; never raises, for a lock that can't be given back dies with the session."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class Store(ABC):
    """Records, claims and changes of all images."""

    # -- life ---------------------------------------------------------------------------------

    @abstractmethod
    def start(self, timeout: float = 15.0) -> None:
        """Connect within `timeout` seconds; StoreUnavailableError says which servers were tried."""

    @abstractmethod
    def close(self) -> None:
        """End the session; every claim is gone. May be called twice, and before `start`."""

    @property
    @abstractmethod
    def connected(self) -> bool:
        """Whether requests can be served right now."""

    @abstractmethod
    def installation_id(self) -> str:
        """The uuid4 hex of the installation this tree belongs to; made at the first call ever.

        An empty or wrong ZooKeeper gives another id, which is how nothing of ours is deleted
        because of it.
        """

    @abstractmethod
    def register(self, daemon: Daemon) -> None:
        """Show this daemon for as long as its session lasts, nodepool's component record included.

        Re-registers by itself after a lost session. Called again, it changes what is shown.
        """

    # -- reading ------------------------------------------------------------------------------

    @abstractmethod
    def snapshot(self) -> Snapshot:
        """Everything, as last seen. A store opened with `watch=True` answers from memory and is
        behind by the time a watch takes; otherwise the tree is read now."""

    @abstractmethod
    def wait(self, seen: int, timeout: float | None = None) -> int:
        """Block until the generation differs from `seen` or `timeout` seconds passed; return the generation.

        The generation changes with every change of the tree, of `connected`, and by `wake`.
        """

    @abstractmethod
    def wake(self) -> None:
        """Change the generation, so that every `wait` returns."""

    @abstractmethod
    def get_build(self, image: str, build_id: str) -> Build:
        """The build as it is now, not as last seen; NotFoundError."""

    @abstractmethod
    def get_upload(self, image: str, build_id: str, provider: str, upload_id: str) -> Upload:
        """The upload as it is now; NotFoundError."""

    @abstractmethod
    def list_builds(self, image: str) -> tuple[Build, ...]:
        """The builds of an image as they are now, newest first."""

    @abstractmethod
    def list_uploads(self, image: str, build_id: str, provider: str) -> tuple[Upload, ...]:
        """The uploads of a build to a provider as they are now, newest first."""

    @abstractmethod
    def get_request(self, image: str) -> Request | None:
        """The open request for a build as it is now."""

    # -- claims: never block, None when somebody else holds it ---------------------------------

    @abstractmethod
    def claim_image(self, image: str) -> Claim | None:
        """The right to build an image: held from before the `building` record to its last write."""

    @abstractmethod
    def claim_lead(self, hostname: str) -> Claim | None:
        """The right to file requests by schedule, which one scheduler of all has; `Snapshot.leader` is then
        `hostname`. Its release, or its holder's end, changes the generation of every store with `watch`.

        A store that was told None stands in line until `stand_down`, `close` or the end of its session: the
        lead passes to whoever asked first, who has it when asking again. None also while this store has it
        already.
        """

    @abstractmethod
    def stand_down(self) -> None:
        """Stand in line for the lead no more; for whoever won't ask again. What is held stays held. Never
        raises."""

    @abstractmethod
    def claim_build(self, build: Build) -> Claim | None:
        """The right to clean up one build."""

    @abstractmethod
    def claim_uploads(self, image: str, build_id: str, provider: str) -> Claim | None:
        """The right to upload a build to a provider: held for the whole upload."""

    @abstractmethod
    def claim_share(self, provider: str, shares: int) -> Claim | None:
        """One of `shares` rights to send to a provider, of all daemons together; None when none is free.

        Nobody is woken when one gets free: hold it inside of `claim_uploads`, whose release wakes everybody.
        """

    @abstractmethod
    def claim_sweep(self, provider: str) -> Claim | None:
        """The right to look for leaked images in a provider: two looks at once would count as two."""

    @abstractmethod
    def claim_upload(self, upload: Upload) -> Claim | None:
        """The right to clean up one upload. Never makes a node for an upload that is gone."""

    # -- records ------------------------------------------------------------------------------

    @abstractmethod
    def create_build(self, build: Build) -> Build:
        """Write a new build; returns it with its version. ConflictError when the id is taken."""

    @abstractmethod
    def update_build(self, build: Build) -> Build:
        """Write over the version the build was read at; ConflictError, NotFoundError."""

    @abstractmethod
    def delete_build(self, build: Build) -> None:
        """Remove a build's record and what is below it, and in the same step remember that it is gone
        (`builds_gone`).

        RefusedError while it has uploads, ConflictError when it is in another state by now; no error when
        it is gone already.
        """

    @abstractmethod
    def create_upload(self, upload: Upload) -> Upload:
        """Write a new upload; the store gives the id (`upload.id` is ignored) and the version.

        NotFoundError when the build is gone.
        """

    @abstractmethod
    def update_upload(self, upload: Upload) -> Upload:
        """Write over the version the upload was read at; ConflictError, NotFoundError."""

    @abstractmethod
    def delete_upload(self, upload: Upload) -> None:
        """Remove an upload's record; ConflictError when it is in another state by now, no error when it is
        gone already."""

    # -- wishes -------------------------------------------------------------------------------

    @abstractmethod
    def request_build(self, request: Request, *, ticks: Mapping[str, datetime] = NO_TICKS) -> Request | None:
        """Wish a build; returns the open request, which is an older one when there was one.

        A manual request takes the place of an open one of the scheduler's. One that joins an older one
        adds its `force`, `urgent` and `tick` to that, whose who, why, when and `stamp` stay.

        `ticks` are the times of the schedule that this request is for, by entry, to be remembered in the
        same step (`ImageRecords.ticks`); those of entries that are not named stay. None, and nothing
        is written, when each of them is remembered already, that very time or a later one: somebody
        has asked for it (but see CLOCKS_DIFFER). With an older request open they are remembered all
        the same.
        """

    @abstractmethod
    def withdraw_request(self, request: Request) -> bool:
        """Remove the request if it is still this very one (by `stamp`); whether it was."""

    @abstractmethod
    def cancel_build(self, cancellation: Cancellation) -> None:
        """Wish that a build ends; takes the place of an earlier wish for that image.

        Whoever builds sees it in the Snapshot (`ImageRecords.cancellation`).
        """

    @abstractmethod
    def withdraw_cancellation(self, image: str, build_id: str | None = None) -> None:
        """Remove the wish that a build ends; with a `build_id` only the wish that names it, else whichever
        there is. No error when there is none."""

    @abstractmethod
    def cancel_upload(self, cancellation: UploadCancellation) -> None:
        """Wish that an upload ends; takes the place of an earlier wish for that upload.

        Whoever uploads sees it in the Snapshot (`ImageRecords.upload_cancellations`).
        """

    @abstractmethod
    def withdraw_upload_cancellation(self, image: str, upload: str) -> None:
        """Remove the wish that the upload of that name ends; no error when there is none."""

    @abstractmethod
    def wish_upload(self, image: str, build_id: str, wish: UploadWish) -> Build:
        """Put a wish on a build's record in the place of an earlier one for that provider; NotFoundError.

        Repeated by itself when somebody else writes the record meanwhile.
        """

    @abstractmethod
    def withhold(self, image: str, build_id: str, word: Withholding) -> Build:
        """Put on a build's record that it is not to serve, in the place of an earlier word for that provider,
        or for everywhere; NotFoundError. Repeated by itself when somebody else writes the record meanwhile.
        """

    @abstractmethod
    def release(self, image: str, build_id: str, provider: str | None) -> Build:
        """Take away the word that a build is withheld from a provider, or with None every such word; no error
        when there is none. NotFoundError, and repeated by itself, as above."""

    @abstractmethod
    def clear(self, image: str, build_id: str, word: Clearance) -> Build:
        """Put on a build's record that it may serve, in the place of an earlier word for that provider, or
        for everywhere; NotFoundError, and repeated by itself, as above."""

    @abstractmethod
    def let_go(self, image: str, build_id: str, release: Release) -> Build:
        """End the hold of a build, and put on its record whose word that was; when it is not held, nothing is
        written, and that is no error. NotFoundError, and repeated by itself, as above."""

    @abstractmethod
    def pause(self, image: str, pause: Pause) -> None:
        """Stop builds of an image by themselves; also for an image never seen before."""

    @abstractmethod
    def unpause(self, image: str) -> None:
        """Take the pause back; no error when there is none."""

    @abstractmethod
    def pause_provider(self, provider: str, pause: Pause) -> None:
        """Stop uploads to a provider (`Snapshot.paused_providers`)."""

    @abstractmethod
    def unpause_provider(self, provider: str) -> None:
        """Take that back; no error when there is nothing to take back."""

    @abstractmethod
    def freeze(self, pause: Pause) -> None:
        """Stop everything that begins by itself, everywhere (`Snapshot.frozen`)."""

    @abstractmethod
    def unfreeze(self) -> None:
        """Take that back; no error when there is nothing to take back."""

    @abstractmethod
    def forget_builder(self, builder_id: str, word: Pause) -> None:
        """Remember, on somebody's word, that a builder and its files are gone for good
        (`Snapshot.forgotten`). ValueError for what can't be a builder's id."""

    @abstractmethod
    def recall_builder(self, builder_id: str) -> None:
        """It is back: take that word away; no error when there is none."""

    # -- who served what ------------------------------------------------------------------------

    @abstractmethod
    def history(self, image: str) -> Mapping[str, tuple[Turn, ...]]:
        """Which builds served each provider, by its name, the last ones first. Read from the tree whenever
        it is asked for: no Snapshot has it."""

    @abstractmethod
    def begin_turn(self, image: str, provider: str, turn: Turn) -> None:
        """Write that an upload serves a provider from now on, which ends the turn of any other. Nothing is
        changed when its turn is the one that lasts: who begins it and dies may begin it again."""

    @abstractmethod
    def end_turn(self, image: str, provider: str, upload: str, until: datetime, why: str) -> None:
        """Write that the upload of that name serves no more, and none in its place; no error when its turn
        is over."""

    @abstractmethod
    def forget_history(self, image: str) -> None:
        """Remove all that is known of who served an image; no error when nothing is."""

    # -- what is known of images without records -----------------------------------------------

    @abstractmethod
    def builds_gone(self) -> Mapping[str, datetime]:
        """The ids of builds whose records were removed by `delete_build`, and when.

        Without those that have a record all the same, whoever brought it back, and without nodepool 8's
        ids of ten digits, which other builds of other images have as well.
        """

    @abstractmethod
    def forget_build_gone(self, build_id: str) -> None:
        """Remember no more that a build is gone; no error when it wasn't known."""

    @abstractmethod
    def sightings(self, provider: str) -> tuple[Sighting, ...]:
        """The unowned images seen in a provider, by their ids."""

    @abstractmethod
    def put_sighting(self, sighting: Sighting) -> None:
        """Write that an image was seen unowned, over what was written of it before.

        ValueError for an id that can't name a node (`model.name_problem`); no Glance gives such.
        """

    @abstractmethod
    def delete_sighting(self, provider: str, external_id: str) -> None:
        """The image has an owner or is gone; no error when it wasn't seen."""

    # -- starting again after the tree was lost --------------------------------------------------

    @abstractmethod
    def restore_installation(self, installation_id: str) -> None:
        """Make the tree that of an installation there was before.

        RefusedError when the tree is another's and has builds. Daemons that run keep to the id they
        found when they started. ValueError for what is no uuid4 hex.
        """

    @abstractmethod
    def restore_build(self, build: Build) -> Build:
        """Write a build as it was, whatever its state; it is not gone any more. ConflictError when the id
        is taken."""

    @abstractmethod
    def restore_upload(self, upload: Upload) -> Upload:
        """Write an upload under the id it had, so that later ones get higher ids.

        ConflictError when the id is taken, NotFoundError when the build is not there, RefusedError when
        it is above HIGHEST_UPLOAD_ID.
        """


def builds_newest_first(builds: Iterable[Build]) -> tuple[Build, ...]:
    """The order in which every Store hands out builds."""
    return tuple(sorted(builds, key=lambda build: (build.began, build.id), reverse=True))


def uploads_newest_first(uploads: Iterable[Upload]) -> tuple[Upload, ...]:
    """The order in which every Store hands out uploads, whatever build or provider they belong to."""
    return tuple(
        sorted(
            uploads,
            # An upload's id is its own among those of its build to its provider only.
            key=lambda upload: (
                upload.started or upload.state_time,
                upload.id,
                upload.provider,
                upload.build_id,
            ),
            reverse=True,
        )
    )


def remembered(build: Build) -> bool:
    """Whether it is remembered that the build is gone: its id is that of no other build, ever."""
    return len(build.id) == _UNIQUE


def wished(build: Build, wish: UploadWish) -> Build:
    """The build with a wish in the place of an earlier one for that provider."""
    others = tuple(other for other in build.wishes if other.provider != wish.provider)
    return replace(build, wishes=(*others, wish))


def joined(request: Request, open_one: Request | None) -> Request:
    """The request that is open once `request` was made: `open_one` itself when it adds nothing to that.

    One without a `stamp` is to be told apart from all before; one with a stamp is still that very one.
    """
    if open_one is None:
        return replace(request, stamp=0)
    changes: dict[str, Any] = {
        "force": request.force or open_one.force,
        "urgent": request.urgent or open_one.urgent,
        "tick": max((tick for tick in (request.tick, open_one.tick) if tick is not None), default=None),
    }
    if request.manual and not open_one.manual:
        return replace(request, **changes, stamp=0)
    if all(getattr(open_one, name) == value for name, value in changes.items()):
        return open_one
    return replace(open_one, **changes)


def not_remembered(
    ticks: Mapping[str, datetime], remembered_ones: Mapping[str, datetime], now: datetime
) -> Mapping[str, datetime]:
    """Those of the times that nobody has asked for yet; `now` is when somebody does."""
    latest = now + CLOCKS_DIFFER
    return {
        entry: tick
        for entry, tick in ticks.items()
        if entry not in remembered_ones or not tick <= remembered_ones[entry] <= latest
    }
