"""The words between who wants an image booted and the program that does: what to do, and what came of it.

Both travel as JSON: the order on the command line of `python -m builder.boottest test`, the answer in a file.
Paths in an order are absolute, sizes bytes, durations seconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

from builder.model import BootResult, BootVerdict

#: Of machines that can be booted, by Debian's names.
ARCHITECTURES: Final = ("amd64", "arm64")
#: What an order's `place` has in it once all is done.
ANSWER: Final = "answer.json"
CONSOLE: Final = "console.log"
#: ... and while a machine is held for somebody: how to log in, and the key for it.
LOGIN: Final = "login.json"
KEY: Final = "key"
#: Bytes of an answer; what is in it comes from the image.
LIMIT: Final = 8 << 20

_NOTHING: Final[Mapping[str, float]] = MappingProxyType({})


def _nothing() -> Mapping[str, float]:
    # dataclasses take no unhashable default, which a mappingproxy is before Python 3.12.
    return _NOTHING


@dataclass(frozen=True, kw_only=True)
class Check:
    """A script of an operator's or an element's own, to be run in the guest."""

    name: str  #: where it is from and what it is called, such as "network-glean/addresses"
    path: str


@dataclass(frozen=True, kw_only=True)
class Order:
    """An image, the machine to boot it on, and what it must do there."""

    disk: str
    format: str  #: a `model.ImageFormat`
    size: int  #: of the disk in the image; the machine's own is larger
    architecture: str  #: one of ARCHITECTURES
    firmware: str  #: "bios" or "uefi"
    memory: int
    cpus: int
    user: str  #: must be able to log in, and have root by sudo
    timeout: float  #: for all of it
    place: str  #: a directory for the machine's files, and for what comes of it
    kernel: str = ""  #: of an image in three parts, else ""
    ramdisk: str = ""
    allowed_failed_units: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    hold: bool = False  #: prove nothing: boot it, and keep it running for somebody to look around

    def text(self) -> str:
        """The order as `order_of` reads it."""
        return json.dumps(asdict(self))


def order_of(text: str) -> Order:
    """The order in a text; raises ValueError or TypeError where there is none."""
    fields = json.loads(text)
    fields["checks"] = tuple(Check(**each) for each in fields["checks"])
    fields["allowed_failed_units"] = tuple(fields["allowed_failed_units"])
    return Order(**fields)


@dataclass(frozen=True, kw_only=True)
class Proof:
    """One thing that an image must do, and whether it does."""

    name: str
    passed: bool
    sentence: str  #: what was found, for people; no full stop
    lines: tuple[str, ...] = ()  #: of the console or of a command, which show it; oldest first


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of an order."""

    verdict: BootVerdict
    proofs: tuple[Proof, ...] = ()  #: in the order in which they were asked for; those that were
    measures: Mapping[str, float] = field(default_factory=_nothing)
    ports: tuple[str, ...] = ()
    setuid: tuple[str, ...] = ()
    seconds: float = 0.0
    accelerator: str | None = None
    problem: str = ""  #: why the test came to nothing, where it did
    lines: tuple[str, ...] = ()  #: what shows that

    @property
    def failed(self) -> tuple[Proof, ...]:
        """The proofs that failed."""
        return tuple(proof for proof in self.proofs if not proof.passed)

    @property
    def result(self) -> BootResult:
        """What of it goes on the build's record."""
        return BootResult(
            verdict=self.verdict,
            failed=tuple(proof.name for proof in self.failed),
            seconds=round(self.seconds, 1),
            accelerator=self.accelerator,
            measures=self.measures,
            ports=self.ports,
            setuid=self.setuid,
        )

    def cleaned(self, clean: Callable[[str], str]) -> Answer:
        """The same, with what the image or its machine said as `clean` leaves it."""
        return replace(
            self,
            proofs=tuple(
                replace(proof, sentence=clean(proof.sentence), lines=tuple(map(clean, proof.lines)))
                for proof in self.proofs
            ),
            setuid=tuple(map(clean, self.setuid)),
            problem=clean(self.problem),
            lines=tuple(map(clean, self.lines)),
        )

    def data(self) -> dict[str, Any]:
        """All of it in lists and mappings."""
        return {
            "verdict": str(self.verdict),
            "proofs": [asdict(proof) for proof in self.proofs],
            "measures": dict(self.measures),
            "ports": self.ports,
            "setuid": self.setuid,
            "seconds": self.seconds,
            "accelerator": self.accelerator,
            "problem": self.problem,
            "lines": self.lines,
        }

    def text(self) -> str:
        """The answer as `answer_of` reads it, and people do."""
        return json.dumps(self.data(), indent=1) + "\n"


def answer_of(text: str) -> Answer:
    """The answer in a text; raises ValueError, TypeError or KeyError where there is none."""
    fields = json.loads(text)
    return Answer(
        verdict=BootVerdict(fields["verdict"]),
        proofs=tuple(Proof(**{**proof, "lines": tuple(proof["lines"])}) for proof in fields["proofs"]),
        measures=MappingProxyType({str(name): float(value) for name, value in fields["measures"].items()}),
        ports=tuple(fields["ports"]),
        setuid=tuple(fields["setuid"]),
        seconds=float(fields["seconds"]),
        accelerator=fields["accelerator"],
        problem=fields["problem"],
        lines=tuple(fields["lines"]),
    )
