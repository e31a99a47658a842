"""The post-upload-hook as a real program: what it gets, what is kept of it, and how it ends."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from builder.errors import ActionFailedError
from builder.model import Failure, FailureClass
from builder.process.child import wait_for
from builder.workers import hook

LIMIT = 30.0


def go_on() -> Failure | None:
    return None


def script(tmp_path: Path, text: str, *, mode: int = 0o755, shebang: str = "#!/bin/sh\n") -> Path:
    file = tmp_path / "hook"
    file.write_text(shebang + text)
    file.chmod(mode)
    return file


def failure(caught: pytest.ExceptionInfo[ActionFailedError]) -> Failure:
    assert caught.value.failure is not None
    return caught.value.failure


def run(file: Path, *arguments: str, timeout: float = LIMIT) -> tuple[str, ...]:
    return hook.run(file, arguments, cwd=file.parent, timeout=timeout, stop=go_on)


def test_it_gets_its_arguments_in_nodepool_s_order_and_its_words_are_kept(tmp_path: Path) -> None:
    file = script(tmp_path, 'echo "$1|$2|$3"; echo complaint >&2; pwd')
    assert run(file, "one", "id", "/a file") == ("one|id|/a file", "complaint", str(tmp_path))


def test_what_stands_before_the_at_of_a_url_is_not_kept(tmp_path: Path) -> None:
    file = script(tmp_path, "echo asked https://ci:hush@images.example/x; exit 3")
    with pytest.raises(ActionFailedError) as caught:
        run(file)
    assert failure(caught).lines == ("asked https://********@images.example/x",)


def test_of_a_talkative_hook_the_last_words_are_kept(tmp_path: Path) -> None:
    file = script(
        tmp_path, "for i in $(seq 1000); do echo line $i; done; head -c 5000 /dev/zero | tr '\\0' x"
    )
    kept = run(file)
    assert len(kept) == hook.LINES and kept[-2] == "line 1000" and len(kept[-1]) == hook.LINE


@pytest.mark.parametrize("code", [1, 77])
def test_an_exit_code_is_a_reason(tmp_path: Path, code: int) -> None:
    with pytest.raises(ActionFailedError) as caught:
        run(script(tmp_path, f"echo why; exit {code}"))
    reason = failure(caught)
    assert (reason.failure_class, reason.exit_code, reason.lines) == (FailureClass.HOOK, code, ("why",))
    assert (reason.step, reason.phase) == ("post-upload-hook", "hook")


def test_a_hook_that_is_killed_has_failed(tmp_path: Path) -> None:
    with pytest.raises(ActionFailedError) as caught:
        run(script(tmp_path, "kill -9 $$"))
    assert failure(caught).exit_code == -9


@pytest.mark.parametrize("case", ["missing", "not executable", "a directory"])
def test_a_hook_that_can_not_be_run_is_named(tmp_path: Path, case: str) -> None:
    file = {
        "missing": lambda: tmp_path / "none",
        "not executable": lambda: script(tmp_path, "true", mode=0o644),
        "a directory": lambda: tmp_path,
    }[case]()
    with pytest.raises(ActionFailedError) as caught:
        run(file)
    assert failure(caught).failure_class is FailureClass.TOOL and str(file) in failure(caught).message


def test_after_its_time_it_is_killed_with_all_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    file = script(tmp_path, f"trap '' TERM; sleep 600 & echo $$ $! > {pids}; echo begun; wait; wait")
    begun = time.monotonic()
    with pytest.raises(ActionFailedError) as caught:
        run(file, timeout=1.0)
    assert time.monotonic() - begun < 1.0 + hook.GRACE + 5
    assert failure(caught).failure_class is FailureClass.TIMEOUT and failure(caught).lines == ("begun",)
    assert not any(alive(int(pid)) for pid in pids.read_text().split())


@pytest.mark.parametrize("code", [0, 1])
def test_what_it_leaves_running_does_not_outlive_it(tmp_path: Path, code: int) -> None:
    pid = tmp_path / "pid"
    file = script(tmp_path, f"sleep 600 > /dev/null 2>&1 & echo $! > {pid}; exit {code}")
    with suppress(ActionFailedError):
        run(file)
    assert wait_for(lambda: not alive(int(pid.read_text())), timeout=LIMIT)


def test_a_wish_to_stop_ends_it_within_seconds(tmp_path: Path) -> None:
    begun, wish = tmp_path / "begun", Failure(failure_class=FailureClass.CANCELLED, message="enough")
    file = script(tmp_path, f"echo $$ > {begun}; sleep 600")
    with pytest.raises(ActionFailedError) as caught:
        hook.run(file, (), cwd=tmp_path, timeout=LIMIT, stop=lambda: wish if begun.exists() else None)
    assert failure(caught) == wish
    assert not alive(int(begun.read_text()))


def test_it_sees_nothing_of_our_secrets(tmp_path: Path) -> None:
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
        "OS_CLIENT_CONFIG_FILE": "/etc/openstack/clouds.yaml",
        "OS_PASSWORD": "hush",
        "ZUUL_TOKEN": "hush",
        "https_proxy": "http://user:hush@proxy.example:3128",
        "http_proxy": "http://proxy.example:3128",
    }
    file = script(tmp_path, "env")
    printed = hook.run(file, (), cwd=tmp_path, timeout=LIMIT, stop=go_on, environ=environ)
    names = {line.partition("=")[0] for line in printed}
    assert {"PATH", "HOME", "LC_ALL", "OS_CLIENT_CONFIG_FILE", "http_proxy"} <= names
    assert not any("hush" in line for line in printed)


def test_it_has_nothing_to_read_and_so_never_waits_for_an_answer(tmp_path: Path) -> None:
    assert run(script(tmp_path, "read answer; echo got:$answer")) == ("got:",)


def test_several_run_beside_each_other(tmp_path: Path) -> None:
    """Each only ends when the other has begun."""
    results: dict[str, tuple[str, ...]] = {}

    def one(name: str, other: str) -> None:
        home = tmp_path / name
        home.mkdir()
        file = script(
            home,
            f"touch {tmp_path}/{name}.ran\n"
            f"while [ ! -e {tmp_path}/{other}.ran ]; do sleep 0.05; done\necho {name}",
        )
        results[name] = run(file)

    threads = [threading.Thread(target=one, args=pair) for pair in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert results == {"a": ("a",), "b": ("b",)}


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
