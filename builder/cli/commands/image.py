"""`imagepool image list`, `show` and `explain`: what there is, and what comes next."""

from __future__ import annotations

import argparse

from builder.cli import lookup, render, status
from builder.cli.base import Lister, Shower
from builder.cli.cells import Cell, Moment
from builder.cli.context import builder_id
from builder.planning.explain import explain

EXPLAIN_COLUMNS = ("what", "verdict", "due", "reason")


class ListImages(Lister):
    """List every image, its state and its next build

    The state is building, failed or ready after its newest build, else unused (no provider lists it), paused
    or missing. Uploads are counted for the newest ready build: in how many of its providers it is ready.
    """

    def table(self, options: argparse.Namespace) -> render.Table:
        """A row for each image that is configured or on record."""
        config, now = self.context.config_to_show(self.note), self.context.now()
        snapshot = self.records(config)
        images = status.of_all(config, snapshot, now)
        return render.table(render.IMAGE_COLUMNS, [render.image_row(image, now) for image in images])


class ShowImage(Shower):
    """Show an image, where it is and what comes next"""

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which image."""
        _image_argument(parser)

    def row(self, options: argparse.Namespace) -> render.Row:
        """Its state, its decisions, its builds and its providers."""
        config, now = self.context.config_to_show(self.note), self.context.now()
        snapshot = self.records(config)
        name = lookup.image_name(snapshot, tuple(config.diskimages), options.image)
        return render.image_details(status.of_image(config, snapshot, now, name), now)


class ExplainImage(Lister):
    """Say why an image will or won't be built and uploaded, and when

    These are the daemon's own decisions, made on what is on record now.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which image."""
        _image_argument(parser)

    def table(self, options: argparse.Namespace) -> render.Table:
        """A row for each decision."""
        config = self.context.config_to_show(self.note)
        snapshot = self.records(config)
        name = lookup.image_name(snapshot, tuple(config.diskimages), options.image)
        decisions = explain(config, snapshot, self.context.now(), name, builder_id(config))
        rows = [
            {"what": Cell(d.what), "verdict": Cell(d.verdict), "due": Moment(d.due), "reason": Cell(d.reason)}
            for d in decisions
        ]
        return render.table(EXPLAIN_COLUMNS, rows)


def _image_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="the name of an image")
