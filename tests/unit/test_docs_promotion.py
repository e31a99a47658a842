"""The check that docs/promotion.md shows, with a cloud that is a directory: what it says and leaves there."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.errors import ActionFailedError
from builder.model import Failure, FailureClass
from builder.workers import hook

DOCS = (Path(__file__).parents[2] / "docs" / "promotion.md").read_text()
BUILD = "5b1e" * 8
#: A server is a file that is called as its id, and has its name in it.
OPENSTACK = """#!/bin/sh
cd "{root}/servers" || exit 1
for last; do :; done
case "$2" in
list) grep -lx -- "$4" * 2> /dev/null ;;
create) test ! -e ../full || {{ echo "no quota" >&2; exit 1; }}; echo "$last" > new; echo new ;;
show) test ! -e ../mute && test -e "$3" && echo '{{"addresses": {{"ci": ["10.0.0.5"]}}}}' ;;
delete) rm "$last" ;;
esac
"""
#: Time passes by itself, and quickly.
DATE = """#!/bin/sh
now=$(($(cat "{root}/now" 2> /dev/null || echo 0) + 200))
echo $now | tee "{root}/now"
"""
PROGRAMS = {"openstack": OPENSTACK, "date": DATE, "sleep": "#!/bin/sh\n"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A cloud in which somebody else has a server."""
    for name in ("programs", "servers"):
        (tmp_path / name).mkdir()
    for name, text in PROGRAMS.items():
        install(tmp_path, name, text.format(root=tmp_path))
    (tmp_path / "servers" / "theirs").write_text("check-of-theirs\n")
    return tmp_path


def install(root: Path, name: str, text: str) -> None:
    file = root / "programs" / name
    file.write_text(text)
    file.chmod(0o755)


def answers(root: Path, text: str) -> None:
    """What becomes of a login."""
    install(root, "ssh", f"#!/bin/sh\n{text}\n")


def checked(root: Path, stop: Callable[[], Failure | None] = lambda: None) -> tuple[int | None, str]:
    """How the check ended, and its last words."""
    (shown,) = re.findall(r"```sh\n(.*?)```", DOCS, re.DOTALL)
    install(root, "check", shown)
    try:
        said = hook.run(
            root / "programs" / "check",
            (),
            cwd=root,
            timeout=60,
            stop=stop,
            environ={"PATH": f"{root}/programs:{os.environ['PATH']}"},
            more={"IMAGEPOOL_BUILD": BUILD, "IMAGEPOOL_IMAGE_ID": "1234"},
        )
    except ActionFailedError as error:
        failure = error.failure
        assert isinstance(failure, Failure)
        return failure.exit_code, failure.lines[-1] if failure.lines else failure.message
    return 0, said[-1]


def servers(root: Path) -> set[str]:
    return {file.name for file in (root / "servers").iterdir()}


def test_a_server_that_lets_us_in_is_good_and_goes(root: Path) -> None:
    answers(root, "echo running")
    assert checked(root) == (0, "running")
    assert servers(root) == {"theirs"}


def test_what_an_earlier_check_left_behind_goes_as_well(root: Path) -> None:
    for name in ("old", "older"):
        (root / "servers" / name).write_text(f"check-{BUILD}\n")
    answers(root, "echo running")
    assert checked(root)[0] == 0
    assert servers(root) == {"theirs"}


def test_a_server_that_lets_nobody_in_is_refused_and_goes(root: Path) -> None:
    answers(root, "echo refused >&2; exit 255")
    assert checked(root) == (1, "nobody can log in within 8 minutes, or units failed")
    assert servers(root) == {"theirs"}


@pytest.mark.parametrize("trouble", ["full", "mute"])
def test_a_cloud_that_boots_nothing_can_not_tell(root: Path, trouble: str) -> None:
    (root / trouble).touch()
    answers(root, "echo running")
    assert checked(root)[0] == 75
    assert servers(root) == {"theirs"}


def test_told_to_end_it_takes_its_server_along(root: Path) -> None:
    wish = Failure(failure_class=FailureClass.INTERRUPTED, message="the daemon stops")
    answers(root, f"touch {root}/begun; exec /bin/sleep 60")
    assert checked(root, lambda: wish if (root / "begun").exists() else None) == (None, "the daemon stops")
    assert servers(root) == {"theirs"}
