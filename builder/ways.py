"""How the bytes of an image can get into a cloud, and what a cloud says it can do.

Both the planner of ways (planning/ways.py), which is pure, and the doors to clouds speak of these,
so they belong to neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final


class Way(StrEnum):
    """How an image gets into a provider; the value is what `upload-method` and records say."""

    ADOPT = "adopt"  #: an image of ours with these very bytes is there already, and nobody's upload
    WEB_DOWNLOAD = "web-download"  #: Glance fetches the file from us
    GLANCE_DIRECT = "glance-direct"  #: the bytes are staged, then imported
    PUT = "put"  #: the bytes are sent into the image
    TASKS = "tasks"  #: the bytes are sent to Swift, and a task imports them (Rackspace's profile)


#: What `upload-method` may say besides a way.
AUTO: Final = "auto"

#: Glance's names of its quotas (quotas.rst); the two sizes are in MiB there, in bytes here.
SIZE_TOTAL: Final = "image_size_total"
STAGE_TOTAL: Final = "image_stage_total"
COUNT_TOTAL: Final = "image_count_total"
COUNT_UPLOADING: Final = "image_count_uploading"


@dataclass(frozen=True, kw_only=True)
class Quota:
    """One limit of a project and what is taken of it; bytes for sizes. A limit of -1 is none."""

    limit: int
    used: int

    def has_room(self, amount: int) -> bool:
        """Whether so much more may be taken."""
        return self.limit < 0 or self.used + amount <= self.limit


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a provider's image service said it can do, when asked at `checked`."""

    checked: datetime
    disk_formats: frozenset[str] = frozenset()  #: Glance's words; empty: it does not say
    import_methods: frozenset[str] = frozenset()  #: of GET /v2/info/import
    stores: tuple[str, ...] = ()
    tasks: bool = False  #: clouds.yaml or the vendor's profile says `image_api_use_tasks`


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One way in the order they are tried, or one that is out of the question, and why."""

    way: Way
    usable: bool
    reason: str
