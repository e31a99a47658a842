"""A seccomp filter under which fsync and its like succeed at once and do nothing.

A build's tree is thrown away when the machine fails, so whatever dpkg and others do to have it
survive that is time lost. Like `systemd-nspawn --suppress-sync=yes` and mkosi, we let the kernel
answer those calls: that reaches through chroot, sudo and static programs, where a preloaded
library does not. What a build hands out is made to last by who keeps it.

syncfs is left as it is: few call it, and a file system must be made to write down its state before
fstrim can give back what was deleted on it (see the stand-in in sandbox/).

The filter is classic BPF over struct seccomp_data (seccomp(2), Documentation/userspace-api/
seccomp_filter.rst). Numbers are those of the kernel's tables: arch/x86/entry/syscalls/*.tbl,
include/uapi/asm-generic/unistd.h, arch/arm/tools/syscall.tbl.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

_ERRNO_0: Final = 0x00050000  #: the call is not made, and says that it succeeded
_ALLOW: Final = 0x7FFF0000
_MS_SYNC: Final = 4
# Offsets in struct seccomp_data; of an argument, the low half on a little-endian machine.
_NUMBER: Final = 0
_ARCH: Final = 4
_THIRD_ARGUMENT: Final = 16 + 2 * 8
# BPF_LD|BPF_W|BPF_ABS, BPF_ALU|BPF_AND|BPF_K, BPF_JMP|BPF_JEQ|BPF_K, BPF_JMP|BPF_JSET|BPF_K, BPF_RET|BPF_K
_LOAD: Final = 0x20
_AND: Final = 0x54
_IF_EQUAL: Final = 0x15
_IF_SET: Final = 0x45
_RETURN: Final = 0x06
#: The bit that tells a call of x32 from the same one of x86_64.
_NOT_X32: Final = 0xFFFFFFFF & ~0x40000000


@dataclass(frozen=True, kw_only=True)
class _Calls:
    """One architecture's numbers for fsync, fdatasync, sync, sync_file_range, and for msync."""

    arch: int  #: AUDIT_ARCH_* of <linux/audit.h>
    syncs: tuple[int, ...]
    msync: int
    mask: int = 0xFFFFFFFF


_X86_64: Final = _Calls(arch=0xC000003E, syncs=(74, 75, 162, 277), msync=26, mask=_NOT_X32)
_I386: Final = _Calls(arch=0x40000003, syncs=(118, 148, 36, 314), msync=144)
_AARCH64: Final = _Calls(arch=0xC00000B7, syncs=(82, 83, 81, 84), msync=227)
_ARM: Final = _Calls(arch=0x40000028, syncs=(118, 148, 36, 341), msync=144)


@dataclass(frozen=True, kw_only=True)
class Filter:
    """A filter as the kernel takes it: the number of seccomp(2), and an array of struct sock_filter."""

    call: int
    program: bytes


#: Kernel's machine -> the number of seccomp(2), and all architectures whose programs it runs.
_MACHINES: Final[Mapping[str, tuple[int, tuple[_Calls, ...]]]] = {
    "x86_64": (317, (_X86_64, _I386)),
    "aarch64": (277, (_AARCH64, _ARM)),
}


def filter_for(machine: str) -> Filter | None:
    """The filter for a machine (`uname -m`), None for one whose numbers we don't know."""
    if machine not in _MACHINES:
        return None
    call, architectures = _MACHINES[machine]
    program = [_step(_LOAD, _ARCH)]
    for calls in architectures:
        block = _block(calls)
        program += [_step(_IF_EQUAL, calls.arch, otherwise=len(block)), *block]
    return Filter(call=call, program=b"".join([*program, _step(_RETURN, _ALLOW)]))


def _block(calls: _Calls) -> Sequence[bytes]:
    block = [_step(_LOAD, _NUMBER), _step(_AND, calls.mask)]
    for number in calls.syncs:
        block += [_step(_IF_EQUAL, number, otherwise=1), _step(_RETURN, _ERRNO_0)]
    # With other flags than MS_SYNC, msync tells whether memory is mapped, and some ask for that.
    block += [
        _step(_IF_EQUAL, calls.msync, otherwise=3),
        _step(_LOAD, _THIRD_ARGUMENT),
        _step(_IF_SET, _MS_SYNC, otherwise=1),
        _step(_RETURN, _ERRNO_0),
        _step(_RETURN, _ALLOW),
    ]
    return block


def _step(code: int, value: int, *, otherwise: int = 0) -> bytes:
    """One struct sock_filter; `otherwise` is how many steps a condition that is false skips."""
    return struct.pack("<HBBI", code, 0, otherwise, value)
