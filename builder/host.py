"""Tells what this machine calls itself."""

from __future__ import annotations

import socket


def host_name() -> str:
    """The name that records know this machine by: its full one where there is such a thing.

    A name that the resolver takes for loopback has `localhost` for its full name, which is the same
    on every machine; then it is the short one.
    """
    full = socket.getfqdn()
    return socket.gethostname() if full.partition(".")[0] == "localhost" else full
