"""Logs into a tree by its own sshd, without a network: sshd talks to the client through a pipe."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Final

from tests.elements.trees import LIMIT, Tree

_SERVER: Final = (
    'cd "$0" && mkdir -p proc dev run tmp && mount -t proc proc proc && mount --rbind /dev dev && '
    "mount -t tmpfs tmpfs run && mkdir run/sshd && mount -t tmpfs tmpfs tmp && "
    'install -m 600 "$1" tmp/host_key && exec chroot . /usr/sbin/sshd -i -e -h /tmp/host_key'
)


def make_key(place: Path, name: str, kind: str = "ed25519") -> Path:
    """A new key pair; the private one's path, and beside it the public one with .pub."""
    key = place / name
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", f"{name}@example", "-f", str(key)], check=True
    )
    return key


def log_in(
    tree: Tree, user: str, command: str, *, place: Path, key: Path | None = None, password: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command as a user of the tree, by a key or a password; 255 is the code when nobody got in.

    `place` is a directory for what ssh needs.
    """
    host_key, server, answer = place / "host_key", place / "server", place / "answer"
    if not host_key.exists():
        make_key(place, host_key.name)
    chroot = shlex.join(["bash", "-c", _SERVER, str(tree.root), str(host_key)])
    server.write_text(f"#!/bin/bash\nexec unshare --mount --propagation private {chroot}\n")
    answer.write_text(f"#!/bin/bash\necho {shlex.quote(password or '')}\n")
    for program in (server, answer):
        program.chmod(0o755)
    if key:
        how = [f"IdentityFile={key}", "PreferredAuthentications=publickey"]
    else:
        how = ["PreferredAuthentications=password,keyboard-interactive", "NumberOfPasswordPrompts=1"]
    options = [
        *(f"ProxyCommand={server}", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null"),
        *("LogLevel=ERROR", "IdentityAgent=none", "IdentitiesOnly=yes", *how),
    ]
    return subprocess.run(
        ["ssh", "-F", "none", *(f"-o{option}" for option in options), f"{user}@tree", command],
        env={"PATH": os.environ["PATH"], "SSH_ASKPASS": str(answer), "SSH_ASKPASS_REQUIRE": "force"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
