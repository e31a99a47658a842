"""Lets those in whose SSH keys are on the config drive."""

from __future__ import annotations

import logging
import os
import pwd
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from network_glean.places import replace_file, restore_labels

USERS = "etc/network-glean/ssh-users.d"
#: A key and at most a remark: no options, and nothing that starts another line.
_KEY = re.compile(
    r"(?:ssh-|ecdsa-|sk-)[A-Za-z0-9@.-]+ [A-Za-z0-9+/]+={0,3}(?: [^\x00-\x1f\x7f\ud800-\udfff]*)?"
)

log = logging.getLogger(__name__)


def keys_of(meta: Mapping[str, Any]) -> list[str]:
    """The SSH keys in the metadata, each a line; what is no key is left out."""
    public = meta.get("public_keys")
    texts = list(public.values()) if isinstance(public, dict) else []
    keys: list[str] = []
    for text in texts:
        for line in filter(None, map(str.strip, str(text).splitlines())):
            if _KEY.fullmatch(line) is None:
                log.warning("a line among the SSH keys is left out, for it is no key: %.40r", line)
            elif line not in keys:
                keys.append(line)
    return keys


def users_of(root: Path) -> list[str]:
    """Who gets the keys: the names in the files of ``/etc/network-glean/ssh-users.d``."""
    users: list[str] = []
    for file in sorted((root / USERS).glob("*")):
        for line in file.read_text().splitlines():
            name = line.partition("#")[0].strip()
            if name and name not in users:
                users.append(name)
    return users


def let_in(user: str, keys: Sequence[str]) -> None:
    """Add to the user's authorized keys those of `keys` that are not there.

    The user may have made anything of the home directory: all is done with the user's own rights.
    """
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        log.warning("no SSH keys for %r, for there is no such user", user)
        return
    child = os.fork()
    if child == 0:
        os._exit(_as_user(entry, keys))
    _, status = os.waitpid(child, 0)
    if status == 0:
        log.info("%s has the SSH keys of the config drive", user)
    else:
        log.error("%s did not get the SSH keys of the config drive", user)


def _as_user(entry: pwd.struct_passwd, keys: Sequence[str]) -> int:
    try:
        os.setgroups([])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
        os.umask(0o077)
        add_keys(Path(entry.pw_dir) / ".ssh/authorized_keys", keys)
    except (OSError, ValueError) as error:
        log.error("%s: %s", entry.pw_name, error)
        return 1
    return 0


def add_keys(file: Path, keys: Sequence[str]) -> None:
    """Add keys to a file of authorized keys; what is in it stays, with its own remarks and order."""
    file.parent.mkdir(mode=0o700, exist_ok=True)
    file = Path(os.path.realpath(file))
    try:
        # Whatever bytes the user has in there come out as they were.
        there = file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except FileNotFoundError:
        there = []
    # The same key under another remark is the same key.
    known = {tuple(line.split()[:2]) for line in there}
    new = [key for key in keys if tuple(key.split()[:2]) not in known]
    if new:
        replace_file(file, "\n".join([*there, *new]) + "\n", 0o600)
        restore_labels(file.parent)
