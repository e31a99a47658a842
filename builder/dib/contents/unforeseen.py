"""Find what a build will fetch that nobody can foresee: scripts of elements that download by themselves.

Packages from apt and git repositories can be asked for beforehand. Whatever else a script gets from
the net can't: an image with such an element never counts as unchanged. It is found by reading
the scripts, which is a guess: whoever knows that a line always brings the same, or only packages that are
asked for anyway, marks it with "imagepool: fixed" in a comment, whoever hides a download well says
"imagepool: downloads", and what, in one, and a download that is hidden well enough by others is not seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from builder.dib.contents.apt_sources import FAMILIES

#: diskimage-builder's own elements whose downloads are just those that we ask for beforehand, or which
#: only offer others a way to download.
_UNDERSTOOD: Final = frozenset(
    {
        *("debian-minimal", "ubuntu-minimal", "ubuntu-common", "debootstrap", "dpkg"),
        *("source-repositories", "cache-url", "sysprep"),
    }
)
_PROVIDES: Final = "element-provides"
_SYSTEM: Final = "operating-system"
#: What says something to diskimage-builder, to people or to the image, and is not run.
_NO_SCRIPTS: Final = re.compile(
    r"README|\.(rst|md|pyc)$|^element-(deps|provides)$|^(package-installs|pkg-map|svc-map|source-repository-|test-)"
)
_NO_SCRIPT_DIRECTORIES: Final = frozenset(
    {"static", "tests", "test-elements", "__pycache__", "package-installs.d"}
)
_SIZE_LIMIT: Final = 1 << 20
_FIXED: Final = "imagepool: fixed"
_SAID: Final = re.compile(r"#\s*imagepool: downloads\s+(?P<what>\S.*)")
#: The beginning of a command in a line of shell.
_COMMAND: Final = (
    r"(?:^|[;&|(`!{]|\$\(|\b(?:sudo|then|do|else|if|while|until|exec|time|chroot\s+\S+)\s)\s*"
    r"(?:-\S+\s+)*(?:\w+=\S*\s+)*(?:[^\s;&|()]*/)?"
)
_DOWNLOADS: Final = re.compile(
    _COMMAND + r"(?P<what>curl|wget|aria2c|cache-url|scp|git\s+(?:-C\s+\S+\s+)?(?:clone|fetch|pull)"
    r"|(?:pip[\d.]*|python[\d.]*\s+-m\s+pip|gem|npm|cargo|go|snap|flatpak)\s+(?:\S+\s+)?(?:install|download|wheel)"
    r"|(?:podman|docker|skopeo|buildah)\s+(?:pull|run|build|copy)|debootstrap|mmdebstrap)(?=[\s;&|)\"']|$)"
    r"|(?P<other>\brsync://|\burlopen\(|\burlretrieve\(|\brequests\.get\()"
)
_APT: Final = re.compile(
    r"sources\.list|apt/preferences|preferences\.d/|add-apt-repository|APT::Default-Release"
)
_VARIABLES: Final = re.compile(
    r"(?<![\w${])(DIB_(?:APT_\w+|DISTRIBUTION_MIRROR|DEBIAN_\w+|UBUNTU_MIRROR_DISTS|RELEASE|ADD_APT_KEYS|OFFLINE"
    r"|REPO(?:TYPE|LOCATION|REF)_\w+|\w*INSTALLTYPE\w*|GITREPOBASE)|NO_SOURCE_REPOSITORIES)="
)


def family(elements: Mapping[str, Path]) -> str:
    """The element that makes the base system, "" when there is none or more than one."""
    found = [name for name, directory in elements.items() if _SYSTEM in _words(directory / _PROVIDES)]
    return found[0] if len(found) == 1 else ""


def reasons(elements: Mapping[str, Path], *, dib: Path) -> tuple[str, ...]:
    """Why it can't be known what a build with these elements (name to directory) fetches; empty: it can.

    Of some in `dib`, the directory of diskimage-builder's own, it is known without looking. Raises OSError.
    """
    system = family(elements)
    found = []
    if system not in FAMILIES:
        found.append(
            f"package versions can't be compared with element {system}"
            if system
            else "no element makes a base system whose packages can be compared"
        )
    for name, directory in elements.items():
        if name not in _UNDERSTOOD or directory.resolve().parent != dib.resolve():
            found += [f"element {name}: {reason}" for reason in _of_element(directory)]
    return tuple(found)


def _of_element(directory: Path) -> Iterator[str]:
    for script in _scripts(directory):
        name = script.relative_to(directory).as_posix()
        if reason := _of_script(script.read_text(errors="replace"), name.startswith("environment.d/")):
            yield f"{name} {reason}"


def _scripts(directory: Path) -> Iterator[Path]:
    for file in sorted(directory.rglob("*")):
        parts = file.relative_to(directory).parts
        skipped = _NO_SCRIPT_DIRECTORIES.intersection(parts[:-1]) or _NO_SCRIPTS.search(parts[-1])
        if not skipped and file.is_file() and file.stat().st_size <= _SIZE_LIMIT:
            yield file


def _of_script(text: str, is_environment: bool) -> str:
    """What a script does that can't be foreseen, "" if nothing is seen."""
    for line in text.replace("\\\n", " ").splitlines():
        code = line.strip()
        if match := _SAID.match(code):
            return f"downloads {match['what'].rstrip('.')}"
        if code.startswith("#") or _FIXED in code:
            continue
        if match := _DOWNLOADS.search(code):
            return f"downloads by itself ({match['what'] or match['other'].rstrip('(:/')})"
        if _APT.search(code):
            return "changes which packages apt chooses"
        if is_environment and (match := _VARIABLES.search(code)):
            return f"sets {match[1]}"
    return ""


def _words(file: Path) -> list[str]:
    return file.read_text(errors="replace").split() if file.is_file() else []
