"""Machines, servers and clouds that can't reach each other, and what is left when they can again.

ZooKeeper is a real ensemble of three servers. Each machine reaches it, and the clouds, through cables of
its own; what a test cuts off is cut off for that machine alone.
"""

from __future__ import annotations

import threading
import uuid
from datetime import timedelta

import pytest

from builder.config.model import ZooKeeper
from builder.model import Build, BuildState, FailureClass, Snapshot, UploadState
from builder.store import paths
from tests.fakes.glance import FakeGlance, then_changes
from tests.functional.fleet import SESSION, Fleet, alive, builds_of, ticked
from tests.functional.installation import raw_session, wait_until
from tests.realparts.zookeeper import ZooKeeperEnsemble

pytestmark = pytest.mark.xdist_group("ensemble")


@pytest.fixture
def zookeeper(ensemble: ZooKeeperEnsemble) -> ZooKeeper:
    """A chroot of this test's own on all three servers."""
    return ZooKeeper(hosts=ensemble.hosts, chroot=f"/test-{uuid.uuid4().hex}")


def nothing_doubled(fleet: Fleet, build: Build) -> None:
    """The build is in each cloud once, each record says so, and the clouds hold nothing else."""
    records = fleet.snapshot().image("img")
    ready = [u for u in records.uploads if u.state is UploadState.READY]
    assert {u.build_id for u in ready} == {build.id}
    assert sorted(u.provider for u in ready) == ["one", "two"]
    assert {u.external_id for u in ready} == fleet.cloud_images()


def newest(snapshot: Snapshot) -> Build:
    return next(builds_of(snapshot))


def claim_is_gone(snapshot: Snapshot) -> bool:
    return not snapshot.image("img").build_claimed


# -- servers that die -------------------------------------------------------------------------------

#: Seconds of a session that outlasts an election on a busy machine; the most that the servers grant.
LONG_SESSION = 10


def with_long_sessions(fleet: Fleet) -> None:
    """What a session that ends leads to is told by other tests."""
    for machine in (fleet["a"], fleet["b"]):
        machine.settings["zookeeper-timeout"] = LONG_SESSION
        machine.write()


def test_the_leading_server_dies_in_mid_build_and_mid_upload_and_nothing_is_lost(
    fleet: Fleet, ensemble: ZooKeeperEnsemble, glance: FakeGlance
) -> None:
    with_long_sessions(fleet)
    glance.faults.append(then_changes(status="importing", region="RegionOne"))
    pause = fleet["a"].knob("pause.install")
    fleet.run("a")
    fleet["a"].paused_at("install")
    fleet.run("b", "scheduler", "uploader", "janitor")
    ensemble.leader().stop()
    pause.unlink()
    build = fleet.ready_build()
    fleet.until(lambda s: (build.id, "one") in s.image("img").uploads_claimed)
    wait_until(lambda: any(image["status"] == "importing" for image in glance.images()), fleet.story)
    ensemble.restore()
    ensemble.leader().stop()
    for image in glance.images("RegionOne"):
        glance.change(image["id"], status="active")
    uploads = fleet.ready_uploads(build)
    assert {u.id for u in uploads} == {"0000000001"}
    assert [b.state for b in builds_of(fleet.snapshot())] == [BuildState.READY]
    assert fleet["a"].runs() == 1
    nothing_doubled(fleet, build)


@pytest.mark.parametrize("long", [False, True], ids=["in time", "too late"])
def test_a_majority_of_the_servers_that_comes_back_finds_all_work_done(
    fleet: Fleet, ensemble: ZooKeeperEnsemble, long: bool
) -> None:
    pause = fleet["a"].knob("pause.install")
    fleet.run("a")
    fleet["a"].paused_at("install")
    fleet.run("b", "scheduler", "uploader", "janitor")
    fleet.until(lambda s: alive(s) == {"a", "b"})
    ensemble.cut_majority()
    if long:
        pause.unlink()
        wait_until(lambda: bool(fleet["a"].published()), fleet.story)
        threading.Event().wait(2 * SESSION)  # that it lasts is the fault
    ensemble.restore()
    if not long:
        pause.unlink()
    build = fleet.ready_build()
    fleet.ready_uploads(build)
    assert [b.state for b in builds_of(fleet.snapshot())] == [BuildState.READY]
    assert fleet.all_runs() == {"a": 1, "b": 0}
    nothing_doubled(fleet, build)


def test_a_majority_that_is_away_in_mid_upload_costs_no_second_upload(
    fleet: Fleet, ensemble: ZooKeeperEnsemble, glance: FakeGlance
) -> None:
    with_long_sessions(fleet)
    glance.faults.append(then_changes(status="importing", region="RegionOne"))
    fleet.run("a")
    build = fleet.ready_build()
    fleet.ready_uploads(build, count=1)
    fleet.run("b", "scheduler", "uploader", "janitor")
    fleet.until(lambda s: alive(s) == {"a", "b"})
    wait_until(lambda: any(image["status"] == "importing" for image in glance.images()), fleet.story)
    ensemble.cut_majority()
    for image in glance.images("RegionOne"):
        glance.change(image["id"], status="active")
    ensemble.restore()
    uploads = fleet.ready_uploads(build)
    assert {u.id for u in uploads} == {"0000000001"}
    nothing_doubled(fleet, build)


# -- a machine that can't reach ZooKeeper -----------------------------------------------------------


@pytest.mark.parametrize("silently", [False, True], ids=["broken", "silent"])
def test_a_build_that_ends_while_its_machine_is_cut_off_counts_when_it_is_back(
    fleet: Fleet, silently: bool
) -> None:
    pause = fleet["a"].knob("pause.install")
    fleet.run("a")
    fleet.run("b", "scheduler", "uploader", "janitor")
    fleet["a"].paused_at("install")
    fleet["a"].cut_off_zookeeper(silently=silently)
    fleet.until(claim_is_gone)
    pause.unlink()
    wait_until(lambda: bool(fleet["a"].published()), fleet.story)
    # Meanwhile the others can't know better than that it died.
    lost = fleet.until(lambda s: newest(s) if newest(s).state is BuildState.FAILED else None)
    assert lost.reason is not None and lost.reason.failure_class is FailureClass.INTERRUPTED
    fleet["a"].mend_cables()
    build = fleet.ready_build()
    assert build.id == lost.id
    # None of its phases waited for a word from ZooKeeper.
    assert max(build.timings[phase] for phase in ("hash", "manifest", "publish")) < SESSION
    fleet.ready_uploads(build)
    nothing_doubled(fleet, build)
    assert fleet.all_runs() == {"a": 1, "b": 0}


def test_a_build_that_another_machine_took_over_is_not_brought_back_beside_its_successor(
    fleet: Fleet,
) -> None:
    pause = fleet["a"].knob("pause.install")
    fleet.run("a")
    fleet["a"].paused_at("install")
    fleet.run("b")
    fleet["a"].cut_off_zookeeper()
    successor = fleet.ready_build()
    assert successor.builder == "b"
    fleet.ready_uploads(successor)
    pause.unlink()
    wait_until(lambda: bool(fleet["a"].published()), fleet.story)
    fleet["a"].mend_cables()
    wait_until(lambda: not fleet["a"].published(), fleet.story)
    assert [(b.id == successor.id, b.state) for b in builds_of(fleet.snapshot())] == [
        (True, BuildState.READY),
        (False, BuildState.FAILED),
    ]
    nothing_doubled(fleet, successor)


def test_an_upload_whose_machine_is_cut_off_from_zookeeper_is_there_once_in_the_end(
    fleet: Fleet, glance: FakeGlance
) -> None:
    glance.faults.append(then_changes(status="importing", region="RegionOne"))
    fleet.run("a")
    build = fleet.ready_build()
    fleet.ready_uploads(build, count=1)
    fleet.run("b", "scheduler", "uploader", "janitor")
    fleet.until(lambda s: (build.id, "one") in s.image("img").uploads_claimed)
    wait_until(lambda: any(image["status"] == "importing" for image in glance.images()), fleet.story)
    fleet["a"].cut_off_zookeeper()
    fleet.until(lambda s: (build.id, "one") not in s.image("img").uploads_claimed)
    for image in glance.images("RegionOne"):
        glance.change(image["id"], status="active")
    # Whoever looks after it while its machine can't be asked does not call it ready.
    fleet.until(lambda s: s.image("img").uploads_to("one")[-1].state is UploadState.FAILED)
    fleet["a"].mend_cables()
    fleet.ready_uploads(build)
    fleet.until(lambda s: not any(u.may_linger for u in s.image("img").uploads))
    nothing_doubled(fleet, build)
    assert fleet.all_runs() == {"a": 1, "b": 0}


def test_a_leader_that_is_cut_off_leads_no_more_and_files_no_tick_a_second_time(fleet: Fleet) -> None:
    fleet.start_all("a", "b")
    first = fleet.build_of_yesterday()
    leader = fleet.until(lambda s: s.leader)
    standby = fleet.other_than(leader)
    fleet[leader].cut_off_zookeeper(silently=True)
    # Both of them find it due, and only one can say so.
    fleet.configure_images(schedule=ticked(timedelta(minutes=3)))
    fleet.until(lambda s: s.leader == standby)
    second = fleet.ready_build(after=first.id)
    assert second.request is not None and standby in second.request.by
    fleet.ready_uploads(second)
    fleet.aged(second)
    fleet[leader].mend_cables()
    fleet.until(lambda s: leader in alive(s))
    fleet.next_build("is anything due besides?")
    snapshot = fleet.snapshot()
    assert snapshot.leader == standby
    assert sum(fleet.all_runs().values()) == 3


def test_a_cable_that_breaks_for_a_moment_changes_nothing(fleet: Fleet) -> None:
    pause = fleet["a"].knob("pause.install")
    fleet.run("a")
    fleet["a"].paused_at("install")
    fleet.run("b")
    fleet.until(lambda s: alive(s) == {"a", "b"})
    before = sessions(fleet)
    fleet["a"].cut_off_zookeeper()
    wait_until(lambda: "connection lost" in fleet["a"].daemon.text(), fleet.story)
    fleet["a"].mend_cables()
    wait_until(lambda: "lost" not in since_last_connected(fleet["a"].daemon.text()), fleet.story)
    pause.unlink()
    build = fleet.ready_build()
    fleet.ready_uploads(build)
    assert [b.state for b in builds_of(fleet.snapshot())] == [BuildState.READY]
    assert fleet.all_runs() == {"a": 1, "b": 0}
    assert sessions(fleet) == before
    nothing_doubled(fleet, build)


def sessions(fleet: Fleet) -> set[str]:
    """The nodes by which daemons show themselves: another session of a daemon makes another one."""
    with raw_session(fleet.zookeeper) as client:
        return set(client.get_children(paths.DAEMONS))


def since_last_connected(log: str) -> str:
    """What a daemon said since it last reached a server."""
    return log.rpartition("connection established")[2]


# -- a machine that can't reach the clouds ------------------------------------------------------------


def test_a_machine_cut_off_from_the_clouds_builds_and_uploads_when_it_is_back(fleet: Fleet) -> None:
    fleet["a"].cut_off_clouds()
    fleet.run("a")
    fleet.run("b", "scheduler", "uploader", "janitor")
    build = fleet.ready_build()
    failed = fleet.failed_upload()
    assert failed.reason is not None and failed.reason.failure_class is FailureClass.NETWORK
    assert failed.uploader == "a"
    assert fleet.cloud_images() == set()
    fleet["a"].mend_cables()
    fleet.ready_uploads(build)
    nothing_doubled(fleet, build)
