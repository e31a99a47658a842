"""Fixtures of the tests of elements."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.elements.trees import Trees, require_root


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trees]:
    """Where a file's trees are built: all of a run at once would take tens of gigabytes.

    The base trees are shared by all processes of a run.
    """
    require_root()
    # ELEMENT_TREES keeps the base trees from one run to the next.
    shared = Path(os.environ.get("ELEMENT_TREES") or tmp_path_factory.getbasetemp().parent / "element-trees")
    shared.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="imagepool-elements-", dir="/var/tmp"))
    try:
        yield Trees(directory, shared)
    finally:
        shutil.rmtree(directory)
