"""docs/configuration.md tells the truth: every key is in it, and every example works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from builder.config import schema
from builder.config.checking import keys_of
from builder.config.loader import load
from builder.config.template import FILTERS
from builder.model import ImageFormat

DOCS = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL)
WRITTEN = set(re.findall(r"`([^`\n]+)`", DOCS))
KEYS = sorted(set(keys_of(schema.ConfigFile)) | set(keys_of(schema.SecureFile)))
#: Holds other keys, each of which has its line.
HOLDERS = {"providers[].diskimages"}


@pytest.mark.parametrize("key", [key for key in KEYS if key not in HOLDERS])
def test_every_key_is_documented(key: str) -> None:
    assert key in WRITTEN


def test_every_documented_key_exists() -> None:
    documented = {
        word
        for word in WRITTEN
        if re.match(r"(platforms|diskimages|providers|mirrors|notify|zookeeper-\w+)[.\[]", word)
    }
    assert documented <= set(KEYS)


def test_every_filter_is_documented() -> None:
    assert set(FILTERS) - {"d"} <= WRITTEN


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_every_example_loads(number: int, tmp_path: Path) -> None:
    example = EXAMPLES[number]
    for other in EXAMPLES:
        if included := re.match(r"# (platforms\.yaml)\n", other):
            (tmp_path / included[1]).write_text(other)
    main = tmp_path / "imagepool.yaml"
    secure = tmp_path / "secure.yaml" if example.startswith("# secure.yaml") else None
    if secure:
        secure.write_text(example)
        example = "zookeeper-servers: [{host: zk}]\ndiskimages: [{name: debian-bookworm}]"
    main.write_text(example)
    config = load(main, image_format_of=lambda _cloud, _region: ImageFormat.QCOW2, environ={}, secure=secure)
    assert config.notes == ()
