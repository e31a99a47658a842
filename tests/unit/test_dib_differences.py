"""How two builds differ, each read from what it left on the disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder.config.model import MASK
from builder.dib.contents import marks, packages
from builder.dib.contents.marks import Service
from builder.dib.differences import contents
from builder.dib.differences.compare import compare
from builder.dib.differences.document import plain
from builder.dib.differences.words import summary
from builder.errors import NotFoundError, RefusedError
from tests.unit.differences_world import INPUTS, MARKS, MIB, NEW, OLD, Made, Pair, deb, marked, rpm


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def changes(pair: Pair, part: str) -> Any:
    """What is told of one part; nothing else may differ, and all of it can be written as JSON."""
    differences = pair.differences()
    assert differences.unknown == ()
    assert differences.differ and not differences.same
    told = json.loads(json.dumps(plain(differences)))
    assert set(differences.counts) == {part}
    return told[part]


def listed(changes: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [tuple(change.values()) for change in changes]


def test_a_build_that_was_made_again_is_the_same(pair: Pair) -> None:
    found = pair.differences()
    assert found.same and not found.differ
    assert (found.before.build_id, found.after.build_id) == (OLD, NEW)
    assert summary(found) == "nothing differs"


# -- packages ---------------------------------------------------------------------------------------


def how(pair: Pair) -> dict[str, list[str]]:
    """The names of the packages that differ, by how they do."""
    told = changes(pair, "packages")
    lists = ("added", "removed", "upgraded", "downgraded", "changed")
    return {each: [change["name"] for change in told[each]] for each in lists if told[each]}


def test_packages_are_added_removed_upgraded_and_downgraded(pair: Pair) -> None:
    pair = pair.with_before(
        packages=(deb("bash", "5.1"), deb("curl", "8"), deb("vim", "2:9.1-1"), deb("z", "1.0~rc1-1"))
    ).with_after(packages=(deb("bash", "5.2"), deb("jq", "1"), deb("vim", "2:9.0-3"), deb("z", "1.0-1")))
    assert how(pair) == {
        "added": ["jq"],
        "removed": ["curl"],
        "upgraded": ["bash", "z"],
        "downgraded": ["vim"],
    }


def test_an_epoch_outweighs_any_version(pair: Pair) -> None:
    pair = pair.with_before(packages=(deb("a", "9"), rpm("b", "9-1"))).with_after(
        packages=(deb("a", "1:1"), rpm("b", "1:1-1"))
    )
    assert how(pair) == {"upgraded": ["a", "b"]}


def test_the_architecture_is_part_of_what_a_package_is(pair: Pair) -> None:
    pair = pair.with_before(packages=(deb("libc6", "1", "amd64"), deb("libc6", "2", "i386"))).with_after(
        packages=(deb("libc6", "1", "amd64"), deb("libc6", "3", "i386"), deb("libc6", "1", "arm64"))
    )
    told = changes(pair, "packages")
    assert listed(told["upgraded"]) == [("libc6", "i386", "deb", "2", "3")]
    assert listed(told["added"]) == [("libc6", "arm64", "deb", None, "1")]
    assert (told["before"], told["after"]) == (2, 3)


def test_so_is_its_kind(pair: Pair) -> None:
    pair = pair.with_before(packages=(deb("rpm", "1", "all"),)).with_after(packages=(rpm("rpm", "1", "all"),))
    told = changes(pair, "packages")
    assert listed(told["removed"]) == [("rpm", "all", "deb", "1", None)]
    assert listed(told["added"]) == [("rpm", "all", "rpm", None, "1")]


def test_of_a_package_in_several_versions_those_that_came_and_went_are_told(pair: Pair) -> None:
    pair = pair.with_before(packages=(rpm("kernel-core", "6.1-1"), rpm("kernel-core", "6.2-1")))
    assert how(pair.with_after(packages=(rpm("kernel-core", "6.2-1"), rpm("kernel-core", "6.3-1")))) == {
        "upgraded": ["kernel-core"]
    }


def test_of_a_package_in_more_versions_than_before_one_is_added(pair: Pair) -> None:
    both = (rpm("kernel-core", "6.1-1"), rpm("kernel-core", "6.2-1"))
    assert how(pair.with_before(packages=both[:1]).with_after(packages=both)) == {"added": ["kernel-core"]}


def test_versions_that_count_as_equal_or_are_none_are_neither_up_nor_down(pair: Pair) -> None:
    pair = pair.with_before(packages=(deb("a", "1"), deb("b", "what\n"))).with_after(
        packages=(deb("a", "0:1-0"), deb("b", "ever"))
    )
    assert how(pair) == {"changed": ["a", "b"]}


# -- what else is in the image --------------------------------------------------------------------------


def test_the_kernel(pair: Pair) -> None:
    pair = pair.with_after(marks=replace(MARKS, kernels=("6.1.0-28-amd64",)))
    assert changes(pair, "kernel") == {"before": "6.1.0-27-amd64", "after": "6.1.0-28-amd64"}


def test_services_that_are_enabled_disabled_and_masked(pair: Pair) -> None:
    def service(unit: str, state: str = "enabled") -> Service:
        return Service(unit=unit, state=state, by=("multi-user.target",) if state == "enabled" else ())

    pair = pair.with_before(
        marks=replace(MARKS, services=(service("a.service"), service("b.service"), service("c.service")))
    ).with_after(
        marks=replace(
            MARKS, services=(service("a.service"), service("b.service", "masked"), service("d.service"))
        )
    )
    started = {"state": "enabled", "by": ["multi-user.target"]}
    assert listed(changes(pair, "services")) == [
        ("b.service", started, {"state": "masked", "by": []}),
        ("c.service", started, None),
        ("d.service", None, started),
    ]


@pytest.mark.parametrize(
    "now",
    [
        marked("/usr/bin/su", "6755"),
        marked("/usr/bin/su", "4755", owner="zuul"),
        replace(marked("/usr/bin/su", "4755"), group="wheel"),
        marked("/usr/bin/su", "4755", kind="directory"),
    ],
)
def test_a_file_whose_mode_or_owner_changed(pair: Pair, now: marks.Marked) -> None:
    pair = pair.with_after(marks=replace(MARKS, files=(marked("/etc/passwd"), now)))
    (change,) = changes(pair, "files")
    assert change["path"] == "/usr/bin/su"
    assert change["before"] == {"kind": "file", "mode": "4755", "owner": "root", "group": "root"}
    assert change["after"] == {"kind": now.kind, "mode": now.mode, "owner": now.owner, "group": now.group}


def test_files_that_are_new_or_gone(pair: Pair) -> None:
    new = marked("/usr/bin/backdoor", "4755")
    pair = pair.with_after(marks=replace(MARKS, files=(*MARKS.files[:1], new)))
    told = {change["path"]: (change["before"], change["after"]) for change in changes(pair, "files")}
    assert told["/usr/bin/backdoor"][0] is None
    assert told["/usr/bin/su"][1] is None
    assert len(told) == 2


def test_directories_that_grew_or_shrank_most_come_first_and_noise_is_none(pair: Pair) -> None:
    before = {"/": 100 * MIB, "/opt": 10 * MIB, "/usr": 50 * MIB, "/var": 5 * MIB, "/gone": 3 * MIB}
    after = {"/": 120 * MIB, "/opt": 10 * MIB, "/usr": 40 * MIB, "/var": 6 * MIB, "/new": 30 * MIB}
    pair = pair.with_before(sizes=before).with_after(sizes=after)
    assert listed(changes(pair, "directories")) == [
        ("/new", None, 30 * MIB),
        ("/", 100 * MIB, 120 * MIB),
        ("/usr", 50 * MIB, 40 * MIB),
        ("/gone", 3 * MIB, None),
    ]


def test_noise_is_no_difference_and_the_size_is_told_all_the_same(pair: Pair) -> None:
    sizes = {**pair.before.sizes, "/": 901 * MIB}
    found = pair.with_after(sizes=sizes, artifacts={"qcow2": 301 * MIB}).differences()
    assert found.same
    assert plain(found)["size"] == {"before": 900 * MIB, "after": 901 * MIB}


def test_artifacts_that_grew_and_formats_that_are_new(pair: Pair) -> None:
    pair = pair.with_after(artifacts={"qcow2": 2000 * MIB, "raw": 1})
    assert listed(changes(pair, "artifacts")) == [("qcow2", 300 * MIB, 2000 * MIB), ("raw", None, 1)]


# -- what went in -----------------------------------------------------------------------------------


def test_elements(pair: Pair) -> None:
    now = {"debian-minimal": "0" * 64, "extra": "1" * 64}
    pair = pair.with_after(inputs=replace(INPUTS, elements=now))
    assert listed(changes(pair, "elements")) == [
        ("debian-minimal", "e" * 64, "0" * 64),
        ("extra", None, "1" * 64),
        ("vm", "f" * 64, None),
    ]


def test_environment_and_the_files_that_it_names(pair: Pair) -> None:
    old = {"A": "1", "GONE": "x", "LIST": "/srv/list", "URL": "https://ann:hush@mirror.example/"}
    new = {"A": "2", "LIST": "/srv/list", "NEW": "", "URL": "https://bob:quiet@mirror.example/x"}
    pair = pair.with_before(inputs=replace(INPUTS, environment=old, files={"LIST": "1"})).with_after(
        inputs=replace(INPUTS, environment=new, files={"LIST": "2"})
    )
    told = changes(pair, "environment")
    assert listed(told) == [
        ("A", "value", "1", "2"),
        ("GONE", "value", "x", None),
        ("LIST", "files", "/srv/list", "/srv/list"),
        ("NEW", "value", None, ""),
        ("URL", "value", f"https://{MASK}@mirror.example/", f"https://{MASK}@mirror.example/x"),
    ]


def test_of_a_secret_it_is_only_told_that_it_changed(pair: Pair) -> None:
    def known(value: str, digest: str | None) -> Any:
        secrets = {} if digest is None else {"TOKEN": digest}
        return replace(INPUTS, environment={"TOKEN": value}, secrets=secrets)

    both = pair.with_before(inputs=known(MASK, "1")).with_after(inputs=known(MASK, "2"))
    assert listed(changes(both, "environment")) == [("TOKEN", "secret", MASK, MASK)]


def test_what_is_a_secret_now_was_one_before_too(pair: Pair) -> None:
    open_before = replace(INPUTS, environment={"TOKEN": "hush hush"})
    hidden = replace(INPUTS, environment={"TOKEN": MASK}, secrets={"TOKEN": "1"})
    told = changes(pair.with_before(inputs=open_before).with_after(inputs=hidden), "environment")
    assert listed(told) == [("TOKEN", "secret", MASK, MASK)]


def test_of_a_secret_that_names_a_file_only_the_name_is_told(pair: Pair) -> None:
    def known(digest: str) -> Any:
        return replace(INPUTS, environment={"KEY": MASK}, secrets={"KEY": "1"}, files={"KEY": digest})

    told = changes(pair.with_before(inputs=known("1")).with_after(inputs=known("2")), "environment")
    assert listed(told) == [("KEY", "files", MASK, MASK)]


def test_the_command_the_formats_and_the_tools(pair: Pair) -> None:
    now = replace(
        INPUTS,
        command=("disk-image-create", "--checksum", "debian-minimal", "vm"),
        digests={**INPUTS.digests, "dib": "3.44.0", "formats": "qcow2, raw"},
    )
    # The kernel of the machine makes no other image.
    pair = pair.with_after(inputs=now, tools={"qemu-img": "8.1", "kernel": "6.2"})
    assert listed(changes(pair, "recipe")) == [
        ("command", "disk-image-create debian-minimal vm", "disk-image-create --checksum debian-minimal vm"),
        ("diskimage-builder", "3.43.0", "3.44.0"),
        ("formats", "qcow2", "qcow2, raw"),
        ("tool qemu-img", "8.0", "8.1"),
    ]


def test_heads_of_git_repositories_those_of_the_cache_with_all_branches(pair: Pair) -> None:
    def heads(**branches: str) -> dict[str, Any]:
        return {
            "git.example/nova": {
                "url": "https://git.example/nova",
                "branch": "master",
                "commit": branches["master"],
                "branches": branches,
            }
        }

    digests = {**INPUTS.digests, "git glean": "2" * 40, "git new": "3" * 40}
    pair = pair.with_before(heads=heads(master="a" * 40, stable="b" * 40)).with_after(
        heads=heads(master="c" * 40, stable="d" * 40), inputs=replace(INPUTS, digests=digests)
    )
    assert listed(changes(pair, "repositories")) == [
        ("git.example/nova", "a" * 40, "c" * 40, 2),
        ("glean", "1" * 40, "2" * 40, 0),
        ("new", None, "3" * 40, 0),
    ]


# -- what is not known --------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["packages.json", "sizes.json", "files.json", "inputs.json"])
@pytest.mark.parametrize("damage", [None, "", "{", "[]", '{"packages": [{}]}', "[" * 100_000])
def test_what_one_build_does_not_tell_is_unknown_and_no_difference(
    pair: Pair, file: str, damage: str | None
) -> None:
    home = pair.before.publish(pair.place)
    (home / file).unlink()
    if damage is not None:
        (home / file).write_text(damage)
    found = compare(contents.load(home), contents.load(pair.after.publish(pair.place)))
    assert not found.differ and not found.same
    (unknown,) = found.unknown
    assert OLD in unknown and file in unknown
    assert summary(found) == "not all could be compared"


def test_lists_of_nothing_are_no_knowledge(pair: Pair) -> None:
    empty = pair.with_before(packages=()).with_after(marks=marks.Marks(problems=("it did not run",)))
    found = empty.differences()
    assert not found.differ and not found.same
    assert [line.split(": ")[1] for line in found.unknown] == [packages.FILE, marks.FILE]


def test_what_the_builds_could_not_find_out_is_told(pair: Pair) -> None:
    pair = pair.with_before(marks=replace(MARKS, problems=("rpm could not list the packages",))).with_after(
        inputs=replace(INPUTS, unknown={"elements": "no such element"}, elements={})
    )
    found = pair.differences()
    assert found.unknown == (
        f"build {OLD}: rpm could not list the packages",
        f"build {NEW}: elements: no such element",
    )
    assert not found.differ and not found.same


def test_heads_that_are_damaged_make_no_repository_new(pair: Pair) -> None:
    found = pair.with_after(heads={"x": {"commit": "1"}}).differences()
    assert not found.differ
    assert "heads.json" in found.unknown[0]


def test_a_build_that_is_gone_or_whose_proof_is_damaged_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"build\.json"):
        contents.load(tmp_path / "gone.d")
    home = Made().publish(tmp_path)
    for damage in ("", "[]", '{"image": "x"}'):
        (home / "build.json").write_text(damage)
        with pytest.raises(RefusedError, match="damaged"):
            contents.load(home)


def test_one_line_says_what_differs_most(pair: Pair) -> None:
    pair = pair.with_after(
        packages=(deb("bash", "5.3"), deb("libc6", "2.36-9"), deb("jq", "1")),
        marks=replace(MARKS, kernels=("6.1.0-28-amd64",), files=MARKS.files[:1]),
        sizes={**pair.before.sizes, "/": 950 * MIB},
        tools={"qemu-img": "9"},
    )
    assert summary(pair.differences()) == (
        "kernel 6.1.0-27-amd64 -> 6.1.0-28-amd64; packages: 1 added, 1 upgraded; size +52.4 MB;"
        " 1 setuid file or file below /etc; other tool qemu-img"
    )


def test_the_line_stays_one_whatever_an_image_calls_its_kernels(pair: Pair) -> None:
    pair = pair.with_after(marks=replace(MARKS, kernels=tuple(f"6.{n}\n" for n in range(500))))
    assert summary(pair.differences()) == "other kernels"
