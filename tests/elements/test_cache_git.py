"""The element cache-git: repositories from servers into a cache, and from there into an image."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

import pytest

from tests.elements.git_world import LIMIT, PROJECT, Builder, Fetched, Forge, git, served
from tests.unit.elements_world import ELEMENTS, copy_hooks, run_parts

BENCH = PROJECT / "tests" / "bench" / "git-cache"


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[Forge]:
    """A server with one repository, `some`."""
    directory = tmp_path / "forge"
    directory.mkdir()
    with served(Forge(directory)) as world:
        world.commit("some", {"file": "1\n"})
        yield world


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    return Builder(tmp_path)


def heads(fetched: Fetched) -> dict[str, dict[str, object]]:
    """What a run says that the image has."""
    found: dict[str, dict[str, object]] = json.loads(fetched.heads.read_text())
    return found


def cached(builder: Builder) -> list[Path]:
    """The repositories of the cache."""
    return sorted(builder.cache.glob("*.git"))


# What comes into the image, today and tomorrow.


def test_a_repository_is_where_jobs_look_for_it_with_all_branches_and_tags(
    forge: Forge, builder: Builder, tmp_path: Path
) -> None:
    forge.commit("some", {"file": "old\n"}, branch="stable/1")
    git("tag", "1.0", "stable/1", at=forge.repository("some"))

    fetched = builder.fetch(f"{forge.address}/some.git")

    assert fetched.code == 0, fetched.log
    repository = fetched.at("127.0.0.1/some")
    assert git("for-each-ref", at=repository) == git("for-each-ref", at=forge.repository("some"))
    assert git("fsck", "--full", at=repository) == ""
    git("clone", "-q", str(repository), str(tmp_path / "job"))
    assert (tmp_path / "job" / "file").read_text() == "1\n"
    # As Zuul's jobs do it.
    git("clone", "-q", "--bare", str(repository), str(tmp_path / "zuul"))
    assert git("config", "remote.origin.url", at=repository) == f"{forge.address}/some.git"


def test_a_repository_in_the_image_stands_alone_and_is_one_pack(forge: Forge, builder: Builder) -> None:
    forge.commit("some", {"file": "2\n"})
    builder.fetch(f"{forge.address}/some.git")
    forge.commit("some", {"file": "3\n"})
    fetched = builder.fetch(f"{forge.address}/some.git")

    objects = fetched.at("127.0.0.1/some") / ".git" / "objects"
    assert not (objects / "info" / "alternates").exists()
    assert len(list(objects.glob("pack/*.pack"))) == 1
    shutil.rmtree(builder.cache / cached(builder)[0].name)
    assert git("fsck", "--full", at=fetched.at("127.0.0.1/some")) == ""


def test_nothing_is_fetched_of_what_did_not_change(forge: Forge, builder: Builder) -> None:
    for name in ("one", "two", "three"):
        forge.commit(name, {"file": name})
    addresses = "\n".join(f"{forge.address}/{name}.git" for name in ("one", "two", "three"))
    builder.fetch(addresses)
    forge.commit("two", {"file": "new"})
    forge.asked.clear()
    forge.connections = 0

    fetched = builder.fetch(addresses, DIB_CACHE_GIT_JOBS="1")

    assert "3 repositories: 2 unchanged, 1 updated" in fetched.log
    # One request for each of the others, all of them over one connection.
    assert [path for path in forge.asked if "two" not in path] == [
        "/one.git/git-upload-pack",
        "/three.git/git-upload-pack",
    ]
    assert forge.connections == 1 + 1  # and git's own for what changed


def test_what_happens_to_branches_and_tags_happens_in_the_image(forge: Forge, builder: Builder) -> None:
    address = f"{forge.address}/some.git"
    repository = forge.repository("some")
    first = git("rev-parse", "main", at=repository)
    forge.commit("some", {"file": "x\n"}, branch="gone")
    git("tag", "moving", "main", at=repository)
    builder.fetch(address)

    git(
        "update-ref",
        "refs/heads/main",
        git("commit-tree", "main^{tree}", "-m", "rewritten", at=repository),
        at=repository,
    )
    git("branch", "-D", "gone", at=repository)
    forge.commit("some", {"file": "y\n"}, branch="gone/below")
    git("tag", "-f", "moving", "main", at=repository)
    git("branch", "-m", "main", "trunk", at=repository)
    git("symbolic-ref", "HEAD", "refs/heads/trunk", at=repository)
    fetched = builder.fetch(address)

    image = fetched.at("127.0.0.1/some")
    assert git("for-each-ref", at=image) == git("for-each-ref", at=repository)
    assert git("symbolic-ref", "HEAD", at=image) == "refs/heads/trunk"
    assert git("rev-parse", "trunk", at=image) != first
    assert heads(fetched)["127.0.0.1/some"]["branch"] == "trunk"


def test_an_empty_repository_is_one_until_it_has_something(forge: Forge, builder: Builder) -> None:
    forge.repository("empty")
    fetched = builder.fetch(f"{forge.address}/empty.git")
    assert fetched.code == 0, fetched.log
    assert git("for-each-ref", at=fetched.at("127.0.0.1/empty")) == ""
    assert heads(fetched)["127.0.0.1/empty"]["commit"] is None

    commit = forge.commit("empty", {"file": "1\n"}, branch="trunk")
    fetched = builder.fetch(f"{forge.address}/empty.git")
    # HEAD of the server names a branch that is not there.
    assert git("rev-parse", "HEAD", at=fetched.at("127.0.0.1/empty")) == commit


def test_changes_under_review_are_left_at_the_server(forge: Forge, builder: Builder) -> None:
    repository = forge.repository("some")
    for number in range(50):
        git("update-ref", f"refs/changes/{number}/1", "main", at=repository)
    fetched = builder.fetch(f"{forge.address}/some.git")
    assert git("for-each-ref", "--format=%(refname)", at=fetched.at("127.0.0.1/some")) == "refs/heads/main"


def test_git_servers_and_files_are_asked_too(forge: Forge, builder: Builder, tmp_path: Path) -> None:
    with daemon(forge.directory) as port:
        addresses = f"git://127.0.0.1:{port}/some.git\nfile://{forge.directory}/some.git local/some"
        protocols = "git file"
        fetched = builder.fetch(addresses, DIB_CACHE_GIT_PROTOCOLS=protocols)
        assert "2 new" in fetched.log
        commit = forge.commit("some", {"file": "2\n"})
        fetched = builder.fetch(addresses, DIB_CACHE_GIT_PROTOCOLS=protocols)
        assert "2 updated" in fetched.log
        assert {entry["commit"] for entry in heads(fetched).values()} == {commit}
        assert "2 unchanged" in builder.fetch(addresses, DIB_CACHE_GIT_PROTOCOLS=protocols).log


def test_heads_of_all_branches_are_told(forge: Forge, builder: Builder) -> None:
    main = git("rev-parse", "main", at=forge.repository("some"))
    stable = forge.commit("some", {"file": "old\n"}, branch="stable/1")
    assert heads(builder.fetch(f"{forge.address}/some.git")) == {
        "127.0.0.1/some": {
            "url": f"{forge.address}/some.git",
            "branch": "main",
            "commit": main,
            "branches": {"main": main, "stable/1": stable},
        }
    }


# Lists.


def test_a_list_is_lines_or_yaml_in_a_file_or_at_an_address(
    forge: Forge, builder: Builder, tmp_path: Path
) -> None:
    file = tmp_path / "list"
    file.write_text(f"# ours\n\n{forge.address}/some.git  \n")
    assert "1 new" in builder.fetch(DIB_CACHE_GIT_LIST=str(file)).log
    # Gerrit's own list of projects has names and more.
    forge.texts["/list"] = b"- project: some\n  description: x\n- url: some\n  path: other/place\n"
    fetched = builder.fetch(
        DIB_CACHE_GIT_LIST=f"{forge.address}/list", DIB_CACHE_GIT_BASE=f"{forge.address}/"
    )
    assert fetched.code == 0, fetched.log
    assert set(heads(fetched)) == {"127.0.0.1/some", "other/place"}


def test_the_list_of_last_time_is_used_when_its_server_is_away(forge: Forge, builder: Builder) -> None:
    forge.texts["/list"] = f"{forge.address}/some.git\n".encode()
    where = f"http://me:pa55@127.0.0.1:{forge.port}/list"
    builder.fetch(DIB_CACHE_GIT_LIST=where)
    forge.broken["/list"] = HTTPStatus.SERVICE_UNAVAILABLE

    fetched = builder.fetch(DIB_CACHE_GIT_LIST=where)
    assert fetched.code == 0, fetched.log
    assert "WARNING: http://***@" in fetched.log
    assert "pa55" not in fetched.log
    assert "1 unchanged" in fetched.log
    assert builder.fetch(DIB_CACHE_GIT_LIST=where, DIB_CACHE_GIT_BROKEN="error").code == 1


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({}, "set either DIB_CACHE_GIT_LIST"),
        ({"DIB_CACHE_GIT_LIST": "/nonexistent"}, "can't be read"),
        ({"DIB_CACHE_GIT_LIST": "file:///etc/passwd"}, "http:// or https://"),
        ({"DIB_CACHE_GIT_REPOSITORIES": "# none\n"}, "is empty"),
        ({"DIB_CACHE_GIT_REPOSITORIES": "- a\n b: ["}, "not YAML"),
        ({"DIB_CACHE_GIT_REPOSITORIES": "x", "DIB_CACHE_GIT_BROKEN": "maybe"}, "shall be warning or error"),
        ({"DIB_CACHE_GIT_REPOSITORIES": "x", "DIB_CACHE_GIT_JOBS": "many"}, "shall be a number"),
        ({"DIB_CACHE_GIT_REPOSITORIES": "x", "DIB_CACHE_GIT_PROTOCOLS": "ext"}, "are among"),
    ],
)
def test_settings_that_mean_nothing_are_errors(
    builder: Builder, environment: dict[str, str], why: str
) -> None:
    fetched = builder.fetch(environment.pop("DIB_CACHE_GIT_REPOSITORIES", ""), **environment)
    assert fetched.code == 1
    assert why in fetched.log


# Trouble.


def test_a_broken_repository_is_told_and_the_others_come(forge: Forge, builder: Builder) -> None:
    addresses = f"{forge.address}/some.git\n{forge.address}/none.git\n{forge.address}/late.git"
    commit = forge.commit("late", {"file": "1\n"})
    builder.fetch(addresses)
    forge.commit("late", {"file": "2\n"})
    forge.broken["/late.git"] = HTTPStatus.BAD_GATEWAY

    fetched = builder.fetch(addresses)

    assert fetched.code == 0, fetched.log
    assert "1 unchanged, 1 as they were, for they could not be updated, 1 missing" in fetched.log
    assert f"WARNING: {forge.address}/late.git is as it was: git ls-remote: fatal: " in fetched.log
    assert "502" in fetched.log
    assert f"WARNING: {forge.address}/none.git is missing: git ls-remote: fatal: " in fetched.log
    assert heads(fetched)["127.0.0.1/late"]["commit"] == commit
    assert not fetched.at("127.0.0.1/none").exists()
    strict = builder.fetch(addresses, DIB_CACHE_GIT_BROKEN="error")
    assert strict.code == 1
    assert f"WARNING: {forge.address}/none.git is missing" in strict.log


def test_no_repository_at_all_is_an_error_in_any_case(forge: Forge, builder: Builder) -> None:
    assert builder.fetch(f"{forge.address}/none.git").code == 1


def test_a_server_that_stumbles_is_asked_again(forge: Forge, builder: Builder) -> None:
    # By the short way and by git's own, both of the first try.
    forge.stumbles["/some.git"] = 2
    assert "1 new" in builder.fetch(f"{forge.address}/some.git").log
    forge.commit("other", {"file": "1\n"})
    forge.stumbles["/other.git"] = 2
    assert "1 missing" in builder.fetch(f"{forge.address}/other.git", DIB_CACHE_GIT_TRIES="1").log


def test_a_server_that_hangs_ends_with_its_time(forge: Forge, builder: Builder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        began = time.monotonic()
        fetched = builder.fetch(
            f"{forge.address}/some.git\nhttp://127.0.0.1:{port}/x\ngit://127.0.0.1:{port}/y",
            DIB_CACHE_GIT_TIMEOUT="1",
            DIB_CACHE_GIT_TRIES="1",
        )
    assert time.monotonic() - began < 20
    assert "1 new, 2 missing" in fetched.log
    assert "took longer than 1 s" in fetched.log


def test_a_server_that_is_away_is_not_waited_for_a_thousand_times(forge: Forge, builder: Builder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    away = "\n".join(f"http://localhost:{port}/{number}" for number in range(200))
    fetched = builder.fetch(
        f"{away}\n{forge.address}/some.git", DIB_CACHE_GIT_JOBS="4", DIB_CACHE_GIT_BACKOFF="0.2"
    )
    assert "1 new, 200 missing" in fetched.log
    assert fetched.log.count("Connection refused") < 20
    assert "localhost does not answer" in fetched.log


def test_without_a_network_the_cache_has_to_do(forge: Forge, builder: Builder) -> None:
    builder.fetch(f"{forge.address}/some.git")
    forge.asked.clear()
    fetched = builder.fetch(f"{forge.address}/some.git\n{forge.address}/other.git", DIB_OFFLINE="1")
    assert "1 unchanged, 1 missing" in fetched.log
    assert forge.asked == []
    assert git("rev-parse", "main", at=fetched.at("127.0.0.1/some"))


# A cache that is not what it was.


def test_a_truncated_copy_is_made_anew(forge: Forge, builder: Builder) -> None:
    builder.fetch(f"{forge.address}/some.git")
    pack = next(cached(builder)[0].glob("objects/pack/*.pack"))
    pack.chmod(0o644)
    os.truncate(pack, pack.stat().st_size - 5)
    fetched = builder.fetch(f"{forge.address}/some.git")
    assert "is damaged, and is made anew" in fetched.log
    assert "1 new" in fetched.log
    assert git("fsck", "--full", at=fetched.at("127.0.0.1/some")) == ""


def test_a_flipped_bit_is_found_when_the_whole_is_read(forge: Forge, builder: Builder) -> None:
    # In a file's content, which nothing else looks at.
    forge.commit("some", {"file": os.urandom(30_000).hex()})
    builder.fetch(f"{forge.address}/some.git")
    pack = next(cached(builder)[0].glob("objects/pack/*.pack"))
    content = bytearray(pack.read_bytes())
    content[len(content) // 2] ^= 1
    pack.chmod(0o644)
    pack.write_bytes(content)
    assert "1 unchanged" in builder.fetch(f"{forge.address}/some.git").log
    fetched = builder.fetch(f"{forge.address}/some.git", DIB_CACHE_GIT_CHECK_DAYS="0")
    assert "is damaged, and is made anew" in fetched.log
    assert git("fsck", "--full", at=fetched.at("127.0.0.1/some")) == ""


@pytest.mark.parametrize("lost", ["HEAD", "known", "packed-refs", "objects", "refs"])
def test_a_copy_that_lost_a_part_is_made_anew_or_mended(forge: Forge, builder: Builder, lost: str) -> None:
    builder.fetch(f"{forge.address}/some.git")
    path = cached(builder)[0] / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    fetched = builder.fetch(f"{forge.address}/some.git")
    assert fetched.code == 0, fetched.log
    assert git("rev-parse", "main", at=fetched.at("127.0.0.1/some")) == git(
        "rev-parse", "main", at=forge.repository("some")
    )
    assert git("fsck", "--full", at=fetched.at("127.0.0.1/some")) == ""


def test_what_a_killed_build_left_is_cleared_away(forge: Forge, builder: Builder) -> None:
    builder.fetch(f"{forge.address}/some.git")
    repository = cached(builder)[0]
    half = builder.cache / "new" / repository.name.removesuffix(".git")
    shutil.copytree(repository, half)
    (half / "HEAD").unlink()
    (builder.cache / "new" / "somebody-else").mkdir()
    (repository / "packed-refs.lock").touch()
    (repository / "objects" / "pack" / "tmp_pack_x").touch()
    forge.commit("some", {"file": "2\n"})

    fetched = builder.fetch(f"{forge.address}/some.git")

    assert "1 updated" in fetched.log
    assert list((builder.cache / "new").iterdir()) == []
    assert not (repository / "objects" / "pack" / "tmp_pack_x").exists()


def test_a_build_that_is_killed_while_it_clones_leaves_nothing_that_looks_whole(
    forge: Forge, builder: Builder
) -> None:
    forge.held.clear()
    started = builder.start(f"{forge.address}/some.git")
    assert forge.waiting.wait(LIMIT)
    os.killpg(started.process.pid, signal.SIGKILL)
    started.process.communicate()
    assert cached(builder) == []
    forge.held.set()
    assert "1 new" in builder.fetch(f"{forge.address}/some.git").log


def test_builds_at_the_same_time_share_the_cache(forge: Forge, builder: Builder) -> None:
    names = [f"repository{number}" for number in range(8)]
    for name in names:
        forge.commit(name, {"file": name})
    addresses = "\n".join(f"{forge.address}/{name}.git" for name in names)
    started = [builder.start(addresses) for _ in range(3)]
    for one in started:
        log, _ = one.process.communicate(timeout=LIMIT)
        assert one.process.returncode == 0, log
        for name in names:
            assert git("fsck", "--full", at=one.stage / "127.0.0.1" / name) == ""
    clones = [path for path in forge.asked if path.endswith("/info/refs?service=git-upload-pack")]
    assert len(clones) == len(names)


def test_what_no_image_wants_goes_when_it_is_old(forge: Forge, builder: Builder) -> None:
    forge.commit("left", {"file": "1\n"})
    builder.fetch(f"{forge.address}/some.git\n{forge.address}/left.git")
    (left,) = (repository for repository in cached(builder) if "left" in repository.name)
    builder.fetch(f"{forge.address}/some.git", DIB_CACHE_GIT_KEEP_DAYS="3")
    assert left.exists()
    long_ago = time.time() - 4 * 86400
    os.utime(left / "known", (long_ago, long_ago))
    fetched = builder.fetch(f"{forge.address}/some.git", DIB_CACHE_GIT_KEEP_DAYS="3")
    assert not left.exists()
    assert "is out of the cache" in fetched.log
    assert len(cached(builder)) == 1


# Hostility.


def test_passwords_open_doors_and_are_seen_nowhere(forge: Forge, builder: Builder) -> None:
    forge.login = "Basic " + base64.b64encode(b"me:s3cr%t").decode()
    address = f"http://me:s3cr%25t@127.0.0.1:{forge.port}"
    # The second is fetched by git itself, for it has to be asked another way first.
    fetched = builder.fetch(f"{address}/some.git\n{address}/none.git")
    assert "1 new, 1 missing" in fetched.log
    files = [path for place in (builder.cache, fetched.stage) for path in place.rglob("*") if path.is_file()]
    everything = [fetched.log.encode(), fetched.heads.read_bytes(), *(path.read_bytes() for path in files)]
    assert not [text for text in everything if b"s3cr" in text or b"me:" in text]

    # A slash is quoted in an address, but not by everybody.
    wrong = builder.fetch(
        f"http://me:wr0ng@127.0.0.1:{forge.port}/some.git x/y\n"
        f"http://me:wr0ng/st@127.0.0.1:{forge.port}/some.git"
    )
    assert "1 missing, 1 refused" in wrong.log
    assert "wr0ng" not in wrong.log
    assert "/st" not in wrong.log


REFUSED = (
    "{forge}/../outside.git",
    "{forge}/a/../../outside.git",
    "{forge}/some.git ../outside",
    "{forge}/some.git /etc/outside",
    "{forge}/some.git a/.git/hooks",
    "{forge}/some.git a/.GIT",
    "{forge}/some.git -rf",
    "{forge}/%2e%2e/outside.git",
    "{forge}/some.git\x1b[2J",
    "{forge}/-oProxyCommand=touch",
    "--upload-pack=touch /tmp/x",
    "-u touch",
    "ext::sh -c touch",
    "ssh://-oProxyCommand=touch/some.git",
    "ssh://-x@host/some.git",
    "file://{directory}/some.git",
    "{directory}/some.git",
    "some.git",
    "me@host:some.git",
    "http://",
    "http://[::1",
    "http://host:port/some.git",
    "{forge}/some.git?x=y",
    "{forge}/some.git;touch",
    "{forge}/$(touch)/some.git",
)
REFUSED_IN_YAML = (
    '- {{url: "{forge}/some.git", hooks: x}}',
    "- {{url: [a]}}",
    "- [a, b]",
    '- "{forge}/a b c"',
    "- 1",
    '- "{forge}/some.git\\n../outside"',
)


@pytest.mark.parametrize("entries", [REFUSED, REFUSED_IN_YAML], ids=["lines", "yaml"])
def test_entries_that_are_not_plainly_a_repository_are_refused(
    forge: Forge, builder: Builder, tmp_path: Path, entries: tuple[str, ...]
) -> None:
    text = "\n".join(entries).format(forge=forge.address, directory=forge.directory)
    # The first line tells lines from YAML.
    fetched = builder.fetch(text)
    assert fetched.code == 1
    assert fetched.log.count(" is refused: ") == len(entries)
    assert "\x1b" not in fetched.log
    assert forge.asked == []
    assert not [path for path in tmp_path.rglob("*") if "outside" in path.name]
    assert list(fetched.stage.iterdir()) == []


def test_two_that_want_one_place_are_told(forge: Forge, builder: Builder) -> None:
    forge.commit("other", {"file": "1\n"})
    fetched = builder.fetch(
        f"{forge.address}/some.git\n{forge.address}/other.git 127.0.0.1/some\n{forge.address}/some"
    )
    assert fetched.log.count("goes to 127.0.0.1/some already") == 2
    same = builder.fetch(f"{forge.address}/some.git\n{forge.address}/some.git", DIB_CACHE_GIT_BROKEN="error")
    assert same.code == 0, same.log


def test_nothing_in_a_repository_runs_on_the_builder(forge: Forge, builder: Builder, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    forge.commit(
        "evil",
        {
            ".gitattributes": "* filter=mark diff=mark merge=mark\n",
            ".gitmodules": f'[submodule "x"]\n\tpath = x\n\turl = ext::sh -c "touch {mark}"\n',
            ".gitconfig": f"[core]\n\tfsmonitor = touch {mark}\n",
            "hooks/post-checkout": f"#!/bin/sh\ntouch {mark}\n",
        },
    )
    # And what this machine's user has set up for work of another kind.
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("reference-transaction", "post-checkout", "post-merge", "pre-auto-gc"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {mark}\n")
        (hooks / name).chmod(0o755)
    (tmp_path / ".gitconfig").write_text(
        f"[core]\n\thooksPath = {hooks}\n\tfsmonitor = touch {mark}\n"
        f'[filter "mark"]\n\tsmudge = touch {mark}\n[init]\n\ttemplateDir = {hooks}\n'
    )
    fetched = builder.fetch(f"{forge.address}/evil.git")
    forge.commit("evil", {"file": "2\n"})
    assert "1 updated" in builder.fetch(f"{forge.address}/evil.git").log
    assert not mark.exists()
    assert list((fetched.at("127.0.0.1/evil") / ".git").glob("hooks")) == []
    # Its files are in its history only.
    assert [path.name for path in fetched.at("127.0.0.1/evil").iterdir()] == [".git"]


def test_a_server_can_not_lead_to_another_protocol(forge: Forge, builder: Builder) -> None:
    forge.moved["/some.git"] = f"file://{forge.directory}/some.git"
    fetched = builder.fetch(f"{forge.address}/some.git")
    assert fetched.code == 1
    assert "1 missing" in fetched.log


def test_a_flood_ends_at_the_limit(forge: Forge, builder: Builder) -> None:
    forge.commit("large", {"file": os.urandom(300_000).hex()})
    fetched = builder.fetch(
        f"{forge.address}/some.git\n{forge.address}/large.git",
        DIB_CACHE_GIT_MAX_MB="0.1",
        DIB_CACHE_GIT_TRIES="1",
    )
    assert "1 new, 1 missing" in fetched.log
    assert list(builder.cache.rglob("tmp_pack*")) == []


# The hooks: from the cache into the image.


class Image:
    """A directory that stands for an image, and the hooks of the element."""

    def __init__(self, place: Path) -> None:
        self.root, self.hooks, self.place = place / "root", place / "hooks", place
        self.root.mkdir()
        self.hooks.mkdir()
        for element in ("cache-stage", "cache-git"):
            copy_hooks(ELEMENTS / element, self.hooks)

    def build(self, repositories: str, **environment: str) -> str:
        """Run the hook that fills it; what it says."""
        return run_parts(
            self.hooks,
            "extra-data",
            {
                "PATH": os.environ["PATH"],
                "HOME": str(self.place),
                "DIB_IMAGE_CACHE": str(self.place / "cache"),
                "DIB_PYTHON_EXEC": sys.executable,
                "DIB_CACHE_GIT_REPOSITORIES": repositories,
                "DIB_CACHE_GIT_TRIES": "1",
                "IMAGE_NAME": str(self.place / "image"),
                "TMP_HOOKS_PATH": str(self.hooks),
                "TMP_MOUNT_PATH": str(self.root),
                **environment,
            },
        )


def test_the_image_gets_files_of_its_own_and_no_trace_of_the_last_run(forge: Forge, tmp_path: Path) -> None:
    image = Image(tmp_path)
    image.build(f"{forge.address}/some.git", DIB_DEBUG_TRACE="1")
    forge.commit("some", {"file": "2\n"})
    said = image.build(f"{forge.address}/some.git")

    assert "1 updated" in said
    repository = image.root / "opt" / "git" / "127.0.0.1" / "some"
    assert git("-c", "safe.directory=*", "fsck", "--full", at=repository) == ""
    packs = list(repository.glob(".git/objects/pack/*.pack"))
    assert len(packs) == 1
    assert [pack.stat().st_nlink for pack in packs] == [1]
    assert (image.root / "usr/share/cache-git/heads.json").read_text() == (
        tmp_path / "image.d/cache-git/heads.json"
    ).read_text()
    assert list((tmp_path / "cache" / "cache-git").glob("stage-*")) == []


@pytest.mark.parametrize(
    "link",
    [
        *("opt", "opt/git", "opt/git/127.0.0.1", "opt/git/127.0.0.1/some"),
        *("usr/share/cache-git", "usr/share/cache-git/heads.json"),
    ],
)
def test_a_link_in_the_image_leads_nowhere(forge: Forge, tmp_path: Path, link: str) -> None:
    image = Image(tmp_path)
    outside = tmp_path / "outside"
    outside.mkdir()
    (image.root / link).parent.mkdir(parents=True, exist_ok=True)
    (image.root / link).symlink_to(outside)
    with pytest.raises(AssertionError, match="is a link, or below one"):
        image.build(f"{forge.address}/some.git")
    assert list(outside.iterdir()) == []


def test_the_benchmark_measures_and_compares(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(BENCH), "--repositories", "3", "--changed", "1", "--work", str(tmp_path), "--json"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found.keys() == {"cold", "unchanged", "changed", "image"}
    for metric in found.values():
        assert metric["unit"] == "s"
        # Both are rounded to hundredths, and so few repositories take but tenths.
        lowest = (metric["ours"] - 0.006) / (metric["baseline"] + 0.006)
        highest = (metric["ours"] + 0.006) / (metric["baseline"] - 0.006)
        assert lowest <= metric["ratio"] <= highest
    assert "3 repositories, 1 of them changed" in done.stderr
    assert list(tmp_path.iterdir()) == []


@contextmanager
def daemon(directory: Path) -> Iterator[int]:
    """A git daemon; its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        ["git", "daemon", f"--base-path={directory}", "--export-all", "--listen=127.0.0.1", f"--port={port}"],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + LIMIT
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
        yield port
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
