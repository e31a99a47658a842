"""The command of tools/build-image, once what it needs is installed."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

from build_image import choice, trial, work
from build_image.arguments import Options, parse
from build_image.place import OWNER, Place
from build_image.work import Interruption
from builder.config.model import Config, DiskImage, masked_credentials
from builder.dib.isolation.workspace import Ledger, Workspace
from builder.dib.job import render_here
from builder.emulator.machine import Disk
from builder.errors import ActionFailedError, ImagepoolError
from builder.model import Artifact


def main() -> int:
    """Run it; returns the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    options = parse(sys.argv[1:], directory=Path(os.environ.get("BUILD_IMAGE_FROM") or Path.cwd()))
    interruption = Interruption()
    try:
        with interruption.heard():
            return _act(options, interruption)
    except KeyboardInterrupt:
        print("build-image: interrupted; nothing is left behind", file=sys.stderr)
        return 130
    except ActionFailedError as error:
        print(f"build-image: {error.message}", file=sys.stderr)
        return 130 if interruption.wanted.is_set() else error.exit_code
    except ImagepoolError as error:
        print(f"build-image: {error}", file=sys.stderr)
        return error.exit_code


def _act(options: Options, interruption: Interruption) -> int:
    config = choice.configuration(options)
    if options.list:
        print("\n".join(choice.listing(config)))
        return 0
    image = choice.image(config, options)
    place = Place(root=options.output)
    if options.show:
        print("\n".join(_shown(place, config, image)))
        return 0
    with place.held():
        if options.last:
            build_id, made = place.newest(image)
        else:
            build_id, made = _build(place, config, image, options, interruption)
        if options.boots:
            artifact = work.best(made)
            machine = trial.machine_for(
                image,
                Disk(path=place.file(image, build_id, artifact), format=artifact.format),
                size=artifact.virtual_size,
                firmware=options.firmware,
            )
            user = options.user or "root"
            trial.try_out(
                machine, place.boot, user=user, hold=options.boot, interruption=interruption, say=_say
            )
    return 0


def _build(
    place: Place, config: Config, image: DiskImage, options: Options, interruption: Interruption
) -> tuple[str, tuple[Artifact, ...]]:
    build_id, product = work.build(
        place, config, image, keep=options.keep, interruption=interruption, say=_say
    )
    for line in work.result(place, image, build_id, product):
        _say(line)
    return build_id, product.artifacts


def _shown(place: Place, config: Config, image: DiskImage) -> list[str]:
    """Environment and command as the engine would have them, secrets masked."""
    directory = place.work / f"{image.name}-BUILD_ID"
    job = place.job(config, image, "BUILD_ID")
    ledger = Ledger(installation_id=OWNER, image=image.name, build_id="", started=datetime.now(UTC))
    rendered = render_here(
        image,
        build_id=job.build_id,
        output=Workspace(directory=directory, ledger=ledger).output,
        work_dir=directory,
        cache_dir=job.cache_dir,
        elements_dirs=job.elements_dirs,
        environ=os.environ,
    )
    lines = [f"{name}={shlex.quote(value)}" for name, value in sorted(rendered.shown_environment.items())]
    return [*lines, masked_credentials(shlex.join(rendered.argv))]


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
