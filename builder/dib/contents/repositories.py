"""Ask git servers which commit a build would clone now, for each repository that its elements name.

Elements name them in files source-repository-*; how those are read, and which variables change what
they say, is the element source-repositories' own doing (its extra-data.d/98-source-repositories).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

from builder.config.model import masked_credentials
from builder.dib.contents.deadline import CannotTellError, Deadline
from builder.errors import ToolMissingError
from builder.process.child import find_tool, run

_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9]")
_COMMENT: Final = re.compile(r"(?:^|\s)#.*")
_VARIABLE: Final = re.compile(r"\$(?:\{(\w+)(?::-([^${}]*))?\}|(\w+))")
#: Bytes of an answer that two references make.
_REFERENCES_LIMIT: Final = 1 << 20
_COMMIT: Final = re.compile(r"[0-9a-f]{7,64}")
#: What a shell would do more with than expand variables.
_SHELL: Final = re.compile(r"[$`\"'\\;&|<>()]")
_BASE: Final = re.compile(r"^[^:]+://[^/]+/(?:~[^/]+)?")
#: git's rules for a short name (gitrevisions(7)), as far as a server has such names.
_PLACES: Final = ("{}", "refs/{}", "refs/tags/{}", "refs/heads/{}")
_PASSED_ON: Final = ("PATH", "LANG", "LC_ALL", "HOME", "GIT_SSL_CAINFO", "GIT_SSL_NO_VERIFY")


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A git repository that a build clones, at a branch, tag or commit."""

    name: str
    location: str  #: may carry credentials
    reference: str


def named(elements: Mapping[str, Path], environment: Mapping[str, str]) -> tuple[Repository, ...]:
    """The repositories that a build with these elements (name to directory) clones.

    Raises CannotTellError for sources of which no server tells a version (tar, file), and for what only
    a shell would understand.
    """
    if "source-repositories" not in elements or environment.get("NO_SOURCE_REPOSITORIES"):
        return ()
    if environment.get("DIB_OFFLINE"):
        raise CannotTellError("with DIB_OFFLINE, what is cloned depends on the cache")
    files = [
        file
        for directory in elements.values()
        for file in directory.glob("source-repository-*")
        if not file.name.endswith("~")
    ]
    return tuple(
        repository
        for file in sorted(files)
        for repository in _read(file.read_text(errors="replace"), environment)
    )


def head(
    repository: Repository, *, recorded: str | None, environment: Mapping[str, str], deadline: Deadline
) -> str:
    """The commit of the repository that a build would take now.

    `recorded` is the one that the last build took: of a tag, it may be either the tag or what it points
    to; of a commit given by its id, there is nothing to ask. Raises CannotTellError.
    """
    shown = f"{repository.name} at {masked_credentials(repository.location)}"
    if repository.reference == "*":
        # The build takes everything the repository has, and only HEAD is on record.
        raise CannotTellError(f"repository {shown} is cloned with all its branches")
    reference = repository.reference
    if recorded is not None and _COMMIT.fullmatch(reference) and recorded.startswith(reference):
        return recorded
    known = _heads(repository, shown, environment, deadline)
    for place in _PLACES:
        full = place.format(reference)
        if full in known:
            commits = (known[full], known.get(f"{full}^{{}}", known[full]))
            return recorded if recorded is not None and recorded in commits else commits[-1]
    raise CannotTellError(f"repository {shown} has no {reference}")


def _heads(
    repository: Repository, shown: str, environment: Mapping[str, str], deadline: Deadline
) -> Mapping[str, str]:
    lower = {name: value for name, value in environment.items() if name.lower().endswith("_proxy")}
    passed = {name: environment[name] for name in _PASSED_ON if name in environment}
    # Nobody is there to be asked for a password.
    quiet = {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true", "GIT_SSH_COMMAND": "ssh -o BatchMode=yes"}
    reference = repository.reference
    try:
        tool = find_tool("git", package="git", path=environment.get("PATH"))
        location, secret = _apart(repository.location)
        argv = [tool, "ls-remote", "--", location, reference, f"{reference}^{{}}"]
        environment = {**passed, **lower, **quiet, **secret}
        answer = run(argv, timeout=max(0.1, deadline.remaining), env=environment, limit=_REFERENCES_LIMIT)
    except (ToolMissingError, TimeoutError, OSError) as error:
        raise CannotTellError(f"repository {shown} can't be asked: {_told(error)}") from error
    if answer.code:
        said = masked_credentials(answer.stderr.strip().partition("\n")[0])
        raise CannotTellError(f"repository {shown} can't be asked: {said or answer.code}")
    pairs = (line.split("\t", 1) for line in answer.stdout.splitlines() if "\t" in line)
    return {name: commit for commit, name in pairs}


def _apart(location: str) -> tuple[str, Mapping[str, str]]:
    """A URL without its credentials, and the variables that give them to git: arguments are for
    everybody on this machine to read (git-config(1), GIT_CONFIG_COUNT and http.extraHeader)."""
    address = urlsplit(location)
    user, at, host = address.netloc.rpartition("@")
    if not at or address.scheme not in ("http", "https"):
        return location, {}
    plain = urlunsplit(address._replace(netloc=host))
    name, _, password = user.partition(":")
    words = base64.b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()
    return plain, {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"http.{plain}.extraHeader",
        "GIT_CONFIG_VALUE_0": f"Authorization: Basic {words}",
    }


def _told(error: Exception) -> str:
    return error.message if isinstance(error, ToolMissingError) else str(error)


# -- source-repository files -------------------------------------------------------------------------


def _read(text: str, environment: Mapping[str, str]) -> Iterator[Repository]:
    for raw in text.splitlines():
        line = _COMMENT.sub("", raw).strip()
        if line:
            yield from _repository(_expanded(line, environment).split(), environment)


def _repository(words: list[str], environment: Mapping[str, str]) -> Iterator[Repository]:
    name, kind, *rest = words if len(words) >= 2 else [*words, ""]
    variable = _NOT_IN_NAMES.sub("_", name)
    kind = environment.get(f"DIB_REPOTYPE_{variable}") or kind
    location = environment.get(f"DIB_REPOLOCATION_{variable}") or (rest[1] if len(rest) > 1 else "")
    installed = (
        environment.get(f"DIB_INSTALLTYPE_{variable}")
        or environment.get("DIB_DEFAULT_INSTALLTYPE")
        or "source"
    )
    if installed != "source" or kind == "package":
        return
    if kind != "git" or not location:
        what = " ".join(filter(None, (kind or "no type", masked_credentials(location))))
        raise CannotTellError(f"what {name} is ({what}) can't be compared")
    base = environment.get("DIB_GITREPOBASE")
    if base and not environment.get(f"DIB_REPOLOCATION_{variable}"):
        location = _BASE.sub(lambda _: base, location)
    reference = environment.get(f"DIB_REPOREF_{variable}") or (rest[2] if len(rest) > 2 else "master")
    yield Repository(name=name, location=location, reference=reference)


def _expanded(line: str, environment: Mapping[str, str]) -> str:
    """The line with variables replaced, as the shell does it that reads the file."""

    def value(match: re.Match[str]) -> str:
        found = environment.get(match[1] or match[3])
        return found or match[2] or "" if match[2] is not None else found or ""

    expanded = _VARIABLE.sub(value, line)
    if _SHELL.search(_VARIABLE.sub("", line)):
        raise CannotTellError(f"a shell has to read the repository {masked_credentials(line)}")
    return expanded
