"""The words of imagepool as types: builds, artifacts, uploads, requests, and the Snapshot of all of them.

Everything here is frozen: a changed record is a new record (`dataclasses.replace`). Times are
aware UTC datetimes, sizes are bytes, durations are seconds. State names are nodepool 11's and
must never grow: its readers raise TypeError on a fifth one.

    names      what may be a name or an id
    states     what builds and uploads are, what they do, in which formats
    failures   why something failed
    boots      what came of booting a finished image
    budgets    what is measured of a build, and what came of its budgets
    wishes     what people want, and who is there to do it
    builds     a build and its files
    uploads    an upload, and the time in which it serves
    snapshot   all of them at one moment
"""

from __future__ import annotations

from builder.model.boots import BootResult, BootVerdict
from builder.model.budgets import BudgetAction, BudgetCheck, Measure
from builder.model.builds import Artifact, Build
from builder.model.failures import Failure, FailureClass
from builder.model.names import CLOCKS_DIFFER, NAME_LIMIT, NO_TICKS, is_build_id, name_problem
from builder.model.snapshot import ImageRecords, Snapshot
from builder.model.states import (
    BUILD_TRANSITIONS,
    UPLOAD_TRANSITIONS,
    BuildPhase,
    BuildState,
    ImageFormat,
    UploadPhase,
    UploadState,
    layouts_conflict,
    parts_of,
)
from builder.model.uploads import Checked, CheckVerdict, Turn, Upload
from builder.model.wishes import (
    Cancellation,
    Clearance,
    Daemon,
    Deletion,
    Pause,
    Release,
    Request,
    UploadCancellation,
    UploadWish,
    Withholding,
)

__all__ = [
    "BUILD_TRANSITIONS",
    "CLOCKS_DIFFER",
    "NAME_LIMIT",
    "NO_TICKS",
    "UPLOAD_TRANSITIONS",
    "Artifact",
    "BootResult",
    "BootVerdict",
    "BudgetAction",
    "BudgetCheck",
    "Build",
    "BuildPhase",
    "BuildState",
    "Cancellation",
    "CheckVerdict",
    "Checked",
    "Clearance",
    "Daemon",
    "Deletion",
    "Failure",
    "FailureClass",
    "ImageFormat",
    "ImageRecords",
    "Measure",
    "Pause",
    "Release",
    "Request",
    "Snapshot",
    "Turn",
    "Upload",
    "UploadCancellation",
    "UploadPhase",
    "UploadState",
    "UploadWish",
    "Withholding",
    "is_build_id",
    "layouts_conflict",
    "name_problem",
    "parts_of",
]
