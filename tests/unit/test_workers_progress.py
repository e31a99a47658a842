"""Progress goes on record as it happens, and never keeps the work waiting for a store that is away."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builder.model import Upload, UploadPhase, UploadState
from builder.workers import progress
from builder.workers.progress import UploadProgress
from tests.contract.records import NOON, a_build, an_upload
from tests.fakes.store import FakeStore


class SlowStore(FakeStore):
    """While it can't be reached, a request waits for as long as a session lives, as ZooKeeper's do."""

    waited = 0.0

    def update_upload(self, upload: Upload) -> Upload:
        if not self.connected:
            self.waited += 10.0
        return super().update_upload(upload)


@pytest.fixture
def store() -> SlowStore:
    return SlowStore()


@pytest.fixture
def running(store: SlowStore, monkeypatch: pytest.MonkeyPatch) -> UploadProgress:
    """The progress of an upload that has just begun; nothing of it is saved up for a later write."""
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    monkeypatch.setattr(progress, "QUICK", 0.0)
    build = store.create_build(a_build())
    begun = store.create_upload(replace(an_upload(build), state=UploadState.UPLOADING))
    return progress.UploadProgress(begun, store, lambda: NOON)


def on_record(store: SlowStore, running: UploadProgress) -> Upload:
    upload = running.record
    return store.get_upload(upload.image, upload.build_id, upload.provider, upload.id)


def test_bytes_go_on_moving_while_the_store_is_away_and_are_told_when_it_is_back(
    store: SlowStore, running: UploadProgress
) -> None:
    store.disconnect()
    running.phase(UploadPhase.SEND)
    running.sent(7)
    assert store.waited == 0.0
    store.reconnect()
    running.try_write()
    told = on_record(store, running)
    assert (told.phase, told.sent) == (UploadPhase.SEND, 7)


def test_what_is_told_while_the_store_answers_is_on_record_at_once(
    store: SlowStore, running: UploadProgress
) -> None:
    running.phase(UploadPhase.SEND)
    assert on_record(store, running).phase is UploadPhase.SEND
