"""The three-part format in a configuration: alone, never in parts, and told with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.model import ImageFormat
from tests.unit.config_world import Files

ROOT = "is a root file system without partitions; make two diskimages of it"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def problems(files: Files, text: str) -> list[str]:
    return [each.removeprefix("imagepool.yaml:") for each in files.problems(text)]


def test_a_provider_that_takes_it_is_enough(files: Files) -> None:
    config = files.load(
        """\
        diskimages:
          - {name: three, elements: [debian-minimal, ami], keep-formats: [ami]}
          - {name: disk, elements: [debian-minimal, vm]}
        providers:
          - {name: old, cloud: alpha, region-name: one, image-format: ami, diskimages: [{name: three}]}
          - {name: older, cloud: alpha, region-name: two, image-format: ami, diskimages: [{name: three}]}
          - {name: new, cloud: beta, diskimages: [{name: disk}]}
        """
    )
    assert config.diskimages["three"].formats == (ImageFormat.AMI,)
    assert config.diskimages["disk"].formats == (ImageFormat.VHD,)


@pytest.mark.parametrize("part", ["aki", "ari"])
def test_a_part_is_named_by_its_whole(files: Files, part: str) -> None:
    text = f"""\
        diskimages:
          - name: three
            formats: [{part}]
            keep-formats: [{part}]
            format-options: {{{part}: {{}}}}
        providers:
          - {{name: old, cloud: beta, image-format: {part}}}
        """
    said = f"{part} is a part of ami and comes along with it: name ami"
    assert problems(files, text) == [
        f"3: diskimages[0].formats[0]: {said}",
        f"4: diskimages[0].keep-formats[0]: {said}",
        f"5: diskimages[0].format-options.{part}: {said}",
        f"7: providers[0].image-format: {said}",
    ]


@pytest.mark.parametrize(("image_format", "room"), [("ami", 251), ("raw", 255)])
def test_the_longest_name_of_an_image_and_its_parts_fits_into_a_cloud(
    files: Files, image_format: str, room: int
) -> None:
    def text(length: int) -> str:
        longest = "n" * 128
        return f"""\
        diskimages: [{{name: short}}, {{name: {longest}}}]
        providers:
          - name: old
            cloud: beta
            image-format: {image_format}
            image-name-format: "{{image_name}}{"x" * (length - 128)}"
            diskimages: [{{name: short}}, {{name: {longest}}}]
        """

    assert files.load(text(room)).providers["old"].image_format == image_format
    [problem] = problems(files, text(room + 1))
    assert problem.startswith(
        "6: providers[0].image-name-format: an image's name in a cloud has 1 to 255 char"
    )
    assert "this makes 256 of 'nnn" in problem


@pytest.mark.parametrize("other", ["raw", "qcow2"])
def test_a_diskimage_has_no_disk_besides(files: Files, other: str) -> None:
    text = f"""\
        diskimages:
          - name: three
            formats:
              - ami
              - {other}
        providers:
          - {{name: old, cloud: beta, image-format: ami, diskimages: [{{name: three}}]}}
        """
    first, second = sorted(["ami", other])
    assert problems(files, text) == [
        f"3: diskimages[0].formats: {first} and {second} can't come out of one build: ami {ROOT}"
    ]


def test_nor_by_what_its_providers_take(files: Files) -> None:
    text = """\
        diskimages:
          - {name: three, formats: [ami]}
          - {name: free}
        providers:
          - name: new
            cloud: beta
            diskimages:
              - {name: free}
              - {name: three}
          - name: old
            cloud: alpha
            region-name: one
            image-format: ami
            diskimages:
              - {name: three}
              - {name: free}
        """
    assert problems(files, text) == [
        "9: providers[0].diskimages[1].name: it is wanted as vhd here: ami and vhd can't come out of one"
        f" build: ami {ROOT}",
        "16: providers[1].diskimages[1].name: it is wanted as ami here: vhd and ami can't come out of one"
        f" build: ami {ROOT}",
    ]


def test_nor_by_what_it_inherits(files: Files) -> None:
    text = """\
        diskimages:
          - {name: base, abstract: true, formats: [qcow2]}
          - {name: three, parent: base}
        providers:
          - {name: old, cloud: beta, image-format: ami, diskimages: [{name: three}]}
        """
    assert problems(files, text) == [
        "5: providers[0].diskimages[0].name: it is wanted as ami here: qcow2 and ami can't come out of one"
        f" build: ami {ROOT}"
    ]


def test_no_provider_gets_a_root_file_system_for_a_disk(files: Files) -> None:
    text = """\
        diskimages:
          - {name: three, elements: [debian-minimal, ami]}
        providers:
          - {name: new, cloud: alpha, region-name: one, diskimages: [{name: three}]}
        """
    assert problems(files, text) == [
        "4: providers[0].diskimages[0].name: it is wanted as qcow2 here, but its element ami makes a root"
        " file system and no disk: give this provider image-format: ami, or the diskimage other elements"
    ]
