"""What the files of an image take, by directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from builder.dib.contents import listing, sizes
from builder.dib.contents.sizes import Size

DEVICE = 2049


def sizes_of(place: Path, *entries: tuple[int, str, int, int, str]) -> Mapping[str, Size]:
    """The sizes of what find printed: inode, type, bytes, blocks and path of each file."""
    lines = (f"{DEVICE} {i} {k} {s} {b} 644 0 0 {p}\0\0" for i, k, s, b, p in entries)
    (place / "files").write_text("".join(lines))
    return sizes.by_directory(listing.read(place))


def test_directories_count_all_below_them_three_levels_deep(tmp_path: Path) -> None:
    found = sizes_of(
        tmp_path,
        (1, "d", 4096, 8, "."),
        (2, "d", 4096, 8, "./usr"),
        (3, "d", 4096, 8, "./usr/lib"),
        (4, "d", 4096, 8, "./usr/lib/a"),
        (5, "d", 4096, 8, "./usr/lib/a/deep"),
        (6, "f", 10, 8, "./usr/lib/a/deep/with a space\nand a line"),
        (7, "l", 7, 0, "./bin"),
        (8, "f", 1000000, 16, "./sparse"),
    )
    assert list(found) == ["/", "/usr", "/usr/lib", "/usr/lib/a"]
    assert found["/usr/lib/a"] == Size(allocated=24 * 512, apparent=8202, files=1)
    assert found["/"] == Size(allocated=64 * 512, apparent=5 * 4096 + 1000017, files=3)


def test_a_file_of_several_names_counts_once(tmp_path: Path) -> None:
    found = sizes_of(tmp_path, (9, "f", 100, 8, "./b/two"), (9, "f", 100, 8, "./a/one"))
    assert found["/"].files == 1
    assert set(found) == {"/", "/a"}


def test_what_disk_image_create_takes_away_at_the_end_does_not_count(tmp_path: Path) -> None:
    found = sizes_of(
        tmp_path,
        (1, "f", 50, 8, "./tmp/left"),
        (2, "f", 50, 8, "./root/install.log"),
        (3, "f", 50, 8, "./var/log/dpkg.log"),
        (4, "f", 50, 8, "./root/.profile"),
        (5, "f", 50, 8, "./tmpfile"),
    )
    assert found["/"] == Size(allocated=2 * 8 * 512, apparent=100, files=3)


def test_without_a_list_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert listing.read(tmp_path) == ()
    for torn in ("torn\0", "1 1 d 4096 8 755 0 0 .", "1 1 f 1 1 xyz 0 0 ./a\0\0"):
        (tmp_path / "files").write_text(torn)
        assert listing.read(tmp_path) == ()
    assert sizes.by_directory(()) == {}
