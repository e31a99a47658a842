"""The element cache-bindep, with cache-git and cache-files: what jobs find in an image, and do with it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.elements.git_world import LIMIT, PROJECT, Forge, served
from tests.elements.trees import Tree, Trees

#: Where the modules of the program are.
_MODULES = tuple(PROJECT / "elements" / name / name for name in ("cache-bindep", "cache-stage"))
PROJECTS = {
    "one": {
        "bindep.txt": "jq [platform:dpkg]\nfiglet [platform:dpkg test]\n"
        "not-a-package\nonly-rpm [platform:rpm]\n",
    },
    "two": {"other-requirements.txt": "sl\n"},
    # Of these two only one can be installed.
    "both": {"bindep.txt": "nullmailer\ndma\n"},
    "virtual": {"bindep.txt": "libjq-dev\n# nobody is this, but one package provides it\ndhcpcd\n"},
    "evil": {"bindep.txt": "systemd-\nlibx.1\n/etc/passwd\n"},
    "worse": {"bindep.txt": "; touch /hostile\n"},
    "none": {"README": "no such file\n"},
}
HELLO = b"#!/bin/sh\necho hello\n"


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forge]:
    """A server with the projects."""
    directory = tmp_path_factory.mktemp("forge")
    with served(Forge(directory)) as world:
        for name, files in PROJECTS.items():
            world.commit(name, files)
        world.texts["/hello"] = HELLO
        yield world


@pytest.fixture(scope="module")
def image(trees: Trees, forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A Debian image with the projects, the packages that they ask for, and a file."""
    fallback = tmp_path_factory.mktemp("fallback") / "fallback.txt"
    fallback.write_text("hello [platform:dpkg]\n")
    checksum = hashlib.sha256(HELLO).hexdigest()
    return trees.build(
        "cache-bindep",
        "cache-files",
        environment={
            "DIB_CACHE_GIT_REPOSITORIES": "\n".join(f"{forge.address}/{name}.git" for name in PROJECTS),
            "DIB_CACHE_GIT_OWNER": "backup",
            "DIB_CACHE_BINDEP_FALLBACK": str(fallback),
            "DIB_CACHE_FILES": f"{forge.address}/hello sha256:{checksum} bin/hello 755",
        },
    )


@pytest.fixture
def job(trees: Trees, image: Tree) -> Iterator[Tree]:
    """The image, to run a job in: with a mirror that is not the builder's, of which nothing is known."""
    with trees.changeable(image) as tree:
        shutil.rmtree(tree.root / "var/lib/apt/lists")
        (tree.root / "var/lib/apt/lists/partial").mkdir(parents=True)
        yield tree


def project(tree: Tree, **files: str) -> str:
    """A project's directory in the image, with files by name, of which _ stands for a dot."""
    directory = tree.root / "project"
    directory.mkdir(exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("_", ".")).write_text(text)
    return "/project"


def offline(tree: Tree, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run install-distro-packages where there is no network at all."""
    return tree.run("unshare", "--net", "install-distro-packages", *arguments, check=check)


def installed(tree: Tree) -> set[str]:
    """The packages of the image."""
    return set(tree.run("dpkg-query", "--show", "--showformat=${Package}\n").stdout.split())


def archives(tree: Tree) -> set[str]:
    """The packages in apt's cache."""
    return {path.name.split("_")[0] for path in (tree.root / "var/cache/apt/archives").glob("*.deb")}


# What is in the image.


def test_packages_of_all_profiles_are_there_with_what_they_need_and_are_not_installed(image: Tree) -> None:
    wanted = {"jq", "libjq1", "libonig5", "figlet", "sl", "hello", "nullmailer", "dma", "libjq-dev"}
    assert wanted <= archives(image)
    assert not wanted & installed(image)


def test_what_can_not_be_had_is_a_note(image: Tree) -> None:
    assert "cache-bindep: note: not-a-package is not known to this platform" in image.log
    assert "cache-bindep: note: 'systemd-' is no name of a package of this platform" in image.log
    assert "cache-bindep: note: libx.1 is not known to this platform" in image.log
    assert "cache-bindep: WARNING: bindep.txt of 127.0.0.1/worse: bindep can't read it" in image.log
    assert "only-rpm" not in image.log


def test_it_is_told_who_asks_for_what(image: Tree) -> None:
    report = json.loads((image.beside / "cache-bindep" / "report.json").read_text())
    assert report["127.0.0.1/one"]["packages"] == ["figlet", "jq", "not-a-package"]
    assert report["127.0.0.1/two"]["file"] == "other-requirements.txt"
    assert report["127.0.0.1/worse"]["trouble"]
    assert "127.0.0.1/none" not in report


def test_no_mirror_is_named_in_what_is_kept(image: Tree) -> None:
    sources = image.read("/etc/apt/sources.list").split()
    hosts = {word.split("/")[2].encode() for word in sources if "://" in word}
    kept = [path for path in (image.root / "var/cache/cache-bindep").rglob("*") if path.is_file()]
    assert hosts
    assert kept
    assert not [
        path
        for path in kept
        if any(host in path.read_bytes() or host.decode() in path.name for host in hosts)
    ]


def test_bindep_is_apart_from_the_python_of_the_system(image: Tree) -> None:
    assert image.run("bindep", "--version").stdout.startswith("bindep ")
    assert "platform:debian-bookworm" in image.run("bindep", "--profiles", "--file=/dev/null").stdout
    assert image.run("python3", "-c", "import bindep", check=False).returncode == 1
    assert not list((image.root / "usr/local/lib").rglob("*.pyc"))


def test_jobs_run_as_somebody_who_can_clone_what_is_there(image: Tree, trees: Trees) -> None:
    with trees.changeable(image) as tree:
        tree.run("install", "-d", "-o", "backup", "/work")
        tree.run("runuser", "-u", "backup", "--", "git", "clone", "-q", "/opt/git/127.0.0.1/one", "/work/one")
        assert tree.read("/work/one/bindep.txt") == PROJECTS["one"]["bindep.txt"]
        owners = tree.run("find", "/opt/git", "-printf", "%U\n").stdout.split()
        assert len(set(owners)) == 1


def test_commits_are_told_in_the_image_and_beside_it(image: Tree) -> None:
    assert (
        image.read("/usr/share/cache-git/heads.json") == (image.beside / "cache-git/heads.json").read_text()
    )
    assert set(json.loads(image.read("/usr/share/cache-git/heads.json"))) == {
        f"127.0.0.1/{name}" for name in PROJECTS
    }


def test_files_are_where_they_shall_be(image: Tree) -> None:
    assert image.run("/opt/cache/files/bin/hello").stdout == "hello\n"
    status = (image.root / "opt/cache/files/bin/hello").stat()
    assert (status.st_mode & 0o7777, status.st_uid) == (0o755, 0)


def test_nothing_else_is_left(image: Tree) -> None:
    assert {path.name for path in (image.root / "var/cache/cache-bindep").iterdir()} == {
        "Packages",
        "lists",
        "offline.list",
    }
    assert {path.name for path in (image.root / "opt/cache").rglob("*")} == {"files", "bin", "hello"}
    assert {path.name for path in (image.root / "opt/git").iterdir()} == {"127.0.0.1"}


# What a job does with it.


def test_a_job_gets_what_its_project_asks_for_without_a_network(job: Tree) -> None:
    directory = project(job, bindep_txt=PROJECTS["one"]["bindep.txt"].replace("not-a-package\n", ""))
    done = offline(job, directory)
    assert "installed from what this image has cached" in done.stderr
    assert {"jq", "libjq1", "libonig5"} <= installed(job)
    assert "figlet" not in installed(job)

    assert offline(job, directory, "test").returncode == 0
    assert job.run("figlet", "-f", "mini", "x").stdout.strip()
    assert (
        "everything that /project/bindep.txt asks for is installed" in offline(job, directory, "test").stderr
    )
    assert list((job.root / "var/lib/apt/lists").iterdir()) == [job.root / "var/lib/apt/lists/partial"]


def test_two_that_can_not_live_together_are_each_to_be_had(job: Tree) -> None:
    offline(job, project(job, bindep_txt="dma\n"))
    assert "dma" in installed(job)
    offline(job, project(job, bindep_txt="nullmailer\n"))
    assert "nullmailer" in installed(job)


def test_a_project_without_a_list_gets_the_images(job: Tree) -> None:
    assert "fallback.txt is used" in offline(job, project(job)).stderr
    assert job.run("hello").stdout == "Hello, world!\n"


def test_what_is_not_cached_comes_from_the_mirror(job: Tree) -> None:
    directory = project(job, bindep_txt="rolldice\nsl\n")
    away = offline(job, directory, check=False)
    assert away.returncode == 1
    assert "not known to this platform: rolldice sl" in away.stderr
    assert "sl" not in installed(job)

    done = job.run("install-distro-packages", directory)
    assert "installed with what the mirrors have" in done.stderr
    assert {"rolldice", "sl"} <= installed(job)


def test_packages_that_were_cleaned_away_are_missed_and_not_half_installed(job: Tree) -> None:
    job.run("apt-get", "clean")
    done = offline(job, project(job, bindep_txt="jq\n"), check=False)
    assert done.returncode == 1
    assert "ERROR" in done.stderr
    assert not {"jq", "libjq1"} & installed(job)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("systemd-\n", 2),
        ("/etc/passwd\n", 2),
        ("libx.1\n", 1),
        ("jq/stable\n", 2),
        ("; touch /hostile\n", 2),
        ("http://mirror.example/x.deb\n", 2),
    ],
)
def test_a_file_can_do_no_more_than_name_packages(job: Tree, text: str, code: int) -> None:
    before = installed(job)
    done = offline(job, project(job, bindep_txt=text), check=False)
    assert done.returncode == code, done.stderr
    assert "install-distro-packages: ERROR: " in done.stderr
    assert installed(job) == before
    assert not (job.root / "hostile").exists()


def test_modules_of_the_project_are_not_taken_for_pythons(job: Tree) -> None:
    where = project(job, bindep_txt="")
    for name in ("re", "json", "runpy", "subprocess", "distro_packages"):
        (job.root / where.lstrip("/") / f"{name}.py").write_text("raise SystemExit('of the project')\n")
    done = job.run(
        "sh", "-c", f"cd {where} && PYTHONPATH={where} install-distro-packages --list", check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_a_directory_that_is_none_is_told(job: Tree) -> None:
    assert offline(job, "/nonexistent", check=False).returncode == 2


# What repositories ask for, on any platform.


def asked(
    image: Tree,
    place: Path,
    files: Mapping[str, Mapping[str, str]],
    *,
    release: str = 'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n',
    heads: Mapping[str, object] | None = None,
    **environment: str,
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """List what repositories with these files ask for on a system with that os-release; where it is left."""
    forge = Forge(place / "forge")
    cache, out, system = place / "cache", place / "out", place / "system"
    listed = dict(heads or {})
    for directory in (forge.directory, cache, out, system / "etc"):
        directory.mkdir(parents=True, exist_ok=True)
    for name, texts in files.items():
        listed[name] = {"commit": forge.commit(f"{name}/", texts)}
    (place / "heads.json").write_text(json.dumps(listed))
    (system / "etc" / "os-release").write_text(release)
    (place / "fallback").write_text("make\n")
    kept = cache / f"bindep-{hashlib.sha256(b'bindep').hexdigest()[:16]}.pyz"
    if not kept.exists():
        shutil.copy(image.root / "usr/local/bin/bindep", kept)
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-B",
                "-m",
                "project_packages",
                str(place / "heads.json"),
                str(forge.directory),
            ),
            *(str(system), str(place / "fallback"), str(cache), str(out)),
        ],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": ":".join(map(str, _MODULES)), **environment},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    return done, out


FAMILIES = (
    "all\nrpm [platform:rpm]\ndpkg [platform:dpkg]\nredhat [platform:redhat]\nnoble [platform:ubuntu-noble]\n"
    "nine [platform:rocky-9]\neuler [platform:openeuler]\nnever [platform:suse]\ndocs [doc]\n"
    "both [(one two)]\nunless [!doc]\n"
)


@pytest.mark.parametrize(
    ("release", "names"),
    [
        ('ID=ubuntu\nVERSION_ID="24.04"\nVERSION_CODENAME=noble\n', {"dpkg", "noble"}),
        ('ID="rocky"\nVERSION_ID="9.6"\n', {"rpm", "redhat", "nine"}),
        ('ID="almalinux"\nVERSION_ID="10.0"\n', {"rpm", "redhat"}),
        ("ID=fedora\nVERSION_ID=43\n", {"rpm", "redhat"}),
        ('ID="centos"\nVERSION_ID="10"\n', {"rpm", "redhat"}),
        ('ID="openEuler"\nVERSION_ID="24.03"\n', {"rpm", "redhat", "euler"}),
    ],
)
def test_the_platform_is_the_images(image: Tree, tmp_path: Path, release: str, names: set[str]) -> None:
    done, out = asked(image, tmp_path, {"a": {"bindep.txt": FAMILIES}}, release=release)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set((out / "packages").read_text().split()) == {"make", "all", "docs", "both", "unless", *names}


def test_only_what_is_new_is_looked_at(image: Tree, tmp_path: Path) -> None:
    files = {"a": {"bindep.txt": "gcc\n"}, "b": {"bindep.txt": "gcc\n"}, "c": {"README": "x"}}
    _, out = asked(image, tmp_path, files)
    assert (out / "packages").read_text() == "gcc\nmake\n"
    heads = json.loads((tmp_path / "heads.json").read_text())
    for name in ("b", "c"):
        # Who would read them now would fail.
        shutil.rmtree(tmp_path / "forge" / name)
    done, out = asked(image, tmp_path, {"a": {"bindep.txt": "g++\n"}}, heads=heads)
    assert "WARNING" not in done.stdout
    assert (out / "packages").read_text() == "g++\ngcc\nmake\n"


def test_files_that_are_not_right_are_told_and_left_out(image: Tree, tmp_path: Path) -> None:
    files = {
        "large": {"bindep.txt": "gcc\n" * 100_000},
        "deep": {"bindep.txt": "gcc [" + "(" * 5000 + "\n"},
        "both": {"bindep.txt": "one\n", "other-requirements.txt": "two\n"},
        "odd": {"bindep.txt": "für\nthree\n"},
    }
    done, out = asked(image, tmp_path, files)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (out / "packages").read_text().split() == ["make", "one", "three"]
    for name in ("large", "deep", "odd"):
        assert f"WARNING: bindep.txt of {name}: " in done.stdout


def test_an_old_bindep_will_do_when_there_is_no_index(image: Tree, tmp_path: Path) -> None:
    asked(image, tmp_path, {})
    (kept,) = (tmp_path / "cache").glob("bindep-*.pyz")
    long_ago = time.time() - 30 * 86400
    os.utime(kept, (long_ago, long_ago))
    done, _ = asked(image, tmp_path, {}, PIP_NO_INDEX="1", PIP_CONFIG_FILE="/dev/null")
    assert done.returncode == 0
    assert "WARNING: the bindep of last time is used: pip can't get bindep" in done.stdout
    done, _ = asked(
        image,
        tmp_path,
        {},
        PIP_NO_INDEX="1",
        PIP_CONFIG_FILE="/dev/null",
        DIB_CACHE_BINDEP_REQUIREMENT="bindep==2.14.0",
    )
    assert done.returncode == 1
    assert "ERROR: pip can't get bindep==2.14.0" in done.stdout


# The Red Hat family.

#: Four packages without files; one needs another.
SPEC = """Name: needed
Version: 1
Release: 1
Summary: x
License: Apache-2.0
BuildArch: noarch
%package -n wanted
Summary: x
Requires: needed
%description -n wanted
%files -n wanted
%package -n fallen
Summary: x
%description -n fallen
%files -n fallen
%package -n other
Summary: x
%description -n other
%files -n other
%description
%files
"""
#: Of the packages of its mirror all but one are signed by a key that the image has.
MIRROR = """
rpmbuild --quiet -bb --define "_topdir /mirror" /mirror.spec
gpg --batch --quiet --passphrase "" --quick-generate-key mirror rsa2048
mkdir -p /etc/pki/rpm-gpg
gpg --armor --export mirror > /etc/pki/rpm-gpg/RPM-GPG-KEY-mirror
cd /mirror/RPMS/noarch
rpm --define "_gpg_name mirror" --define "__gpg /usr/bin/gpg" --addsign wanted-1-1* needed-1-1* fallen-1-1*
createrepo_c --quiet /mirror/RPMS
rm /etc/yum.repos.d/*
printf "[mirror]\\nname=x\\nbaseurl=file:///mirror/RPMS\\ngpgcheck=0\\n" > /etc/yum.repos.d/mirror.repo
"""


@pytest.fixture(scope="module")
def redhat(trees: Trees, forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """An image that calls itself Rocky, with a project that asks for nothing."""
    fallback = tmp_path_factory.mktemp("fallback") / "fallback.txt"
    fallback.write_text("never [platform:dpkg]\n")
    return trees.build(
        "cache-bindep",
        family="redhat",
        environment={
            "DIB_CACHE_GIT_REPOSITORIES": f"{forge.address}/none.git",
            "DIB_CACHE_BINDEP_FALLBACK": str(fallback),
        },
    )


def test_the_red_hat_family_installs_from_a_repository_in_the_image(redhat: Tree, trees: Trees) -> None:
    with trees.changeable(redhat) as tree:
        (tree.root / "mirror.spec").write_text(SPEC)
        tree.run("bash", "-euc", MIRROR)
        (tree.root / "list").write_text(
            "absent\nfallen\nother\nwanted\n/mirror/RPMS/noarch/wanted-1-1.noarch.rpm\n"
        )
        place = "/usr/local/lib/cache-bindep"
        said = tree.run("python3", "-B", "-m", "distro_packages.fill", "/list", PYTHONPATH=place).stdout
        assert "note: No match for argument: absent" in said
        assert "note: '/mirror/RPMS/noarch/wanted-1-1.noarch.rpm' is no name of a package" in said
        shutil.rmtree(tree.root / "mirror")

        directory = project(tree, bindep_txt="wanted [platform:rpm]\nnever [platform:dpkg]\n")
        assert "installed from what this image has cached" in offline(tree, directory).stderr
        assert tree.run("rpm", "-q", "wanted", "needed").returncode == 0
        # Nobody has signed it.
        project(tree, bindep_txt="other\n")
        assert offline(tree, directory, check=False).returncode == 1
        (tree.root / "project" / "bindep.txt").unlink()
        (tree.root / "usr/share/cache-bindep/fallback.txt").write_text("fallen [platform:rocky-9]\n")
        offline(tree, directory)
        assert tree.run("rpm", "-q", "fallen").returncode == 0
        assert tree.run("rpm", "-q", "other", check=False).returncode == 1
