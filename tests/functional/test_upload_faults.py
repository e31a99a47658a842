"""Whatever goes wrong between us and a real Glance: no false `ready`, no leak, nothing good lost.

The real workers and door bring a build to the real Glance of a development cloud, through a proxy
that breaks, swallows, cuts, delays and changes what passes. Each line of the tables is one bad day;
before each, yesterday's image is there and ready, and it has to be there after it. What only a cloud
of our own can be made to do is in tests/unit/test_cloud_faults.py.

To get the outcomes as a Markdown table, name a file for it:

    FAULT_MATRIX=matrix.md pytest tests/functional/test_upload_faults.py tests/unit/test_cloud_faults.py
"""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from builder.cloud.base import Cloud, NewImage
from builder.cloud.openstack import OpenStackCloud
from builder.cloud.transfer import discarding, waiting
from builder.cloudimage import INSTALLATION
from builder.config.model import Provider
from builder.model import FailureClass, ImageFormat, Upload, UploadState
from builder.serving.server import ArtifactServer
from builder.ways import COUNT_TOTAL, SIZE_TOTAL, Way
from tests.fakes.files import FileServer
from tests.fakes.store import FakeStore, FakeTree
from tests.realparts.devcloud import LIMITED, DevCloud, devcloud
from tests.realparts.proxy import (
    FaultProxy,
    ProxyFault,
    answers,
    cuts_answer,
    delays,
    flips,
    resets,
    rewrites,
    stalls,
    swallows,
    then_deletes,
    truncates,
)
from tests.unit.fault_world import META, METADATA, TODAY, TODAYS, Bench, Outcome, content

__all__ = ["devcloud"]

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("devcloud")]

AUTH, CLOUD, CONFIG, DISK, NETWORK, QUOTA, TIMEOUT = (
    FailureClass.AUTH,
    FailureClass.CLOUD,
    FailureClass.CONFIG,
    FailureClass.DISK,
    FailureClass.NETWORK,
    FailureClass.QUOTA,
    FailureClass.TIMEOUT,
)
#: More than the buffers of a loopback connection hold, so that a proxy which stops reading is felt.
BIG = content(16 * 1024 * 1024)


@dataclass(frozen=True, kw_only=True)
class Region:
    """One region of the real cloud, with a proxy before it and a good image in it."""

    name: str
    proxy: FaultProxy
    door: Cloud  #: through the proxy
    straight: Cloud  #: past it
    installation: str
    good: Upload

    def tidy(self) -> None:
        """Only the good image is left, and nothing is broken."""
        self.proxy.reset()
        for image in self.straight.find({INSTALLATION: self.installation}):
            if image.id != self.good.external_id:
                self.straight.delete(image.id)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a test finds a region."""

    root: Path
    region: Region

    @property
    def proxy(self) -> FaultProxy:
        """What breaks things there."""
        return self.region.proxy

    def bench(self, **changes: object) -> Bench:
        """A bench with a good image; nothing is wrong yet."""
        facts: dict[str, object] = {
            "root": self.root,
            "cloud": "broken",
            "region": self.region.name,
            "door": self.region.door,
            "straight": self.region.straight,
            "store": FakeStore(FakeTree(installation=self.region.installation)),
            **changes,
        }
        return Bench(**facts).inherit(self.region.good)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def regions(devcloud: DevCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Region]]:
    """Both regions. They are made once: to log in and to upload takes longer than most of the tests."""
    root = tmp_path_factory.mktemp("regions")
    with ExitStack() as stack:
        proxies = {
            name: stack.enter_context(FaultProxy.start(devcloud.image_url(name))) for name in devcloud.regions
        }
        clouds = devcloud.clouds_yaml_with(
            root / "clouds.yaml", {name: proxy.url for name, proxy in proxies.items()}
        )
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("OS_CLIENT_CONFIG_FILE", str(clouds))
        yield {name: _region(root / name, name, proxy, devcloud.cloud) for name, proxy in proxies.items()}


def _region(root: Path, name: str, proxy: FaultProxy, cloud: str) -> Region:
    door = OpenStackCloud(Provider(name="north", cloud="broken", region=name), answer_timeout=5.0)
    straight = OpenStackCloud(Provider(name="straight", cloud=cloud, region=name))
    bench = Bench(root, cloud="broken", region=name, door=door, straight=straight, method=Way.PUT).settle()
    return Region(
        name=name,
        proxy=proxy,
        door=door,
        straight=straight,
        installation=bench.store.installation_id(),
        good=bench.good,
    )


@pytest.fixture
def place_in(
    tmp_path: Path, regions: Mapping[str, Region], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Place]]:
    """Makes a place in a region. Seconds are minutes in earnest."""
    monkeypatch.setattr(waiting, "QUEUED_GRACE", 0.4)
    monkeypatch.setattr(discarding, "PAUSE", 0.05)
    used: list[Region] = []

    def make(region: str) -> Place:
        used.append(regions[region])
        return Place(root=tmp_path / "bench", region=regions[region])

    yield make
    for region in used:
        region.tidy()


@pytest.fixture
def place(place_in: Callable[[str], Place]) -> Place:
    """A place in the region without limits."""
    return place_in("RegionOne")


@pytest.fixture
def files() -> Iterator[FileServer]:
    """A server of files for web-download."""
    with FileServer.start() as server:
        yield server


def break_it(place: Place, faults: list[ProxyFault]) -> None:
    """From now on it goes wrong. Faults are counted down while they happen: every test has its own."""
    place.proxy.reset()
    place.proxy.faults = [replace(fault) for fault in faults]


def assert_failed(
    outcome: Outcome,
    phase: str,
    failure_class: FailureClass,
    said: str,
    fault: str,
    where: str,
    *,
    left: int = 0,
) -> None:
    """The upload failed for that reason, and did no harm; `left`: images at most until the janitor comes."""
    outcome.tell(fault, where)
    assert outcome.record.state is UploadState.FAILED, outcome.record
    assert said in outcome.reason
    assert (outcome.failure_class, outcome.phase) == (failure_class, phase), outcome.reason
    assert outcome.is_safe(), outcome
    assert outcome.left <= left


def assert_ready(outcome: Outcome, fault: str, where: str) -> None:
    """The upload came to a good end all the same."""
    outcome.tell(fault, where)
    assert outcome.record.state is UploadState.READY, outcome.reason
    assert outcome.is_safe(), outcome
    assert outcome.left == 0


# -- one PUT ------------------------------------------------------------------------------------

PUT = [
    # what goes wrong, where it is noticed, its class, what the reason says
    ("503 at byte 0", [answers(503, on="send", at=0.0)], "send", CLOUD, "503"),
    ("503 in mid-PUT", [answers(503, on="send", at=0.5)], "send", CLOUD, "503"),
    ("503 after the last byte", [answers(503, on="send", at=1.0)], "send", CLOUD, "503"),
    ("502 in mid-PUT", [answers(502, on="send", at=0.5)], "send", CLOUD, "502"),
    ("413 at byte 0", [answers(413, on="send", at=0.0)], "send", QUOTA, "413"),
    ("413 in mid-PUT", [answers(413, on="send", at=0.5)], "send", QUOTA, "413"),
    ("401 at byte 0", [answers(401, on="send", at=0.0)], "send", AUTH, "401"),
    ("401 in mid-PUT", [answers(401, on="send", at=0.5)], "send", AUTH, "401"),
    ("403 after the last byte", [answers(403, on="send", at=1.0)], "send", AUTH, "403"),
    ("409 at byte 0", [answers(409, on="send", at=0.0)], "send", CLOUD, "409"),
    ("reset at byte 0", [resets(on="send", at=0.0)], "send", NETWORK, "127.0.0.1"),
    ("reset in mid-PUT", [resets(on="send", at=0.5)], "send", NETWORK, "127.0.0.1"),
    ("reset after the last byte", [resets(on="send", at=1.0)], "send", NETWORK, "127.0.0.1"),
    ("stored, answer cut", [cuts_answer(on="send")], "send", NETWORK, "127.0.0.1"),
    ("204, nothing stored", [swallows(on="send", status=204)], "wait", CLOUD, "stored nothing"),
    ("201, nothing stored", [swallows(on="send", status=201)], "wait", CLOUD, "stored nothing"),
    ("one byte flipped", [flips(on="send", at=0.5)], "verify", CLOUD, "sha512"),
    ("half of it lost", [truncates(on="send", at=0.5)], "verify", CLOUD, "size 153600, not 307200"),
    ("deleted behind our back", [then_deletes()], "wait", CLOUD, "gone"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "faults", "phase", "failure_class", "said"), [pytest.param(*c, id=c[0]) for c in PUT]
)
def test_a_put_that_goes_wrong_fails_is_made_once_and_leaves_nothing(
    place: Place, fault: str, faults: list[ProxyFault], phase: str, failure_class: FailureClass, said: str
) -> None:
    bench = place.bench(method=Way.PUT)
    break_it(place, faults)

    outcome = bench.upload()

    assert_failed(outcome, phase, failure_class, said, fault, "PUT")
    assert place.proxy.count("send") == 1


def test_the_next_try_after_a_bad_put_is_ready(place: Place) -> None:
    bench = place.bench(method=Way.PUT)
    break_it(place, [answers(503, on="send", at=0.5)])
    bench.upload()

    assert_ready(bench.try_again(), "503 in mid-PUT: the next try", "PUT")
    assert place.proxy.count("send") == 2


@pytest.mark.parametrize(
    ("fault", "at"), [("stall in mid-PUT", 0.5), ("no answer to the PUT", 1.0)], ids=["middle", "end"]
)
def test_a_put_that_stalls_is_cut(place: Place, fault: str, at: float) -> None:
    bench = place.bench(method=Way.PUT, today=BIG, stall_timeout=1.0)
    break_it(place, [stalls(on="send", at=at)])

    outcome = bench.upload()

    assert_failed(outcome, "send", TIMEOUT, "it stalled", fault, "PUT")


def test_a_slow_but_steady_put_is_let_alone(place: Place) -> None:
    bench = place.bench(method=Way.PUT)
    break_it(place, [delays(0.5, on="send")])

    assert_ready(bench.upload(), "half a second late", "PUT")


# -- the requests around it ---------------------------------------------------------------------

AROUND = [
    ("create: 401 for ever", [answers(401, on="create", times=None)], "create", AUTH, "401"),
    ("create: 403", [answers(403, on="create")], "create", AUTH, "403"),
    ("create: 409", [answers(409, on="create")], "create", CLOUD, "409"),
    ("create: 413", [answers(413, on="create")], "create", QUOTA, "413"),
    ("create: 503", [answers(503, on="create")], "create", CLOUD, "503"),
    ("create: reset", [resets(on="create", at=0.0)], "create", NETWORK, "127.0.0.1"),
    ("create: made, then reset", [resets(on="create", at=1.0)], "create", NETWORK, "127.0.0.1"),
    ("create: made, answer cut", [cuts_answer(on="create")], "create", NETWORK, "could not create"),
    ("create: 201, nothing made", [swallows(on="create", status=201)], "create", CLOUD, "no JSON object"),
    ("get: 403 for ever", [answers(403, on="get", times=None)], "wait", AUTH, "403"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "faults", "phase", "failure_class", "said"), [pytest.param(*c, id=c[0]) for c in AROUND]
)
def test_a_request_that_goes_wrong_fails_the_upload_and_leaves_nothing(
    place: Place, fault: str, faults: list[ProxyFault], phase: str, failure_class: FailureClass, said: str
) -> None:
    bench = place.bench(method=Way.PUT)
    break_it(place, faults)

    # Glance may be done with a `create` only after its connection broke.
    late = 1 if (phase, failure_class) == ("create", NETWORK) else 0
    assert_failed(bench.upload(), phase, failure_class, said, fault, "records", left=late)


NO_HARM = [
    ("create: 401, as for a token that was revoked", [answers(401, on="create")]),
    ("get: 503, then reset", [answers(503, on="get"), resets(on="get")]),
    ("get: answer cut", [cuts_answer(on="get")]),
    ("capabilities: 500", [answers(500, on="info", times=None)]),
    ("schema: 500", [answers(500, on="schema", times=None)]),
    ("quotas: 403", [answers(403, on="quota", times=None)]),
    ("quotas: 404, an old Glance", [answers(404, on="quota", times=None)]),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "faults"), [pytest.param(*c, id=c[0]) for c in NO_HARM])
def test_a_question_without_an_answer_does_no_harm(
    place: Place, fault: str, faults: list[ProxyFault]
) -> None:
    bench = place.bench()
    break_it(place, faults)

    assert_ready(bench.upload(), fault, "records")


def test_what_can_not_be_deleted_stays_on_record_and_goes_later(place: Place) -> None:
    bench = place.bench(method=Way.PUT)
    break_it(place, [resets(on="send", at=0.5), answers(503, on="delete", times=discarding.TRIES)])

    outcome = bench.upload()

    outcome.tell("reset in mid-PUT, and three deletions answered 503", "PUT")
    assert outcome.record.state is UploadState.FAILED
    assert "stays behind" in outcome.reason
    assert outcome.left == 1
    assert outcome.is_safe(), outcome


# -- a Glance that lies -------------------------------------------------------------------------

LIES = [
    ("killed", {"status": "killed"}, "wait", CLOUD, "killed"),
    ("deactivated", {"status": "deactivated"}, "wait", CLOUD, "deactivated"),
    ("deleted", {"status": "deleted"}, "wait", CLOUD, "deleted"),
    ("queued although the bytes were taken", {"status": "queued"}, "wait", CLOUD, "stored nothing"),
    ("another size", {"size": 307199}, "verify", CLOUD, "size 307199, not 307200"),
    ("no size", {"size": None}, "verify", CLOUD, "size None, not 307200"),
    ("another hash", {"os_hash_value": "abcd"}, "verify", CLOUD, "sha512 abcd, not "),
    ("no hash at all", {"os_hash_value": None, "checksum": None}, "verify", CLOUD, "no hash"),
    ("only another md5", {"os_hash_value": None, "checksum": "ab"}, "verify", CLOUD, "md5 ab, not "),
    ("a hash nobody knows", {"os_hash_algo": "whirl"}, "verify", CLOUD, "'whirl'"),
    ("property dropped", {"os_distro": None}, "verify", CLOUD, "os_distro None, not 'ubuntu'"),
    ("property changed", {"imagepool_build_id": "0"}, "verify", CLOUD, "imagepool_build_id '0', not"),
    ("property another string", {"replicas": 7}, "verify", CLOUD, "replicas '7', not '007'"),
    ("made public", {"visibility": "public"}, "verify", CLOUD, "'public', not 'private'"),
    ("hidden", {"os_hidden": True}, "verify", CLOUD, "hidden True, not False"),
    ("renamed", {"name": "another"}, "verify", CLOUD, "name 'another', not"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "lie", "phase", "failure_class", "said"), [pytest.param(*c, id=c[0]) for c in LIES]
)
def test_an_image_that_is_not_what_was_sent_is_never_ready(
    place: Place, fault: str, lie: dict[str, Any], phase: str, failure_class: FailureClass, said: str
) -> None:
    bench = place.bench(method=Way.PUT)
    break_it(place, [rewrites(on="get", **lie)])

    assert_failed(bench.upload(), phase, failure_class, said, fault, "what Glance says")


@pytest.mark.parametrize("status", ["importing", "saving", "uploading"])
def test_an_image_that_never_becomes_active_runs_into_the_deadline(place: Place, status: str) -> None:
    bench = place.bench(method=Way.PUT, timeout=1.5)
    break_it(place, [rewrites(on="get", status=status)])

    outcome = bench.upload()

    assert_failed(outcome, "wait", TIMEOUT, "not done after", f"{status} for ever", "what Glance says")


ENOUGH = [
    ("no md5", {"checksum": None}),
    ("only an md5", {"os_hash_value": None, "os_hash_algo": None}),
    ("sha256", {"os_hash_algo": "sha256"}),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "told"), [pytest.param(*c, id=c[0]) for c in ENOUGH])
def test_one_hash_that_is_right_is_enough(place: Place, fault: str, told: dict[str, Any]) -> None:
    bench = place.bench(method=Way.PUT)
    if told.get("os_hash_algo") == "sha256":
        told = {**told, "os_hash_value": bench.artifact_of_today.sha256}
    break_it(place, [rewrites(on="get", **told)])

    assert_ready(bench.upload(), f"hash: {fault}", "what Glance says")


# -- glance-direct ------------------------------------------------------------------------------

STAGED = [
    ("stage: 503 in the middle", [answers(503, on="stage", at=0.5)], "send", CLOUD, "503"),
    ("stage: 413", [answers(413, on="stage", at=0.0)], "send", QUOTA, "413"),
    ("stage: reset in the middle", [resets(on="stage", at=0.5)], "send", NETWORK, "127.0.0.1"),
    ("stage: answer cut", [cuts_answer(on="stage")], "send", NETWORK, "127.0.0.1"),
    ("stage: one byte flipped", [flips(on="stage", at=0.5)], "verify", CLOUD, "sha512"),
    ("stage: half of it lost", [truncates(on="stage", at=0.5)], "verify", CLOUD, "size 153600"),
    ("stage: 204, nothing staged", [swallows(on="stage")], "wait", CLOUD, "409"),
    ("import: 409", [answers(409, on="import")], "wait", CLOUD, "409"),
    ("import: 503", [answers(503, on="import")], "wait", CLOUD, "503"),
    ("import: deleted then", [then_deletes(on="import")], "wait", CLOUD, "gone"),
    ("import: never begun", [swallows(on="import", status=202), rewrites(on="get", status="queued")],
     "wait", CLOUD, "import"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "faults", "phase", "failure_class", "said"), [pytest.param(*c, id=c[0]) for c in STAGED]
)
def test_an_import_of_staged_bytes_that_goes_wrong_fails_and_leaves_nothing(
    place: Place, fault: str, faults: list[ProxyFault], phase: str, failure_class: FailureClass, said: str
) -> None:
    bench = place.bench(method=Way.GLANCE_DIRECT)
    break_it(place, faults)

    outcome = bench.upload()

    assert_failed(outcome, phase, failure_class, said, fault, "glance-direct")
    assert place.proxy.count("stage") == 1


@pytest.mark.parametrize(
    ("fault", "faults"),
    [
        pytest.param("none", [], id="none"),
        pytest.param("import: tasks not told", [answers(404, on="import-tasks", times=None)], id="no tasks"),
        pytest.param("import: a second late", [delays(1.0, on="import")], id="late"),
    ],
)
def test_an_import_of_staged_bytes_is_ready_once_it_is_active(
    place: Place, fault: str, faults: list[ProxyFault]
) -> None:
    bench = place.bench(method=Way.GLANCE_DIRECT)
    break_it(place, faults)

    assert_ready(bench.upload(), fault, "glance-direct")


# -- web-download -------------------------------------------------------------------------------

FETCHED = [
    ("download: other bytes", "other", "verify", CLOUD, "sha512"),
    ("download: half of it, well formed", "short", "verify", CLOUD, "size 153600, not 307200"),
    ("download: breaks off half-way", "broken", "wait", CLOUD, "import"),
    ("download: 404", "missing", "wait", CLOUD, "import"),
    ("download: nobody listens", "down", "wait", CLOUD, "import"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "trouble", "phase", "failure_class", "said"), [pytest.param(*c, id=c[0]) for c in FETCHED]
)
def test_a_download_by_glance_that_goes_wrong_fails_and_leaves_nothing(
    place: Place,
    files: FileServer,
    fault: str,
    trouble: str,
    phase: str,
    failure_class: FailureClass,
    said: str,
) -> None:
    bench = place.bench(method=Way.WEB_DOWNLOAD, offers=files)
    files.trouble = trouble

    outcome = bench.upload()

    assert_failed(outcome, phase, failure_class, said, fault, "web-download")
    assert place.proxy.count("send") == place.proxy.count("stage") == 0
    assert files.offered == {}


def test_a_download_from_our_own_server_is_ready_once_its_bytes_are_verified(place: Place) -> None:
    server = ArtifactServer("127.0.0.1", 0)
    server.start()
    try:
        outcome = place.bench(method=Way.WEB_DOWNLOAD, offers=server).upload()
    finally:
        server.stop()

    assert_ready(outcome, "none", "web-download")
    assert place.proxy.count("send") == place.proxy.count("stage") == 0


# -- from one way to the next -------------------------------------------------------------------


def test_a_way_that_fails_falls_back_to_the_next_and_says_so(place: Place) -> None:
    # Glance fetches from port 80 by default, where nobody listens.
    bench = place.bench(download_url="http://127.0.0.1:80/")
    break_it(place, [])

    outcome = bench.upload()

    assert_ready(outcome, "download: nobody listens", "web-download, then PUT")
    assert outcome.record.way == Way.PUT
    assert [said.partition(":")[0] for said in outcome.record.fallbacks] == [Way.WEB_DOWNLOAD]


def test_a_put_that_a_proxy_breaks_goes_by_import_instead(place: Place) -> None:
    bench = place.bench()
    break_it(place, [answers(413, on="send", at=0.0, text="no"), answers(503, on="send", times=None)])
    place.proxy.faults.pop(0)

    outcome = bench.upload()

    assert_ready(outcome, "503 for ever", "PUT, then glance-direct")
    assert outcome.record.way == Way.GLANCE_DIRECT
    assert "503" in outcome.record.fallbacks[0]


def test_where_nothing_is_imported_the_bytes_are_put(place: Place) -> None:
    bench = place.bench()
    nothing: dict[str, Any] = {"import-methods": {"description": "", "type": "array", "value": []}}
    break_it(place, [rewrites(on="info", **nothing)])

    assert_ready(bench.upload(), "no import methods", "PUT")
    assert bench.pool.capabilities(bench.provider).import_methods == frozenset()


# -- room ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [COUNT_TOTAL, SIZE_TOTAL])
def test_a_full_project_is_seen_before_anything_is_made(
    place_in: Callable[[str], Place], devcloud: DevCloud, name: str
) -> None:
    place = place_in(LIMITED)
    bench = place.bench(method=Way.PUT, today=content(2 * 1024 * 1024))
    break_it(place, [])
    with devcloud.limit(name, 0):
        outcome = bench.upload()

    assert_failed(outcome, "preflight", QUOTA, name, f"quota: {name} used up", "preflight")
    assert place.proxy.count("create") == 0


def test_a_quota_that_glance_does_not_tell_is_found_out_by_its_413(
    place_in: Callable[[str], Place], devcloud: DevCloud
) -> None:
    place = place_in(LIMITED)
    bench = place.bench(method=Way.PUT, today=content(2 * 1024 * 1024))
    break_it(place, [answers(404, on="quota", times=None)])
    with devcloud.limit(SIZE_TOTAL, 0):
        outcome = bench.upload()

    assert_failed(outcome, "send", QUOTA, "413", "quota: used up, not told", "PUT")


# -- what is sent -------------------------------------------------------------------------------


def qcow2(root: Path) -> bytes:
    """A qcow2 of 3 GiB and a bit, with something in it."""
    raw, made = root / "some.raw", root / "some.qcow2"
    raw.write_bytes(TODAYS)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(made)], check=True)
    subprocess.run(["qemu-img", "resize", "-q", str(made), str(3 * 1024**3 + 512)], check=True)
    return made.read_bytes()


def test_bytes_that_are_not_of_their_format_are_refused_by_glance(place: Place, tmp_path: Path) -> None:
    data = qcow2(tmp_path)
    bench = place.bench(
        method=Way.PUT,
        image_format=ImageFormat.QCOW2,
        today=data,
        virtual_size=3 * 1024**3 + 512,
    )
    break_it(place, [flips(on="send", at=0.0)])

    outcome = bench.upload()

    assert_failed(outcome, "send", CLOUD, "415", "no qcow2 any more", "PUT")


def test_a_file_that_is_not_what_its_record_says_is_not_sent_at_all(place: Place) -> None:
    bench = place.bench(method=Way.PUT)
    bench.write_before_upload = b"QFI\xfb" + TODAYS[4:]
    break_it(place, [])

    outcome = bench.upload()

    assert_failed(
        outcome, "preflight", DISK, "looks like qcow2", "a raw file that begins like a qcow2", "here"
    )
    assert place.proxy.count("create") == place.proxy.count("send") == 0


def test_the_image_says_all_it_should_in_glances_types(place: Place) -> None:
    bench = place.bench(method=Way.PUT, virtual_size=None)
    outcome = bench.upload()
    (image,) = [i for i in bench.images() if i.id == outcome.record.external_id]
    artifact = bench.artifact_of_today

    assert {**METADATA, **META}.items() <= image.properties.items()
    assert image.properties["owner_specified.openstack.md5"] == artifact.md5
    assert image.properties["owner_specified.openstack.sha256"] == artifact.sha256
    assert image.properties["owner_specified.openstack.object"] == f"images/{image.name}"
    assert image.properties["imagepool_raw_sha256"] == artifact.sha256
    assert image.properties["imagepool_raw_size"] == str(artifact.virtual_size)
    assert image.properties["nodepool_build_id"] == image.properties["imagepool_build_id"] == TODAY
    assert image.min_disk == math.ceil(artifact.virtual_size / 1024**3) == 1
    assert (image.visibility, image.hidden) == ("private", False)
    # What openstacksdk would send for a v1 Glance, and a signature that only Barbican could check.
    assert not [name for name in image.properties if name == "is_public" or name.startswith("img_sig")]


def test_min_disk_is_what_nova_needs_for_the_virtual_size(place: Place, tmp_path: Path) -> None:
    data = qcow2(tmp_path)
    bench = place.bench(
        method=Way.PUT,
        image_format=ImageFormat.QCOW2,
        today=data,
        virtual_size=3 * 1024**3 + 512,
    )
    outcome = bench.upload()

    assert [i.min_disk for i in bench.images() if i.id == outcome.record.external_id] == [4]


# -- others, and dead daemons -------------------------------------------------------------------


def test_images_of_the_same_name_are_no_obstacle_and_stay(place: Place) -> None:
    bench = place.bench(method=Way.PUT, name_format="{image_name}")
    straight = place.region.straight
    by_hand = NewImage(name="noble", disk_format="raw", min_disk=0, properties={"made": "by hand"})
    theirs = straight.create(by_hand)

    outcome = bench.upload()

    assert_ready(outcome, "the name is taken", "records")
    assert outcome.record.external_name == theirs.name
    assert outcome.record.external_id != theirs.id
    assert straight.get(theirs.id) == theirs
    straight.delete(theirs.id)


def test_what_a_dead_daemon_left_half_done_is_removed_at_once(place: Place) -> None:
    bench = place.bench(method=Way.PUT)
    dead = bench.die_after_create()
    assert len(bench.leaked()) == 1

    outcome = bench.outcome(dead)

    outcome.tell("kill -9 after create", "records")
    assert outcome.record.state is UploadState.FAILED
    assert outcome.failure_class is FailureClass.INTERRUPTED
    assert outcome.is_safe(), outcome


def test_cancelling_ends_an_upload_whose_cloud_hangs(place: Place) -> None:
    bench = place.bench(method=Way.PUT, stall_timeout=60.0, timeout=60.0)
    break_it(place, [stalls(on="send", at=1.0)])
    bench.cancel_when_sending()

    began = bench.world.clock()
    outcome = bench.upload()

    assert_failed(outcome, "send", FailureClass.CANCELLED, "cancelled by", "cancelled while it hangs", "PUT")
    assert outcome.record.ended is not None
    assert outcome.record.ended - began < timedelta(seconds=15)
