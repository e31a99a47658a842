"""What `image rollback`, `build quarantine` and `build reject` share: put a word on record, and see the
regions move."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

from builder.cli import render, text
from builder.cli.base import Lister
from builder.cli.follow import Scene
from builder.cli.moving import Follower, Standing
from builder.cli.render_moves import MOVE_COLUMNS, planned_row, standing_row
from builder.config.model import Config
from builder.errors import ActionFailedError, NotFoundError, UnavailableError
from builder.model import Build, Snapshot
from builder.planning.rollback import MoveFate, Rollback, too_old
from builder.planning.words import listed, short
from builder.store.base import Store

#: Seconds for a region that has another image to serve it, and for an upload to begin. A cloud that answers
#: takes one or two.
PATIENCE: Final = 60.0
#: Seconds after which the waiting looks at the clock even when nothing changes in the store.
_HEARTBEAT: Final = 1.0
#: The daemons with this role move the images.
_MOVER: Final = "uploader"


class ChangeService(Lister):
    """Changes what may serve, and lists what becomes of each region."""

    _code = 0

    def run(self, parsed_args: argparse.Namespace) -> int:
        """List what became of each region; the exit code."""
        super().run(parsed_args)
        return self._code

    def carry_out(
        self,
        config: Config,
        store: Store,
        plan: Rollback,
        options: argparse.Namespace,
        *,
        write: Callable[[], Build] | None = None,
    ) -> render.Table:
        """Say what there is to know beforehand and, but for --dry-run, put on record what the plan withholds,
        or do what `write` does instead; then wait for the regions, unless told not to. A row for each."""
        snapshot = store.snapshot()
        self._warn(snapshot, plan)
        if options.dry_run:
            self._tell(plan, "would be")
            self.note("this was a dry run: nothing was changed")
            return _table(map(planned_row, plan.moves))
        follower = Follower(plan.image, plan.moves, self.context.now())
        written = self._withhold(store, plan) if write is None else [write()]
        if options.no_wait:
            return _table(map(planned_row, plan.moves))
        if _moves(plan) and not _movers(snapshot):
            self._code = UnavailableError.exit_code
            return _table(map(planned_row, plan.moves))
        standings = self._wait(config, store, follower, written)
        return _table(map(standing_row, self._conclude(plan.image, standings)))

    def _withhold(self, store: Store, plan: Rollback) -> list[Build]:
        """Put the words of the plan on record; the records as they were written."""
        # In the order of the plan: the build that serves is the last, so no region moves to one that is
        # withheld a moment later.
        written = []
        if plan.target is not None:
            # First of all: where something newer serves, it moves nothing.
            written += [store.clear(plan.image, plan.target.id, word) for word in plan.clear]
        for build, word in plan.withhold:
            # One that is gone meanwhile serves no more.
            with suppress(NotFoundError):
                written.append(store.withhold(plan.image, build.id, word))
        self._tell(plan, "is")
        return written

    def _tell(self, plan: Rollback, verb: str) -> None:
        """Say what is withheld by it, and how that is taken back."""
        where: dict[str, list[str]] = {}
        for build, word in plan.withhold:
            where.setdefault(short(build.id), []).extend(filter(None, [word.provider]))
        for name, providers in where.items():
            how = f"withheld from {listed(providers)}" if providers else "in quarantine"
            undone = f"'imagepool build unquarantine {name}' undoes that"
            self.note(f"build {name} of {plan.image} {verb} {how}; {undone}")

    # -- what to know beforehand --------------------------------------------------------------

    def _warn(self, snapshot: Snapshot, plan: Rollback) -> None:
        for daemon in too_old(snapshot):
            old = f"the daemon on {daemon.hostname} has version {daemon.version}"
            self.note(
                text.one_line(
                    f"WARNING: {old}, which knows nothing of withheld builds: it may let them serve again,"
                    " and delete what you go back to. Upgrade it, or stop it"
                )
            )
        if _moves(plan) and not _movers(snapshot):
            self.note(
                "WARNING: no daemon runs that could move images (role uploader): what is said here is put on"
                " record, and the regions move when 'imagepool run' runs"
            )
        coming, words = plan.running, dict.fromkeys(build.id for build, _ in plan.withhold)
        if coming is not None and words and coming.id not in words and not coming.withheld:
            name = short(coming.id)
            self.note(
                f"build {name} is being made now, and is not withheld: it serves when it is ready;"
                f" 'imagepool build cancel {name}' ends it"
            )

    # -- waiting ------------------------------------------------------------------------------

    def _wait(
        self, config: Config, store: Store, follower: Follower, written: list[Build]
    ) -> tuple[Standing, ...]:
        """How far the regions have come when nothing more is to be waited for; each change is told."""
        seen, heard, until = -1, time.monotonic(), time.monotonic() + PATIENCE
        try:
            while True:
                seen = store.wait(seen, _HEARTBEAT)
                heard = time.monotonic() if store.connected else heard
                if time.monotonic() - heard >= PATIENCE:
                    # What is seen is what was seen last, and an upload that moved then would move for ever.
                    raise UnavailableError(
                        f"ZooKeeper has not answered for {PATIENCE:.0f} s, so nobody can say how far it is",
                        hint="What was said is on record, and the regions move all the same.",
                    )
                scene = Scene(config, store.snapshot(), self.context.now())
                late = time.monotonic() >= until
                if not late and not _shows(scene.snapshot, written):
                    continue  # what is watched is behind what was written
                for line in follower.look(scene):
                    self.note(text.one_line(line))
                standings = follower.standings(scene)
                if late or not any(standing.coming for standing in standings):
                    return standings
                if any(standing.sending for standing in standings):
                    until = time.monotonic() + PATIENCE  # however long it takes: it moves, or it is cut
        except KeyboardInterrupt:
            self.note("no longer waiting; what was said stays on record, and the regions move all the same")
            raise

    def _conclude(self, image: str, standings: tuple[Standing, ...]) -> tuple[Standing, ...]:
        """Say which regions are not where they should be, of which the exit code tells as well."""
        late = [standing.move.provider for standing in standings if standing.coming]
        if late:
            self.note(
                f"{listed(late)}: not yet after {PATIENCE:.0f} s. It is tried again and again; the log of the"
                " daemons, and 'imagepool doctor', say what is in the way"
            )
        stuck = [standing.move.provider for standing in standings if standing.move.fate is MoveFate.STUCK]
        if stuck:
            self.note(
                f"{listed(stuck)}: a region is never left without any image, so what is withheld goes on"
                f" serving there until another is ready; 'imagepool image build {image}' makes one"
            )
        if not all(standing.there for standing in standings):
            self._code = ActionFailedError.exit_code
        return standings


def providers_argument(parser: argparse.ArgumentParser) -> None:
    """In which providers alone."""
    parser.add_argument(
        "--provider",
        metavar="PROVIDER",
        action="append",
        default=[],
        help="only there; may be given several times",
    )


def waiting_arguments(parser: argparse.ArgumentParser) -> None:
    """Whether it is done, and whether to see it through."""
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would become of each region, and do nothing"
    )
    parser.add_argument("--no-wait", action="store_true", help="don't wait for the regions to move")


def build_argument(parser: argparse.ArgumentParser) -> None:
    """Which build."""
    parser.add_argument("build", metavar="BUILD", help="the id of a build, or its beginning")


def reason_argument(parser: argparse.ArgumentParser) -> None:
    """Why it is to serve no longer."""
    parser.add_argument(
        "--reason",
        metavar="TEXT",
        default="",
        help="the reason to put on record; who may use the images can read it in their properties",
    )


def waits(options: argparse.Namespace) -> bool:
    """Whether the regions are waited for."""
    return not (options.dry_run or options.no_wait)


def _shows(snapshot: Snapshot, written: Iterable[Build]) -> bool:
    """Whether a snapshot is no older than those records; one that is gone was there."""
    for build in written:
        seen = snapshot.image(build.image).build(build.id)
        if seen is not None and seen.version < build.version:
            return False
    return True


def _moves(plan: Rollback) -> bool:
    """Whether any region gets another image by it."""
    return any(move.fate in (MoveFate.MOVES, MoveFate.UPLOAD) for move in plan.moves)


def _movers(snapshot: Snapshot) -> list[str]:
    """The hosts of the daemons that move images; not those that stop, or know of no such word."""
    old = too_old(snapshot)
    return [d.hostname for d in snapshot.daemons if _MOVER in d.roles and not d.draining and d not in old]


def _table(rows: Iterable[render.Row]) -> render.Table:
    return render.table(MOVE_COLUMNS, list(rows))
