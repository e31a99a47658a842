"""The command line in a world of its own: a fixed configuration, a store in memory, a clock that stands."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from builder.cli.context import Parts
from builder.cli.main import main
from builder.config.model import Config
from builder.errors import ConfigError
from builder.model import ImageFormat
from builder.ways import Capabilities
from tests.fakes.cloud import FakeCloud
from tests.fakes.store import FakeStore
from tests.unit.planning_world import NOW, config, diskimage, provider


@dataclass(frozen=True)
class Result:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


class TimelessCloud(FakeCloud):
    """A cloud whose clock stands as well: whoever asks twice is told the same."""

    def capabilities(self) -> Capabilities:
        return replace(super().capabilities(), checked=NOW)


@dataclass
class World:
    """What the commands see; change it, run one, look at `store` and `clouds`."""

    config: Config = field(default_factory=lambda: config(diskimage(), provider("north"), provider("south")))
    store: FakeStore = field(default_factory=FakeStore)
    now: datetime = NOW
    environ: dict[str, str] = field(default_factory=dict)
    #: By provider; `nowhere` are the clouds that clouds.yaml doesn't have.
    clouds: defaultdict[str, FakeCloud] = field(default_factory=lambda: defaultdict(TimelessCloud))
    nowhere: set[str] = field(default_factory=set)

    def format_of(self, cloud: str, region: str | None, /) -> ImageFormat:
        """What clouds.yaml says."""
        if cloud in self.nowhere:
            raise ConfigError([f"cloud {cloud!r} is not there"], hint="Looked at clouds.yaml.")
        return ImageFormat.QCOW2

    def parts(self) -> Parts:
        return Parts(
            load=lambda path, secure, environ, format_of: self.config,
            open_store=lambda config, environ, watch: self.store.another_daemon(),
            own_store=lambda config, environ: self.store.another_daemon(),
            format_of=self.format_of,
            cloud=lambda provider: self.clouds[provider.name],
            now=lambda: self.now,
            environ=self.environ,
        )

    def run(self, *argv: str) -> Result:
        """Run `imagepool argv...` to its end."""
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = main(argv, parts=self.parts())
        return Result(code, out.getvalue(), err.getvalue())

    def json(self, *argv: str) -> Any:
        """What the command prints as JSON."""
        return self.run(*argv, "-f", "json").json
