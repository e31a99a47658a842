"""Platforms multiplied by a matrix, diskimages multiplied by platforms, and mirrors by distribution."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from builder.config.show import as_data
from tests.unit.config_world import Files

DEBIANS = """\
platforms:
  - name: "debian-{{ platform.release }}{{ platform.suffix }}"
    distribution: debian
    properties: {os_version: "{{ platform.version }}", hw: "{{ platform.architecture }}"}
    variables:
      base: [debian-minimal]
      boot: vm
      suffix: "{{ '' if platform.architecture == 'amd64' else '-' + platform.architecture }}"
      shown: "{{ platform.name }} is {{ platform.version }}"
    matrix:
      - {release: bookworm, variables: {version: "12"}}
      - release: trixie
        architectures: [amd64, arm64]
        properties: {hw: new}
        variables: {version: "13", base: [debian-minimal, newer]}
"""
ONE = "platforms:\n- name: p\n  distribution: debian\n  release: sid\n"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


# -- matrix ----------------------------------------------------------------------------------------


def test_each_row_and_architecture_is_a_platform(files: Files) -> None:
    platforms = files.load(DEBIANS).platforms
    assert [(p.name, p.release, p.architecture) for p in platforms.values()] == [
        ("debian-bookworm", "bookworm", "amd64"),
        ("debian-trixie", "trixie", "amd64"),
        ("debian-trixie-arm64", "trixie", "arm64"),
    ]
    assert {p.distribution for p in platforms.values()} == {"debian"}


def test_a_row_is_laid_over_its_entry(files: Files) -> None:
    platforms = files.load(DEBIANS).platforms
    old, new = platforms["debian-bookworm"], platforms["debian-trixie-arm64"]
    assert old.properties == {"os_version": "12", "hw": "amd64"}
    assert new.properties == {"os_version": "13", "hw": "new"}
    assert (old.variables["base"], new.variables["base"]) == (["debian-minimal"], ["debian-minimal", "newer"])
    assert new.variables["shown"] == "debian-trixie-arm64 is 13"


def test_a_row_without_architectures_has_that_of_its_entry(files: Files) -> None:
    config = files.load(
        "platforms:\n- {name: 'p{{ platform.release }}', distribution: d, architecture: arm64,"
        " matrix: [{release: 9}]}"
    )
    assert config.platforms["p9"].architecture == "arm64"


def test_a_matrix_may_share_its_rows_by_an_anchor(files: Files) -> None:
    config = files.load(
        """\
        platforms:
          - name: "rocky-{{ platform.release }}"
            distribution: rocky
            matrix: &releases [{release: 9}, {release: 10}]
          - {name: "alma-{{ platform.release }}", distribution: almalinux, matrix: *releases}
        """
    )
    assert [*config.platforms] == ["rocky-9", "rocky-10", "alma-9", "alma-10"]


MATRIX = "platforms:\n- name: '{{ platform.release }}'\n  distribution: d\n  "
WRONG_MATRICES = {
    "no rows": (f"{MATRIX}matrix: []", "4: platforms[0].matrix: has no rows"),
    "an empty row": (f"{MATRIX}matrix:\n  - {{}}", "5: platforms[0].matrix[0].release: is required"),
    "a row that is nothing": (f"{MATRIX}matrix:\n  -", "5: platforms[0].matrix[0]: must be a mapping"),
    "a row without a release": (
        f"{MATRIX}matrix:\n  - release: a\n  - variables: {{x: y}}",
        "6: platforms[0].matrix[1].release: is required",
    ),
    "no architectures": (
        f"{MATRIX}matrix:\n  - release: a\n    architectures: []",
        "6: platforms[0].matrix[0].architectures: names no architecture",
    ),
    "an unknown key": (
        f"{MATRIX}matrix:\n  - {{release: a, mirror: x}}",
        "5: platforms[0].matrix[0].mirror: unknown key",
    ),
    "the same name twice": (
        f"{MATRIX}matrix:\n  - release: a\n  - release: b\n  - release: a",
        "7: platforms[0].matrix[2]: there are two platforms named 'a', one of them on line 5",
    ),
    "the same name for two architectures": (
        f"{MATRIX}matrix:\n  - release: a\n    architectures:\n    - amd64\n    - arm64",
        "8: platforms[0].matrix[0].architectures[1]: there are two platforms named 'a'",
    ),
    "a name for all rows": (
        "platforms:\n- name: p\n  distribution: d\n  matrix: [{release: a}]",
        "2: platforms[0].name: 'p' is the same for all rows of the matrix",
    ),
    "a harmful name": (
        f"{MATRIX}matrix:\n  - {{release: a}}\n  - {{release: ../x}}",
        "6: platforms[0].matrix[1].release: '../x' is no valid name",
    ),
    "a name that only its template makes harmful": (
        "platforms:\n- name: 'x/{{ platform.release }}'\n  distribution: d\n  matrix: [{release: a}]",
        "2: platforms[0].name: 'x/a' is no valid name",
    ),
    "a harmful architecture": (
        f"{MATRIX}matrix:\n  - release: a\n    architectures: [a b]",
        "6: platforms[0].matrix[0].architectures[0]: 'a b' is no valid name",
    ),
    "a name that needs what a row lacks": (
        "platforms:\n- name: 'p{{ platform.v }}'\n  distribution: d\n  matrix:\n  - {release: a}",
        "2: platforms[0].name: template error: the platform for d a amd64 has no 'v'",
    ),
    "a name that needs itself": (
        "platforms:\n- name: 'p{{ platform.v }}'\n  distribution: d\n"
        "  variables: {v: '{{ platform.name }}'}\n  matrix:\n  - {release: a}",
        "2: platforms[0].name: template loop: name -> v -> name",
    ),
    "a property that can't be rendered": (
        f"{MATRIX}properties:\n    a: '{{{{ platform.nope }}}}'\n  matrix: [{{release: a}}]",
        "5: platforms[0].properties.a: template error: platform 'a' has no 'nope'",
    ),
    "a property with a NUL character": (
        f"{MATRIX}properties:\n    a: \"{{{{ '\\\\x00' }}}}\"\n  matrix: [{{release: a}}]",
        "5: platforms[0].properties.a: must not contain a NUL character",
    ),
    "a variable of a row called like a key": (
        f"{MATRIX}matrix:\n  - release: a\n    variables:\n      release: b",
        "7: platforms[0].matrix[0].variables.release: 'release' is a key of the platform itself",
    ),
    "no distribution": (
        "platforms:\n- name: '{{ platform.release }}'\n  matrix:\n  - release: a\n  - release: b",
        "2: platforms[0].distribution: is required",
    ),
}


@pytest.mark.parametrize(("text", "expected"), WRONG_MATRICES.values(), ids=WRONG_MATRICES.keys())
def test_a_problem_of_a_matrix_is_told_at_its_row(files: Files, text: str, expected: str) -> None:
    # Names of platforms that don't come about are no problem of their own.
    [problem] = files.problems(f"{text}\ndiskimages:\n- {{name: x, platform: y}}")
    assert problem.startswith(f"imagepool.yaml:{expected}")


def test_ten_thousand_rows_are_refused_where_it_is_too_much(files: Files) -> None:
    rows = "".join(f"  - release: r{n}\n" for n in range(10_000))
    assert files.problems(f"{MATRIX}matrix:\n{rows}") == [
        "imagepool.yaml:1005: platforms[0].matrix[1000]: more than 1000 platforms come of matrices"
    ]


def test_all_matrices_count_together(files: Files) -> None:
    rows = "".join(f"  - release: r{n}\n" for n in range(600))
    other = MATRIX.removeprefix("platforms:\n").replace("{{", "x{{")
    [problem] = files.problems(f"{MATRIX}matrix:\n{rows}{other}matrix:\n{rows}")
    assert problem.startswith("imagepool.yaml:1008: platforms[1].matrix[400]: more than 1000")


def test_large_variables_are_not_multiplied_without_end(files: Files) -> None:
    rows = "".join(f"  - release: r{n}\n" for n in range(100))
    [problem] = files.problems(
        f"{MATRIX}variables: {{v: [{', '.join(map(str, range(2000)))}]}}\n  matrix:\n{rows}"
    )
    assert problem.startswith("imagepool.yaml:55: platforms[0].matrix[49]: more than 100000 variables")


HINT = "; known: architecture, distribution, name, release"


def test_a_template_that_fails_for_all_rows_is_told_thrice_and_counted(files: Files) -> None:
    rows = "".join(f"  - release: r{n}\n" for n in range(500))
    problems = files.problems(f"{MATRIX}properties: {{x: '{{{{ platform.x }}}}'}}\n  matrix:\n{rows}")
    place = "imagepool.yaml:4: platforms[0].properties.x: "
    assert problems == [
        *(f"{place}template error: platform 'r{n}' has no 'x'{HINT}" for n in range(3)),
        f"{place}and 497 more such problems",
    ]


# -- one diskimage for each platform ---------------------------------------------------------------


def with_images(*entries: str) -> str:
    return DEBIANS + "diskimages:\n" + "".join(f"- {entry}\n" for entry in entries)


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ("'*'", ["debian-bookworm", "debian-trixie", "debian-trixie-arm64"]),
        ("['*-arm64', debian-bookworm]", ["debian-bookworm", "debian-trixie-arm64"]),
        ("['debian-*', '*']", ["debian-bookworm", "debian-trixie", "debian-trixie-arm64"]),
        ("'debian-[!t]*'", ["debian-bookworm"]),
        ("'debian-?????????'", []),
    ],
)
def test_there_is_a_diskimage_for_each_platform_that_fits(
    files: Files, patterns: str, names: list[str]
) -> None:
    text = with_images(f"{{name: '{{{{ platform.name }}}}', platforms: {patterns}}}")
    if names:
        images = files.load(text).diskimages
        assert [*images] == names
        assert [image.platform.name for image in images.values() if image.platform] == names
    else:
        [problem] = files.problems(text)
        assert "platforms: there is no platform 'debian-?????????'" in problem


def test_such_diskimages_inherit_and_are_inherited_from(files: Files) -> None:
    images = files.load(
        with_images(
            "{name: ci, abstract: true, elements: ['{{ platform.base }}', '{{ platform.boot }}']}",
            "{name: '{{ platform.name }}', parent: ci, platforms: ['*'], elements: [own]}",
            "{name: big, parent: debian-trixie, elements: [more]}",
            "{name: '{{ platform.name }}-test', parent: '{{ platform.name }}', platforms: ['*-arm64']}",
        )
    ).diskimages
    assert images["debian-bookworm"].elements == ("debian-minimal", "vm", "own")
    assert images["big"].elements == ("debian-minimal", "newer", "vm", "own", "more")
    assert images["big"].platform == images["debian-trixie"].platform
    assert images["debian-trixie-arm64-test"].elements == images["debian-trixie-arm64"].elements


WRONG_IMAGES = {
    "both": (
        "{name: '{{ platform.name }}', platform: debian-trixie, platforms: ['*']}",
        "platforms: either `platform` or `platforms` can be given, not both",
    ),
    "a pattern that fits nothing": (
        "{name: '{{ platform.name }}', platforms: ['*', debian-trixy]}",
        "platforms[1]: there is no platform 'debian-trixy'; did you mean 'debian-trixie'?",
    ),
    "no pattern": ("{name: '{{ platform.name }}', platforms: []}", "platforms: names no platform"),
    "a plain name": ("{name: a, platforms: ['*']}", "name: 'a' is the same for all platforms"),
    "a name that does not differ": (
        "{name: '{{ platform.distribution }}', platforms: ['*']}",
        "name: it comes to 'debian' for the platforms 'debian-bookworm' and 'debian-trixie'",
    ),
    "a harmful name": (
        "{name: '../{{ platform.name }}', platforms: [debian-trixie]}",
        "name: '../debian-trixie' is no valid name",
    ),
    "a parent that is not there": (
        "{name: '{{ platform.name }}', parent: 'x{{ platform.release }}', platforms: [debian-trixie]}",
        "parent: there is no diskimage 'xtrixie'",
    ),
    "its own parent": (
        "{name: '{{ platform.name }}', parent: '{{ platform.name }}', platforms: [debian-trixie]}",
        "parent: is its own ancestor: debian-trixie -> debian-trixie",
    ),
    "a list with a mapping in it": (
        "{name: '{{ platform.name }}', platforms: [debian-trixie], elements: ['{{ [platform.base] }}']}",
        "elements[0]: gives a list that has a list in it, where text belongs",
    ),
    "a list without end": (
        "{name: '{{ platform.name }}', platforms: [debian-trixie],"
        " elements: [\"{{ ((range(1000) | map('string') | list) + ['x']) }}\"]}",
        "elements[0]: gives a list of more than 1000 texts",
    ),
    "an element that does harm, from a list": (
        "{name: '{{ platform.name }}', platforms: [debian-trixie], elements: [\"{{ ['../x'] }}\"]}",
        "elements[0]: '../x' is no element name",
    ),
}


@pytest.mark.parametrize(("entry", "expected"), WRONG_IMAGES.values(), ids=WRONG_IMAGES.keys())
def test_a_problem_of_an_expanded_diskimage_is_told_where_it_is(
    files: Files, entry: str, expected: str
) -> None:
    [problem] = files.problems(with_images(entry))
    line = len(DEBIANS.splitlines()) + 2
    assert problem.startswith(f"imagepool.yaml:{line}: diskimages[0].{expected}")


def test_diskimages_of_many_platforms_are_bounded(files: Files) -> None:
    rows = "".join(f"  - release: r{n}\n" for n in range(600))
    images = "".join(f"- {{name: '{x}{{{{ platform.name }}}}', platforms: ['*']}}\n" for x in "ab")
    [problem] = files.problems(f"{MATRIX}matrix:\n{rows}diskimages:\n{images}")
    assert problem.endswith("diskimages[1].platforms: more than 1000 diskimages come of lists of platforms")


@pytest.mark.parametrize("count", [300, 1000])
def test_what_templates_make_for_all_rows_together_is_bounded(files: Files, count: int) -> None:
    """Each of the texts is within its own bounds."""
    text = "{% for a in range(300) %}{% for b in range(300) %}x{% endfor %}{% endfor %}"
    rows = "".join(f"  - release: r{n}\n" for n in range(count))
    variables = "".join(f"    {name}: '{text}'\n" for name in "abc")
    [problem] = files.problems(f"{MATRIX}variables:\n{variables}  matrix:\n{rows}")
    assert problem.startswith(
        "imagepool.yaml:6: platforms[0].variables.b: with this, the templates of the conf"
    )
    assert "more than 16000000 characters" in problem
    # The next file starts anew.
    assert files.load(f"{MATRIX}matrix:\n  - release: r1\n")


def test_texts_of_ordinary_length_are_rendered_for_a_thousand_rows(files: Files) -> None:
    text = "{% for each in ['a', 'b', 'c'] %}{{ platform.release }}-{{ each }} {% endfor %}"
    rows = "".join(f"  - release: r{n}\n" for n in range(1000))
    variables = "".join(f'    v{n}: "{text}"\n' for n in range(50))
    assert len(files.load(f"{MATRIX}variables:\n{variables}  matrix:\n{rows}").platforms) == 1000


# -- lists in elements -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("element", "expected"),
    [
        ("{{ platform.base }}", ("one", "two")),
        (" {{platform.base}}\n", ("one", "two")),
        ("{{ platform.base + ['three'] }}", ("one", "two", "three")),
        ("{{ platform.base | reject('equalto', 'one') }}", ("two",)),
        ("{{ platform.base if platform.release == 'sid' else [] }}", ("one", "two")),
        ("{{ [] }}", ()),
        ("{{ ['', ' one '] }}", ("one",)),
        ("{{ platform.boot }}", ("vm",)),
        ("{{ platform.base | join('-') }}", ("one-two",)),
        ("{{ 'vm' }}", ("vm",)),
        ("x{{ platform.boot }}", ("xvm",)),
    ],
)
def test_a_list_stands_where_its_expression_stood(
    files: Files, element: str, expected: tuple[str, ...]
) -> None:
    data = yaml.safe_load(ONE)
    data["platforms"][0]["variables"] = {"base": ["one", "two"], "boot": "vm"}
    data["diskimages"] = [{"name": "a", "platform": "p", "elements": ["first", element, "last"]}]
    image = files.load(yaml.safe_dump(data)).diskimages["a"]
    assert image.elements == ("first", *expected, "last")


def test_elsewhere_a_list_is_written_as_text_as_ever(files: Files) -> None:
    image = "{name: a, platform: p, tags: ['{{ platform.v }}']}"
    images = files.load(f"{ONE}  variables: {{v: [a]}}\ndiskimages:\n- {image}").diskimages
    assert images["a"].sharing.tags == ("['a']",)


# -- mirrors ---------------------------------------------------------------------------------------

URL = "https://mirror.example/debian"
SID = "https://m.example/sid"


@pytest.mark.parametrize(
    ("mirrors", "own", "expected"),
    [
        ("", "", (None, None, None, False)),
        ("debian: host", "", ("host", "host", "host", False)),
        (f"debian: {URL}", "", (URL, None, URL, False)),
        (f"debian: {{main: {URL}, keep: true}}", "", (URL, None, URL, True)),
        (f"debian: {{security: {URL}}}", "", (None, URL, None, False)),
        (f"debian: {{main: host, updates: {URL}}}", "", ("host", None, URL, False)),
        ("debian: {keep: true}", "", (None, None, None, True)),
        ("debian: {keep: true}", "keep-mirrors: false", (None, None, None, False)),
        ("debian:", "", (None, None, None, False)),
        ("debian: host", f"mirror: {URL}", (URL, "host", URL, False)),
        ("debian: host", f"security-mirror: {URL}", ("host", URL, "host", False)),
        ("debian: host", f"updates-mirror: {URL}", ("host", "host", URL, False)),
        ("", f"mirror: {URL}", (URL, None, None, False)),
        ("debian: https://m.example/{{ platform.release }}", "", (SID, None, SID, False)),
        ("", "mirror: 'https://m.example/{{ platform.name }}'", ("https://m.example/p", None, None, False)),
        ("", "mirror: \"{{ '' }}\"", (None, None, None, False)),
    ],
)
def test_the_mirrors_of_a_platform_are_its_own_or_those_of_its_distribution(
    files: Files, mirrors: str, own: str, expected: tuple[str | None, str | None, str | None, bool]
) -> None:
    config = files.load(f"mirrors:\n  {mirrors}\n{ONE}  {own}\n")
    platform = config.platforms["p"]
    found = (platform.mirror, platform.security_mirror, platform.updates_mirror, platform.keep_mirrors)
    assert found == expected
    # ... and shown so that they mean the same again.
    assert files.load(yaml.safe_dump(as_data(config))).platforms == config.platforms


WRONG_MIRRORS = {
    "no URL": ("debian: mirror.example", "2: mirrors.debian: must be a URL, or 'host'"),
    "no URL for updates": (
        "debian:\n    updates: /srv/mirror",
        "3: mirrors.debian.updates: must be a URL, or 'host'",
    ),
    "no such variable": (
        "debian: https://m.example/{{ platform.path }}",
        "2: mirrors.debian: template error: platform 'p' has no 'path'",
    ),
    "an unknown distribution": (
        "debain: host",
        "2: mirrors.debain: no platform has the distribution 'debain'; did you mean 'debian'?",
    ),
    "an unknown key": ("debian: {man: host}", "2: mirrors.debian.man: unknown key; did you mean 'main'?"),
    "a list": (
        "debian: [host]",
        "2: mirrors.debian: must be a URL, 'host' or a mapping of main, security, updates and keep, not a",
    ),
}


@pytest.mark.parametrize(("mirrors", "expected"), WRONG_MIRRORS.values(), ids=WRONG_MIRRORS.keys())
def test_a_problem_of_mirrors_is_told_where_it_is(files: Files, mirrors: str, expected: str) -> None:
    [problem] = files.problems(f"mirrors:\n  {mirrors}\n{ONE}")
    assert problem.startswith(f"imagepool.yaml:{expected}")


def test_credentials_of_mirrors_are_not_shown(files: Files) -> None:
    [problem] = files.problems(f"mirrors: {{debian: HTTPS://me:sesame@m.example/}}\n{ONE}")
    assert "must be a URL" in problem and "sesame" not in problem
    config = files.load(f"mirrors: {{debian: https://me:sesame@m.example/}}\n{ONE}")
    assert "sesame" not in str(as_data(config))


def test_a_variable_may_still_be_called_as_keys_that_came_later(files: Files) -> None:
    text = f"{ONE}  variables: {{updates_mirror: x}}\n"
    assert files.load(text).platforms["p"].variables == {"updates_mirror": "x"}
    [problem] = files.problems(f"{text}  updates-mirror: host")
    assert "'updates_mirror' is a key of the platform itself" in problem
