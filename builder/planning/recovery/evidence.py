"""Reads what an image's properties tell of its build and its upload, and believes only what makes sense.

Whoever may change images in the project can write anything there. So a name is a name, an id an id, a
number a number, and a time lies in the past, or it counts as not said; what an upload can't be told
without makes the image useless as evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from builder.cloudimage import (
    BUILD_ID,
    BUILD_READY,
    BUILD_STARTED,
    FORMAT,
    IMAGE,
    PART_PROPERTIES,
    PROVIDER,
    PYTHON_PATH,
    RAW_SHA256,
    RAW_SIZE,
    SDK_MD5,
    SDK_SHA256,
    SHA512,
    SHELL_TYPE,
    UPLOAD_ID,
    UPLOAD_STARTED,
    USERNAME,
    WITHHELD,
    CloudImage,
    GlanceStatus,
)
from builder.model import ImageFormat, Withholding, is_build_id, name_problem
from builder.planning.words import line
from builder.withheldmark import from_text

#: Nothing of ours is older: a time before that is a broken clock's.
_EARLIEST: Final = datetime(2015, 1, 1, tzinfo=UTC)
_UPLOAD_ID_DIGITS: Final = 10
_SIZE_DIGITS: Final = 18
_QUOTED: Final = 60
_DIGITS: Final = {SHA512: 128, SDK_SHA256: 64, SDK_MD5: 32, RAW_SHA256: 64}
#: Glance's names of algorithms, the strongest first, and the property that has ours.
_HASHES: Final[Mapping[str, str]] = {"sha512": SHA512, "sha256": SDK_SHA256, "md5": SDK_MD5}
#: Statuses of an image whose upload never came to an end.
_HALF: Final = frozenset({GlanceStatus.KILLED, *(s for s in GlanceStatus if s.is_moving)})


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """An image of ours, and what it tells; what is None or "" it does not tell in a way to be believed."""

    image: CloudImage
    diskimage: str
    build_id: str
    upload_id: str
    provider: str
    name: str  #: which it was created with
    started: datetime  #: when its upload began, or when Glance made it
    build_started: datetime | None
    build_ready: datetime | None
    format: ImageFormat | None
    sha512: str | None
    raw_sha256: str | None
    raw_size: int | None
    username: str
    python_path: str
    shell_type: str
    serving: bool  #: it has its diskimage's stable name or tag
    withheld: Withholding | None = None  #: the word that its build is not to serve, there or anywhere

    @property
    def build(self) -> tuple[str, str]:
        """The diskimage and the build's id."""
        return self.diskimage, self.build_id

    @property
    def is_part(self) -> bool:
        """Whether another image needs it, and it alone is of no use."""
        return self.format is not None and self.format.is_part

    @property
    def half(self) -> bool:
        """Whether its upload never came to its end."""
        return self.image.status in _HALF


def read(image: CloudImage, now: datetime) -> Evidence | str:
    """What an image with our installation's mark tells; or why it can't be evidence of an upload."""
    said = image.properties
    if reason := _why_no_evidence(image):
        return reason
    started = _time(said.get(UPLOAD_STARTED), now) or _past(image.created, now)
    if started is None:
        return "nothing tells when it was uploaded"
    return Evidence(
        image=image,
        diskimage=said[IMAGE],
        build_id=said[BUILD_ID],
        upload_id=said[UPLOAD_ID],
        provider=said[PROVIDER],
        name=image.original_name or image.name,
        started=started,
        build_started=_time(said.get(BUILD_STARTED), now),
        build_ready=_time(said.get(BUILD_READY), now),
        format=_format(said.get(FORMAT) or image.disk_format),
        sha512=_digest(said, SHA512),
        raw_sha256=_digest(said, RAW_SHA256),
        raw_size=_number(said.get(RAW_SIZE)),
        username=_word(said.get(USERNAME)),
        python_path=_word(said.get(PYTHON_PATH)),
        shell_type=_word(said.get(SHELL_TYPE)),
        serving=image.serving,
        withheld=_withheld(said, now),
    )


def why_unusable(evidence: Evidence) -> str | None:
    """Why an image can't be called ready; None when it is active with the bytes that were uploaded."""
    image = evidence.image
    if image.status is not GlanceStatus.ACTIVE:
        return f"it is {image.status}"
    if None not in (evidence.format, image.disk_format) and image.disk_format != evidence.format:
        return f"its format is {quoted(image.disk_format or '')}, {evidence.format} was uploaded"
    compared = list(_compared(image))
    for algorithm, theirs, ours in compared:
        if theirs != ours:
            return f"its {algorithm} is {quoted(theirs)}, {ours} was uploaded"
    if not compared:
        return "neither Glance nor its properties tell a hash by which its bytes could be checked"
    return None


def why_incomplete(evidence: Evidence, parts: Iterable[Evidence]) -> str | None:
    """Why an image can't be booted with these `parts`; None when it can, or needs none."""
    there = {each.format: each for each in parts}
    for wanted in evidence.format.parts if evidence.format else ():
        part, named = there.get(wanted), evidence.image.properties.get(PART_PROPERTIES[wanted])
        if part is None:
            return f"its {wanted} is gone"
        if part.image.id != named:
            return f"its {wanted} is image {part.image.id}, and it names {quoted(named or '')}"
        if problem := why_unusable(part):
            return f"of its {wanted}, image {part.image.id}, {problem}"
    return None


def checked_by(evidence: Evidence) -> str:
    """The algorithm by which the bytes of a usable image were checked."""
    return next(algorithm for algorithm, _, _ in _compared(evidence.image))


def quoted(text: str) -> str:
    """Somebody else's text in a sentence of ours, not at any length."""
    shown = line(text)
    return f'"{shown[:_QUOTED]}…"' if len(shown) > _QUOTED else f'"{shown}"'


def _withheld(said: Mapping[str, str], now: datetime) -> Withholding | None:
    """Who is not to serve is believed whatever else its property says; only its time may be none."""
    word = from_text(said.get(WITHHELD, ""), said[PROVIDER])
    return word if word is None or word.time <= now else replace(word, time=now)


def _why_no_evidence(image: CloudImage) -> str | None:
    said = image.properties
    if mark := image.snapshot_mark:
        return f"it is a snapshot of something made from ours: it has the property {mark}"
    if not is_build_id(said.get(BUILD_ID, "")):
        return f"its property {BUILD_ID} is {quoted(said.get(BUILD_ID, ''))}, which is no build's id"
    for name in (IMAGE, PROVIDER):
        if name_problem(said.get(name, "")):
            return f"its property {name} is {quoted(said.get(name, ''))}, which is no name"
    if not _is_upload_id(said.get(UPLOAD_ID, "")):
        return f"its property {UPLOAD_ID} is {quoted(said.get(UPLOAD_ID, ''))}, which is no upload's id"
    if image.name != image.original_name and not image.serving:
        return (
            f"it is a copy of ours: it is called {quoted(image.name)}, and ours was"
            f" {quoted(image.original_name)}"
        )
    return None


def _compared(image: CloudImage) -> Iterator[tuple[str, str, str]]:
    """Each algorithm by which both Glance and we know the bytes, with its hash and ours."""
    glances = {"md5": image.checksum, image.hash_algorithm: image.hash_value}
    for algorithm, name in _HASHES.items():
        theirs, ours = glances.get(algorithm), _digest(image.properties, name)
        if theirs and ours:
            yield algorithm, theirs.lower(), ours


def _is_upload_id(text: str) -> bool:
    return len(text) == _UPLOAD_ID_DIGITS and text.isascii() and text.isdecimal()


def _digest(said: Mapping[str, str], name: str) -> str | None:
    value = said.get(name, "").lower()
    good = len(value) == _DIGITS[name] and set(value) <= set("0123456789abcdef")
    return value if good else None


def _number(text: str | None) -> int | None:
    good = text is not None and text.isascii() and text.isdecimal() and len(text) <= _SIZE_DIGITS
    return int(text or "") if good else None


def _format(text: str | None) -> ImageFormat | None:
    return ImageFormat(text) if text in tuple(ImageFormat) else None


def _word(text: str | None) -> str:
    """A path or a name of a user; "" for what can be neither."""
    return text if text and text.isprintable() and not set(text) & set(" \"'`$;|&<>") else ""


def _time(text: str | None, now: datetime) -> datetime | None:
    try:
        return _past(datetime.fromisoformat(text), now) if text else None
    except ValueError:
        return None


def _past(time: datetime | None, now: datetime) -> datetime | None:
    # Without a zone it could be any of two days, and from the future it would be newer than what is to come.
    if time is None or time.tzinfo is None or not _EARLIEST <= time <= now:
        return None
    return time.astimezone(UTC)
