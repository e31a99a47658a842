"""Runs git so that neither a repository nor a server decides what else is run."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cache_git.listing import Repository
from cache_stage.addresses import masked

#: What git is told in every call: no hooks, no helpers of a work tree, no housekeeping of its own.
_ALWAYS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.attributesFile=/dev/null",
    "fetch.recurseSubmodules=false",
    "fetch.writeCommitGraph=false",
    "fetch.unpackLimit=1",
    "transfer.unpackLimit=1",
    "transfer.bundleURI=false",
    "gc.auto=0",
    "maintenance.auto=false",
)
#: What of the caller's environment is about servers; everything else there is about some repository of its.
_KEPT = ("GIT_CONFIG_", "GIT_CURL_", "GIT_HTTP_", "GIT_PROXY_", "GIT_SSH", "GIT_SSL_")
_UNREACHABLE = (
    "could not resolve",
    "couldn't connect",
    "connection refused",
    "connection timed out",
    "failed to connect",
    "network is unreachable",
    "no route to host",
    "unable to connect",
    "unable to look up",
)
#: Answers a server that wants a name and a password, from the environment and to that server only.
_HELPER = (
    '!f() { [ "$1" != get ] || printf "username=%s\\npassword=%s\\n"'
    ' "$CACHE_GIT_USER" "$CACHE_GIT_PASSWORD"; }; f'
)


class GitError(Exception):
    """Git, or asking a server for its refs, failed; the text is fit for a log."""

    def __init__(self, text: str, *, unreachable: bool = False) -> None:
        super().__init__(text)
        self.unreachable = unreachable  #: whether nobody answered


@dataclass(frozen=True)
class Git:
    """How git is run in this build."""

    timeout: float  #: seconds for one call
    protocols: Sequence[str]

    def run(
        self,
        *arguments: str,
        directory: Path | None = None,
        repository: Repository | None = None,
        keep: Sequence[int] = (),
    ) -> str:
        """Run one command and return what it prints. Raises GitError.

        `directory` is the repository it works on, `repository` whose server it talks to; the descriptors
        `keep` are open in it as well, so that what they lock is locked as long as it lives.
        """
        settings = [word for setting in _ALWAYS for word in ("-c", setting)]
        where = [f"--git-dir={directory}"] if directory else []
        process = subprocess.Popen(
            ["git", *settings, *where, *arguments],
            env=self._environment(repository),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=tuple(keep),
            start_new_session=True,
        )
        try:
            output, errors = process.communicate(timeout=self.timeout)
        except subprocess.TimeoutExpired:
            raise GitError(f"git {arguments[0]} took longer than {self.timeout:.0f} s") from None
        finally:
            # Its helpers, such as git-remote-https, are in its group.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if process.poll() is None:
                process.communicate()
        if process.returncode != 0:
            raise _failure(arguments[0], process.returncode, errors, repository)
        return output.decode(errors="replace")

    def _environment(self, repository: Repository | None) -> dict[str, str]:
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("GIT_") or name.startswith(_KEPT)
        }
        environment |= {
            "LC_ALL": "C",
            "GIT_ALLOW_PROTOCOL": ":".join(self.protocols),
            "GIT_ASKPASS": "/bin/false",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_DEFAULT_HASH": "sha1",
            "GIT_DEFAULT_REF_FORMAT": "files",
            "GIT_TERMINAL_PROMPT": "0",
        }
        # A server that goes silent is given up long before the limit of a clone.
        environment.setdefault("GIT_HTTP_LOW_SPEED_LIMIT", "1000")
        environment.setdefault("GIT_HTTP_LOW_SPEED_TIME", "60")
        environment.setdefault("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o ConnectTimeout=20")
        if repository is not None and (repository.user or repository.password):
            parts = urlsplit(repository.url)
            count = int(environment.get("GIT_CONFIG_COUNT") or 0)
            environment |= {
                "CACHE_GIT_USER": unquote(repository.user),
                "CACHE_GIT_PASSWORD": unquote(repository.password),
                "GIT_CONFIG_COUNT": str(count + 1),
                f"GIT_CONFIG_KEY_{count}": f"credential.{parts.scheme}://{parts.netloc}.helper",
                f"GIT_CONFIG_VALUE_{count}": _HELPER,
            }
        return environment


def _failure(command: str, code: int, errors: bytes, repository: Repository | None) -> GitError:
    secrets = (repository.user, repository.password) if repository else ()
    lines = [line.strip() for line in errors.decode(errors="replace").splitlines() if line.strip()]
    # The last lines of ssh and of servers are advice; the first that says fatal is the reason.
    telling = [line for line in lines if line.startswith(("fatal:", "error:", "remote:"))] or lines
    text = masked(" | ".join(telling[:3]) or f"ended with {code}", *secrets, *map(unquote, secrets))
    printable = "".join(letter if letter.isprintable() else "?" for letter in text)
    unreachable = any(sign in printable.lower() for sign in _UNREACHABLE)
    return GitError(f"git {command}: {printable[:500]}", unreachable=unreachable)
