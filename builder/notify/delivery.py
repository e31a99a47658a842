"""Tells one event to one target, in the way of that target."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from builder.config.model import NotifyTarget
from builder.errors import ToolMissingError
from builder.notify import command, webhook
from builder.process.child import find_tool

#: A secret is a line; of a device or a video, no more is read.
_LONGEST_SECRET: Final = 4096
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


def deliver(
    target: NotifyTarget, event: str, body: str, *, now: datetime, environ: Mapping[str, str]
) -> str | None:
    """Tell it the event of that id and JSON; in one line why it was not told, None when it was. No secret of
    the target is in that."""
    seconds = target.timeout.total_seconds()
    if target.webhook is None:
        why = command.send(target.command, body, timeout=seconds, environ=environ)
        return why and _CONTROL.sub(" ", why)
    try:
        key = signing_key(target)
    except ValueError as error:
        return str(error)
    return webhook.send(target.webhook, body, event=event, key=key, timeout=seconds, now=now)


def signing_key(target: NotifyTarget) -> bytes | None:
    """What its messages are signed with, None for nothing; ValueError when it can't be read.

    A secret file is read each time: it may be another one by now.
    """
    if target.secret is not None:
        return _key(target.secret, "the secret")
    if target.secret_file is None:
        return None
    return _key(_read(target.secret_file), f"the secret-file {target.secret_file}")


def _read(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return stream.read(_LONGEST_SECRET).decode()
    except OSError as error:
        raise ValueError(f"the secret-file {file} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"the secret-file {file} is no text") from None


def _key(secret: str, where: str) -> bytes:
    try:
        return webhook.signing_key(secret)
    except ValueError as error:
        raise ValueError(f"{where} can't be used: {error}") from None


def problem_of(target: NotifyTarget) -> str | None:
    """Why a target can't be told anything as things are on this machine; None as far as can be seen."""
    try:
        if target.webhook is None:
            find_tool(target.command[0])
        else:
            signing_key(target)
    except ToolMissingError as error:
        return error.message
    except ValueError as error:
        return str(error)
    return None


def address(target: NotifyTarget) -> str:
    """Where it is, for people: the program, or the server; its URL may be a secret."""
    if target.webhook is None:
        return target.command[0]
    return "a webhook" if target.webhook_is_secret else f"the webhook at {urlsplit(target.webhook).hostname}"
