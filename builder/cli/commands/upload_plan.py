"""`imagepool upload plan`: how an image would get into each provider, asked of the clouds as they are now."""

from __future__ import annotations

import argparse

from builder.cli import lookup, render, render_providers
from builder.cli.base import Lister
from builder.cli.clouds import Answer, ask_each
from builder.cli.commands.upload_change import listing_arguments, listing_providers
from builder.config.model import Config, Provider
from builder.planning.actions import UploadDecision
from builder.planning.uploads import decide_uploads
from builder.planning.ways import choose
from builder.ways import Capabilities, Choice


class PlanUpload(Lister):
    """Say how an image would get into its providers, and why so

    For each provider the daemon's decision on the newest ready build, the ways it would try, in that order,
    and what the cloud said it can do when it was asked just now. A cloud that can't be reached has the
    reason in `trouble`. Nothing is changed.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which image, and where."""
        listing_arguments(parser)

    def table(self, options: argparse.Namespace) -> render.Table:
        """A row for each provider."""
        config = self.context.config_to_show(self.note)
        snapshot = self.records(config)
        image = lookup.image_name(snapshot, tuple(config.diskimages), options.image)
        providers = listing_providers(config, image, options.provider)
        answers = ask_each(providers, self.context.clouds.capabilities)
        known = {answer.provider.name: answer.found for answer in answers if answer.found is not None}
        decisions = {
            decision.provider: decision
            for decision in decide_uploads(config, snapshot, self.context.now(), capabilities=known)
            if decision.image == image
        }
        rows = [_row(config, decisions[answer.provider.name], answer) for answer in answers]
        return render.table(render_providers.PLAN_COLUMNS, rows)


def _row(config: Config, decision: UploadDecision, answer: Answer[Capabilities]) -> render.Row:
    provider = answer.provider
    artifact = decision.build.artifact(provider.image_format) if decision.build else None
    choices: tuple[Choice, ...] = ()
    if answer.found is not None and artifact is not None:
        choices = choose(provider, answer.found, artifact, url=_url(config, provider))
    return render_providers.plan_row(provider, decision, answer.found, choices, answer.trouble)


def _url(config: Config, provider: Provider) -> str | None:
    """Where the cloud would find the file; its name there is given when the upload begins."""
    server = config.artifact_server
    return provider.download_url or (server.url if server is not None else None)
