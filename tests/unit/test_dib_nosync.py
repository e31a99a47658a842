"""The filter under which fsync does nothing: what it answers, on each architecture and for real."""

from __future__ import annotations

import struct

import pytest

from builder.dib.isolation import nosync

#: AUDIT_ARCH_* by name.
ARCH = {
    "x86_64": 0xC000003E,
    "i386": 0x40000003,
    "aarch64": 0xC00000B7,
    "arm": 0x40000028,
    "riscv": 0xC00000F3,
}
X32 = 0x40000000
MS_ASYNC, MS_SYNC = 1, 4
DONE, MADE = "said to be done", "made"


def answer(program: bytes, arch: int, number: int, third: int = 0) -> str:
    """What the kernel does with a call under a classic BPF program over struct seccomp_data."""
    data = struct.pack("<IIQ6Q", number, arch, 0, 0, 0, third, 0, 0, 0)
    steps = list(struct.iter_unpack("<HBBI", program))
    at, word = 0, 0
    while True:
        code, true, false, value = steps[at]
        at += 1
        match code:
            case 0x20:
                (word,) = struct.unpack_from("<I", data, value)
            case 0x54:
                word &= value
            case 0x15:
                at += true if word == value else false
            case 0x45:
                at += true if word & value else false
            case 0x06:
                return {0x7FFF0000: MADE, 0x00050000: DONE}[value]
            case _:
                pytest.fail(f"BPF step {code:#x} is none that this filter needs")


@pytest.fixture(params=["x86_64", "aarch64"])
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


#: What a machine runs: architecture, a name for the call, its number.
SYNCS = {
    "x86_64": [
        ("x86_64", {"fsync": 74, "fdatasync": 75, "sync": 162, "sync_file_range": 277}),
        ("i386", {"fsync": 118, "fdatasync": 148, "sync": 36, "sync_file_range": 314}),
    ],
    "aarch64": [
        ("aarch64", {"fsync": 82, "fdatasync": 83, "sync": 81, "sync_file_range": 84}),
        ("arm", {"fsync": 118, "fdatasync": 148, "sync": 36, "sync_file_range2": 341}),
    ],
}
MSYNC = {"x86_64": 26, "i386": 144, "aarch64": 227, "arm": 144}
SYNCFS = {"x86_64": 306, "i386": 344, "aarch64": 267, "arm": 373}


def program(machine: str) -> bytes:
    found = nosync.filter_for(machine)
    assert found is not None
    return found.program


def test_fsync_and_its_like_are_said_to_be_done_and_nothing_else_is(machine: str) -> None:
    for arch, calls in SYNCS[machine]:
        numbers = set(calls.values())
        done = {n for n in range(600) if answer(program(machine), ARCH[arch], n) == DONE}
        assert done == numbers, arch


def test_programs_of_x32_are_told_the_same() -> None:
    for number in SYNCS["x86_64"][0][1].values():
        assert answer(program("x86_64"), ARCH["x86_64"], number | X32) == DONE
    assert answer(program("x86_64"), ARCH["x86_64"], 0 | X32) == MADE


def test_msync_is_told_so_only_where_it_would_wait(machine: str) -> None:
    for arch, _ in SYNCS[machine]:
        number = MSYNC[arch]
        assert answer(program(machine), ARCH[arch], number, MS_SYNC) == DONE
        assert answer(program(machine), ARCH[arch], number, MS_ASYNC) == MADE


def test_a_file_system_can_still_be_made_to_write_down_its_state(machine: str) -> None:
    for arch, _ in SYNCS[machine]:
        assert answer(program(machine), ARCH[arch], SYNCFS[arch]) == MADE


def test_programs_of_an_architecture_we_do_not_know_go_on_as_ever(machine: str) -> None:
    """The numbers mean something else there."""
    for number in range(600):
        assert answer(program(machine), ARCH["riscv"], number) == MADE


def test_a_machine_we_do_not_know_has_no_filter() -> None:
    assert nosync.filter_for("s390x") is None
