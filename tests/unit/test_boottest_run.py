"""A boot test from its order to its answer, with guests that say what they are told to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from builder.bootorder import CONSOLE, LIMIT, Answer, Check, answer_of, order_of
from builder.boottest import comingup, proofs
from builder.boottest.run import LARGER, carry_out
from builder.emulator.guest import Seconds
from builder.emulator.machine import Firmware, ThreePart
from builder.errors import ActionFailedError, ToolMissingError
from builder.model import BootVerdict, Failure, FailureClass
from tests.unit.boottest_world import GOOD, SIZE, Emulator, FakeGuest, all_questions, order, trouble

KEYS = "ssh-ed25519 BAKED\nssh-rsa OWN"


def outcome(place: Path, emulator: Emulator, **changes: object) -> Answer:
    """What comes of a test; nothing runs any more then."""
    said: list[str] = []
    answer = carry_out(order(place, **changes), boot=emulator.boot, say=said.append)
    assert emulator.running == 0
    # All of it can be read where it was written, and the log has a line for each proof.
    assert answer_of(answer.text()) == answer
    assert all(any(f": {proof.name}: " in line for line in said) for proof in answer.proofs)
    return answer


def failed(answer: Answer) -> dict[str, str]:
    return {proof.name: proof.sentence for proof in answer.failed}


def test_a_good_image_proves_all_and_is_measured(tmp_path: Path) -> None:
    emulator = Emulator()
    answer = outcome(tmp_path, emulator)
    assert answer.verdict is BootVerdict.PASSED
    assert [proof.name for proof in answer.proofs] == list(proofs.NAMES)
    assert all(proof.passed for proof in answer.proofs)
    assert answer.measures == {
        "kernel_seconds": 2.0,
        "userspace_seconds": 5.0,
        "ssh_seconds": 20.0,
        "memory_used": 100_000 * 1024,
        "services": 12,
        "packages": 201,
        "disk_claimed": 50 << 20,
    }
    assert answer.ports == ("tcp/22", "udp/68")
    assert answer.setuid == ("/usr/bin/passwd", "/usr/bin/sudo")
    assert answer.accelerator == "tcg"

    # Two machines from the same image, on disks larger than it; the first one was restarted.
    first, other = emulator.guests
    assert (first.starts, other.starts) == (2, 1)
    assert first.machine.size == other.machine.size == SIZE + LARGER
    assert first.machine.lifetime > 3600
    consoles = (tmp_path / CONSOLE).read_text()
    assert (
        consoles.index("the first machine") < consoles.index("login:") < consoles.index("the other machine")
    )


def test_the_answer_in_short_is_what_goes_on_record(tmp_path: Path) -> None:
    answer = outcome(tmp_path, Emulator({"said": {"failed units": "x.service loaded failed failed X"}}))
    result = answer.result
    assert (result.verdict, result.failed) == (BootVerdict.FAILED, ("units",))
    assert (result.measures, result.ports, result.setuid) == (answer.measures, answer.ports, answer.setuid)


#: What is wrong with the image -> which proof fails, and words of its sentence.
BROKEN: Mapping[str, tuple[tuple[Mapping[str, object], ...], str, str]] = {
    "another host name": (
        ({"said": {"hostname": "debian"}},),
        "host-name",
        "'debian', the config drive says",
    ),
    "no name server": (({"said": {"resolv.conf": "search x"}},), "dns", "it asks no name server"),
    "another name server": (
        ({"said": {"resolv.conf": "nameserver 10.0.2.3"}},),
        "dns",
        "it asks 10.0.2.3, the config drive says 192.0.2.3",
    ),
    "resolv.conf leads nowhere": (
        ({"said": {"resolv.conf": "cat: No such file"}, "codes": {"resolv.conf": 1}},),
        "dns",
        "/etc/resolv.conf can't be read",
    ),
    "a unit failed": (
        ({"said": {"failed units": "● nginx.service loaded failed failed Web"}},),
        "units",
        "units failed: nginx.service",
    ),
    "a systemd that is none": (
        ({"said": {"failed units": "System has not been booted"}, "codes": {"failed units": 1}},),
        "units",
        "systemd can't be asked",
    ),
    "a unit never starts": (({"said": {"state": "starting"}},), "units", "it is still starting"),
    "the disk not grown": (
        ({"said": {"root": f"/dev/vda1 {SIZE} 1 1 1% /"}},),
        "root-grown",
        "3.0 GiB of a disk of 5.0 GiB: it did not grow",
    ),
    "no root by sudo": (({"has_sudo": False},), "sudo", "zuul has no root by sudo"),
    "no restart": (
        ({"no_restart": trouble("the guest did not restart")},),
        "second-boot",
        "it did not restart",
    ),
    "not up again": (
        ({"not_up_again": trouble("no SSH server answered")},),
        "second-boot",
        "did not come up again after a restart: userspace came up",
    ),
    "another machine id after a restart": (
        ({"said_later": {"machine id": "f" * 32}},),
        "second-boot",
        "its machine id changed with the restart",
    ),
    "a unit fails only then": (
        ({"said_later": {"failed units": "late.service loaded failed failed L"}},),
        "second-boot",
        "after a restart units failed: late.service",
    ),
    "it only says that it restarts": (
        ({"said": {"boot id": "same"}},),
        "second-boot",
        "the guest says that it was not restarted",
    ),
    "a machine id in the image": (
        ({"said": {"machine id": "a" * 32}}, {"said": {"machine id": "a" * 32}}),
        "machine-id",
        "the machine id is baked into the image",
    ),
    "no machine id": (({"said": {"machine id": "uninitialized"}},), "machine-id", "it has no machine id"),
    "host keys in the image": (
        ({"said": {"host keys": KEYS}}, {"said": {"host keys": KEYS}}),
        "host-keys",
        "SSH host keys are baked into the image",
    ),
    "no second machine": (
        ({}, {"not_up": trouble("no SSH server answered")}),
        "machine-id",
        "a second machine made from the image did not come up",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_what_is_wrong_fails_its_proof_and_no_other(tmp_path: Path, how: str) -> None:
    guests, name, words = BROKEN[how]
    answer = outcome(tmp_path, Emulator(*guests))
    assert answer.verdict is BootVerdict.FAILED
    found = failed(answer)
    assert words in found.pop(name)
    # Without root nothing can be restarted.
    assert set(found) <= ({"second-boot"} if name == "sudo" else set())


#: What keeps people out -> the changes of the guest, the proof that fails, words of its sentence.
SHUT: Mapping[str, tuple[Mapping[str, object], str, str]] = {
    "no SSH server": ({"not_up": trouble("no SSH")}, "ssh", "userspace came up, no SSH server answered"),
    "no userspace": (
        {
            "not_up": trouble("no SSH"),
            "seconds": Seconds(kernel=1.0, userspace=None, ssh=None),
            "console": ("Linux version 6.1.0",),
        },
        "boot",
        "the kernel was loaded, userspace did not come up",
    ),
    "a firmware that finds nothing": (
        {
            "not_up": trouble("no SSH"),
            "seconds": Seconds(kernel=None, userspace=None, ssh=None),
            "console": ("SeaBIOS", "Booting from Hard Disk..."),
        },
        "boot",
        "the console shows no kernel",
    ),
    "silence": (
        {
            "not_up": trouble("no SSH"),
            "seconds": Seconds(kernel=None, userspace=None, ssh=None),
            "console": (),
        },
        "boot",
        "nothing was seen on the serial console",
    ),
    "a panic": (
        {"console": ("Linux version 6.1", "VFS: Unable to mount root fs on unknown-block(0,0)")},
        "boot",
        "the kernel can't use the root file system",
    ),
    "switched off": (
        {
            "not_up": trouble("the emulator ended", FailureClass.TOOL, code=0),
            "seconds": Seconds(kernel=1.0, userspace=None, ssh=None),
            "console": ("Power down",),
        },
        "boot",
        "the machine switched itself off",
    ),
    "the wrong key": (
        {"not_in": trouble("zuul could not log in", FailureClass.TIMEOUT, "Permission denied (publickey).")},
        "login",
        "zuul could not log in with the key of the config drive",
    ),
}


@pytest.mark.parametrize("how", SHUT)
def test_where_nobody_gets_in_nothing_else_is_tried(tmp_path: Path, how: str) -> None:
    changes, name, words = SHUT[how]
    emulator = Emulator(changes)
    answer = outcome(tmp_path, emulator)
    assert answer.verdict is BootVerdict.FAILED
    assert words in failed(answer)[name]
    assert [proof.name for proof in answer.proofs] == list(proofs.NAMES[: proofs.NAMES.index(name) + 1])
    assert len(emulator.guests) == 1
    lines = answer.failed[0].lines
    assert (
        lines == ("Permission denied (publickey).",)
        if name == "login"
        else set(lines) <= set(emulator.guests[0].console)
    )


def test_a_console_that_asks_for_a_login_and_no_ssh_is_not_waited_for_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comingup, "SSH_AFTER_CONSOLE", -1.0)
    answer = outcome(tmp_path, Emulator())
    assert "the system is up, its console asks for a login, and no SSH server" in failed(answer)["ssh"]


def test_all_that_is_wrong_is_told_by_one_test(tmp_path: Path) -> None:
    said = {"hostname": "x", "resolv.conf": "", "root": f"/dev/vda1 {SIZE} 1 1 1% /", "host keys": KEYS}
    answer = outcome(tmp_path, Emulator({"said": said}, {"said": said}))
    assert set(failed(answer)) == {"host-name", "dns", "root-grown", "host-keys"}


def test_units_that_may_fail_may_fail(tmp_path: Path) -> None:
    units = "a.service loaded failed failed A\nb@1.service loaded failed failed B"
    emulator = Emulator({"said": {"failed units": units, "state": "degraded"}})
    answer = outcome(tmp_path, emulator, allowed_failed_units=("a.service", "b@*.service"))
    assert answer.verdict is BootVerdict.PASSED
    assert "no unit failed but 2 that may" in [proof.sentence for proof in answer.proofs]


def test_a_resolver_of_its_own_may_ask_the_name_server(tmp_path: Path) -> None:
    stub = {"resolv.conf": "nameserver 127.0.0.53"}
    for resolvers in ("Link 2 (ens3): 192.0.2.3", "IP4.DNS[1]:192.0.2.3"):
        place = tmp_path / str(len(resolvers))
        place.mkdir()
        answer = outcome(place, Emulator({"said": {**stub, "resolvers": resolvers}}))
        assert answer.verdict is BootVerdict.PASSED
    place = tmp_path / "none"
    place.mkdir()
    assert set(failed(outcome(place, Emulator({"said": stub})))) == {"dns"}


def test_what_is_not_answered_is_not_proven(tmp_path: Path) -> None:
    answer = outcome(tmp_path, Emulator({"mute": True}))
    assert answer.verdict is BootVerdict.FAILED
    assert {"host-name", "dns", "units", "root-grown"} <= set(failed(answer))
    assert answer.measures.keys() == {"kernel_seconds", "userspace_seconds", "ssh_seconds", "disk_claimed"}


def test_what_the_emulator_can_not_do_says_nothing_of_the_image(tmp_path: Path) -> None:
    emulator = Emulator()
    emulator.error = ToolMissingError("no qemu", hint="Install it.")
    answer = outcome(tmp_path, emulator)
    assert (answer.verdict, answer.proofs) == (BootVerdict.BROKEN, ())
    assert answer.problem == "no qemu\nInstall it."

    place = tmp_path / "ended"
    place.mkdir()
    ended = trouble("the emulator ended", FailureClass.TOOL, "qemu: out of memory", code=1)
    answer = outcome(place, Emulator({"not_up": ended}))
    assert answer.verdict is BootVerdict.BROKEN
    assert answer.lines == ("qemu: out of memory",)


def test_what_was_found_before_the_emulator_broke_counts(tmp_path: Path) -> None:
    ended = trouble("the emulator ended", FailureClass.TOOL, code=1)
    answer = outcome(tmp_path, Emulator({"said": {"hostname": "x"}}, {"not_up": ended}))
    assert answer.verdict is BootVerdict.FAILED
    assert (set(failed(answer)), answer.problem) == ({"host-name"}, "the emulator ended")


def test_own_checks_are_copied_and_run_as_root(tmp_path: Path) -> None:
    for name in ("good", "bad", "tap", "slow"):
        (tmp_path / name).write_text(f"#!/bin/sh\n: {name}\n")
    checks = tuple(Check(name=f"own/{n}", path=str(tmp_path / n)) for n in ("good", "bad", "tap", "slow"))
    gone = Check(name="own/gone", path=str(tmp_path / "gone"))
    at = "/var/tmp/imagepool-boot-test/check-"
    ends = {
        f"{at}1": (0, ""),
        f"{at}2": (3, "no mail"),
        f"{at}3": (0, "1..2\nok 1 - a\nnot ok 2 - b"),
        f"{at}4": (-1, ""),
    }
    emulator = Emulator({"checks": ends})
    answer = outcome(tmp_path, emulator, checks=(*checks, gone))
    assert failed(answer) == {
        "check own/bad": "it ended with exit code 3",
        "check own/tap": "1 of its 2 tests failed: b",
        "check own/slow": "it did not end within 180 s",
        "check own/gone": "it could not be copied into the guest: No such file or directory",
    }
    guest = emulator.guests[0]
    assert all(command.startswith("sudo -n sh -c ") for command in guest.commands if "check-" in command)
    assert not any("check-" in command for command in emulator.guests[1].commands)


def test_without_time_all_that_is_left_fails_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "check").write_text("#!/bin/sh\n")
    own = Check(name="own/check", path=str(tmp_path / "check"))
    emulator = Emulator()
    answer = outcome(tmp_path, emulator, timeout=0.0, checks=(own,))
    over = "; the 0 s of the whole test are over"
    assert failed(answer) == {
        "check own/check": f"it was not run{over}",
        "second-boot": f"it was not restarted{over}",
        "machine-id": f"no second machine was made from the image{over}",
    }
    (guest,) = emulator.guests
    assert guest.starts == 1 and not any("check-" in command for command in guest.commands)


def test_a_machine_that_is_not_up_when_time_is_over_is_told_so(tmp_path: Path) -> None:
    answer = outcome(tmp_path, Emulator({"not_up": trouble("no SSH")}), timeout=0.0)
    assert failed(answer)["ssh"].endswith("; the 0 s of the whole test are over")


@pytest.mark.parametrize("gigabytes", [2, 3, 15, 40, 200])
def test_a_grown_root_is_told_from_one_that_did_not_grow_however_large_the_image(
    tmp_path: Path, gigabytes: int
) -> None:
    # What mke2fs -i 4096 -J size=64, as diskimage-builder calls it, leaves of a disk for files.
    size = gigabytes << 30
    whole, grown = ((disk * 934 // 1000) - (64 << 20) for disk in (size, max(size + LARGER, size * 5 // 4)))
    for place, root, fails in (("grown", grown, set()), ("not", whole, {"root-grown"})):
        (tmp_path / place).mkdir()
        emulator = Emulator({"said": {"root": f"/dev/vda1 {root} 1 1 1% /"}})
        answer = outcome(tmp_path / place, emulator, size=size)
        assert set(failed(answer)) == fails


def test_what_a_hostile_guest_says_is_short_and_harmless(tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J" + "x" * 5000
    nines = "9" * 5000
    said = {
        "hostname": evil,
        "resolv.conf": f"nameserver {evil}",
        "failed units": "\n".join(f"{evil}.service loaded failed failed {evil}" for _ in range(200)),
        "root": f"/dev/vda1 {nines} 1 1 1% /",
        "memory": f"MemTotal: {nines} kB\nMemAvailable: 1 kB",
        "services": nines,
        "packages": "9" * 400,
        "sockets": "tcp\n  0: 00:16 0:0 0A 0\n  1: 00000000:FFFFFF 0:0 0A 0\n  2: zz 0:0 0A 0",
        "setuid": f"/{evil}\n" * 5000,
    }
    answer = outcome(tmp_path, Emulator({"said": said, "console": (evil,)}))
    assert answer.verdict is BootVerdict.FAILED
    assert {"host-name", "dns", "units", "root-grown"} <= set(failed(answer))
    assert not {"memory_used", "services", "packages"} & set(answer.measures)
    assert answer.ports == ()
    texts = [text for proof in answer.proofs for text in (proof.sentence, *proof.lines)]
    assert all(text.isprintable() and len(text) <= 2000 for text in (*texts, *answer.setuid))
    assert len(answer.text()) < LIMIT


def test_what_keeps_a_machine_from_being_booted_is_told_in_a_sentence(tmp_path: Path) -> None:
    emulator = Emulator()
    failure = Failure(failure_class=FailureClass.TOOL, message="no QEMU", lines=("a", "\x1b[2Jb"))
    emulator.error = ActionFailedError("tool: no QEMU\na\nb", failure)
    answer = outcome(tmp_path, emulator)
    assert (answer.problem, answer.lines) == ("no QEMU", ("a", "b"))


def test_an_order_comes_out_as_it_went_in(tmp_path: Path) -> None:
    whole = order(
        tmp_path,
        format="ami",
        kernel="/k",
        ramdisk="/r",
        allowed_failed_units=("a",),
        checks=(Check(name="n", path="/p"),),
    )
    assert order_of(whole.text()) == whole


def test_the_machine_is_as_the_order_says(tmp_path: Path) -> None:
    emulator = Emulator()
    outcome(
        tmp_path, emulator, firmware="uefi", memory=2 << 30, cpus=3, kernel="/k", ramdisk="/r", format="ami"
    )
    machine = emulator.guests[0].machine
    assert (machine.firmware, machine.memory, machine.cpus) == (Firmware.UEFI, 2048, 3)
    assert isinstance(machine.image, ThreePart)
    # No network leads anywhere, and the config drive tells what is asked for.
    assert machine.config_drive is not None
    assert machine.config_drive.host_name == "boot-test-host"


def test_a_good_guest_answers_every_question() -> None:
    assert all_questions() <= {*GOOD, "boot id", "machine id", "host keys"}
    assert FakeGuest.__dataclass_fields__["console"].default[-1].endswith("login: ")
