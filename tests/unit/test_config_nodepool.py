"""A configuration written for nodepool works unchanged."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from builder.model import ImageFormat
from tests.unit.config_world import Files

NODEPOOL = """\
---
elements-dir: /etc/nodepool/elements
images-dir: /opt/nodepool_dib
build-log-dir: /var/log/nodepool/builds
build-log-retention: 3
max-hold-age: 86400
webapp:
  port: 8005
  listen_address: '0.0.0.0'
tenant-resource-limits:
  - tenant-name: example
    max-cores: 200
zookeeper-servers:
  - host: zk01.example.org
    port: 2281
    chroot: /ci
  - host: zk02.example.org
    port: 2281
    chroot: /ci
zookeeper-tls:
  cert: /etc/nodepool/cert.pem
  key: /etc/nodepool/key.pem
  ca: /etc/nodepool/ca.pem
zookeeper-timeout: 10.0
labels:
  - name: ubuntu-noble
    min-ready: 1
    max-ready-age: 3600
diskimages:
  - name: base
    abstract: true
    rebuild-age: 604800
    elements:
      - vm
      - simple-init
    env-vars:
      TMPDIR: /opt/dib_tmp
      DIB_CHECKSUM: '1'
      DIB_GRUB_TIMEOUT: '0'
      ZUUL_USER_SSH_PUBLIC_KEY: /etc/nodepool/%(NODEPOOL_KEY)
    delete-after-upload: true
    keep-formats: [qcow2]
  - name: ubuntu-noble
    parent: base
    pause: false
    rebuild-age: 86400
    build-timeout: 14400
    release: noble
    username: ci
    python-path: /usr/bin/python3
    shell-type: sh
    dib-cmd: /usr/bin/disk-image-create --no-color
    formats: [qcow2]
    metadata:
      os_distro: ubuntu
    elements:
      - ubuntu-minimal
  - name: debian-stretch
    parent: base
    release: 9
    pause: true
    elements: []
providers:
  - name: alpha-one
    driver: openstack
    cloud: alpha
    region-name: one
    rate: 0.25
    boot-timeout: 120
    launch-timeout: 3600
    launch-retries: 2
    clean-floating-ips: true
    port-cleanup-interval: 0
    max-concurrency: 10
    priority: 50
    image-name-format: 'ci-{image_name}-{timestamp}'
    image-upload-timeout: 21600
    post-upload-hook: /usr/bin/check-image
    diskimages:
      - name: ubuntu-noble
        config-drive: true
        connection-type: ssh
        connection-port: 22
        meta:
          hw_disk_bus: scsi
      - name: debian-stretch
        pause: true
    cloud-images:
      - name: provided
        image-id: abc
    pools:
      - name: main
        max-servers: 10
        labels:
          - name: ubuntu-noble
            diskimage: ubuntu-noble
            min-ram: 8000
            key-name: root
  - name: alpha-two
    cloud: alpha
    region-name: two
    diskimages:
      - name: ubuntu-noble
    pools: []
  - name: machines
    driver: static
    pools:
      - name: main
        nodes:
          - name: one.example.org
            labels: other
"""

SECURE = """\
zookeeper-servers:
  - host: zk.internal
    port: 2281
diskimages:
  - name: ubuntu-noble
    env-vars:
      REGISTRY: secret
"""


def test_a_nodepool_configuration_means_what_it_meant(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.environ = {"NODEPOOL_KEY": "key.pub"}
    files.write_secure(SECURE)
    config = files.load(NODEPOOL)

    assert config.images_dir == Path("/opt/nodepool_dib")
    assert config.log_dir == Path("/var/log/nodepool/builds")
    assert config.elements_dirs == (Path("/etc/nodepool/elements"),)
    assert config.zookeeper is not None
    assert config.zookeeper.hosts == "zk.internal:2281"

    assert list(config.diskimages) == ["ubuntu-noble", "debian-stretch"]
    noble = config.diskimages["ubuntu-noble"]
    assert noble.elements == ("vm", "simple-init", "ubuntu-minimal")
    assert noble.formats == (ImageFormat.QCOW2, ImageFormat.RAW)
    assert noble.rebuild_age == timedelta(days=1)
    assert noble.schedule == ()
    assert noble.build_timeout == timedelta(hours=4)
    assert noble.environment == {
        "DIB_RELEASE": "noble",
        "TMPDIR": "/opt/dib_tmp",
        "DIB_CHECKSUM": "1",
        "DIB_GRUB_TIMEOUT": "0",
        "ZUUL_USER_SSH_PUBLIC_KEY": "/etc/nodepool/key.pub",
        "REGISTRY": "secret",
    }
    assert noble.secret_names == {"REGISTRY"}
    assert (noble.username, noble.python_path, noble.shell_type) == ("ci", "/usr/bin/python3", "sh")
    assert config.diskimages["debian-stretch"].pause
    assert config.diskimages["debian-stretch"].environment["DIB_RELEASE"] == "9"

    assert list(config.providers) == ["alpha-one", "alpha-two"]
    one = config.providers["alpha-one"]
    assert one.image_name_format == "ci-{image_name}-{timestamp}"
    assert one.upload_timeout == timedelta(hours=6)
    assert one.images["ubuntu-noble"].metadata == {"hw_disk_bus": "scsi"}
    assert one.images["debian-stretch"].pause

    assert (noble.delete_after_upload, noble.keep_formats) == (True, (ImageFormat.QCOW2,))
    assert (noble.skip_unchanged, noble.max_age, dict(noble.format_options)) == (False, None, {})

    assert (one.rate, one.post_upload_hook) == (0.25, Path("/usr/bin/check-image"))
    assert config.notes == ()


def test_what_stays_after_upload_is_replaced_by_a_child_and_never_added_up(tmp_path: Path) -> None:
    config = Files(tmp_path).load(
        """\
        diskimages:
          - {name: base, formats: [vhd], delete-after-upload: true, keep-formats: [qcow2, raw]}
          - {name: inherits, parent: base}
          - {name: replaces, parent: base, keep-formats: [vhd]}
          - {name: none, parent: base, keep-formats: []}
          - {name: stays, parent: base, delete-after-upload: false}
          - {name: plain}
        """
    )
    kept = {name: (i.delete_after_upload, i.keep_formats) for name, i in config.diskimages.items()}
    assert kept == {
        "base": (True, ("qcow2", "raw")),
        "inherits": (True, ("qcow2", "raw")),
        "replaces": (True, ("vhd",)),
        "none": (True, ()),
        "stays": (False, ("qcow2", "raw")),
        "plain": (False, ()),
    }
    # What is kept is no wish for it to be made.
    assert config.diskimages["inherits"].formats == ("vhd",)
    assert config.notes == ()


def test_what_other_drivers_would_get_is_left_alone_and_told(tmp_path: Path) -> None:
    config = Files(tmp_path).load(
        """
        diskimages: [{name: img, formats: [raw]}]
        providers:
        - name: amazon
          driver: aws
          region-name: us-east-2
          diskimages: [{name: img}]
          pools: [{name: main}]
        - {name: static, driver: static, pools: []}
        - {name: ours, cloud: beta, diskimages: [{name: img}]}
        """
    )
    assert list(config.providers) == ["ours"]
    [note] = config.notes
    assert note.endswith(
        "7: providers[0].diskimages: has no effect: images go to providers with the driver openstack alone,"
        " not to 'aws'"
    )
