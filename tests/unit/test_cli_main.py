"""The command as a whole: options, help, errors and exit codes."""

from __future__ import annotations

import io
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from builder import __version__
from builder.cli import logs
from builder.cli.context import Context, Parts
from builder.cli.main import main
from builder.cli.registry import COMMANDS
from builder.config.model import Config, ZooKeeper
from builder.errors import (
    ActionFailedError,
    CloudUnavailableError,
    ConfigError,
    ConflictError,
    ImagepoolError,
    NotFoundError,
    RefusedError,
    StoreUnavailableError,
    ToolMissingError,
    UsageError,
)
from builder.model import FailureClass
from builder.store.zookeeper import ZooKeeperStore
from tests.unit.cli_world import Result, World

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "cli.md"
NAMES = [entry.name for entry in COMMANDS]


@dataclass
class Breaking(World):
    """A world in which reading the configuration raises."""

    error: BaseException = field(default_factory=KeyboardInterrupt)

    def parts(self) -> Parts:
        def load(*_: object) -> Config:
            raise self.error

        return Parts(load=load, environ={})


def after(error: BaseException, *argv: str) -> Result:
    return Breaking(error=error).run(*argv, "build", "list")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ImagepoolError("x"), 1),
        (ActionFailedError("x"), 1),
        (ConflictError("x"), 1),
        (UsageError("x"), 2),
        (ConfigError(["x"]), 2),
        (NotFoundError("x"), 3),
        (RefusedError("x"), 4),
        (StoreUnavailableError("x"), 5),
        (CloudUnavailableError("x", failure_class=FailureClass.NETWORK), 5),
        (ToolMissingError("x"), 5),
    ],
)
def test_the_class_of_an_error_is_the_exit_code(error: ImagepoolError, code: int) -> None:
    done = after(error)
    assert (done.code, done.out, done.err) == (code, "", "imagepool: error: x\n")


def test_an_error_says_what_to_do_on_a_line_of_its_own() -> None:
    done = after(NotFoundError("no such thing", hint="Try another."))
    assert done.err == "imagepool: error: no such thing\nTry another.\n"


def test_every_problem_of_a_configuration_is_reported() -> None:
    done = after(ConfigError(["a.yaml:1: this", "a.yaml:7: that"]))
    assert done.code == 2
    assert done.err.splitlines()[1:] == ["a.yaml:1: this", "a.yaml:7: that"]


def test_an_error_can_not_act_on_the_terminal() -> None:
    assert "\x1b" not in after(ImagepoolError("evil \x1b[2J", hint="\x1b]0;x\x07")).err


def test_a_bug_is_called_one_and_its_traceback_is_there_for_the_asking() -> None:
    bug = ZeroDivisionError("division by zero")
    brief = after(bug)
    assert brief.code == 70
    assert brief.err.startswith("imagepool: internal error: ZeroDivisionError: division by zero\n")
    assert "--debug" in brief.err and "Traceback" not in brief.err
    assert "Traceback" in after(bug, "--debug").err


def test_an_interrupt_is_130_without_a_word() -> None:
    assert after(KeyboardInterrupt()) == Result(130, "", "")


def test_a_reader_that_went_away_is_no_error_worth_a_word(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "from builder.cli.main import main; raise SystemExit(main(['help']))"]
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as gone:
        done = subprocess.run(
            argv, stdout=gone, stderr=subprocess.PIPE, text=True, timeout=60, check=False, cwd=tmp_path
        )
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    "argv",
    [
        ["nonsense"],
        ["--nonsense", "build", "list"],
        ["build"],
        ["build", "list", "nonsense"],
        ["build", "list", "--nonsense"],
        ["build", "list", "-f", "nonsense"],
        ["build", "show"],
        ["--config"],
        ["-v", "-q", "build", "list"],
        ["run", "--roles", "gardener"],
        ["run", "--roles", ","],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2_and_says_so_on_stderr(argv: list[str]) -> None:
    done = World().run(*argv)
    assert done.code == 2 and done.err and not done.out


def test_a_mistyped_command_gets_a_suggestion() -> None:
    assert "build list" in World().run("bild", "list").err
    assert "image explain" in World().run("image").err


@pytest.mark.parametrize("words", [("list",), ("delete", "1"), ("hold", "1"), ("request-list",)])
def test_nodepools_commands_about_servers_are_sent_to_the_launcher(words: tuple[str, ...]) -> None:
    done = World().run(*words)
    assert done.code == 2 and "nodepool-launcher" in done.err and "Did you mean" not in done.err


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["{} --help", "{} -h", "help {}"])
def test_every_command_has_help(name: str, form: str) -> None:
    shown = World().run(*form.format(name).split())
    assert (shown.code, shown.err) == (0, "")
    assert f"usage: imagepool {name}" in shown.out
    entry = next(e for e in COMMANDS if e.name == name)
    assert f"\n{entry.summary}\n" in shown.out


@pytest.mark.parametrize("argv", [[], ["help"], ["--help"], ["-h"]])
def test_imagepool_alone_shows_help_with_every_command(argv: list[str]) -> None:
    shown = World().run(*argv)
    assert (shown.code, shown.err) == (0, "")
    assert all(re.search(rf"^  {name}  ", shown.out, re.MULTILINE) for name in NAMES)


@pytest.mark.parametrize("argv", [["help", "image"], ["image", "--help"]])
def test_a_group_shows_its_commands(argv: list[str]) -> None:
    shown = World().run(*argv)
    assert shown.code == 0 and "image explain" in shown.out and "build list" not in shown.out


def test_the_version_is_shown() -> None:
    assert World().run("--version") == Result(0, f"imagepool {__version__}\n", "")


@pytest.mark.parametrize("name", NAMES)
def test_every_command_is_documented(name: str) -> None:
    assert f"imagepool {name}" in DOCUMENTATION.read_text()


def test_every_option_is_documented() -> None:
    text = DOCUMENTATION.read_text()
    shown = "".join(World().run(*name.split(), "--help").out for name in [*NAMES, ""])
    missing = {option for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", shown) if f"{option}" not in text}
    assert not missing


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 5, 70, 130, 141])
def test_every_exit_code_is_documented(code: int) -> None:
    assert re.search(rf"^\| {code} \|", DOCUMENTATION.read_text(), re.MULTILINE)


# -- where the configuration is ------------------------------------------------------------------


def context(environ: Mapping[str, str], **options: Any) -> Context:
    return Context(Parts(environ=environ), **options)


def test_the_configuration_is_that_of_the_option_then_the_environment_then_the_default() -> None:
    named = {"IMAGEPOOL_CONFIG": "/a.yaml", "IMAGEPOOL_SECURE": "/s.conf"}
    assert context(named, config_path=Path("/b.yaml")).config_path == Path("/b.yaml")
    assert context(named).config_path == Path("/a.yaml")
    assert context({}).config_path == context({"IMAGEPOOL_CONFIG": ""}).config_path
    assert context({}).config_path == Path("/etc/imagepool/imagepool.yaml")
    assert (context(named).secure, context({}).secure) == (Path("/s.conf"), None)


@pytest.mark.parametrize(
    "argv",
    [
        ["--config", "/b.yaml", "build", "list", "--secure=/s"],
        ["build", "list", "--config=/b.yaml", "--secure", "/s"],
    ],
    ids=["before", "after"],
)
def test_global_options_may_stand_on_either_side_of_the_command(argv: list[str]) -> None:
    asked: list[tuple[Path, Path | None]] = []
    world = World()

    def load(path: Path, secure: Path | None, *_: object) -> Config:
        asked.append((path, secure))
        return world.config

    parts = Parts(load=load, open_store=world.parts().open_store, environ={})
    with redirect_stdout(io.StringIO()):
        assert main(argv, parts=parts) == 0
    assert asked == [(Path("/b.yaml"), Path("/s"))]


def test_without_a_zookeeper_to_be_found_that_is_what_is_said() -> None:
    world = World()
    done = World.run(_without_store(world), "build", "list")
    assert done.code == 5 and "imagepool run" in done.err


def _without_store(world: World) -> World:
    parts: Callable[[], Parts] = lambda: Parts(load=world.parts().load, environ={})  # noqa: E731
    alone = World(config=world.config)
    alone.parts = parts  # type: ignore[method-assign]
    return alone


def test_a_zookeeper_that_does_not_answer_is_5() -> None:
    world = World()
    world.store.disconnect()

    done = Unreachable(store=world.store).run("build", "list")
    assert done.code == 5 and "ZooKeeper" in done.err


class Unreachable(World):
    """A world whose store is the very one of the test, cut off."""

    def parts(self) -> Parts:
        basic = super().parts()
        return Parts(load=basic.load, open_store=lambda *_: self.store, now=basic.now, environ={})


def test_who_asks_is_the_person_behind_sudo() -> None:
    assert context({"SUDO_USER": "ann"}).who().startswith("ann@")
    assert re.fullmatch(r"[^@]+@[^@]+", context({}).who())


def test_a_list_does_not_wait_for_openstacksdk() -> None:
    script = (
        "import sys\n"
        "from tests.unit.cli_world import World\n"
        "assert World().run('build', 'list').code == 0\n"
        "print([name for name in ('openstack', 'keystoneauth1') if name in sys.modules])\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"


# -- logging ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "heard"),
    [
        ((), ["warning"]),
        (("-q",), []),
        (("-v",), ["own", "info", "warning"]),
        (("-vv",), ["own", "debug", "info", "warning"]),
    ],
)
def test_as_much_is_logged_as_was_asked_for(options: tuple[str, ...], heard: list[str]) -> None:
    world = Talking()
    done = world.run(*options, "build", "list")
    assert [line.partition(": ")[2] for line in done.err.splitlines()] == heard


class Talking(World):
    """A world that logs while it is used, one logger having a level of its own."""

    def parts(self) -> Parts:
        basic = super().parts()

        def load(*args: Any) -> Config:
            own, log = logging.getLogger("builder.test.own"), logging.getLogger("builder.test")
            own.setLevel(logging.INFO)
            own.info("own")
            log.debug("debug")
            log.info("info")
            log.warning("warning")
            return basic.load(*args)

        return Parts(load=load, open_store=basic.open_store, now=basic.now, environ={})


def test_a_command_leaves_logging_as_it_was() -> None:
    root, connection = logging.getLogger(), logging.getLogger(logs.CONNECTION)
    before = (list(root.handlers), root.level, connection.level)
    World().run("-vv", "build", "list")
    assert (list(root.handlers), root.level, connection.level) == before


@pytest.mark.parametrize(("options", "heard"), [((), False), (("-q",), False), (("-v",), True)])
def test_a_command_is_not_heard_trying_to_connect(options: tuple[str, ...], heard: bool) -> None:
    with socket.socket() as taken:
        # Bound, but nobody listens.
        taken.bind(("127.0.0.1", 0))
        done = Unanswered(port=taken.getsockname()[1]).run(*options, "build", "list")
    assert done.code == 5 and "imagepool: error: " in done.err
    assert ("WARNING" in done.err) == heard


@dataclass
class Unanswered(World):
    """A world with a real store whose server does not answer."""

    port: int = 0

    def parts(self) -> Parts:
        where = ZooKeeper(hosts=f"127.0.0.1:{self.port}", timeout=1.0)
        return replace(
            super().parts(), open_store=lambda *_: ZooKeeperStore(where, watch=False), connect_timeout=2.0
        )


@pytest.fixture
def daemon_log() -> Iterator[Callable[[], str]]:
    """What the daemon has logged so far."""
    stream = io.StringIO()
    with logs.to_stderr(stream, verbose=0, quiet=False):
        logs.for_the_daemon(verbose=0, quiet=False)
        yield stream.getvalue


def test_the_daemon_says_how_it_connects(daemon_log: Callable[[], str]) -> None:
    logging.getLogger(logs.CONNECTION).info("connected")
    assert daemon_log().endswith("connected\n")


def test_nothing_in_the_daemons_log_acts_on_a_terminal_or_looks_like_a_line(
    daemon_log: Callable[[], str],
) -> None:
    logging.getLogger("builder.test").warning("%s", "evil \x1b[2J\n2026-01-01 all is well")
    assert daemon_log().count("\n") == 1 and "\x1b" not in daemon_log() and "\\x1b[2J\\n" in daemon_log()


def test_no_credentials_of_a_url_are_logged(daemon_log: Callable[[], str]) -> None:
    log = logging.getLogger("builder.test")
    log.warning("can't reach %s", "https://me:sesame@mirror.example/debian")
    try:
        raise OSError("no https://me:sesame@mirror.example/ \x1b[2J")
    except OSError:
        log.exception("failed")
    assert "sesame" not in daemon_log() and "\x1b" not in daemon_log()
    assert "https://********@mirror.example/debian" in daemon_log() and "Traceback" in daemon_log()
