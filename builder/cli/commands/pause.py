"""`imagepool image pause`, `provider pause`, `freeze`, and how each of them is taken back."""

from __future__ import annotations

import argparse

from builder.cli import lookup, standstill, text
from builder.cli.base import Action, words_on_record
from builder.model import Pause


class _Standing(Action):
    """What stops something, or lets it go on, with the name of who did it first."""

    def reason(self, parser: argparse.ArgumentParser) -> None:
        """The option of all that stop something."""
        parser.add_argument("--reason", metavar="TEXT", default="", help="the reason to put on record")

    def word(self, options: argparse.Namespace) -> Pause:
        """Who stops it, now, and why. UsageError when the reason is more than a line."""
        why = words_on_record("--reason", options.reason)
        return Pause(by=self.context.who(), time=self.context.now(), why=why)

    def stays(self, word: Pause) -> str:
        """What becomes of the reason of somebody who was not the first."""
        return "; that stays on record, and your reason doesn't go there" if word.why else ""

    def since(self, pause: Pause) -> str:
        """How long it has stood still, and on whose word."""
        seconds = (self.context.now() - pause.time).total_seconds()
        return f"after {text.duration(max(0.0, seconds))}, {standstill.told(pause)}"


class PauseImage(_Standing):
    """Stop builds of an image

    Uploads of what is built already go on. A build somebody asks for is made all the same. Who paused it
    and why is shown wherever the image is. One that is paused already stays as it is.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which image, and why."""
        _image_argument(parser)
        self.reason(parser)

    def act(self, options: argparse.Namespace) -> int:
        """Set the pause mark, unless there is one."""
        word = self.word(options)
        config = self.context.config_for_records()
        snapshot = self.context.snapshot(config)
        name = lookup.image_name(snapshot, tuple(config.diskimages), options.image)
        if (first := snapshot.image(name).pause) is not None:
            self.say(f"builds of {name} were paused already, {standstill.told(first)}{self.stays(word)}")
            return 0
        with self.context.store(config) as store:
            store.pause(name, word)
        self.say(f"builds of {name} are paused")
        return 0


class UnpauseImage(_Standing):
    """Let builds of an image go on"""

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which image."""
        _image_argument(parser)

    def act(self, options: argparse.Namespace) -> int:
        """Take the pause mark away."""
        config = self.context.config_for_records()
        snapshot = self.context.snapshot(config)
        name = lookup.image_name(snapshot, tuple(config.diskimages), options.image)
        there = snapshot.image(name).pause
        with self.context.store(config) as store:
            store.unpause(name)
        by_file = name in config.diskimages and config.diskimages[name].pause
        still = f", but still paused by the configuration {config.path}" if by_file else ""
        if there is None:
            self.say(f"builds of {name} were not paused by hand{still}")
        else:
            self.say(f"builds of {name} are no longer paused by hand ({self.since(there)}){still}")
        return 0


class PauseProvider(_Standing):
    """Stop uploads to a provider

    Nothing new is uploaded there, by whatever daemon, until `provider unpause`. An upload that runs goes on,
    and what is there stays in use. One that is paused already stays as it is.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which provider, and why."""
        _provider_argument(parser)
        self.reason(parser)

    def act(self, options: argparse.Namespace) -> int:
        """Set the pause mark, unless there is one."""
        word = self.word(options)
        config = self.context.config_for_records()
        snapshot = self.context.snapshot(config)
        name = lookup.provider_name(snapshot, tuple(config.providers), options.provider)
        if (first := snapshot.paused_providers.get(name)) is not None:
            self.say(f"uploads to {name} were paused already, {standstill.told(first)}{self.stays(word)}")
            return 0
        with self.context.store(config) as store:
            store.pause_provider(name, word)
        self.say(f"uploads to {name} are paused")
        return 0


class UnpauseProvider(_Standing):
    """Let uploads to a provider go on"""

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which provider."""
        _provider_argument(parser)

    def act(self, options: argparse.Namespace) -> int:
        """Take the pause mark away."""
        config = self.context.config_for_records()
        snapshot = self.context.snapshot(config)
        name = lookup.provider_name(snapshot, tuple(config.providers), options.provider)
        there = snapshot.paused_providers.get(name)
        with self.context.store(config) as store:
            store.unpause_provider(name)
        if there is None:
            self.say(f"uploads to {name} were not paused")
        else:
            self.say(f"uploads to {name} go on ({self.since(there)})")
        return 0


class Freeze(_Standing):
    """Stop everything that would begin by itself, everywhere

    No build begins but with `image build --force`, and no upload, promotion or deletion at all, on any
    machine. What runs goes on to its end. Every list says so until `unfreeze`.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Why."""
        self.reason(parser)

    def act(self, options: argparse.Namespace) -> int:
        """Set the mark, unless there is one."""
        word = self.word(options)
        config = self.context.config_for_records()
        if (first := self.context.snapshot(config).frozen) is not None:
            self.say(f"everything was frozen already, {standstill.told(first)}{self.stays(word)}")
            return 0
        with self.context.store(config) as store:
            store.freeze(word)
        self.say("everything is frozen; 'imagepool unfreeze' lets it go on")
        return 0


class Unfreeze(_Standing):
    """Let everything go on that was frozen"""

    def act(self, options: argparse.Namespace) -> int:
        """Take the mark away."""
        config = self.context.config_for_records()
        there = self.context.snapshot(config).frozen
        with self.context.store(config) as store:
            store.unfreeze()
        if there is None:
            self.say("nothing was frozen")
        else:
            self.say(f"everything goes on ({self.since(there)})")
        return 0


def _image_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="the name of an image")


def _provider_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("provider", metavar="PROVIDER", help="the name of a provider")
