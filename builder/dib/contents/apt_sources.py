"""Work out which apt sources the build of a Debian or Ubuntu image will use, and whose signature counts."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builder.config.model import masked_credentials
from builder.dib.contents.deadline import CannotTellError, Deadline
from builder.errors import ToolMissingError
from builder.process.child import find_tool, run

LOG = logging.getLogger(__name__)

#: The elements whose packages all come from apt, to the elements whose environment.d says from where.
FAMILIES: Final[Mapping[str, tuple[str, ...]]] = {
    "debian-minimal": ("debian-minimal",),
    "ubuntu-minimal": ("ubuntu-common", "ubuntu-minimal"),
}
KEYRINGS: Final = Path("/usr/share/keyrings")
_OPTIONS: Final = re.compile(r"\[([^]]*)\]")
#: Prints the environment that the scripts leave, as disk-image-create sources them.
_SOURCE: Final = 'set -eu; for script; do . "$script" >&2; done; exec env -0'


@dataclass(frozen=True, kw_only=True)
class Source:
    """A line of sources.list: where a suite of packages is, and who may sign it."""

    url: str  #: without a slash at its end; may carry credentials
    suite: str  #: "bookworm-updates"; of a flat repository the path, with a slash at its end
    components: tuple[str, ...] = ()
    keyrings: tuple[Path, ...] = ()  #: empty: nobody's signature is asked for

    @property
    def base(self) -> str:
        """The URL of the directory that the suite's Release file is in."""
        if not self.flat:
            return f"{self.url}/dists/{self.suite}"
        path = self.suite.strip("./")
        return f"{self.url}/{path}" if path else self.url

    @property
    def flat(self) -> bool:
        """Whether it has no components: sources.list(5), "exact path"."""
        return self.suite.endswith("/")


def sources_of(
    family: str,
    elements: Mapping[str, Path],
    environment: Mapping[str, str],
    deadline: Deadline,
    *,
    keyrings: Path = KEYRINGS,
) -> tuple[Source, ...]:
    """The sources that an image of the `family` (a key of FAMILIES) is installed and upgraded from.

    `elements` maps each element to its directory, `environment` is disk-image-create's, `keyrings` where
    this machine keeps those of distributions. The elements' own scripts are asked, so their defaults are
    theirs. Raises CannotTellError.
    """
    known = _environment(family, elements, environment, deadline)
    if family == "ubuntu-minimal":
        lines = list(_ubuntu_lines(known))
    else:
        # Each line as debian-minimal's root.d/75 takes it: "name:line of sources.list".
        named = known.get("DIB_APT_SOURCES_CONF", "").splitlines()
        lines = [line.partition(":")[2] for line in named]
    trusted = _trusted(family.partition("-")[0], known, keyrings)
    found = tuple(source for line in lines for source in _parsed(line, trusted))
    if not found:
        raise CannotTellError(f"element {family} names no package source")
    return found


def _environment(
    family: str, elements: Mapping[str, Path], environment: Mapping[str, str], deadline: Deadline
) -> Mapping[str, str]:
    """The environment after the environment.d scripts of the family, which only export variables."""
    scripts = [
        script
        for element in FAMILIES[family]
        if element in elements
        for script in (elements[element] / "environment.d").glob("*")
    ]
    scripts.sort(key=lambda script: script.name)
    try:
        argv = [find_tool("bash"), "-c", _SOURCE, "bash", *(str(script) for script in scripts)]
        answer = run(argv, timeout=max(0.1, deadline.remaining), env=environment)
    except (ToolMissingError, TimeoutError, OSError) as error:
        raise CannotTellError(f"the environment of element {family} can't be read: {error}") from error
    if answer.code:
        LOG.debug("environment.d of %s: exit code %d", family, answer.code)
        raise CannotTellError(f"the environment of element {family} can't be read: exit code {answer.code}")
    pairs = (pair.partition("=") for pair in answer.stdout.split("\0") if pair)
    return {name: value for name, _, value in pairs}


def _ubuntu_lines(known: Mapping[str, str]) -> Iterator[str]:
    """As ubuntu-minimal's root.d/75 writes sources.list."""
    mirror, release = known.get("DIB_DISTRIBUTION_MIRROR", ""), known.get("DIB_RELEASE", "")
    components = known.get("DIB_DEBIAN_COMPONENTS", "").replace(",", " ")
    for pocket in ("", *known.get("DIB_UBUNTU_MIRROR_DISTS", "").replace(",", " ").split()):
        yield f"deb {mirror} {release}{'-' if pocket else ''}{pocket} {components}"


def _trusted(distribution: str, known: Mapping[str, str], keyrings: Path) -> tuple[Path, ...]:
    """The keys that the image's apt will know: those of the distribution, and those added to them."""
    if "--no-check-gpg" in known.get("DIB_DEBOOTSTRAP_EXTRA_ARGS", ""):
        return ()
    chosen = known.get("DIB_APT_KEYRING") or known.get("DIB_DEBIAN_KEYRING")
    first = Path(chosen) if chosen else keyrings / f"{distribution}-archive-keyring.gpg"
    if not first.is_file():
        # Nothing that we read gets into an image: at worst we are told that there is nothing new.
        LOG.debug("no keyring %s: signatures of package indexes are not checked", first)
        return ()
    added = Path(known.get("DIB_ADD_APT_KEYS") or "/nonexistent")
    return (first, *sorted(each for each in added.rglob("*") if each.is_file()))


def _parsed(line: str, trusted: tuple[Path, ...]) -> Iterator[Source]:
    options: dict[str, str] = {}
    for block in _OPTIONS.findall(line):
        options |= {name.lower(): value for name, _, value in (word.partition("=") for word in block.split())}
    words = _OPTIONS.sub(" ", line.partition("#")[0]).split()
    if not words or words[0] != "deb":
        return
    if len(words) < 3 or (len(words) == 3) != words[2].endswith("/"):
        raise CannotTellError(f"no line of sources.list: {masked_credentials(line.strip())}")
    keys = trusted
    if options.get("trusted") == "yes" or options.get("allow-insecure") == "yes":
        keys = ()
    elif "signed-by" in options:
        # A path in the image; on this machine it is the same package's, or not there.
        keys = tuple(key for key in map(Path, options["signed-by"].split(",")) if key.is_file())
    yield Source(
        url=words[1].rstrip("/"),
        suite=words[2],
        components=tuple(words[3:]),
        keyrings=keys,
    )
