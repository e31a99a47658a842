"""`imagepool provider ...`: how uploads to each provider go, and what its cloud can do."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from builder.cli import lookup, render, render_providers
from builder.cli.base import Lister, Shower
from builder.cli.clouds import ask_each
from builder.config.model import Provider
from builder.ways import Capabilities, Quota


class ListProviders(Lister):
    """List providers, whether uploads go there, and what is there

    From the records alone: no cloud is asked. The breaker of a provider opens after failures in a row that
    trying again does not mend soon; `next_probe` is when a single upload is tried.
    """

    def table(self, options: argparse.Namespace) -> render.Table:
        """A row for each provider."""
        config, now = self.context.config_for_records(), self.context.now()
        snapshot = self.records(config)
        statuses = render_providers.of_all(config, snapshot, now)
        rows = [render_providers.provider_row(status) for status in statuses]
        return render.table(render_providers.PROVIDER_COLUMNS, rows)


class ShowProvider(Shower):
    """Show a provider, and what its cloud can do

    Its breaker, what was uploaded there, its settings, and what the cloud says of itself now. When it can't
    be reached, the rest is shown, with the reason.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which provider."""
        parser.add_argument("provider", metavar="PROVIDER", help="the name of a provider")

    def row(self, options: argparse.Namespace) -> render.Row:
        """Its state, its settings, and what its cloud answers."""
        config, now = self.context.config_to_show(self.note), self.context.now()
        snapshot = self.records(config)
        name = lookup.provider_name(snapshot, tuple(config.providers), options.provider)
        status = render_providers.of_provider(config, snapshot, now, name)
        if status.provider is None:
            trouble = "The provider is not in the configuration, so its cloud is not asked."
            return render_providers.provider_details(status, None, None, trouble)
        (answer,) = ask_each([status.provider], self._ask)
        capabilities, quotas = answer.found or (None, None)
        return render_providers.provider_details(status, capabilities, quotas, answer.trouble)

    def _ask(self, provider: Provider) -> tuple[Capabilities, Mapping[str, Quota]]:
        return self.context.clouds.capabilities(provider), self.context.clouds.get(provider).quotas()
