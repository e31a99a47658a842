"""libyaml's parser and PyYAML's own read the same out of a file, line for line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.config import document
from builder.config.document import read_document
from builder.config.problems import Problems

SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=12) | st.just("2026-01-01")
DATA = st.recursive(
    SCALARS,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(max_size=8), below, max_size=4),
    max_leaves=20,
)
FILES = sorted(Path(__file__).parents[2].glob("config/**/*.yaml"))


def nodes(node: yaml.Node | None) -> object:
    """All that we take of a node."""
    if node is None:
        return None
    value = node.value
    if isinstance(node, yaml.MappingNode):
        value = [(nodes(key), nodes(each)) for key, each in node.value]
    elif isinstance(node, yaml.SequenceNode):
        value = [nodes(each) for each in node.value]
    return node.tag, node.start_mark.line, value


def both(text: str) -> tuple[object, object]:
    return (
        nodes(document._QuickLoader(text).get_single_node()),
        nodes(document._BoundedLoader(text).get_single_node()),
    )


@settings(deadline=None)
@given(DATA, st.booleans())
def test_whatever_is_written_is_read_the_same(data: object, flow: bool) -> None:
    quick, own = both(yaml.safe_dump(data, default_flow_style=flow, allow_unicode=True))
    assert quick == own


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_configuration_that_ships_is_read_the_same(file: Path) -> None:
    quick, own = both(file.read_text())
    assert quick == own


@pytest.mark.parametrize(
    "text", ["a: &x {b: 1}\nc: *x\nd:\n  <<: *x\n", "a: |\n  b\n\n  c\nd: >-\n e\n", "? a\n: b\n", ""]
)
def test_so_are_the_corners_of_yaml(text: str) -> None:
    quick, own = both(text)
    assert quick == own


@pytest.mark.parametrize("text", ["a: [1\n", "a: 'b\n", "\tb: 1\n", "a: *x\n", "a: b: c\n"])
def test_what_is_wrong_is_told_in_pyyamls_words(text: str, tmp_path: Path) -> None:
    with pytest.raises(yaml.MarkedYAMLError) as own:
        document._BoundedLoader(text).get_single_node()
    file, problems = tmp_path / "c.yaml", Problems()
    file.write_text(text)
    read_document(file, {}, problems)
    with pytest.raises(Exception, match=r"not valid YAML") as told:
        problems.raise_any()
    assert str(own.value.problem) in str(told.value)
