"""`budgets` in a configuration: numbers in the units of what is measured, inherited one by one, told with
file and line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from builder.config.model import Budget
from builder.config.show import diskimage_data
from builder.errors import ConfigError
from builder.model import BudgetAction, Measure
from tests.unit.config_world import Files


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def one(budgets: str, base: str = "{}", boot_test: str = "on") -> str:
    """A diskimage `one` with such budgets, whose parent has others."""
    return f"""\
        diskimages:
          - {{name: base, abstract: true, elements: [vm], boot-test: {boot_test}, budgets: {base}}}
          - {{name: one, parent: base, budgets: {budgets}}}
        """


def budgets(files: Files, text: str) -> dict[Measure, Budget]:
    found = files.load(text).diskimages["one"].budgets
    return {budget.measure: budget for budget in found}


@pytest.mark.parametrize(
    ("name", "said", "wanted"),
    [
        ("size", "{most: 1 GiB}", {"most": 1 << 30}),
        ("size", "{most: 1000}", {"most": 1000}),
        ("allocated-size", "{grows: 200M}", {"grows": 200 << 20}),
        ("disk-claimed", "{grows: 12.5%}", {"grows": 12.5, "relative": True}),
        ("memory", "{most: 0.5G, grows: 10 %}", {"most": 512 << 20, "grows": 10, "relative": True}),
        ("packages", "{grows: 20, over: warn}", {"grows": 20, "over": BudgetAction.WARN}),
        ("boot-seconds", "{most: 90.5, over: fail}", {"most": 90.5, "over": BudgetAction.FAIL}),
        ("ssh-seconds", "{most: '90'}", {"most": 90}),
        ("build-seconds", "{grows: 50%, over: hold}", {"grows": 50, "relative": True}),
        ("new-setuid-files", "{most: 0}", {"most": 0}),
        ("new-ports", "{most: 2}", {"most": 2}),
    ],
)
def test_each_measure_is_counted_in_its_own_unit(
    files: Files, name: str, said: str, wanted: dict[str, object]
) -> None:
    measure = Measure(name)
    expected = Budget(measure=measure, **wanted)  # type: ignore[arg-type]
    assert budgets(files, one(f"{{{name}: {said}}}")) == {measure: expected}


def test_what_is_over_is_held_unless_something_else_is_said(files: Files) -> None:
    assert budgets(files, one("{size: {most: 1G}}"))[Measure.SIZE].over is BudgetAction.HOLD


def test_nothing_has_a_budget_where_nothing_is_said(files: Files) -> None:
    assert files.load("diskimages: [{name: one}]").diskimages["one"].budgets == ()


def test_a_budget_takes_the_place_of_the_parents_and_nothing_takes_it_back(files: Files) -> None:
    base = "{size: {most: 1G, grows: 5%, over: fail}, packages: {grows: 20}, new-ports: {most: 0}}"
    found = budgets(files, one("{size: {most: 2G}, new-ports: }", base))
    assert found == {
        Measure.SIZE: Budget(measure=Measure.SIZE, most=2 << 30),
        Measure.PACKAGES: Budget(measure=Measure.PACKAGES, grows=20),
    }


def test_what_is_shown_can_be_loaded_again(files: Files) -> None:
    more = "packages: {grows: 123456.789%}, memory: {grows: 0.125%}, build-seconds: {grows: 999999999.999}"
    text = one(
        "{size: {most: 1G, grows: 5%, over: fail}, boot-seconds: {most: 90}, new-ports: {most: 0}, "
        f"{more}}}"
    )
    image = files.load(text).diskimages["one"]
    shown = diskimage_data(image)
    assert shown["budgets"]["size"] == {"most": 1 << 30, "grows": "5%", "over": "fail"}
    again = files.load(yaml.safe_dump({"diskimages": [shown]}))
    assert again.diskimages["one"].budgets == image.budgets


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("{sizes: {most: 1G}}", "nothing called 'sizes' is measured; did you mean 'size'?"),
        ("{wheels: {most: 4}}", "nothing called 'wheels' is measured; known: size, allocated-size"),
        ("{size: {most: 1 mile}}", "a size is a number of bytes, or one with K, M, G or T as in '20G'"),
        ("{size: {most: -1}}", "a size is a number of bytes"),
        ("{size: {grows: some}}", "must be a percentage as in '10%', or a size: a size is"),
        ("{packages: {most: 1.5}}", "must be a whole number from 0 on, not '1.5'"),
        ("{packages: {grows: -3}}", "must be a whole number from 0 on, or a percentage as in '10%'"),
        ("{packages: {most: 10%}}", "must be a whole number from 0 on, not '10%'"),
        ("{boot-seconds: {most: 1m}}", "must be a number of seconds from 0 on, not '1m'"),
        ("{size: {}}", "a budget says `most`, `grows` or both"),
        ("{new-ports: {}}", "a budget says `most`"),
        ("{new-ports: {most: 0, grows: 1}}", "is counted against the last good build already"),
        ("{size: {most: 2G, least: 1G}}", "unknown key; known: grows, most, over"),
        ("{size: {most: 1G, over: shout}}", "must be 'fail', 'hold' or 'warn'"),
        ("{size: 1G}", "diskimages[1].budgets.size"),
    ],
)
def test_what_makes_no_sense_is_told_with_its_place(files: Files, said: str, problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        files.load(one(said))
    (told,) = error.value.problems
    assert problem in told
    assert ":3: diskimages[1].budgets" in told


@pytest.mark.parametrize("name", [measure for measure in Measure if measure.is_booted])
def test_what_only_a_booted_image_tells_needs_the_boot_test(files: Files, name: Measure) -> None:
    with pytest.raises(ConfigError) as error:
        files.load(one(f"{{{name}: {{most: 1}}}}", boot_test="off"))
    assert "only an image that is booted tells it: say `boot-test: on`" in str(error.value)


def test_an_inherited_mistake_is_told_where_it_was_written(files: Files) -> None:
    with pytest.raises(ConfigError) as error:
        files.load(one("{}", base="{packages: {most: few}}"))
    assert ":2: diskimages[0].budgets.packages: must be a whole number" in str(error.value)


def test_files_wait_for_the_judgement_only_where_a_budget_decides(files: Files) -> None:
    def is_judged(said: str) -> bool:
        return files.load(one(said)).diskimages["one"].is_judged

    assert not is_judged("{}")
    assert not is_judged("{size: {most: 1G, over: warn}}")
    assert is_judged("{size: {most: 1G, over: warn}, packages: {most: 300}}")
