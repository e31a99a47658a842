"""Clouds in simulated time: requests take a while, may fail, and are where a daemon may die.

Nothing is deleted here without being judged at that very moment: `on_delete` gets the image before it goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.cloud.base import Body
from builder.cloudimage import BUILD_ID, CloudImage
from builder.errors import CloudError, CloudUnavailableError
from builder.model import FailureClass
from tests.fakes.cloud import FakeCloud
from tests.simulation.kernel import Kernel

if TYPE_CHECKING:
    from tests.simulation.daemon import Life

#: How clouds fail; what FakeCloud's own knobs do is besides.
TROUBLES: Mapping[str, Callable[[], Exception]] = {
    "away": lambda: CloudUnavailableError("no route to host", failure_class=FailureClass.NETWORK),
    "slow": lambda: CloudUnavailableError("no answer in 60 s", failure_class=FailureClass.TIMEOUT),
    "auth": lambda: CloudError("401 Unauthorized", failure_class=FailureClass.AUTH),
    "quota": lambda: CloudError("413 over quota", failure_class=FailureClass.QUOTA),
    "broken": lambda: CloudError("500 Internal Server Error", failure_class=FailureClass.CLOUD),
}


@dataclass(kw_only=True)
class Pace:
    """How long a cloud takes, in seconds."""

    request: float = 0.05
    send: float = 20.0
    pieces: int = 2  #: in which the bytes of a file move


class SimCloud(FakeCloud):
    """The image service of one region."""

    def __init__(self, kernel: Kernel, name: str, pace: Pace) -> None:
        super().__init__()
        self.name = name
        self.pace = pace
        self.trouble: tuple[str, float] | None = None  #: which, and how likely each request has it
        self.lose_answers = 0  #: of so many requests to come, although what they want is done
        self.requests = 0
        self.on_delete: Callable[[SimCloud, CloudImage], None] = lambda cloud, image: None
        self._kernel = kernel

    # -- each request -----------------------------------------------------------------------------

    def _begin(self, method: str, what: str) -> None:
        life = self._life()
        if life is None:
            return
        self.requests += 1
        life.moment(method)
        if self.pace.request:
            self._kernel.sleep(self.pace.request)
        if self.trouble is not None and self._kernel.random.random() < self.trouble[1]:
            raise TROUBLES[self.trouble[0]]()

    def _end(self, method: str) -> None:
        life = self._life()
        if life is None:
            return
        life.moment(method)
        if self.lose_answers:
            self.lose_answers -= 1
            raise CloudUnavailableError("the answer was lost", failure_class=FailureClass.NETWORK)

    def _life(self) -> Life | None:
        return self._kernel.owner  # type: ignore[return-value]

    def _receive(self, body: Body) -> bytes:
        """The bytes, as slowly as they come; whoever reads them may die meanwhile."""
        content, pieces = bytearray(), self.pace.pieces
        for left in range(pieces, 0, -1):
            self._kernel.sleep(self.pace.send / pieces)
            content += body.read(-(-(len(body) - len(content)) // left))
        return bytes(content)

    # -- with care ------------------------------------------------------------------------------

    def find(self, properties: Mapping[str, str], *, hidden: bool | None = None) -> Iterator[CloudImage]:
        self._begin("find", "")
        wanted = properties.get(BUILD_ID)
        images = list(self.images.values())
        self._end("find")
        for image in images:
            there = image.properties
            if wanted is not None and there.get(BUILD_ID) != wanted:
                continue
            if properties.items() <= there.items() and hidden in (None, image.hidden):
                yield image

    def delete(self, image_id: str) -> None:
        self._begin("delete", image_id)
        image = self.images.get(image_id)
        if image is not None and image_id not in self.in_use:
            self.on_delete(self, image)
        self._delete_now(image_id)
        self._end("delete")

    def _delete_now(self, image_id: str) -> None:
        if image_id in self.in_use:
            raise CloudError(
                f"image {image_id} is in use", failure_class=FailureClass.CLOUD, hint="", in_use=True
            )
        self.images.pop(image_id, None)
        self.contents.pop(image_id, None)
