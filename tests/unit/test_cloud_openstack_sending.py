"""The bytes on their way: large blocks, little memory."""

from __future__ import annotations

import tracemalloc

from builder.cloud.openstack import OpenStackCloud
from tests.fakes.glance import FakeGlance
from tests.unit.openstack_world import cloud, clouds_yaml, glance, new

__all__ = ["cloud", "clouds_yaml", "glance"]

MIB = 1024**2


class Zeros:
    """So many zero bytes, and what was asked of them."""

    def __init__(self, size: int) -> None:
        self._left = self._size = size
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self._size

    def read(self, amount: int = -1, /) -> bytes:
        self.asked.append(amount)
        chunk = bytes(min(amount, self._left))
        self._left -= len(chunk)
        return chunk


def test_large_blocks_are_sent_and_not_kept(glance: FakeGlance, cloud: OpenStackCloud) -> None:
    made, body = cloud.create(new()), Zeros(64 * MIB)
    tracemalloc.start()
    try:
        cloud.send(made.id, body, timeout=30.0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert [i["size"] for i in glance.images("RegionOne")] == [64 * MIB]
    assert set(body.asked) == {MIB // 4}
    assert peak < 8 * MIB
