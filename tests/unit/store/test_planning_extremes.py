"""Whatever time a record says, it is either no record or one that can be planned with."""

from __future__ import annotations

import json
from typing import Any

import pytest

from builder.model import ImageRecords, Snapshot
from builder.planning.builds import decide_builds
from builder.planning.cleanup import plan_cleanup
from builder.planning.uploads import decide_uploads
from builder.store.codec import decode_build, decode_upload
from builder.store.fields import RecordError, Stored
from tests.unit.planning_world import IMAGE, NOW, build_id, config, diskimage, provider

LAST = 7_258_118_400  # the first second that is refused
ARTIFACT = {"format": "qcow2", "size": 1, "virtual_size": 1, "md5": "a", "sha256": "b", "sha512": "c"}
REASON = {"class": "network", "message": "x"}


def stored(record: dict[str, Any]) -> Stored:
    return Stored(data=json.dumps(record).encode(), version=1, written_by=1, created=NOW, modified=NOW)


@pytest.mark.parametrize("state", ["building", "ready", "failed", "deleting"])
@pytest.mark.parametrize("time", [0, 0.5, LAST - 1, LAST - 0.001, LAST, 253402300799, -62135596800])
def test_planning_survives_any_time(time: float, state: str) -> None:
    settings = config(diskimage(), provider("north"))
    seen = 0
    for build_time, upload_time in ((time, NOW.timestamp()), (NOW.timestamp() - 100, time)):
        build = {"state": state, "state_time": build_time, "started": build_time, "ended": build_time}
        build |= {"artifacts": [ARTIFACT], "formats": "qcow2", "builder_id": "x", "reason": REASON}
        upload = {
            "state": "uploading" if state == "building" else state,
            "state_time": upload_time,
            "reason": REASON,
        }
        try:
            records = ImageRecords(
                name=IMAGE,
                builds=(decode_build(stored(build), image=IMAGE, build_id=build_id(1)),),
                uploads=(
                    decode_upload(
                        stored(upload),
                        image=IMAGE,
                        build_id=build_id(1),
                        provider="north",
                        upload_id="0000000001",
                    ),
                ),
            )
        except RecordError:
            continue
        seen += 1
        snapshot = Snapshot(images={IMAGE: records})
        decide_builds(settings, snapshot, NOW)
        decide_uploads(settings, snapshot, NOW)
        plan_cleanup(settings, snapshot, NOW, builder_id="x", active=frozenset())
    assert seen == (2 if 0 <= time < LAST else 0)
