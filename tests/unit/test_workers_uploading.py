"""What is configured for uploads to a provider has its effect on each of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from builder.config.model import ProviderImage, Sharing
from builder.model import Failure, FailureClass, Upload, UploadState
from builder.workers.uploader import Uploader
from tests.fakes.cloud import FakeCloud
from tests.unit.worker_world import Stage

SOON = timedelta(seconds=0.5)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path, clouds={"one": FakeCloud()})
    stage.published(1)
    yield stage
    stage.world.stopping.set()
    stage.clouds["one"].heal()


def uploaded(stage: Stage) -> Upload:
    """The newest upload, once all that is due has come to its end."""
    uploader = Uploader(stage.world, "uploader")
    uploader.step()
    uploader.drain()
    return stage.uploads()[0]


def why(record: Upload) -> Failure:
    assert record.state is UploadState.FAILED and record.reason is not None
    return record.reason


def test_who_finds_an_image_is_what_its_provider_says(stage: Stage) -> None:
    sharing = Sharing(visibility="shared", members=("p1", "p2"), tags=("ci",), hidden=True)
    stage.provider(images={"img": ProviderImage(diskimage="img", sharing=sharing, metadata={"a": "b"})})

    record = uploaded(stage)

    assert record.state is UploadState.READY
    cloud = stage.clouds["one"]
    (image,) = cloud.images.values()
    assert (image.visibility, image.tags, image.hidden) == ("shared", {"ci"}, True)
    assert image.properties["a"] == "b"
    assert cloud.members == {image.id: {"p1", "p2"}}


def test_an_upload_to_a_provider_keeps_to_its_bandwidth_and_its_time(stage: Stage) -> None:
    slow = stage.provider(bandwidth=1, upload_timeout=SOON)
    # Somebody else's upload there has just sent so much that it is nobody's turn for a minute.
    stage.world.limiter.of(slow).wait(60, threading.Event())

    reason = why(uploaded(stage))

    assert (reason.failure_class, reason.phase) == (FailureClass.TIMEOUT, "send")
    assert "not done after" in reason.message


def test_what_moves_no_byte_is_cut_after_the_stall_timeout(stage: Stage) -> None:
    stage.config = replace(stage.config, stall_timeout=SOON)
    stage.provider(upload_method="put")
    stage.clouds["one"].hold("send")

    reason = why(uploaded(stage))

    assert (reason.failure_class, reason.phase) == (FailureClass.TIMEOUT, "send")
    assert "it stalled" in reason.message


def test_a_hook_has_the_time_that_its_provider_says(stage: Stage) -> None:
    hook = stage.root / "hook"
    hook.write_text("#!/bin/sh\nsleep 60\n")
    hook.chmod(0o755)
    stage.provider(post_upload_hook=hook, hook_timeout=SOON)

    reason = why(uploaded(stage))

    assert (reason.failure_class, reason.phase) == (FailureClass.TIMEOUT, "hook")
    assert stage.clouds["one"].images == {}


def test_what_another_record_owns_is_not_adopted(stage: Stage) -> None:
    """A failed upload's image is the janitor's, however good it is: it may be about to delete it."""
    first = uploaded(stage)
    failure = Failure(failure_class=FailureClass.CLOUD, message="taken for dead")
    stage.store.put(replace(first, state=UploadState.FAILED, reason=failure))
    stage.now += timedelta(hours=1)

    second = uploaded(stage)

    assert (second.state, second.way) == (UploadState.READY, "put")
    assert second.external_id != first.external_id
    assert set(stage.clouds["one"].images) == {first.external_id, second.external_id}
