"""Texts of a diskimage are templates over its platform: strict, and bounded in what they may do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.config_world import Files


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def with_value(text: str) -> str:
    """A configuration whose line 10 is one variable of one diskimage with that text."""
    quoted = text.replace("'", "''")
    return f"""\
platforms:
- name: p
  distribution: debian
  release: bookworm
  variables: {{size: 3, items: [a, b], shout: "{{{{ platform.release | upper }}}}"}}
diskimages:
- name: image
  platform: p
  env-vars:
    X: '{quoted}'
"""


@pytest.mark.parametrize(
    ("template", "rendered"),
    [
        ("{{ platform.distribution }}-{{ platform.release }}", "debian-bookworm"),
        ("{{ platform.architecture }}", "amd64"),
        ("{{ platform.name }} {{ diskimage.name }}", "p image"),
        ("{{ platform.size + 1 }}", "4"),
        ("{{ platform.items | join('+') }}", "a+b"),
        ("{{ platform.shout }}", "BOOKWORM"),
        ("{{ platform.mirror | default('none') }}", "none"),
        ("{{ platform['release'] }}", "bookworm"),
        ("{% if platform.release == 'bookworm' %}old{% else %}new{% endif %}", "old"),
        ("{% for i in platform['items'] %}<{{ i }}>{% endfor %}", "<a><b>"),
        ("{{ 2 * 3 }} {{ 7 % 4 }}", "6 3"),
        ("ends with a line\n", "ends with a line\n"),
        ("${#list[@]} ${x%%y} {#", "${#list[@]} ${x%%y} {#"),
        ("{{ '{{' }}", "{{"),
        ("<&>", "<&>"),
    ],
)
def test_a_text_is_rendered_over_the_platform(files: Files, template: str, rendered: str) -> None:
    # In single quotes YAML folds a line end into a space, so it is doubled.
    config = files.load(with_value(template.replace("\n", "\n\n")))
    assert config.diskimages["image"].environment["X"] == rendered


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ platform.relase }}", "platform 'p' has no 'relase'; did you mean 'release'?"),
        ("{{ platform.mirror }}", "platform 'p' has no 'mirror'"),
        ("{{ plattform.name }}", "'plattform' is undefined; a template knows 'platform' and 'diskimage'"),
        ("{{ diskimage.size }}", "diskimage 'image' has no 'size'; known: name"),
        ("{{ platform.release", "unexpected end of template"),
        ("{% if %}", "Expected an expression"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ platform.size + 'x' }}", "unsupported operand"),
        ("{{ nothing() }}", "'nothing' is undefined"),
        ("{{ 'x' | shuffle }}", "No filter named 'shuffle'"),
        ("{{ 'x' | center(99999999999) }}", "No filter named 'center'"),
        ("{{ 'x'.ljust(99999999999) }}", "is unsafe"),
        ("{{ 'x'['zfill'](99999999999) }}", "is unsafe"),
        ("{{ '{:>99999999}'.format(1) }}", "is unsafe"),
        ("{{ platform.release.__class__ }}", "is unsafe"),
        ("{{ platform.resolve }}", "has no 'resolve'"),
        ("{{ 'x' * 99999999999 }}", "for small numbers only"),
        ("{{ '%99999999d' % 1 }}", "for small numbers only"),
        ("{{ 9 ** 9 ** 9 ** 9 }}", "for small numbers only"),
        ("{% for i in range(99999999) %}x{% endfor %}", "a range of more than 1000 numbers"),
        (
            "{% for a in 'x' %}{% for b in 'x' %}{% for c in 'x' %}{% endfor %}{% endfor %}{% endfor %}",
            "nested more than 2 deep",
        ),
        ("{% for a in 'x' recursive %}{{ loop('x') }}{% endfor %}", "nested more than 2 deep"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "macros, includes and imports"),
        ("{% include 'x' %}", "macros, includes and imports"),
        ("{% set x %}a{% endset %}{{ x }}", "blocks that become a value"),
        ("{% filter upper %}a{% endfilter %}", "blocks that become a value"),
        (
            "{% for a in range(999) %}{% for b in range(999) %}xxxxx{% endfor %}{% endfor %}",
            "more than 100000 characters",
        ),
        ("{{ '" + "\\" + "x00' }}", "must not contain a NUL character"),
        ("{{ 1" + "+1" * 5000 + " }}", "too deep or too large"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "too deep or too large"),
    ],
)
def test_a_text_that_cannot_be_rendered_is_a_problem_at_its_line(
    files: Files, template: str, why: str
) -> None:
    [problem] = files.problems(with_value(template))
    assert problem.startswith("imagepool.yaml:10: diskimages[0].env-vars.X: ")
    assert why in problem
    assert "\n" not in problem


def test_every_text_of_a_diskimage_is_a_template(files: Files) -> None:
    config = files.load(
        """\
        platforms:
          - name: p
            distribution: debian
            release: bookworm
            variables: {format: raw, hour: 3, command: dib --fast}
        diskimages:
          - name: "{{ platform.distribution }}-{{ platform.release }}"
            platform: p
            elements: ["{{ platform.distribution }}-minimal", vm]
            formats: ["{{ platform.format }}"]
            schedule: "0 {{ platform.hour }} * * *"
            release: "{{ platform.release }}-backports"
            username: "{{ platform.distribution }}"
            python-path: "/{{ platform.release }}"
            shell-type: "{{ diskimage.name }}"
            dib-cmd: "{{ platform.command }}"
            metadata: {os: "{{ platform.distribution }}"}
            stable-name: "ci-{{ platform.release }}"
            stable-tag: "{{ diskimage.name }}"
            visibility: shared
            members: ["{{ platform.format }}1"]
            tags: ["{{ platform.release }}"]
            promote: all
        """
    )
    image = config.diskimages["debian-bookworm"]
    assert image.elements == ("debian-minimal", "vm")
    assert image.formats == ("raw",)
    assert image.schedule[0].cron == "0 3 * * *"
    assert image.environment == {"DIB_RELEASE": "bookworm-backports"}
    assert (image.username, image.python_path, image.shell_type) == ("debian", "/bookworm", "debian-bookworm")
    assert image.dib_cmd == ("dib", "--fast")
    assert image.metadata["os"] == "debian"
    assert (image.stable_name, image.stable_tag) == ("ci-bookworm", "debian-bookworm")
    assert (image.sharing.members, image.sharing.tags) == (("raw1",), ("bookworm",))


def test_an_element_that_renders_to_nothing_is_left_out(files: Files) -> None:
    config = files.load(
        """\
        platforms: [{name: p, distribution: debian, release: sid}]
        diskimages:
          - name: a
            platform: p
            elements: [vm, "{% if platform.release == 'bookworm' %}backports{% endif %}", "{{ 'last' }}"]
        """
    )
    assert config.diskimages["a"].elements == ("vm", "last")


def test_a_name_that_renders_to_something_harmful_is_refused(files: Files) -> None:
    [problem] = files.problems(
        """\
        platforms: [{name: p, distribution: debian, release: sid}]
        diskimages:
          - name: "{{ platform.release }}/../x"
            platform: p
        """
    )
    assert problem.startswith("imagepool.yaml:3: diskimages[0].name: 'sid/../x' is no valid name")


def test_a_parent_renders_anew_for_each_child(files: Files) -> None:
    config = files.load(
        """\
        platforms:
          - {name: old, distribution: debian, release: bookworm}
          - {name: new, distribution: debian, release: trixie}
        diskimages:
          - name: base
            abstract: true
            elements: ["{{ platform.distribution }}-{{ platform.release }}"]
          - {name: a, parent: base, platform: old}
          - {name: b, parent: base, platform: new}
        """
    )
    assert config.diskimages["a"].elements == ("debian-bookworm",)
    assert config.diskimages["b"].elements == ("debian-trixie",)


def test_a_template_without_a_platform_says_that_there_is_none(files: Files) -> None:
    [problem] = files.problems("diskimages:\n- name: a\n  release: '{{ platform.release }}'")
    assert problem.startswith("imagepool.yaml:3: diskimages[0].release: ")
    assert "'platform' is undefined" in problem


def test_the_syntax_of_an_abstract_diskimage_nobody_inherits_is_checked(files: Files) -> None:
    [problem] = files.problems("diskimages:\n- name: a\n  abstract: true\n  elements:\n  - '{{ x'")
    assert problem.startswith("imagepool.yaml:5: diskimages[0].elements[0]: template error")


def test_variables_are_templates_over_each_other(files: Files) -> None:
    config = files.load(
        """\
        platforms:
          - name: p
            distribution: debian
            release: bookworm
            variables:
              url: "{{ platform.base }}/{{ platform.release }}"
              base: "https://mirror.example/{{ platform.distribution }}"
              urls: ["{{ platform.url }}", {deep: "{{ platform.base }}"}]
              number: 3
        """
    )
    assert config.platforms["p"].variables == {
        "url": "https://mirror.example/debian/bookworm",
        "base": "https://mirror.example/debian",
        "urls": ["https://mirror.example/debian/bookworm", {"deep": "https://mirror.example/debian"}],
        "number": 3,
    }


def test_a_template_loop_is_named_at_every_line_of_it(files: Files) -> None:
    problems = files.problems(
        """\
        platforms:
          - name: p
            distribution: debian
            release: bookworm
            variables:
              a: "{{ platform.b }}"
              b: "x{{ platform.c }}"
              c: "{{ platform.a }}"
              self: "{{ platform.self }}"
              fine: "{{ platform.release }}"
        """
    )
    assert problems == [
        "imagepool.yaml:6: platforms[0].variables.a: template loop: a -> b -> c -> a",
        "imagepool.yaml:7: platforms[0].variables.b: template loop: a -> b -> c -> a",
        "imagepool.yaml:8: platforms[0].variables.c: template loop: a -> b -> c -> a",
        "imagepool.yaml:9: platforms[0].variables.self: template loop: self -> self",
    ]


def test_a_long_chain_of_variables_is_refused_before_it_ends_the_stack(files: Files) -> None:
    chain = "\n".join(f'    v{n}: "{{{{ platform.v{n + 1} }}}}"' for n in range(500))
    problems = files.problems(
        f"platforms:\n- name: p\n  distribution: d\n  release: r\n  variables:\n{chain}\n    v500: end\n"
    )
    assert problems[0] == (
        "imagepool.yaml:6: platforms[0].variables.v0: variables refer to each other more than 30 deep"
    )


# -- what all templates of a configuration make -------------------------------------------------------------

#: Many characters from few: each doubles what there is 40 times, or multiplies it with itself.
_DOUBLED = "{% set x = 'x' %}" + "{% set x = STEP %}" * 40 + "{{ x | length }}"
_SQUARED = "{% set x = 'xxxxxxxxxx' %}" + "{% set x = STEP %}" * 6 + "{{ x | length }}"


@pytest.mark.parametrize(
    "template",
    [
        _DOUBLED.replace("STEP", "x ~ x"),
        _DOUBLED.replace("STEP", "x + x"),
        _DOUBLED.replace("STEP", "[x, x] | join"),
        _DOUBLED.replace("STEP", "''.join([x, x])"),
        _SQUARED.replace("STEP", "x | replace('x', x)"),
        _SQUARED.replace("STEP", "x.replace('x', x)"),
        _SQUARED.replace("STEP", "x.join(x)"),
        _SQUARED.replace("STEP", "x | join(x)"),
        "{% for a in range(1000) %}{% for b in range(1000) %}{{ '' }}{% endfor %}{% endfor %}",
        "{% for a in range(1000) %}{% for b in range(1000) if false %}{% endfor %}{% endfor %}",
        "{% for a in range(1000) %}{{ (range(1000) | list | sort | length) * 0 }}{% endfor %}",
    ],
)
def test_what_grows_on_the_way_is_bounded_though_little_comes_of_it(files: Files, template: str) -> None:
    [problem] = files.problems(with_value(template))
    assert problem.startswith("imagepool.yaml:10: diskimages[0].env-vars.X: with this, the templates of the")
    assert "let loops go over less" in problem


def test_a_text_is_cut_off_where_it_gets_too_long(files: Files) -> None:
    endless = "{% for a in range(1000) %}{{ platform.big }}{% endfor %}"
    big = '"{% for a in range(1000) %}' + "x" * 90 + '{% endfor %}"'
    [problem] = files.problems(with_value(endless).replace("size: 3", f"big: {big}, size: 3"))
    assert "env-vars.X: renders to more than 100000 characters" in problem


def test_what_the_loops_and_methods_of_text_give_is_as_ever(files: Files) -> None:
    text = (
        "{% for i in platform['items'] %}{{ loop.index }}/{{ loop.length }}{{ ',' if not loop.last }}"
        "{% endfor %} {{ 'a-b'.replace('-', '+') }} {{ 'aaa' | replace('a', 'b', 2) }}"
        " {{ ','.join(['a', 'b']) }} {{ 1 ~ 'x' }}"
        " {{ [{'n': 1}, {'n': 2}] | join(';', attribute='n') }} {{ [1] + [2] }}"
    )
    config = files.load(with_value(text))
    assert config.diskimages["image"].environment["X"] == "1/2,2/2 a+b bba a,b 1x 1;2 [1, 2]"
