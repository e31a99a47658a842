"""The command line of tools/build-image.

Needs nothing but Python, for wrong usage is told before anything gets installed.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).resolve().parents[3]
DEFAULT_PLATFORM: Final = "debian-bookworm"
#: What image files can be, as builder.model.ImageFormat has it.
FORMATS: Final = ("qcow2", "raw", "vhd", "vhdx", "vmdk")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

_EPILOG: Final = """\
  ./tools/build-image                               the default platform, debian-bookworm
  ./tools/build-image debian-trixie -- cloud-user   with one more element
  ./tools/build-image debian-trixie --check         build, boot and log in: good (0) or not (1)
  ./tools/build-image debian-trixie --boot          build, boot, and keep it running to look around
  ./tools/build-image debian-trixie --boot --last   the same without building it anew
  ./tools/build-image debian-trixie --show          what would be run

A build needs root. Packages and caches are kept in the output directory, so that the next build
takes less time; remove it when you are done. docs/elements.md tells how to debug a failed build.

exit codes: 0 done, 1 failed (the reason is on stderr), 2 wrong usage or configuration,
3 no such platform, 4 another build uses the output directory, 5 something is not installed
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asks for."""

    platform: str
    elements: tuple[str, ...]  #: more than the configuration has
    without: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    config: Path
    output: Path
    formats: tuple[str, ...]
    list: bool
    show: bool
    keep: bool
    boot: bool
    check: bool
    last: bool
    user: str | None
    firmware: str | None

    @property
    def builds(self) -> bool:
        """Whether anything is to be built."""
        return not (self.list or self.show or self.last)

    @property
    def boots(self) -> bool:
        """Whether anything is to be booted."""
        return self.boot or self.check

    @property
    def profiles(self) -> tuple[str, ...]:
        """Whose system packages it takes, by bindep.txt."""
        return (*(["builder"] if self.builds else []), *(["emulator"] if self.boots else []))


def parse(argv: Sequence[str], *, directory: Path) -> Options:
    """The options of a command line; paths in it are relative to `directory`. SystemExit for a wrong one."""
    ours, elements = _divided(list(argv))
    parser = _parser()
    found = parser.parse_args(ours)
    if found.list and (found.show or elements or found.platform):
        parser.error("--list goes with no platform and nothing else")
    boots = found.boot or found.check
    if (found.user or found.firmware) and not boots:
        parser.error("--user and --firmware are for --boot and --check")
    if (found.list or found.show) and (found.keep or boots or found.last):
        parser.error("--list and --show build nothing")
    if found.last and (not boots or elements or found.keep):
        parser.error("--last builds nothing: it goes with --boot or --check")
    wrong = [name for name in elements if name.startswith("-")]
    if wrong:
        parser.error(f"after -- come elements, not {wrong[0]}")
    return Options(
        platform=found.platform or DEFAULT_PLATFORM,
        elements=tuple(elements),
        without=tuple(found.without),
        environment=tuple(found.env),
        config=directory / found.config if found.config else PROJECT / "config" / "imagepool.yaml",
        output=(directory / found.output if found.output else PROJECT / ".build-image").absolute(),
        formats=tuple(dict.fromkeys(found.format or ["qcow2"])),
        list=found.list,
        show=found.show,
        keep=found.keep,
        boot=found.boot,
        check=found.check,
        last=found.last,
        user=found.user,
        firmware=found.firmware,
    )


def _divided(argv: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in argv:
        return argv, []
    where = argv.index("--")
    return argv[:where], argv[where + 1 :]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="build-image",
        usage="build-image [options] [PLATFORM] [-- ELEMENT...]",
        description="Build one platform's image here as the daemon would, without daemon, ZooKeeper, cloud.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "platform", nargs="?", metavar="PLATFORM", help=f"a platform or an image (default {DEFAULT_PLATFORM})"
    )
    add("--list", action="store_true", help="list the platforms there are")
    add("--config", metavar="FILE", help="configuration to take (default: config/imagepool.yaml)")
    add("--output", metavar="DIR", help="where everything is kept (default: .build-image of the project)")
    add("--format", action="append", choices=FORMATS, help="format to make, may be repeated (default qcow2)")
    add("--without", action="append", default=[], metavar="ELEMENT", help="leave out an element")
    add("--env", action="append", default=[], type=_assignment, metavar="NAME=VALUE", help="set a variable")
    add("--show", action="store_true", help="print command and environment, and build nothing")
    add("--keep", action="store_true", help="keep the tree of a step that fails in it, to look around")
    add("--boot", action="store_true", help="boot the image and say how to log in, until Ctrl-C")
    add("--check", action="store_true", help="boot the image, log in, and end")
    add("--last", action="store_true", help="boot the newest build there is, and build nothing")
    add("--user", metavar="NAME", help="who logs in (default: root)")
    add("--firmware", choices=("bios", "uefi"), help="what boots it (default: UEFI if made for it alone)")
    return parser


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not _NAME.match(name):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def main() -> None:
    """Check a command line; prints the profiles of bindep.txt whose packages it takes."""
    options = parse(sys.argv[1:], directory=Path(os.environ.get("BUILD_IMAGE_FROM") or Path.cwd()))
    if not options.config.is_file():
        print(f"build-image: there is no configuration {options.config}", file=sys.stderr)
        sys.exit(2)
    print(*options.profiles)


if __name__ == "__main__":
    main()
