"""How an artifact may get into a provider, in which order, and why not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builder.config.model import Provider
from builder.model import ImageFormat
from builder.planning.ways import choose
from builder.ways import Capabilities, Way
from tests.unit.planning_world import NOW, artifact, provider

NORTH = provider()
PLAIN = Capabilities(checked=NOW, disk_formats=frozenset({"qcow2", "raw"}))
IMPORTING = replace(PLAIN, import_methods=frozenset({"glance-direct", "web-download", "copy-image"}))
RACKSPACE = Capabilities(checked=NOW, disk_formats=frozenset({"vhd"}), tasks=True)
URL = "https://images.example/debian.qcow2"


def usable(
    where: Provider = NORTH, can: Capabilities = IMPORTING, url: str | None = URL, form=ImageFormat.QCOW2
):
    return [c.way for c in choose(where, can, artifact(form), url=url) if c.usable]


def why(way: Way, where: Provider = NORTH, can: Capabilities = IMPORTING, url: str | None = URL) -> str:
    """Why a way is out of the question."""
    (choice,) = (c for c in choose(where, can, artifact(), url=url) if c.way is way)
    assert not choice.usable
    return choice.reason


def forced(way: Way) -> Provider:
    return replace(NORTH, upload_method=str(way))


def test_nothing_to_send_comes_first_then_what_is_simplest() -> None:
    assert usable() == [Way.ADOPT, Way.WEB_DOWNLOAD, Way.PUT, Way.GLANCE_DIRECT]


def test_a_service_that_says_nothing_gets_a_plain_put() -> None:
    assert usable(can=Capabilities(checked=NOW)) == [Way.ADOPT, Way.PUT]
    assert usable(can=PLAIN) == [Way.ADOPT, Way.PUT]
    told = why(Way.WEB_DOWNLOAD, can=PLAIN)
    assert told == "The image service does not say that it imports anything."


def test_every_way_is_listed_once_the_usable_ones_first_and_each_with_a_sentence() -> None:
    for where in (NORTH, *(forced(way) for way in Way)):
        for can in (PLAIN, IMPORTING, RACKSPACE):
            for url in (None, URL, "http://10.0.0.1:8080/x"):
                choices = choose(where, can, artifact(), url=url)
                assert {c.way for c in choices} == set(Way) and len(choices) == len(Way)
                assert [c.usable for c in choices] == sorted((c.usable for c in choices), reverse=True)
                assert all(c.reason.endswith(".") and "\n" not in c.reason for c in choices)


def test_three_parts_go_every_way_but_that_of_tasks() -> None:
    able = replace(IMPORTING, disk_formats=frozenset({"ami", "aki", "ari"}), tasks=True)
    where = forced(Way.TASKS)
    (tasks,) = (c for c in choose(where, able, artifact(ImageFormat.AMI), url=URL) if c.way is Way.TASKS)
    assert not tasks.usable
    assert tasks.reason == "A task makes one image of one file, and ami is several."
    able = replace(able, tasks=False)
    assert usable(can=able, form=ImageFormat.AMI) == usable()


def test_without_a_url_nothing_can_be_fetched() -> None:
    assert Way.WEB_DOWNLOAD not in usable(url=None)
    assert why(Way.WEB_DOWNLOAD, url=None) == (
        "There is no URL to fetch it from: neither `download-url` nor `artifact-server` is configured."
    )


def test_a_service_that_does_not_import_by_download_is_not_asked_to() -> None:
    can = replace(PLAIN, import_methods=frozenset({"glance-direct"}))
    assert usable(can=can) == [Way.ADOPT, Way.PUT, Way.GLANCE_DIRECT]
    assert why(Way.WEB_DOWNLOAD, can=can) == "The image service imports by glance-direct alone."
    can = replace(PLAIN, import_methods=frozenset({"web-download"}))
    assert why(Way.GLANCE_DIRECT, can=can) == "The image service imports by web-download alone."


@pytest.mark.parametrize(
    "url",
    [
        "http://images.example/x",
        "https://images.example/x",
        "http://images.example:80/x",
        "https://images.example:443/x",
        "HTTP://images.example/x:8080",
        "http://[2001:db8::1]/x",
        "http://[2001:db8::1]:80/x",
        "http://ann:secret@images.example/x",
    ],
)
def test_glance_fetches_from_the_usual_ports(url: str) -> None:
    assert Way.WEB_DOWNLOAD in usable(url=url)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://images.example/x", "Glance fetches from http and https, not from ftp."),
        ("/srv/images/x", "Glance fetches from http and https, not from a URL without a scheme."),
        *(
            (
                url,
                "Glance fetches from ports 80 and 443 unless its operator allows more, and the URL has 8080;"
                " `upload-method: web-download` tries it all the same.",
            )
            for url in (
                "http://images.example:8080/x",
                "http://[2001:db8::1]:8080/x",
                "http://ann:443@images.example:8080/x",
            )
        ),
    ],
)
def test_it_fetches_from_nowhere_else_by_itself(url: str, reason: str) -> None:
    assert why(Way.WEB_DOWNLOAD, url=url) == reason


def test_another_port_is_tried_when_somebody_says_so() -> None:
    assert usable(forced(Way.WEB_DOWNLOAD), url="http://images.example:8080/x") == [
        Way.ADOPT,
        Way.WEB_DOWNLOAD,
    ]
    assert usable(forced(Way.WEB_DOWNLOAD), url="ftp://images.example/x") == [Way.ADOPT]


def test_where_images_come_in_by_tasks_that_is_tried_instead_of_sending() -> None:
    can = replace(RACKSPACE, import_methods=IMPORTING.import_methods)
    assert usable(can=RACKSPACE, form=ImageFormat.VHD) == [Way.ADOPT, Way.TASKS]
    assert usable(can=can, form=ImageFormat.VHD) == [Way.ADOPT, Way.WEB_DOWNLOAD, Way.TASKS]
    assert why(Way.PUT, can=replace(RACKSPACE, disk_formats=frozenset())) == (
        "The cloud takes images by tasks instead (`image_api_use_tasks`)."
    )
    assert why(Way.TASKS) == "Neither clouds.yaml nor the cloud's profile says `image_api_use_tasks`."


@pytest.mark.parametrize("way", [Way.PUT, Way.GLANCE_DIRECT, Way.WEB_DOWNLOAD])
def test_a_way_that_is_forced_is_the_only_one_besides_adoption(way: Way) -> None:
    can = replace(IMPORTING, tasks=True)
    assert usable(forced(way), can=can) == [Way.ADOPT, way]
    assert why(Way.TASKS, forced(way), can=can) == f"`upload-method: {way}` allows no other."


def test_a_way_that_is_forced_and_impossible_says_why() -> None:
    assert usable(forced(Way.TASKS)) == [Way.ADOPT]
    assert why(Way.TASKS, forced(Way.TASKS)).startswith("Neither clouds.yaml")
    assert usable(forced(Way.GLANCE_DIRECT), can=PLAIN) == [Way.ADOPT]


def test_a_format_that_the_service_does_not_list_makes_every_way_impossible() -> None:
    choices = choose(NORTH, IMPORTING, artifact(ImageFormat.VHD), url=URL)
    assert {c.reason for c in choices} == {"The image service of north takes no vhd, only qcow2 and raw."}
    assert not any(c.usable for c in choices)
