"""`imagepool image build`: ask for builds, and follow them to the end of their uploads."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace

from builder.cli import asking, follow, lookup, text, waiting
from builder.cli.base import Action, words_on_record
from builder.config.model import Config
from builder.errors import ActionFailedError, RefusedError, UsageError
from builder.model import Request, Snapshot
from builder.store.base import Store

#: The reason on record when nobody says one.
BY_HAND = "asked by hand"
#: Seconds after which the waiting looks at the clock even when nothing changes in the store.
HEARTBEAT = 5.0


class BuildImage(Action):
    """Ask for builds of images now

    A request stays until a daemon with the role builder has served it; asking twice is one build. Every
    name is checked before anything is asked for. With --wait, every change is reported on stderr until the
    images are ready in all their providers (exit code 0) or one failed (1); Ctrl-C ends the waiting, not
    the requests.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which images, why, how, and whether to wait."""
        parser.add_argument("images", metavar="IMAGE", nargs="*", help="the name of an image")
        parser.add_argument("--all", action="store_true", help="every diskimage that can be built")
        parser.add_argument("--force", action="store_true", help="although it is paused or frozen")
        parser.add_argument("--now", action="store_true", help="before all others that wait")
        parser.add_argument("--wait", action="store_true", help="wait for the builds and all their uploads")
        parser.add_argument(
            "--why", metavar="TEXT", default=BY_HAND, help=f"the reason to put on record (default: {BY_HAND})"
        )

    def act(self, options: argparse.Namespace) -> int:
        """File the requests, and follow them when asked to."""
        why = words_on_record("--why", options.why) or BY_HAND
        if bool(options.images) == options.all:
            which = "either names or --all, not both" if options.all else "give their names, or --all"
            raise UsageError(f"which images? {which}", hint="'imagepool image list' shows them.")
        # What a cloud takes matters to who waits for its uploads; it takes long to find out.
        config = self.context.config() if options.wait else self.context.config_for_records()
        snapshot = self.context.snapshot(config, uploads=options.wait)
        names = self._all(config, snapshot, options) or _named(config, snapshot, options.images)
        asking.against_freeze(snapshot, force=options.force)
        accepted = self._accepted(config, names, force=options.force)
        with self.context.store(config, watch=options.wait) as store:
            asked = {
                name: self._ask(store, self._wish(name, why, options), quiet=options.wait)
                for name in accepted
            }
            self._tell_what_waits(config, snapshot, asked)
            if options.wait:
                self._wait(config, store, snapshot, asked)
        return 0 if len(accepted) == len(names) else RefusedError.exit_code

    def _all(self, config: Config, snapshot: Snapshot, options: argparse.Namespace) -> tuple[str, ...]:
        """With --all, every image that may be asked for; RefusedError when there is none."""
        if not options.all:
            return ()
        without = asking.left_out(config, snapshot, force=options.force)
        for name, why in without.items():
            self.note(f"left out: {name}: {why}")
        names = tuple(name for name in config.diskimages if name not in without)
        if not names:
            raise RefusedError(
                f"the configuration {config.path} has no diskimage that can be built",
                hint="With --force, those that are paused are built as well." if without else "",
            )
        return names

    def _accepted(self, config: Config, names: Sequence[str], *, force: bool) -> tuple[str, ...]:
        """Those that may be asked for; of several, the others have their answer then."""
        against = {name: asking.refusal(config, config.diskimages[name], force=force) for name in names}
        for name, why in against.items():
            if why is not None and len(names) == 1:
                raise why.error(name)
            if why is not None:
                self.say(f"{name} {why.why}, and is not built. {why.hint}")
        return tuple(name for name, why in against.items() if why is None)

    def _wish(self, name: str, why: str, options: argparse.Namespace) -> Request:
        return Request(
            image=name,
            by=self.context.who(),
            why=why,
            time=self.context.now(),
            force=options.force,
            urgent=options.now,
        )

    def _ask(self, store: Store, ours: Request, *, quiet: bool) -> Request:
        """File it; the open request, which is told unless it is ours and its build is followed anyway."""
        there = store.request_build(ours)
        if not quiet:
            self.say(asking.answer(ours, there))
        elif there is not None and not asking.is_same(ours, there):
            self.note(asking.answer(ours, there))
        return there or ours

    def _tell_what_waits(self, config: Config, snapshot: Snapshot, asked: Mapping[str, Request]) -> None:
        """Say of what was asked for which of it no builder can take, and why."""
        for request in asked.values():
            # Its own is not in the snapshot yet.
            snapshot = snapshot.with_image(replace(snapshot.image(request.image), request=request))
        for each in waiting.of_all(config, snapshot, self.context.now()):
            if each.request.image in asked and each.stuck:
                self.note(text.one_line(f"{each.request.image} waits: {each.reason}"))

    def _wait(self, config: Config, store: Store, before: Snapshot, asked: Mapping[str, Request]) -> None:
        """Report every change until all have ended; ActionFailedError when one did not end well."""
        now = self.context.now()
        followers = {
            name: follow.Follower(
                request=request, known=frozenset(b.id for b in before.image(name).builds), since=now
            )
            for name, request in asked.items()
        }
        try:
            ends = self._follow(config, store, followers)
        except KeyboardInterrupt:
            self.note("no longer waiting; the requests and their builds go on")
            raise
        bad = {name: end for name, end in ends.items() if end.reason is not None}
        if len(asked) == 1 and bad:
            ((name, end),) = bad.items()
            raise ActionFailedError(str(end.reason), hint=end.hint or f"See 'imagepool image show {name}'.")
        if bad:
            raise ActionFailedError(
                f"{len(bad)} of {len(asked)} images did not get ready: {', '.join(bad)}",
                hint="See 'imagepool image show IMAGE'.",
            )

    def _follow(
        self, config: Config, store: Store, followers: Mapping[str, follow.Follower]
    ) -> dict[str, follow.Outcome]:
        """How each ended, by image; what happens meanwhile is told as it happens."""
        ends: dict[str, follow.Outcome] = {}
        seen, reached = -1, True
        while len(ends) < len(followers):
            seen = store.wait(seen, HEARTBEAT)
            if reached != store.connected:
                reached = store.connected
                self.note("ZooKeeper is back" if reached else "ZooKeeper does not answer; it is waited for")
            scene = follow.Scene(config, store.snapshot(), self.context.now())
            for name, follower in followers.items():
                if name not in ends:
                    news = follower.look(scene)
                    self._report(news, f"{name}: " if len(followers) > 1 else "")
                    if news.outcome is not None:
                        ends[name] = news.outcome
                        self._ended(name, news.outcome, alone=len(followers) == 1)
        return ends

    def _report(self, news: follow.News, whose: str) -> None:
        for line in news.lines:
            self.note(text.one_line(f"{whose}{line}"))
        for line in news.outcome.lines if news.outcome is not None else ():
            self.note(f"  {text.visible(line)}")

    def _ended(self, name: str, end: follow.Outcome, *, alone: bool) -> None:
        """Say how one of several ended; the end of a single one is the command's."""
        if end.reason is None:
            but = f" but {', '.join(end.without)}" if end.without else ""
            self.say(f"{name} is ready in all its providers{but}")
        elif not alone:
            self.note(text.one_line(f"{name}: {end.reason}"))


def _named(config: Config, snapshot: Snapshot, typed: Sequence[str]) -> tuple[str, ...]:
    """The images somebody named, each once; NotFoundError when one is unknown or not configured."""
    names = tuple(dict.fromkeys(typed))
    for name in names:
        asking.configured(config, lookup.image_name(snapshot, tuple(config.diskimages), name))
    return names
