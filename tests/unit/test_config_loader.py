"""What a configuration means: defaults, inheritance, schedules, formats, secrets, places on disk."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest

from builder.config.model import (
    DEFAULT_SCHEDULE,
    BuildLimits,
    FormatOptions,
    RetryPolicy,
    ScheduleEntry,
    ZooKeeper,
    ZooKeeperTls,
)
from builder.config.show import as_data
from builder.model import ImageFormat
from tests.unit.config_world import Files

SHIPPED = Path(__file__).parents[2] / "config"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_an_empty_file_is_all_defaults(files: Files) -> None:
    config = files.load("")
    assert config.state_dir == Path("/var/lib/imagepool")
    assert config.images_dir == Path("/var/lib/imagepool/images")
    assert config.work_dir == Path("/var/lib/imagepool/work")
    assert config.cache_dir == Path("/var/lib/imagepool/cache")
    assert config.log_dir == Path("/var/lib/imagepool/logs")
    assert config.zookeeper is None
    assert not config.embedded_open
    assert config.diskimages == {}
    assert (config.build_workers, config.upload_workers, config.log_retention) == (1, 4, 7)


def test_the_shipped_configuration_has_an_image_for_each_platform_and_builds_none_unasked(
    files: Files,
) -> None:
    files.main = SHIPPED / "imagepool.yaml"
    config = files.load()
    assert len(config.diskimages) >= 32
    assert all(name == image.platform.name for name, image in config.diskimages.items() if image.platform)
    assert {image.formats for image in config.diskimages.values()} == {()}
    image = config.diskimages["debian-bookworm"]
    assert image.schedule == DEFAULT_SCHEDULE
    assert image.environment["DIB_RELEASE"] == "bookworm"
    assert (image.metadata["os_distro"], image.metadata["os_version"]) == ("debian", "12")
    assert (image.metadata["os_type"], image.metadata["architecture"]) == ("linux", "x86_64")
    assert not config.embedded_open
    assert {"debian-minimal", "vm", "openssh-server"} <= set(image.elements)
    assert config.notes == ()


def test_the_private_zookeeper_is_open_only_where_the_file_says_so(files: Files) -> None:
    assert files.load("embedded-zookeeper: open").embedded_open
    assert not files.load("embedded-zookeeper: protected").embedded_open


def test_what_is_abstract_is_known_by_name(files: Files) -> None:
    config = files.load("diskimages: [{name: base, abstract: true}, {name: a, parent: base}]")
    assert (config.abstract, list(config.diskimages)) == (frozenset({"base"}), ["a"])


def test_the_shipped_example_of_a_provider_works_when_uncommented(files: Files) -> None:
    text, _, providers = (SHIPPED / "imagepool.yaml").read_text().partition("providers: []\n")
    text += "providers:\n" + providers.replace("#  ", "  ")
    files.lay_beside(SHIPPED / "platforms.yaml")
    config = files.load(text.replace("cloud: mycloud", "cloud: alpha").replace("RegionOne", "one"))
    assert list(config.providers["mycloud-region-one"].images) == ["debian-bookworm", "ubuntu-noble"]
    assert config.diskimages["ubuntu-noble"].formats == (ImageFormat.QCOW2,)


def test_the_shipped_examples_of_what_images_have_more_work_when_uncommented(files: Files) -> None:
    text = (SHIPPED / "imagepool.yaml").read_text().partition("\nproviders: []")[0]
    for commented, used in (("#   ", "  "), ("#  ", "  "), ("# diskimages", "diskimages")):
        text = text.replace(f"\n{commented}", f"\n{used}")
    files.lay_beside(SHIPPED / "platforms.yaml")
    config = files.load(text)
    assert all("zuul" in image.environment["DIB_CI_SSH_KEY"] for image in config.diskimages.values())
    jammy = config.diskimages["ubuntu-jammy"].platform
    assert jammy is not None
    assert jammy.mirror == "http://mirror.example/ubuntu"


def test_the_quickstart_configuration_keeps_everything_below_one_directory(files: Files) -> None:
    files.lay_beside(SHIPPED / "platforms.yaml")
    files.main.write_text(
        (SHIPPED / "quickstart.yaml")
        .read_text()
        .replace("cloud: devcloud", "cloud: alpha")
        .replace("RegionOne", "one")
        .replace("RegionTwo", "two")
    )
    files.environ = {"IMAGEPOOL_STATE_DIR": "/tmp/state"}
    config = files.load()
    assert config.state_dir == Path("/tmp/state")
    assert config.embedded_open
    assert config.images_dir == Path("/tmp/state/images")
    assert [p.name for p in config.providers_of("debian-bookworm")] == ["devcloud-one", "devcloud-two"]
    assert config.diskimages["debian-bookworm"].formats == (ImageFormat.QCOW2, ImageFormat.RAW)


def test_relative_paths_are_relative_to_the_file(files: Files) -> None:
    config = files.load("state-dir: state\nwork-dir: ../work\nelements-dir: elements:/usr/share/elements")
    here = files.main.parent
    assert config.state_dir == here / "state"
    assert config.images_dir == here / "state" / "images"
    assert config.work_dir == here.parent / "work"
    assert config.elements_dirs == (here / "elements", Path("/usr/share/elements"))


def test_numbers_and_retries(files: Files) -> None:
    config = files.load(
        """\
        build-workers: 3
        upload-workers: 9
        failed-retention: 3600
        stall-timeout: 2.5
        build-log-retention: -1
        build-retries: {first: 5, limit: 0}
        upload-retries: {longest: 40}
        """
    )
    assert (config.build_workers, config.upload_workers, config.log_retention) == (3, 9, -1)
    assert config.failed_retention == timedelta(hours=1)
    assert config.stall_timeout == timedelta(seconds=2.5)
    assert config.build_retry == RetryPolicy(first=timedelta(seconds=5), longest=timedelta(hours=1), limit=0)
    assert config.upload_retry == RetryPolicy(
        first=timedelta(seconds=30), longest=timedelta(seconds=40), limit=10
    )


def test_what_a_build_may_take_is_nice_and_idle_and_otherwise_all_there_is(files: Files) -> None:
    config = files.load("")
    assert config.build_limits == BuildLimits(cpus=None, memory=None, nice=10, io="idle")
    assert (config.log_limit, config.cache_limit, config.disk_reserve) == (200 << 20, 20 << 30, 2 << 30)


def test_what_a_build_may_take_can_be_said_in_part(files: Files) -> None:
    config = files.load("build-limits: {cpus: 1.5, memory: 4G, nice: 0, io: none}")
    assert config.build_limits == BuildLimits(cpus=1.5, memory=4 << 30, nice=0, io="none")
    config = files.load("build-limits: {cpus: 2, io: best-effort}")
    assert config.build_limits == BuildLimits(cpus=2, memory=None, nice=10, io="best-effort")


SIZES = {
    "0": 0,
    "1024": 1024,
    "'1024'": 1024,
    "1K": 1 << 10,
    "20G": 20 << 30,
    "20g": 20 << 30,
    "20 GiB": 20 << 30,
    "20GB": 20 << 30,
    "1.5M": 3 << 19,
    "2T": 2 << 40,
    "512B": 512,
    "1048576T": 1 << 60,
    "1000000000000000001": 10**18 + 1,
}


@pytest.mark.parametrize(("written", "expected"), SIZES.items())
def test_a_size_is_bytes_or_has_a_unit(files: Files, written: str, expected: int) -> None:
    config = files.load(f"disk-reserve: {written}\ncache-limit: {written}\nbuild-log-limit: {written}")
    assert (config.disk_reserve, config.cache_limit, config.log_limit) == (expected,) * 3


def test_options_of_a_format_are_replaced_by_a_child_those_of_other_formats_stay(files: Files) -> None:
    config = files.load(
        """\
        diskimages:
          - name: base
            format-options:
              qcow2: {compression: zlib, compat: '0.10'}
              raw: {}
          - {name: inherits, parent: base}
          - {name: replaces, parent: base, format-options: {qcow2: {compression: none}}}
          - {name: none}
        """
    )
    options = {name: dict(image.format_options) for name, image in config.diskimages.items()}
    old, none = FormatOptions(compression="zlib", compat="0.10"), FormatOptions(compression="none")
    assert options == {
        "base": {"qcow2": old, "raw": FormatOptions()},
        "inherits": {"qcow2": old, "raw": FormatOptions()},
        "replaces": {"qcow2": none, "raw": FormatOptions()},
        "none": {},
    }


def test_a_build_of_what_is_unchanged_is_left_out_only_where_the_file_says_so(files: Files) -> None:
    config = files.load(
        """\
        diskimages:
          - {name: base, abstract: true, if-unchanged: skip, max-age: 60.5}
          - {name: inherits, parent: base}
          - {name: replaces, parent: base, if-unchanged: build, max-age: 7}
          - {name: plain}
        """
    )
    unchanged = {name: (i.skip_unchanged, i.max_age) for name, i in config.diskimages.items()}
    assert unchanged == {
        "inherits": (True, timedelta(seconds=60.5)),
        "replaces": (False, timedelta(seconds=7)),
        "plain": (False, None),
    }


def test_formats_that_are_kept_are_rendered_like_those_that_are_made(files: Files) -> None:
    config = files.load(
        """\
        platforms: [{name: p, distribution: d, release: r, variables: {keep: raw}}]
        diskimages:
          - name: a
            platform: p
            keep-formats: ["{{ platform.keep }}", qcow2, "{% if false %}vhd{% endif %}"]
        """
    )
    assert config.diskimages["a"].keep_formats == (ImageFormat.QCOW2, ImageFormat.RAW)


def test_a_child_inherits_adds_overlays_and_replaces(files: Files) -> None:
    config = files.load(
        """\
        diskimages:
          - name: child
            parent: middle
            elements: [c]
            env-vars: {B: child, C: child}
            metadata: {two: child}
            formats: [raw]
          - name: middle
            parent: base
            elements: [b, a]
            env-vars: {A: middle, B: middle}
            keep: 5
          - name: base
            abstract: true
            elements: [a]
            env-vars: {A: base, Z: base}
            metadata: {one: base, two: base}
            formats: [vhd, qcow2]
            username: ci
            rebuild-age: 100
            build-timeout: 200
            dib-cmd: dib --one
            pause: true
        """
    )
    assert list(config.diskimages) == ["child", "middle"]
    child = config.diskimages["child"]
    assert child.elements == ("a", "b", "a", "c")
    assert child.environment == {"A": "middle", "B": "child", "C": "child", "Z": "base"}
    assert child.metadata == {"one": "base", "two": "child"}
    assert child.formats == (ImageFormat.RAW,)
    assert (child.username, child.keep, child.pause) == ("ci", 5, True)
    assert (child.rebuild_age, child.build_timeout) == (timedelta(seconds=100), timedelta(seconds=200))
    assert child.dib_cmd == ("dib", "--one")


def test_false_and_nothing_in_a_child_win_over_the_parent(files: Files) -> None:
    config = files.load(
        """\
        diskimages:
          - {name: base, pause: true, formats: [raw], schedule: never}
          - {name: running, parent: base, pause: false, formats: [], schedule: 1 2 * * *}
        """
    )
    assert config.diskimages["base"].pause
    assert not config.diskimages["running"].pause
    assert config.diskimages["running"].formats == ()
    assert config.diskimages["running"].schedule[0].cron == "1 2 * * *"


def test_abstract_is_not_inherited(files: Files) -> None:
    config = files.load("diskimages: [{name: base, abstract: true}, {name: a, parent: base}]")
    assert list(config.diskimages) == ["a"]


SCHEDULES = {
    "nothing said": ("", "", ["14 14 * * *"]),
    "global": ("schedule: 1 1 * * *", "", ["1 1 * * *"]),
    "global never": ("schedule: never", "", []),
    "own": ("schedule: 1 1 * * *", "schedule: 2 2 * * *", ["2 2 * * *"]),
    "own never": ("schedule: 1 1 * * *", "schedule: never", []),
    "never, in a list": ("schedule: 1 1 * * *", "schedule: [never]", []),
    "several": ("", 'schedule: [1  1 * * *, "@after  other"]', ["1 1 * * *", "@after other"]),
    "several instead of a global one": (
        "schedule: 3 3 * * *",
        "schedule: [2 2 * * *, 1 1 * * *]",
        ["2 2 * * *", "1 1 * * *"],
    ),
    "after one that does not follow itself": ('schedule: ["@after a", "@after other"]', "", ["@after other"]),
    "an age": ("", "rebuild-age: 5", []),
    "a global age": ("rebuild-age: 5", "", []),
    "an age and a global schedule": ("schedule: 1 1 * * *", "rebuild-age: 5", ["1 1 * * *"]),
    "an age and an own schedule": ("", "rebuild-age: 5, schedule: 2 2 * * *", ["2 2 * * *"]),
}


@pytest.mark.parametrize(("top", "own", "expected"), SCHEDULES.values(), ids=SCHEDULES.keys())
def test_the_schedule_is_the_nearest_that_is_given(
    files: Files, top: str, own: str, expected: list[str]
) -> None:
    own = f", {own}" if own else ""
    config = files.load(
        f"{top}\ndiskimages:\n- {{name: base, abstract: true{own}}}\n- {{name: a, parent: base}}"
        "\n- {name: other, schedule: never}"
    )
    assert [entry.text for entry in config.diskimages["a"].schedule] == expected


ENTRIES = {
    "utc": ("14 14 * * *", ScheduleEntry(text="14 14 * * *", cron="14 14 * * *", zone="UTC")),
    "utc by its name": ("14 14 * * * UTC", ScheduleEntry(text="14 14 * * * UTC", cron="14 14 * * *")),
    "a zone": (
        " 0  5 * * mon-fri America/Argentina/Buenos_Aires",
        ScheduleEntry(
            text="0 5 * * mon-fri America/Argentina/Buenos_Aires",
            cron="0 5 * * mon-fri",
            zone="America/Argentina/Buenos_Aires",
        ),
    ),
    "an old zone": (
        "0 5 * * * Etc/GMT+1",
        ScheduleEntry(text="0 5 * * * Etc/GMT+1", cron="0 5 * * *", zone="Etc/GMT+1"),
    ),
    "after": ("@after b", ScheduleEntry(text="@after b", after="b")),
}


@pytest.mark.parametrize(("written", "expected"), ENTRIES.values(), ids=ENTRIES.keys())
def test_an_entry_of_a_schedule(files: Files, written: str, expected: ScheduleEntry) -> None:
    config = files.load(f"diskimages: [{{name: a, schedule: '{written}'}}, {{name: b}}]")
    assert config.diskimages["a"].schedule == (expected,)


def test_what_builders_are_asked_for(files: Files) -> None:
    config = files.load(
        """
        builder-labels: [fast, gpu]
        platforms: [{name: p, distribution: debian, release: sid, architecture: arm64}]
        diskimages:
        - {name: plain}
        - {name: by-platform, platform: p}
        - {name: own, platform: p, requires: fast}
        - {name: anywhere, parent: own, requires: []}
        - {name: inherited, parent: own}
        """
    )
    assert config.builder_labels == {"fast", "gpu"}
    required = {name: set(image.requires) for name, image in config.diskimages.items()}
    assert required == {
        "plain": set(),
        "by-platform": {"arm64"},
        "own": {"fast"},
        "anywhere": set(),
        "inherited": {"fast"},
    }


def test_when_builds_are_caught_up_and_spread_and_a_stop_waits(files: Files) -> None:
    images = "diskimages: [{name: a}, {name: b, catch-up: 60}]"
    usual = files.load(images)
    assert (usual.spread, usual.shutdown_grace) == (timedelta(0), timedelta(seconds=30))
    assert usual.diskimages["a"].catch_up == timedelta(hours=12)
    config = files.load(f"catch-up: 7200\nspread: 900\nshutdown-grace: 0\n{images}")
    assert (config.spread, config.shutdown_grace) == (timedelta(minutes=15), timedelta(0))
    caught_up = [image.catch_up for image in config.diskimages.values()]
    assert caught_up == [timedelta(hours=2), timedelta(minutes=1)]


def test_keep_and_rebuild_age_have_global_defaults(files: Files) -> None:
    config = files.load(
        "keep: 4\nrebuild-age: 9\ndiskimages: [{name: a}, {name: b, keep: 1, rebuild-age: 3}]"
    )
    assert (config.diskimages["a"].keep, config.diskimages["a"].rebuild_age) == (4, timedelta(seconds=9))
    assert (config.diskimages["b"].keep, config.diskimages["b"].rebuild_age) == (1, timedelta(seconds=3))


def test_formats_are_its_own_and_those_of_its_providers(files: Files) -> None:
    config = files.load(
        """\
        diskimages: [{name: a, formats: [vmdk]}, {name: b}, {name: alone}]
        providers:
          - {name: p1, cloud: alpha, region-name: one, diskimages: [{name: a}]}
          - {name: p2, cloud: alpha, region-name: two, diskimages: [{name: a}, {name: b}]}
          - {name: p3, cloud: unheard-of, image-format: vhdx, diskimages: [{name: b}]}
        """
    )
    assert config.diskimages["a"].formats == ("qcow2", "raw", "vmdk")
    assert config.diskimages["b"].formats == ("raw", "vhdx")
    assert config.diskimages["alone"].formats == ()


def test_a_provider(files: Files) -> None:
    config = files.load(
        """\
        diskimages: [{name: a}]
        providers:
          - name: p
            cloud: beta
            image-name-format: "ci {image_name} {upload_id} {timestamp}"
            image-upload-timeout: 77
            diskimages:
              - {name: a, pause: true, meta: {hw_vif_multiqueue_enabled: true, count: 3, text: x}}
        """
    )
    provider = config.providers["p"]
    assert (provider.cloud, provider.region, provider.image_format) == ("beta", None, ImageFormat.VHD)
    assert provider.upload_timeout == timedelta(seconds=77)
    assert provider.images["a"].pause
    assert provider.images["a"].metadata == {"hw_vif_multiqueue_enabled": "True", "count": "3", "text": "x"}


def test_the_release_reaches_diskimage_builder_unless_env_vars_say_otherwise(files: Files) -> None:
    config = files.load(
        """\
        platforms: [{name: p, distribution: debian, release: bookworm}]
        diskimages:
          - {name: own, platform: p, release: 9}
          - {name: platforms, platform: p}
          - {name: explicit, platform: p, release: 9, env-vars: {DIB_RELEASE: sid}}
          - {name: none}
        """
    )
    releases = {name: image.environment.get("DIB_RELEASE") for name, image in config.diskimages.items()}
    assert releases == {"own": "9", "platforms": "bookworm", "explicit": "sid", "none": None}


def test_zookeeper_servers(files: Files) -> None:
    config = files.load(
        """\
        zookeeper-servers:
          - {host: zk1.example}
          - {host: "2001:db8::1", port: 2222, chroot: ci/images/}
        """
    )
    assert config.zookeeper == ZooKeeper(hosts="zk1.example:2181,[2001:db8::1]:2222", chroot="/ci/images")


def test_zookeeper_with_tls_uses_its_port(files: Files) -> None:
    config = files.load(
        """\
        zookeeper-servers: [{host: zk, chroot: /}]
        zookeeper-tls: {cert: c.pem, key: /k.pem, ca: ca.pem}
        zookeeper-timeout: 20
        """
    )
    here = files.main.parent
    assert config.zookeeper == ZooKeeper(
        hosts="zk:2281",
        tls=ZooKeeperTls(cert=here / "c.pem", key=Path("/k.pem"), ca=here / "ca.pem"),
        timeout=20.0,
    )


def test_the_secure_file_replaces_servers_and_adds_secret_variables(files: Files) -> None:
    files.write(
        """\
        zookeeper-servers: [{host: public}]
        diskimages: [{name: a, env-vars: {X: public, Y: public}}, {name: b}]
        """
    )
    files.write_secure(
        """\
        zookeeper-servers: [{host: private}]
        zookeeper-auth: {username: me, password: sesame}
        diskimages: [{name: a, env-vars: {X: "{{ no template }}"}}]
        """
    )
    config = files.load()
    assert config.zookeeper is not None
    assert (config.zookeeper.hosts, config.zookeeper.password) == ("private:2181", "sesame")
    assert "sesame" not in repr(config)
    image = config.diskimages["a"]
    assert image.environment == {"X": "{{ no template }}", "Y": "public"}
    assert image.shown_environment == {"X": "********", "Y": "public"}
    assert config.diskimages["b"].environment == {}


@pytest.mark.parametrize(
    "name", ["DB_PASSWORD", "db_passwd", "GIT_TOKEN", "X_SECRET_Y", "SSH_PRIVATE_KEY", "AWS_CREDENTIALS"]
)
def test_a_variable_whose_name_looks_secret_is_masked(files: Files, name: str) -> None:
    config = files.load(f"diskimages: [{{name: a, env-vars: {{{name}: open, ZUUL_USER_SSH_PUBLIC_KEY: k}}}}]")
    assert config.diskimages["a"].secret_names == {name}


def test_what_a_secret_variable_of_the_platform_is_rendered_into_is_masked_too(files: Files) -> None:
    config = files.load(
        """\
        platforms:
          - name: p
            distribution: debian
            release: trixie
            properties: {hw_x: "{{ platform.api_token }}"}
            variables:
              api_token: sesame
              pin_secret: abc
              registry: {users: [{name: ada, password: [open-it, 12345678]}]}
              derived: ["x-{{ platform.api_token }}"]
              plain: visible
        diskimages:
          - name: a
            platform: p
            dib-cmd: "make-image --token={{ platform.api_token }}"
            metadata: {seen: "{{ platform.derived[0] }}"}
            env-vars:
              FOO: "{{ platform.api_token }}"
              BAR: "user:{{ platform.registry.users[0].password[0] }}@"
              NUMBER: "{{ platform.registry.users[0].password[1] }}"
              DERIVED: "{{ platform.derived | join }}"
              SHORT: "{{ platform.pin_secret }}"
              PLAIN: "{{ platform.plain }} {{ platform.registry.users[0].name }}"
        """
    )
    image = config.diskimages["a"]
    assert image.secret_names == {"FOO", "BAR", "NUMBER", "DERIVED"}
    assert image.environment["FOO"] == "sesame"
    assert not re.search("sesame|open-it|12345678", str(as_data(config)))
    assert "visible ada" in str(as_data(config))


def test_the_environment_is_expanded_before_yaml_is_read(files: Files) -> None:
    files.environ = {"NODEPOOL_KEEP": "3", "IMAGEPOOL_WHERE": "/var/here", "HOME": "/root"}
    config = files.load(
        """\
        # %(IMAGEPOOL_IN_A_COMMENT) is nothing to worry about
        keep: %(NODEPOOL_KEEP)
        state-dir: %(IMAGEPOOL_WHERE)
        diskimages:
          - name: a
            env-vars: {A: "%(NODEPOOL_UNKNOWN)", B: "%(HOME)", C: "%(NODEPOOL_KEEP)s"}
        """
    )
    assert config.state_dir == Path("/var/here")
    image = config.diskimages["a"]
    assert image.keep == 3
    assert image.environment == {"A": "%(NODEPOOL_UNKNOWN)", "B": "%(HOME)", "C": "3s"}


def test_yaml_anchors_and_merge_keys_work(files: Files) -> None:
    config = files.load(
        """\
        labels:
          - &common {pause: true, keep: 7}
          - &more {keep: 8, username: ci}
        diskimages:
          - {name: a, <<: *common, pause: false}
          - name: b
            <<: [*common, *more]
            elements: &list [x, y]
          - {name: c, elements: *list}
        """
    )
    a, b, c = config.diskimages.values()
    assert (a.pause, a.keep) == (False, 7)
    assert (b.pause, b.keep, b.username) == (True, 7, "ci")
    assert b.elements == c.elements == ("x", "y")


def test_dates_are_text(files: Files) -> None:
    config = files.load("diskimages: [{name: a, env-vars: {DAY: 2026-02-31}}]")
    assert config.diskimages["a"].environment == {"DAY": "2026-02-31"}


def test_formats_that_would_be_kept_anyway_are_noted(files: Files) -> None:
    config = files.load(
        """\
        diskimages:
          - name: base
            abstract: true
            delete-after-upload: true
          - name: pruned
            parent: base
            keep-formats: [raw]
          - name: whole
            keep-formats: [raw]
        """
    )
    assert config.notes == (
        f"{files.main}:9: diskimages[2].keep-formats: has no effect: without delete-after-upload,"
        " all files stay",
    )
