"""The doctor beside a daemon that works, and beside none."""

from __future__ import annotations

import json
from typing import Any

from tests.fakes.glance import answers, hangs
from tests.functional.installation import Installation


def examined(place: Installation, *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code, and the lines by what was checked."""
    done = place.cli("doctor", "-f", "json", *arguments)
    assert done.stdout, done.stderr
    return done.returncode, {line["check"]: line for line in json.loads(done.stdout)}


def with_elements_that_exist(place: Installation) -> None:
    place.image["elements"] = ["debian-minimal", "vm"]
    place.settings["disk-reserve"] = 1
    place.write()


def test_it_finds_all_well_beside_a_daemon_and_does_not_disturb_it(place: Installation) -> None:
    with_elements_that_exist(place)
    pause = place.knob("pause.install")
    daemon = place.start()
    place.cli("image", "build", "img")
    place.paused_at("install")
    (build,) = place.until(lambda s: s.image("img").builds)

    code, lines = examined(place)

    assert (code, {k: v for k, v in lines.items() if v["state"] == "problem"}) == (0, {})
    assert f"a daemon runs here, process {daemon.process.pid}" in lines["state directory"]["found"]
    assert lines["ZooKeeper"]["state"] == lines["installation"]["state"] == "ok"
    assert "region RegionOne: logged in" in lines["provider one"]["found"]
    assert "nothing is left behind" in lines["work directory"]["found"]
    # The build that runs is none the worse for it.
    pause.unlink()
    assert place.ready_build().id == build.id


def test_each_provider_speaks_for_itself(place: Installation) -> None:
    with_elements_that_exist(place)
    place.glance.faults.append(answers(403, on="find", text="not for you", region="RegionTwo", times=None))
    code, lines = examined(place, "--roles", "uploader")
    assert code == 1
    assert lines["provider one"]["state"] == "ok"
    assert lines["provider two"]["state"] == "problem"
    assert lines["provider two"]["found"].startswith("auth: ")
    assert "clouds.yaml" in lines["provider two"]["advice"]


def test_a_cloud_that_hangs_is_not_waited_for(place: Installation) -> None:
    with_elements_that_exist(place)
    place.glance.faults.append(hangs(on="find", region="RegionOne", times=None))
    code, lines = examined(place, "--roles", "uploader")
    assert code == 1
    assert lines["provider one"]["found"].startswith("timeout: ")
    assert lines["provider two"]["state"] == "ok"


def test_a_new_installation_that_can_not_work_is_told_why(place: Installation) -> None:
    place.settings["elements-dir"] = str(place.root / "no-elements")
    place.settings["diskimages"][0]["elements"] = ["debian-minimal", "vm", "no-such-element"]
    place.write()
    code, lines = examined(place, "--roles", "builder")
    assert code == 1
    assert lines["elements-dir"]["state"] == "problem"
    assert "no daemon runs here" in lines["state directory"]["found"]
    # And nothing was made.
    assert not (place.root / "state").exists()
