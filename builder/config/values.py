"""Reads the small languages inside a configuration: formats, sizes, durations, environment names."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable
from datetime import timedelta
from decimal import Decimal
from typing import Final, Literal
from urllib.parse import urlsplit

from builder.config.problems import suggestion
from builder.model import ImageFormat, layouts_conflict

#: Characters of a name, a tag or an id in Glance.
GLANCE_TEXT: Final = 255

#: More than anybody has.
MAX_PROVIDERS: Final = 100_000

#: What `image-name-format` can name.
IMAGE_NAME_FIELDS: Final = ("image_name", "upload_id", "timestamp")

_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_ELEMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*\Z")
_FORMAT_SPEC = re.compile(r"[^{}]{0,4}\Z")
_PROJECT_ID = re.compile(r"[A-Za-z0-9_-]{1,255}\Z")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}\Z")
_SIZE = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,6})?)\s*([KMGTkmgt]?)(?:i?[Bb])?\Z")
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*([smhd]?)\Z")
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
#: A hundred years: longer than any duration makes sense, short enough for every date.
MAX_SECONDS: Final = 3_153_600_000
#: An exabyte.
MAX_SIZE: Final = 1 << 60


class BadValueError(Exception):
    """A value can't be used; says why. The loader makes it a problem at the value's place."""


def image_format(text: str) -> ImageFormat:
    """The format of that name; raises BadValueError, also for what only comes along with another."""
    whole = next((each for each in ImageFormat if text in each.parts), None)
    if whole is not None:
        raise BadValueError(f"{text} is a part of {whole} and comes along with it: name {whole}")
    try:
        return ImageFormat(text)
    except ValueError:
        known = [each for each in ImageFormat if not each.is_part]
        raise BadValueError(f"unknown format {text!r}{suggestion(text, known)}") from None


def layout_problem(formats: Iterable[ImageFormat]) -> str | None:
    """Why one build can't be made in all these formats; None when it can."""
    formats = tuple(dict.fromkeys(formats))
    if not layouts_conflict(formats):
        return None
    return (
        f"{' and '.join(formats)} can't come out of one build: {ImageFormat.AMI} is a root file system"
        " without partitions; make two diskimages of it"
    )


def size(value: str) -> int:
    """A number of bytes, of a number or of text such as "20G" (powers of 1024); raises BadValueError."""
    match = _SIZE.match(value.strip())
    if not match or ("." in match[1] and not match[2]):
        raise BadValueError(
            f"a size is a number of bytes, or one with K, M, G or T as in '20G', not {value!r}"
        )
    number, unit = match.groups()
    total = int(Decimal(number) * 1024 ** " KMGT".index(unit.upper() or " "))
    if total > MAX_SIZE:
        raise BadValueError(f"{value!r} is more than any disk has")
    return total


def seconds(value: float) -> timedelta:
    """A duration; the schema has bounded it."""
    return timedelta(seconds=value)


def duration(text: str) -> timedelta:
    """A duration, of a number of seconds or of text such as "2h"; raises BadValueError."""
    match = _DURATION.match(text.strip())
    if not match:
        raise BadValueError(
            f"a duration is a number of seconds, or one with s, m, h or d as in '2h', not {text!r}"
        )
    total = float(match[1]) * _SECONDS[match[2]]
    if total > MAX_SECONDS:
        raise BadValueError(f"{text!r} is longer than a hundred years")
    return timedelta(seconds=total)


def promotion(text: str) -> Literal["each", "all", "manual"] | int:
    """When new builds serve: "each", "all", "manual", or a number of providers; raises BadValueError."""
    match text:
        case "each" | "all" | "manual":
            return text
    if text.isdecimal() and len(text) < 10 and 1 <= int(text) <= MAX_PROVIDERS:
        return int(text)
    raise BadValueError(
        f"must be 'each', 'all', 'manual', a number of providers from 1 on, or a mapping with `canary`,"
        f" not {text!r}"
    )


def listening(text: str) -> tuple[str, int]:
    """Host and port of "host:port", where an IPv6 address is in brackets; raises BadValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not host.strip("[]") or not port.isdecimal() or int(port) > 65535:
        raise BadValueError(f"must be an address and a port, as in '127.0.0.1:8014', not {text!r}")
    return host.strip("[]"), int(port)


def url_prefix(text: str) -> str:
    """A prefix that names can be appended to; raises BadValueError."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise BadValueError(f"must be a URL as in 'https://images.example/files/', not {text!r}")
    return text.rstrip("/") + "/"


def glance_text_problem(text: str) -> str | None:
    """Why a text can't be a name or a tag in Glance; None when it can."""
    if not text.strip() or len(text) > GLANCE_TEXT:
        return f"has 1 to {GLANCE_TEXT} characters in a cloud, this one has {len(text.strip())}"
    return None


def project_id_problem(text: str) -> str | None:
    """Why a text can't be the id of a project; None when it can."""
    if _PROJECT_ID.match(text):
        return None
    return f"{text!r} is no id of a project: `openstack project show NAME -c id` tells it"


def days(value: float) -> timedelta:
    """A duration in days; the schema has bounded it."""
    return timedelta(days=value)


def label_problem(text: str) -> str | None:
    """Why a text can't be a label of builders; None when it can."""
    if _LABEL.match(text):
        return None
    return f"{text!r} is no label: use letters, digits, '.', '_', '+' and '-', at most 64"


def environment_name_problem(name: str) -> str | None:
    """Why a variable can't be called so; None when it can."""
    if _ENVIRONMENT_NAME.match(name):
        return None
    return "an environment variable's name is made of letters, digits and '_', and starts with no digit"


def element_problem(name: str) -> str | None:
    """Why an element can't be called so; None when it can."""
    if _ELEMENT.match(name):
        return None
    return f"{name!r} is no element name: use letters, digits, '.', '_', '+' and '-'"


def image_name_format_problem(text: str, images: Iterable[str], wanted: ImageFormat) -> str | None:
    """Why a text can't be `image-name-format` of a provider that gets these diskimages in the `wanted`
    format; None when it can."""
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        return f"{text!r} is no format: {error}"
    for _literal, name, spec, conversion in parts:
        if name is None:
            continue
        if name not in IMAGE_NAME_FIELDS:
            return f"unknown field {{{name}}}{suggestion(name, IMAGE_NAME_FIELDS)}"
        if conversion or not _FORMAT_SPEC.match(spec or ""):
            return f"{{{name}}} is all that is needed, without conversion or width"
    # A part's image is called as the whole, with "-" and its format behind (cloud/transfer/newimage.py).
    suffix = max((len(f"-{part}") for part in wanted.parts), default=0)
    found = [_formatted_name_problem(text, image, suffix) for image in images] or [
        _formatted_name_problem(text, "image", suffix)
    ]
    return next((problem for problem in found if problem), None)


def _formatted_name_problem(text: str, image: str, suffix: int) -> str | None:
    """`suffix`: how many characters the names of an image's parts have on top of its own."""
    try:
        name = text.format(image_name=image, upload_id="0000000001", timestamp=1_700_000_000)
    except (ValueError, TypeError) as error:
        return f"{text!r} can't be filled in: {error}"
    length = len(name) + suffix
    if name.strip() and length <= GLANCE_TEXT:
        return None
    parts = f", {suffix} of them for its parts" if suffix else ""
    return (
        f"an image's name in a cloud has 1 to {GLANCE_TEXT} characters, this makes {length} of"
        f" {image!r}{parts}"
    )
