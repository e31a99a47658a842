"""What is new is written beside each build at its end, and trouble with it ends none."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from builder.dib import engine
from builder.dib.differences import contents, record
from builder.dib.differences.compare import compare
from builder.dib.differences.document import plain
from builder.dib.job import Job
from builder.dib.output import artifacts
from tests.unit.dib_world import BUILD, FINISHED, SMALL, image, job, need_root
from tests.unit.differences_world import NEW, OLD, Made, deb

NEWER = (deb("bash", "5.3"), deb("libc6", "2.36-9"))


def write(made: Made, into: Path, earlier: Iterable[Path]) -> str:
    """The manifest step of a build; its line in the log."""
    into.mkdir()
    made.describe(into)
    name = contents.Name(image=made.image, build_id=made.build_id, started="")
    return record.write(into, name, artifacts=made.artifacts, tools=made.tools, earlier=earlier)


def test_the_newest_earlier_build_that_is_here_is_compared_with(tmp_path: Path) -> None:
    here = [Made(build_id=OLD).publish(tmp_path), Made(build_id="9" * 32, packages=NEWER).publish(tmp_path)]
    elsewhere = artifacts.directory(tmp_path, "debian-bookworm", "8" * 32)
    said = write(Made(build_id=NEW, packages=NEWER), tmp_path / "new.d", [elsewhere, *here])
    assert said == f"since build {OLD}: packages: 1 upgraded"
    told = json.loads((tmp_path / "new.d" / "changes.json").read_text())
    assert (told["schema"], told["summary"]) == (1, "packages: 1 upgraded")
    assert told["before"] == {"image": "debian-bookworm", "build": OLD, "started": FINISHED.isoformat()}
    assert [each["name"] for each in told["packages"]["upgraded"]] == ["bash"]
    assert "`bash amd64`" in (tmp_path / "new.d" / "changes.md").read_text()


def test_the_first_build_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    said = write(Made(), tmp_path / "new.d", [tmp_path / "gone.d"])
    assert "no earlier build" in said
    assert not list(tmp_path.rglob("changes.*"))


def test_an_earlier_build_that_is_damaged_is_told(tmp_path: Path) -> None:
    home = Made().publish(tmp_path)
    (home / "build.json").write_text("{")
    assert "could not be found out" in write(Made(build_id=NEW), tmp_path / "new.d", [home])
    assert not list(tmp_path.rglob("changes.*"))


def test_half_of_it_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Made().publish(tmp_path)
    plain = Path.write_text

    def full(file: Path, data: str, encoding: str | None = None) -> int:
        if file.name == "changes.md":
            plain(file, data[:5], encoding=encoding)
            raise OSError(28, "No space left on device")
        return plain(file, data, encoding=encoding)

    monkeypatch.setattr(Path, "write_text", full)
    assert "No space left" in write(Made(build_id=NEW), tmp_path / "new.d", [home])
    assert not list(tmp_path.rglob("changes.*"))


def run(work: Job) -> Path:
    """Build; the directory of what it left."""
    engine.run(work, on_phase=lambda _: None, stop=lambda: None)
    return artifacts.directory(work.images_dir, work.image.name, work.build_id)


def test_a_build_says_what_is_new_since_the_one_before(tmp_path: Path) -> None:
    need_root()
    control = tmp_path / "control"
    control.mkdir()
    first = job(tmp_path, image(control))
    home = run(first)
    assert (home / "files.json").is_file() and not (home / "changes.json").exists()

    (control / "dpkg").write_text(
        "Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:5.2.15-2+b7\n"
    )
    before = replace(SMALL, id=BUILD, state_time=SMALL.state_time + timedelta(days=1))
    second = replace(first, build_id=NEW, earlier=(before, SMALL), log_path=tmp_path / "logs" / "second.log")
    after = run(second)
    told = json.loads((after / "changes.json").read_text())
    # Whoever compares the two later is told the same.
    assert told == plain(compare(contents.load(home), contents.load(after)))
    assert (told["before"]["build"], told["after"]["build"]) == (BUILD, NEW)
    # The directory that FAKE_DIB_CONTROL names has another file in it.
    assert told["summary"] == "packages: 1 upgraded; 1 environment variable"
    assert told["unknown"] == []
    assert f"imagepool: since build {BUILD}: {told['summary']}" in second.log_path.read_text()

    # A build is none the worse for what is wrong with the one before.
    (home / "build.json").write_text("{")
    third = replace(first, build_id=OLD, earlier=(before,), log_path=tmp_path / "logs" / "third.log")
    assert not (run(third) / "changes.json").exists()
    assert "what is new could not be found out" in third.log_path.read_text()
