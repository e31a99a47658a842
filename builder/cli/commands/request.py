"""`imagepool request ...`: the builds that are asked for and have not begun, and taking such a wish back."""

from __future__ import annotations

import argparse
from dataclasses import replace

from builder.cli import lookup, render_requests, text, waiting
from builder.cli.base import Action, Lister
from builder.cli.render import Table, table
from builder.config.model import Config
from builder.errors import NotFoundError, RefusedError, UsageError
from builder.model import ImageRecords, Snapshot
from builder.planning.actions import Verdict
from builder.planning.builds import decide_build
from builder.planning.words import short
from builder.store.base import Store


class ListRequests(Lister):
    """List builds that are asked for, and what they wait for

    In the order in which they are served. A request stays until its build has ended; `reason` is the
    daemon's own decision on it, and `builder` the machine that is to build it.
    """

    def table(self, options: argparse.Namespace) -> Table:
        """A row for each open request."""
        config, now = self.context.config_to_show(self.note), self.context.now()
        rows = [
            render_requests.request_row(each, now)
            for each in waiting.of_all(config, self.records(config), now)
        ]
        return table(render_requests.REQUEST_COLUMNS, rows)


class CancelRequest(Action):
    """Take back the wish for a build that has not begun

    A build that runs already is refused: 'build cancel' ends it. Where the same cause will ask again, the
    command says so; 'image pause' keeps an image from being built by itself.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which requests."""
        parser.add_argument("images", metavar="IMAGE", nargs="*", help="the name of an image")
        parser.add_argument("--all", action="store_true", help="every request whose build has not begun")

    def act(self, options: argparse.Namespace) -> int:
        """Withdraw them."""
        if bool(options.images) == options.all:
            which = "either names or --all, not both" if options.all else "give the names of images, or --all"
            raise UsageError(f"which requests? {which}", hint="'imagepool request list' shows them.")
        config = self.context.config_to_show(self.note)
        snapshot = self.context.snapshot(config)
        names = tuple(dict.fromkeys(options.images))
        for name in names:
            lookup.image_name(snapshot, tuple(config.diskimages), name)
        with self.context.store(config) as store:
            if options.all:
                return self._all(config, store, snapshot)
            return self._named(config, store, snapshot, names)

    def _named(self, config: Config, store: Store, snapshot: Snapshot, names: tuple[str, ...]) -> int:
        """Withdraw those of these images; the exit code is that of the first that can't be."""
        code = 0
        for name in names:
            against = why_not(snapshot.image(name))
            if against is not None and len(names) == 1:
                raise against
            if against is not None:
                self.say(text.one_line(f"{against.message}. {against.hint}"))
                code = code or against.exit_code
            else:
                self._withdraw(config, store, snapshot, name)
        return code

    def _all(self, config: Config, store: Store, snapshot: Snapshot) -> int:
        wished = [name for name in sorted(snapshot.images) if snapshot.image(name).request is not None]
        for name in wished:
            running = waiting.build_for(snapshot.image(name))
            if running is None:
                self._withdraw(config, store, snapshot, name)
            else:
                self.note(f"left: build {running.id} of {name} runs already")
        if not wished:
            self.say("no build is asked for")
        return 0

    def _withdraw(self, config: Config, store: Store, snapshot: Snapshot, name: str) -> None:
        """Withdraw the request there is now, and say what comes next."""
        request = store.get_request(name)
        if request is None or not store.withdraw_request(request):
            self.say(f"the request for {name} was served or withdrawn meanwhile")
            return
        self.say(text.one_line(f"the request for {name} ({request.why}, {request.by}) is withdrawn"))
        if (again := self._asked_again(config, snapshot, name)) is not None:
            self.note(text.one_line(f"{name} will be asked for again at once: {again}"))

    def _asked_again(self, config: Config, snapshot: Snapshot, name: str) -> str | None:
        """Why the scheduler will file another request by itself, None when it won't do so now."""
        image = config.diskimages.get(name)
        if image is None:
            return None
        without = snapshot.with_image(replace(snapshot.image(name), request=None))
        decision = decide_build(image, without, config, self.context.now())
        return decision.reason if decision.verdict is Verdict.NOW else None


def why_not(records: ImageRecords) -> RefusedError | NotFoundError | None:
    """Why there is nothing to withdraw of an image; None when there is."""
    running = waiting.build_for(records)
    if records.request is None:
        return NotFoundError(
            f"no build of {records.name} is asked for", hint="'imagepool request list' shows what is."
        )
    if running is not None:
        return RefusedError(
            f"build {running.id} of {records.name} runs already for that request",
            hint=f"'imagepool build cancel {short(running.id)}' ends it.",
        )
    return None
