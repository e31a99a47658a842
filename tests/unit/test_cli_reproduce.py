"""`imagepool build reproduce`: a script, or why there is none, and where it is to be had."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from builder.host import host_name
from builder.model import Build
from tests.unit.cli_world import World
from tests.unit.contents_world import Past, past_build
from tests.unit.dib_world import BUILD, shellcheck
from tests.unit.planning_world import DAY, NOW, build_id, building, failed, ready


@pytest.fixture
def past(tmp_path: Path) -> Past:
    return past_build(tmp_path)


@pytest.fixture
def world(past: Past) -> World:
    world = World()
    world.config = replace(world.config, images_dir=past.images)
    return world


def record(past: Past, **changes: str) -> Build:
    return replace(
        ready(1, NOW - DAY), **{"id": BUILD, "image": past.recipe.name, "builder": host_name(), **changes}
    )


def test_the_script_of_a_build_is_printed(world: World, past: Past) -> None:
    past.build()
    world.store.put(record(past))
    printed = world.run("build", "reproduce", BUILD[:6])
    assert (printed.code, printed.err) == (0, "")
    assert f"/var/lib/imagepool-by-hand/{past.recipe.name}-{BUILD}" in printed.out
    assert shellcheck(printed.out) == ""


def test_a_build_of_another_machine_names_it(world: World, past: Past) -> None:
    past.build()
    world.store.put(record(past, builder="nb02"))
    refused = world.run("build", "reproduce", BUILD)
    assert (refused.code, refused.out) == (3, "")
    assert "on nb02" in refused.err and "there" in refused.err


def test_a_build_whose_files_are_gone_says_what_else_there_is(world: World, past: Past) -> None:
    world.store.put(record(past))
    refused = world.run("build", "reproduce", BUILD)
    assert refused.code == 3
    assert "gone" in refused.err
    assert f"imagepool image render --script {past.recipe.name}" in refused.err


@pytest.mark.parametrize(
    ("build", "says"), [(failed(2, NOW), "made no image"), (building(2, NOW), "in progress")]
)
def test_a_build_without_an_image_is_refused(world: World, build: Build, says: str) -> None:
    world.store.put(build)
    refused = world.run("build", "reproduce", build_id(2))
    assert refused.code == 4
    assert f"there is nothing to reproduce: build {build_id(2)}" in refused.err and says in refused.err
