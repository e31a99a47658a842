"""Boots an image and keeps it running, for somebody to look around in it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from builder.bootorder import KEY, LOGIN, Order
from builder.boottest.run import machine
from builder.emulator.guest import Guest, boot
from builder.emulator.ssh import LOOPBACK

#: Seconds; whoever looks around ends it. A week, so that one that is forgotten does not stay.
LIFETIME: Final = 7 * 24 * 3600.0
_LOGIN: Final = 180.0
_LOOK: Final = 0.5


def hold(order: Order, *, say: Callable[[str], None]) -> None:
    """Boot it, let its user in, write down how to log in, and stay until the machine ends or we are ended.

    What is written is for the owner of `order.place`, who may be another user than we are. Raises as
    `emulator.guest.boot` and its waiting do.
    """
    place = Path(order.place)
    with boot(machine(order, lifetime=LIFETIME), place) as guest:
        say(f"booting under {guest.accelerator}; this takes a minute or more in emulation")
        guest.wait_for_ssh(order.timeout)
        guest.wait_for_login(_LOGIN, user=order.user)
        _tell(guest, order, place)
        while guest.running:
            time.sleep(_LOOK)
    say("the machine has ended")


def _tell(guest: Guest, order: Order, place: Path) -> None:
    owner, key, told = place.stat(), place / KEY, place / LOGIN
    guest.copy_key(key)
    draft = told.with_suffix(".partial")
    draft.write_text(json.dumps({"host": LOOPBACK, "port": guest.port, "user": order.user, "key": str(key)}))
    for path in (key, draft):
        os.chown(path, owner.st_uid, owner.st_gid)
    # Whoever waits for it finds it whole, and finds the key.
    draft.rename(told)
