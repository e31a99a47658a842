"""Child processes: what they print and how they end, also when they don't want to."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from builder.errors import ToolMissingError
from builder.process import child
from builder.process.child import LINE_LIMIT, Child, attached, find_tool, run, wait_for

PATIENCE = 15.0


class Running:
    """A child and the lines it printed so far."""

    def __init__(self, argv: Sequence[str], cwd: Path, order: bytes | None = None) -> None:
        self.lines: list[str] = []
        self.child = Child(argv, env={"PATH": os.defpath}, cwd=cwd, on_line=self.lines.append, order=order)

    def until(self, line: str) -> None:
        """Wait until it has printed a line."""
        assert wait_for(lambda: line in self.lines, timeout=PATIENCE, interval=0.01), self.lines


Shell = Callable[[str], Running]


@pytest.fixture
def started() -> Iterator[list[Running]]:
    """Children to be stopped after the test."""
    children: list[Running] = []
    yield children
    for each in children:
        each.child.stop(grace=0.1)


@pytest.fixture
def sh(started: list[Running], tmp_path: Path) -> Shell:
    """Starts a shell script."""

    def start(script: str) -> Running:
        started.append(Running(["sh", "-c", script], tmp_path))
        return started[-1]

    return start


def gone(pid: int) -> bool:
    """Whether a process has ended, waited for or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def open_files() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


class TestRun:
    def test_what_it_printed_and_its_code_come_back(self, tmp_path: Path) -> None:
        done = run(
            ["sh", "-c", 'pwd; echo "$A"; printf "\\377" >&2; exit 3'],
            timeout=PATIENCE,
            env={"A": "b"},
            cwd=tmp_path,
        )
        assert (done.code, done.stdout, done.stderr) == (3, f"{tmp_path}\nb\n", "\ufffd")
        assert done.argv[0] == "sh"

    def test_a_death_by_signal_is_a_negative_code(self) -> None:
        assert run(["sh", "-c", "kill -9 $$"], timeout=PATIENCE).code == -9

    def test_it_reads_nothing_of_ours(self) -> None:
        assert run(["cat"], timeout=PATIENCE).stdout == ""

    def test_a_timeout_ends_it_with_all_it_started(self, tmp_path: Path) -> None:
        began = time.monotonic()
        with pytest.raises(TimeoutError, match="sh did not end within 1 s"):
            run(["sh", "-c", "sleep 300 & echo $! > pid; wait"], timeout=1.0, cwd=tmp_path)
        assert time.monotonic() - began < PATIENCE
        pid = int((tmp_path / "pid").read_text())
        assert wait_for(lambda: gone(pid), timeout=PATIENCE)

    def test_one_that_holds_on_to_our_pipes_from_elsewhere_is_not_waited_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(child, "_LET_GO", 0.2)
        with pytest.raises(TimeoutError, match="sh did not end within 1 s"):
            run(["sh", "-c", "setsid sleep 300 & echo $! > pid; wait"], timeout=1.0, cwd=tmp_path)
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)

    def test_a_program_that_is_missing_is_named(self) -> None:
        with pytest.raises(ToolMissingError, match="no-such-program is not installed"):
            run(["no-such-program"], timeout=PATIENCE)


class TestFindTool:
    def test_it_is_found_on_the_path_and_beside_this_python(self, tmp_path: Path) -> None:
        tool = tmp_path / "tool"
        tool.write_text("#!/bin/sh\n")
        tool.chmod(0o755)
        assert find_tool("tool", path=str(tmp_path)) == str(tool)
        name = Path(sys.executable).name
        assert find_tool(name, path=str(tmp_path)) == str(Path(sys.executable).absolute())

    def test_a_missing_one_says_what_to_install(self) -> None:
        with pytest.raises(ToolMissingError) as caught:
            find_tool("no-such-tool", package="some-package")
        assert "no-such-tool" in caught.value.message
        assert caught.value.hint == "Install the package some-package."

    def test_without_a_package_the_hint_is_the_path(self) -> None:
        with pytest.raises(ToolMissingError) as caught:
            find_tool("no-such-tool")
        assert "PATH" in caught.value.hint


class TestChild:
    def test_its_lines_and_its_code(self, sh: Shell) -> None:
        here = sh("echo one; echo two >&2; printf three; exit 5")
        assert here.child.wait() == 5
        assert here.lines == ["one", "two", "three"]
        assert not here.child.running

    def test_the_last_words_of_one_that_dies_are_heard(self, sh: Shell) -> None:
        here = sh("echo last words; kill -9 $$")
        assert here.child.wait() == -9
        assert here.lines == ["last words"]

    def test_waiting_ends_in_time(self, sh: Shell) -> None:
        here = sh("exec sleep 300")
        assert here.child.wait(0.05) is None
        assert here.child.running

    def test_a_line_without_an_end_comes_in_pieces(self, sh: Shell) -> None:
        here = sh(f"head -c {2 * LINE_LIMIT + 7} /dev/zero | tr '\\\\0' x")
        assert here.child.wait() == 0
        assert [len(line) for line in here.lines] == [LINE_LIMIT, LINE_LIMIT, 7]

    def test_stopping_ends_it_politely(self, sh: Shell) -> None:
        here = sh("trap 'echo asked; exit 7' TERM; echo ready; while :; do sleep 0.05; done")
        here.until("ready")
        assert here.child.stop(grace=PATIENCE) == 7
        assert here.lines[-1] == "asked"

    def test_one_that_does_not_obey_is_killed(self, sh: Shell) -> None:
        here = sh("trap '' TERM; echo ready; while :; do sleep 0.05; done")
        here.until("ready")
        assert here.child.stop(grace=0.2) == -signal.SIGKILL

    def test_what_it_started_ends_too_even_if_it_does_not_obey(self, sh: Shell) -> None:
        here = sh("(trap '' TERM; echo ready; while :; do sleep 0.05; done) & echo $!; wait")
        here.until("ready")
        assert wait_for(lambda: any(map(str.isdigit, here.lines)), timeout=PATIENCE)
        pid = int(next(filter(str.isdigit, here.lines)))
        assert not gone(pid)
        here.child.stop(grace=PATIENCE)
        assert wait_for(lambda: gone(pid), timeout=PATIENCE)

    def test_one_that_has_ended_is_never_signalled(self, sh: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
        here = sh("exit 4")
        here.child.wait()

        def signalled(group: int, number: int) -> None:
            pytest.fail(f"signal {number} to group {group}, which may be another program's by now")

        monkeypatch.setattr(os, "killpg", signalled)
        assert here.child.stop(grace=1.0) == 4
        assert here.child.stop(grace=1.0) == 4

    def test_a_program_that_is_missing_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ToolMissingError, match="no-such-program"):
            Running(["no-such-program"], tmp_path)


#: Reads its order line by line, and tells of it; ends well when asked to, badly when left alone.
OBEDIENT = """
import sys
for line in sys.stdin:
    print("got", len(line), line[:4].strip(), flush=True)
    if line == "end\\n":
        sys.exit(7)
print("alone", flush=True)
sys.exit(8)
"""


class TestChildWithAnOrder:
    """It can't be signalled, where it is root's and we are not: it obeys a pipe."""

    @pytest.fixture
    def obedient(self, started: list[Running], tmp_path: Path) -> Callable[[bytes], Running]:
        def start(order: bytes) -> Running:
            started.append(Running([sys.executable, "-c", OBEDIENT], tmp_path, order))
            return started[-1]

        return start

    def test_it_reads_the_order_and_goes_on_until_asked_to_end(
        self, obedient: Callable[[bytes], Running]
    ) -> None:
        here = obedient(b"go\n")
        here.until("got 3 go")
        assert here.child.running
        assert here.child.stop(grace=PATIENCE) == 7
        assert here.lines == ["got 3 go", "got 4 end"]

    def test_an_order_may_be_longer_than_what_a_pipe_holds(
        self, obedient: Callable[[bytes], Running]
    ) -> None:
        here = obedient(b"x" * 300_000 + b"\n")
        here.until("got 300001 xxxx")

    def test_one_that_does_not_end_when_asked_is_left_alone(
        self, sh: Shell, started: list[Running], tmp_path: Path
    ) -> None:
        script = "read order; read end; echo $end; cat; echo alone; exit 9"
        started.append(Running(["sh", "-c", script], tmp_path, b"go\n"))
        assert started[-1].child.stop(grace=0.2) == 9
        assert started[-1].lines == ["end", "alone"]

    def test_one_that_does_not_even_end_alone_is_killed_if_we_may(
        self, started: list[Running], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(child, "_LET_GO", 0.2)
        started.append(Running(["sleep", "300"], tmp_path, b"go\n"))
        assert started[-1].child.stop(grace=0.2) == -signal.SIGKILL

    def test_one_that_ended_before_it_read_its_order_is_no_trouble(
        self, started: list[Running], tmp_path: Path
    ) -> None:
        started.append(Running(["false"], tmp_path, b"x" * 300_000))
        assert started[-1].child.wait(PATIENCE) == 1

    def test_its_pipe_is_closed_with_it(self, obedient: Callable[[bytes], Running]) -> None:
        before = open_files()
        here = obedient(b"end\n")
        assert here.child.wait(PATIENCE) == 7
        assert open_files() == before

    def test_a_program_that_is_missing_leaves_no_pipe(self, tmp_path: Path) -> None:
        before = open_files()
        with pytest.raises(ToolMissingError):
            Running(["no-such-program"], tmp_path, b"go\n")
        assert open_files() == before


class TestWaitFor:
    def test_it_waits_for_what_comes(self) -> None:
        event = threading.Event()
        timer = threading.Timer(0.05, event.set)
        timer.start()
        assert wait_for(event.is_set, timeout=PATIENCE, interval=0.01)
        timer.join()

    def test_it_gives_up_in_time(self) -> None:
        began = time.monotonic()
        assert not wait_for(lambda: False, timeout=0.1, interval=0.01)
        assert 0.1 <= time.monotonic() - began < PATIENCE

    def test_it_looks_at_least_once(self) -> None:
        assert wait_for(lambda: True, timeout=0.0)


def test_one_that_we_may_not_kill_is_not_waited_for_for_ever(
    sh: Shell, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    running = sh("echo here; sleep 300")
    running.until("here")
    with monkeypatch.context() as patched:
        patched.setattr(child, "_GONE", 0.2)
        # As the kernel answers who signals what has become another user's, behind sudo.
        patched.setattr(child, "_signal_group", lambda group, number: None)
        began = time.monotonic()
        assert running.child.stop(grace=0.1) == -signal.SIGKILL
        assert time.monotonic() - began < PATIENCE
    assert "can't be killed" in caplog.text


def test_what_left_its_group_keeps_neither_a_thread_nor_a_descriptor_of_ours(
    sh: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "_LAST_WORDS", 0.2)
    before, threads = open_files(), threading.active_count()
    running = sh("setsid sh -c 'echo $$ > pid; while sleep 0.05; do echo more; done' & sleep 0.3; exit 3")
    try:
        assert running.child.wait() == 3
        assert wait_for(lambda: threading.active_count() == threads, timeout=PATIENCE)
        assert open_files() == before
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_a_tool_that_prints_without_end_is_ended_before_it_fills_our_memory() -> None:
    with pytest.raises(OSError, match="printed more than 1048576 bytes"):
        run(["yes"], timeout=60, limit=1 << 20)
    assert run(["echo", "enough"], timeout=60, limit=1 << 20).stdout == "enough\n"


def test_a_program_at_our_terminal_has_our_streams(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert attached(["sh", "-c", "echo here; exit 3"]) == 3
    assert capfd.readouterr().out == "here\n"
    with pytest.raises(ToolMissingError, match="no-such-program"):
        attached(["no-such-program"])
