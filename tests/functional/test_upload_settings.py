"""What the configuration says of uploads is in force in the daemon."""

from __future__ import annotations

from builder.model import FailureClass
from tests.functional.installation import Installation
from tests.realparts.zookeeper import free_port


def test_clouds_fetch_images_from_the_daemon_s_artifact_server(place: Installation) -> None:
    here = f"127.0.0.1:{free_port()}"
    place.settings["artifact-server"] = {"listen": here, "url": f"http://{here}/"}
    for provider in place.settings["providers"]:
        provider["upload-method"] = "web-download"
    place.write()
    place.start()

    uploads = place.ready_uploads(place.ready_build())

    assert [upload.way for upload in uploads] == ["web-download"] * 2
    assert (place.glance.count("send"), place.glance.count("stage")) == (0, 0)


def test_the_limit_of_all_uploads_holds_until_it_is_changed(place: Installation) -> None:
    place.settings["upload-bandwidth"] = "1K"
    for provider in place.settings["providers"]:
        provider["image-upload-timeout"] = 2
    place.no_other_way()
    place.start()
    reason = place.failed_upload().reason
    assert reason is not None
    assert (reason.failure_class, reason.phase) == (FailureClass.TIMEOUT, "send")

    del place.settings["upload-bandwidth"]
    for provider in place.settings["providers"]:
        provider["image-upload-timeout"] = 60
    place.write()
    assert place.cli("upload", "retry", "img").returncode == 0

    place.ready_uploads(place.ready_build())


def test_regions_are_searched_for_leaks(place: Installation) -> None:
    place.settings["leak-sweep"] = 1
    place.write()
    place.start()
    place.ready_uploads(place.ready_build())
    stray = place.glance.add("RegionTwo", imagepool_installation=place.store.installation_id())

    (sighting,) = place.until(lambda _: place.store.sightings("two"))

    assert sighting.external_id == stray
    assert place.store.sightings("one") == ()
