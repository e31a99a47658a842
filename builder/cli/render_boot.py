"""What came of booting the image of a build, as cells."""

from __future__ import annotations

from collections.abc import Iterator

from builder.cli import text
from builder.cli.cells import Lines
from builder.model import BootResult

#: How each measure is told; of others the number is.
_SECONDS, _BYTES = "_seconds", ("memory_used", "disk_claimed")


def boot_cell(result: BootResult | None) -> Lines:
    """The verdict, and what was measured; None when nobody booted it."""
    if result is None:
        return Lines(None, ())
    data = {
        "verdict": str(result.verdict),
        "failed": list(result.failed),
        "seconds": result.seconds,
        "accelerator": result.accelerator,
        "measures": dict(result.measures),
        "ports": list(result.ports),
        "setuid": list(result.setuid),
    }
    return Lines(data, tuple(_lines(result)))


def _lines(result: BootResult) -> Iterator[str]:
    failed = f": {', '.join(result.failed)}" if result.failed else ""
    under = f" under {result.accelerator}" if result.accelerator else ""
    yield f"{result.verdict}{failed} ({text.duration(result.seconds)}{under})"
    for name, value in result.measures.items():
        yield f"  {name}: {_shown(name, value)}"
    if result.ports:
        yield f"  ports: {', '.join(result.ports)}"
    if result.setuid:
        yield f"  setuid: {len(result.setuid)} files"


def _shown(name: str, value: float) -> str:
    if name in _BYTES:
        return text.size(round(value))
    return text.duration(value) if name.endswith(_SECONDS) else f"{value:g}"
