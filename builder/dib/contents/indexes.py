"""Ask the mirrors, by their package indexes, which version of each package a build would install now.

What is believed: a suite's InRelease (or Release) file, once its signature is checked where we have
a keyring, and of the indexes only what has the size and hash that it names. Indexes are kept by
their hash, read once, so a mirror on which nothing changed costs one small file per suite.

The formats are those of Debian's repositories (Debian's wiki, DebianRepository/Format); the choice among
suites is apt's (apt_preferences(5)).
"""

from __future__ import annotations

import email.utils
import hashlib
import logging
import lzma
import os
import re
import secrets
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Final

from debian_inspector.version import compare_versions  # type: ignore[import-untyped]

from builder.config.model import masked_credentials
from builder.dib.contents.apt_sources import Source
from builder.dib.contents.deadline import CannotTellError, together
from builder.dib.contents.download import AbsentError, Downloader
from builder.errors import ToolMissingError
from builder.process.child import find_tool, run

LOG = logging.getLogger(__name__)

#: Debian's InRelease has 150 kB, its largest index 9 MB packed and 50 MB unpacked.
_RELEASE_LIMIT: Final = 16 << 20
_PACKED_LIMIT: Final = 256 << 20
_PLAIN_LIMIT: Final = 1 << 30
#: Memory that unpacking may take; xz -9 takes 65 MiB.
_MEMORY_LIMIT: Final = 128 << 20
_CHUNK: Final = 1 << 20
#: What a paragraph of an index may have: no package comes near.
_PARAGRAPH_LIMIT: Final = 4 << 20
_FIELD: Final = re.compile(rb"^(Package|Version|Architecture):[ \t]*(\S+)", re.MULTILINE)
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_SIZE: Final = re.compile(r"[0-9]{1,15}")
_FORMAT: Final = "imagepool index 1"
_CLEARSIGNED: Final = "-----BEGIN PGP SIGNED MESSAGE-----"
_SIGNATURE: Final = "-----BEGIN PGP SIGNATURE-----"


@dataclass(frozen=True, kw_only=True)
class Mirrors:
    """What is needed to ask mirrors: a way to read them, and a directory of ours to keep indexes in."""

    downloader: Downloader
    cache: Path


@dataclass(frozen=True, kw_only=True)
class _File:
    """A file that a Release file names."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class _Release:
    """What matters of a Release file: its fields, and its files by path."""

    source: Source
    fields: Mapping[str, str]
    files: Mapping[str, _File]

    @property
    def priority(self) -> int:
        """What apt prefers: a suite that is not automatic (backports) comes after all others."""
        if self.fields.get("NotAutomatic", "").lower() != "yes":
            return 500
        return 100 if self.fields.get("ButAutomaticUpgrades", "").lower() == "yes" else 1


@dataclass(frozen=True, kw_only=True)
class _Offer:
    """A version of a package in a suite."""

    name: str
    version: str
    priority: int


def candidates(
    sources: Sequence[Source], *, architecture: str, names: Collection[str], mirrors: Mirrors
) -> Mapping[str, str]:
    """Package -> the version that apt would choose now, for each of `names` that the sources have.

    `architecture` is Debian's name for it. Raises CannotTellError: a mirror does not answer, is in the
    middle of an update, its signature is wrong or too old, or what it says makes no sense.
    """
    wanted = frozenset(names)
    questions = [
        partial(_offers, source, architecture=architecture, names=wanted, mirrors=mirrors)
        for source in dict.fromkeys(sources)
    ]
    best: dict[str, _Offer] = {}
    for answer in together(questions, mirrors.downloader.deadline):
        if isinstance(answer, CannotTellError):
            raise answer
        for offer in answer:
            best[offer.name] = _better(best.get(offer.name), offer)
    return {name: offer.version for name, offer in best.items()}


def _better(one: _Offer | None, other: _Offer) -> _Offer:
    if one is None or one.version == other.version:
        return other if one is None or other.priority > one.priority else one
    if one.priority != other.priority:
        return max(one, other, key=lambda offer: offer.priority)
    try:
        return one if compare_versions(one.version, other.version) >= 0 else other
    # Not every version that was ever uploaded is one by Debian's policy.
    except (ValueError, TypeError) as error:
        raise CannotTellError(
            f"{one.version} and {other.version} of package {one.name} can't be compared"
        ) from error


def _offers(
    source: Source, *, architecture: str, names: frozenset[str], mirrors: Mirrors
) -> tuple[_Offer, ...]:
    release = _release(source, mirrors)
    return tuple(
        _Offer(name=name, version=version, priority=release.priority)
        for path in _index_paths(release, architecture)
        for name, version, its_architecture in _index(release, path, mirrors)
        if name in names and its_architecture in (architecture, "all")
    )


# -- Release files --------------------------------------------------------------------------------


def _release(source: Source, mirrors: Mirrors) -> _Release:
    url = f"{source.base}/InRelease"
    try:
        text = _clear(_kept(url, mirrors), source)
    except AbsentError:
        url = f"{source.base}/Release"
        text = _detached(url, source, mirrors)
    release = _parsed(text, source)
    if not release.files:
        raise CannotTellError(f"{masked_credentials(url)}: names no file by its SHA256")
    until = release.fields.get("Valid-Until")
    if until is not None and _time(until, url) < datetime.now(UTC):
        raise CannotTellError(
            f"{masked_credentials(url)}: was valid until {until}: the mirror is out of date"
        )
    return release


def _kept(url: str, mirrors: Mirrors) -> Path:
    """A small file of the mirror as a file of ours, for gpgv; the same place every time."""
    content = mirrors.downloader.read(url, limit=_RELEASE_LIMIT)
    file = mirrors.cache / f"release-{hashlib.sha256(url.encode()).hexdigest()[:32]}"
    _store(file, content)
    return file


def _clear(file: Path, source: Source) -> str:
    """The text of a clear-signed file, of which only what is signed counts."""
    text = file.read_text(errors="replace")
    signed = text.startswith(_CLEARSIGNED)
    if source.keyrings:
        # Of another OpenPGP message gpgv prints what is packed in it, whoever signed it and however much.
        if not signed:
            raise CannotTellError(f"{masked_credentials(source.base)} has an InRelease that is not signed")
        return _verified([file], source, ["--output", "-"])
    if not signed:
        return text
    head, _, rest = text.partition("\n\n")
    return rest.partition(f"\n{_SIGNATURE}")[0] + "\n" if head else ""


def _detached(url: str, source: Source, mirrors: Mirrors) -> str:
    file = _kept(url, mirrors)
    if source.keyrings:
        _verified([_kept(f"{url}.gpg", mirrors), file], source, [])
    return file.read_text(errors="replace")


def _verified(files: Sequence[Path], source: Source, options: Sequence[str]) -> str:
    """What gpgv prints about files with a good signature, as apt judges: one good, none bad."""
    keyrings = [word for keyring in source.keyrings for word in ("--keyring", str(keyring))]
    shown = masked_credentials(source.base)
    try:
        tool = find_tool("gpgv", package="gpgv")
    except ToolMissingError as error:
        raise CannotTellError(f"the signature of {shown} can't be checked: {error.message}") from error
    try:
        answer = run([tool, *keyrings, "--status-fd", "2", *options, *map(str, files)], timeout=10.0)
    except (TimeoutError, OSError) as error:
        raise CannotTellError(f"the signature of {shown} can't be checked: {error}") from error
    status = [line.split()[1:2] for line in answer.stderr.splitlines() if line.startswith("[GNUPG:]")]
    if ["BADSIG"] in status:
        raise CannotTellError(f"the signature of {shown} is wrong")
    if ["GOODSIG"] not in status:
        names = ", ".join(str(keyring) for keyring in source.keyrings)
        raise CannotTellError(f"{shown} has no signature by a key of {names}")
    return answer.stdout


def _parsed(text: str, source: Source) -> _Release:
    fields: dict[str, str] = {}
    files: dict[str, _File] = {}
    name = ""
    for line in text.splitlines():
        if not line[:1].isspace():
            name, _, value = line.partition(":")
            fields[name] = value.strip()
        elif name == "SHA256":
            words = line.split()
            # The hash becomes part of a file name of ours.
            if len(words) == 3 and _SHA256.fullmatch(words[0]) and _SIZE.fullmatch(words[1]):
                files[words[2]] = _File(sha256=words[0], size=int(words[1]), path=words[2])
    return _Release(source=source, fields=fields, files=files)


def _time(text: str, url: str) -> datetime:
    try:
        time = email.utils.parsedate_to_datetime(text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, TypeError, OverflowError) as error:
        raise CannotTellError(f"{masked_credentials(url)}: {text[:40]!r} is no time") from error


# -- indexes --------------------------------------------------------------------------------------


def _index_paths(release: _Release, architecture: str) -> Iterator[str]:
    if release.source.flat:
        yield "Packages"
        return
    fields = release.fields
    kinds = [architecture]
    # Packages for all architectures are in each one's index, unless the mirror says otherwise.
    apart = "all" in fields.get("Architectures", "").split()
    if apart and "Packages" not in fields.get("No-Support-for-Architecture-all", "").split():
        kinds.append("all")
    for component in release.source.components:
        yield from (f"{component}/binary-{kind}/Packages" for kind in kinds)


def _index(release: _Release, path: str, mirrors: Mirrors) -> Iterator[tuple[str, str, str]]:
    """Name, version and architecture of all that an index lists, from our copy of it if there is one."""
    packed = next(
        (release.files[path + end] for end in (".xz", ".gz", "") if path + end in release.files), None
    )
    if packed is None:
        raise CannotTellError(f"{masked_credentials(release.source.base)} has no index {path}")
    if packed.size > _PACKED_LIMIT:
        raise CannotTellError(f"{masked_credentials(release.source.base)}: {packed.path} is too large")
    kept = mirrors.cache / f"index-{packed.sha256}"
    if (entries := _recalled(kept)) is None:
        entries = _fetched(release, packed, release.files.get(path), mirrors)
        text = "".join(f"{line}\n" for line in (_FORMAT, *entries, f"end {len(entries)}"))
        _store(kept, text.encode())
    for entry in entries:
        name, version, architecture = entry.split(" ")
        yield name, version, architecture


def _recalled(file: Path) -> list[str] | None:
    try:
        lines = file.read_text().splitlines()
        # Used today: whoever clears the cache goes by that.
        os.utime(file)
    except (OSError, UnicodeDecodeError):
        return None
    # A power cut may leave part of a file.
    if len(lines) < 2 or lines[0] != _FORMAT or lines[-1] != f"end {len(lines) - 2}":
        return None
    return lines[1:-1]


def _fetched(release: _Release, packed: _File, plain: _File | None, mirrors: Mirrors) -> list[str]:
    base = release.source.base
    url = f"{base}/{packed.path}"
    if release.fields.get("Acquire-By-Hash", "").lower() == "yes":
        # So a mirror keeps what its last Release file named, while it is being updated.
        directory, slash, _ = packed.path.rpartition("/")
        url = f"{base}/{directory}{slash}by-hash/SHA256/{packed.sha256}"
    shown = masked_credentials(f"{base}/{packed.path}")
    limit = min(plain.size if plain is not None else _PLAIN_LIMIT, _PLAIN_LIMIT)
    with TemporaryFile(dir=mirrors.cache) as stream:
        _download(url, stream, packed, mirrors, shown)
        stream.seek(0)
        try:
            return list(_entries(_bounded(_unpacked(stream, packed.path), limit, shown)))
        except (lzma.LZMAError, zlib.error, EOFError, UnicodeDecodeError) as error:
            raise CannotTellError(f"{shown} can't be read: {error}") from error


def _download(url: str, stream: IO[bytes], packed: _File, mirrors: Mirrors, shown: str) -> None:
    digest, size = hashlib.sha256(), 0
    # One byte more than announced is enough to know that it is another file.
    for piece in mirrors.downloader.pieces(url, limit=packed.size + 1):
        stream.write(piece)
        digest.update(piece)
        size += len(piece)
    if (size, digest.hexdigest()) != (packed.size, packed.sha256):
        raise CannotTellError(
            f"{shown} is not the file that its Release file names: is the mirror being updated?"
        )


def _unpacked(stream: IO[bytes], path: str) -> Iterator[bytes]:
    if path.endswith(".xz"):
        yield from _unxz(stream)
    elif path.endswith(".gz"):
        yield from _gunzip(stream)
    else:
        while chunk := stream.read(_CHUNK):
            yield chunk


def _unxz(stream: IO[bytes]) -> Iterator[bytes]:
    decompressor = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_MEMORY_LIMIT)
    while not decompressor.eof:
        data = stream.read(_CHUNK) if decompressor.needs_input else b""
        if not data and decompressor.needs_input:
            raise EOFError("it ends too early")
        yield decompressor.decompress(data, max_length=_CHUNK)


def _gunzip(stream: IO[bytes]) -> Iterator[bytes]:
    decompressor = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    data = b""
    while not decompressor.eof:
        data = data or stream.read(_CHUNK)
        if not data:
            raise EOFError("it ends too early")
        yield decompressor.decompress(data, _CHUNK)
        data = decompressor.unconsumed_tail


def _bounded(chunks: Iterator[bytes], limit: int, shown: str) -> Iterator[bytes]:
    total = 0
    for chunk in chunks:
        total += len(chunk)
        if total > limit:
            raise CannotTellError(f"{shown} unpacks to more than {limit} bytes")
        yield chunk


def _entries(chunks: Iterator[bytes]) -> Iterator[str]:
    """ "name version architecture" of each paragraph."""
    rest = b""
    for chunk in chunks:
        *paragraphs, rest = (rest + chunk).split(b"\n\n")
        if len(rest) > _PARAGRAPH_LIMIT:
            raise EOFError("a paragraph has no end")
        for paragraph in paragraphs:
            yield from _entry(paragraph)
    yield from _entry(rest)


def _entry(paragraph: bytes) -> Iterator[str]:
    if not paragraph.strip():
        return
    found = dict(_FIELD.findall(paragraph))
    if len(found) != 3:
        raise EOFError("a paragraph without Package, Version or Architecture")
    yield b" ".join((found[b"Package"], found[b"Version"], found[b"Architecture"])).decode()


def _store(file: Path, content: bytes) -> None:
    """Write a file whole or not at all, whoever else writes it. Raises CannotTellError."""
    draft = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_bytes(content)
            draft.replace(file)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise CannotTellError(f"{file.parent} can't be used: {error.strerror}") from error
