"""The loop of all workers: how long it rests between two passes."""

from __future__ import annotations

import threading
from datetime import datetime
from pathlib import Path

import pytest

from builder.config.model import Config
from builder.model import Snapshot
from builder.workers import base
from builder.workers.base import Pass, Worker
from tests.unit.worker_world import Stage


class Waiting(Worker):
    """Waits a while in each pass, as for an answer of ZooKeeper's."""

    passes = 0

    def act(self, config: Config, snapshot: Snapshot, now: datetime) -> Pass:
        self.world.stopping.wait(0.5)
        self.passes += 1
        return Pass()


def test_what_a_pass_waited_for_makes_it_rest_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Were the wait counted, the rest would be longer than any test takes.
    monkeypatch.setattr(base, "REST", 100.0)
    monkeypatch.setattr(base, "LONGEST_REST", 3600.0)
    stage = Stage(tmp_path)
    worker = Waiting(stage.world, "waiting")
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        stage.until(lambda: worker.passes == 1)
        stage.store.wake()
        stage.until(lambda: worker.passes == 2)
    finally:
        stage.world.stopping.set()
        stage.store.wake()
        thread.join()
