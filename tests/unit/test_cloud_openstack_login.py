"""Logging in: once per cloud, in time, and anew when refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from builder.cloud.openstack import OpenStackCloud
from builder.errors import CloudError, CloudUnavailableError
from builder.model import FailureClass
from tests.fakes.bodies import BytesBody
from tests.fakes.glance import PASSWORD, FakeGlance, answers, hangs
from tests.unit.openstack_world import CONTENT, cloud, clouds_yaml, glance, new, provider, wait_for

__all__ = ["cloud", "clouds_yaml", "glance"]


def test_one_login_serves_many_requests(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    for _ in range(5):
        cloud.get("x")

    assert glance.count("auth") == 1


def test_a_corrected_password_needs_no_restart(
    glance: FakeGlance, clouds_yaml: Path, cloud: OpenStackCloud
) -> None:
    glance.password = "new-one"
    with pytest.raises(CloudError) as caught:
        cloud.get("x")
    assert caught.value.failure_class is FailureClass.AUTH
    assert "clouds.yaml" in caught.value.hint

    clouds_yaml.write_text(clouds_yaml.read_text().replace("kept-in-clouds-yaml", "new-one"))

    assert cloud.get("x") is None


def test_a_revoked_token_is_renewed(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    cloud.get("x")
    glance.revoke_tokens()

    assert cloud.get("x") is None
    assert glance.count("auth") == 2


def test_a_token_near_its_end_is_renewed_before_the_bytes(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    glance.token_life = 600.0
    made = cloud.create(new())
    glance.token_life = 3600.0

    cloud.send(made.id, BytesBody(CONTENT), timeout=10.0)

    assert glance.count("auth") == 2
    create, send = (r for r in glance.requests if r.on in ("create", "send"))
    assert create.headers["X-Auth-Token"] != send.headers["X-Auth-Token"]


def test_a_refused_put_is_not_sent_again_but_the_next_login_is_fresh(
    glance: FakeGlance, cloud: OpenStackCloud
) -> None:
    made = cloud.create(new())
    glance.faults.append(answers(401, on="send"))

    with pytest.raises(CloudError) as caught:
        cloud.send(made.id, BytesBody(CONTENT), timeout=10.0)
    assert caught.value.failure_class is FailureClass.AUTH
    assert glance.count("send") == 1

    cloud.get(made.id)
    assert glance.count("auth") == 2


def test_a_cloud_that_comes_back_is_used_again(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    cloud.get("x")
    glance.down()
    with pytest.raises(CloudUnavailableError) as caught:
        cloud.get("x")
    assert caught.value.failure_class is FailureClass.NETWORK

    glance.up()

    assert cloud.get("x") is None


def test_a_login_that_hangs_is_cut(glance: FakeGlance) -> None:
    glance.faults.append(hangs(on="auth"))

    with pytest.raises(CloudUnavailableError) as caught:
        OpenStackCloud(provider(), answer_timeout=0.3).get("x")

    assert caught.value.failure_class is FailureClass.TIMEOUT


# -- one login for a cloud ---------------------------------------------------------------------


def test_the_regions_of_a_cloud_share_one_login(glance: FakeGlance) -> None:
    north, east = OpenStackCloud(provider()), OpenStackCloud(provider("east", "RegionTwo"))

    made = [cloud.create(new()) for cloud in (north, east)]

    assert glance.count("auth") == 1
    assert [i["id"] for region in ("RegionOne", "RegionTwo") for i in glance.images(region)] == [
        image.id for image in made
    ]


def test_threads_that_come_at_once_log_in_once(glance: FakeGlance) -> None:
    clouds = [OpenStackCloud(provider(f"p{n}", f"Region{('One', 'Two')[n % 2]}")) for n in range(8)]

    assert at_once(clouds) == [None] * 8
    assert glance.count("auth") == 1


def test_threads_that_meet_a_revoked_token_at_once_log_in_once(glance: FakeGlance) -> None:
    clouds = [OpenStackCloud(provider(f"p{n}")) for n in range(8)]
    at_once(clouds)
    glance.revoke_tokens()

    assert at_once(clouds) == [None] * 8
    assert glance.count("auth") == 2


def test_other_credentials_are_another_login(glance: FakeGlance, clouds_yaml: Path) -> None:
    north = OpenStackCloud(provider())
    north.get("x")
    glance.password = "new-one"
    clouds_yaml.write_text(clouds_yaml.read_text().replace(PASSWORD, "new-one"))

    OpenStackCloud(provider("east")).get("x")
    north.get("x")

    assert glance.count("auth") == 2


def test_a_login_that_was_refused_is_over_for_every_region(glance: FakeGlance, clouds_yaml: Path) -> None:
    north, east = OpenStackCloud(provider()), OpenStackCloud(provider("east", "RegionTwo"))
    north.get("x")
    east.get("x")
    glance.password = "new-one"
    glance.revoke_tokens()
    with pytest.raises(CloudError, match="401"):
        north.get("x")

    clouds_yaml.write_text(clouds_yaml.read_text().replace(PASSWORD, "new-one"))

    assert east.get("x") is None
    assert north.get("x") is None
    assert [r.status for r in glance.requests if r.on == "auth"] == [201, 401, 201]


def test_another_clouds_hang_delays_nobody(glance: FakeGlance, clouds_yaml: Path) -> None:
    glance.clouds_yaml(clouds_yaml, {"fake": ["RegionOne"], "other": ["RegionTwo"]})
    glance.faults.append(hangs(on="auth"))
    hanging = OpenStackCloud(provider(), answer_timeout=60.0)
    with ThreadPoolExecutor(1) as pool:
        stuck = pool.submit(hanging.get, "x")
        wait_for(lambda: glance.faults[0].times == 0)

        assert (
            OpenStackCloud(provider("east", "RegionTwo", cloud="other"), answer_timeout=5.0).get("x") is None
        )
        assert not stuck.done()

        glance.released.set()
        with pytest.raises(CloudUnavailableError):
            stuck.result()


def test_threads_wait_together_for_a_cloud_that_hangs(glance: FakeGlance) -> None:
    glance.faults.append(hangs(on="auth", times=None))
    clouds = [OpenStackCloud(provider(f"p{n}"), answer_timeout=0.5) for n in range(20)]
    began = time.monotonic()

    errors = at_once(clouds)

    # One after the other, they would take ten seconds.
    assert time.monotonic() - began < 5.0
    classes = [e.failure_class for e in errors if isinstance(e, CloudUnavailableError)]
    assert classes == [FailureClass.TIMEOUT] * 20
    names = {f"provider p{n}:" for n in range(20)}
    assert {str(e)[: str(e).index(":") + 1] for e in errors} == names


def test_a_token_that_is_short_of_life_is_good_enough_for_a_question(
    glance: FakeGlance, cloud: OpenStackCloud
) -> None:
    glance.token_life = 600.0

    for _ in range(3):
        cloud.get("x")

    assert glance.count("auth") == 1


def test_a_token_is_not_taken_away_from_an_upload_under_way(glance: FakeGlance) -> None:
    north, east = OpenStackCloud(provider()), OpenStackCloud(provider("east", "RegionTwo"))
    here, there = north.create(new()), east.create(new())
    glance.token_life = 600.0
    body = HeldBody(CONTENT)
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(north.send, here.id, body, timeout=10.0)
        assert body.begun.wait(10.0)
        at_once([north, east])
        east.send(there.id, BytesBody(CONTENT), timeout=10.0)
        body.go_on.set()
        under_way.result()

    assert [i["status"] for i in glance.images()] == ["active", "active"]


class HeldBody(BytesBody):
    """A body that waits at its first byte until it is let go on."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.begun, self.go_on = threading.Event(), threading.Event()

    def read(self, amount: int | None = -1, /) -> bytes:
        self.begun.set()
        self.go_on.wait(10.0)
        return super().read(amount)


def at_once(clouds: Sequence[OpenStackCloud]) -> list[object]:
    """What each answers, or raises, when all are asked for an unknown image at the same time."""
    gate = threading.Barrier(len(clouds), timeout=10.0)

    def ask(cloud: OpenStackCloud) -> object:
        gate.wait()
        try:
            return cloud.get("x")
        except (CloudError, CloudUnavailableError) as error:
            return error

    with ThreadPoolExecutor(len(clouds)) as pool:
        return list(pool.map(ask, clouds))
