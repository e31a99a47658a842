"""The boot test of one build: begins when the file it boots is there, and goes on beside the build."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Final

from builder.bootorder import CONSOLE, Answer
from builder.dib.boot import ordering, program
from builder.dib.contents import manifest
from builder.dib.failures import failure_of
from builder.dib.job import Job
from builder.dib.limits import LOOK, Limits
from builder.dib.logs.log import LogFile
from builder.dib.logs.masking import masked
from builder.dib.output import artifacts
from builder.dib.product import Work
from builder.errors import ActionFailedError, ImagepoolError
from builder.model import (
    Artifact,
    BootResult,
    BootVerdict,
    BuildPhase,
    Failure,
    FailureClass,
    ImageFormat,
)
from builder.shown import plain

LOG = logging.getLogger(__name__)

#: Seconds that the program gets to end.
_GRACE: Final = 3.0
#: Lines of the consoles that go into the log of a build whose image fails, and of a record.
_CONSOLE_LINES: Final = 400
_LINES: Final = 20


class BootTesting:
    """Watches for the file to boot, has it tested on a thread of its own, and says what came of it.

    Everything but `why_stop` is for one thread. As a context manager it ends the test with the block, and
    tells `on_result` what is known of it by then.
    """

    def __init__(
        self, job: Job, work: Work, log: LogFile, limits: Limits, *, on_result: Callable[[BootResult], None]
    ) -> None:
        self._job = job
        self._work = work
        self._log = log
        self._limits = limits
        self._on_result = on_result
        self._wanted = ordering.to_boot(job.image.formats) if self.wanted else ()
        self._there: dict[ImageFormat, Artifact] = {}
        self._given_up = threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="boot-test")
        self._answer: Future[Answer] | None = None
        self._is_told = False

    @property
    def wanted(self) -> bool:
        """Whether the image is booted at all."""
        return self._job.image.boot_test.is_done and bool(self._job.image.formats)

    @property
    def decides(self) -> bool:
        """Whether an image that fails ends its build."""
        return self.wanted and self._job.image.boot_test.mode == "on"

    @property
    def holds_uploads(self) -> bool:
        """Whether files are kept from clouds until the image has proven itself."""
        return self.decides and not self._job.image.boot_test.uploads_meanwhile

    def published(self, artifact: Artifact) -> None:
        """A file is in the images directory; the test begins when all that it takes is."""
        self._there[artifact.format] = artifact
        if self._answer is None and self.wanted and all(each in self._there for each in self._wanted):
            self._answer = self._pool.submit(self._carry_out)

    def why_stop(self) -> Failure | None:
        """Why the rest of the build is of no use any more; asked from any thread."""
        future = self._answer
        failure = None
        if future is not None and future.done() and self.decides and future.exception() is None:
            failure = self._failure(future.result())
        return failure or self._limits.stop()

    def finish(self) -> None:
        """Wait for what comes of it; raises ActionFailedError when that ends the build."""
        if self._answer is None:
            return
        while not wait([self._answer], timeout=LOOK).done:
            self._limits.check()
        answer = self._answer.result()
        self._tell()
        failure = self._failure(answer)
        if failure is not None and self.decides:
            raise ActionFailedError(failure.message, failure)
        if failure is not None:
            LOG.warning("build %s of %s: %s", self._job.build_id, self._job.image.name, failure.message)

    def keep(self, directory: Path) -> None:
        """Write down all that came of it beside the manifests of the build; raises OSError."""
        if self._answer is None:
            return
        (directory / manifest.TEST).write_text(self._answer.result().text())
        if self._console.is_file():
            text = "".join(f"{masked(line, self._work.mask)}\n" for line in self._said())
            (directory / manifest.CONSOLE).write_text(text, encoding="utf-8")

    @property
    def timings(self) -> Mapping[str, float]:
        """The seconds it took, as what it is called among those of a build."""
        return {} if self._answer is None else {"test boots": self._answer.result().seconds}

    def __enter__(self) -> BootTesting:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._given_up.set()
        self._pool.shutdown(wait=True)
        self._tell()

    # -- on its own thread -----------------------------------------------------------------------

    def _carry_out(self) -> Answer:
        """What came of the test, also of one that can't be made, where that ends nothing."""
        began = time.monotonic()
        try:
            return self._boot()
        except (ImagepoolError, OSError) as error:
            # What ends the build itself is not the test's.
            self._limits.check()
            if self.decides or self._given_up.is_set():
                raise
            failure = failure_of(error)
            return Answer(
                verdict=BootVerdict.BROKEN,
                problem=failure.message,
                lines=failure.lines,
                seconds=time.monotonic() - began,
            )

    def _boot(self) -> Answer:
        job, work = self._job, self._work
        checks = ordering.own_checks(job.image, work.rendered, job.config_dir)
        for left_out in checks.left_out:
            self._say(f"left out: {left_out}")
        shutil.rmtree(self._place, ignore_errors=True)
        self._place.mkdir(mode=0o700)
        files = {each: self._file(each) for each in self._wanted}
        first = self._there[self._wanted[0]]
        order = ordering.order(job.image, work.rendered.environment, files, first, checks, place=self._place)
        told = program.Told(self._write, work.mask)
        child = program.start(order, work.space, job.limits, on_line=told.take)
        overdue = program.overdue(order)
        ends = Limits(stop=lambda: self._why_given_up() or overdue())
        code = ends.watch(child, grace=_GRACE, on_look=self._limits.check)
        return program.answer(order, work.space, code, told)

    def _why_given_up(self) -> Failure | None:
        if self._given_up.is_set():
            return Failure(failure_class=FailureClass.CANCELLED, message="the build ended before its test")
        return None

    @property
    def _place(self) -> Path:
        return self._work.space.directory / "boot-test"

    @property
    def _console(self) -> Path:
        return self._place / CONSOLE

    def _file(self, image_format: ImageFormat) -> Path:
        job = self._job
        return artifacts.path(job.images_dir, job.image.name, job.build_id, image_format)

    # -- what came of it -------------------------------------------------------------------------

    def _failure(self, answer: Answer) -> Failure | None:
        """What ends a build whose image must pass; None for one that has."""
        if answer.verdict is BootVerdict.PASSED:
            return None
        if answer.verdict is BootVerdict.BROKEN:
            return Failure(
                failure_class=FailureClass.UNKNOWN,
                message=f"the boot test came to nothing: {answer.problem}",
                phase=BuildPhase.TEST,
                lines=answer.lines[-_LINES:],
            )
        first, *others = answer.failed
        more = f"; also: {', '.join(proof.name for proof in others)}" if others else ""
        return Failure(
            failure_class=FailureClass.TEST,
            message=f"{first.sentence}{more}",
            phase=BuildPhase.TEST,
            step=f"proof {first.name}",
            lines=first.lines[-_LINES:],
        )

    def _tell(self) -> None:
        """Tell what is known of the test, once: on the record, and of a failure in the log."""
        future = self._answer
        if self._is_told or future is None or not future.done() or future.exception() is not None:
            return
        self._is_told = True
        answer = future.result()
        if answer.verdict is not BootVerdict.PASSED:
            self._log_console()
        self._on_result(answer.result)

    def _log_console(self) -> None:
        if self._console.is_file():
            self._say("what the machines said on their consoles, the last of it:")
            for line in self._said()[-_CONSOLE_LINES:]:
                self._say(f"| {line}")

    def _said(self) -> list[str]:
        """The lines of the consoles, whatever bytes a machine says there."""
        text = self._console.read_text(encoding="utf-8", errors="replace")
        return [plain(line) for line in text.splitlines()]

    def _say(self, line: str) -> None:
        self._write(masked(line, self._work.mask))

    def _write(self, line: str) -> None:
        self._log.write(f"boot test: {line}")
