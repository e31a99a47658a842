"""Write a script that builds again, on another machine, what a build was made of.

It is the script of `command.script`, for the command and environment on record, with what the other
machine lacks: the elements, notes on tools of other versions, and at the end a look at how the
packages differ. Mirrors move on, so other packages are said and are no failure.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from builder.config.model import MASK, DiskImage
from builder.dib import command
from builder.dib.command import MANIFEST_ELEMENT, Additions, Command
from builder.dib.contents import archive, inputs, packages
from builder.dib.contents.packages import Package
from builder.dib.output import artifacts
from builder.errors import NotFoundError, RefusedError, UnavailableError

#: What bash takes for a variable; in the script, names are code.
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: Names, versions and architectures of packages as dpkg and rpm have them; an image may say anything.
_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+:~^_-]*")
_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_COMPARE: Final = r"""compare() {
    [ "$2" = "$3" ] || echo "note: $1 is ${3:-not there}, and was $2 when the image was built" >&2
}
version() {
    "$@" --version 2>/dev/null | grep -oE '[0-9]+(\.[0-9A-Za-z_]+)+' | head -n 1 || :
}"""
_BUILT: Final = r"""built() {
    all_built "$1" | LC_ALL=C grep -Ex 'WORD WORD (WORD)?' || :
}
all_built() {
    [ ! -f "$1/dpkg" ] || awk -v RS= -F '\n' '{
        name = version = architecture = ""; state = "installed"
        for (i = 1; i <= NF; i++) {
            if ($i ~ /^Package: /) name = substr($i, 10)
            if ($i ~ /^Version: /) version = substr($i, 10)
            if ($i ~ /^Architecture: /) architecture = substr($i, 15)
            if ($i ~ /^Status: /) { count = split($i, words, " "); state = words[count] }
        }
        if (name != "" && version != "" && state != "not-installed" && state != "config-files")
            print name, version, architecture
    }' "$1/dpkg"
    [ ! -f "$1/rpm" ] || awk -F '\t' '$1 != "gpg-pubkey" { print $1, $2, $3 }' "$1/rpm"
}""".replace("WORD", _WORD.pattern)
_DIFFER: Final = r"""built {raw} | LC_ALL=C sort -u >{work}/packages.built
if cmp -s {work}/packages.recorded {work}/packages.built; then
    echo "The packages are those of build {build}."
else
    echo "The packages differ from those of build {build}: - had it, + has this one."
    LC_ALL=C comm -23 {work}/packages.recorded {work}/packages.built | sed 's/^/- /'
    LC_ALL=C comm -13 {work}/packages.recorded {work}/packages.built | sed 's/^/+ /'
fi"""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What the files of a build say of how it was made."""

    image: DiskImage  #: name, formats and their options; no more is known, and needed
    build_id: str
    command: Command  #: values of secrets are masks
    inputs: inputs.Inputs
    tools: Mapping[str, str]
    packages: tuple[Package, ...]
    elements: bytes | None  #: archive of those that don't come with diskimage-builder


def load(images_dir: Path, image: str, build_id: str) -> Recorded:
    """What is on record about a build of this machine.

    Raises NotFoundError when the build's directory is gone, UnavailableError when it can't be read,
    and RefusedError when it says too little (an earlier imagepool wrote it) or nonsense.
    """
    directory = artifacts.directory(images_dir, image, build_id)
    try:
        proof = json.loads((directory / artifacts.PROOF).read_text(encoding="utf-8"))
        kept = directory / archive.FILE
        elements = kept.read_bytes() if kept.exists() else None
    except FileNotFoundError as error:
        raise NotFoundError(
            f"the files of build {build_id} are gone: there is no {directory / artifacts.PROOF}",
            hint=f"'imagepool image render --script {image}' builds it as it is configured now.",
        ) from error
    except OSError as error:
        raise UnavailableError(
            f"{directory} can't be read: {error.strerror}", hint="Run this command as the user of the daemon."
        ) from error
    except ValueError as error:
        raise _useless(directory, "build.json is no JSON") from error
    known, listed = inputs.read(directory), packages.load(directory)
    if known is None or listed is None:
        raise _useless(directory, f"{inputs.FILE} or {packages.FILE} is missing or damaged")
    try:
        _check_names([*known.environment, *known.secrets, *known.files])
        return Recorded(
            image=_diskimage(image, known),
            build_id=build_id,
            command=_command(proof),
            inputs=known,
            tools={str(name): str(version) for name, version in proof["tools"].items()},
            packages=listed,
            elements=elements,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _useless(directory, f"{error} in {artifacts.PROOF} or {inputs.FILE}") from error


def _useless(directory: Path, why: str) -> RefusedError:
    return RefusedError(
        f"{directory} does not say how the build was made: {why}",
        hint="Builds that an earlier imagepool made can't be reproduced; build the image anew.",
    )


def _diskimage(name: str, known: inputs.Inputs) -> DiskImage:
    options = inputs.format_options(known)
    return DiskImage(
        name=name,
        formats=tuple(options),
        format_options={str(each): chosen for each, chosen in options.items()},
    )


def _command(proof: Mapping[str, Any]) -> Command:
    environment = {str(name): str(value) for name, value in proof["environment"].items()}
    _check_names(environment)
    argv = tuple(str(word) for word in proof["command"])
    if not argv or "DIB_IMAGE_FILENAME" not in environment:
        raise ValueError("no command")
    return Command(
        argv=argv,
        environment=environment,
        secret_names=frozenset(name for name, value in environment.items() if value == MASK),
    )


def _check_names(names: Iterable[str]) -> None:
    for name in names:
        if not _VARIABLE.fullmatch(name):
            raise ValueError(f"the variable name {name!r}")


def script(recorded: Recorded, place: Path) -> str:
    """The script, which works below `place`, a directory that only root can make.

    It is to be run as a file, by bash and as root, with disk-image-create on PATH.
    """
    work = place / f"{recorded.image.name}-{recorded.build_id}"
    moved = command.moved(
        recorded.command,
        recorded.image.name,
        output=work / "output" / work.name,
        work_dir=work,
        cache_dir=place / "cache",
    )
    program = Path(moved.argv[0])
    additions = Additions(
        before=(
            *_programs(program, recorded.command.environment.get("PATH", "")),
            *_versions(recorded.tools),
            *_masked_words(recorded.command),
            *_files(recorded),
            *_elements(recorded, work),
        ),
        after=tuple(_packages(recorded, work)),
        values={"PATH": f'"$programs:$PATH:{_SYSTEM_PATH}"', "ELEMENTS_PATH": '"$elements"'},
    )
    # Where it is here says nothing about elsewhere: the PATH finds it.
    bare = Command(
        argv=(program.name, *moved.argv[1:]), environment=moved.environment, secret_names=moved.secret_names
    )
    return command.script(bare, recorded.image, additions)


def _programs(program: Path, search: str) -> Iterator[str]:
    """Finds the directory of the build's program: where it was, else on the PATH of the caller."""
    before = str(program.parent) if program.is_absolute() else search.partition(":")[0]
    yield f"PATH={shlex.quote(before)}:$PATH"
    yield f"programs=$(command -v {shlex.quote(program.name)}) || {{"
    yield f"    echo {shlex.quote(f'{program.name} is not on the PATH')} >&2"
    yield "    exit 1"
    yield "}"
    yield "programs=${programs%/*}"
    yield ""


def _versions(tools: Mapping[str, str]) -> Iterator[str]:
    ask = {"kernel": "uname -r", "diskimage-builder": "version disk-image-create"}
    yield "# What took part in the build, against what is here."
    yield _COMPARE
    for name, version in sorted(tools.items()):
        found = ask.get(name) or f"version {shlex.quote(name)}"
        yield f'compare {shlex.quote(name)} {shlex.quote(version)} "$({found})"'
    yield ""


def _masked_words(recorded: Command) -> Iterator[str]:
    """Says that the command itself had secrets, such as a proxy's password, which are not on record."""
    if any(MASK in word for word in recorded.argv):
        yield f'echo "note: the command had secrets, which are {MASK} in this script" >&2'


def _files(recorded: Recorded) -> Iterator[str]:
    """Says which files that variables name are not on the other machine."""
    for name in sorted(recorded.inputs.files.keys() - recorded.command.secret_names):
        for word in recorded.command.environment.get(name, "").split():
            path = word.removeprefix("file://")
            if path.startswith("/"):
                text = shlex.quote(f"note: {name} names {path}, which is not here")
                yield f"[ -e {shlex.quote(path)} ] || echo {text} >&2"


def _elements(recorded: Recorded, work: Path) -> Iterator[str]:
    if recorded.elements is None:
        yield "# The elements of the build that don't come with diskimage-builder were too large to keep."
        yield "elements=${ELEMENTS_PATH:?set ELEMENTS_PATH to the directories of the elements}"
        yield ""
        return
    directory = shlex.quote(str(work / "elements"))
    yield "# The elements that don't come with diskimage-builder, as they were."
    yield f"elements={directory}"
    yield 'rm -rf "$elements"'
    yield 'mkdir -p "$elements"'
    yield """base64 -d <<'ELEMENTS' | tar -xzf - --no-same-owner -C "$elements\""""
    yield from textwrap.wrap(base64.b64encode(recorded.elements).decode(), 100)
    yield "ELEMENTS"
    yield ""


def _packages(recorded: Recorded, work: Path) -> Iterator[str]:
    if not recorded.packages:
        return
    place = shlex.quote(str(work))
    comparable = [each for each in recorded.packages if _comparable(each)]
    yield ""
    if left_out := len(recorded.packages) - len(comparable):
        yield f"# {left_out} of the packages are left out: nothing that dpkg or rpm would name or number so."
    yield _BUILT
    yield f"LC_ALL=C sort -u >{place}/packages.recorded <<'PACKAGES'"
    yield from _lines(comparable)
    yield "PACKAGES"
    raw = shlex.quote(str(work / "output" / f"{work.name}.d" / MANIFEST_ELEMENT))
    yield _DIFFER.format(raw=raw, work=place, build=recorded.build_id)


def _comparable(package: Package) -> bool:
    words = [package.name, package.version, *filter(None, [package.architecture])]
    return all(map(_WORD.fullmatch, words))


def _lines(listed: Iterable[Package]) -> Iterator[str]:
    for each in listed:
        yield f"{each.name} {each.version} {each.architecture}"
