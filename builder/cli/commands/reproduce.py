"""`imagepool build reproduce`: a script that builds again what a build was made of."""

from __future__ import annotations

import argparse

from builder.cli import lookup
from builder.cli.base import Action
from builder.cli.commands.render import BY_HAND
from builder.config.model import Config
from builder.dib.contents import reproduce
from builder.errors import NotFoundError, RefusedError
from builder.host import host_name
from builder.model import Build, BuildState


class ReproduceBuild(Action):
    """Print a script that builds the same again

    It holds the command and environment of that very build, and the elements that don't come with
    diskimage-builder; it asks for secrets as variables, says which tools have other versions, and
    at the end which packages. Save it to a file and run that with bash, as root, here or on any
    machine that has diskimage-builder; it works below /var/lib/imagepool-by-hand.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which build."""
        parser.add_argument("build", metavar="BUILD", help="the id of a build, or its beginning")

    def act(self, options: argparse.Namespace) -> int:
        """Print it."""
        config = self.context.config_for_records()
        with self.context.store(config) as store:
            build = lookup.build(store.snapshot(), options.build)
        self.app.stdout.write(reproduce.script(_recorded(config, build), BY_HAND))
        return 0


def _recorded(config: Config, build: Build) -> reproduce.Recorded:
    if build.state in (BuildState.BUILDING, BuildState.FAILED):
        made = "made no image" if build.state is BuildState.FAILED else "is in progress and has no image yet"
        raise RefusedError(
            f"there is nothing to reproduce: build {build.id} {made}",
            hint=f"'imagepool image render --script {build.image}' builds as it is configured now.",
        )
    if build.builder not in (None, host_name()):
        raise NotFoundError(
            f"the files of build {build.id} are on {build.builder}", hint="Run this command there."
        )
    return reproduce.load(config.images_dir, build.image, build.id)
