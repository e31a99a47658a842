"""Differences in Markdown, of images that say what they like."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from builder.dib.contents.marks import Service
from builder.dib.differences.markdown import ROWS, code, markdown
from tests.unit.differences_world import INPUTS, MARKS, MIB, NEW, OLD, Pair, deb, marked

#: What an image may call a file, a unit or a package to be somebody else on a page or a terminal.
HOSTILE = [
    "<script>alert(1)</script>",
    "a | b | c",
    "`code` and ``more``",
    "line\nbreak\r\n# Heading",
    "\x1b[2J\x1b]0;title\x07",
    "[click](https://evil.example) ![x](https://evil.example/x.png)",
    "&lt;b&gt; @everyone #1 https://evil.example www.evil.example",
    "\u202egnp.exe \u2028 \x85 \ufeff",
    "no text \udc80",
    " ` ",
    "",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_stays_within_its_code_span(name: str) -> None:
    span = code(name)
    assert "\n" not in span and span.isprintable()
    inner = span[1:-1]
    assert (span[0], span[-1]) == ("`", "`") if name else span == "(nothing)"
    assert not re.search(r"[`|<&]", inner)


def test_a_very_long_name_is_cut() -> None:
    assert len(code("x" * 5000)) == 202


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


@pytest.mark.parametrize("name", HOSTILE[:-1])
def test_nothing_of_an_image_has_a_meaning_in_the_text(pair: Pair, name: str) -> None:
    harmless = pair.with_after(**hostile_changes("harmless")).differences()
    hostile = pair.with_after(**hostile_changes(name)).differences()
    # As many lines and cells as with a name of letters, and nothing that a page would act on.
    told, text = markdown(hostile), markdown(harmless)
    assert told.count("\n") == text.count("\n")
    assert [line.count("|") for line in told.splitlines()] == [line.count("|") for line in text.splitlines()]
    outside = re.sub(r"`[^`\n]*`", "", told)
    assert re.sub(r"[a-zA-Z0-9 ,.:#|+()/>\n-]", "", outside) == ""
    told.encode("utf-8")


def hostile_changes(name: str) -> dict[str, object]:
    return {
        "packages": (deb(name, name, name), deb("bash", f"5 {name}")),
        "marks": replace(
            MARKS,
            files=(*MARKS.files, marked(f"/etc/{name}", owner=name, kind=name)),
            services=(Service(unit=f"x{name}", state=name, by=(name,)),),
            kernels=(f"6{name}",),
            problems=(f"trouble {name}",),
        ),
        "sizes": {"/": 500 * MIB, "/etc": 4096, f"/usr{name}": 700 * MIB, "/usr": 800 * MIB},
        "inputs": replace(INPUTS, environment={f"X{name}": name}, digests={"git x": f"1{name}", "dib": name}),
        "heads": {f"git{name}": {"commit": name, "branches": {name: name}}},
    }


def test_the_whole_text_is_read_easily(pair: Pair) -> None:
    pair = pair.with_after(
        packages=(deb("bash", "5.3"), deb("libc6", "2.36-9")),
        marks=replace(MARKS, kernels=("6.1.0-28-amd64",), files=MARKS.files[:1]),
    )
    assert (
        markdown(pair.differences())
        == f"""\
# What is new in `debian-bookworm`

Build `{NEW}` after build `{OLD}`:
`kernel 6.1.0-27-amd64 -> 6.1.0-28-amd64; packages: 1 upgraded; 1 setuid file or file below /etc`.

## Packages upgraded: 1

| package | before | after |
|---|---|---|
| `bash amd64` | `5.2.15-2+b7` | `5.3` |

## Kernel

| before | after |
|---|---|
| `6.1.0-27-amd64` | `6.1.0-28-amd64` |

## Setuid files, and files below /etc

| file | before | after |
|---|---|---|
| `/usr/bin/su` | `4755 root:root` | `none` |
"""
    )


def test_a_table_has_an_end(pair: Pair) -> None:
    many = tuple(deb(f"package-{number:04}", "1") for number in range(ROWS + 5))
    told = markdown(pair.with_after(packages=many).differences())
    assert told.count("| `package-") == ROWS
    assert "5 more are in changes.json." in told


def test_what_could_not_be_compared_is_said(pair: Pair) -> None:
    told = markdown(pair.with_after(packages=()).differences())
    assert f"- `build {NEW}: packages.json: it is empty" in told
