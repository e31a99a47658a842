"""What `config import-check` says of a nodepool.yaml, held against what the loader makes of it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from builder.config.document import Document, read_document
from builder.config.importing import Kind, Remark, problem, remarks, without_effect
from builder.config.problems import Problems
from builder.config.schema import ConfigFile, ProviderEntry, ProviderImageEntry
from tests.unit.config_world import Files

#: What a provider of each driver but openstack may say in nodepool 11, besides what all have.
OTHER_DRIVERS = {
    "aws": "boot-timeout cloud-images image-format image-import-timeout launch-retries launch-timeout"
    " max-cores max-ram max-resources max-servers object-storage post-upload-hook profile-name rate"
    " region-name",
    "azure": "auth-path boot-timeout cloud-images host-key-checking ipv4 ipv6 launch-retries launch-timeout"
    " location network post-upload-hook public-ipv4 public-ipv6 rate resource-group resource-group-location"
    " subnet-id use-internal-ip zuul-public-key",
    "gce": "boot-timeout cloud-images launch-retries launch-timeout project rate-limit region zone",
    "ibmvpc": "boot-timeout cloud-images credentials-file host-key-checking launch-retries launch-timeout"
    " object-storage post-upload-hook public-ipv4 quota rate region subnet use-internal-ip vpc zone",
    "kubernetes": "context launch-retries max-cores max-ram max-resources max-servers",
    "metastatic": "boot-timeout launch-retries launch-timeout",
    "openshift": "context launch-retries max-cores max-projects max-ram max-resources",
    "openshiftpods": "context launch-retries max-cores max-pods max-ram max-resources",
    "static": "",
}
LAUNCHERS = """\
labels: [{name: noble, min-ready: 1, max-ready-age: 60}]
webapp: {port: 8005}
max-hold-age: 60
tenant-resource-limits: [{tenant-name: t, max-cores: 1}]
providers:
  - name: alpha-one
    cloud: alpha
    region-name: one
    rate: 1.0
    boot-timeout: 60
    launch-timeout: 60
    launch-retries: 3
    clean-floating-ips: true
    port-cleanup-interval: 600
    max-concurrency: 1
    priority: 1
    nodepool-id: x
    cloud-images: [{name: provided, image-id: abc}]
    pools: [{name: main, max-servers: 1, labels: [{name: noble, diskimage: noble, min-ram: 8000}]}]
    diskimages:
      - {name: noble, config-drive: true, connection-type: ssh, connection-port: 22}
diskimages:
  - {name: noble, rebuild-age: 86400}
"""


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def said(files: Files, text: str, kind: Kind = Kind.DIFFERS) -> dict[str, str]:
    """What is said of the keys of a file, which can be used all the same."""
    files.load(text)
    return {remark.key: remark.text for remark in of(files) if remark.kind is kind}


def of(files: Files) -> tuple[Remark, ...]:
    secure = read(files, files.secure) if files.secure.exists() else None
    return remarks(read(files, files.main), secure)


def read(files: Files, path: Path) -> Document:
    return read_document(path, files.environ, Problems())


def test_every_key_of_a_launcher_is_ignored_where_it_stands(files: Files) -> None:
    ignored = said(files, LAUNCHERS, Kind.IGNORED)
    steps = {key.rpartition(".")[2] for key in ignored}
    launchers = {"labels", "webapp", "max-hold-age", "tenant-resource-limits"}
    providers = {"pools", "cloud-images", "boot-timeout", "launch-timeout", "launch-retries", "nodepool-id"}
    providers |= {"clean-floating-ips", "port-cleanup-interval", "max-concurrency", "priority"}
    assert steps == launchers | providers | {"config-drive", "connection-type", "connection-port"}
    lines = LAUNCHERS.splitlines()
    for remark in of(files):
        if remark.kind is Kind.IGNORED:
            assert remark.place == f"{files.main}:{remark.line}"
            assert remark.key.rpartition(".")[2] in lines[remark.line - 1]


def test_a_key_of_ours_is_never_called_ignored(files: Files) -> None:
    taken = {
        field.alias
        for schema in (ConfigFile, ProviderEntry, ProviderImageEntry)
        for field in schema.model_fields.values()
    }
    ignored = {key.rpartition(".")[2] for key in said(files, LAUNCHERS, Kind.IGNORED)}
    assert ignored <= taken
    assert not ignored & {"rate", "name", "cloud", "meta", "pause", "elements-dir", "post-upload-hook"}


def test_providers_of_other_drivers_load_and_are_ignored(files: Files) -> None:
    providers = [
        {"name": driver, "driver": driver, "max-concurrency": 1, "priority": 1, "pools": [{"name": "main"}]}
        | dict.fromkeys(keys.split(), "of some kind")
        for driver, keys in OTHER_DRIVERS.items()
    ]
    ignored = said(files, yaml.safe_dump({"providers": providers}), Kind.IGNORED)
    assert list(ignored) == [f"providers[{position}].driver" for position in range(len(providers))]
    assert files.load().providers == {}


def test_a_provider_of_another_driver_that_lists_diskimages_is_told_to_get_none(files: Files) -> None:
    provider = {"name": "aws", "driver": "aws", "diskimages": [{"name": "x"}], "pools": []}
    found = said(files, yaml.safe_dump({"providers": [provider]}), Kind.IGNORED)
    assert "are not uploaded there" in str(found["providers[0].driver"])


def test_pause_false_below_a_paused_parent_differs(files: Files) -> None:
    found = said(
        files,
        """\
        diskimages:
          - {name: base, abstract: true, pause: true}
          - {name: middle, parent: base, abstract: true}
          - {name: goes, parent: middle, pause: false}
          - {name: stays, parent: middle}
        """,
    )
    assert [key for key in found if key.endswith("pause")] == ["diskimages[2].pause"]
    images = files.load().diskimages
    assert (images["goes"].pause, images["stays"].pause) == (False, True)


def test_inherited_metadata_differ(files: Files) -> None:
    found = said(
        files,
        """\
        diskimages:
          - {name: base, metadata: {a: x, b: y}}
          - {name: own, parent: base, metadata: {b: z}}
          - {name: without, parent: base}
        """,
    )
    assert "diskimages[1].metadata" in found and "diskimages[2].parent" in found
    images = files.load().diskimages
    assert images["own"].metadata == {"a": "x", "b": "z"}
    assert images["without"].metadata == {"a": "x", "b": "y"}


def test_no_rebuild_age_is_the_schedule_s_and_one_anywhere_is_nodepool_s(files: Files) -> None:
    found = said(
        files,
        """\
        diskimages:
          - {name: base, abstract: true, rebuild-age: 86400}
          - {name: aged, parent: base}
          - {name: daily}
        """,
    )
    assert [key for key in found if key == "diskimages[1]" or key == "diskimages[2]"] == ["diskimages[2]"]
    images = files.load().diskimages
    assert images["aged"].schedule == () and images["aged"].rebuild_age == timedelta(days=1)
    assert [entry.text for entry in images["daily"].schedule] == ["14 14 * * *"]
    assert "diskimages[0]" not in said(files, "rebuild-age: 60\ndiskimages: [{name: aged}]")


def test_zookeeper_without_tls_differs_unless_the_secure_file_has_it(files: Files) -> None:
    text = "zookeeper-servers: [{host: zk}]"
    assert "2181" in said(files, text)["zookeeper-servers"]
    files.write_secure("zookeeper-tls: {cert: c, key: k, ca: a}")
    assert "zookeeper-servers" not in said(files, text)
    zookeeper = files.load(text).zookeeper
    assert zookeeper is not None and zookeeper.hosts == "zk:2281"


def test_no_zookeeper_differs(files: Files) -> None:
    assert "private" in said(files, "diskimages: []")["zookeeper-servers"]
    files.write_secure("zookeeper-servers: [{host: zk}]")
    assert "2181" in said(files, "diskimages: []")["zookeeper-servers"]


def test_what_providers_do_otherwise_is_told(files: Files) -> None:
    found = said(
        files,
        """\
        providers:
          - name: fake-name
            cloud: alpha
            region-name: one
            image-upload-timeout: 60
            post-upload-hook: check
        """,
    )
    keys = {key.removeprefix("providers[0].") for key in found if key.startswith("providers")}
    assert keys == {"name", "rate", "image-upload-timeout", "post-upload-hook"}
    provider = files.load().providers["fake-name"]
    assert (provider.rate, provider.post_upload_hook) == (0.0, files.main.parent / "check")


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("build-log-retention: 3", "build-log-retention"),
        ("diskimages: [{name: a, shell-type: sh}]", "diskimages[0].shell-type"),
        ("diskimages: [{name: a, env-vars: {X: \"{{ '{{' }}\"}}]", "diskimages[0].env-vars.X"),
        ("diskimages: [{name: a}]", "diskimages"),
        ("labels: []", "build-log-dir"),
    ],
)
def test_what_else_differs(files: Files, line: str, key: str) -> None:
    assert key in said(files, line)


def test_what_somebody_has_to_look_at_is_an_error(files: Files) -> None:
    found = said(
        files,
        "diskimages: [{name: a, dib-cmd: '%p/fake', env-vars: {K: '%(NODEPOOL_K)'}}]",
        Kind.ERROR,
    )
    assert found.keys() == {"diskimages[0].dib-cmd", "diskimages[0].env-vars.K"}
    files.environ["NODEPOOL_K"] = "v"
    assert said(files, files.main.read_text(), Kind.ERROR).keys() == {"diskimages[0].dib-cmd"}


@pytest.mark.parametrize(
    "text",
    [
        *("", "- a", "diskimages: 1", "diskimages: [1]\nproviders: {a: b}", "a: ["),
        "diskimages: [{name: [x], parent: {a: b}}, {name: 1, parent: [x]}, {name: 2, parent: 1}]",
    ],
)
def test_a_file_that_is_no_configuration_is_no_bug(files: Files, text: str) -> None:
    files.write(text)
    assert all(remark.kind is not Kind.IGNORED for remark in of(files))


def test_a_circle_of_parents_ends(files: Files) -> None:
    files.write("diskimages: [{name: a, parent: b}, {name: b, parent: a, metadata: {x: y}}]")
    assert "diskimages[0].parent" in {remark.key for remark in of(files)}


def test_the_loader_s_problems_and_notes_become_remarks(files: Files) -> None:
    (text,) = files.problems("diskimages: [{name: a}]\nproviders: [{name: p, cloud: nowhere}]")
    assert problem(text) == Remark(
        place="imagepool.yaml:2",
        line=2,
        key="providers[0].cloud",
        kind=Kind.ERROR,
        text="cloud 'nowhere' has no region None",
    )
    assert problem("/etc/x: can't be read") == Remark(
        place="", line=0, key="", kind=Kind.ERROR, text="/etc/x: can't be read"
    )
    (note,) = files.load("diskimages: [{name: a, keep-formats: [raw]}]").notes
    remark = without_effect(note)
    assert (remark.key, remark.kind) == ("diskimages[0].keep-formats", Kind.IGNORED)
