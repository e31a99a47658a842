"""The meter: what statsd is told of builds, uploads, requests and pauses, and when."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest

from builder.dib.output import artifacts
from builder.metrics.base import Kind, Metric
from builder.model import BuildState, Failure, FailureClass, ImageFormat, Pause, Request, UploadState
from builder.workers.meter import AGAIN, Meter
from tests.unit.worker_world import HERE, NOW, Stage, build, upload

HOST = f"nodepool.builder.{HERE.hostname}"


@dataclass
class Told:
    """A sink that keeps what it is told."""

    packets: list[list[Metric]] = field(default_factory=list)

    def send(self, metrics: Iterable[Metric], /) -> None:
        """Keep them."""
        self.packets.append(list(metrics))

    def last(self, kind: Kind = Kind.GAUGE) -> dict[str, int]:
        """Names and values of the last packet."""
        return {m.name: m.value for m in self.packets[-1] if m.kind is kind}


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


@pytest.fixture
def meter(stage: Stage, told: Told) -> Meter:
    return Meter(stage.world, "meter", told)


def test_at_first_every_gauge_is_told(meter: Meter, told: Told) -> None:
    meter.step()
    assert told.last() == {
        "nodepool.image_build_requests": 0,
        "nodepool.image.img.image_build_requests": 0,
        f"{HOST}.build_workers": 1,
        f"{HOST}.upload_workers": 4,
        f"{HOST}.current_builds": 0,
        f"{HOST}.current_uploads": 0,
        f"{HOST}.image.img.build.state": 0,
        f"{HOST}.image.img.provider.one.upload.state": 0,
        f"{HOST}.image.img.provider.two.upload.state": 0,
    }
    assert len(told.packets[0]) == 9  # nothing that ended before


def test_what_does_not_change_is_told_again_only_after_a_while(
    stage: Stage, meter: Meter, told: Told
) -> None:
    due = meter.step().due
    assert due == NOW + AGAIN
    meter.step()
    assert len(told.packets) == 1
    stage.now += AGAIN
    meter.step()
    assert len(told.packets[1]) == 9


def test_a_request_is_told_and_that_it_is_served(stage: Stage, meter: Meter, told: Told) -> None:
    meter.step()
    wish = stage.store.request_build(Request(image="img", by="ann", why="new", time=NOW))
    assert wish is not None
    meter.step()
    requested = {"nodepool.image_build_requests": 1, "nodepool.image.img.image_build_requests": 1}
    assert told.last() == requested
    stage.store.withdraw_request(wish)
    meter.step()
    assert told.last() == dict.fromkeys(requested, 0)


def test_what_was_erased_is_told_to_be_gone(stage: Stage, meter: Meter, told: Told) -> None:
    stage.store.request_build(Request(image="img", by="ann", why="new", time=NOW))
    there = stage.store.snapshot()
    meter.act(stage.config, there, NOW)
    meter.act(stage.config, replace(there, images={}), NOW)
    assert told.last() == {
        "nodepool.image_build_requests": 0,
        "nodepool.image.img.image_build_requests": 0,
    }


def test_a_build_here_from_begin_to_end(stage: Stage, meter: Meter, told: Told) -> None:
    meter.step()
    claim = stage.store.claim_image("img")
    assert claim is not None
    running = stage.store.create_build(build(1, BuildState.BUILDING, started=NOW))
    meter.step()
    assert told.last() == {f"{HOST}.current_builds": 1, f"{HOST}.image.img.build.state": 1}
    file = artifacts.path(stage.config.images_dir, "img", running.id, ImageFormat.RAW)
    stage.published(1)
    end = NOW + timedelta(seconds=90)
    stage.store.update_build(replace(stage.store.get_build("img", running.id), started=NOW, ended=end))
    claim.release()
    meter.step()
    assert told.last() == {
        f"{HOST}.current_builds": 0,
        f"{HOST}.image.img.build.state": 0,
        "nodepool.dib_image_build.img.status.rc": 0,
        "nodepool.dib_image_build.img.status.last_build": int(end.timestamp()),
        "nodepool.dib_image_build.img.raw.size": file.stat().st_blocks * 512,
    }
    assert told.last(Kind.TIMING) == {"nodepool.dib_image_build.img.status.duration": 90_000}
    meter.step()
    assert len(told.packets) == 3  # an end is told once


FAILURES = {"an exit code": (100, 100), "none": (None, 1)}


@pytest.mark.parametrize(("code", "expected"), FAILURES.values(), ids=FAILURES.keys())
def test_a_failed_build_has_another_code_than_0(
    stage: Stage, meter: Meter, told: Told, code: int | None, expected: int
) -> None:
    meter.step()
    why = Failure(failure_class=FailureClass.MIRROR, message="gone", exit_code=code)
    # It began and failed between two looks.
    stage.store.create_build(
        build(1, BuildState.FAILED, started=NOW, ended=NOW + timedelta(seconds=1), reason=why)
    )
    meter.step()
    assert told.last()["nodepool.dib_image_build.img.status.rc"] == expected


def test_what_others_build_and_upload_is_theirs_to_tell(stage: Stage, meter: Meter, told: Told) -> None:
    meter.step()
    with stage.store.claim_image("img") or pytest.fail("the image is free"):
        of = stage.store.create_build(build(1, BuildState.BUILDING, builder_id="elsewhere"))
        meter.step()
        end = NOW + timedelta(seconds=1)
        stage.store.update_build(of.become(BuildState.READY, end, ended=end))
    stage.store.create_upload(upload(of, uploader_id="elsewhere", started=NOW, ended=end))
    meter.step()
    assert len(told.packets) == 1


def test_an_upload_here_from_begin_to_end(stage: Stage, meter: Meter, told: Told) -> None:
    of = stage.store.create_build(build(1))
    meter.step()
    claim = stage.store.claim_uploads("img", of.id, "one")
    assert claim is not None
    running = stage.store.create_upload(
        upload(of, UploadState.UPLOADING, uploader_id=HERE.builder_id, started=NOW)
    )
    meter.step()
    assert told.last() == {f"{HOST}.current_uploads": 1, f"{HOST}.image.img.provider.one.upload.state": 2}
    end = NOW + timedelta(milliseconds=2500)
    stage.store.update_upload(running.become(UploadState.READY, end, ended=end))
    claim.release()
    meter.step()
    assert told.last() == {f"{HOST}.current_uploads": 0, f"{HOST}.image.img.provider.one.upload.state": 0}
    assert told.last(Kind.TIMING) == {"nodepool.image_update.img.one": 2500}
    assert told.last(Kind.COUNT) == {"nodepool.image_update.img.one": 1}


BY_HAND = Pause(by="ann", time=NOW, why="it does not boot")


def test_what_is_paused_is_told(stage: Stage, meter: Meter, told: Told) -> None:
    meter.step()
    stage.store.pause("img", BY_HAND)
    meter.step()
    assert told.last() == {f"{HOST}.image.img.build.state": 3}
    stage.store.pause_provider("two", BY_HAND)
    meter.step()
    assert told.last() == {f"{HOST}.image.img.provider.two.upload.state": 3}
    stage.store.unpause("img")
    stage.store.unpause_provider("two")
    meter.step()
    stage.store.freeze(BY_HAND)
    meter.step()
    assert set(told.last().values()) == {3}
    assert len(told.last()) == 3


def test_a_changed_configuration_is_told(stage: Stage, meter: Meter, told: Told) -> None:
    meter.step()
    stage.image("img", pause=True)
    stage.config = replace(stage.config, build_workers=7)
    meter.step()
    assert told.last() == {f"{HOST}.build_workers": 7, f"{HOST}.image.img.build.state": 3}
