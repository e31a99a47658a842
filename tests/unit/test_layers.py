"""Holds the import rules: who may know whom, and which outside thing is behind which door.

The table is the architecture. Imports point down, packages of one level never meet, and above
level 1 a package sees of another only what its row names. A new package needs a row, and with it
a thought about where it belongs.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]

WORDS = (
    "builder.errors",
    "builder.model",
    "builder.cloudimage",
    "builder.ways",
    "builder.withheldmark",
)
SEES = (*WORDS, "builder.config.model")


@dataclass(frozen=True)
class Row:
    """A package's level, and what it may import besides itself; a package stands for all in it."""

    level: int
    may: tuple[str, ...] = ()


#: The longest name that fits a module is its row.
LAYERS: Mapping[str, Row] = {
    # L0: the words
    "builder.model": Row(0),
    "builder.errors": Row(0, ("builder.model",)),  # for types alone; see test_no_cycles
    "builder.cloudimage": Row(0),
    "builder.ways": Row(0),
    "builder.bootorder": Row(0, ("builder.model",)),
    "builder.bounded": Row(0),
    "builder.findings": Row(0, ("builder.model",)),
    "builder.host": Row(0),
    "builder.shown": Row(0),
    "builder.signals": Row(0),
    "builder.withheldmark": Row(0, ("builder.model",)),
    # L1: what is configured, and how programs are run
    "builder.config": Row(1, WORDS),
    "builder.process": Row(1, WORDS),
    # L2: decisions, and the doors to the three outside things; they never meet
    "builder.planning": Row(2, (*SEES, "builder.shown")),
    "builder.store": Row(2, (*SEES, "builder.process")),
    "builder.dib": Row(
        2,
        (
            *SEES,
            "builder.bootorder",
            "builder.process",
            "builder.bounded",
            "builder.findings",
            "builder.host",
            "builder.shown",
        ),
    ),
    "builder.cloud": Row(2, (*SEES, "builder.bounded")),
    "builder.emulator": Row(2, (*WORDS, "builder.host", "builder.process", "builder.shown")),
    # ... beyond which is a program of its own, that the engine runs in a build's sandbox and never imports
    "builder.boottest": Row(
        3, (*WORDS, "builder.bootorder", "builder.emulator", "builder.process", "builder.shown")
    ),
    "builder.serving": Row(2, WORDS),
    "builder.metrics": Row(2, WORDS),
    "builder.notify": Row(2, (*SEES, "builder.config.passing", "builder.process")),
    # L3: the roles, which know the contracts and not who keeps them
    "builder.workers": Row(
        3,
        (
            *SEES,
            "builder.planning",
            "builder.store.base",
            "builder.bounded",
            "builder.findings",
            "builder.shown",
            "builder.cloud.base",
            "builder.cloud.ownership",
            "builder.cloud.transfer",
            "builder.dib",
            "builder.metrics.base",
            "builder.notify",
        ),
    ),
    # ... of which one runs what an operator names, and no other runs anything
    "builder.workers.hook": Row(3, (*SEES, "builder.config.passing", "builder.host", "builder.process")),
    # L3 as well: what the daemon was told
    "builder.inforce": Row(3, (*SEES, "builder.config", "builder.cloud.openstack")),
    # L4: wires everything; alone names the cloud behind the contract, and the workers
    "builder.service": Row(
        4,
        (
            *WORDS,
            "builder.host",
            "builder.inforce",
            "builder.signals",
            "builder.config",
            "builder.planning",
            "builder.store",
            "builder.dib",
            "builder.cloud",
            "builder.serving",
            "builder.metrics",
            "builder.workers",
        ),
    ),
    # L4 as well: looks at everything and changes nothing
    "builder.doctor": Row(
        4,
        (
            *SEES,
            "builder.bounded",
            "builder.findings",
            "builder.host",
            "builder.planning",
            "builder.store.base",
            "builder.store.embedded",
            "builder.store.probe",
            "builder.store.zookeeper",
            "builder.dib",
            "builder.cloud",
            "builder.notify",
        ),
    ),
    # L4 too: stands in for the daemon when its records are lost
    "builder.recovery": Row(
        4,
        (
            *SEES,
            "builder.bounded",
            "builder.planning",
            "builder.store.base",
            "builder.dib",
            "builder.cloud.base",
        ),
    ),
    # L5: what people type
    "builder.cli": Row(
        5,
        (
            *WORDS,
            "builder.bounded",
            "builder.findings",
            "builder.host",
            "builder.shown",
            "builder.config",
            "builder.doctor",
            "builder.planning",
            "builder.store.base",
            "builder.store.exchange",
            "builder.bootorder",
            "builder.dib.boot.byhand",
            "builder.dib.output.artifacts",
            "builder.dib.command",
            "builder.dib.contents.reproduce",
            "builder.dib.differences",
            "builder.dib.logs.log",
            "builder.dib.logs.logfiles",
            "builder.dib.isolation.workspace",
            "builder.dib.job",
            "builder.dib.mirrors",
            "builder.service",
            "builder.recovery",
            "builder.workers.statedir",
        ),
    ),
    # ... where one module opens the store for the commands that need no daemon
    "builder.cli.context": Row(
        5,
        (
            *SEES,
            "builder.config",
            "builder.store.asking",
            "builder.store.base",
            "builder.store.embedded",
            "builder.store.wire",
            "builder.store.zookeeper",
            "builder.cloud.base",
            "builder.cloud.pool",
        ),
    ),
}

#: Outside things, and the only places that may name them.
DOORS: Mapping[str, tuple[str, ...]] = {
    "subprocess": ("builder.process.child",),
    "kazoo": ("builder.store",),
    "openstack": ("builder.cloud.openstack",),
    "keystoneauth1": ("builder.cloud.openstack",),
    "requests": ("builder.cloud.openstack", "builder.dib.contents.download", "builder.dib.checks.reachable"),
    "urllib3": ("builder.cloud.openstack", "builder.dib.contents.download"),
    "pycdlib": ("builder.emulator",),
    "debian_inspector": ("builder.dib.contents.indexes", "builder.dib.differences.versions"),
    "univers": ("builder.dib.differences.versions",),
    "cyclonedx": ("builder.dib.contents.sbom",),
    "packageurl": ("builder.dib.contents.sbom",),
    "starlette": ("builder.serving",),
    "statsd": ("builder.metrics",),
    "uvicorn": ("builder.serving",),
    "diskimage_builder": ("builder.dib.contents",),
    "cliff": ("builder.cli",),
    "rich": ("builder.cli",),
    "jinja2": ("builder.config",),
    "pydantic": ("builder.config",),
    "watchdog": ("builder.config",),
    "croniter": ("builder.config", "builder.planning.schedule"),
}

#: All that decisions are made of besides our own words: nothing that can see or touch the world.
PURE_PACKAGE = "builder.planning"
PURE_MODULES = frozenset(
    {
        *("__future__", "collections", "croniter", "dataclasses", "datetime", "enum", "hashlib", "itertools"),
        *("bisect", "functools", "heapq", "statistics", "types", "typing", "zoneinfo"),
    }
)
IMPURE_CALLS = frozenset({"now", "utcnow", "today", "open", "print", "input", "exec", "eval", "__import__"})


# -- reading ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Module:
    """A file of the package: its dotted name and its syntax tree."""

    name: str
    tree: ast.Module
    is_package: bool


def read(root: Path) -> dict[str, Module]:
    """Every module below `root`/builder by its dotted name."""
    modules = {}
    for path in sorted((root / "builder").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        modules[name] = Module(name, ast.parse(path.read_text(), str(path)), is_package)
    return modules


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def nodes(tree: ast.AST, *, with_types: bool) -> Iterator[ast.AST]:
    """Every node; without `with_types`, none of those that only type checkers read."""
    for child in ast.iter_child_nodes(tree):
        if with_types or not is_for_types(child):
            yield child
            yield from nodes(child, with_types=with_types)


def imports(module: Module, *, with_types: bool = True) -> Iterator[str]:
    """The dotted name of everything a module imports; of a name from a module, both joined."""
    for node in nodes(module.tree, with_types=with_types):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def within(name: str, packages: tuple[str, ...]) -> bool:
    """Whether a dotted name is one of the packages or in one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def package_of(name: str) -> str:
    """The package on the second level: "builder.cli" for "builder.cli.commands.image"."""
    return ".".join(name.split(".")[:2])


def row_of(name: str) -> Row | None:
    fitting = [package for package in LAYERS if within(name, (package,))]
    return LAYERS[max(fitting, key=len)] if fitting else None


# -- the rules, each from the modules to what breaks it -----------------------------------------


def broken_layers(modules: Mapping[str, Module]) -> Iterator[str]:
    for module in modules.values():
        row = row_of(module.name)
        if row is None:
            if module.name != "builder":
                yield f"{module.name} has no row in the table"
            continue
        for target in imports(module):
            if target.startswith("."):
                yield f"{module.name} imports {target}: name modules in full"
            elif not ours_and_allowed(module.name, row, target, modules):
                yield f"{module.name} must not import {target}"


def ours_and_allowed(name: str, row: Row, target: str, modules: Mapping[str, Module]) -> bool:
    if not within(target, ("builder",)):
        return True  # the doors' business
    if target == "builder" or package_of(target) not in modules:
        return True  # the package's own names, such as its version
    return within(target, (package_of(name), *row.may))


def broken_doors(modules: Mapping[str, Module]) -> Iterator[str]:
    for module in modules.values():
        for target in imports(module):
            door = DOORS.get(target.split(".")[0])
            if door is not None and not within(module.name, door):
                yield f"{module.name} must not import {target}: its door is {' and '.join(door)}"


def impurities(modules: Mapping[str, Module]) -> Iterator[str]:
    for module in modules.values():
        if not within(module.name, (PURE_PACKAGE,)):
            continue
        for target in imports(module):
            if target.split(".")[0] not in PURE_MODULES | {"builder"}:
                yield f"{module.name} must not import {target}: decisions are pure"
        for node in ast.walk(module.tree):
            called = ast.unparse(node.func).split(".")[-1] if isinstance(node, ast.Call) else ""
            if called in IMPURE_CALLS:
                yield f"{module.name}:{getattr(node, 'lineno', 0)} must not call {called}: decisions are pure"


def cycles(modules: Mapping[str, Module]) -> Iterator[str]:
    """Modules that, at run time, import themselves by way of others."""
    edges = {name: neighbours(module, modules) for name, module in modules.items()}
    for start in edges:
        seen: set[str] = set()
        todo = set(edges[start])
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo |= edges[name]
        if start in seen:
            yield f"{start} imports itself by way of others"


def neighbours(module: Module, modules: Mapping[str, Module]) -> set[str]:
    found = set()
    for target in imports(module, with_types=False):
        name = target
        while name and name not in modules:
            name = name.rpartition(".")[0]
        # Importing a module from a package names the package too, which is no cycle.
        if name and not within(module.name, (name,) if modules[name].is_package else ()):
            found.add(name)
    return found


# -- the project keeps them -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def project() -> dict[str, Module]:
    return read(PROJECT)


def test_imports_point_down_and_siblings_never_meet(project: dict[str, Module]) -> None:
    assert list(broken_layers(project)) == []


def test_each_outside_thing_is_behind_its_door(project: dict[str, Module]) -> None:
    assert list(broken_doors(project)) == []


def test_decisions_are_pure(project: dict[str, Module]) -> None:
    assert PURE_PACKAGE in project
    assert list(impurities(project)) == []


def test_no_cycles(project: dict[str, Module]) -> None:
    assert list(cycles(project)) == []


def test_the_table_itself_points_down() -> None:
    upwards = [
        f"{name} -> {target}"
        for name, row in LAYERS.items()
        for target in row.may
        if (seen := row_of(target)) is None or (seen.level >= row.level and row.level > 0)
    ]
    assert upwards == []


def test_the_table_names_nothing_that_is_gone(project: dict[str, Module]) -> None:
    assert [name for name in LAYERS if name not in project] == []


# -- and they bite --------------------------------------------------------------------------------


def world(tmp_path: Path, files: Mapping[str, str]) -> dict[str, Module]:
    """A package of those files, beside an empty module for everything the table names."""
    for name in {package_of(name) for name in LAYERS} | {"builder"}:
        directory = tmp_path.joinpath(*name.split("."))
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "__init__.py").touch()
    for path, source in files.items():
        target = tmp_path / "builder" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source)
    return read(tmp_path)


LAYER_BREAKERS = {
    "upwards": ("store/session.py", "from builder.workers.base import World"),
    "a sibling": ("store/session.py", "from builder.cloud.base import Cloud"),
    "a sibling, by its package": ("planning/builds.py", "from builder import store"),
    "a sibling, plainly": ("dib/engine.py", "import builder.cloud"),
    "more of the configuration than its model": ("cloud/pool.py", "from builder.config.loader import load"),
    "past a contract": ("workers/janitor.py", "from builder.store.zookeeper import ZooKeeperStore"),
    "past the cloud's contract": (
        "workers/uploader.py",
        "from builder.cloud.openstack import OpenStackCloud",
    ),
    "workers running programs": ("workers/builder.py", "from builder.process.child import run"),
    "the CLI reaching for a cloud": ("cli/commands/image.py", "from builder.cloud import openstack"),
    "a command opening the store": ("cli/commands/image.py", "from builder.store import zookeeper"),
    "within a function": ("config/loader.py", "def f():\n    from builder.planning import builds"),
    "for types alone": ("model.py", "if TYPE_CHECKING:\n    from builder.errors import ImagepoolError"),
    "relatively": ("cli/app.py", "from ..store import zookeeper"),
    "a package without a row": ("plumbing/pipes.py", ""),
}


@pytest.mark.parametrize("case", LAYER_BREAKERS)
def test_a_broken_layer_is_found(case: str, tmp_path: Path) -> None:
    path, source = LAYER_BREAKERS[case]
    assert [*broken_layers(world(tmp_path, {path: source}))] != []


def test_what_the_table_allows_is_allowed(tmp_path: Path) -> None:
    files = {
        "workers/janitor.py": "from builder.store.base import Store\nfrom builder.planning import cleanup",
        "cli/context.py": "from builder.store import zookeeper\nfrom builder import __version__",
        "service.py": "import builder\nfrom builder.cloud import openstack\nimport os",
        "cli/commands/image.py": "from builder.cli.base import Lister\nfrom builder.model import Build",
    }
    assert list(broken_layers(world(tmp_path, files))) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("dib/tools.py", "import subprocess"),
        ("process/other.py", "from subprocess import run"),
        ("workers/base.py", "from kazoo.client import KazooClient"),
        ("cloud/pool.py", "import openstack.connection"),
        ("service.py", "def f():\n    import keystoneauth1"),
    ],
)
def test_a_way_around_a_door_is_found(path: str, source: str, tmp_path: Path) -> None:
    assert len(list(broken_doors(world(tmp_path, {path: source})))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import os",
        "from pathlib import Path",
        "import logging",
        "import random",
        "from time import monotonic",
        "from datetime import datetime\nNOW = datetime.now()",
        "def f(p):\n    return open(p)",
    ],
)
def test_an_impure_decision_is_found(source: str, tmp_path: Path) -> None:
    assert len(list(impurities(world(tmp_path, {"planning/builds.py": source})))) == 1


def test_a_cycle_is_found_and_one_for_types_alone_is_none(tmp_path: Path) -> None:
    one = {"store/a.py": "from builder.store import b", "store/b.py": "import builder.store.a"}
    assert len(list(cycles(world(tmp_path / "one", one)))) == 2
    other = {**one, "store/b.py": "if typing.TYPE_CHECKING:\n    import builder.store.a"}
    assert list(cycles(world(tmp_path / "other", other))) == []
