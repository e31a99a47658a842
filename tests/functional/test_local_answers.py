"""Commands on the daemon's machine are answered by it, and by ZooKeeper when they can't be."""

from __future__ import annotations

import pytest

from builder.store.asking import SOCKET
from tests.functional.installation import Installation

pytestmark = pytest.mark.real

#: What kazoo says when somebody goes to ZooKeeper.
TO_ZOOKEEPER = "Connecting to"


def rows(place: Installation, *words: str) -> tuple[str, bool]:
    """What a list prints, without what changes by the second, and whether ZooKeeper was asked for it."""
    done = place.cli("-vv", *words, "-f", "value", "-c", "id", "-c", "image", "-c", "state", "-c", "size")
    assert done.returncode == 0, done.stderr
    return done.stdout, TO_ZOOKEEPER in done.stderr


def test_the_daemon_answers_for_as_long_as_it_runs(place: Installation) -> None:
    place.start()
    build = place.ready_build()
    place.ready_uploads(build)
    lists = (("build", "list"), ("upload", "list"))
    by_daemon = [rows(place, *words) for words in lists]
    assert [asked for _, asked in by_daemon] == [False, False]
    assert build.id in by_daemon[0][0] or build.id[:8] in by_daemon[0][0]
    # Somebody has written a change of the file that the daemon may not have taken yet.
    place.config.write_text(place.config.read_text() + "# another one\n")
    edited = place.cli("build", "list", "-f", "value", "-c", "id")
    assert (edited.returncode, edited.stdout.strip()) == (0, build.id)
    place.daemons[-1].kill()
    assert (place.root / "state" / SOCKET).exists()
    assert [rows(place, *words) for words in lists] == [(printed, True) for printed, _ in by_daemon]
