"""Every command: its name, the class that does it, and one line of help.

The class is loaded when its command is chosen, so that `imagepool build list` doesn't wait for what
only `imagepool run` needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Final

from cliff.command import Command
from cliff.commandmanager import CommandManager


@dataclass(frozen=True)
class Entry:
    """One command; `target` is "module:Class" below builder.cli.commands."""

    name: str
    target: str
    summary: str


COMMANDS: Final = (
    Entry("run", "run:Run", "Run the daemon: schedule, build, upload and clean up"),
    Entry("image list", "image:ListImages", "List every image, its state and its next build"),
    Entry("image show", "image:ShowImage", "Show an image, where it is and what comes next"),
    Entry("image build", "image:BuildImage", "Ask for a build of an image now"),
    Entry("image pause", "image:PauseImage", "Stop builds of an image"),
    Entry("image unpause", "image:UnpauseImage", "Let builds of an image go on"),
    Entry("image render", "render:RenderImage", "Print the command and environment that build an image"),
    Entry(
        "image explain",
        "image:ExplainImage",
        "Say why an image will or won't be built and uploaded, and when",
    ),
    Entry(
        "image resolve",
        "image_resolve:ResolveImage",
        "Print the cloud's id of the newest ready image in each provider",
    ),
    Entry("build list", "build:ListBuilds", "List builds"),
    Entry("build show", "build:ShowBuild", "Show everything on record about a build"),
    Entry("build log", "build:ShowLog", "Print the log of a build"),
    Entry("build cancel", "build:CancelBuild", "Cancel a build that runs"),
    Entry("build reproduce", "reproduce:ReproduceBuild", "Print a script that builds the same again"),
    Entry("build delete", "build:DeleteBuild", "Delete a build, its files and its uploads"),
    Entry("upload list", "upload:ListUploads", "List uploads"),
    Entry("upload show", "upload:ShowUpload", "Show everything on record about an upload"),
    Entry(
        "upload plan", "upload_plan:PlanUpload", "Say how an image would get into its providers, and why so"
    ),
    Entry("upload cancel", "upload_change:CancelUpload", "Cancel an upload that runs"),
    Entry(
        "upload retry",
        "upload_change:RetryUpload",
        "Upload the newest ready build now, whatever failed before",
    ),
    Entry(
        "upload delete",
        "upload_change:DeleteUpload",
        "Delete an upload from its provider, and keep it away",
    ),
    Entry(
        "provider list",
        "provider:ListProviders",
        "List providers, whether uploads go there, and what is there",
    ),
    Entry("provider show", "provider:ShowProvider", "Show a provider, and what its cloud can do"),
    Entry("leak list", "leak:ListLeaks", "List images in the clouds that are ours and that no record knows"),
    Entry(
        "leak delete", "leak:DeleteLeak", "Delete images in a cloud that are ours and that no record knows"
    ),
    Entry("cleanup", "cleanup:Cleanup", "Remove what belongs to nothing in the configuration any more"),
    Entry(
        "recover",
        "recover:Recover",
        "Make lost records again, from images in the clouds and files on this machine",
    ),
    Entry("config validate", "config:ValidateConfig", "Check a configuration and report every problem"),
    Entry("config show", "config:ShowConfig", "Print the configuration as rendered, secrets masked"),
    Entry("doctor", "doctor:Doctor", "Check all that imagepool depends on, and say what to do"),
    Entry("help", "help:Help", "Show help for imagepool or one of its commands"),
)


class Registry(CommandManager):
    """The commands above, known without any scan of what is installed."""

    def __init__(self) -> None:
        super().__init__()
        self.commands = {
            entry.name: EntryPoint(entry.name, f"builder.cli.commands.{entry.target}", "imagepool")
            for entry in COMMANDS
        }

    def add_command(self, name: str, command_class: type[Command]) -> None:
        """Refuse cliff's own `help` and `complete`, which would load or print every command."""

    def below(self, words: str) -> Iterator[Entry]:
        """The commands whose name begins with these words."""
        return (e for e in COMMANDS if e.name == words or e.name.startswith(f"{words} "))
