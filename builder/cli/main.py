"""The `imagepool` command: argv in, exit code out; the one place where errors become messages.

Exit codes: 0 done · 1 it failed · 2 wrong usage or configuration · 3 not found · 4 refused ·
5 something we depend on is not there · 70 a bug · 130 interrupted · 141 nobody reads our output.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Final

from builder.cli import text
from builder.cli.app import Application
from builder.cli.context import Parts
from builder.errors import ConfigError, ImagepoolError

EXIT_INTERNAL: Final = 70  # EX_SOFTWARE of sysexits.h
EXIT_INTERRUPTED: Final = 130  # 128 + SIGINT, as a shell reports it
EXIT_BROKEN_PIPE: Final = 141  # 128 + SIGPIPE


def main(argv: Sequence[str] | None = None, *, parts: Parts | None = None) -> int:
    """Run one command; returns its exit code and never raises.

    `argv` without the program's name, by default this process's; `parts` say how configuration,
    store and clock are reached, by default for real.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    return _guarded(lambda: _run(arguments, parts or Parts(environ=os.environ)), "--debug" in arguments)


def _run(arguments: list[str], parts: Parts) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that knows no umlaut must not turn a message about one into a bug.
            stream.reconfigure(errors="backslashreplace")
    code = Application(parts).run(arguments)
    # A reader that is gone shows here at the latest, not in the interpreter's last breath.
    sys.stdout.flush()
    return code


def _guarded(run: Callable[[], int], debug: bool) -> int:
    try:
        return run()
    except SystemExit as stop:
        # argparse: 0 after --version, 2 after it printed what is wrong.
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except ImagepoolError as error:
        _report(error)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _abandon_stdout()
        return EXIT_BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 - the last place that can turn a bug into a message
        _report_bug(error, debug)
        return EXIT_INTERNAL


def _report(error: ImagepoolError) -> None:
    if isinstance(error, ConfigError) and len(error.problems) > 1:
        _say(f"imagepool: error: the configuration has {len(error.problems)} problems:")
        for problem in error.problems:
            _say(problem)
    else:
        _say(f"imagepool: error: {error.message}")
    if error.hint:
        _say(error.hint)


def _report_bug(error: Exception, debug: bool) -> None:
    if debug:
        traceback.print_exception(error)
    _say(f"imagepool: internal error: {type(error).__name__}: {error}")
    if not debug:
        _say("This is a bug in imagepool. The option --debug shows where.")


def _say(message: str) -> None:
    """Write to stderr, line by line, with nothing in it that acts on a terminal."""
    for line in message.splitlines() or [""]:
        sys.stderr.write(f"{text.visible(line)}\n")


def _abandon_stdout() -> None:
    # The interpreter flushes stdout once more when it ends, and would complain.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
