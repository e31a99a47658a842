"""Builds one image with the engine of the daemon, and tells how it goes."""

from __future__ import annotations

import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from build_image.place import Place
from builder import signals
from builder.config.model import Config, DiskImage
from builder.dib import engine
from builder.dib.output import artifacts
from builder.dib.product import Product
from builder.errors import ActionFailedError
from builder.model import Artifact, BuildPhase, Failure, FailureClass

Say = Callable[[str], None]
_KEEP: Final = Path(__file__).with_name("keep-tree")


class Interruption:
    """Whether somebody wants it to end, by Ctrl-C or a signal."""

    def __init__(self) -> None:
        """Nobody does yet."""
        self.wanted = threading.Event()

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Listen while the block runs, on the main thread."""
        with signals.heard(on_stop=self.wanted.set, on_reload=self.wanted.set):
            yield

    def failure(self) -> Failure | None:
        """What the engine is told."""
        if not self.wanted.is_set():
            return None
        return Failure(failure_class=FailureClass.CANCELLED, message="cancelled by a signal")

    def check(self) -> None:
        """Raise KeyboardInterrupt if somebody does."""
        if self.wanted.is_set():
            raise KeyboardInterrupt


class Progress:
    """Says which phase a build is in, and how long each took."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._began = time.monotonic()
        self._phase: BuildPhase | None = None
        self._since = self._began

    def enter(self, phase: BuildPhase) -> None:
        """A phase begins."""
        self._end()
        self._phase, self._since = phase, time.monotonic()
        if sys.stdout.isatty():
            sys.stdout.write(f"  {phase} ...\r")
            sys.stdout.flush()

    def close(self) -> float:
        """The last one has ended; the seconds in all."""
        self._end()
        return time.monotonic() - self._began

    def _end(self) -> None:
        if self._phase is not None:
            self._say(f"  {self._phase:<12}{time.monotonic() - self._since:6.1f} s")
        self._phase = None


def build(
    place: Place, config: Config, image: DiskImage, *, keep: bool, interruption: Interruption, say: Say
) -> tuple[str, Product]:
    """Build; the build's id and what it made. Raises ActionFailedError, once everything is cleaned up."""
    build_id = uuid.uuid4().hex
    job = place.job(config, _keeping(image, place.kept / build_id) if keep else image, build_id)
    say(f"{image.name}: {', '.join(image.elements)}")
    say(f"log: {job.log_path}")
    progress = Progress(say)
    try:
        product = engine.run(job, on_phase=progress.enter, stop=interruption.failure)
    except ActionFailedError as error:
        seconds = progress.close()
        for line in reason(error, place, image, job.log_path, seconds, place.kept / build_id):
            say(line)
        raise
    seconds = progress.close()
    say(f"{image.name}: built in {seconds:.0f} s")
    return build_id, product


def result(place: Place, image: DiskImage, build_id: str, product: Product) -> Iterator[str]:
    """What there is now, and what to do with it."""
    for artifact in product.artifacts:
        link = place.link(image, build_id, artifact)
        yield f"{link}: {_megabytes(artifact.size)}, a disk of {_megabytes(artifact.virtual_size)}"
    number, size = place.earlier(image, build_id)
    if number:
        yield f"{number} earlier builds of it take {_megabytes(size)} in {place.root}"
    first = product.artifacts[0]
    file = place.root / f"{image.name}.{first.format}"
    yield f"boot it:    ./tools/build-image {image.name} --boot --last"
    yield f"upload it:  openstack image create --disk-format {first.format} --file {file} {image.name}"
    yield f"what is in: {artifacts.directory(place.root, image.name, build_id)}"


def reason(
    error: ActionFailedError, place: Place, image: DiskImage, log: Path, seconds: float, kept: Path
) -> Iterator[str]:
    """Why a build failed, in the words of `imagepool build show`."""
    failure = error.failure
    yield f"{image.name}: failed after {seconds:.0f} s"
    if failure is not None:
        yield f"reason: {failure.summary}"
        for line in failure.lines:
            yield f"  | {line}"
    yield f"log: {log}"
    if kept.is_dir():
        yield f"the tree as it was when the step failed: {kept}  (to go into it: chroot {kept} /bin/bash)"


def _keeping(image: DiskImage, kept: Path) -> DiskImage:
    """The image, with diskimage-builder's own words for what to do when a step in the tree fails."""
    environment = {
        **image.environment,
        "break": "after-error",
        "break_outside_target": "1",
        "break_cmd": f"{_KEEP} {kept}",
    }
    return replace(image, environment=MappingProxyType(environment))


def best(made: tuple[Artifact, ...]) -> Artifact:
    """The file to boot: qcow2 if there is one."""
    return min(made, key=lambda artifact: (artifact.format != "qcow2", artifact.format != "raw"))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
