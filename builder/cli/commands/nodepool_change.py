"""nodepool's `image-delete` and `erase`, under nodepool's names and with its arguments."""

from __future__ import annotations

import argparse
from dataclasses import replace

from builder.cli import render
from builder.cli.commands.cleanup import Cleanup
from builder.cli.commands.upload_change import DeleteUpload
from builder.config.model import Config
from builder.errors import NotFoundError, RefusedError
from builder.model import Snapshot, Upload


class DeleteImage(DeleteUpload):
    """Delete one upload from its provider

    As 'imagepool upload delete' does, and named in full.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which upload, why, and whether to insist."""
        for option, words in (
            ("--provider", "the provider it is in"),
            ("--image", "the image it is of"),
            ("--build-id", "the id of its build"),
            ("--upload-id", "its number"),
        ):
            parser.add_argument(option, metavar=option[2:].upper(), required=True, help=words)
        parser.add_argument("--why", metavar="TEXT", default="", help="the reason to put on record")
        parser.add_argument("--force", action="store_true", help="even the last good image of its provider")

    def _named(self, snapshot: Snapshot, options: argparse.Namespace) -> Upload:
        """The upload of just these names: a script that names one means no other that is like it."""
        wanted = (options.build_id, options.provider, options.upload_id)
        for upload in snapshot.image(options.image).uploads:
            if (upload.build_id, upload.provider, upload.id) == wanted:
                return upload
        raise NotFoundError(
            f"{options.image} has no upload {'/'.join(wanted)}",
            hint="'imagepool image-list' shows all uploads.",
        )


class Erase(Cleanup):
    """Forget all uploads to a provider, without asking its cloud

    For a provider that is gone for good. Only records go; the images stay in the cloud, if there still is
    one, and are named. It is 'imagepool cleanup --forget'; with --force also for a provider that is still
    configured.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which provider, and whether to ask."""
        parser.add_argument("forget", metavar="PROVIDER", help="the name of a provider")
        parser.add_argument(
            *("--force", "-y", "--yes"),
            dest="yes",
            action="store_true",
            help="don't ask before doing it, and do it although the provider is configured",
        )
        parser.set_defaults(dry_run=False, why="")

    def configuration(self, options: argparse.Namespace) -> Config:
        """The configuration, as if it did not have the provider."""
        config, name = self.context.config_for_records(), options.forget
        if name in config.providers and not options.yes:
            raise RefusedError(
                f"provider {name} is in the configuration {config.path}",
                hint="With --force its records go all the same, and what it lists is uploaded there again.",
            )
        others = {other: config.providers[other] for other in config.providers if other != name}
        return replace(config, providers=others)

    def table(self, options: argparse.Namespace) -> render.Table:
        """A row for each record."""
        forgotten = super().table(options)
        if options.forget in self.context.config_for_records().providers:
            self.note(f"{options.forget} is still configured: what it lists is uploaded there again")
            self.note(f"'imagepool leak list --provider {options.forget}' finds what stays behind there")
        return forgotten
