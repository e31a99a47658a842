"""Decides which records can be made again from cloud images and files, once ZooKeeper has lost them.

evidence.py   what one image tells, as far as it is to be believed
trove.py      which upload each image is evidence of
files.py      which files on this machine's disk are what they should be
uploads.py    the record of an upload
service.py    which of them is taken, and in which order they are written
plan.py       builds, and all of it together
"""

from __future__ import annotations

from builder.planning.recovery.plan import plan_recovery, wants_files
from builder.planning.recovery.steps import LOST, Fate, KeptBuild, KeptFile, Step, Thing

__all__ = ["LOST", "Fate", "KeptBuild", "KeptFile", "Step", "Thing", "plan_recovery", "wants_files"]
