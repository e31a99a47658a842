"""Reads on a serial console why a machine does not come up, so that nobody waits for it in vain."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

#: Lines before and after the one that tells, which are shown with it.
_BEFORE, _AFTER = 8, 6


@dataclass(frozen=True, kw_only=True)
class Sign:
    """What a line means, as the end of a sentence, and the lines around it."""

    meaning: str
    lines: tuple[str, ...]


#: What ends a boot for good, the first that fits. Sources: SeaBIOS src/boot.c; edk2 BdsDxe; GRUB
#: grub-core/kern/rescue_parser.c; the kernel's init/do_mounts.c and kernel/panic.c; initramfs-tools
#: scripts/functions (panic); dracut modules.d/98dracut-systemd (dracut-emergency.sh, too) and
#: 99base/dracut-lib.sh; systemd units/emergency.service and src/sulogin-shell.
_FATAL: Final = tuple(
    (re.compile(pattern), meaning)
    for pattern, meaning in (
        (r"No bootable device|Boot failed: not a bootable disk", "the firmware found nothing to boot"),
        (r"BdsDxe: No bootable option|UEFI Interactive Shell v", "the firmware found nothing to boot"),
        (r"grub rescue>|Entering rescue mode\.\.\.", "the boot loader does not find its own files"),
        (r"VFS: (Cannot open root device|Unable to mount root)", "the kernel can't use the root file system"),
        (r"No working init found|Attempted to kill init!", "the kernel found nothing to start, or it died"),
        (r"Kernel panic - not syncing", "the kernel gave up"),
        (
            r"ALERT!.* does not exist\.|\(initramfs\) ?$",
            "the initramfs does not find the root file system, or has no driver for the disk",
        ),
        (
            r"dracut-initqueue.*Could not boot|dracut:/#",
            "the initramfs does not find the root file system, or has no driver for the disk",
        ),
        (
            r"Entering emergency mode\. Exit the shell",
            "the initramfs does not find the root file system, or can't mount it",
        ),
        (
            r"You are in (emergency|rescue) mode|Give root password for maintenance"
            r"|Cannot open access to console, the root account is locked",
            "systemd went to emergency mode, as for a file system that can't be mounted",
        ),
    )
)
#: Somebody can log in at the console: all that starts at boot is about to be up.
_LOGIN: Final = re.compile(r"\blogin: ?$")


def fatal(console: Sequence[str]) -> Sign | None:
    """What on a console says that this boot comes to nothing; None when nothing does."""
    for pattern, meaning in _FATAL:
        for number, line in enumerate(console):
            if pattern.search(line):
                lines = console[max(0, number - _BEFORE) : number + 1 + _AFTER]
                return Sign(meaning=meaning, lines=tuple(lines))
    return None


def asks_for_login(console: Sequence[str]) -> bool:
    """Whether a console asks who wants to log in."""
    return any(_LOGIN.search(line) for line in console)
