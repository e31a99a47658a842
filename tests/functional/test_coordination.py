"""Many machines, one truth: who leads, who builds what, and what is left when one of them dies or sleeps."""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from builder.model import BuildState, FailureClass, Request, Snapshot, Upload, UploadState
from builder.store import paths
from tests.fakes.glance import FakeGlance, answers, hangs, then_changes
from tests.functional.fleet import SESSION, Fleet, alive, builds_of, ticked
from tests.functional.installation import (
    processes_mentioning,
    raw_session,
    suspended,
    wait_until,
)
from tests.realparts.zookeeper import ZooKeeperServer

ALL_BUT_BUILDING = ("scheduler", "uploader", "janitor")


# -- one leads ----------------------------------------------------------------------------------------


def test_when_the_leader_is_killed_another_leads_and_no_tick_is_served_twice(fleet: Fleet) -> None:
    fleet.run("a", *ALL_BUT_BUILDING)
    fleet.until(lambda s: s.leader == "a")
    fleet.run("b")
    fleet.build_of_yesterday()
    hold = fleet["b"].knob("pause.install")
    entry = ticked(timedelta(minutes=3))
    fleet.configure_images(schedule=entry)
    fleet["b"].paused_at("install")
    request = fleet.snapshot().image("img").request
    assert request is not None and request.tick is not None and "on a" in request.by
    fleet["a"].daemon.kill()
    died = time.monotonic()
    fleet.until(lambda s: s.leader == "b")
    assert time.monotonic() - died < 5 * SESSION
    hold.unlink()
    second = fleet.until(
        lambda s: next((b for b in s.image("img").ready_builds if b.request and b.request.tick), None)
    )
    fleet.until(lambda s: s.image("img").request is None)
    # From here on nothing says that the tick was served, but for its mark.
    fleet.aged(second)
    fleet.run("a", *ALL_BUT_BUILDING)
    fleet.until(lambda s: "a" in alive(s))
    fleet.next_build("is anything due besides?")
    assert sum(fleet.all_runs().values()) == 3
    assert fleet.snapshot().image("img").ticks == {entry: request.tick}


def test_a_leader_that_slept_longer_than_its_session_leads_no_more(fleet: Fleet) -> None:
    fleet.start_all("a", "b")
    first = fleet.build_of_yesterday()
    leader = fleet.until(lambda s: s.leader)
    standby = fleet.other_than(leader)
    entry = ticked(timedelta(minutes=3))
    with suspended(fleet[leader].daemon.process.pid):
        fleet.until(lambda s: s.leader == standby)
        fleet.configure_images(schedule=entry)
        second = fleet.ready_build(after=first.id)
        fleet.ready_uploads(second)
        fleet.until(lambda s: leader not in alive(s))
    fleet.until(lambda s: leader in alive(s))
    fleet.aged(second)
    fleet.next_build("is anything due besides?")
    snapshot = fleet.snapshot()
    assert snapshot.leader == standby
    assert list(snapshot.image("img").ticks) == [entry]
    assert sum(fleet.all_runs().values()) == 3


# -- a machine dies -----------------------------------------------------------------------------------


def test_a_killed_builders_request_is_taken_over_and_its_own_start_clears_up(fleet: Fleet) -> None:
    fleet["a"].knob("pause.install")
    fleet.run("a")
    fleet["a"].paused_at("install")
    fleet.run("b")
    fleet["a"].daemon.kill()
    build = fleet.ready_build()
    assert build.builder == "b"
    fleet.ready_uploads(build)
    lost = [b for b in builds_of(fleet.snapshot()) if b.state is BuildState.FAILED]
    assert [b.reason.failure_class for b in lost if b.reason] == [FailureClass.INTERRUPTED]
    fleet.run("a")
    fleet.until(lambda s: "a" in alive(s))
    assert not fleet["a"].published()
    assert not processes_mentioning(str(fleet["a"].control))
    wait_until(lambda: not fleet["a"].files(), fleet.story)
    assert len(fleet.cloud_images()) == 2


def test_a_crash_between_the_files_and_the_last_word_loses_nothing(fleet: Fleet) -> None:
    pause = fleet["a"].knob("pause.install")
    fleet.run("a")
    fleet["a"].paused_at("install")
    fleet.run("b", *ALL_BUT_BUILDING)
    fleet["a"].cut_off_zookeeper()
    pause.unlink()
    wait_until(lambda: "can't be written yet" in fleet["a"].daemon.text(), fleet.story)
    fleet["a"].daemon.kill()
    lost = fleet.until(lambda s: next((b for b in builds_of(s) if b.state is BuildState.FAILED), None))
    files = fleet["a"].published()
    assert files
    fleet["a"].mend_cables()
    fleet.run("a")
    build = fleet.ready_build()
    assert build.id == lost.id
    assert build.reason is None
    fleet.ready_uploads(build)
    assert fleet["a"].published() == files
    assert fleet.all_runs() == {"a": 1, "b": 0}


def test_a_crash_of_the_uploader_leaves_no_half_image_while_its_machine_is_away(
    fleet: Fleet, glance: FakeGlance
) -> None:
    glance.faults.append(then_changes(status="importing", region="RegionOne"))
    fleet.run("a")
    build = fleet.ready_build()
    fleet.ready_uploads(build, count=1)
    wait_until(lambda: any(image["status"] == "importing" for image in glance.images()), fleet.story)
    fleet.run("b", *ALL_BUT_BUILDING)
    fleet["a"].daemon.kill()
    # The files are on the dead machine, but anybody can delete what it left in the cloud.
    wait_until(lambda: not glance.images("RegionOne"), fleet.story)
    fleet.failed_upload()
    fleet.run("a")
    uploads = fleet.ready_uploads(build)
    assert {u.external_id for u in uploads} == fleet.cloud_images()
    assert fleet.all_runs() == {"a": 1, "b": 0}


def test_a_crash_of_the_janitor_leaves_its_work_to_another(fleet: Fleet, glance: FakeGlance) -> None:
    fleet.run("a")
    upload = fleet.ready_uploads(fleet.ready_build())[0]
    glance.faults.append(hangs(on="delete"))
    fleet.store.update_upload(replace(upload, state=UploadState.DELETING))
    wait_until(lambda: glance.faults[0].times == 0, fleet.story)
    fleet.run("b", "janitor")
    fleet.until(lambda s: "b" in alive(s))
    fleet["a"].daemon.kill()
    wait_until(lambda: upload.external_id not in fleet.cloud_images(), fleet.story)
    fleet.until(lambda s: all(u.name != upload.name for u in s.image("img").uploads))


# -- a machine that is gone for good --------------------------------------------------------------------


def test_what_a_forgotten_machine_built_stays_in_use_until_successors_are_ready(
    fleet: Fleet, glance: FakeGlance
) -> None:
    glance.faults.append(answers(503, on="create", region="RegionTwo", times=None))
    for name in "ab":
        fleet[name].settings["failed-retention"] = 1
        fleet[name].write()
    fleet.run("a")
    old = fleet.ready_build()
    before = {u.external_id for u in fleet.ready_uploads(old, count=1)}
    fleet.failed_upload("two")
    fleet["a"].daemon.kill()
    hold = fleet["b"].knob("pause.install")
    fleet.run("b")
    fleet.until(lambda s: alive(s) == {"b"})
    glance.faults.clear()
    forgotten = fleet.cli("builder", "forget", "a", "--why", "its disk died")
    assert forgotten.returncode == 0, forgotten.stderr
    (word,) = fleet.snapshot().forgotten.values()
    assert word.why == "its disk died"
    # What provider two still lacks can't come from the machine that is gone: a new build is due.
    fleet["b"].paused_at("install")
    assert fleet.cloud_images() == before
    hold.unlink()
    second = fleet.ready_build(after=old.id)
    fleet.ready_uploads(second)
    assert second.builder == "b"
    # From here on retention counts its builds as it does all others.
    fleet.ready_uploads(fleet.next_build("the next day"))
    fleet.until(lambda s: all(b.id != old.id for b in builds_of(s)))
    wait_until(lambda: not before & fleet.cloud_images(), fleet.story)
    # If it comes back after all, its files are of no build any more.
    assert fleet["a"].published()
    fleet.run("a")
    wait_until(lambda: not fleet["a"].published(), fleet.story)
    assert fleet["b"].published()


def test_a_forgotten_machine_that_comes_back_is_known_again(fleet: Fleet) -> None:
    fleet.run("a")
    old = fleet.ready_build()
    fleet.ready_uploads(old)
    builder_id = fleet["a"].builder_id
    fleet["a"].daemon.kill()
    wait_until(lambda: not alive(fleet.snapshot()), fleet.story)
    assert fleet.cli("builder", "forget", "a").returncode == 0
    assert set(fleet.snapshot().forgotten) == {builder_id}
    again = fleet.run("a")
    fleet.until(lambda s: not s.forgotten)
    assert "forgotten" in again.text()
    assert [b.id for b in builds_of(fleet.snapshot())] == [old.id]
    assert len(fleet.cloud_images()) == 2


# -- who builds what ----------------------------------------------------------------------------------


def frozen_start(fleet: Fleet, *names: str) -> None:
    """Start machines while everything is frozen, and let them go on at the same moment."""
    assert fleet.cli("freeze", "--reason", "until all are there").returncode == 0
    fleet.start_all(*names)
    fleet.until(lambda s: alive(s) == set(names))
    assert fleet.cli("unfreeze").returncode == 0


def test_two_builders_share_what_is_due_at_once(fleet: Fleet) -> None:
    holds = [fleet[name].knob("pause.install") for name in "ab"]
    fleet.images(6)
    frozen_start(fleet, "a", "b")
    for name in "ab":
        fleet[name].paused_at("install")
    for hold in holds:
        hold.unlink()
    fleet.until(lambda s: all(len(s.image(f"img-{n}").ready_builds) == 1 for n in range(6)))
    runs = fleet.all_runs()
    assert sum(runs.values()) == 6
    assert min(runs.values()) >= 2, runs


def _lacks_a_label(fleet: Fleet) -> str:
    fleet["b"].settings["builder-labels"] = ["ssd"]
    fleet.configure_images(requires=["ssd"])
    return "ssd"


def _lacks_disk(fleet: Fleet) -> str:
    fleet["a"].settings["disk-reserve"] = "900T"
    return "disk-reserve"


def _lacks_a_tool(fleet: Fleet) -> str:
    (fleet["a"].root / "programs" / "qemu-img").unlink()
    return "qemu-img"


@pytest.mark.parametrize("spoil", [_lacks_a_label, _lacks_disk, _lacks_a_tool], ids=["label", "disk", "tool"])
def test_a_builder_that_can_not_build_it_leaves_it_to_one_that_can(
    fleet: Fleet, spoil: Callable[[Fleet], str]
) -> None:
    assert fleet.cli("freeze").returncode == 0
    fleet["a"].own_programs()
    fleet.run("a")
    fleet.until(lambda s: alive(s) == {"a"})
    word = spoil(fleet)
    for machine in fleet.machines.values():
        machine.write()
    wait_until(lambda: "configuration is in force" in fleet["a"].daemon.text(), fleet.story)
    assert fleet.cli("unfreeze").returncode == 0
    fleet.until(lambda s: s.image("img").request)

    def explained() -> str:
        return fleet.cli("image", "explain", "img", "-f", "json").stdout

    wait_until(lambda: word in explained(), lambda: explained() + fleet.story())
    assert "a: it" in explained()
    assert not list(builds_of(fleet.snapshot()))
    fleet.run("b")
    build = fleet.ready_build()
    fleet.ready_uploads(build)
    assert build.builder == "b"
    assert [b.state for b in builds_of(fleet.snapshot())] == [BuildState.READY]
    assert fleet.all_runs() == {"a": 0, "b": 1}


# -- what people say ----------------------------------------------------------------------------------


def test_frozen_nothing_begins_until_somebody_forces_or_unfreezes_it(fleet: Fleet) -> None:
    fleet["a"]
    fleet.images(2)
    assert fleet.cli("freeze", "--reason", "moving house").returncode == 0
    fleet.run("a")
    fleet.until(lambda s: alive(s) == {"a"})
    listed = fleet.cli("image", "list")
    assert "moving house" in listed.stdout + listed.stderr
    refused = fleet.cli("image", "build", "img-0")
    assert refused.returncode not in (0, 1) and "moving house" in refused.stderr
    assert fleet.cli("image", "build", "img-0", "--force").returncode == 0
    forced = fleet.until(lambda s: next(iter(s.image("img-0").ready_builds), None))
    # Its uploads, and the other image, have been due all the time.
    assert not fleet.snapshot().image("img-1").builds
    assert not list(fleet.snapshot().uploads())
    assert fleet.cli("unfreeze").returncode == 0
    fleet.until(lambda s: len([u for u in s.uploads() if u.state is UploadState.READY]) == 4)
    assert fleet.all_runs() == {"a": 2}
    assert fleet.snapshot().image("img-0").ready_builds == (fleet.store.get_build("img-0", forced.id),)


def test_a_paused_provider_gets_nothing_new_and_the_others_do(fleet: Fleet) -> None:
    fleet["a"]
    assert fleet.cli("provider", "pause", "one", "--reason", "maintenance").returncode == 0
    fleet.run("a")
    build = fleet.ready_build()
    fleet.ready_uploads(build, count=1)
    second = fleet.next_build("while it is paused")
    fleet.ready_uploads(second, count=1)
    assert not fleet.snapshot().image("img").uploads_to("one")
    assert "maintenance" in fleet.cli("image", "explain", "img").stdout
    assert fleet.cli("provider", "unpause", "one").returncode == 0
    fleet.ready_uploads(second)


def test_several_are_asked_for_at_once_one_goes_before_and_one_is_taken_back(fleet: Fleet) -> None:
    fleet["a"]
    names = fleet.images(4)
    fleet.run("a")
    fleet.until(lambda s: all(s.image(name).ready_builds and not s.image(name).request for name in names))
    hold = fleet["a"].knob("pause.install")
    assert fleet.cli("image", "build", "img-0").returncode == 0
    fleet["a"].paused_at("install")
    asked = fleet.cli("image", "build", "--all", "--why", "all anew")
    assert asked.returncode == 0, asked.stderr
    assert fleet.cli("image", "build", "img-3", "--now").returncode == 0
    taken_back = fleet.cli("request", "cancel", "img-1")
    assert taken_back.returncode == 0, taken_back.stderr
    hold.unlink()
    fleet.until(lambda s: len(s.image("img-2").ready_builds) == 2)
    fleet.until(lambda s: not any(s.image(name).request for name in names))
    snapshot = fleet.snapshot()
    assert [len(snapshot.image(name).builds) for name in names] == [2, 1, 2, 2]
    before, after = (snapshot.image(name).builds[0] for name in ("img-3", "img-2"))
    assert before.began < after.began
    assert after.request is not None and after.request.why == "all anew"


# -- two versions side by side --------------------------------------------------------------------------


def put(fleet: Fleet, path: str, **more: Any) -> None:
    """Write fields into a record, as a newer version would that knows them."""
    with raw_session(fleet.zookeeper) as client:
        data, stat = client.get(path)
        client.set(path, json.dumps(merged(json.loads(data), more)).encode(), version=stat.version)


def merged(record: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """The record with more in it, objects within objects included."""
    inner = {key: merged(record[key], more[key]) for key in more if isinstance(record.get(key), dict)}
    return {**record, **more, **inner}


def stored(fleet: Fleet, path: str) -> dict[str, Any]:
    """What is at a path now."""
    with raw_session(fleet.zookeeper) as client:
        data, _ = client.get(path)
    record: dict[str, Any] = json.loads(data)
    return record


def holds(record: Mapping[str, Any], more: Mapping[str, Any]) -> bool:
    """Whether all of `more` is in the record, at whatever depth."""
    return all(
        holds(record[key], value) if isinstance(value, dict) else record.get(key) == value
        for key, value in more.items()
        if key in record or not isinstance(value, dict)
    )


def test_what_another_version_wrote_is_kept_whole_through_a_whole_cycle(fleet: Fleet) -> None:
    newer = {"future": {"depth": [1, {"two": 2}]}}
    fleet["a"].image["stable-name"] = "img-now"
    fleet["a"].write()
    fleet.run("a")
    first = fleet.ready_build()
    uploads = fleet.ready_uploads(first)
    fleet.until(lambda s: all(u.serving for u in s.image("img").uploads_of(first.id)))
    fleet.until(lambda s: s.image("img").request is None)
    # A newer daemon died in mid-build, and another newer one gave up for a reason that has no name yet.
    began = (datetime.now(UTC) - timedelta(hours=2)).timestamp()
    half = {"state": "building", "state_time": began, "builder": "newer", "builder_id": str(uuid.uuid4())}
    strange = {"class": "gremlins", "message": "they got in", "moon": "full"}
    lost, failed = uuid.uuid4().hex, uuid.uuid4().hex
    with raw_session(fleet.zookeeper) as client:
        for build_id, record in (
            (lost, {**half, "phase": "gilding", **newer}),
            (failed, {**half, "state": "failed", "reason": strange, **newer}),
        ):
            client.create(paths.build("img", build_id), json.dumps(record).encode())
        # An older daemon shows less of itself, a newer one more.
        shown = {"hostname": "older", "roles": ["uploader"], "version": "0.1", "started": began}
        client.create(f"{paths.DAEMONS}/older-0000000000", json.dumps(shown).encode(), ephemeral=True)
        shown = {**shown, "hostname": "newer", "roles": ["uploader", "oracle"], "mood": "fine", **newer}
        client.create(f"{paths.DAEMONS}/newer-0000000000", json.dumps(shown).encode(), ephemeral=True)
        put(fleet, paths.build("img", first.id), request={"mood": "fine"}, **newer)
        for upload in uploads:
            put(fleet, upload_path(upload), **newer)
        fleet.until(lambda s: {"older", "newer"} <= alive(s))
        fleet.until(lambda s: written_by_us(s, lost))
        second = fleet.next_build("by this version")
        fleet.ready_uploads(second)
        fleet.until(lambda s: not any(u.serving for u in s.image("img").uploads_of(first.id)))
    assert holds(stored(fleet, paths.build("img", lost)), {"state": "failed", **newer})
    assert holds(stored(fleet, paths.build("img", failed)), {"state": "failed", "reason": strange, **newer})
    assert holds(stored(fleet, paths.build("img", first.id)), {"request": {"mood": "fine"}, **newer})
    for upload in uploads:
        assert holds(stored(fleet, upload_path(upload)), {"state": "ready", **newer})
    listed = {build["id"]: build for build in fleet.json("build", "list")}
    assert set(listed) == {lost, failed, first.id, second.id}


def written_by_us(snapshot: Snapshot, build_id: str) -> bool:
    """Whether somebody settled a build that was left in the middle."""
    build = snapshot.image("img").build(build_id)
    return build is not None and build.state is BuildState.FAILED


def upload_path(upload: Upload) -> str:
    """Where its record is."""
    return paths.upload(upload.image, upload.build_id, upload.provider, upload.id)


# -- clocks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", ["leader", "builder"])
def test_clocks_that_differ_by_ten_minutes_make_one_build_of_a_tick(fleet: Fleet, ahead: str) -> None:
    early, late = ("a", "b") if ahead == "leader" else ("b", "a")
    fleet[early].clock_ahead = timedelta(minutes=5)
    fleet[late].clock_ahead = timedelta(minutes=-5)
    fleet.run("a", *ALL_BUT_BUILDING)
    fleet.until(lambda s: s.leader == "a")
    fleet.run("b")
    first = fleet.build_of_yesterday()
    assert first.builder == "b"
    # It has been on the clock of the leader for two minutes, whatever all others say.
    ago = timedelta(minutes=2) - fleet["a"].clock_ahead
    entry = ticked(ago)
    fleet.configure_images(schedule=entry)
    second = fleet.ready_build(after=first.id)
    fleet.ready_uploads(second)
    assert second.request is not None and second.request.tick is not None
    assert "scheduler on a" in second.request.by
    fleet.until(lambda s: s.image("img").request is None)
    fleet.aged(second)
    fleet["a"].daemon.kill()
    fleet.until(lambda s: s.leader == "b")
    third = fleet.next_build("is anything due besides?")
    uploads = fleet.ready_uploads(third)
    snapshot = fleet.snapshot()
    assert list(snapshot.image("img").ticks) == [entry]
    assert sum(fleet.all_runs().values()) == 3
    everywhere = [(u.build_id, u.provider) for u in snapshot.uploads()]
    assert len(everywhere) == len(set(everywhere))
    assert {u.external_id for u in uploads} <= fleet.cloud_images()


# -- quick, and quiet -------------------------------------------------------------------------------------


def test_a_request_is_acted_upon_at_once_and_then_nothing_is_said_but_pings(
    fleet: Fleet,
    zookeeper_server: ZooKeeperServer,
    record_property: Callable[[str, object], None],
) -> None:
    patience = 9  # seconds; kazoo says something every third of it
    fleet.configure(zookeeper_timeout=patience)
    for name in "ab":
        fleet[name].settings["zookeeper-timeout"] = patience
        fleet[name].write()
    fleet.start_all("a", "b")
    first = fleet.ready_build()
    fleet.ready_uploads(first)
    fleet.until(lambda s: alive(s) == {"a", "b"} and s.image("img").request is None)
    asked = time.time()
    wish = Request(image="img", by="ann@desk", why="how quick is it?", time=datetime.now(UTC))
    fleet.store.request_build(wish)
    second = fleet.ready_build(after=first.id)
    runs = (fleet[second.builder or ""].control / "runs").read_text().splitlines()
    record_property("seconds_from_request_to_dib", json.loads(runs[-1])["started"] - asked)
    fleet.ready_uploads(second)
    fleet.until(lambda s: s.image("img").request is None)
    wait_until(lambda: at_rest(zookeeper_server, patience), fleet.story)
    before, since = received(zookeeper_server, patience), time.monotonic()
    threading.Event().wait(4.0)
    after, seconds = received(zookeeper_server, patience), time.monotonic() - since
    heard = {session: after[session] - before[session] for session in before}
    record_property("packets_at_rest", f"{sum(heard.values())} of {len(heard)} sessions in {seconds:.1f} s")
    assert set(after) == set(before) and len(before) == 2
    assert max(heard.values()) <= 2, heard


def received(server: ZooKeeperServer, timeout: float) -> dict[str, int]:
    """Packets that each session with that timeout has sent so far."""
    lines = server.command("cons").decode().splitlines()
    facts = [dict(re.findall(r"(\w+)=([^,)]*)", line)) for line in lines]
    return {f["sid"]: int(f["recved"]) for f in facts if f.get("to") == f"{timeout * 1000:.0f}"}


def at_rest(server: ZooKeeperServer, timeout: float) -> bool:
    """Whether every session said nothing but a ping last."""
    lines = [
        line for line in server.command("cons").decode().splitlines() if f"to={timeout * 1000:.0f}" in line
    ]
    return bool(lines) and all("lop=PING" in line for line in lines)
