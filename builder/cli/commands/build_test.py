"""`imagepool build test`: boot the image of a build by hand."""

from __future__ import annotations

import argparse
import json
import uuid
from typing import Final

from builder.bootorder import Answer
from builder.cli import lookup, text
from builder.cli.base import Action
from builder.config.model import Config
from builder.dib.boot import byhand
from builder.dib.job import Job
from builder.dib.logs import logfiles
from builder.errors import NotFoundError, RefusedError
from builder.host import host_name
from builder.model import BootVerdict, Build, BuildState, Snapshot
from builder.workers import statedir

#: By verdict: 1 when the image does not do what it must, 5 when the test came to nothing.
EXIT_CODES: Final = {BootVerdict.PASSED: 0, BootVerdict.FAILED: 1, BootVerdict.BROKEN: 5}


class BootTestBuild(Action):
    """Boot the image of a build, to prove that it works

    As at the end of each build with a boot-test: the file itself is booted through an overlay, in a sandbox,
    and nothing is left of that. It is the configuration of now that counts: who logs in, memory, checks. The
    files have to be on this machine. What is on record about the build stays as it is.

    With --shell nothing is proven: a shell in the machine opens at this terminal, as the image's user, who
    may use sudo. The machine ends with the shell.

    The exit code is 0 when all is proven, 1 when something is not, 5 when the test came to nothing; with
    --shell it is the shell's.
    """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Which build, and what for."""
        parser.add_argument("build", metavar="BUILD", help="the id of a build, or its beginning")
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--shell", action="store_true", help="open a shell in the machine instead")
        what.add_argument("--json", action="store_true", help="print all that came of it as JSON")

    def act(self, options: argparse.Namespace) -> int:
        """Boot it."""
        snapshot = self.known(uploads=False).snapshot
        config = self.context.config_for_records()
        build = lookup.build(snapshot, options.build)
        job = _job(config, snapshot, build)
        if options.shell:
            return byhand.look_around(job, build, say=self._tell)
        answer = byhand.test(job, build, say=self._tell if options.json else self._show)
        if options.json:
            self.say(json.dumps(answer.data(), indent=1))
        else:
            self.say(_ending(build, answer))
        return EXIT_CODES[answer.verdict]

    def _tell(self, line: str) -> None:
        self.note(text.one_line(line))

    def _show(self, line: str) -> None:
        self.say(text.one_line(line))
        self.app.stdout.flush()


def _job(config: Config, snapshot: Snapshot, build: Build) -> Job:
    """How the build's image is configured, with a workspace of its own.

    Raises RefusedError and NotFoundError when it can't be booted here.
    """
    if build.state in (BuildState.BUILDING, BuildState.FAILED):
        why = "made no image" if build.state is BuildState.FAILED else "is in progress"
        raise RefusedError(f"there is nothing to boot: build {build.id} {why}")
    if build.builder not in (None, host_name()):
        raise NotFoundError(
            f"the files of build {build.id} are on {build.builder}", hint="Run this command there."
        )
    image = config.diskimages.get(build.image)
    if image is None:
        raise RefusedError(
            f"the configuration has no diskimage {build.image}, which says how its image is booted",
            hint="Add it again, if only as `pause: true`.",
        )
    installation = snapshot.installation or statedir.known_installation(config.state_dir)
    return Job(
        image=image,
        build_id=uuid.uuid4().hex,
        installation_id=installation or "",
        state_dir=config.state_dir,
        images_dir=config.images_dir,
        work_dir=config.work_dir,
        cache_dir=config.cache_dir,
        log_path=logfiles.path(config.log_dir, build.image, build.id),
        elements_dirs=config.elements_dirs,
        config_dir=config.path.parent,
        limits=config.build_limits,
    )


def _ending(build: Build, answer: Answer) -> str:
    how = {
        BootVerdict.PASSED: f"all {len(answer.proofs)} proofs passed",
        BootVerdict.FAILED: f"failed: {', '.join(proof.name for proof in answer.failed)}",
        BootVerdict.BROKEN: f"the test came to nothing: {answer.problem}",
    }[answer.verdict]
    under = f" under {answer.accelerator}" if answer.accelerator else ""
    return text.one_line(f"build {build.id} of {build.image}: {how} ({answer.seconds:.0f} s{under})")
