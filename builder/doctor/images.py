"""Looks at what the builds of images need: elements, disk, mirrors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from builder.config.model import DiskImage
from builder.dib import command, tools
from builder.dib.checks import preflight, reachable, space
from builder.dib.contents.inputs import resolve
from builder.dib.job import render_here
from builder.dib.limits import Limits
from builder.doctor.world import World
from builder.errors import ImagepoolError, RefusedError, ToolMissingError
from builder.findings import Finding, fine, problem
from builder.host import architectures
from builder.model import FailureClass

#: In the place of a build's id, in paths that are only looked at.
_ANY_BUILD: Final = "BUILD_ID"


def look(world: World, image: DiskImage) -> tuple[Finding, ...]:
    """Whether this machine could build the image now; of one that is for other machines only that it is."""
    if lacking := _lacking(world, image):
        where = f"built by machines with {', '.join(lacking)} (`requires`), which this one is not"
        return (fine(f"image {image.name}", where),)
    try:
        rendered = _rendered(world, image)
    except ImagepoolError as error:
        return (problem(f"image {image.name}", error.message, hint=error.hint),)
    found = [
        _tools(image, rendered.environment),
        _elements(image, rendered),
        *_preflight(world, image, rendered.environment),
    ]
    return tuple(replace(each, name=f"{each.name} of {image.name}") for each in found)


def _lacking(world: World, image: DiskImage) -> list[str]:
    """The labels that the image requires and this machine does not have."""
    return sorted(image.requires - world.config.builder_labels - architectures())


def _rendered(world: World, image: DiskImage) -> command.Command:
    config = world.config
    directory = config.work_dir / f"{image.name}-{_ANY_BUILD}"
    return render_here(
        image,
        build_id=_ANY_BUILD,
        output=directory / "output" / directory.name,
        work_dir=directory,
        cache_dir=config.cache_dir,
        elements_dirs=config.elements_dirs,
        environ=world.environ,
    )


def _tools(image: DiskImage, environment: Mapping[str, str]) -> Finding:
    try:
        tools.require_for(image.elements, environment)
    except ToolMissingError as error:
        return problem("tools", error.message, hint=error.hint, failure_class=FailureClass.TOOL)
    return fine("tools", "all that its elements and its architecture need are installed")


def _elements(image: DiskImage, rendered: command.Command) -> Finding:
    try:
        found = resolve(rendered.argv, rendered.environment)
    except (RefusedError, OSError) as error:
        return problem(
            "elements",
            error.message if isinstance(error, RefusedError) else str(error),
            hint="Mend the names in `elements`, or add the directory they are in to elements-dir.",
            failure_class=FailureClass.CONFIG,
        )
    return fine("elements", f"all {len(found)} are there, from {', '.join(image.elements)}")


def _preflight(world: World, image: DiskImage, environment: Mapping[str, str]) -> tuple[Finding, ...]:
    config = world.config
    earlier = () if world.snapshot is None else world.snapshot.image(image.name).ready_builds
    needs = space.needs(image.formats, earlier, space.on_disk(config.images_dir, earlier))
    if world.snapshot is None:
        needs = replace(needs, basis="assumed: without records, earlier builds are not known")
    asked = preflight.Preflight(
        image=image,
        environment=environment,
        work_dir=config.work_dir,
        images_dir=config.images_dir,
        cache_dir=config.cache_dir,
        log_dir=config.log_dir,
        needs=needs,
        reserve=config.disk_reserve,
        limits=config.build_limits,
    )
    return (*preflight.boot_test(asked), *preflight.disks(asked))


def mirrors(world: World) -> Iterator[Finding]:
    """Whether the mirrors answer that builds would use; each is asked once."""
    asked: set[tuple[str, str]] = set()
    unnamed = []
    for image in world.images:
        if _lacking(world, image):
            continue
        environment = _rendered(world, image).environment
        named = reachable.mirrors_of(image, environment)
        if not named:
            unnamed.append(image.name)
        if {(mirror.url, mirror.suite) for mirror in named} - asked:
            yield from preflight.mirrors(image, environment, Limits())
        asked |= {(mirror.url, mirror.suite) for mirror in named}
    if unnamed:
        yield fine(
            reachable.NAME, f"not asked: {', '.join(unnamed)} name none, so diskimage-builder's own are used"
        )
