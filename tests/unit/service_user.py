"""A service user with sudo, as an operator sets one up, but only inside a mount namespace of its own.

The machine's own users and sudo's rules are not touched, and nothing has to be undone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).parents[2]
NAME = "imagepool-tester"
NUMBER = 61234
RULE = PROJECT / "config" / "sudoers.d" / "imagepool"

#: What becomes true inside the namespace; then the words that follow are run as the user.
_WORLD = """
set -eu
for file in passwd group shadow; do mount --bind "$PLACE/etc/$file" "/etc/$file"; done
mount --bind "$PLACE/etc/sudoers.d" /etc/sudoers.d
# A clone that only root can read is read by the user as well; what root may do besides is not.
exec setpriv --reuid "$NUMBER" --regid "$NUMBER" --clear-groups \
    --inh-caps +dac_read_search --ambient-caps +dac_read_search "$@"
"""


class ServiceUser:
    """A user that may run imagepool-root as root, with a home for builds and an installation."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.work = place / "work"
        self.bin = place / "bin"
        self.bin.mkdir()
        # The plain Python: no venv of root's is in the way, and building needs no library.
        python = self.bin / "python3"
        python.symlink_to(Path(getattr(sys, "_base_executable", sys.executable)).resolve())
        program = self.bin / "imagepool-root"
        program.write_text(
            f"#!{python}\nimport sys\nsys.path.insert(0, {str(PROJECT)!r})\n"
            "from builder.dib.isolation.asroot import main\nsys.exit(main())\n"
        )
        program.chmod(0o755)
        self._users()
        self.allow()
        for directory in (place, self.work):
            directory.mkdir(exist_ok=True)
            os.chown(directory, NUMBER, NUMBER)
        place.chmod(0o755)

    def _users(self) -> None:
        etc = self.place / "etc"
        (etc / "sudoers.d").mkdir(parents=True)
        entries = {
            "passwd": f"{NAME}:x:{NUMBER}:{NUMBER}::{self.place}:/bin/sh",
            "group": f"{NAME}:x:{NUMBER}:",
            "shadow": f"{NAME}:*:20000::::::",
        }
        for file, entry in entries.items():
            shutil.copy2(Path("/etc", file), etc / file)
            with (etc / file).open("a") as stream:
                stream.write(f"{entry}\n")

    def allow(self) -> None:
        """Put the rule in force that imagepool ships, for this user and this installation."""
        text = RULE.read_text().replace("\nimagepool ", f"\n{NAME} ")
        rule = self.place / "etc" / "sudoers.d" / "imagepool"
        rule.write_text(text.replace("/opt/imagepool", str(self.place)))
        rule.chmod(0o440)

    def forbid(self) -> None:
        """Take the rule away again."""
        (self.place / "etc" / "sudoers.d" / "imagepool").unlink()

    def start(self, program: str, *words: str) -> subprocess.Popen[str]:
        """Start a Python program of the user's, with builder on its path; stdin and output are pipes."""
        return subprocess.Popen(
            [
                *("unshare", "--mount", "--propagation", "private", "bash", "-c", _WORLD, "world"),
                *(str(self.bin / "python3"), "-c", program, *words),
            ],
            env={
                "PATH": f"{self.bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "PLACE": str(self.place),
                "NUMBER": str(NUMBER),
                "PYTHONPATH": str(PROJECT),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            cwd=self.place,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, program: str, *words: str) -> str:
        """Run such a program to its end; what it printed."""
        with self.start(program, *words) as process:
            return process.communicate(timeout=120)[0]


@contextmanager
def service_user() -> Iterator[ServiceUser]:
    """A service user and its home, which is removed afterwards."""
    place = Path(tempfile.mkdtemp(prefix="imagepool-test-", dir="/var/tmp"))
    try:
        yield ServiceUser(place)
    finally:
        shutil.rmtree(place)
