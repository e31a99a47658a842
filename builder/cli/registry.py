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
    Entry("image build", "image_build:BuildImage", "Ask for builds of images now"),
    Entry("image promote", "promote:Promote", "Let a build serve now, whatever it would wait for"),
    Entry("image rollback", "rollback:RollBack", "Let every region serve an earlier build again"),
    Entry(
        "image history",
        "image_history:ShowHistory",
        "Tell which build served where, from when to when, and why",
    ),
    Entry("image pause", "pause:PauseImage", "Stop builds of an image"),
    Entry("image unpause", "pause:UnpauseImage", "Let builds of an image go on"),
    Entry(
        "image render",
        "render:RenderImage",
        "Print the elements, properties, environment and command of an image",
    ),
    Entry(
        "image explain",
        "image:ExplainImage",
        "Say why an image will or won't be built and uploaded, and when",
    ),
    Entry(
        "image resolve",
        "image_resolve:ResolveImage",
        "Print the cloud's id of the image that serves in each provider",
    ),
    Entry("request list", "request:ListRequests", "List builds that are asked for, and what they wait for"),
    Entry("request cancel", "request:CancelRequest", "Take back the wish for a build that has not begun"),
    Entry("plan", "plan:ShowPlan", "Say what will be built in the next 24 hours, where, when and why"),
    Entry("build list", "build:ListBuilds", "List builds"),
    Entry("build show", "build:ShowBuild", "Show everything on record about a build"),
    Entry("build log", "build:ShowLog", "Print the log of a build"),
    Entry("build diff", "build_diff:DiffBuilds", "Show how two builds differ"),
    Entry("build test", "build_test:BootTestBuild", "Boot the image of a build, to prove that it works"),
    Entry("build cancel", "build:CancelBuild", "Cancel a build that runs"),
    Entry(
        "build quarantine", "rollback:QuarantineBuild", "Keep a build out of service, and from being uploaded"
    ),
    Entry(
        "build unquarantine",
        "rollback:UnquarantineBuild",
        "Let a build serve again that was kept out of service",
    ),
    Entry("build release", "holding:ReleaseBuild", "Let a build go out that is held over its budget"),
    Entry("build reject", "holding:RejectBuild", "Keep a build that is held out of service"),
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
    Entry("provider pause", "pause:PauseProvider", "Stop uploads to a provider"),
    Entry("provider unpause", "pause:UnpauseProvider", "Let uploads to a provider go on"),
    Entry("builder list", "builders:ListBuilders", "List the machines that build, and what each of them has"),
    Entry("builder forget", "builders:ForgetBuilder", "Declare a builder and its files gone for good"),
    Entry("builder recall", "builders:RecallBuilder", "Take it back that a builder is gone for good"),
    Entry("freeze", "pause:Freeze", "Stop everything that would begin by itself, everywhere"),
    Entry("unfreeze", "pause:Unfreeze", "Let everything go on that was frozen"),
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
    Entry(
        "config import-check",
        "config:CheckImport",
        "Say what of a nodepool.yaml is ignored, what differs, and what needs attention",
    ),
    Entry("doctor", "doctor:Doctor", "Check all that imagepool depends on, and say what to do"),
    Entry("help", "help:Help", "Show help for imagepool or one of its commands"),
)

#: nodepool's commands under nodepool's names, for fingers and scripts that know them.
NODEPOOL: Final = (
    Entry("image-list", "nodepool:ListImages", "List uploads, with nodepool's columns"),
    Entry("dib-image-list", "nodepool:ListDibImages", "List builds, with nodepool's columns"),
    Entry("image-status", "nodepool:ListStatus", "List which images are paused or asked for"),
    Entry("image-build", "image_build:BuildImage", "Ask for builds of images now"),
    Entry("image-pause", "pause:PauseImage", "Stop builds of an image"),
    Entry("image-unpause", "pause:UnpauseImage", "Let builds of an image go on"),
    Entry("dib-image-delete", "build:DeleteBuild", "Delete a build, its files and its uploads"),
    Entry("image-delete", "nodepool_change:DeleteImage", "Delete one upload from its provider"),
    Entry("alien-image-list", "nodepool:ListAliens", "List images in the clouds that no record knows"),
    Entry("info", "nodepool:Info", "List the uploads to a provider, by build"),
    Entry("erase", "nodepool_change:Erase", "Forget all uploads to a provider, without asking its cloud"),
    Entry("export-image-data", "nodepool_data:Export", "Write all builds and uploads on record to a file"),
    Entry("import-image-data", "nodepool_data:Import", "Put builds and uploads of such a file on record"),
    Entry("config-validate", "config:ValidateConfig", "Check a configuration and report every problem"),
)

#: nodepool's commands about servers, which are nodepool-launcher's business.
LAUNCHERS: Final = frozenset({"list", "delete", "hold", "request-list"})


def _entry_point(entry: Entry) -> EntryPoint:
    return EntryPoint(entry.name, f"builder.cli.commands.{entry.target}", "imagepool")


class Registry(CommandManager):
    """The commands above, known without any scan of what is installed."""

    def __init__(self) -> None:
        super().__init__()
        self.commands = {entry.name: _entry_point(entry) for entry in COMMANDS}
        self._nodepool = {entry.name: _entry_point(entry) for entry in NODEPOOL}

    def find_command(self, argv: list[str]) -> tuple[type[Command], str, list[str]]:
        """The command that the words begin with, its name, and the other words; ValueError.

        nodepool's have to be spelt out: "config" is no short form of "config-validate".
        """
        verb = self._nodepool.get(argv[0]) if argv else None
        return super().find_command(argv) if verb is None else (verb.load(), argv[0], argv[1:])

    def add_command(self, name: str, command_class: type[Command]) -> None:
        """Refuse cliff's own `help` and `complete`, which would load or print every command."""

    def below(self, words: str) -> Iterator[Entry]:
        """The commands whose name begins with these words."""
        return (e for e in COMMANDS if e.name == words or e.name.startswith(f"{words} "))
