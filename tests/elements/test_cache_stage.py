"""What the hooks of cache-git, cache-files and cache-bindep have from cache-stage, whatever they cache."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from pathlib import Path

import pytest

from tests.unit.elements_world import ELEMENTS, copy_hooks, run_parts


class Machine:
    """A building machine, and the hooks of an element that have nothing to cache: they end with an error."""

    def __init__(self, place: Path, element: str) -> None:
        self.place, self.element = place, element
        self.cache = place / "cache" / element
        self.started_in = place / "somewhere"
        for directory in (self.cache, self.started_in, place / "root", place / "hooks"):
            directory.mkdir(parents=True)
        for name in ("cache-stage", element):
            copy_hooks(ELEMENTS / name, place / "hooks")

    def build(self, **environment: str) -> str:
        """Run the hook; what it says."""
        with pytest.raises(AssertionError) as error:
            run_parts(
                self.place / "hooks",
                "extra-data",
                {
                    "PATH": os.environ["PATH"],
                    "DIB_IMAGE_CACHE": str(self.place / "cache"),
                    "DIB_OFFLINE": "1",
                    "DIB_PYTHON_EXEC": sys.executable,
                    "IMAGE_NAME": str(self.place / "image"),
                    "TMP_HOOKS_PATH": str(self.place / "hooks"),
                    "TMP_MOUNT_PATH": str(self.place / "root"),
                    **environment,
                },
                self.started_in,
            )
        return str(error.value)


@pytest.mark.parametrize(
    ("element", "last_words"),
    [
        ("cache-git", "set either DIB_CACHE_GIT_LIST"),
        ("cache-files", "set either DIB_CACHE_FILES_LIST"),
        ("cache-bindep", "there is no bindep in the cache"),
    ],
)
def test_nothing_is_run_that_lies_where_the_build_was_started(
    tmp_path: Path, element: str, last_words: str
) -> None:
    machine = Machine(tmp_path, element)
    for name in ("hashlib", "runpy", "sitecustomize", "yaml"):
        (machine.started_in / f"{name}.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')\n")
    assert last_words in machine.build(PYTHONPATH=str(machine.started_in))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("element", ["cache-git", "cache-files"])
def test_stages_of_killed_builds_go_and_those_of_others_stay(tmp_path: Path, element: str) -> None:
    machine = Machine(tmp_path, element)
    dead, working, beginning = (machine.cache / f"stage-{name}" for name in ("dead", "working", "beginning"))
    for stage in (dead, working, beginning):
        stage.mkdir()
        (stage / "file").touch()
    for stage in (dead, working):
        os.utime(stage, (time.time() - 300,) * 2)
    descriptor = os.open(working, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        machine.build()
    finally:
        os.close(descriptor)
    assert {stage.name for stage in machine.cache.glob("stage-*")} == {working.name, beginning.name}
    assert (working / "file").exists()


@pytest.mark.parametrize("element", ["cache-git", "cache-files"])
@pytest.mark.parametrize("destination", ["opt/x", "/opt/../etc", "/opt/./x", "/opt/x\n/y", "/"])
def test_a_destination_is_a_plain_absolute_path(tmp_path: Path, element: str, destination: str) -> None:
    machine = Machine(tmp_path, element)
    variable = f"DIB_{element.upper().replace('-', '_')}_DESTINATION"
    told = machine.build(**{variable: destination})
    assert f"{element}: ERROR: {variable} is {destination}, but shall be" in told
    assert list(machine.cache.iterdir()) == []
