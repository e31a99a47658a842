"""How two builds differ, as records: each list is in order, and empty when nothing of its kind differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from builder.dib.contents.marks import Marked, Service
from builder.dib.differences.contents import Name


@dataclass(frozen=True, kw_only=True)
class Change:
    """Something with a name and a value. None: it is not there."""

    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True, kw_only=True)
class PackageChange:
    """A package of which one build has another version than the other, or which only one has."""

    name: str
    architecture: str
    kind: str  #: "deb" or "rpm"
    before: str | None = None
    after: str | None = None


@dataclass(frozen=True, kw_only=True)
class Packages:
    """How the packages differ. A package is told by name, architecture and kind."""

    before: int  #: how many there were
    after: int
    added: tuple[PackageChange, ...] = ()
    removed: tuple[PackageChange, ...] = ()
    upgraded: tuple[PackageChange, ...] = ()
    downgraded: tuple[PackageChange, ...] = ()
    changed: tuple[PackageChange, ...] = ()  #: of versions that count as equal, or can't be compared

    @property
    def all(self) -> tuple[PackageChange, ...]:
        """Every package that differs."""
        return (*self.added, *self.removed, *self.upgraded, *self.downgraded, *self.changed)


@dataclass(frozen=True, kw_only=True)
class FileChange:
    """A file, setuid, setgid or below /etc, of another owner, mode or kind; None: it is not there."""

    path: str
    before: Marked | None
    after: Marked | None


@dataclass(frozen=True, kw_only=True)
class ServiceChange:
    """A unit that systemd starts or must not start, in one build and not in the other; None: neither."""

    unit: str
    before: Service | None
    after: Service | None


@dataclass(frozen=True, kw_only=True)
class SizeChange:
    """A directory or an artifact, in bytes; None: it is not there."""

    name: str
    before: int | None
    after: int | None

    @property
    def growth(self) -> int:
        """Bytes that it grew by; negative when it shrank."""
        return (self.after or 0) - (self.before or 0)


@dataclass(frozen=True, kw_only=True)
class VariableChange:
    """An environment variable that differs. Of one that is secret no value is told."""

    name: str
    what: str  #: "value", "secret", or "files": it names files whose content differs
    before: str | None = None
    after: str | None = None


@dataclass(frozen=True, kw_only=True)
class RepositoryChange:
    """A git repository whose commits differ; None: it is not there."""

    name: str
    before: str | None  #: the commit of its head
    after: str | None
    branches: int = 0  #: how many branches differ


@dataclass(frozen=True, kw_only=True)
class Differences:
    """How build `after` differs from build `before`."""

    before: Name
    after: Name
    unknown: tuple[str, ...] = ()  #: what could not be compared and why, a line each
    kernels: Change | None = None  #: releases, separated by commas
    packages: Packages | None = None  #: None when they could not be compared
    services: tuple[ServiceChange, ...] = ()
    files: tuple[FileChange, ...] = ()
    total: SizeChange | None = None  #: of all files in the image, whether it differs or not
    directories: tuple[SizeChange, ...] = ()  #: that grew or shrank most, first
    artifacts: tuple[SizeChange, ...] = ()
    elements: tuple[Change, ...] = ()  #: digests of their content
    environment: tuple[VariableChange, ...] = ()
    recipe: tuple[Change, ...] = ()  #: the command, formats, versions of tools
    repositories: tuple[RepositoryChange, ...] = ()
    counts: Mapping[str, int] = field(init=False)  #: how many differences of each kind, where there are any

    def __post_init__(self) -> None:
        found = {
            "kernel": 0 if self.kernels is None else 1,
            "packages": 0 if self.packages is None else len(self.packages.all),
            "services": len(self.services),
            "files": len(self.files),
            "directories": len(self.directories),
            "artifacts": len(self.artifacts),
            "elements": len(self.elements),
            "environment": len(self.environment),
            "recipe": len(self.recipe),
            "repositories": len(self.repositories),
        }
        object.__setattr__(self, "counts", {kind: count for kind, count in found.items() if count})

    @property
    def differ(self) -> bool:
        """Whether anything is known to differ."""
        return bool(self.counts)

    @property
    def same(self) -> bool:
        """Whether all could be compared, and nothing differs."""
        return not self.differ and not self.unknown
