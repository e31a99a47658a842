"""A file that includes others: what it takes, what it lays over them, and what it can't include."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from builder.cli.context import Context
from builder.config.document import read_document
from builder.config.importing import remarks
from builder.config.problems import Problems
from builder.config.sources import MAX_INCLUDED, files_of, included_documents
from builder.config.text import fingerprint, includes_in
from builder.config.watch import ConfigWatch
from tests.unit.config_world import Files
from tests.unit.test_cli_asking import Machine

SHIPPED = """\
platforms:
  - name: "debian-{{ platform.release }}"
    distribution: debian
    properties: {os_version: "{{ platform.version }}", hw: old}
    variables: {kernel: cloud, package: "linux-image-{{ platform.kernel }}"}
    matrix:
      - {release: bookworm, variables: {version: "12"}}
      - {release: trixie, variables: {version: "13"}}
diskimages:
  - name: ci
    abstract: true
    elements: ["{{ platform.distribution }}-minimal", vm]
    env-vars: {KERNEL: "{{ platform.package }}", LEVEL: "1"}
    schedule: 1 1 * * *
    username: zuul
  - name: "{{ platform.name }}"
    parent: ci
    platforms: ["*"]
    elements: [shipped]
"""


@pytest.fixture
def files(tmp_path: Path) -> Files:
    (tmp_path / "platforms.yaml").write_text(SHIPPED)
    return Files(tmp_path)


def including(text: str = "") -> str:
    return f"include: [platforms.yaml]\n{text}"


# -- what is there ---------------------------------------------------------------------------------


def test_what_is_included_is_as_if_it_were_written_here(files: Files) -> None:
    included, written = files.load(including()), files.load(SHIPPED)
    assert included.platforms == written.platforms
    assert included.diskimages == written.diskimages
    assert included.abstract == {"ci"}


def test_one_file_may_be_included_without_a_list_and_from_elsewhere(files: Files, tmp_path: Path) -> None:
    directory = tmp_path / "others"
    directory.mkdir()
    (tmp_path / "platforms.yaml").rename(directory / "p.yaml")
    assert "debian-trixie" in files.load("include: others/p.yaml").diskimages
    assert "debian-trixie" in files.load(f"include: {directory}/../others/p.yaml").diskimages


def test_a_link_may_be_included(files: Files, tmp_path: Path) -> None:
    (tmp_path / "link.yaml").symlink_to("platforms.yaml")
    assert "debian-trixie" in files.load("include: link.yaml").diskimages


def test_an_empty_file_adds_nothing(files: Files, tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert files.load("include: [empty.yaml, platforms.yaml]").platforms.keys() == {
        "debian-bookworm",
        "debian-trixie",
    }


def test_the_environment_is_put_into_included_files(files: Files, tmp_path: Path) -> None:
    (tmp_path / "platforms.yaml").write_text(SHIPPED.replace("zuul", "'%(IMAGEPOOL_USER)'"))
    files.environ["IMAGEPOOL_USER"] = "jenkins"
    assert files.load(including()).diskimages["debian-trixie"].username == "jenkins"


def test_platforms_of_this_file_are_for_diskimages_of_included_ones(files: Files) -> None:
    config = files.load(including("platforms:\n- {name: mine, distribution: fedora, release: 44,"
                                  " variables: {package: kernel}}"))  # fmt: skip
    assert config.diskimages["mine"].elements == ("fedora-minimal", "vm", "shipped")


# -- what is laid over it --------------------------------------------------------------------------


def test_an_element_a_variable_and_a_schedule_are_added_to_one_shipped_image(files: Files) -> None:
    images = files.load(
        including(
            "diskimages:\n- name: debian-trixie\n  elements: [mine]\n  env-vars: {LEVEL: '2', MINE: x}\n"
            "  schedule: 2 2 * * *\n"
        )
    ).diskimages
    mine, other = images["debian-trixie"], images["debian-bookworm"]
    assert mine.elements == ("debian-minimal", "vm", "shipped", "mine")
    assert dict(mine.environment) == {
        "DIB_RELEASE": "trixie",
        "KERNEL": "linux-image-cloud",
        "LEVEL": "2",
        "MINE": "x",
    }
    assert [entry.cron for entry in mine.schedule] == ["2 2 * * *"]
    assert mine.platform is not None and mine.platform.name == "debian-trixie"
    assert other == files.load(SHIPPED).diskimages["debian-bookworm"]
    assert [*images] == ["debian-bookworm", "debian-trixie"]


def test_what_is_laid_over_the_template_is_in_all_images(files: Files) -> None:
    images = files.load(including("diskimages:\n- {name: ci, elements: [mine], username: me}\n")).diskimages
    assert [image.elements for image in images.values()] == [("debian-minimal", "vm", "mine", "shipped")] * 2
    assert {image.username for image in images.values()} == {"me"}


def test_what_is_laid_over_several_images_has_their_names_by_template(files: Files) -> None:
    images = files.load(
        including("diskimages:\n- {name: '{{ platform.name }}', platforms: '*-trixie', elements: [mine]}\n")
    ).diskimages
    assert images["debian-trixie"].elements == ("debian-minimal", "vm", "shipped", "mine")
    assert images["debian-bookworm"].elements == ("debian-minimal", "vm", "shipped")


def test_a_shipped_image_may_get_another_parent_or_go(files: Files) -> None:
    config = files.load(
        including(
            "diskimages:\n- {name: other, abstract: true, elements: [base]}\n"
            "- {name: debian-trixie, parent: other}\n- {name: debian-bookworm, abstract: true}\n"
        )
    )
    assert {name: image.elements for name, image in config.diskimages.items()} == {
        "debian-trixie": ("base", "shipped")
    }


def test_a_platform_is_laid_over_a_shipped_one(files: Files) -> None:
    config = files.load(
        including(
            "platforms:\n- {name: debian-trixie, mirror: host, architecture: arm64,"
            " properties: {hw: new, mine: '{{ platform.release }}'}, variables: {kernel: arm64}}\n"
        )
    )
    mine = config.platforms["debian-trixie"]
    assert (mine.release, mine.mirror, mine.architecture) == ("trixie", "host", "arm64")
    assert mine.properties == {"os_version": "13", "hw": "new", "mine": "trixie"}
    # What is shipped is rendered anew over what is written here.
    assert mine.variables == {"kernel": "arm64", "package": "linux-image-arm64", "version": "13"}
    assert config.diskimages["debian-trixie"].environment["KERNEL"] == "linux-image-arm64"
    assert config.platforms["debian-bookworm"] == files.load(SHIPPED).platforms["debian-bookworm"]


def test_the_mirror_of_one_distribution_is_changed_in_one_line(files: Files) -> None:
    config = files.load(including("mirrors: {debian: https://mirror.example/debian}"))
    assert {platform.mirror for platform in config.platforms.values()} == {"https://mirror.example/debian"}


# -- what is wrong ---------------------------------------------------------------------------------


def problems_of(files: Files, name: str, text: str) -> list[str]:
    """Problems of a file that includes `name`, whose text is this."""
    (files.main.parent / name).write_text(text)
    return files.problems(f"keep: 3\ninclude: [{name}]\n")


def test_problems_name_the_included_file_and_the_line_in_it(files: Files) -> None:
    assert problems_of(files, "p.yaml", SHIPPED.replace("platform.package", "platform.packge")) == [
        "p.yaml:13: diskimages[0].env-vars.KERNEL: template error: platform 'debian-bookworm' has no"
        " 'packge'; did you mean 'package'?",
        "p.yaml:13: diskimages[0].env-vars.KERNEL: template error: platform 'debian-trixie' has no"
        " 'packge'; did you mean 'package'?",
    ]


def test_each_problem_is_told_in_the_file_it_is_in(files: Files) -> None:
    problems = files.problems(including("diskimages:\n- {name: debian-trixie, elements: [a, ../x], keep: 0}"))
    assert [problem.partition(": ")[2].partition(":")[0] for problem in problems] == [
        "diskimages[0].keep",
        "diskimages[0].elements[1]",
    ]


WRONG_FILES = {
    "an include": ("include: [other.yaml]", "p.yaml:1: include: an included file has diskimages and"),
    "another key": ("\nproviders: []", "p.yaml:2: providers: an included file has diskimages and"),
    "a typing error": ("platform: []", "p.yaml:1: platform: unknown key; did you mean 'platforms'?"),
    "no mapping": ("- a", "p.yaml:1: the file must be a mapping of keys, not a list"),
    "no YAML": ("a: [", "p.yaml:1: not valid YAML"),
    "a key twice": ("platforms: []\nplatforms: []", "p.yaml:2: platforms: the key is given twice"),
    "a missing variable": ("# \nplatforms: %(IMAGEPOOL_NOPE)", "p.yaml:2: the environment has no variable"),
}


@pytest.mark.parametrize(("text", "expected"), WRONG_FILES.values(), ids=WRONG_FILES.keys())
def test_what_an_included_file_can_t_have_is_told(files: Files, text: str, expected: str) -> None:
    problems = problems_of(files, "p.yaml", text)
    assert problems[0].startswith(expected)


def test_what_can_t_be_included_is_told_where_it_is_asked_for(files: Files, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # to open it would take for ever
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "again.yaml").symlink_to("platforms.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"a: \xff")
    names = {
        "nothing.yaml": f"{tmp_path}/nothing.yaml: can't be read: No such file or directory",
        "pipe": f"{tmp_path}/pipe: is no file that can be included",
        ".": f"{tmp_path}: is no file that can be included",
        "circle": f"{tmp_path}/circle: can't be read: Too many levels of symbolic links",
        "platforms.yaml/x": f"{tmp_path}/platforms.yaml/x: can't be read: Not a directory",
        "binary.yaml": f"{tmp_path}/binary.yaml:1: not UTF-8 text",
        "imagepool.yaml": f"{tmp_path}/imagepool.yaml is this file itself",
        "platforms.yaml": None,
        "again.yaml": f"{tmp_path}/again.yaml is included already",
        "x" * 5000: "can't be read: File name too long",
    }
    # Platforms that may be in what can't be read are no problem of their own.
    text = "include:\n" + "".join(f"- {name}\n" for name in names) + "diskimages: [{name: a, platform: b}]"
    problems = files.problems(text)
    expected = [(number, why.replace(f"{tmp_path}/", "")) for number, why in enumerate(names.values()) if why]
    assert len(problems) == len(expected)
    for problem, (number, why) in zip(problems, expected, strict=True):
        assert problem.startswith(f"imagepool.yaml:{number + 2}: include[{number}]: ")
        assert why in problem


def test_included_files_are_counted(files: Files, tmp_path: Path) -> None:
    for number in range(MAX_INCLUDED + 1):
        (tmp_path / f"{number}.yaml").write_text("")
    [problem] = files.problems(f"include: [{', '.join(f'{n}.yaml' for n in range(MAX_INCLUDED + 1))}]")
    assert problem.startswith(f"imagepool.yaml:1: include[{MAX_INCLUDED}]: more than {MAX_INCLUDED}")


def test_two_included_files_can_t_have_the_same_names(files: Files, tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text(
        "platforms:\n- {name: debian-trixie, distribution: d, release: r}\ndiskimages:\n- {name: ci}\n"
    )
    assert files.problems("include: [platforms.yaml, more.yaml]") == [
        "more.yaml:2: platforms[0].name: there are two platforms named 'debian-trixie'",
        "more.yaml:4: diskimages[0].name: there are two diskimages named 'ci'",
    ]


def test_a_platform_that_is_laid_over_nothing_is_told_what_it_may_mean(files: Files) -> None:
    problems = files.problems(including("platforms:\n- {name: debian-trixi, mirror: host}\n"))
    assert problems[0] == (
        "imagepool.yaml:3: platforms[0].distribution: is required: no included file has a platform"
        " 'debian-trixi'; did you mean 'debian-trixie'?"
    )


def test_a_diskimage_that_is_laid_over_nothing_is_noted(files: Files) -> None:
    config = files.load(including("diskimages:\n- {name: debian-trixi, elements: [mine]}\n"))
    [note] = config.notes
    assert note.endswith("no included file has a diskimage 'debian-trixi'; did you mean 'debian-trixie'?")
    assert files.load(including("diskimages:\n- {name: mine, formats: [raw]}\n")).notes == ()
    assert files.load("diskimages:\n- {name: mine}\n").notes == ()


# -- who else reads the file -----------------------------------------------------------------------


def test_a_change_of_an_included_file_is_another_configuration(files: Files, tmp_path: Path) -> None:
    first = files.load(including()).fingerprint
    assert first == fingerprint(including(), "", [SHIPPED])
    (tmp_path / "platforms.yaml").write_text(SHIPPED + "# changed\n")
    assert files.load().fingerprint != first


@pytest.mark.parametrize(
    "text",
    [
        "include: [a.yaml, 'b/c.yaml']\nkeep: 1\n",
        'keep: 1\ninclude:\n- a.yaml\n\n# and\n- "b/c.yaml" # two\nx: [d.yaml]\n',
        "include:\n  - a.yaml\n  - b/c.yaml\n",
        "include: [\n  a.yaml,   # one\n  b/c.yaml,\n]\nkeep: 1\n",
    ],
)
def test_included_files_are_found_in_the_text(text: str, tmp_path: Path) -> None:
    file = tmp_path / "main.yaml"
    file.write_text(text)
    expected = (tmp_path / "a.yaml", tmp_path / "b" / "c.yaml")
    assert includes_in(text, file) == expected
    assert files_of(file, {}) == (file, *expected)


def test_nothing_is_found_where_nothing_is_included(tmp_path: Path) -> None:
    file = tmp_path / "main.yaml"
    for text in (
        "",
        "# include: [a]\n",
        "a:\n  include: [b]\n",
        "include:\n",
        "include: {a: b}\n",
        "[",
        "\0",
    ):
        file.write_text(text)
        assert files_of(file, {}) == (file,)
    assert includes_in("# include: [a]\na:\n  include: [b]\ninclude:\n", file) == ()
    assert files_of(tmp_path / "missing.yaml", {}) == (tmp_path / "missing.yaml",)


def test_the_daemon_is_asked_for_the_configuration_with_all_that_it_includes(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    (tmp_path / "p.yaml").write_text(SHIPPED)
    machine.path.write_text(machine.path.read_text() + "include: p.yaml\n")
    Context(machine.parts()).known()
    assert [question.config for _, question in machine.asked] == [
        fingerprint(machine.path.read_text(), "", [SHIPPED])
    ]


def test_nobody_is_asked_when_an_included_file_is_missing(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.path.write_text(machine.path.read_text() + "include: p.yaml\n")
    Context(machine.parts()).known()
    assert machine.asked == []


def test_nobody_waits_for_what_a_pipe_has_to_say(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    os.mkfifo(tmp_path / "p.yaml")
    machine.path.write_text(machine.path.read_text() + "include: p.yaml\n")
    asking = threading.Thread(target=Context(machine.parts()).known, daemon=True)
    asking.start()
    asking.join(10)
    if asking.is_alive():
        os.close(os.open(tmp_path / "p.yaml", os.O_WRONLY))  # or it would be there for ever
        pytest.fail("it opened the pipe")
    assert machine.asked == []


class Watched:
    """A watch of a file and all that it includes, which says when it was told of a change."""

    def __init__(self, main: Path) -> None:
        self._main = main
        self._told = threading.Condition()
        self._count = 0
        self.watch = ConfigWatch(self._find, self._tell, settle=0.05)

    def _find(self) -> Sequence[Path]:
        return files_of(self._main, {})

    def _tell(self) -> None:
        with self._told:
            self._count += 1
            self._told.notify_all()

    def tells(self, count: int) -> bool:
        with self._told:
            return self._told.wait_for(lambda: self._count >= count, 10)


def test_a_change_of_what_is_included_is_noticed_also_when_it_came_later(tmp_path: Path) -> None:
    main, directory = tmp_path / "main.yaml", tmp_path / "later"
    main.write_text("keep: 1\n")
    watched = Watched(main)
    with watched.watch:
        main.write_text("include: [later/p.yaml]\n")
        assert watched.tells(1)
        directory.mkdir()
        (directory / "p.yaml").write_text("platforms: []\n")
        assert watched.tells(2)
        (directory / "p.yaml").write_text("platforms: [] # changed\n")
        assert watched.tells(3)


def test_a_link_in_a_circle_does_not_end_the_watch(tmp_path: Path) -> None:
    main, circle = tmp_path / "main.yaml", tmp_path / "circle.yaml"
    main.write_text("include: circle.yaml\n")
    circle.symlink_to("circle.yaml")
    watched = Watched(main)
    with watched.watch:
        circle.unlink()
        circle.write_text("platforms: []\n")
        assert watched.tells(1)


def test_an_importer_knows_what_is_inherited_from_included_files(files: Files) -> None:
    files.write(
        including("diskimages:\n- {name: debian-trixie, elements: [x]}\n- {name: mine, parent: ci}\n")
    )
    document = read_document(files.main, {}, Problems())
    alone = [r.text for r in remarks(document) if "Without a rebuild-age" in r.text]
    known = remarks(document, None, included_documents(document, {}))
    assert len(alone) == 2
    # `mine` has the schedule of its parent; the other one's parent is for the loader to find.
    assert [r.key for r in known if "Without a rebuild-age" in r.text] == ["diskimages[0]"]
