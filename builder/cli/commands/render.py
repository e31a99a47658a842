"""`imagepool image render`: what the daemon would run, or a script that does it by hand."""

from __future__ import annotations

import argparse
import shlex
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from builder.cli import text
from builder.cli.base import Action
from builder.config import show
from builder.config.model import Config, DiskImage, masked_credentials
from builder.dib import command
from builder.dib.isolation.workspace import Ledger, Workspace
from builder.dib.job import render_here
from builder.errors import NotFoundError

#: Stands where the id of the build will be.
ANY_BUILD: Final = "BUILD_ID"
#: Where a build by hand works: outside of the daemon's own directory, which the daemon cleans up, and
#: where only root can make directories, for whoever owns this one decides what the build runs.
BY_HAND: Final = Path("/var/lib/imagepool-by-hand")


class RenderImage(Action):
    """Print the elements, properties, environment and command of an image

    All but the environment and the command are in comments. With --script, a script that builds the same
    image by hand, without the daemon, below /var/lib/imagepool-by-hand. Secret values are masked, or asked
    for by the script.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which image, and in which shape."""
        parser.add_argument("image", metavar="IMAGE", help="the name of an image")
        parser.add_argument("--script", action="store_true", help="print a script that builds it by hand")

    def act(self, options: argparse.Namespace) -> int:
        """Print it."""
        config = self.context.config_to_show(self.note)
        image = config.diskimages.get(options.image)
        if options.image in config.abstract:
            raise NotFoundError(
                f"{options.image} is abstract: only a parent of others", hint=f"There is: {_known(config)}."
            )
        if image is None:
            raise NotFoundError(
                f"the configuration {config.path} has no diskimage {options.image!r}",
                hint=f"There is: {_known(config)}.",
            )
        if options.script:
            # With a cache of its own: a build of the daemon's locks what is in its.
            by_hand = self._render(config, image, BY_HAND, BY_HAND / "cache", uuid.uuid4().hex)
            self.app.stdout.write(command.script(by_hand, image))
            return 0
        rendered = self._render(config, image, config.work_dir, config.cache_dir, ANY_BUILD)
        for line in _described(image):
            self.say(text.visible(f"# {line}"))
        for name, value in sorted(rendered.shown_environment.items()):
            self.say(f"{name}={text.visible(shlex.quote(value))}")
        self.say(text.visible(masked_credentials(shlex.join(rendered.argv))))
        return 0

    def _render(
        self, config: Config, image: DiskImage, work_dir: Path, cache_dir: Path, build_id: str
    ) -> command.Command:
        directory = work_dir / f"{image.name}-{build_id}"
        ledger = Ledger(installation_id="", image=image.name, build_id=build_id, started=self.context.now())
        return render_here(
            image,
            build_id=build_id,
            output=Workspace(directory=directory, ledger=ledger).output,
            work_dir=directory,
            cache_dir=cache_dir,
            elements_dirs=config.elements_dirs,
            environ=self.context.environ,
        )


def _described(image: DiskImage) -> Iterator[str]:
    """What comes out of the image's templates, besides its environment."""
    data = show.diskimage_data(image)
    platform = image.platform
    if platform is not None:
        what = (platform.distribution, platform.release, platform.architecture)
        yield f"platform: {platform.name} ({' '.join(what)})"
    yield f"elements: {' '.join(data['elements']) or 'none'}"
    yield f"formats: {' '.join(data['formats']) or 'none'}"
    yield from (f"property: {name}={value}" for name, value in data["metadata"].items())


def _known(config: Config) -> str:
    return ", ".join(config.diskimages) or "none"
