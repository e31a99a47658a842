"""Stopping, reloading, losing the way: what a daemon does that is told to go, or finds another world."""

from __future__ import annotations

import os
import signal
import time

import pytest

from builder.model import BuildState
from builder.store import paths
from tests.fakes.glance import FakeGlance, hangs
from tests.functional.installation import Installation, processes_mentioning, raw_session, wait_until

#: Seconds in which a daemon that has nothing to wait for has to be gone.
AT_ONCE = 10.0


def test_a_build_that_can_not_end_in_time_is_cut_and_taken_over(place: Installation) -> None:
    place.settings["shutdown-grace"] = 60
    place.write()
    pause = place.knob("pause.install")
    daemon = place.start()
    place.paused_at("install")
    began = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - began < AT_ONCE
    assert not processes_mentioning(str(place.control))
    (cut,) = place.until(lambda s: s.image("img").builds)
    assert cut.interrupted
    assert place.until(lambda s: s.image("img").request)
    assert place.until(lambda s: s.leader is None and not s.daemons)
    pause.unlink()
    place.start()
    place.ready_uploads(place.ready_build())
    assert place.runs() == 2


def test_a_build_that_is_nearly_done_ends_well_and_nothing_new_begins(place: Installation) -> None:
    started, hold = place.slow_tool("qemu-img", "convert")
    place.settings["shutdown-grace"] = 60
    place.write()
    daemon = place.start()
    wait_until(started.exists, place.story)
    daemon.process.send_signal(signal.SIGTERM)
    place.until(lambda s: s.daemons and s.daemons[0].draining)
    # The lead is free at once, and whoever is asked for a build while it drains leaves it to others.
    place.until(lambda s: s.leader is None)
    hold.unlink()
    assert daemon.wait() == 0
    build = place.ready_build()
    records = place.snapshot().image("img")
    assert (build.reason, records.uploads, records.request) == (None, (), None)
    place.start()
    place.ready_uploads(build)
    assert place.runs() == 1


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_cuts_what_the_first_one_spared(place: Installation, second: signal.Signals) -> None:
    started, hold = place.slow_tool("qemu-img", "convert")
    place.settings["shutdown-grace"] = 60
    place.write()
    daemon = place.start("--roles", "scheduler,builder")
    wait_until(started.exists, place.story)
    daemon.process.send_signal(signal.SIGINT)
    place.until(lambda s: s.daemons and s.daemons[0].draining)
    assert daemon.process.poll() is None
    began = time.monotonic()
    daemon.process.send_signal(second)
    assert daemon.wait() == 0
    assert time.monotonic() - began < AT_ONCE
    hold.unlink()
    (cut,) = place.snapshot().image("img").builds
    assert cut.interrupted
    assert place.files() == set()


def test_the_end_of_the_grace_cuts_an_upload_that_hangs(place: Installation, glance: FakeGlance) -> None:
    place.no_other_way()
    place.settings["shutdown-grace"] = 1
    place.write()
    glance.faults.append(hangs(on="send", region="RegionOne"))
    daemon = place.start()
    build = place.ready_build()
    place.ready_uploads(build, count=1)
    began = time.monotonic()
    assert daemon.stop() == 0
    assert 0.5 < time.monotonic() - began < AT_ONCE
    (cut,) = place.snapshot().image("img").uploads_to("one")
    assert cut.reason is not None and cut.reason.failure_class == "interrupted"


def test_a_reload_changes_labels_and_grace_and_a_build_that_needs_the_label_begins(
    place: Installation,
) -> None:
    place.image["requires"] = ["fast"]
    place.write()
    daemon = place.start()
    assert place.cli("image", "build", "img").returncode == 0
    place.until(lambda s: s.daemons and not s.daemons[0].labels & {"fast"})
    place.settings |= {"builder-labels": ["fast"], "shutdown-grace": 0}
    place.write()
    os.kill(daemon.process.pid, signal.SIGHUP)
    place.until(lambda s: s.daemons and "fast" in s.daemons[0].labels)
    place.ready_build()
    assert daemon.stop() == 0


def test_a_machine_that_can_not_build_shows_it_and_builds_when_it_can(place: Installation) -> None:
    place.settings["disk-reserve"] = "4000T"
    place.write()
    daemon = place.start()
    unfit = place.until(lambda s: s.daemons and s.daemons[0].unfit)
    assert "disk-reserve" in str(unfit)
    assert place.until(lambda s: s.image("img").request)
    place.settings["disk-reserve"] = "1M"
    place.write()
    os.kill(daemon.process.pid, signal.SIGHUP)
    place.ready_build()
    place.until(lambda s: s.daemons and s.daemons[0].unfit is None)


def test_on_another_installation_it_does_nothing_until_its_own_is_back(place: Installation) -> None:
    daemon = place.start()
    build = place.ready_build()
    place.ready_uploads(build)
    files = place.files()
    with raw_session(place.zookeeper) as client:
        ours, _ = client.get(paths.INSTALLATION)
        client.set(paths.INSTALLATION, b"f" * 32)
        wait_until(lambda: "ZooKeeper holds the installation fff" in daemon.text(), place.story)
        # Were it ours, this would go, in both clouds.
        known = place.snapshot().image("img").build(build.id)
        assert known is not None
        place.store.update_build(known.become(BuildState.DELETING, known.state_time))
        place.store.wake()
        assert place.cli("image", "build", "img", "--now").returncode == 0
        # With the next passes of all its workers, nothing is what has happened.
        place.settings["builder-labels"] = ["fast"]
        place.write()
        os.kill(daemon.process.pid, signal.SIGHUP)
        place.until(lambda s: s.daemons and "fast" in s.daemons[0].labels)
        assert place.runs() == 1
        assert (place.files(), len(place.glance.images())) == (files, 2)
        client.set(paths.INSTALLATION, ours)
    place.ready_build(after=build.id)
    place.until(lambda s: s.image("img").build(build.id) is None)
    assert daemon.stop() == 0
