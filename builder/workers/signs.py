"""What tells the image that serves from the others in a cloud: a stable name, a tag, a mark."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from builder.cloud.base import Change
from builder.cloudimage import SERVING, CloudImage
from builder.config.model import DiskImage
from builder.model import Upload


@dataclass(frozen=True, kw_only=True)
class Sign:
    """The stable name and tag of a diskimage, or those that an image was given; false without either."""

    name: str | None = None
    tag: str | None = None
    #: Whether an image is marked that has neither, so that who serves outlives the records: what waits for a
    #: word, or for the canaries, must not take over when they are lost.
    mark: bool = False

    @classmethod
    def of(cls, owner: DiskImage | Upload) -> Sign:
        """What a diskimage has, or what an upload was given as far as its record says."""
        waits = isinstance(owner, DiskImage) and owner.promote != "each"
        return cls(name=owner.stable_name, tag=owner.stable_tag, mark=waits)

    def __bool__(self) -> bool:
        return bool(self.name or self.tag or self.mark)

    def to_give(self, image: CloudImage, former: Sign, own_name: str | None) -> Change | None:
        """What an image lacks of it, or has of a `former` one and loses; None when all is right."""
        if not self:
            return to_take((former,), image, own_name)
        wanted = self.name or (own_name if former.name and image.name == former.name else None)
        name = wanted if image.name != wanted else None
        tags = frozenset({self.tag} if self.tag else ()) - image.tags
        late = frozenset({former.tag} if former.tag else ()) & image.tags - {self.tag}
        # By its own id, which no copy has, it is known to be ours while it has another name.
        mark = {SERVING: image.id} if image.properties.get(SERVING) != image.id else None
        if not (name or tags or late or mark):
            return None
        return Change(name=name, add_tags=tags, remove_tags=late, properties=mark)


def to_take(signs: Collection[Sign], image: CloudImage, own_name: str | None) -> Change | None:
    """What an image has of any of the signs and loses, None when it has nothing.

    One with our mark loses its name whatever that is: without the mark it would count as a copy.
    """
    named = image.name in {sign.name for sign in signs if sign.name} or image.serving
    name = own_name if named and image.name != own_name else None
    tags = frozenset(sign.tag for sign in signs if sign.tag) & image.tags
    mark = {SERVING: ""} if image.serving else None
    return Change(name=name, remove_tags=tags, properties=mark) if name or tags or mark else None
