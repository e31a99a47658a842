"""Commands that are told events, as real programs: what they get, and how they end."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from builder.notify import command

LIMIT = 30.0
BODY = json.dumps({"text": "img is ready", "lines": ["x" * 1000] * 500})


def script(tmp_path: Path, text: str, *, mode: int = 0o755) -> str:
    file = tmp_path / "tell"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(mode)
    return str(file)


def test_it_reads_the_whole_event_and_its_end(tmp_path: Path) -> None:
    """More than a pipe holds, without a writer that could get stuck."""
    program = script(tmp_path, f'cat > {tmp_path}/got; echo "$1" > {tmp_path}/argument')
    assert command.send([program, "a b"], BODY, timeout=LIMIT) is None
    assert (tmp_path / "got").read_text() == BODY
    assert (tmp_path / "argument").read_text() == "a b\n"


def test_it_need_not_read_anything(tmp_path: Path) -> None:
    assert command.send(["true"], BODY, timeout=LIMIT) is None


def test_an_exit_code_and_the_last_word_are_why_it_was_not_told(tmp_path: Path) -> None:
    program = script(tmp_path, "echo one; echo asked https://ci:hush@hooks.example/x >&2; echo; exit 3")
    why = command.send([program], BODY, timeout=LIMIT)
    assert why == f"{program} ended with 3: asked https://********@hooks.example/x"


def test_of_a_talkative_one_little_is_kept(tmp_path: Path) -> None:
    program = script(tmp_path, "head -c 3000000 /dev/zero | tr '\\0' x; exit 1")
    why = command.send([program], BODY, timeout=LIMIT)
    assert why is not None and len(why) < 400


@pytest.mark.parametrize("case", ["missing", "not executable", "a directory", "not on PATH"])
def test_one_that_can_not_be_run_is_named(tmp_path: Path, case: str) -> None:
    program = {
        "missing": str(tmp_path / "none"),
        "not executable": script(tmp_path, "true", mode=0o644),
        "a directory": str(tmp_path),
        "not on PATH": "no-such-program",
    }[case]
    assert program in (command.send([program], BODY, timeout=LIMIT) or "")


def test_after_its_time_it_is_ended_with_all_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    program = script(tmp_path, f"sleep 600 & echo $$ $! > {pids}; wait; wait")
    begun = time.monotonic()
    assert command.send([program], BODY, timeout=1.0) == f"{program} did not end within 1 s"
    assert time.monotonic() - begun < LIMIT
    assert not any(alive(int(pid)) for pid in pids.read_text().split())


def test_what_it_leaves_running_is_ended(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    program = script(tmp_path, f"sleep 600 > /dev/null 2>&1 & echo $! > {pid}")
    assert command.send([program], BODY, timeout=LIMIT) is None
    deadline = time.monotonic() + LIMIT
    while alive(int(pid.read_text())):
        assert time.monotonic() < deadline, "it still runs"
        time.sleep(0.01)


def test_it_sees_nothing_of_our_secrets(tmp_path: Path) -> None:
    environ = {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C.UTF-8",
        "OS_PASSWORD": "hush",
        "IMAGEPOOL_TOKEN": "hush",
        "https_proxy": "http://user:hush@proxy.example:3128",
    }
    program = script(tmp_path, f"env > {tmp_path}/env")
    assert command.send([program], BODY, timeout=LIMIT, environ=environ) is None
    seen = (tmp_path / "env").read_text()
    assert "LC_ALL" in seen and "hush" not in seen


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
