"""Brings one artifact into one cloud and takes it out again, believing nothing it has not seen.

`upload` goes through the phases preflight, create, send, wait and verify, by the first of the
ordered ways that gets there; what a format has for parts goes the same way before it, each to an
image of its own. What fails in any of them is deleted from the cloud before the
failure is reported; parts stay with an image that could not be. The modules, from the bottom up:

    order, newimage, bandwidth, body   what is to be done, and with what
    run                                one upload under way: its time, its wish to stop, its requests
    discarding, preflight, sending, waiting, verification    one step each
    making, adoption, tasks            the ways, made of these steps
    engine                             the ways one after the other
    removal                            what a finished or broken-off upload has in its cloud goes
    describing                         what its images tell of it, and whether they are listed
"""

from __future__ import annotations

from builder.cloud.transfer.bandwidth import Limiter, Throttle
from builder.cloud.transfer.describing import add_build_facts, hide, show, tell_withheld
from builder.cloud.transfer.engine import upload
from builder.cloud.transfer.newimage import new_image, new_part
from builder.cloud.transfer.order import Listener, Order, Part, TransferError
from builder.cloud.transfer.removal import discard, remove

__all__ = [
    "Limiter",
    "Listener",
    "Order",
    "Part",
    "Throttle",
    "TransferError",
    "add_build_facts",
    "discard",
    "hide",
    "new_image",
    "new_part",
    "remove",
    "show",
    "tell_withheld",
    "upload",
]
