"""tools/build-image: one build by hand, from the same configuration and with the same engine as the daemon's.

Only disk-image-create is a stand-in. The tool's Python is run as the tool runs it, but for installing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from builder.process.child import wait_for
from tests.e2e.machine import left_of
from tests.functional.installation import FAKE_DIB

PROJECT = Path(__file__).resolve().parents[2]
TOOL = PROJECT / "tools" / "build-image"
DEADLINE = 60.0
KEEP_TREE = PROJECT / "tools" / "lib" / "build_image" / "keep-tree"
Result = subprocess.CompletedProcess[str]


class Desk:
    """A developer's desk: a configuration with two platforms, and an output directory."""

    def __init__(self, root: Path) -> None:
        self.output = root / "output"
        self.control = root / "control"
        self.control.mkdir()
        self.config = root / "imagepool.yaml"
        platforms = [
            {"name": name, "distribution": "debian", "release": "bookworm", "architecture": "amd64"}
            for name in ("plain", "twice")
        ]
        recipe = {
            "dib-cmd": str(FAKE_DIB),
            "elements": ["fake", "vm"],
            "schedule": "never",
            "env-vars": {"FAKE_DIB_CONTROL": str(self.control), "TOKEN": "hush"},
        }
        images = [
            {"name": name, "platform": platform, **recipe}
            for name, platform in (("one", "plain"), ("two-a", "twice"), ("two-b", "twice"))
        ]
        settings = {"state-dir": "%(IMAGEPOOL_STATE_DIR)", "platforms": platforms, "diskimages": images}
        self.config.write_text(yaml.safe_dump(settings))

    def argv(self, *arguments: str) -> list[str]:
        """The tool's command line, but for what installs."""
        options = ["--config", str(self.config), "--output", str(self.output)]
        before, dashes, after = " ".join(arguments).partition("-- ")
        words = [*options, *before.split(), *([dashes.strip(), *after.split()] if dashes else [])]
        return [sys.executable, "-B", "-P", "-m", "build_image", *words]

    @property
    def environment(self) -> dict[str, str]:
        """As tools/build-image sets it."""
        return {**os.environ, "PYTHONPATH": f"{PROJECT / 'tools' / 'lib'}:{PROJECT}"}

    def run(self, *arguments: str, code: int = 0) -> Result:
        """Run it to its end."""
        done = subprocess.run(
            self.argv(*arguments),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
        return done

    @contextmanager
    def started(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Start it, and end it."""
        process = subprocess.Popen(
            self.argv(*arguments),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def paused_at(self, phase: str) -> None:
        """Wait until the build is there."""
        paused = self.control / "paused"
        assert wait_for(lambda: paused.exists() and paused.read_text() == phase, timeout=DEADLINE)

    def files(self) -> list[str]:
        """What there is of builds."""
        return sorted(path.name for path in self.output.glob("one*"))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_platform_is_built_as_the_daemon_would(desk: Desk) -> None:
    told = desk.run("plain", "--format", "qcow2", "--format", "raw", "--env", "MORE=1", "-- extra")
    for phase in ("preflight", "convert", "publish"):
        assert any(line.split()[:1] == [phase] for line in told.stdout.splitlines()), told.stdout
    link = desk.output / "one.qcow2"
    assert f"{link}: " in told.stdout
    assert subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", link], check=False).returncode == 0
    assert (desk.output / "one.raw").resolve().stat().st_size == 4 << 20
    (run,) = (desk.control / "runs").read_text().splitlines()
    # The same command, the same elements, and what was asked for besides.
    assert '"fake", "vm", "extra", "imagepool-manifest"' in run
    (log,) = (desk.output / "logs").iterdir()
    text = log.read_text()
    assert "imagepool: MORE=1" in text
    # Nothing but the results and what the next build can use.
    assert list((desk.output / "work").iterdir()) == []
    assert left_of(desk.output) == []

    # The next one takes the place of its name, and says what the first still takes.
    again = desk.run("one")
    assert "1 earlier builds of it take" in again.stdout
    assert link.resolve().exists() and len(list(desk.output.glob("one-*.qcow2"))) == 2


def test_what_there_is_and_what_would_be_run_is_shown_and_nothing_made(desk: Desk) -> None:
    listed = desk.run("--list").stdout.splitlines()
    assert [line.split()[:2] for line in listed[1:]] == [
        ["one", "plain"],
        ["two-a", "twice"],
        ["two-b", "twice"],
    ]
    shown = desk.run("one", "--show", "--without", "vm", "-- cloud-user").stdout
    assert shown.splitlines()[-1].endswith("fake cloud-user imagepool-manifest")
    assert "DIB_RELEASE=bookworm" in shown
    assert not desk.output.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["absent"], 3, "There is: one, two-a, two-b"),
        (["two-aa"], 3, "did you mean 'two-a'?"),
        (["twice"], 3, "Name one: two-a, two-b"),
        (["one", "--without", "cloud-init"], 3, "has no element cloud-init"),
        (["one", "--boot", "--last"], 3, "there is no build of one"),
    ],
)
def test_what_the_configuration_has_not_is_told(
    arguments: list[str], code: int, words: str, desk: Desk
) -> None:
    assert words in desk.run(*arguments, code=code).stderr


def test_a_broken_configuration_is_told_with_its_line(desk: Desk) -> None:
    desk.config.write_text("diskimages:\n  - name: x\n    elemnts: [vm]\n")
    assert "imagepool.yaml:3" in desk.run("x", code=2).stderr


def test_a_failure_has_its_reason_and_leaves_nothing(desk: Desk) -> None:
    (desk.control / "fail").write_text(
        "install 100\nE: Failed to fetch http://mirror.example/x.deb  503  Service Unavailable\n"
    )
    done = desk.run("one", code=1)
    assert "reason: mirror: " in done.stdout
    assert "  | E: Failed to fetch" in done.stdout
    assert "log: " in done.stdout and "mirror" in done.stderr
    assert desk.files() == []
    assert left_of(desk.output) == []


def test_with_keep_diskimage_builder_is_told_to_keep_the_tree(desk: Desk, tmp_path: Path) -> None:
    (desk.control / "fail").write_text("install 1\n")
    desk.run("one", "--keep", code=1)
    (log,) = (desk.output / "logs").iterdir()
    text = log.read_text()
    assert "imagepool: break=after-error" in text
    (command,) = [line for line in text.splitlines() if "imagepool: break_cmd=" in line]
    assert str(KEEP_TREE) in command and str(desk.output / "kept") in command

    # And what it is told to run does that.
    tree, kept = tmp_path / "tree", tmp_path / "kept"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc" / "hosts").write_text("here\n")
    (tree / "link").symlink_to("etc/hosts")
    subprocess.run([KEEP_TREE, kept], env={**os.environ, "TMP_MOUNT_PATH": str(tree)}, check=True)
    assert (kept / "link").readlink() == Path("etc/hosts")
    assert (kept / "link").read_text() == "here\n"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_who_interrupts_it_finds_nothing_left(how: signal.Signals, desk: Desk) -> None:
    # What ignores TERM is given some seconds, so that one of these does is enough.
    stubborn = ["ignore-term"] if how is signal.SIGINT else []
    for knob in ("hang.finalise", "loop", "tmp", *stubborn):
        (desk.control / knob).touch()
    with desk.started("one") as process:
        desk.paused_at("finalise")
        process.send_signal(how)
        assert process.wait(DEADLINE) == 130
    assert desk.files() == []
    assert list((desk.output / "work").iterdir()) == []
    assert left_of(desk.output) == []


def test_after_a_kill_the_next_run_cleans_up(desk: Desk) -> None:
    hang = desk.control / "hang.finalise"
    hang.touch()
    (desk.control / "loop").touch()
    with desk.started("one") as process:
        desk.paused_at("finalise")
        process.kill()
        process.wait(DEADLINE)
    assert list((desk.output / "work").iterdir()) != []
    # No process outlives it, but a loop device does.
    wait_for(
        lambda: not [each for each in left_of(desk.output) if each.startswith("process")], timeout=DEADLINE
    )
    hang.unlink()
    (desk.control / "loop").unlink()
    (desk.control / "paused").unlink()
    (desk.output / "boot" / "guest-old").mkdir()
    desk.run("one")
    assert list((desk.output / "work").iterdir()) == list((desk.output / "boot").iterdir()) == []
    assert left_of(desk.output) == []


def test_one_works_in_an_output_directory_at_a_time(desk: Desk) -> None:
    (desk.control / "hang.install").touch()
    with desk.started("one") as process:
        desk.paused_at("install")
        refused = desk.run("two-a", code=4)
        assert "another build works in" in refused.stderr
        process.terminate()
        assert process.wait(DEADLINE) == 130


def test_ctrl_c_ends_a_boot_that_nobody_can_log_in_to(desk: Desk) -> None:
    desk.run("one")
    with desk.started("one", "--boot", "--last", "--firmware", "bios") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("booting (")
        # It has no boot loader, and says so for ever.
        console = desk.output / "boot" / "console.log"
        assert wait_for(console.exists, timeout=DEADLINE)
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE) == 130
    assert [path.name for path in (desk.output / "boot").iterdir()] == ["console.log"]
    assert left_of(desk.output) == []


def test_wrong_usage_and_help_come_before_anything_is_installed(tmp_path: Path) -> None:
    # A clone in which nothing is installed, and nothing can be.
    clone = tmp_path / "clone"
    (clone / "tools").mkdir(parents=True)
    (clone / "tools" / "build-image").symlink_to(TOOL)
    (clone / "tools" / "lib").symlink_to(PROJECT / "tools" / "lib")
    for arguments, code, words in (
        (["--help"], 0, "tools/build-image debian-trixie --check"),
        (["--nonsense"], 2, "unrecognized arguments: --nonsense"),
        (["one", "--user", "me"], 2, "--boot and --check"),
        (["one", "--config", "absent.yaml"], 2, "absent.yaml"),
    ):
        done = subprocess.run(
            [clone / "tools" / "build-image", *arguments],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert words in (done.stdout if code == 0 else done.stderr)
        assert not (clone / ".venv").exists()
