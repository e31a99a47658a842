"""`imagepool leak ...`: images in the clouds that carry our marks and that no record knows."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Final

from builder.cli import guard, render, text
from builder.cli.base import Action, Lister
from builder.cli.cells import Bytes, Cell, Moment, Paragraph
from builder.cli.clouds import ask_each
from builder.cloudimage import INSTALLATION, NODEPOOL_PROVIDER, PART_PROPERTIES, CloudImage
from builder.config.model import Config, Provider
from builder.errors import CloudError, CloudUnavailableError, NotFoundError, RefusedError, UsageError
from builder.planning.actions import Leak, Verdict
from builder.planning.leaks import judge_leaks
from builder.store.base import Store

LEAK_COLUMNS: Final = ("provider", "id", "name", "size", "created", "first_seen", "verdict", "due", "reason")
#: Some clouds could not be asked, so the list may lack something.
EXIT_UNASKED: Final = CloudUnavailableError.exit_code
EXIT_LEFT_UNDONE: Final = 1


class ListLeaks(Lister):
    """List images in the clouds that are ours and that no record knows

    Every cloud is asked now. The verdict is that of the daemon, which removes a leak by itself once it was
    seen twice and its build's record is known to be gone. What nodepool left is listed with
    'adopt-nodepool: true' and never removed by itself. A cloud that can't be asked is named on stderr, and
    the exit code is 5.
    """

    _unasked = False

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Where to look."""
        parser.add_argument("--provider", metavar="PROVIDER", help="in this provider only")

    def run(self, parsed_args: argparse.Namespace) -> int:
        """List what was found; the exit code."""
        super().run(parsed_args)
        return EXIT_UNASKED if self._unasked else 0

    def table(self, options: argparse.Namespace) -> render.Table:
        """A row for each leak."""
        leaks = self.found(self.context.config_for_records(), options.provider)
        return render.table(LEAK_COLUMNS, [_row(leak) for leak in leaks])

    def found(self, config: Config, provider: str | None) -> list[Leak]:
        """The leaks in a provider or in all; a cloud that can't be asked is told on stderr."""
        providers = _providers(config, provider)
        with self.context.store(config) as store:
            sweep = _Sweep(self, config, store)
            answers = ask_each(providers, sweep.ask)
            leaks = [
                leak
                for answer in answers
                if answer.found is not None
                for leak in sweep.judge(answer.provider, answer.found)
            ]
        for answer in answers:
            if answer.trouble is not None:
                self._unasked = True
                self.note(text.one_line(f"{answer.provider.name}: not asked: {answer.trouble}"))
        return leaks


class DeleteLeak(Action):
    """Delete images in a cloud that are ours and that no record knows

    By hand, and at once. An image that a record knows, that lacks the marks of this installation, or that
    is a snapshot is refused. --all takes those of 'imagepool leak list' that the daemon would
    remove by itself, now or later; others have to be named.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which images, and where."""
        parser.add_argument("ids", metavar="ID", nargs="*", help="the cloud's own id of an image")
        parser.add_argument("--provider", metavar="PROVIDER", required=True, help="where they are")
        parser.add_argument(
            "--all", action="store_true", help="all that the daemon would remove, now or later"
        )
        parser.add_argument("-y", "--yes", action="store_true", help="with --all: don't ask before doing it")

    def act(self, options: argparse.Namespace) -> int:
        """Delete them, each for itself."""
        if bool(options.ids) == options.all:
            raise UsageError("name the images to delete, or say --all", hint="Not both, and not neither.")
        config = self.context.config_for_records()
        (provider,) = _providers(config, options.provider)
        with self.context.store(config) as store:
            sweep = _Sweep(self, config, store)
            ids = self._all(sweep, provider, options.yes) if options.all else options.ids
            failed = 0
            for image_id in ids:
                try:
                    self.say(text.one_line(f"{image_id}: {sweep.delete(provider, image_id)}"))
                except (CloudError, CloudUnavailableError, NotFoundError, RefusedError) as error:
                    if len(ids) == 1:
                        raise
                    failed += 1
                    self.note(text.one_line(f"{image_id}: {error.message}. {error.hint}"))
        return EXIT_LEFT_UNDONE if failed else 0

    def _all(self, sweep: _Sweep, provider: Provider, yes: bool) -> Sequence[str]:
        """The ids of what the daemon would remove, once that is confirmed."""
        leaks = [
            leak
            for leak in sweep.judge(provider, sweep.ask(provider))
            if leak.verdict in (Verdict.NOW, Verdict.LATER)
        ]
        if not leaks:
            self.note(f"there is nothing in {provider.name} that the daemon would remove")
        elif not yes:
            for leak in leaks:
                self.note(text.one_line(f"{leak.image.id} ({leak.image.name}): {leak.reason}"))
            amount = text.size(sum(leak.image.size or 0 for leak in leaks))
            self.confirm(f"Delete {len(leaks)} images, {amount}, from {provider.name}?")
        return [leak.image.id for leak in leaks]


class _Sweep:
    """Looks for leaks with what the store knows of them."""

    def __init__(self, command: ListLeaks | DeleteLeak, config: Config, store: Store) -> None:
        self._command = command
        self._config = config
        self._store = store
        self._installation_id = store.installation_id()

    def ask(self, provider: Provider) -> tuple[CloudImage, ...]:
        """The images in a provider that carry marks that may be ours."""
        cloud = self._command.context.clouds.get(provider)
        found = list(cloud.find({INSTALLATION: self._installation_id}))
        if self._config.adopt_nodepool:
            found += cloud.find({NODEPOOL_PROVIDER: provider.name})
        return tuple({image.id: image for image in found}.values())

    def judge(self, provider: Provider, images: Iterable[CloudImage]) -> tuple[Leak, ...]:
        """The leaks among the images of a provider.

        The records are read after the cloud was: what is uploaded meanwhile has its record first.
        """
        name = provider.name
        return judge_leaks(
            name,
            images,
            self._store.snapshot(),
            installation_id=self._installation_id,
            sightings=self._store.sightings(name),
            builds_gone=self._store.builds_gone(),
            now=self._command.context.now(),
            sweep=self._config.leak_sweep,
            adopt_nodepool=self._config.adopt_nodepool,
        )

    def delete(self, provider: Provider, image_id: str) -> str:
        """Delete an image that nothing speaks for; RefusedError, NotFoundError, and what the cloud raises."""
        cloud = self._command.context.clouds.get(provider)
        image = cloud.get(image_id)
        if image is None:
            self._forget(provider, image_id)
            raise NotFoundError(f"there is no image {image_id} in {provider.name}")
        if not self.judge(provider, [image] if self._is_marked(provider, image) else []):
            why = guard.why_no_leak(
                image,
                self._store.snapshot(),
                installation_id=self._installation_id,
                adopt_nodepool=self._config.adopt_nodepool,
            )
            raise RefusedError(f"image {image_id} in {provider.name} is no leak of ours: {why}")
        if needing := self._needing(provider, image):
            raise RefusedError(
                f"image {image_id} in {provider.name} stays: image {needing.id} boots with it",
                hint="Delete that one first.",
            )
        cloud.delete(image_id)
        self._forget(provider, image_id)
        amount = f", {text.size(image.size)}" if image.size is not None else ""
        return f"deleted from {provider.name} ({image.name}{amount})"

    def _needing(self, provider: Provider, image: CloudImage) -> CloudImage | None:
        """An image that can't be booted without this one."""
        if image.disk_format not in PART_PROPERTIES:
            return None
        there = (each for each in self.ask(provider) if not each.status.is_going)
        return next((each for each in there if image.id in each.parts_named), None)

    def _forget(self, provider: Provider, image_id: str) -> None:
        """Remember no more that it was seen; what somebody typed may be no id at all."""
        if any(sighting.external_id == image_id for sighting in self._store.sightings(provider.name)):
            self._store.delete_sighting(provider.name, image_id)

    def _is_marked(self, provider: Provider, image: CloudImage) -> bool:
        """Whether a sweep of the provider would have looked at the image."""
        if image.properties.get(INSTALLATION) == self._installation_id:
            return True
        return self._config.adopt_nodepool and image.properties.get(NODEPOOL_PROVIDER) == provider.name


def _providers(config: Config, name: str | None) -> tuple[Provider, ...]:
    if name is None:
        return tuple(config.providers.values())
    if name not in config.providers:
        raise NotFoundError(
            f"the configuration {config.path} has no provider {name!r}",
            hint=f"There is: {', '.join(config.providers) or 'none'}.",
        )
    return (config.providers[name],)


def _row(leak: Leak) -> render.Row:
    return {
        "provider": Cell(leak.provider),
        "id": Cell(leak.image.id),
        "name": Cell(leak.image.name),
        "size": Bytes(leak.image.size),
        "created": Moment(leak.image.created),
        "first_seen": Moment(leak.first_seen),
        "verdict": Cell(leak.verdict),
        "due": Moment(leak.due),
        "reason": Paragraph(leak.reason),
    }
