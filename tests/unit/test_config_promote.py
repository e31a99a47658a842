"""`promote` in a configuration: a word, a number or the canaries, told with its place when it can't be."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from builder.config.model import Canary, Config
from builder.config.show import diskimage_data
from tests.unit.config_world import Files

PROVIDERS = """\
providers:
- {name: one-east, cloud: alpha, region-name: one, diskimages: [{name: a}]}
- {name: two-north, cloud: alpha, region-name: two, diskimages: [{name: a}]}
- {name: other, cloud: beta, diskimages: [{name: b}]}
"""


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def file(promote: str) -> str:
    return f"diskimages:\n- name: a\n  promote: {promote}\n- name: b\n{PROVIDERS}"


def promoted(files: Files, promote: str) -> object:
    return files.load(file(promote)).diskimages["a"].promote


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("each", "each"),
        ("all", "all"),
        ("2", 2),
        ("'2'", 2),
        ("manual", "manual"),
        ("{policy: manual}", "manual"),
        ('\'{{ diskimage.name | replace("a", "all") }}\'', "all"),
    ],
)
def test_a_word_or_a_number_is_the_policy(files: Files, text: str, policy: object) -> None:
    assert promoted(files, text) == policy


def test_every_key_of_the_canaries_has_its_meaning(files: Files) -> None:
    text = "{canary: [one-east, two-north], soak: 2h, check: [/etc/check, -v], check-timeout: 90}"
    assert promoted(files, text) == Canary(
        providers=("one-east", "two-north"),
        soak=timedelta(hours=2),
        check=("/etc/check", "-v"),
        check_timeout=timedelta(seconds=90),
    )


def test_its_texts_are_templates_as_all_others_are(files: Files) -> None:
    text = """{canary: "{{ 'one' }}-east", soak: "{{ 2 }}h", check: [/etc/check, "{{ diskimage.name }}"]}"""
    assert promoted(files, text) == Canary(
        providers=("one-east",), soak=timedelta(hours=2), check=("/etc/check", "a")
    )


def test_they_are_checked_where_nobody_inherits_them(files: Files) -> None:
    base = '- {name: base, abstract: true, promote: {canary: one-east, check: "/etc/{{ x"}}'
    (told,) = files.problems(f"diskimages:\n{base}\n- name: a\n- name: b\n{PROVIDERS}")
    assert "2: diskimages[0].promote.check: " in told


def test_one_canary_is_enough_and_the_rest_has_its_defaults(files: Files) -> None:
    assert promoted(files, "{canary: one-east}") == Canary(
        providers=("one-east",), soak=timedelta(hours=1), check=(), check_timeout=timedelta(minutes=15)
    )


@pytest.mark.parametrize(
    ("text", "soak"),
    [
        ("0", timedelta(0)),
        ("90", timedelta(seconds=90)),
        ("1.5h", timedelta(minutes=90)),
        ("15 m", timedelta(minutes=15)),
        ("2d", timedelta(days=2)),
    ],
)
def test_a_duration_is_a_number_with_or_without_a_unit(files: Files, text: str, soak: timedelta) -> None:
    policy = promoted(files, f"{{canary: one-east, soak: {text}}}")
    assert isinstance(policy, Canary) and policy.soak == soak


def test_a_child_has_what_its_parent_says_until_it_says_something_itself(files: Files) -> None:
    config: Config = files.load(
        "diskimages:\n"
        "- {name: base, abstract: true, promote: {canary: one-east, soak: 1d}}\n"
        "- {name: a, parent: base}\n"
        f"- {{name: b, parent: base, promote: {{canary: other}}}}\n{PROVIDERS}"
    )
    assert config.diskimages["a"].promote == Canary(providers=("one-east",), soak=timedelta(days=1))
    assert config.diskimages["b"].promote == Canary(providers=("other",))


@pytest.mark.parametrize(
    "text", ["manual", "2", "{canary: one-east}", "{canary: [one-east], soak: 2h, check: [/etc/check, -v]}"]
)
def test_what_is_shown_can_be_loaded_again(files: Files, text: str) -> None:
    image = files.load(file(text)).diskimages["a"]
    again = yaml.safe_dump(diskimage_data(image)["promote"], default_flow_style=True, width=1000)
    assert promoted(files, again.removesuffix("...\n").strip()) == image.promote


PROBLEMS = {
    "a policy nobody knows": (
        "most",
        "3: diskimages[0].promote: must be 'each', 'all', 'manual', a number of providers from 1 on, or a"
        " mapping with `canary`, not 'most'",
    ),
    "no providers": ("0", "not '0'"),
    "far too many providers": (f"'{'9' * 5000}'", "must be 'each', 'all', 'manual'"),
    "yes": ("true", "must be 'each', 'all', 'manual', a number of providers or a mapping, not true"),
    "nothing in it": (
        "{}",
        "must be 'each', 'all', 'manual', a number of providers or a mapping, not a mapping",
    ),
    "an unknown key": ("{canaries: one-east}", "unknown key; did you mean 'canary'"),
    "a soak without canaries": ("{soak: 2h}", "3: diskimages[0].promote.soak: goes with `canary`"),
    "a check without canaries": (
        "{policy: all, check: /bin/true}",
        "3: diskimages[0].promote.check: goes with `canary`",
    ),
    "two ways": (
        "{policy: all, canary: one-east}",
        "3: diskimages[0].promote.policy: goes without `canary`",
    ),
    "no canary": ("{canary: []}", "3: diskimages[0].promote.canary: must name at least one provider"),
    "an unknown provider": (
        "{canary: [one-eats]}",
        "3: diskimages[0].promote.canary: there is no provider 'one-eats'; did you mean 'one-east'",
    ),
    "a provider without the diskimage": (
        "{canary: [one-east, other]}",
        "3: diskimages[0].promote.canary: provider 'other' does not have 'a'",
    ),
    "a provider twice": (
        "{canary: [one-east, one-east]}",
        "3: diskimages[0].promote.canary: provider 'one-east' is listed twice",
    ),
    "a soak that is none": (
        "{canary: one-east, soak: soon}",
        "3: diskimages[0].promote.soak: a duration is a number of seconds, or one with s, m, h or d as in"
        " '2h', not 'soon'",
    ),
    "a soak below nothing": ("{canary: one-east, soak: -1}", "3: diskimages[0].promote.soak: a duration is"),
    "a soak for ever": ("{canary: one-east, soak: 99999999d}", "is longer than a hundred years"),
    "no time for the check": (
        "{canary: one-east, check-timeout: 0}",
        "3: diskimages[0].promote.check-timeout: must be more than 0",
    ),
    "a check by a relative path": (
        "{canary: one-east, check: bin/check}",
        "3: diskimages[0].promote.check: must name a program by its full path, as in"
        " '/etc/imagepool/check-image', not 'bin/check'",
    ),
    "a text that can't be rendered": (
        "{canary: one-eats, check: [/etc/check, '{{ nothing }}']}",
        "3: diskimages[0].promote.check: ",
    ),
    "a check of nothing": ("{canary: one-east, check: []}", "must name a program"),
}


@pytest.mark.parametrize(("text", "problem"), PROBLEMS.values(), ids=PROBLEMS.keys())
def test_what_is_wrong_is_told_with_its_place(files: Files, text: str, problem: str) -> None:
    (told,) = files.problems(file(text))
    assert problem in told


def test_a_provider_with_other_problems_is_not_said_to_lack_the_diskimage(files: Files) -> None:
    broken = file("{canary: broken}") + "- {name: broken, diskimages: [{name: a}]}\n"
    assert [told for told in files.problems(broken) if "promote" in told] == []
