"""Reading anew what a decision is made of, and no more."""

from __future__ import annotations

from pathlib import Path

from builder.model import Upload
from builder.workers.reading import fresh_records
from tests.fakes.store import FakeStore
from tests.unit.worker_world import Stage, upload


class Telling(FakeStore):
    """A store that tells of which providers uploads were read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: set[str] = set()

    def list_uploads(self, image: str, build_id: str, provider: str) -> tuple[Upload, ...]:
        self.read.add(provider)
        return super().list_uploads(image, build_id, provider)


def test_all_providers_are_read_unless_one_is_named(tmp_path: Path) -> None:
    store = Telling()
    stage = Stage(tmp_path, store=store)
    build = stage.published(1)
    for name in ("one", "two"):
        store.put(upload(build, provider=name))

    everything = fresh_records(store, stage.config, "img")
    assert store.read == {"one", "two"}
    store.read.clear()
    assert fresh_records(store, stage.config, "img", provider="two") == everything
    assert store.read == {"two"}
