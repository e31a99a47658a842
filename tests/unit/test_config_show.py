"""`config show`: the configuration in force, with the keys of the file and without its secrets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from builder.config.model import MASK, Config
from builder.config.show import as_data
from tests.unit.config_world import Files

EVERYTHING = """\
state-dir: /var/state
cache-dir: /var/cache/imagepool
elements-dir: /a:/b
build-log-retention: 2
schedule: never
catch-up: 90
spread: 0.5
builder-labels: [two, one]
shutdown-grace: 0
embedded-zookeeper: open
failed-retention: 0.5
build-retries: {first: 1, longest: 2, limit: 3}
build-limits: {cpus: 1.5, memory: 4G, nice: 0, io: none}
build-log-limit: 0
cache-limit: 1.5T
disk-reserve: 1000000000000000001
keep-days: 1.5
upload-breaker: {failures: 2, first: 7, longest: 8}
upload-bandwidth: 100M
artifact-server: {listen: "[::1]:8014", url: "https://images.example/x"}
leak-sweep: 60
adopt-nodepool: true
zookeeper-servers:
  - {host: zk1, port: 1111, chroot: /x}
  - {host: "::1", chroot: /x}
zookeeper-tls: {cert: /c, key: /k, ca: /ca}
zookeeper-timeout: 4
platforms:
  - name: p
    distribution: debian
    release: bookworm
    mirror: host
    updates-mirror: https://mirror.example/updates
    keep-mirrors: true
    properties: {hw_machine_type: q35, os_version: 12}
    variables: {list: [1, a], git_token: hush}
diskimages:
  - name: base
    abstract: true
    elements: ["{{ platform.distribution }}-minimal"]
  - name: image
    parent: base
    platform: p
    rebuild-age: 60
    dib-cmd: sudo 'disk image create'
    shell-type: sh
    env-vars: {PLAIN: x}
    metadata: {a: b}
    keep: 4
    keep-days: 2
    visibility: shared
    members: [abc, def]
    tags: [one, two]
    hidden: true
    stable-name: the-{{ platform.release }}
    stable-tag: tagged
    promote: 2
    hide-old: true
    format-options:
      qcow2: {compression: zlib, compat: '0.10'}
      raw: {}
    delete-after-upload: true
    keep-formats: [vhd, qcow2]
    if-unchanged: skip
    max-age: 0.5
  - name: another
    schedule: [1 2 3 4 * Europe/Berlin, "@after image"]
    requires: []
    catch-up: 1
    pause: true
providers:
  - name: q
    cloud: alpha
    region-name: two
    upload-method: web-download
    download-url: http://192.0.2.1/files
    max-uploads: 3
    bandwidth: 1M
    rate: 0.5
    keep: 5
    keep-days: 0.5
    post-upload-hook: /usr/bin/check image
    post-upload-hook-timeout: 5
    diskimages:
      - {name: image, pause: true, meta: {c: d}, keep: 6, visibility: public, tags: [], hidden: false}
      - {name: another}
"""


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def without_secrets(config: Config) -> Config:
    platform = config.platforms["p"]
    masked = replace(platform, variables={**platform.variables, "git_token": MASK})
    images = {
        name: replace(image, platform=masked if image.platform else None)
        for name, image in config.diskimages.items()
    }
    return replace(config, platforms={"p": masked}, diskimages=images, abstract=frozenset())


def test_what_is_shown_means_the_same_when_it_is_loaded_again(files: Files) -> None:
    config = files.load(EVERYTHING)
    shown = yaml.safe_dump(as_data(config))
    assert files.load(shown) == without_secrets(config)


def test_a_file_that_says_nothing_shows_what_is_in_force(files: Files) -> None:
    shown = as_data(files.load("diskimages: [{name: a}]"))
    assert shown["build-limits"] == {"nice": 10, "io": "idle"}
    assert (shown["disk-reserve"], shown["cache-limit"]) == (2 << 30, 20 << 30)
    image = shown["diskimages"][0]
    assert (image["delete-after-upload"], image["if-unchanged"]) == (False, "build")
    assert not {"format-options", "keep-formats", "max-age"} & image.keys()


def test_what_is_shown_is_rendered(files: Files) -> None:
    image = as_data(files.load(EVERYTHING))["diskimages"][0]
    assert image["name"] == "image"
    assert image["elements"] == ["debian-minimal"]
    assert (image["schedule"], image["catch-up"], image["requires"]) == ("never", 90, ["amd64"])
    assert image["rebuild-age"] == 60
    assert image["formats"] == ["raw"]
    assert image["keep-formats"] == ["qcow2", "vhd"]
    assert image["format-options"] == {"qcow2": {"compression": "zlib", "compat": "0.10"}, "raw": {}}


def test_no_secret_is_shown(files: Files) -> None:
    files.write(
        "zookeeper-servers: [{host: zk}]\n"
        "platforms: [{name: p, distribution: d, release: r, variables: {api_key: sesame,"
        " db: [{password: sesame, in: {token: sesame}}]}}]\n"
        "diskimages: [{name: a, env-vars: {MY_TOKEN: sesame}, metadata: {admin_password: sesame}}]\n"
    )
    files.write_secure(
        "zookeeper-auth: {username: me, password: sesame}\n"
        "diskimages: [{name: a, env-vars: {INNOCENT: sesame}}]\n"
    )
    shown = as_data(files.load())
    assert "sesame" not in str(shown)
    assert shown["diskimages"][0]["env-vars"] == {"MY_TOKEN": MASK, "INNOCENT": MASK}
    assert shown["zookeeper-auth"] == {"username": "me", "password": MASK}


def test_no_credentials_of_a_url_are_shown(files: Files) -> None:
    url = "https://me:sesame@mirror.example/debian"
    shown = as_data(
        files.load(
            f"platforms: [{{name: p, distribution: d, release: r, mirror: '{url}', security-mirror: '{url}',"
            f" variables: {{a: [{{b: '{url}'}}]}}}}]\n"
            f"diskimages: [{{name: a, dib-cmd: 'x {url}', env-vars: {{X: 'see {url}'}},"
            f" metadata: {{m: '{url}'}}}}]\n"
        )
    )
    assert "sesame" not in str(shown)
    assert shown["platforms"][0]["mirror"] == f"https://{MASK}@mirror.example/debian"
    assert shown["diskimages"][0]["env-vars"] == {"X": MASK}


def test_who_may_reach_the_private_zookeeper_is_shown(files: Files) -> None:
    assert as_data(files.load(""))["embedded-zookeeper"] == "protected"
    assert as_data(files.load("embedded-zookeeper: open"))["embedded-zookeeper"] == "open"
