"""Whatever a file holds, loading it gives a Config or a ConfigError, never another exception."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.config import schema
from builder.config.checking import keys_of
from builder.config.model import Config
from builder.config.show import as_data
from builder.errors import ConfigError
from tests.unit.config_world import Files

SETTINGS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

KEYS = sorted({re.split(r"[.\[\]]+", key)[-1] for key in keys_of(schema.ConfigFile)})
NAMES = st.sampled_from(
    ["a", "b", "base", "alpha", "one", "p", "../x", "", "{{ platform.release }}", "{{ platform.name }}"]
)
TEXTS = st.one_of(
    NAMES,
    st.sampled_from(["{{ platform.a }}", "{{", "{% for %}", "{{ platform.name * 3 }}", "never", "raw"]),
    st.text(max_size=20),
)
FORMATS = st.sampled_from(["qcow2", "raw", "vhd", "iso", "compat", ""])
SIZES = st.from_regex(r"[0-9]{1,22}(\.[0-9]{1,7})? ?[KMGTkX]?(iB)?", fullmatch=True)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)


OPTIONS = st.dictionaries(
    st.sampled_from(["compression", "compat", "colour"]),
    st.one_of(SCALARS, st.sampled_from(["zstd", "zlib", "none", "1.1", "0.10"])),
    max_size=2,
)


SCHEDULES = st.one_of(
    SCALARS,
    st.lists(
        st.one_of(
            TEXTS,
            st.sampled_from(["never", "1 1 * * *", "1 1 * * * Europe/Berlin"]),
            st.builds("@after {}".format, NAMES),
        ),
        max_size=3,
    ),
)


def entries(**known: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """Lists of entries that are nearly right: known keys, some of them with something unexpected."""
    return st.lists(st.fixed_dictionaries({"name": NAMES}, optional=known), max_size=4)


NEARLY_RIGHT = st.fixed_dictionaries(
    {},
    optional={
        "schedule": SCHEDULES,
        "keep": SCALARS,
        "disk-reserve": st.one_of(SCALARS, SIZES),
        "build-limits": st.fixed_dictionaries(
            {}, optional={"cpus": SCALARS, "memory": st.one_of(SCALARS, SIZES), "io": TEXTS, "nice": SCALARS}
        ),
        "include": st.one_of(SCALARS, st.lists(NAMES, max_size=2), st.just("shipped.yaml")),
        "mirrors": st.dictionaries(NAMES, st.one_of(TEXTS, VALUES), max_size=2),
        "platforms": entries(
            distribution=NAMES,
            release=SCALARS,
            mirror=TEXTS,
            matrix=st.lists(
                st.fixed_dictionaries(
                    {"release": SCALARS},
                    optional={
                        "architectures": st.lists(TEXTS, max_size=2),
                        "variables": st.dictionaries(NAMES, VALUES, max_size=2),
                    },
                ),
                max_size=3,
            ),
            variables=st.dictionaries(NAMES, VALUES, max_size=3),
        ),
        "diskimages": entries(
            parent=NAMES,
            platform=NAMES,
            platforms=st.one_of(TEXTS, st.lists(st.sampled_from(["*", "p", "[", "[!a]?"]), max_size=2)),
            abstract=st.booleans(),
            elements=st.lists(TEXTS, max_size=3),
            formats=st.lists(TEXTS, max_size=2),
            schedule=SCHEDULES,
            requires=st.one_of(SCALARS, st.lists(TEXTS, max_size=2)),
            metadata=st.dictionaries(TEXTS, SCALARS, max_size=2),
            **{
                "env-vars": st.dictionaries(TEXTS, TEXTS, max_size=2),
                "dib-cmd": TEXTS,
                "format-options": st.dictionaries(FORMATS, st.one_of(SCALARS, OPTIONS), max_size=2),
                "keep-formats": st.lists(FORMATS, max_size=2),
                "if-unchanged": st.one_of(SCALARS, st.just("skip")),
                "max-age": SCALARS,
            },
        ),
        "providers": entries(
            cloud=NAMES, diskimages=entries(pause=SCALARS), **{"image-name-format": TEXTS, "driver": NAMES}
        ),
        "zookeeper-servers": st.lists(st.fixed_dictionaries({"host": TEXTS, "chroot": TEXTS}), max_size=2),
    },
)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    (tmp_path / "shipped.yaml").write_text(
        "platforms:\n- {name: a, distribution: b, release: one}\n"
        "diskimages:\n- {name: base, abstract: true, elements: [vm]}\n"
        "- {name: 'x{{ platform.name }}', platforms: '*', parent: base}\n"
    )
    return Files(tmp_path)


def load_or_problems(files: Files) -> Config | None:
    """The Config, or None when there are problems; each of them must be one line that names its place."""
    try:
        return files.load()
    except ConfigError as error:
        assert error.problems
        for problem in error.problems:
            assert re.match(r"[^\n]+\.yaml(:\d+)?: [^\n]+\Z", problem), problem
        return None


@SETTINGS
@given(content=st.binary(max_size=200))
def test_any_bytes(files: Files, content: bytes) -> None:
    files.main.write_bytes(content)
    load_or_problems(files)


@SETTINGS
@given(content=st.text(alphabet="abk:-? \n[]{}&*!|>'\"%@`#,<.0123", max_size=80))
def test_any_punctuation(files: Files, content: str) -> None:
    files.main.write_text(content)
    load_or_problems(files)


@SETTINGS
@given(data=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6))
def test_any_values_below_any_keys(files: Files, data: dict[str, Any]) -> None:
    files.main.write_text(yaml.safe_dump(data))
    load_or_problems(files)


@SETTINGS
@given(data=NEARLY_RIGHT)
def test_anything_nearly_right_and_what_loads_can_be_shown(files: Files, data: dict[str, Any]) -> None:
    files.main.write_text(yaml.safe_dump(data))
    config = load_or_problems(files)
    if config is not None:
        yaml.safe_dump(as_data(config))
