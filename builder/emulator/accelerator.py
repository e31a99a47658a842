"""Decides how a guest's instructions are run: by KVM where a guest really runs under it, else by QEMU.

That /dev/kvm can be opened means little: in many virtual machines it can, and every guest hangs. So a
guest of a few instructions is started that does nothing but end itself.
"""

from __future__ import annotations

import logging
import os
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from builder import host
from builder.emulator.machine import Architecture
from builder.errors import ToolMissingError
from builder.process.child import find_tool, run

LOG = logging.getLogger(__name__)

KVM_DEVICE: Final = Path("/dev/kvm")
PACKAGES: Final = {Architecture.AMD64: "qemu-system-x86", Architecture.ARM64: "qemu-system-arm"}
#: Seconds; it takes half of one, and where guests hang it is waited for in vain.
PROBE: Final = 5.0

#: A boot sector (at 0x7c00) that makes page tables at 0x1000 which map the first 2 MiB onto themselves,
#: goes to 64-bit mode (CR4.PAE, EFER.LME, CR0.PE and PG), counts down from 2^28, which a real CPU does in a
#: tenth of a second, and ends QEMU by its isa-debug-exit (out 0xf4, 0x2a). Short of all that guests may
#: well get on where none would ever boot: each of their instructions may be a trap.
_SECTOR: Final = (
    bytes.fromhex(
        "fa31c08ed88ec08ed0bc0070bf00106631c0b9000cfc66f3ab66c70600100320000066c70600200330000066"
        "c7060030830000000f0116987c0f20e06683c8200f22e066b8001000000f22d866b9800000c00f32660d0001"
        "00000f300f20c0660d010000800f22c066ea707c00000800b900000010ffc975fc66baf400b02aeef4ebfd0f"
        "1f440000000000000000000000000000009a20000f00887c0000"
    ).ljust(510, b"\0")
    + b"\x55\xaa"
)
_SECTOR_CODE: Final = 0x2A << 1 | 1
#: A kernel: `mov w0, #0x84000008; hvc #0`, PSCI's SYSTEM_OFF, upon which QEMU ends with 0.
_KERNEL: Final = bytes.fromhex("00018052 0080b072 020000d4")


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """QEMU's words for how instructions are run, and which CPU the guest sees."""

    name: str  #: "kvm" or "tcg"
    argument: str
    cpu: str


_KVM_CPU: Final = "host"
#: The CPUs of a guest take turns. With a thread for each (`thread=multi`), one of them may meet a breakpoint
#: that another has already taken out of the code: Linux changes its own code so as it boots, and good
#: images died of it now and then ("Oops: int3", QEMU 7.2). The translated code is bounded, in MiB.
_TCG: Final = "tcg,thread=single,tb-size=256"
#: Without la57, which makes each look into the page tables longer. What x86-64-v3 asks for is in it.
_TCG_CPU: Final = {Architecture.AMD64: "max,la57=off", Architecture.ARM64: "cortex-a57"}


def choose(architecture: Architecture) -> Accelerator:
    """The fastest way that works here; raises ToolMissingError without a QEMU for the architecture."""
    program = emulator(architecture)
    if works(program, architecture):
        return Accelerator(name="kvm", argument="kvm", cpu=_KVM_CPU)
    return emulated(architecture)


def emulated(architecture: Architecture) -> Accelerator:
    """The way that works everywhere."""
    return Accelerator(name="tcg", argument=_TCG, cpu=_TCG_CPU[architecture])


def emulator(architecture: Architecture) -> str:
    """The path of the QEMU for an architecture; raises ToolMissingError."""
    return find_tool(f"qemu-system-{architecture.kernel_name}", package=PACKAGES[architecture])


@cache
def works(program: str, architecture: Architecture) -> bool:
    """Whether a guest of that architecture runs under KVM here; tried once in the life of a process."""
    if architecture not in host.architectures() or not os.access(KVM_DEVICE, os.R_OK | os.W_OK):
        return False
    answer = runs(program, architecture, "kvm", _KVM_CPU)
    if not answer:
        LOG.info("%s can be opened, but no guest runs under it: guests are emulated", KVM_DEVICE)
    return answer


def runs(program: str, architecture: Architecture, accelerator: str, cpu: str, limit: float = PROBE) -> bool:
    """Whether a guest of a few instructions ends itself under an accelerator within `limit` seconds."""
    with tempfile.TemporaryDirectory(prefix="imagepool-probe-") as name:
        file = Path(name) / "guest"
        arguments, wanted = _probe(architecture, file)
        common = ["-no-user-config", "-nodefaults", "-display", "none", "-m", "128", "-no-reboot"]
        try:
            ended = run([program, "-accel", accelerator, "-cpu", cpu, *common, *arguments], timeout=limit)
        except (TimeoutError, ToolMissingError, OSError):
            return False
    return ended.code == wanted


def _probe(architecture: Architecture, file: Path) -> tuple[list[str], int]:
    """The guest that ends itself, and the exit code by which QEMU shows it."""
    if architecture is Architecture.ARM64:
        file.write_bytes(_KERNEL)
        return ["-M", "virt", "-kernel", str(file)], 0
    file.write_bytes(_SECTOR)
    disk = f"file={file},format=raw,if=ide"
    return ["-M", "pc", "-drive", disk, "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"], _SECTOR_CODE
