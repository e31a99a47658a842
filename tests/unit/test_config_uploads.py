"""What a configuration says of uploads: where images go, how, who sees them there, and for how long."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from builder.config.model import ArtifactServer, BreakerPolicy, Sharing
from tests.unit.config_world import Files

MIB = 1 << 20


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_how_long_images_stay_is_said_once_and_can_be_said_again_nearer_to_the_cloud(files: Files) -> None:
    config = files.load(
        """\
        keep: 3
        keep-days: 7
        diskimages:
          - {name: plain}
          - {name: own, keep: 4, keep-days: 0.5}
        providers:
          - {name: p, cloud: beta, diskimages: [{name: plain}, {name: own}]}
          - {name: q, cloud: beta, keep: 1, keep-days: 1, diskimages: [{name: own}, {name: plain, keep: 9}]}
        """
    )
    assert {i.name: (i.keep, i.keep_for) for i in config.diskimages.values()} == {
        "plain": (3, timedelta(days=7)),
        "own": (4, timedelta(hours=12)),
    }
    there = {
        (p.name, i.diskimage): (i.keep, i.keep_for)
        for p in config.providers.values()
        for i in p.images.values()
    }
    assert there == {
        ("p", "plain"): (3, timedelta(days=7)),
        ("p", "own"): (4, timedelta(hours=12)),
        ("q", "own"): (1, timedelta(days=1)),
        ("q", "plain"): (9, timedelta(days=1)),
    }


def test_a_provider_s_entry_says_who_finds_an_image_there(files: Files) -> None:
    config = files.load(
        """\
        diskimages:
          - {name: a, visibility: shared, members: [m1, m2], tags: [t], hidden: true}
        providers:
          - {name: as-it-is, cloud: beta, diskimages: [{name: a}]}
          - {name: public, cloud: beta, diskimages: [{name: a, visibility: public, tags: []}]}
          - {name: others, cloud: beta, diskimages: [{name: a, members: [m3], hidden: false}]}
        """
    )
    there = {p.name: p.images["a"].sharing for p in config.providers.values()}
    assert there == {
        "as-it-is": Sharing(visibility="shared", members=("m1", "m2"), tags=("t",), hidden=True),
        "public": Sharing(visibility="public", hidden=True),
        "others": Sharing(visibility="shared", members=("m3",), tags=("t",)),
    }


def test_a_platform_describes_its_images_and_a_diskimage_has_the_last_word(files: Files) -> None:
    config = files.load(
        """\
        platforms:
          - name: p
            distribution: debian
            release: bookworm
            architecture: arm64
            properties: {os_version: 12, hw_firmware_type: uefi}
        diskimages:
          - {name: a, platform: p}
          - {name: b, platform: p, metadata: {os_distro: devuan, owner: ci}}
          - {name: c}
        """
    )
    described = {
        "os_type": "linux",
        "os_distro": "debian",
        "os_version": "12",
        "architecture": "aarch64",
        "hw_firmware_type": "uefi",
    }
    assert config.diskimages["a"].metadata == described
    assert config.diskimages["b"].metadata == {**described, "os_distro": "devuan", "owner": "ci"}
    assert config.diskimages["c"].metadata == {}


def test_limits_breakers_hooks_and_the_artifact_server_are_taken_as_written(files: Files) -> None:
    config = files.load(
        """\
        upload-bandwidth: 100M
        upload-breaker: {failures: 1, first: 10}
        artifact-server: {url: "http://192.0.2.7/images"}
        leak-sweep: 90
        adopt-nodepool: true
        providers:
          - name: p
            cloud: beta
            bandwidth: 10M
            max-uploads: 4
            rate: 0.5
            upload-method: put
            download-url: https://cdn.example/x
            post-upload-hook: hooks/check
            post-upload-hook-timeout: 30
        """
    )
    assert config.upload_bandwidth == 100 * MIB
    assert config.upload_breaker == BreakerPolicy(failures=1, first=timedelta(seconds=10))
    assert config.artifact_server == ArtifactServer(host="127.0.0.1", port=0, url="http://192.0.2.7/images/")
    assert (config.leak_sweep, config.adopt_nodepool) == (timedelta(seconds=90), True)
    provider = config.providers["p"]
    assert (provider.bandwidth, provider.max_uploads, provider.rate) == (10 * MIB, 4, 0.5)
    assert (provider.upload_method, provider.download_url) == ("put", "https://cdn.example/x/")
    assert provider.post_upload_hook == files.main.parent / "hooks/check"
    assert provider.hook_timeout == timedelta(seconds=30)


def test_what_is_not_said_leaves_things_as_nodepool_had_them_but_without_a_pause_between_requests(
    files: Files,
) -> None:
    config = files.load("providers: [{name: p, cloud: beta}]")
    provider = config.providers["p"]
    assert (provider.max_uploads, provider.rate, provider.bandwidth) == (1, 0.0, None)
    assert (provider.upload_method, provider.post_upload_hook) == ("auto", None)
    assert (config.upload_bandwidth, config.artifact_server, config.adopt_nodepool) == (None, None, False)


PROVIDER = "providers:\n- name: p\n  cloud: beta\n  "
PROBLEMS = {
    "an unknown way": (
        f"{PROVIDER}upload-method: puut",
        "4: providers[0].upload-method: there is no way 'puut'; did you mean 'put'?",
    ),
    "adopting is no way by itself": (
        f"{PROVIDER}upload-method: adopt",
        "4: providers[0].upload-method: there is no way 'adopt'; known: auto, glance-direct, put, tasks,"
        " web-download",
    ),
    "a bandwidth in the wrong unit": (
        f"{PROVIDER}bandwidth: 10",
        "4: providers[0].bandwidth: must be at least 1024 bytes per second, not 10",
    ),
    "a bandwidth that is none": (
        "upload-bandwidth: fast",
        "1: upload-bandwidth: a size is a number of bytes, or one with K, M, G or T as in '20G', not 'fast'",
    ),
    "a URL without a scheme": (
        f"{PROVIDER}download-url: images.example",
        "4: providers[0].download-url: must be a URL as in 'https://images.example/files/',"
        " not 'images.example'",
    ),
    "an empty hook": (
        f"{PROVIDER}post-upload-hook: ' '",
        "4: providers[0].post-upload-hook: must name a program",
    ),
    "where the artifact server can't listen": (
        "artifact-server:\n  listen: 8014\n  url: https://images.example",
        "2: artifact-server.listen: must be text, not number 8014; put it in quotes",
    ),
    "a port that is none": (
        "artifact-server:\n  listen: 'here:99999'\n  url: https://images.example",
        "2: artifact-server.listen: must be an address and a port, as in '127.0.0.1:8014', not 'here:99999'",
    ),
    "an artifact server that nobody reaches": (
        "artifact-server: {}",
        "1: artifact-server.url: is required",
    ),
    "a breaker whose waits shrink": (
        "upload-breaker: {first: 60, longest: 10}",
        "1: upload-breaker.longest: must not be less than `first`, 60 s",
    ),
    "members of a private image": (
        "diskimages:\n- name: a\n  members: [abc]",
        "3: diskimages[0].members: only a shared image has members; this one is private"
        " (say `visibility: shared`)",
    ),
    "a member that is a name": (
        "diskimages:\n- name: a\n  visibility: shared\n  members: [my project]",
        "4: diskimages[0].members[0]: 'my project' is no id of a project:"
        " `openstack project show NAME -c id` tells it",
    ),
    "an empty tag there": (
        f"diskimages: [{{name: a}}]\n{PROVIDER}diskimages:\n  - name: a\n    tags: ['']",
        "7: providers[0].diskimages[0].tags[0]: a tag has 1 to 255 characters in a cloud, this one has 0",
    ),
    "a stable name that is too long": (
        f"diskimages:\n- name: a\n  stable-name: {'x' * 256}",
        "3: diskimages[0].stable-name: what an image is known by has 1 to 255 characters in a cloud,"
        " this one has 256",
    ),
    "two images with one stable tag": (
        "diskimages: [{name: a, stable-tag: t}, {name: b, stable-tag: t}]\n"
        f"{PROVIDER}diskimages: [{{name: a}}, {{name: b}}]",
        "5: providers[0].diskimages: a and b have the same stable-tag, 't'",
    ),
    "a promotion nobody knows": (
        "diskimages:\n- name: a\n  promote: most",
        "3: diskimages[0].promote: must be 'each', 'all', 'manual', a number of providers from 1 on, or a"
        " mapping with `canary`, not 'most'",
    ),
}


@pytest.mark.parametrize(("text", "problem"), PROBLEMS.values(), ids=PROBLEMS.keys())
def test_what_is_wrong_is_told_with_its_place(files: Files, text: str, problem: str) -> None:
    assert files.problems(text) == [f"imagepool.yaml:{problem}"]
