"""Builds that serve by hand, or go through the canaries of four clouds, and what is planned of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from builder.config.model import Canary, Config
from builder.model import Build, Checked, CheckVerdict, Clearance, Snapshot, Upload, UploadState
from builder.planning.actions import IMAGEPOOL, Promotion, Verdict
from builder.planning.canary import Clearing, steps_of
from builder.planning.checking import Checking
from builder.planning.promotion import plan_promotions
from tests.unit.planning_world import (
    DAY,
    HOUR,
    IMAGE,
    MINUTE,
    NOW,
    config,
    diskimage,
    provider,
    ready,
    records,
    snapshot,
    upload,
)

READY, UPLOADING, FAILED = UploadState.READY, UploadState.UPLOADING, UploadState.FAILED
NEXT, TODAY, YESTERDAY, BEFORE = (ready(n, NOW - (4 - n) * DAY + HOUR) for n in (4, 3, 2, 1))
CLOUDS = ("north", "south", "west", "east")
#: north and south serve it first, for two hours.
SOAK = Canary(providers=("north", "south"), soak=2 * HOUR)
CHECKED = replace(SOAK, check=("/etc/check",))
GOOD = Checked(verdict=CheckVerdict.GOOD, time=NOW - MINUTE)
#: Build ids as they are shown.
N, T, Y, B = (build.id[:8] for build in (NEXT, TODAY, YESTERDAY, BEFORE))


def settings(promote: object = SOAK, **changes: object) -> Config:
    image = diskimage(promote=promote)
    return config(image, *(provider(name, **changes) for name in CLOUDS))


def there(
    build: Build,
    *clouds: str,
    serving: datetime | None = None,
    state: UploadState = READY,
    checked: Checked | None = None,
    number: int = 1,
) -> list[Upload]:
    """The build is in those providers; nodepool's launcher takes what serves."""
    of, since = int(build.id[:8], 16), build.state_time + MINUTE
    time = NOW if serving is not None else since - 9 * DAY
    changes = {"ended": since, "serving": serving, "checked": checked, "id": f"{number:010d}"}
    return [upload(of, state, time, to, **changes) for to in clouds]


def cleared(build: Build, where: str | None = None, by: str = IMAGEPOOL, time: datetime = NOW) -> Build:
    return build.clear(Clearance(provider=where, by=by, time=time, why="It was served by north."))


Part = Build | Upload | list[Upload]


def known(*parts: Part, **changes: object) -> Snapshot:
    flat = [x for part in parts for x in (part if isinstance(part, list) else [part])]
    return snapshot(records(*flat), **changes)


def plan(config_: Config, world: Snapshot, now: datetime = NOW) -> dict[str, Promotion]:
    return {p.provider: p for p in plan_promotions(config_, world, now)}


def moves(config_: Config, *parts: Part) -> dict[str, str]:
    """Which build takes over in each provider where one does."""
    return {
        name: p.upload.build_id[:8]
        for name, p in plan(config_, known(*parts)).items()
        if p.verdict is Verdict.NOW and p.upload is not None and p.upload.serving is None
    }


def steps(config_: Config, world: Snapshot, now: datetime = NOW) -> list[Clearing | Checking]:
    return list(steps_of(config_.diskimages[IMAGE], config_, world, now))


def clearing(config_: Config, *parts: Part, now: datetime = NOW, **changes: object) -> Clearing | None:
    found = [each for each in steps(config_, known(*parts, **changes), now) if isinstance(each, Clearing)]
    return found[0] if found else None


def checkings(config_: Config, *parts: Part, **changes: object) -> dict[str, Verdict]:
    found = steps(config_, known(*parts, **changes))
    return {each.upload.provider: each.verdict for each in found if isinstance(each, Checking)}


OLD = there(YESTERDAY, *CLOUDS, serving=NOW - DAY)
BUILDS = (NEXT, TODAY, YESTERDAY, BEFORE)
