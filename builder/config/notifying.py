"""Makes the targets of `notify`: who is told how builds end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import urlsplit

from builder.config.checking import Checked
from builder.config.model import NotifyTarget
from builder.config.problems import Problems, suggestion
from builder.config.schema import ConfigFile, NotifyEntry, SecureFile, SecureNotifyEntry
from builder.config.text import absolute
from builder.config.values import seconds
from builder.model import name_problem


def build_targets(
    file: Checked[ConfigFile], secure: Checked[SecureFile], problems: Problems
) -> Mapping[str, NotifyTarget]:
    """Every target by its name, with the secure file's URLs and secrets in the place of the file's."""
    secrets = _secrets(file, secure, problems)
    targets: dict[str, NotifyTarget] = {}
    for position, entry in enumerate(file.content.notify or ()):
        problem = name_problem(entry.name)
        if entry.name in targets:
            problem = f"{entry.name!r} is listed twice"
        if problem:
            problems.add(file.place("notify", position, "name"), problem)
        targets[entry.name] = _target(file, position, entry, secrets.get(entry.name), problems)
    return MappingProxyType(targets)


def _secrets(
    file: Checked[ConfigFile], secure: Checked[SecureFile], problems: Problems
) -> Mapping[str, SecureNotifyEntry]:
    """What the secure file says of targets, by name; what it says of none is a problem."""
    entries = secure.content.notify or []
    written, counts = file.names("notify"), Counter(entry.name for entry in entries)
    commands = {entry.name for entry in file.content.notify or () if entry.command is not None}
    for position, entry in enumerate(entries):
        place = secure.place("notify", position, "name")
        if entry.name not in written:
            hint = suggestion(entry.name, written)
            problems.add(place, f"`notify` of the configuration has no {entry.name!r}{hint}")
        elif entry.name in commands:
            problems.add(place, f"{entry.name!r} is a command, which takes neither a webhook nor a secret")
        elif counts[entry.name] > 1:
            problems.add(place, f"{entry.name!r} is listed twice")
        if entry.webhook is not None and (problem := _url_problem(entry.webhook)):
            problems.add(secure.place("notify", position, "webhook"), problem)
        if entry.secret is not None and not entry.secret.strip():
            problems.add(secure.place("notify", position, "secret"), "must not be empty")
    return {entry.name: entry for entry in entries}


def _target(
    file: Checked[ConfigFile],
    position: int,
    entry: NotifyEntry,
    secret: SecureNotifyEntry | None,
    problems: Problems,
) -> NotifyTarget:
    source = file.document.file
    _check_kind(file, position, entry, secret, problems)
    if entry.webhook is not None and (problem := _url_problem(entry.webhook)):
        problems.add(file.place("notify", position, "webhook"), problem)
    if entry.events == [] and not file.is_cut("notify", position, "events"):
        problems.add(file.place("notify", position, "events"), "must list at least one: ready, failed")
    hidden = secret is not None and secret.webhook is not None
    return NotifyTarget(
        name=entry.name,
        command=_command(file, position, entry, problems),
        webhook=secret.webhook if secret is not None and hidden else entry.webhook,
        webhook_is_secret=hidden,
        secret=secret.secret if secret is not None else None,
        secret_file=absolute(entry.secret_file, source) if entry.secret_file else None,
        events=NotifyTarget.events if entry.events is None else frozenset(entry.events),
        timeout=NotifyTarget.timeout if entry.timeout is None else seconds(entry.timeout),
    )


def _check_kind(
    file: Checked[ConfigFile],
    position: int,
    entry: NotifyEntry,
    secret: SecureNotifyEntry | None,
    problems: Problems,
) -> None:
    """A target is either a command or a webhook, whose URL may be in the secure file."""
    has_webhook = entry.webhook is not None or (secret is not None and secret.webhook is not None)
    if entry.command is None and not has_webhook:
        # What does not fit was taken out, and is told already.
        if not any(problems.told_of(file.place("notify", position, key)) for key in ("command", "webhook")):
            problems.add(file.place("notify", position), "needs a `command` or a `webhook`")
    elif entry.command is not None and entry.webhook is not None:
        problems.add(
            file.place("notify", position, "webhook"),
            "a target has a command or a webhook: make two of them",
        )
    if entry.secret_file is not None and entry.command is not None:
        problems.add(file.place("notify", position, "secret-file"), "only what goes to a webhook is signed")
    if entry.secret_file == "":
        problems.add(file.place("notify", position, "secret-file"), "must name a file")


def _command(
    file: Checked[ConfigFile], position: int, entry: NotifyEntry, problems: Problems
) -> tuple[str, ...]:
    """The program and its arguments; a program named with a directory is found from this file on."""
    if entry.command is None:
        return ()
    if not entry.command or not entry.command[0].strip():
        problems.add(file.place("notify", position, "command"), "must name a program")
        return ()
    program, *arguments = entry.command
    if "/" in program:
        program = str(absolute(program, file.document.file))
    return (program, *arguments)


def _url_problem(text: str) -> str | None:
    """Why nothing can be sent to a URL, without a word of it, for it may be a secret; None when it can."""
    wrong = "must be a URL as in 'https://hooks.example/builds'"
    # urlsplit would leave out line ends without a word.
    if not text.isascii() or not text.isprintable() or " " in text:
        return f"{wrong}, of ASCII characters without spaces"
    try:
        parts = urlsplit(text)
        reachable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        return wrong
    if not reachable or parts.fragment:
        return wrong
    if parts.username is not None or parts.password is not None:
        return "must have no user or password in it; what is sent there can be signed (secret-file)"
    return None
