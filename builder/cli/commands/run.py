"""`imagepool run`: the daemon."""

from __future__ import annotations

import argparse

from builder import service
from builder.cli import logs
from builder.cli.base import Action


class Run(Action):
    """Run the daemon: schedule, build, upload and clean up

    It runs in the foreground until SIGTERM or Ctrl-C, and reloads its configuration when the file
    changes or on SIGHUP. Without zookeeper-servers in the configuration it starts and supervises a
    private ZooKeeper server of its own.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Roles and duration."""
        parser.add_argument(
            "--roles",
            metavar="ROLE[,ROLE...]",
            type=_roles,
            default=service.ROLES,
            help=f"what this machine does (default: {','.join(service.ROLES)})",
        )
        parser.add_argument(
            "--once",
            action="store_true",
            help="do all that is due now, then exit: 0, or 1 if anything failed",
        )

    def act(self, options: argparse.Namespace) -> int:
        """Run it to its end."""
        loudness = self.application.options
        logs.for_the_daemon(verbose=loudness.verbose, quiet=loudness.quiet)
        return service.run(
            service.Options(
                config_path=self.context.config_path,
                secure_path=self.context.secure,
                roles=options.roles,
                once=options.once,
            )
        )


def _roles(text: str) -> tuple[str, ...]:
    # A role named twice is one role; an unknown one is the service's to refuse.
    return tuple(dict.fromkeys(role.strip() for role in text.split(",") if role.strip()))
