"""Keeps in ZooKeeper what stands until somebody takes it back: pauses, the freeze, builders that are gone."""

from __future__ import annotations

from builder.model import Pause
from builder.store import notes, paths
from builder.store.bounds import bounded_signed
from builder.store.nodes import Part


class Standing(Part):
    """Each is one node, which says who, when and why; the latest word stands."""

    def pause(self, image: str, pause: Pause) -> None:
        self._stand(paths.pause(image), pause)

    def unpause(self, image: str) -> None:
        self._nodes.remove(paths.pause(image))

    def pause_provider(self, provider: str, pause: Pause) -> None:
        self._stand(paths.paused_provider(provider), pause)

    def unpause_provider(self, provider: str) -> None:
        self._nodes.remove(paths.paused_provider(provider))

    def freeze(self, pause: Pause) -> None:
        self._stand(paths.FROZEN, pause)

    def unfreeze(self) -> None:
        self._nodes.remove(paths.FROZEN)

    def forget_builder(self, builder_id: str, word: Pause) -> None:
        self._stand(paths.forgotten(builder_id), word)

    def recall_builder(self, builder_id: str) -> None:
        self._nodes.remove(paths.forgotten(builder_id))

    def _stand(self, path: str, pause: Pause) -> None:
        self._nodes.put(path, notes.encode_pause(bounded_signed(pause)))
