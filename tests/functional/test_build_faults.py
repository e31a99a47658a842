"""What goes wrong in a build says why on the record itself: no one has to open the log.

All builds here are the real disk-image-create in the real sandbox, with an operating system of a few
programs (tests/elements/tiny-os), so that each takes seconds and no mirror.
"""

from __future__ import annotations

import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from builder.config.model import DiskImage
from builder.dib import engine
from builder.dib.job import Job
from builder.dib.logs import logfiles
from builder.errors import ActionFailedError
from builder.model import Artifact, Build, BuildPhase, BuildState, Failure, FailureClass, ImageFormat
from tests.functional.installation import Installation

ELEMENTS = Path(__file__).parents[1] / "elements"
TINY = ("tiny-os", "block-device-mbr")
#: So small a file system has no room for the usual journal; no base element, which needs packages.
JOURNAL = {"DIB_JOURNAL_SIZE": "4"}
DIB = ("disk-image-create", "-n")
INSTALL = "install.d/50-faulty"
#: Seconds within which a build has ended that somebody cancelled, whatever it was doing: a promise.
CANCELLED_WITHIN = 15.0
#: What is known of such builds: they take next to nothing.
SMALL = Build(
    id=uuid.uuid4().hex,
    image="tiny",
    state=BuildState.READY,
    state_time=datetime(2026, 11, 20, 14, 14, tzinfo=UTC),
    artifacts=tuple(
        Artifact(format=each, size=1 << 20, virtual_size=1 << 20, md5="", sha256="", sha512="")
        for each in (ImageFormat.QCOW2, ImageFormat.RAW)
    ),
    work_bytes=1 << 20,
)


def job(place: Path, scripts: Mapping[str, str] | None = None, **changes: Any) -> Job:
    """A build of the tiny operating system and, if there are scripts, an element of that name."""
    own = place / "elements"
    for name, text in (scripts or {}).items():
        file = own / "faulty" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text if text.startswith("#!") or "/" not in name else f"#!/bin/bash\n{text}")
        file.chmod(0o755)
    own.mkdir(exist_ok=True)
    recipe = DiskImage(
        name="tiny",
        elements=(*TINY, *(["faulty"] if scripts else [])),
        formats=(ImageFormat.QCOW2,),
        dib_cmd=DIB,
        environment={**JOURNAL, **changes.pop("environment", {})},
    )
    return Job(
        image=replace(recipe, **changes),
        build_id=uuid.uuid4().hex,
        installation_id="the-installation",
        state_dir=place / "state",
        images_dir=place / "images",
        work_dir=place / "work",
        cache_dir=place / "cache",
        log_path=place / "logs" / "build.log",
        elements_dirs=(own, ELEMENTS),
        earlier=(SMALL,),
    )


def go_on() -> Failure | None:
    return None


def failure_of(
    work: Job,
    *,
    stop: Callable[[], Failure | None] = go_on,
    on_phase: Callable[[BuildPhase], None] = lambda phase: None,
) -> Failure:
    """Run a build that fails; why, and that nothing of it is left."""
    with pytest.raises(ActionFailedError) as caught:
        engine.run(work, on_phase=on_phase, stop=stop)
    failure = caught.value.failure
    assert failure is not None
    assert list(work.work_dir.iterdir()) == []
    assert len(failure.lines) <= 20
    return failure


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that breaks a build, and what its record says then."""

    failure_class: FailureClass
    message: str  #: a part of it
    phase: BuildPhase = BuildPhase.PACKAGES
    step: str | None = f"faulty/{INSTALL}"
    exit_code: int = 1
    lines: tuple[str, ...] = ()  #: parts of some of them, in this order
    scripts: Mapping[str, str] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)


FAULTS = {
    "a script that ends with 3": Fault(
        scripts={
            INSTALL: "echo Looking for the frobnicator\necho the frobnicator is not there >&2\nexit 3\n"
        },
        failure_class=FailureClass.ELEMENT,
        message=f"the script faulty/{INSTALL} failed: the frobnicator is not there",
        exit_code=3,
        lines=("Looking for the frobnicator", "the frobnicator is not there"),
    ),
    "a script that fails without a word": Fault(
        scripts={INSTALL: "set -eux\ntest -f /etc/no-such-file\n"},
        failure_class=FailureClass.ELEMENT,
        message="failed at: test -f /etc/no-such-file",
        lines=("+ test -f /etc/no-such-file",),
    ),
    "a script with a syntax error": Fault(
        scripts={INSTALL: "if true; then\n"},
        failure_class=FailureClass.ELEMENT,
        message="syntax error: unexpected end of file",
        exit_code=2,
        lines=("50-faulty: line 3: syntax error",),
    ),
    "a command that is not there": Fault(
        scripts={INSTALL: "set -e\nfrobnicate --now\n"},
        failure_class=FailureClass.TOOL,
        message="frobnicate: command not found",
        exit_code=127,
        lines=("50-faulty: line 3: frobnicate: command not found",),
    ),
    "an environment that can't be read": Fault(
        scripts={"environment.d/10-faulty.bash": "export TOKEN=$(cat /no/such/token)\nfalse\n"},
        failure_class=FailureClass.ELEMENT,
        message="faulty/environment.d/10-faulty.bash failed",
        phase=BuildPhase.BOOTSTRAP,
        step="faulty/environment.d/10-faulty.bash",
        lines=("cat: /no/such/token: No such file or directory", "+ false"),
    ),
    "a script that is killed": Fault(
        scripts={INSTALL: "echo Working hard\nkill -KILL $$\n"},
        failure_class=FailureClass.ELEMENT,
        message="was killed, perhaps because memory ran out",
        exit_code=137,
        lines=("Working hard", "Killed"),
    ),
    "an unknown package": Fault(
        scripts={
            "extra-data.d/50-faulty": (
                "set -eu\nplace=$(mktemp -d)\nmkdir -p $place/{lists,etc/sources.list.d,etc/preferences.d}\n"
                "touch $place/status $place/etc/sources.list\n"
                "apt-get -o Dir::Etc=$place/etc -o Dir::State=$place -o Dir::State::status=$place/status"
                " -o Dir::Cache=$place install -y no-such-package\n"
            )
        },
        failure_class=FailureClass.PACKAGE,
        message="E: Unable to locate package no-such-package",
        step="faulty/extra-data.d/50-faulty",
        exit_code=100,
        lines=("E: Unable to locate package no-such-package",),
    ),
    "a repository that does not answer": Fault(
        scripts={"extra-data.d/50-faulty": "git clone -q http://127.0.0.1:9/nothing.git $TMPDIR/nothing\n"},
        failure_class=FailureClass.MIRROR,
        message="unable to access 'http://127.0.0.1:9/nothing.git/'",
        step="faulty/extra-data.d/50-faulty",
        exit_code=128,
        lines=("127.0.0.1",),
    ),
    "an element that is not there": Fault(
        changes={"elements": (*TINY, "no-such-element")},
        failure_class=FailureClass.CONFIG,
        message="Element 'no-such-element' not found",
        phase=BuildPhase.PREFLIGHT,
        step=None,
        lines=("Building elements: tiny-os block-device-mbr no-such-element", "no-such-element"),
    ),
    "two elements that are the same thing": Fault(
        scripts={"element-provides": "operating-system\n"},
        failure_class=FailureClass.CONFIG,
        message="operating-system: already provided by",
        phase=BuildPhase.PREFLIGHT,
        step=None,
        lines=("already provided by",),
    ),
    "two elements with the same hook": Fault(
        scripts={"root.d/10-tiny-os": "true\n"},
        failure_class=FailureClass.CONFIG,
        message="There is a duplicated hook in your elements: /root.d/10-tiny-os (of ",
        phase=BuildPhase.BOOTSTRAP,
        step=None,
        lines=("duplicated hook",),
    ),
    "no operating system": Fault(
        changes={"elements": ("block-device-mbr",)},
        failure_class=FailureClass.CONFIG,
        message="Please include an operating system element",
        phase=BuildPhase.PREFLIGHT,
        step=None,
        lines=("operating system element",),
    ),
    "partitions that make no sense": Fault(
        changes={"environment": {"DIB_BLOCK_DEVICE_CONFIG": "- local_loop: {name: image0"}},
        failure_class=FailureClass.CONFIG,
        message="yaml.parser.ParserError: while parsing a flow mapping",
        phase=BuildPhase.PREFLIGHT,
        step="block-device",
        lines=("ParserError", "expected ',' or '}'"),
    ),
    "partitions larger than the disk": Fault(
        changes={
            "elements": ("tiny-os",),
            "environment": {
                "DIB_BLOCK_DEVICE_CONFIG": (
                    "[{local_loop: {name: image0}}, {partitioning: {base: image0, label: mbr, partitions:"
                    " [{name: root, size: 300%, mkfs: {mount: {mount_point: /}}}]}}]"
                )
            },
        },
        failure_class=FailureClass.BOOTLOADER,
        message="error adding partition",
        phase=BuildPhase.IMAGE,
        step="block-device",
        lines=("Calling [sudo kpartx -av /dev/loop", "error adding partition"),
    ),
    "a file system nobody can make": Fault(
        changes={"environment": {"FS_TYPE": "nonsense"}},
        failure_class=FailureClass.TOOL,
        message="mkfs: failed to execute mkfs.nonsense",
        phase=BuildPhase.IMAGE,
        step="block-device",
        lines=("Calling [sudo mkfs -t nonsense", "mkfs.nonsense"),
    ),
    "a disk too small for its journal": Fault(
        changes={"environment": {"DIB_JOURNAL_SIZE": "512"}},
        failure_class=FailureClass.CONFIG,
        message="the image is too small for its content: Total journal size too big for filesystem.",
        phase=BuildPhase.IMAGE,
        step="block-device",
        lines=("Calling [sudo mkfs -t ext4", "Total journal size too big"),
        scripts={"cleanup.d/50-faulty": "true\n"},
    ),
    "a disk too small for its content": Fault(
        scripts={"install.d/50-faulty": "head -c 40000000 /dev/urandom > /usr/lib/heavy\n"},
        changes={"environment": {"DIB_IMAGE_SIZE": "0.03"}},
        failure_class=FailureClass.CONFIG,
        message="the image is too small for its content: cp: ",
        phase=BuildPhase.IMAGE,
        step="copy",
        lines=("No space left on device",),
    ),
    "a boot loader that can't be installed": Fault(
        scripts={
            "finalise.d/50-faulty": (
                "echo Installing for i386-pc platform.\n"
                'echo "grub-install: error: embedding is not possible, but this is required." >&2\nexit 1\n'
            )
        },
        failure_class=FailureClass.BOOTLOADER,
        message="grub-install: error: embedding is not possible",
        phase=BuildPhase.FINALISE,
        step="faulty/finalise.d/50-faulty",
        lines=("Installing for i386-pc platform.", "grub-install: error"),
    ),
    "a clean-up that fails": Fault(
        scripts={"cleanup.d/50-faulty": "rm $TARGET_ROOT/no-such-file\n"},
        failure_class=FailureClass.ELEMENT,
        message="rm: cannot remove",
        phase=BuildPhase.FINALISE,
        step="faulty/cleanup.d/50-faulty",
        lines=("no-such-file",),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_record_says_why(tmp_path: Path, name: str) -> None:
    fault = FAULTS[name]
    failure = failure_of(job(tmp_path, fault.scripts, **fault.changes))
    assert failure.failure_class is fault.failure_class, failure
    assert fault.message in failure.message
    assert (failure.phase, failure.step, failure.exit_code) == (fault.phase, fault.step, fault.exit_code)
    assert_in_order(fault.lines, failure.lines)
    assert not [line for line in failure.lines if "diskimage_builder/lib/" in line], "dib's own trace"


def assert_in_order(parts: tuple[str, ...], lines: tuple[str, ...]) -> None:
    left = iter(lines)
    for part in parts:
        assert any(part in line for line in left), (part, lines)


# -- mirrors ---------------------------------------------------------------------------------------


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a web server on this machine, and the directory it serves."""
    served = tmp_path / "served"
    served.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(served))

        def log_message(self, *arguments: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/debian", served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def debian_from(place: Path, address: str) -> Job:
    """A build of Debian from a mirror that only the elements know of, without apt's own retries."""
    settings = (
        f"export DIB_DISTRIBUTION_MIRROR={address}\nexport DIB_DEBIAN_SECURITY_MIRROR={address}-security\n"
        "export DIB_MMDEBSTRAP_EXTRA_ARGS='--aptopt=Acquire::Retries=0'\n"
    )
    work = job(place, {"environment.d/05-mirror.bash": settings}, environment={"DIB_RELEASE": "bookworm"})
    return replace(work, image=replace(work.image, elements=("debian-minimal", "block-device-mbr", "faulty")))


def assert_mirror(failure: Failure, *words: str) -> None:
    assert failure.failure_class is FailureClass.MIRROR
    assert failure.phase == BuildPhase.BOOTSTRAP
    assert failure.step == "debootstrap/root.d/08-debootstrap"
    assert failure.exit_code not in (0, None)
    for word in words:
        assert word in failure.message
    assert any(words[0] in line for line in failure.lines)


def test_a_mirror_that_refuses_connections_is_named(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        failure = failure_of(debian_from(tmp_path, f"http://{address}/debian"))
    assert_mirror(failure, address, "Connection refused")


def test_a_mirror_without_the_release_is_named(tmp_path: Path, mirror: tuple[str, Path]) -> None:
    assert_mirror(failure_of(debian_from(tmp_path, mirror[0])), mirror[0], "does not have a Release file")


def test_a_mirror_that_serves_a_login_page_is_named(tmp_path: Path, mirror: tuple[str, Path]) -> None:
    address, served = mirror
    release = served / "debian" / "dists" / "bookworm" / "InRelease"
    release.parent.mkdir(parents=True)
    release.write_text("<html>Please log in</html>\n")
    assert_mirror(failure_of(debian_from(tmp_path, address)), address, "Clearsigned file isn't valid")


def test_a_mirror_whose_name_is_unknown_is_named(tmp_path: Path) -> None:
    failure = failure_of(debian_from(tmp_path, "http://mirror.invalid/debian"))
    assert_mirror(failure, "mirror.invalid", "resolv")


# -- disks -----------------------------------------------------------------------------------------


def fill(directory: Path) -> None:
    """Leave no byte free."""
    with (directory / "filler").open("wb", buffering=0) as stream:
        try:
            while stream.write(bytes(1 << 20)):
                pass
        except OSError:
            return


def test_a_work_disk_that_fills_up_is_told(tmp_path: Path, small_disk: Path) -> None:
    work = job(tmp_path, {INSTALL: "set -e\nhead -c 40000000 /dev/zero > /usr/lib/heavy\n"})
    failure = failure_of(replace(work, work_dir=small_disk / "work"))
    assert failure.failure_class is FailureClass.DISK
    assert "No space left on device" in failure.message
    assert (failure.phase, failure.step) == (BuildPhase.PACKAGES, f"faulty/{INSTALL}")


def test_an_image_that_lost_data_to_a_full_disk_is_never_ready(tmp_path: Path, small_disk: Path) -> None:
    # The tree has room, its copy in the image has not. What is written through a loop device is
    # lost in silence then: cp, umount and disk-image-create itself all say that all is well.
    heavy = "set -e\nhead -c 11000000 /dev/urandom > /usr/lib/heavy\n"
    work = job(tmp_path, {INSTALL: heavy}, formats=(ImageFormat.RAW,))
    failure = failure_of(replace(work, work_dir=small_disk / "work"))
    assert failure.failure_class is FailureClass.DISK
    assert "error syncing" in failure.message
    assert (failure.phase, failure.step) == (BuildPhase.FINALISE, "block-device")


@pytest.mark.parametrize("phase", [BuildPhase.CONVERT, BuildPhase.PUBLISH])
def test_a_disk_that_is_full_afterwards_is_told(tmp_path: Path, small_disk: Path, phase: BuildPhase) -> None:
    (small_disk / "disk").mkdir()
    work = job(tmp_path, formats=(ImageFormat.QCOW2, ImageFormat.RAW))
    where = "work_dir" if phase is BuildPhase.CONVERT else "images_dir"
    work = replace(work, **{where: small_disk / "disk"})

    def full(entered: BuildPhase) -> None:
        if entered is phase:
            fill(small_disk)

    failure = failure_of(work, on_phase=full)
    assert failure.failure_class is FailureClass.DISK
    assert "No space left" in "\n".join((failure.message.capitalize(), *failure.lines))
    assert failure.phase == phase
    assert not work.images_dir.exists() or list(work.images_dir.glob("tiny*")) == []


# -- what ends a build from outside ----------------------------------------------------------------


def test_a_build_that_takes_too_long_says_where_it_hung(tmp_path: Path) -> None:
    hangs = {"root.d/05-faulty": "echo Waiting for Godot\nsleep 600\n"}
    failure = failure_of(job(tmp_path, hangs, build_timeout=timedelta(seconds=15)))
    assert failure.failure_class is FailureClass.TIMEOUT
    assert "took longer than its 15 s" in failure.message
    assert (failure.phase, failure.step) == (BuildPhase.BOOTSTRAP, "faulty/root.d/05-faulty")
    assert failure.lines[0] == "Waiting for Godot"


def test_a_cancelled_build_says_by_whom_and_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "GRACE", 1.0)
    ignores = "trap '' TERM\necho Deaf to the world\ntouch \"$REACHED\"\nwhile :; do sleep 1; done\n"
    reached = tmp_path / "reached"
    wish = Failure(failure_class=FailureClass.CANCELLED, message="cancelled by me")
    work = job(tmp_path, {"root.d/05-faulty": ignores}, environment={"REACHED": str(reached)})

    began: list[float] = []

    def stop() -> Failure | None:
        if reached.exists():
            began.append(time.monotonic())
            return wish
        return None

    failure = failure_of(work, stop=stop)
    assert time.monotonic() - began[0] < CANCELLED_WITHIN
    assert (failure.failure_class, failure.message) == (FailureClass.CANCELLED, "cancelled by me")
    assert (failure.phase, failure.step) == (BuildPhase.BOOTSTRAP, "faulty/root.d/05-faulty")
    assert failure.lines[0] == "Deaf to the world"


def test_a_tool_that_is_not_installed_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for directory in ("/usr/local/bin", "/usr/bin", "/bin"):
        for program in Path(directory).iterdir():
            link = programs / program.name
            if program.name != "qemu-img" and not link.is_symlink():
                link.symlink_to(program)
    monkeypatch.setenv("PATH", str(programs))
    failure = failure_of_one_that_never_began(job(tmp_path))
    assert failure.failure_class is FailureClass.TOOL
    assert "qemu-img" in failure.message and "qemu-utils" in failure.message


def failure_of_one_that_never_began(work: Job) -> Failure:
    work.work_dir.mkdir()
    return failure_of(work)


# -- secrets ---------------------------------------------------------------------------------------


def test_a_secret_of_a_failing_command_is_masked_in_the_record_and_the_log(tmp_path: Path) -> None:
    secret = "open sesame & be quick"
    tells = (
        'set -eux\necho "the token $TOKEN is no good"\nprintf "%s" "user:$TOKEN" | base64 -w0\necho\n'
        'curl --max-time 1 "http://user:$(echo -n "$TOKEN" | jq -sRr @uri 2>/dev/null ||'
        ' printf %s open%20sesame%20%26%20be%20quick)@127.0.0.1:9/"\n'
        'test "$TOKEN" = ""\n'
    )
    work = job(
        tmp_path,
        {"extra-data.d/50-faulty": tells},
        environment={"TOKEN": secret},
        secret_names=frozenset({"TOKEN"}),
    )
    failure = failure_of(work)
    with logfiles.open_text(work.log_path) as text:
        log = text.read()
    for told in (log, *failure.lines, failure.message):
        assert "sesame" not in told and "b3BlbiBzZXNhbWU" not in told and "Blb3BlbiBz" not in told
    assert failure.lines[0] == "the token ******** is no good"
    assert failure.step == "faulty/extra-data.d/50-faulty"


# -- for whom it is all done -----------------------------------------------------------------------


def test_build_show_says_why_in_words_and_in_json(place: Installation) -> None:
    own = place.root / "elements" / "faulty" / "install.d"
    own.mkdir(parents=True)
    shutil.copytree(ELEMENTS / "tiny-os", place.root / "elements" / "tiny-os")
    (own / "50-faulty").write_text("#!/bin/bash\necho the frobnicator is not there >&2\nexit 3\n")
    (own / "50-faulty").chmod(0o755)
    place.settings["elements-dir"] = str(place.root / "elements")
    place.image.update({"dib-cmd": " ".join(DIB), "elements": [*TINY, "faulty"], "env-vars": JOURNAL})
    place.write()
    place.start()
    assert place.cli("image", "build", "img").returncode == 0
    build = place.failed_build()

    record = place.json("build", "show", build.id)
    words = place.cli("build", "show", build.id).stdout
    log = place.cli("build", "log", build.id, "--tail", "1").stdout

    message = f"the script faulty/{INSTALL} failed: the frobnicator is not there"
    reason = str(record["reason"])
    for told in (message, f"faulty/{INSTALL}", "packages"):
        assert told in reason and told in " ".join(words.split())
    assert "exit code 3" in words or "3" in reason
    assert log.rstrip().endswith(f"(phase packages, step faulty/{INSTALL}, exit code 3)")
