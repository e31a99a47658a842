"""Looks before an upload whether it can come to anything: at the file, and at the cloud's quotas."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from builder.cloud.transfer.run import CLOUD_FAILURES, Run
from builder.model import Failure, FailureClass
from builder.ways import COUNT_TOTAL, COUNT_UPLOADING, SIZE_TOTAL, STAGE_TOTAL, Quota, Way

LOG = logging.getLogger(__name__)

#: Ways in which the bytes lie in Glance's staging area for a while (its quotas.rst).
STAGED: Final = frozenset({Way.GLANCE_DIRECT, Way.WEB_DOWNLOAD})


def check_files(run: Run) -> None:
    """TransferError unless the file, and that of each part, is there with the size on record."""
    _check_file(run, run.order.path, run.order.artifact.size)
    for part in run.order.parts:
        _check_file(run, part.path, part.artifact.size)


def _check_file(run: Run, path: Path, recorded: int) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise run.failure(FailureClass.DISK, f"{path}: {error.strerror}") from error
    if size != recorded:
        raise run.failure(FailureClass.DISK, f"{path} has {size} bytes, {recorded} are on record")


def ask_quotas(run: Run) -> Mapping[str, Quota]:
    """The cloud's limits; none when it fails to tell them, since it minds them by itself as well."""
    try:
        return run.ask(run.cloud.quotas)
    except CLOUD_FAILURES as error:
        if error.failure_class is not FailureClass.CLOUD:
            raise
        LOG.info("quotas are not checked: %s", error.message)
        return {}


def check_room(run: Run, quotas: Mapping[str, Quota]) -> None:
    """TransferError when there is no room for all that is to come, by whatever way it does."""
    size = sum(artifact.size for artifact in run.coming)
    lacking = _lacking(quotas, {SIZE_TOTAL: size, COUNT_TOTAL: len(run.coming), COUNT_UPLOADING: 1})
    if lacking:
        raise run.failure(FailureClass.QUOTA, lacking)


def obstacle(run: Run, way: Way, quotas: Mapping[str, Quota]) -> Failure | None:
    """What stands in the way of this way alone, before anything is made; None when it is free."""
    if way is Way.WEB_DOWNLOAD and run.order.url is None:
        return run.failure(FailureClass.CONFIG, "there is no URL from which this cloud could fetch it").cause
    lacking = _lacking(quotas, {STAGE_TOTAL: run.order.artifact.size}) if way in STAGED else ""
    return run.failure(FailureClass.QUOTA, lacking).cause if lacking else None


def _lacking(quotas: Mapping[str, Quota], needed: Mapping[str, int]) -> str:
    """Which limits leave too little room, with all the numbers; "" when none does."""
    lacking = [
        f"{name} is limited to {quota.limit}, {quota.used} are used and {amount} more needed"
        for name, amount in needed.items()
        if (quota := quotas.get(name)) is not None and not quota.has_room(amount)
    ]
    return f"the cloud has no room left for us: {'; '.join(lacking)}" if lacking else ""
