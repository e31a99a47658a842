"""What the lines of a build tell: where it is, and why it failed."""

from __future__ import annotations

import pytest

from builder.dib.logs.reasons import Reader
from builder.model import BuildPhase, FailureClass

DIB = "+ diskimage_builder/lib/"
CLEANS_UP = f"{DIB}common-functions:run_d:1          :   trap_cleanup"
#: Lines of a real run, in its order, with the phase and the step after each.
STORY: list[tuple[str, BuildPhase | None, str | None]] = [
    ("diskimage-builder version 3.43.0", None, None),
    (
        f"{DIB}disk-image-create:main:331    :   /v/bin/python3 /v/lib/dib-block-device.py init",
        None,
        "block-device",
    ),
    (
        f"{DIB}common-functions:create_base:374    :   mkdir /w/tmp/dib_build.Xq3f/mnt",
        BuildPhase.BOOTSTRAP,
        "block-device",
    ),
    (f"{DIB}common-functions:create_base:381    :   run_d root", BuildPhase.BOOTSTRAP, None),
    ("Copying hooks for debootstrap", BuildPhase.BOOTSTRAP, None),
    ("Copying hooks /usr/lib/x/elements/debootstrap/root.d/08-debootstrap", BuildPhase.BOOTSTRAP, None),
    ("Copying hooks /srv/elements/my-own/install.d/50-mine", BuildPhase.BOOTSTRAP, None),
    ("Copying hooks /srv/elements/my-own/environment.d/10-mine", BuildPhase.BOOTSTRAP, None),
    ("Running hooks from /w/tmp/dib_build.Xq3f/hooks/root.d", BuildPhase.BOOTSTRAP, None),
    (
        "dib-run-parts Sourcing environment file /w/hooks/root.d/../environment.d/10-mine",
        BuildPhase.BOOTSTRAP,
        "my-own/environment.d/10-mine",
    ),
    (
        "dib-run-parts Running /w/tmp/dib_build.Xq3f/hooks/root.d/08-debootstrap",
        BuildPhase.BOOTSTRAP,
        "debootstrap/root.d/08-debootstrap",
    ),
    ("dib-run-parts 08-debootstrap completed", BuildPhase.BOOTSTRAP, None),
    (f"{DIB}disk-image-create:main:358     :   run_d extra-data", BuildPhase.PACKAGES, None),
    (f"{DIB}disk-image-create:main:362     :   run_d_in_target install", BuildPhase.PACKAGES, None),
    (
        "dib-run-parts Running /tmp/in_target.d/install.d/50-mine",
        BuildPhase.PACKAGES,
        "my-own/install.d/50-mine",
    ),
    ("dib-run-parts 50-mine completed", BuildPhase.PACKAGES, None),
    ("Calculating image size (this may take a minute)...", BuildPhase.IMAGE, "block-device"),
    (
        f"{DIB}disk-image-create:main:495     :   eval_run_d block-device IMAGE_BLOCK_DEVICE=",
        BuildPhase.IMAGE,
        None,
    ),
    ("INFO diskimage_builder.block_device.blockdevice [-] create() called", BuildPhase.IMAGE, "block-device"),
    (f"{DIB}disk-image-create:main:546     :   sudo cp -ra /w/built/bin /w/mnt", BuildPhase.IMAGE, "copy"),
    (f"{DIB}disk-image-create:main:551     :   run_d_in_target finalise", BuildPhase.FINALISE, None),
    (
        "dib-run-parts Running /tmp/in_target.d/finalise.d/50-bootloader",
        BuildPhase.FINALISE,
        "finalise.d/50-bootloader",
    ),
    # An element that runs another's hooks late takes the build back in no one's eyes.
    (
        "Running hooks from /w/tmp/dib_build.Xq3f/hooks/root.d",
        BuildPhase.FINALISE,
        "finalise.d/50-bootloader",
    ),
    # From here on dib cleans up.
    (
        f"{DIB}img-functions:run_in_target:1    :   trap_cleanup",
        BuildPhase.FINALISE,
        "finalise.d/50-bootloader",
    ),
    (
        f"{DIB}disk-image-create:main:595    :   /v/bin/python3 /v/lib/dib-block-device.py umount",
        BuildPhase.FINALISE,
        "finalise.d/50-bootloader",
    ),
]


def read(*lines: str) -> Reader:
    reader = Reader()
    for line in lines:
        reader.feed(line)
    return reader


def test_phase_and_step_follow_what_dib_prints() -> None:
    reader = Reader()
    for line, phase, step in STORY:
        reader.feed(line)
        assert (reader.phase, reader.step) == (phase, step), line


IN_INSTALL = (
    "Running hooks from /w/hooks/root.d",
    "dib-run-parts Running /tmp/in_target.d/install.d/01-package-installs",
)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("cp: error writing 'x': No space left on device", FailureClass.DISK),
        ("E: You don't have enough free space in /var/cache/apt/archives/.", FailureClass.DISK),
        ("E: Failed to fetch http://mirror.test/a.deb  404  Not Found", FailureClass.MIRROR),
        ("W: Temporary failure resolving 'mirror.test'", FailureClass.MIRROR),
        ("E: Release file for http://mirror.test/ is expired", FailureClass.MIRROR),
        ("fatal: unable to access 'https://git.test/x/': timed out", FailureClass.MIRROR),
        ("E: Unable to locate package nothing", FailureClass.PACKAGE),
        ("dpkg: error processing package linux-image (--configure):", FailureClass.PACKAGE),
        ("Error: Unable to find a match: nothing", FailureClass.PACKAGE),
        ("grub-install: error: unable to identify a filesystem", FailureClass.BOOTLOADER),
        ("/dev/mapper/control: open failed: No such device", FailureClass.BOOTLOADER),
        ("/tmp/in_target.d/install.d/50-x: line 3: jq: command not found", FailureClass.TOOL),
        (
            "dib-run-parts: line 9: /x: /bin/zsh: bad interpreter: No such file or directory",
            FailureClass.TOOL,
        ),
        ("x: line 136: /x/50-y: cannot execute: required file not found", FailureClass.TOOL),
        ("sudo: a password is required", FailureClass.TOOL),
        ("Something else went wrong", FailureClass.ELEMENT),
    ],
)
def test_the_class_of_a_failure_is_told_by_its_lines(line: str, expected: FailureClass) -> None:
    failure = read(*IN_INSTALL, "Reading package lists...", line, CLEANS_UP, "and more").diagnose(100)
    assert failure.failure_class is expected
    assert failure.step == "install.d/01-package-installs"
    assert failure.phase == BuildPhase.PACKAGES
    assert failure.exit_code == 100
    assert failure.lines == ("Reading package lists...", line)


def test_trouble_of_a_step_that_completed_is_not_the_cause() -> None:
    failure = read(
        *IN_INSTALL,
        "W: Failed to fetch http://mirror.test/x, retrying",
        "dib-run-parts 01-package-installs completed",
        "dib-run-parts Running /tmp/in_target.d/install.d/50-mine",
        "boom",
    ).diagnose(1)
    assert failure.failure_class is FailureClass.ELEMENT
    assert failure.message == "the script install.d/50-mine failed: boom"
    assert failure.lines == ("boom",)


def test_an_unknown_element_is_a_matter_of_the_configuration() -> None:
    failure = read(
        "Building elements: base nothing-such",
        "diskimage_builder.element_dependencies.MissingElementException: Element 'nothing-such' not found",
    ).diagnose(1)
    assert failure.failure_class is FailureClass.CONFIG
    assert "nothing-such" in failure.message


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ("mine: DIB_MINE_SIZE is no size: a number", FailureClass.CONFIG),
        ("mine: error: DIB_MINE_SIZE is no size: a number", FailureClass.CONFIG),
        ("mine: ERROR: line 2 of DIB_MINE_KEYS is not a key", FailureClass.CONFIG),
        ("mine: WARNING: DIB_MINE_KEYS is not set", FailureClass.ELEMENT),
        ("mine: error: nothing answers", FailureClass.ELEMENT),
        ("told by mine: DIB_MINE_SIZE is no size", FailureClass.ELEMENT),
    ],
)
def test_a_variable_that_an_element_refuses_is_a_matter_of_the_configuration(
    last: str, expected: FailureClass
) -> None:
    failure = read(*IN_INSTALL, "something before", last, "+ exit 1").diagnose(1)
    assert failure.failure_class is expected
    assert failure.message.endswith(last)


def test_a_variable_that_was_told_long_before_is_not_the_cause() -> None:
    failure = read(*IN_INSTALL, "mine: DIB_MINE_SIZE is 3 G", "one", "two", "boom").diagnose(1)
    assert failure.failure_class is FailureClass.ELEMENT


def test_at_most_twenty_lines_are_kept_and_the_telling_one_is_among_them() -> None:
    telling = "E: Unable to locate package nothing"
    failure = read(*IN_INSTALL, telling, *(f"line {n}" for n in range(50))).diagnose(1)
    assert len(failure.lines) == 20
    assert failure.lines[:2] == (telling, "line 0")
    assert failure.lines[9:12] == ("line 8", "[32 lines]", "line 41")
    assert failure.lines[-1] == "line 49"


def test_a_silent_death_is_unknown_and_says_so() -> None:
    failure = read().diagnose(137)
    assert failure.failure_class is FailureClass.UNKNOWN
    assert "killed" in failure.message


def test_dibs_own_time_is_taken_off() -> None:
    assert Reader.bare("2026-11-20 14:14:00.123 | Running") == "Running"
    assert Reader.bare("2026 | Running") == "2026 | Running"


TRACEBACK = (
    "sudo: unable to resolve host builder: Temporary failure in name resolution",
    "Traceback (most recent call last):",
    '  File "/srv/venv/bin/dib-block-device", line 8, in <module>',
    '  File "/srv/venv/lib/site-packages/diskimage_builder/block_device/cmd.py", line 120, in main',
    "    return bdc.main()",
    "AssertionError",
)


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ("AssertionError", FailureClass.BOOTLOADER),
        ("KeyError: 'x'", FailureClass.BOOTLOADER),
        ("yaml.scanner.ScannerError: while scanning", FailureClass.CONFIG),
    ],
)
def test_a_traceback_of_dib_itself_is_told_by_its_exception(last: str, expected: FailureClass) -> None:
    failure = read("Calculating image size (this may take a minute)...", *TRACEBACK[:-1], last).diagnose(1)
    assert failure.failure_class is expected
    assert failure.message == last
    assert failure.step == "block-device"
    assert failure.lines == (TRACEBACK[0], last)


def test_of_a_file_that_is_no_yaml_its_name_and_line_are_told() -> None:
    failure = read(
        *IN_INSTALL,
        *TRACEBACK[1:2],
        '  File "/usr/lib/python3/dist-packages/yaml/parser.py", line 1, in parse',
        "yaml.parser.ParserError: while parsing a flow node",
        '  in "/etc/x/elements/tools/package-installs.yaml", line 2, column 9',
        "expected the node content, but found '<stream end>'",
        '  in "/etc/x/elements/tools/package-installs.yaml", line 3, column 1',
    ).diagnose(1)
    assert failure.failure_class is FailureClass.CONFIG
    assert failure.message.endswith(" in /etc/x/elements/tools/package-installs.yaml, line 3")


def test_a_traceback_of_an_elements_own_script_is_the_elements() -> None:
    lines = (
        TRACEBACK[0],
        "Traceback (most recent call last):",
        '  File "/x/diskimage_builder/elements/x/root.d/10-x", line 8',
        "KeyError: 1",
    )
    failure = read(*IN_INSTALL, *lines).diagnose(1)
    assert failure.failure_class is FailureClass.ELEMENT
    assert failure.lines == (TRACEBACK[0], lines[2], "KeyError: 1")
    assert failure.message.endswith("failed: KeyError: 1")


def test_what_a_tool_said_ends_the_exception_of_dib() -> None:
    failure = read(
        f"{DIB}disk-image-create:main:515    :   /v/bin/python3 /v/lib/dib-block-device.py create",
        "INFO diskimage_builder.block_device.utils [-] Calling [sudo mkfs -t ext4 /dev/mapper/loop0p1]",
        "ERROR diskimage_builder.block_device.blockdevice [-] Create failed; rollback initiated",
        *TRACEBACK[1:-1],
        "diskimage_builder.block_device.exception.BlockDeviceSetupException: exec_sudo failed: ",
        "mke2fs: invalid blocks '4'",
        "INFO diskimage_builder.block_device.utils [-] Calling [sudo losetup -d /dev/loop0]",
        "ERROR diskimage_builder.block_device.blockdevice [-] Rollback complete, exiting",
        *TRACEBACK[1:],
    ).diagnose(1)
    assert failure.failure_class is FailureClass.BOOTLOADER
    assert failure.message == "mke2fs: invalid blocks '4'"
    assert failure.lines[0] == "Calling [sudo mkfs -t ext4 /dev/mapper/loop0p1]"
    assert failure.lines[1].endswith("exec_sudo failed: mke2fs: invalid blocks '4'")
    assert len(failure.lines) == 2


def test_a_script_that_says_nothing_is_told_by_the_command_it_ended_with() -> None:
    failure = read(
        *IN_INSTALL, "+ echo Hello", "Hello", "+ test -f /nowhere", "+ exit 4", CLEANS_UP
    ).diagnose(4)
    assert failure.failure_class is FailureClass.ELEMENT
    assert failure.message.endswith("failed at: test -f /nowhere")
    assert failure.lines == ("Hello", "+ test -f /nowhere")


def test_a_script_that_says_nothing_at_all_is_not_blamed_for_the_words_of_others() -> None:
    failure = read(
        *IN_INSTALL, "No space left on device", "dib-run-parts 01-package-installs completed", IN_INSTALL[1]
    ).diagnose(1)
    assert failure.failure_class is FailureClass.ELEMENT
    assert failure.message.endswith("failed and said nothing")
    assert failure.lines == ()


def test_the_first_error_is_the_cause_and_warnings_are_not() -> None:
    failure = read(
        *IN_INSTALL,
        "W: Failed to fetch http://mirror.test/a  Connection failed",
        "  Could not connect to mirror.test:80",
        "E: Failed to fetch http://mirror.test/b  Connection failed",
        "E: The repository 'http://mirror.test/b' is not signed.",
    ).diagnose(100)
    assert failure.message == "E: Failed to fetch http://mirror.test/b  Connection failed"


def test_a_missing_command_that_a_script_did_without_is_not_the_cause() -> None:
    failure = read(
        *IN_INSTALL,
        "x: line 1: lsb_release: command not found",
        *(f"step {n}" for n in range(5)),
        "oh no, an error",
    ).diagnose(1)
    assert failure.failure_class is FailureClass.ELEMENT
    assert failure.message.endswith(": oh no, an error")


@pytest.mark.parametrize(
    ("command", "line", "expected"),
    [
        (
            "sudo cp -ra /w/built/x /w/mnt",
            "cp: error writing '/w/mnt/x': No space left on device",
            FailureClass.CONFIG,
        ),
        (
            "sudo cp -ra /w/built/x /w/mnt",
            "cp: error writing '/w/mnt/x': Input/output error",
            FailureClass.DISK,
        ),
    ],
)
def test_an_image_too_small_is_told_from_a_full_disk_below_it(
    command: str, line: str, expected: FailureClass
) -> None:
    failure = read(f"{DIB}disk-image-create:main:546    :   {command}", line, CLEANS_UP).diagnose(1)
    assert failure.failure_class is expected
    assert (failure.phase, failure.step) == (BuildPhase.IMAGE, "copy")


def test_a_package_too_big_for_the_image_is_no_full_disk() -> None:
    in_image = "dib-run-parts Running /tmp/in_target.d/finalise.d/50-bootloader"
    assert read(in_image, "dpkg: No space left on device").diagnose(1).failure_class is FailureClass.CONFIG
    before = "dib-run-parts Running /w/hooks/pre-finalise.d/50-x"
    assert read(before, "cp: No space left on device").diagnose(1).failure_class is FailureClass.DISK


def test_a_step_of_dibs_own_is_told_by_its_command() -> None:
    failure = read(
        f"{DIB}disk-image-create:main:360    :   run_d_in_target pre-install",
        f"{DIB}common-functions:mount_proc_dev_sys:404    :   sudo mount -t proc none /w/mnt/proc",
        CLEANS_UP,
    ).diagnose(32)
    assert failure.failure_class is FailureClass.UNKNOWN
    assert failure.message == "disk-image-create failed at: sudo mount -t proc none /w/mnt/proc"


def test_who_was_killed_for_memory_is_said_to_be() -> None:
    lines = (*IN_INSTALL, "/tmp/in_target.d/install.d/50-x: line 3:   839 Killed                  xz -9 big")
    failure = read(*lines, CLEANS_UP).diagnose(137, oom_killed=True)
    assert (
        failure.message == "the script install.d/01-package-installs was killed, its memory limit was reached"
    )
    assert "perhaps" in read(*lines, CLEANS_UP).diagnose(1).message


def test_a_hook_that_two_elements_have_is_said_to_be_theirs() -> None:
    failure = read(
        "Copying hooks for one",
        "Copying hooks /srv/one/install.d/50-x",
        "Copying hooks for other",
        "There is a duplicated hook in your elements: /install.d/50-x",
    ).diagnose(1)
    assert failure.failure_class is FailureClass.CONFIG
    assert failure.message.endswith("/install.d/50-x (of one and other)")


def test_what_a_script_draws_over_is_not_kept() -> None:
    assert read(*IN_INSTALL, "10 %\r50 %\rfailed\r").tail == ("failed",)


def test_where_dib_keeps_a_build_is_left_out_of_its_paths() -> None:
    failure = read(
        *IN_INSTALL, "rm: can't remove '/srv/w/tiny-1/tmp/dib_build.Xq3fZ8aB/mnt/x': error"
    ).diagnose(1)
    assert failure.lines == ("rm: can't remove 'dib_build/mnt/x': error",)


def test_a_line_without_end_does_not_swell_the_record() -> None:
    failure = read(*IN_INSTALL, "error: " + "x" * 10_000).diagnose(1)
    assert len(failure.message) <= 240
    assert len(failure.lines[0]) <= 400
