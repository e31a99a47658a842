"""`notify`: who is told how builds end, what can't be one, and what is never shown of it."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from builder.config.model import MASK, NotifyTarget
from builder.config.show import as_data
from tests.unit.config_world import Files

DOCS = (Path(__file__).parents[2] / "docs" / "notify.md").read_text()
HIDDEN = "https://hooks.example/T0K3N"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_a_command_and_a_webhook(files: Files) -> None:
    config = files.load(
        """\
        notify:
          - name: mail
            command: [bin/mail, ops@example.org]
            events: [failed]
            timeout: 5
          - {name: chat, webhook: "https://hooks.example:8443/x?y", secret-file: chat.secret}
        """
    )
    home = files.main.parent
    assert config.notify == {
        "mail": NotifyTarget(
            name="mail",
            command=(str(home / "bin/mail"), "ops@example.org"),
            events=frozenset({"failed"}),
            timeout=timedelta(seconds=5),
        ),
        "chat": NotifyTarget(
            name="chat", webhook="https://hooks.example:8443/x?y", secret_file=home / "chat.secret"
        ),
    }
    assert config.notify["chat"].events == {"ready", "failed"}


def test_the_example_of_the_docs_loads(files: Files) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL)
    assert set(files.load(example).notify) == {"chat", "mail"}


def test_a_program_without_a_directory_is_looked_for_when_it_is_needed(files: Files) -> None:
    config = files.load("notify: [{name: mail, command: [mail, root]}]")
    assert config.notify["mail"].command == ("mail", "root")


def test_an_image_may_name_who_hears_of_it(files: Files) -> None:
    config = files.load(
        """\
        notify:
          - {name: one, command: [x]}
          - {name: two, command: [x], events: [failed]}
        diskimages:
          - {name: quiet, elements: [vm], notify: []}
          - {name: base, abstract: true, notify: [two]}
          - {name: heir, parent: base, elements: [vm]}
          - {name: all, elements: [vm]}
        """
    )
    told = {
        (name, event): [target.name for target in config.told_of(name, event)]
        for name in ("quiet", "heir", "all", "gone")
        for event in ("ready", "failed")
    }
    assert told == {
        ("quiet", "ready"): [],
        ("quiet", "failed"): [],
        ("heir", "ready"): [],
        ("heir", "failed"): ["two"],
        ("all", "ready"): ["one"],
        ("all", "failed"): ["one", "two"],
        ("gone", "ready"): ["one"],
        ("gone", "failed"): ["one", "two"],
    }


def test_an_image_can_not_name_who_is_not_there(files: Files) -> None:
    assert files.problems(
        """\
        notify: [{name: chat, command: [x]}]
        diskimages:
          - name: a
            notify: [chat, chta]
        """
    ) == ["imagepool.yaml:4: diskimages[0].notify[1]: `notify` has no 'chta'; did you mean 'chat'?"]


PROBLEMS = {
    "neither": ("{name: x}", "notify[0]: needs a `command` or a `webhook`"),
    "both": (
        "{name: x, command: [y], webhook: 'https://h.example/'}",
        "notify[0].webhook: a target has a command or a webhook: make two of them",
    ),
    "no name": ("{command: [y]}", "notify[0].name: is required"),
    "a name that can be no file": (
        "{name: ../x, command: [y]}",
        "notify[0].name: '../x' is no valid name: use letters, digits, '.', '_', '+' and '-', and start"
        " with a letter or digit",
    ),
    "an empty command": ("{name: x, command: []}", "notify[0].command: must name a program"),
    "a blank program": ("{name: x, command: [' ']}", "notify[0].command: must name a program"),
    "a line of a shell": ("{name: x, command: mail root}", "notify[0].command: must be a list"),
    "a strange event": (
        "{name: x, command: [y], events: [built]}",
        "notify[0].events[0]: must be 'ready' or 'failed', not text 'built'",
    ),
    "no event": (
        "{name: x, command: [y], events: []}",
        "notify[0].events: must list at least one: ready, failed",
    ),
    "no time": ("{name: x, command: [y], timeout: 0}", "notify[0].timeout: must be more than 0, not 0"),
    "a day": ("{name: x, command: [y], timeout: 86400}", "notify[0].timeout: must be at most 3600"),
    "a signed command": (
        "{name: x, command: [y], secret-file: z}",
        "notify[0].secret-file: only what goes to a webhook is signed",
    ),
    "an empty secret-file": (
        "{name: x, webhook: 'https://h.example/', secret-file: ''}",
        "notify[0].secret-file: must name a file",
    ),
    "a slip": (
        "{name: x, command: [y], event: [ready]}",
        "notify[0].event: unknown key; did you mean 'events'?",
    ),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_what_can_not_be_is_told_with_its_line(files: Files, case: str) -> None:
    entry, problem = PROBLEMS[case]
    (found,) = files.problems(f"notify:\n  - {entry}\n")
    assert found.startswith(f"imagepool.yaml:2: {problem}")


def test_no_two_have_one_name(files: Files) -> None:
    text = "notify:\n  - {name: x, command: [y]}\n  - {name: x, command: [z]}\n"
    assert files.problems(text) == ["imagepool.yaml:3: notify[1].name: 'x' is listed twice"]


URLS = [
    *("ftp://h.example/", "hooks.example/x", "https://", "https:///x", "https://h.example:x/", "http://[::1"),
    *("https://h.example:99999/", "https://h.example/#x", "https://h.example/a b", "https://h.example/\\n"),
    *("https://hö.example/", "https://user:hush@h.example/", "https://hush@h.example/"),
]


@pytest.mark.parametrize("url", URLS)
def test_what_nothing_can_be_sent_to_is_no_webhook(files: Files, url: str) -> None:
    (found,) = files.problems(f'notify: [{{name: x, webhook: "{url}"}}]')
    assert found.startswith("imagepool.yaml:1: notify[0].webhook: must ")
    assert "hush" not in found


# -- the secure file ------------------------------------------------------------------------------


def test_the_secure_file_has_urls_and_secrets(files: Files) -> None:
    files.write_secure(f"notify: [{{name: chat, webhook: '{HIDDEN}', secret: hush hush}}]")
    config = files.load("notify: [{name: chat, events: [ready]}]")
    chat = config.notify["chat"]
    assert (chat.webhook, chat.secret, chat.events) == (HIDDEN, "hush hush", frozenset({"ready"}))
    assert "hush" not in repr(config) and "T0K3N" not in repr(config)


def test_what_is_shown_has_no_secret_and_can_be_loaded(files: Files) -> None:
    files.write_secure(f"notify: [{{name: chat, webhook: '{HIDDEN}', secret: hush hush}}]")
    config = files.load(
        """\
        notify:
          - {name: chat}
          - {name: open, webhook: https://hooks.example/x, secret-file: /s, timeout: 1.5}
          - {name: mail, command: [curl, "https://ci:hush@hooks.example"], events: [ready]}
        diskimages: [{name: a, elements: [vm], notify: [open]}]
        """
    )
    shown = as_data(config)
    events = ["failed", "ready"]
    assert shown["notify"] == [
        {"name": "chat", "webhook": f"https://{MASK}", "events": events, "timeout": 30},
        {
            "name": "open",
            "webhook": "https://hooks.example/x",
            "secret-file": "/s",
            "events": events,
            "timeout": 1.5,
        },
        {
            "name": "mail",
            "command": ["curl", f"https://{MASK}@hooks.example"],
            "events": ["ready"],
            "timeout": 30,
        },
    ]
    assert shown["diskimages"][0]["notify"] == ["open"]
    files.secure.unlink()
    again = files.load(yaml.safe_dump(shown))
    assert again.notify["open"] == config.notify["open"]
    assert again.diskimages["a"].notify == ("open",)


@pytest.mark.parametrize(
    ("secure", "problem"),
    [
        ("{name: caht, secret: hush}", "notify[0].name: `notify` of the configuration has no 'caht'"),
        ("{name: mail, secret: hush}", "notify[0].name: 'mail' is a command, which takes neither"),
        ("{name: chat, secret: ' '}", "notify[0].secret: must not be empty"),
        ("{name: chat, webhook: 'hush://x'}", "notify[0].webhook: must be a URL as in"),
        ("{name: chat, webhook: [hush]}", "notify[0].webhook: must be text, not something else"),
    ],
)
def test_what_the_secure_file_can_not_say(files: Files, secure: str, problem: str) -> None:
    files.write_secure(f"notify:\n  - {secure}\n")
    (found,) = files.problems(
        "notify: [{name: mail, command: [x]}, {name: chat, webhook: 'https://h.example/'}]"
    )
    assert found.startswith(f"secure.yaml:2: {problem}") and "hush" not in found
