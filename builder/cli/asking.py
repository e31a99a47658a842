"""Tell which images may be asked for, why others may not, and what becomes of a wish; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from builder.cli import standstill, text
from builder.config.model import Config, DiskImage
from builder.errors import NotFoundError, RefusedError
from builder.model import Request, Snapshot


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why an image is not built on request, and what to do about it."""

    why: str
    hint: str

    def error(self, name: str) -> RefusedError:
        """The same for a single image."""
        return RefusedError(f"{name} {self.why}", hint=self.hint)


def configured(config: Config, name: str) -> DiskImage:
    """The diskimage of that name; NotFoundError when only records know it."""
    image = config.diskimages.get(name)
    if image is None:
        raise NotFoundError(
            f"{name} is on record, but the configuration {config.path} has no such diskimage",
            hint="Add it to the configuration to build it again.",
        )
    return image


def against_freeze(snapshot: Snapshot, *, force: bool) -> None:
    """RefusedError when everything is frozen and nobody insists."""
    if snapshot.frozen is not None and not force:
        raise RefusedError(
            f"everything is frozen {standstill.told(snapshot.frozen)}",
            hint="'imagepool unfreeze' lets it go on; with --force it is built all the same.",
        )


def refusal(config: Config, image: DiskImage, *, force: bool) -> Refusal | None:
    """Why this image is not built although somebody asks for it by name; None when it is."""
    if not image.formats:
        return Refusal(
            why="has no format to be made in: no provider lists it and it names none",
            hint="List it in a provider, or give the diskimage 'formats'.",
        )
    if image.pause and not force:
        return Refusal(
            why=f"is paused by the configuration {config.path}",
            hint="Remove 'pause' from the diskimage there, or use --force.",
        )
    return None


def left_out(config: Config, snapshot: Snapshot, *, force: bool) -> Mapping[str, str]:
    """Which images `--all` leaves out, and why; who paused one by hand meant it."""
    return dict(_left_out(config, snapshot, force))


def _left_out(config: Config, snapshot: Snapshot, force: bool) -> Iterator[tuple[str, str]]:
    for name, image in config.diskimages.items():
        against = refusal(config, image, force=force)
        pause = snapshot.image(name).pause
        if against is not None:
            yield name, f"it {against.why}"
        elif pause is not None and not force:
            yield name, f"it is paused by hand, {standstill.told(pause)}"


def answer(ours: Request, there: Request | None) -> str:
    """What became of our wish, on one line: it is the open request, or joins somebody else's."""
    if there is None or is_same(ours, there):
        return text.one_line(f"a build of {ours.image} is requested ({ours.why}, {ours.by}){_how(ours)}")
    who = f"{there.why}, {there.by}, {text.moment(there.time)}"
    return text.one_line(
        f"a build of {ours.image} was asked for already ({who}); this request joins it{_how(ours)}"
    )


def is_same(ours: Request, there: Request) -> bool:
    """Whether the open request is the one that was filed, and not an older one."""
    return (ours.by, ours.why, ours.time) == (there.by, there.why, there.time)


def _how(ours: Request) -> str:
    parts = [
        *(["although it is paused or frozen"] if ours.force else []),
        *(["before all others that wait"] if ours.urgent else []),
    ]
    return f", to be built {' and '.join(parts)}" if parts else ""
