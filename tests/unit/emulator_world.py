"""Guests for tests that take a moment: boot sectors that say something on the serial port and stop."""

from __future__ import annotations

from pathlib import Path

#: `xor ax, ax; mov ds, ax; mov si, text; mov dx, 0x3f8`, then each byte to the port until a zero, then halt.
_CODE = bytes.fromhex("31c0 8ed8 be157c baf803 ac 84c0 7403 ee ebf8 f4 ebfd")
SECTOR = 512


def speaking(file: Path, text: str, *, size: int = 1 << 20) -> Path:
    """A raw disk whose boot sector says `text` on the serial port, and waits for ever."""
    sector = (_CODE + text.encode() + b"\0").ljust(SECTOR - 2, b"\0") + b"\x55\xaa"
    if len(sector) != SECTOR:
        raise ValueError(f"{text!r} is too long for a boot sector")
    file.write_bytes(sector.ljust(size, b"\0"))
    return file
