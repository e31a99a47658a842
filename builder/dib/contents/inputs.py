"""Work out what goes into a build, as digests that a later build can be compared with.

What can be known before a build: how disk-image-create is called, the environment and the files it
names, the content of every element. What only the build itself finds out, the heads of git
repositories and the packages, is added afterwards (`Inputs.with_digests`). Paths and ids that
differ from build to build are left out, so equal inputs mean an equal recipe.

Secret values enter as HMAC under a key that never leaves the machine (`secret_key`): a change is
noticed, and whoever reads a record can't try out passwords on it. On another machine the same
secret has another digest; a build then looks changed, which costs a build and hides nothing.
"""

from __future__ import annotations

import getopt
import hashlib
import hmac
import json
import logging
import os
import platform
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from diskimage_builder import element_dependencies  # type: ignore[import-untyped]

from builder.config.model import MASK, DiskImage, FormatOptions, masked_credentials
from builder.dib.command import Command
from builder.dib.contents import installed
from builder.errors import RefusedError
from builder.model import ImageFormat

LOG = logging.getLogger(__name__)

FILE: Final = "inputs.json"
KEY: Final = "inputs.key"
_KEY_BYTES: Final = 32
_CHUNK: Final = 1 << 20
#: Files and bytes below one path that are read; what is larger (a base image, a mirror) is told by
#: its size and time.
_MOST_FILES: Final = 5000
_MOST_BYTES: Final = 256 << 20

#: What disk-image-create takes (its own lib/disk-image-create, 3.43).
_SHORT: Final = "a:ho:t:xucnp:"
_LONG: Final = (
    *("checksum", "no-tmpfs", "offline", "help", "version", "min-tmpfs=", "image-size=", "image-cache="),
    *("max-online-resize=", "mkfs-options=", "qemu-img-options=", "ramdisk-element=", "root-label="),
    *("install-type=", "docker-target=", "logfile="),
)
#: Options that change where and how loudly, not what.
_NO_MATTER: Final = frozenset({"-o", "-x", "--no-tmpfs", "--image-cache", "--min-tmpfs", "--logfile"})
#: Variables that `command.render` sets for one build or one machine. A diskimage that sets one of
#: them itself means it, and then it counts.
_OF_THE_BUILD: Final = frozenset(
    {
        *("PATH", "LANG", "LC_ALL", "USER", "LOGNAME", "HOME", "TMPDIR", "TMP_DIR"),
        *("IMAGEPOOL_BUILD_ID", "DIB_IMAGE_FILENAME", "DIB_IMAGE_CACHE", "DIB_LOCKFILES", "DIB_BASE_CACHE"),
        *("DIB_CACHE_GIT_DIR", "DIB_NO_TIMESTAMP"),
        *("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"),
        *("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"),
    }
)
#: Directories to search and to store in; what is in the elements is looked at by itself.
_NEVER: Final = frozenset(
    {"ELEMENTS_PATH", "PATH", "HOME", "TMPDIR", "TMP_DIR", "DIB_IMAGE_CACHE", "DIB_CACHE_GIT_DIR"}
)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What went into a build, or would go into one now; nothing secret.

    `digests` is what a record keeps, by kind: "command", "environment", "elements", "dib", "formats",
    and after the build "git <name>" and "packages". The rest says in detail what they are made of. A
    kind in `unknown` could not be worked out, and has no digest: nothing can be said about it.
    """

    digests: Mapping[str, str]
    command: tuple[str, ...] = ()  #: the arguments that matter, the elements among them
    elements: Mapping[str, str] = field(
        default_factory=dict
    )  #: element -> sha256 of its content; all that take part
    environment: Mapping[str, str] = field(
        default_factory=dict
    )  #: the variables that matter, secret values masked
    secrets: Mapping[str, str] = field(default_factory=dict)  #: secret variable -> keyed digest of its value
    files: Mapping[str, str] = field(
        default_factory=dict
    )  #: variable -> digest of the files on this machine that it names
    formats: Mapping[str, str] = field(default_factory=dict)  #: format -> its options, if any are set
    unknown: Mapping[str, str] = field(default_factory=dict)  #: kind -> why it could not be worked out

    def with_digests(self, more: Mapping[str, str]) -> Inputs:
        """The same, with what the build found out: {"git <name>": commit, "packages": digest}."""
        return replace(self, digests=dict(sorted({**self.digests, **more}.items())))


# -- collecting ---------------------------------------------------------------------------------


def collect(image: DiskImage, rendered: Command, *, key: bytes) -> Inputs:
    """What goes into the build of `image` by the `rendered` command, as far as that is known before.

    `key` is this installation's (`secret_key`). Reads elements and named files (some ms); raises
    nothing for what can't be read, but names it in `unknown`: disk-image-create itself says best what is
    wrong with an element.
    """
    call = _parsed(rendered.argv)
    shown = {name: value for name, value in rendered.environment.items() if _matters(name, image)}
    masked = {name: MASK if name in rendered.secret_names else value for name, value in shown.items()}
    hidden = {name: _keyed(key, value) for name, value in shown.items() if name in rendered.secret_names}
    files = dict(_named_files(shown, rendered.secret_names, key))
    formats = dict(_formats(image))
    unknown: dict[str, str] = {}
    hashes: Mapping[str, str] = {}
    try:
        hashes = element_hashes(resolve(rendered.argv, rendered.environment))
    except (RefusedError, OSError) as error:
        unknown["elements"] = getattr(error, "message", str(error))
    command = tuple(masked_credentials(word) for word in (*call.program, *call.options, *call.elements))
    digests = {
        "command": _digest(command),
        "environment": _digest([sorted(each.items()) for each in (masked, hidden, files)]),
        "dib": installed.of(rendered.argv, rendered.environment.get("PATH")).version,
        "formats": ", ".join(" ".join(filter(None, pair)) for pair in formats.items()),
    }
    if "elements" not in unknown:
        digests["elements"] = _digest(sorted(hashes.items()))
    return Inputs(
        digests=dict(sorted(digests.items())),
        command=command,
        elements=hashes,
        environment=dict(sorted(masked.items())),
        secrets=dict(sorted(hidden.items())),
        files=files,
        formats=formats,
        unknown=unknown,
    )


def _matters(name: str, image: DiskImage) -> bool:
    return name not in _NEVER and (name not in _OF_THE_BUILD or name in image.environment)


def _formats(image: DiskImage) -> Iterator[tuple[str, str]]:
    for each in image.formats:
        chosen = image.format_options.get(each, FormatOptions())
        options = {"compression": chosen.compression, "compat": chosen.compat}
        yield str(each), " ".join(f"{name}={value}" for name, value in options.items() if value is not None)


def format_options(inputs: Inputs) -> Mapping[ImageFormat, FormatOptions]:
    """The formats of a build, each with its options, as `collect` noted them. ValueError for others."""
    pairs = {name: [word.partition("=") for word in text.split()] for name, text in inputs.formats.items()}
    return {
        ImageFormat(name): FormatOptions(**{option: value for option, _, value in words})
        for name, words in pairs.items()
    }


# -- the command line -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Call:
    """A command line taken apart: what runs the program and the program, options that matter, elements."""

    program: tuple[str, ...]
    options: tuple[str, ...] = ()
    elements: tuple[str, ...] = ()


def _parsed(argv: Sequence[str]) -> _Call:
    names = [Path(word).name for word in argv]
    # Something may run it: "nice disk-image-create". Where a program is says nothing about what it makes.
    start = 1 + (names.index(installed.PROGRAM) if installed.PROGRAM in names else 0)
    try:
        options, elements = getopt.gnu_getopt(list(argv[start:]), _SHORT, _LONG)
    except getopt.GetoptError:
        # Not dib's options: all of it counts, and which words are elements can't be told.
        return _Call(program=tuple(argv))
    return _Call(
        program=(*argv[: start - 1], names[start - 1]),
        options=tuple(f"{name} {value}".strip() for name, value in options if name not in _NO_MATTER),
        elements=tuple(elements),
    )


# -- elements -------------------------------------------------------------------------------------


def resolve(argv: Sequence[str], environment: Mapping[str, str]) -> Mapping[str, Path]:
    """Every element that takes part in a build, dependencies included, to its directory.

    As disk-image-create does it: by diskimage-builder's own resolver, with the elements it adds by
    itself ("base", and a partition layout for "vm"). RefusedError when that fails.
    """
    call = _parsed(argv)
    if not call.elements:
        raise RefusedError("the command names no element")
    elements = [*call.elements] if "-n" in call.options else ["base", *call.elements]
    if "vm" in elements and not any(name.startswith("block-device-") for name in elements):
        architecture = environment.get("ARCH") or platform.machine()
        efi = architecture in ("arm64", "aarch64")
        elements = [*elements, "block-device-efi" if efi else "block-device-mbr"]
    theirs = installed.of(argv, environment.get("PATH")).elements
    search = [each for each in (environment.get("ELEMENTS_PATH", ""), str(theirs)) if each]
    try:
        found = element_dependencies.get_elements(elements, ":".join(search))
    # The resolver names its errors, and raises a plain one without a text for a conflict.
    except (
        element_dependencies.MissingElementException,
        element_dependencies.AlreadyProvidedException,
        element_dependencies.MissingOSException,
        element_dependencies.InvalidElementDir,
    ) as error:
        raise RefusedError(str(error) or "elements of the list exclude each other") from error
    return {name: Path(directory) for name, directory in sorted(found)}


def element_hashes(elements: Mapping[str, Path]) -> Mapping[str, str]:
    """Element -> sha256 over its files: paths, whether executable, content. OSError when unreadable."""
    return {name: _tree(directory) for name, directory in sorted(elements.items())}


def _tree(top: Path) -> str:
    """A digest of a directory, the same wherever it is and whoever checked it out."""
    total = hashlib.sha256()
    for file in files_of(top):
        name = file.relative_to(top).as_posix()
        kind = "x" if file.stat().st_mode & 0o100 else "-"
        if file.is_symlink():
            kind += f" -> {file.readlink()}"
        total.update(f"{name}\0{kind}\0{_file(file)}\n".encode(errors="surrogateescape"))
    return total.hexdigest()


def files_of(top: Path) -> Iterator[Path]:
    """Every file below `top` that disk-image-create may use, in a fixed order."""
    seen = set()
    for directory, names, files in os.walk(top, followlinks=True):
        status = Path(directory).stat()
        if (status.st_dev, status.st_ino) in seen:  # a link leads back to where we were
            names.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        # disk-image-create leaves these out as well (lib/common-functions, generate_hooks).
        skipped = {"__pycache__", "tests"} if Path(directory) == top else {"__pycache__"}
        names[:] = sorted(name for name in names if name not in skipped)
        for name in sorted(files):
            file = Path(directory, name)
            if not name.endswith(".pyc") and file.is_file():
                yield file


def _file(file: Path) -> str:
    total = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            total.update(chunk)
    return total.hexdigest()


# -- files that variables name ----------------------------------------------------------------------


def _named_files(
    environment: Mapping[str, str], secret_names: frozenset[str], key: bytes
) -> Iterator[tuple[str, str]]:
    """Variable -> digest of what it names on this machine, for each that names something."""
    for name, value in sorted(environment.items()):
        seen = [_content(path) for path in _paths_in(value)]
        if seen:
            text = "\n".join(seen)
            yield name, _keyed(key, text) if name in secret_names else _digest(text)


def _paths_in(value: str) -> Iterator[Path]:
    for word in value.split():
        path = Path(word.removeprefix("file://"))
        # "/" and its like are no input of a build.
        if path.is_absolute() and len(path.parts) > 2 and _may_be_there(path):
            yield path


def _may_be_there(path: Path) -> bool:
    try:
        path.stat()
    except PermissionError:
        # The build runs as root and sees it, whoever we are; `_content` says that we don't.
        return True
    except (OSError, ValueError):
        # Not there, or only looks like a path: too long for one, links in a circle.
        return False
    return True


def _content(path: Path) -> str:
    """What tells that a file or directory changed: its content, or size and time when it is too large."""
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and status.st_size <= _MOST_BYTES:
            return _file(path)
        if stat.S_ISDIR(status.st_mode) and _is_small(path):
            return _tree(path)
    except OSError as error:
        return f"unreadable: {error.strerror}"
    return f"{status.st_size} bytes of {status.st_mtime_ns}"


def _is_small(top: Path) -> bool:
    size = 0
    for count, file in enumerate(files_of(top)):
        size += file.stat().st_size
        if count >= _MOST_FILES or size > _MOST_BYTES:
            return False
    return True


# -- digests --------------------------------------------------------------------------------------


def secret_key(state_dir: Path) -> bytes:
    """The key of this installation for digests of secrets; made at the first call.

    Raises OSError, and RefusedError when the file is there and holds no key.
    """
    file = state_dir / KEY
    with suppress(FileNotFoundError):
        return _key_in(file)
    state_dir.mkdir(parents=True, exist_ok=True)
    draft = state_dir / f".{KEY}.{secrets.token_hex(8)}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_hex(_KEY_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
        # Of two at the same time the first one wins, and both read what it wrote.
        with suppress(FileExistsError):
            os.link(draft, file)
    finally:
        draft.unlink()
    return _key_in(file)


def _key_in(file: Path) -> bytes:
    try:
        key = bytes.fromhex(file.read_text())
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        # An empty one would do as well as none: anybody could try out passwords on its digests.
        raise RefusedError(
            f"the key {file} is damaged; remove it to have a new one",
            hint="With a new one, images that have secrets count as changed once.",
        )
    return key


def _digest(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _keyed(key: bytes, value: str) -> str:
    return hmac.new(key, value.encode(errors="surrogateescape"), hashlib.sha256).hexdigest()


# -- the file ---------------------------------------------------------------------------------------


def write(directory: Path, inputs: Inputs) -> None:
    """Write inputs.json into a build's directory. Raises OSError."""
    record = {
        "digests": dict(inputs.digests),
        "command": list(inputs.command),
        "elements": dict(inputs.elements),
        "environment": dict(inputs.environment),
        "secrets": dict(inputs.secrets),
        "files": dict(inputs.files),
        "formats": dict(inputs.formats),
        "unknown": dict(inputs.unknown),
    }
    (directory / FILE).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


def read(directory: Path) -> Inputs | None:
    """What a build's inputs.json says; None when there is none, or it is no such file."""
    try:
        return parsed(json.loads((directory / FILE).read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        LOG.debug("no inputs in %s: %s", directory, error)
        return None


def parsed(record: Any) -> Inputs:
    """What inputs.json says. Raises KeyError or TypeError for anything else."""
    return Inputs(
        digests=_words(record["digests"]),
        command=tuple(_word(word) for word in record["command"]),
        **{
            name: _words(record[name])
            for name in ("elements", "environment", "secrets", "files", "formats", "unknown")
        },
    )


def _words(value: Any) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is no mapping")
    return {_word(name): _word(each) for name, each in value.items()}


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
