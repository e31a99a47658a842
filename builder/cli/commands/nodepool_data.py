"""nodepool's `export-image-data` and `import-image-data`: all records in one file, in its format."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

from builder.cli import text
from builder.cli.base import Action
from builder.errors import ActionFailedError, RefusedError, UsageError
from builder.model import Build, Pause, Snapshot, Upload
from builder.store.base import Store
from builder.store.exchange import ImageData, image_data, read_image_data

Record = TypeVar("Record", Build, Upload)

EXIT_LEFT_OUT: Final = 1
#: How many of the records that are in the way are named.
_SHOWN: Final = 5


class Export(Action):
    """Write all builds and uploads on record to a file

    In nodepool's format, and readable by the owner alone. Open requests are not in it.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Where to."""
        parser.add_argument("path", metavar="PATH", type=Path, help="the file to write, or to write over")

    def act(self, options: argparse.Namespace) -> int:
        """Write it whole or not at all."""
        snapshot = self.context.snapshot(self.context.config_for_records())
        _write(options.path, json.dumps(image_data(snapshot)))
        self.say(f"{_amount(list(snapshot.builds()), list(snapshot.uploads()))} written to {options.path}")
        return 0


class Import(Action):
    """Put builds and uploads of such a file on record

    For an empty ZooKeeper, and without daemons running. What is on record already stays; when something else
    is on record in the place of what the file has, nothing is changed (exit code 4). What can't be read is
    named and left out (exit code 1).
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """From where."""
        parser.add_argument("path", metavar="PATH", type=Path, help="a file of 'export-image-data'")

    def act(self, options: argparse.Namespace) -> int:
        """Check all of it, then write."""
        data = read_image_data(_read(options.path), self.context.now())
        with self.context.store(self.context.config_for_records()) as store:
            snapshot = store.snapshot()
            builds, uploads, orphans = _new(data, snapshot)
            for image in data.paused:
                if not snapshot.image(image).paused:
                    store.pause(image, self._pause(options.path))
            _restore(store, builds, uploads)
        left_out = {**data.unreadable, **{u.name: "its build is not on record" for u in orphans}}
        for name, why in left_out.items():
            self.note(text.one_line(f"left out: {name}: {why}"))
        if builds or uploads:
            self.say(f"{_amount(builds, uploads)} put on record from {options.path}")
        else:
            self.say(f"all that {options.path} has is on record already, or was left out")
        return EXIT_LEFT_OUT if left_out else 0

    def _pause(self, path: Path) -> Pause:
        return Pause(by=self.context.who(), time=self.context.now(), why=f"paused in {path.name}")


def _new(data: ImageData, snapshot: Snapshot) -> tuple[list[Build], list[Upload], list[Upload]]:
    """What is to be written, and the uploads whose build is missing; RefusedError when it would write over
    something."""
    there = {build.id: build for build in snapshot.builds()}
    uploaded = {upload.name: upload for upload in snapshot.uploads()}
    builds = [build for build in data.builds if not _same(build, there.get(build.id))]
    uploads = [upload for upload in data.uploads if not _same(upload, uploaded.get(upload.name))]
    in_the_way = [b.id for b in builds if b.id in there] + [u.name for u in uploads if u.name in uploaded]
    if in_the_way:
        more = f" and {len(in_the_way) - _SHOWN} more" if len(in_the_way) > _SHOWN else ""
        raise RefusedError(
            f"other records are in the place of {', '.join(in_the_way[:_SHOWN])}{more}",
            hint="Nothing was changed. An import is for a ZooKeeper that has lost its records.",
        )
    known = there.keys() | {build.id for build in builds}
    orphans = [upload for upload in uploads if upload.build_id not in known]
    return builds, [upload for upload in uploads if upload.build_id in known], orphans


def _same(record: Record, there: Record | None) -> bool:
    return there is not None and replace(there, version=record.version) == record


def _restore(store: Store, builds: Sequence[Build], uploads: Sequence[Upload]) -> None:
    for build in builds:
        store.restore_build(build)
    for upload in uploads:
        store.restore_upload(upload)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no JSON: {error}") from error
    if not isinstance(data, dict):
        raise UsageError(f"{path} has no object of paths and their data", hint="It is no such export.")
    return data


def _write(path: Path, content: str) -> None:
    """Write a file that only its owner can read, in the place of one that may be there; what is there and no
    file, such as /dev/stdout, is written to."""
    try:
        if path.exists() and not path.is_file():
            path.write_text(content, encoding="utf-8")
            return
        path = Path(os.path.realpath(path))
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(content)
            draft.replace(path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ActionFailedError(f"{path} can't be written: {error.strerror or error}") from error


def _amount(builds: Sequence[Build], uploads: Sequence[Upload]) -> str:
    return ", ".join(
        f"{len(records)} {noun}{'' if len(records) == 1 else 's'}"
        for records, noun in ((builds, "build"), (uploads, "upload"))
    )
