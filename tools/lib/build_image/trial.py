"""Boots what was built, in an emulator and with a key for it alone."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from build_image.work import Interruption, Say
from builder.config.model import DiskImage
from builder.emulator.guest import Guest, boot
from builder.emulator.machine import Architecture, Disk, Firmware, Machine, Network
from builder.errors import UsageError

#: Seconds; an emulated machine takes about a minute.
BOOT_LIMIT: Final = 600.0
LOGIN_LIMIT: Final = 120.0
_LOOK: Final = 0.5
#: A week: it runs until somebody ends it.
_LIFETIME: Final = 7 * 24 * 3600.0
#: The element by which diskimage-builder makes a disk that UEFI alone boots.
_UEFI_ELEMENT: Final = "block-device-efi"
#: Bytes by which the disk is larger than the image, as in a cloud.
_LARGER: Final = 2 << 30


def machine_for(image: DiskImage, disk: Disk, *, size: int, firmware: str | None) -> Machine:
    """A machine as a cloud would give it: a larger disk, DHCP, router advertisements, a config drive."""
    architecture = image.platform.architecture if image.platform is not None else "amd64"
    if architecture not in set(Architecture):
        raise UsageError(f"machines of the architecture {architecture} can't be booted here")
    usual = Firmware.UEFI if _UEFI_ELEMENT in image.elements else Firmware.BIOS
    return Machine(
        image=disk,
        architecture=Architecture(architecture),
        firmware=Firmware(firmware) if firmware else usual,
        size=size + _LARGER,
        networks=(Network(ipv6="slaac"),),
        lifetime=_LIFETIME,
    )


def try_out(
    machine: Machine, directory: Path, *, user: str, hold: bool, interruption: Interruption, say: Say
) -> None:
    """Boot it and log in; with `hold`, until somebody wants it to end. Raises ActionFailedError."""
    with boot(machine, directory, check=interruption.check) as guest:
        say(f"booting ({guest.accelerator}), console: {directory / 'console.log'}")
        guest.wait_for_ssh(BOOT_LIMIT)
        guest.wait_for_login(LOGIN_LIMIT, user=user)
        say(f"{user} can log in; SSH answered after {guest.seconds.ssh:.0f} s")
        failed = guest.ssh("systemctl --failed --plain --no-legend", user=user, check=False).stdout.strip()
        if failed:
            say(f"units that failed:\n{failed}")
        if hold:
            _hold(guest, user, interruption, say)


def _hold(guest: Guest, user: str, interruption: Interruption, say: Say) -> None:
    say(f"log in:  {guest.ssh_words(user)}")
    say("end it:  Ctrl-C")
    while guest.running and not interruption.wanted.wait(_LOOK):
        pass
    say("the machine is gone, and so is what it wrote")
