"""Puts files in their places: whole or not at all, and with the label SELinux wants."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_RESTORE_LABELS = Path("/usr/sbin/restorecon")
_ENFORCED = Path("/sys/fs/selinux/enforce")


def replace_file(path: Path, text: str, mode: int) -> bool:
    """Make `text` the content of a file, made by nobody else meanwhile; says whether that changed it.

    Its directory exists. Raises OSError where it can't be written.
    """
    data = text.encode("utf-8", errors="surrogateescape")
    try:
        if path.read_bytes() == data and path.stat().st_mode & 0o7777 == mode:
            return False
    except FileNotFoundError:
        pass
    new = path.with_name(f".{path.name}.network-glean")
    new.unlink(missing_ok=True)
    # O_EXCL: a link that someone put there in this moment is not followed.
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
    return True


def restore_labels(*paths: Path) -> None:
    """Give files the labels of SELinux's policy, where there is one."""
    there = [str(path) for path in paths if path.exists()]
    if there and _RESTORE_LABELS.exists() and _ENFORCED.exists():
        subprocess.run([_RESTORE_LABELS, "-F", "-R", *there], check=False)
