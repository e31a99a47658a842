"""The log of a build: what is in it, how it grows, and what bounds it."""

from __future__ import annotations

import fcntl
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from builder.config.model import MASK
from builder.dib.logs import log as build_log
from builder.dib.logs.log import LogFile, Output
from builder.dib.logs.masking import Masker
from builder.dib.logs.reasons import Reader
from builder.model import BuildPhase
from builder.process.child import LINE_LIMIT

STAMP = "2026-11-20 12:00:00.000 | "


def noon() -> datetime:
    return datetime(2026, 11, 20, 12, tzinfo=UTC)


def test_the_log_can_be_read_while_it_grows(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "logs" / "a.log", clock=noon)
    log.write("first")
    assert (tmp_path / "logs" / "a.log").read_text() == f"{STAMP}first\n"
    threads = [threading.Thread(target=log.write, args=("x" * 5000,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close("the end")
    lines = (tmp_path / "logs" / "a.log").read_text().splitlines()
    assert lines[-1].endswith(" | the end")
    assert {len(line) for line in lines[1:-1]} == {5000 + len(STAMP)}
    assert log.broken is None


def test_a_log_that_cannot_be_written_ends_nothing() -> None:
    log = LogFile(Path("/dev/full"))
    log.write("lost")
    log.close("lost too")
    assert log.broken is not None


def test_a_log_without_end_keeps_its_beginning_and_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_log, "LAST_PART", 500)
    log = LogFile(tmp_path / "a.log", clock=noon, limit=1000)
    for number in range(1000):
        log.write(f"line {number}")
    grown = (tmp_path / "a.log").stat().st_size
    log.close("the end")

    lines = [line.removeprefix(STAMP) for line in (tmp_path / "a.log").read_text().splitlines()]
    assert grown < 1200
    assert (tmp_path / "a.log").stat().st_size < 2000
    assert lines[:2] == ["line 0", "line 1"]
    assert lines[-3:] == ["line 998", "line 999", "the end"]
    told = [line for line in lines if line.startswith("imagepool: ")]
    assert told[0].startswith("imagepool: this log has reached 1000 bytes")
    kept = sum(line.startswith("line ") for line in lines)
    assert told[1] == f"imagepool: {1000 - kept} lines were left out here"


def test_lines_stay_in_order_where_a_long_one_fills_the_log(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "a.log", clock=noon, limit=1000)
    for line in ("short", "long" * 500, "and short again"):
        log.write(line)
    log.close("the end")
    lines = [line.removeprefix(STAMP) for line in (tmp_path / "a.log").read_text().splitlines()]
    told = "imagepool: this log has reached 1000 bytes; the last lines follow at its end"
    assert lines == ["short", told, "long" * 500, "and short again", "the end"]


def test_a_log_is_locked_while_it_is_written(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "a.log")
    with (tmp_path / "a.log").open() as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        log.close("done")
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def taken(tmp_path: Path, secret: str, *lines: str) -> tuple[list[str], Reader]:
    reader, log = Reader(), LogFile(tmp_path / "a.log", clock=noon)
    output = Output(reader, log, Masker([secret]))
    for line in lines:
        output.take(line)
    log.close("done")
    written = (tmp_path / "a.log").read_text().splitlines()[:-1]
    return [line.removeprefix(STAMP) for line in written], reader


def test_a_secret_that_is_a_word_of_dibs_does_not_hide_where_the_build_is(tmp_path: Path) -> None:
    lines, reader = taken(
        tmp_path,
        "install",
        "2026-11-20 11:59:59.000 | dib-run-parts Running /tmp/in_target.d/install.d/50-x",
        "the password is install",
    )
    assert (reader.phase, reader.step) == (BuildPhase.PACKAGES, "install.d/50-x")
    assert lines[-1] == f"the password is {MASK}"
    assert reader.tail == (f"the password is {MASK}",)


def test_a_secret_cut_by_the_longest_line_is_masked(tmp_path: Path) -> None:
    secret = "open sesame"
    for cut in range(len(secret) + 1):
        whole = "x" * (LINE_LIMIT - cut) + secret + " and more"
        lines, reader = taken(tmp_path, secret, whole[:LINE_LIMIT], whole[LINE_LIMIT:])
        assert "".join(lines) == "x" * (LINE_LIMIT - cut) + f"{MASK} and more"
        assert secret not in "".join(reader.tail)
        (tmp_path / "a.log").unlink()
