"""Whatever is wrong with a configuration is told: all of it, with file, line, key, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.config.loader import load
from builder.errors import ConfigError
from builder.model import ImageFormat
from tests.unit.config_world import Files, image_format_of


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


IMAGE = """\
platforms:
  - {name: plat, distribution: debian, release: bookworm}
diskimages:
  - name: good
"""

ONE_PROBLEM = {
    "unknown key": ("imags-dir: /x", "1: imags-dir: unknown key; did you mean 'images-dir'?"),
    "unknown key of a diskimage": (
        "diskimages:\n- name: a\n  elemnts: [vm]",
        "3: diskimages[0].elemnts: unknown key; did you mean 'elements'?",
    ),
    "unknown key of a provider's diskimage": (
        f"{IMAGE}providers:\n- name: p\n  cloud: beta\n  diskimages:\n  - {{name: good, metta: {{}}}}",
        "9: providers[0].diskimages[0].metta: unknown key; did you mean 'meta'?",
    ),
    "the file is a list": ("- a", "1: the file must be a mapping of keys, not a list"),
    "bool for a number": ("build-workers: true", "1: build-workers: must be a whole number, not true"),
    "text for a number": (
        "\nstall-timeout: soon",
        "2: stall-timeout: must be a number, not text 'soon'",
    ),
    "number for text": (
        "diskimages:\n- name: a\n  env-vars:\n    X: 1",
        "4: diskimages[0].env-vars.X: must be text, not number 1; put it in quotes",
    ),
    "a release that loses its zero": (
        "diskimages:\n- name: a\n  release: 22.10",
        "3: diskimages[0].release: must be text, not number 22.1; put it in quotes",
    ),
    "text for a list": (
        "diskimages:\n- name: a\n  elements: vm",
        "3: diskimages[0].elements: must be a list, not text 'vm'",
    ),
    "list for a mapping": ("zookeeper-tls: []", "1: zookeeper-tls: must be a mapping, not a list"),
    "number for a bool": (
        "diskimages:\n- name: a\n  pause: 1",
        "3: diskimages[0].pause: must be true or false, not number 1",
    ),
    "a diskimage that is text": ("diskimages:\n- a", "2: diskimages[0]: must be a mapping, not text 'a'"),
    "no name": ("diskimages:\n- pause: true", "2: diskimages[0].name: is required"),
    "neither protected nor open": (
        "embedded-zookeeper: closed",
        "1: embedded-zookeeper: must be 'protected' or 'open', not text 'closed'",
    ),
    "no cloud": ("providers:\n- name: p", "2: providers[0].cloud: is required"),
    "zero seconds": ("stall-timeout: 0", "1: stall-timeout: must be more than 0, not 0"),
    "endless seconds": ("stall-timeout: .inf", "1: stall-timeout: must be a finite number, not number inf"),
    "a million years": (
        "stall-timeout: 99999999999999",
        "1: stall-timeout: must be at most 3153600000, not 99999999999999",
    ),
    "keep nothing": ("keep: 0", "1: keep: must be at least 1, not 0"),
    "no workers": ("build-workers: 0", "1: build-workers: must be at least 1, not 0"),
    "log retention": (
        "build-log-retention: -2",
        "1: build-log-retention: must be at least -1, not -2",
    ),
    "retries the wrong way round": (
        "build-retries:\n  first: 10\n  longest: 5",
        "1: build-retries: 'first' (10) must not be more than 'longest' (5)",
    ),
    "duplicate key": (
        "keep: 1\nkeep: 2",
        "2: keep: the key is given twice, first on line 1",
    ),
    "key that is a number": ("1: a", "1: a key must be text, not 1; put it in quotes"),
    "not YAML": ("a: [1", "1: not valid YAML: expected ',' or ']', but got '<stream end>'"),
    "two documents": ("keep: 1\n---\nkeep: 2", "2: not valid YAML: but found another document"),
    "unknown alias": ("keep: *x", "1: not valid YAML: found undefined alias 'x'"),
    "an object": (
        "state-dir: !!python/object:os.system x",
        "1: state-dir: unknown tag !!python/object:os.system",
    ),
    "NUL": ('state-dir: "a\\0b"', "1: state-dir: must not contain a NUL character"),
    "half a surrogate pair": ('state-dir: "\\uD800"', "1: state-dir: contains half a surrogate pair"),
    "an alias to what encloses it": ("labels: &a [*a]", "1: labels[0]: an alias to what encloses it"),
    "deep nesting": ("labels: " + "[" * 500, "1: not valid YAML: nested deeper than 50 levels"),
    "variable of the environment": (
        "keep: 1\nstate-dir: '%(IMAGEPOOL_NONE)'",
        "2: the environment has no variable IMAGEPOOL_NONE",
    ),
    "one directory for two things": (
        "images-dir: /a/swept\nwork-dir: /a/swept",
        "2: work-dir: /a/swept (images-dir) and /a/swept (work-dir) must be apart",
    ),
    "images in what is swept": (
        "images-dir: /a/swept/images\nwork-dir: /a/swept",
        "2: work-dir: /a/swept/images (images-dir) and /a/swept (work-dir) must be apart",
    ),
    "logs in what is swept": (
        "build-log-dir: /var/lib/imagepool/cache/logs",
        "1: build-log-dir: /var/lib/imagepool/cache (cache-dir) and /var/lib/imagepool/cache/logs",
    ),
    "duplicate diskimage": (
        f"{IMAGE}  - name: good",
        "5: diskimages[1].name: there are two diskimages named 'good'",
    ),
    "duplicate platform": (
        "platforms:\n- {name: p, distribution: d, release: r}\n- {name: p, distribution: d, release: r}",
        "3: platforms[1].name: there are two platforms named 'p'",
    ),
    "duplicate provider": (
        "providers:\n- {name: p, cloud: beta}\n- {name: p, cloud: beta}",
        "3: providers[1].name: there are two providers named 'p'",
    ),
    "unknown platform": (
        f"{IMAGE}    platform: plot",
        "5: diskimages[0].platform: there is no platform 'plot'; did you mean 'plat'?",
    ),
    "unknown parent": (
        f"{IMAGE}  - name: child\n    parent: god",
        "6: diskimages[1].parent: there is no diskimage 'god'; did you mean 'good'?",
    ),
    "its own parent": (
        "diskimages:\n- name: a\n  parent: a",
        "3: diskimages[0].parent: is its own ancestor: a -> a",
    ),
    "a cycle of parents": (
        "diskimages:\n- name: a\n  parent: c\n- name: b\n  parent: a\n- name: c\n  parent: b",
        "3: diskimages[0].parent: is its own ancestor: a -> c -> b -> a",
    ),
    "unknown diskimage in a provider": (
        f"{IMAGE}providers:\n- name: p\n  cloud: beta\n  diskimages:\n  - name: goood",
        "9: providers[0].diskimages[0].name: there is no diskimage 'goood'; did you mean 'good'?",
    ),
    "abstract diskimage in a provider": (
        f"{IMAGE}    abstract: true\nproviders:\n- name: p\n  cloud: beta\n  diskimages: [{{name: good}}]",
        "9: providers[0].diskimages[0].name: diskimage 'good' is abstract",
    ),
    "diskimage twice in a provider": (
        "diskimages: [{name: a}]\nproviders:\n- {name: p, cloud: beta, diskimages: [{name: a}, {name: a}]}",
        "3: providers[0].diskimages[1].name: diskimage 'a' is listed twice",
    ),
    "unknown cloud": (
        "providers:\n- name: p\n  cloud: gamma",
        "3: providers[0].cloud: cloud 'gamma' has no region None",
    ),
    "unknown format": (
        "diskimages:\n- name: a\n  formats: [raw, qcow]",
        "3: diskimages[0].formats[1]: unknown format 'qcow'; did you mean 'qcow2'?",
    ),
    "unknown format of a provider": (
        "providers:\n- {name: p, cloud: beta, image-format: iso}",
        "2: providers[0].image-format: unknown format 'iso'; known: ami, qcow2, raw, vhd, vhdx, vmdk",
    ),
    "name format": (
        "providers:\n- {name: p, cloud: beta, image-name-format: '{imagename}'}",
        "2: providers[0].image-name-format: unknown field {imagename}; did you mean 'image_name'?",
    ),
    "name format that reaches inside": (
        "providers:\n- {name: p, cloud: beta, image-name-format: '{image_name.__class__}'}",
        "2: providers[0].image-name-format: unknown field {image_name.__class__}",
    ),
    "name format of a giant": (
        "providers:\n- {name: p, cloud: beta, image-name-format: '{timestamp:999999999}'}",
        "2: providers[0].image-name-format: {timestamp} is all that is needed, without conversion or width",
    ),
    "too few cron fields": (
        "schedule: 14 14 * *",
        "1: schedule: a schedule is 'never', '@after IMAGE', or five cron fields",
    ),
    "no such minute": (
        "schedule: 61 * * * *",
        "1: schedule: '61 * * * *' is no cron text that ever comes true",
    ),
    "no such day": ("schedule: 0 0 31 2 *", "1: schedule: '0 0 31 2 *' is no cron text that ever comes true"),
    "random cron": ("schedule: R 0 * * *", "1: schedule: 'R 0 * * *' is no cron text"),
    "schedule of a diskimage": (
        "diskimages:\n- name: a\n  schedule: daily",
        "3: diskimages[0].schedule: a schedule is 'never', '@after IMAGE', or five cron fields",
    ),
    "seconds in a schedule": ("schedule: 0 0 0 * * *", "1: schedule: a schedule is 'never'"),
    "no such zone": (
        "schedule: [14 14 * * *, 14 14 * * * Europe/Berln]",
        "1: schedule[1]: there is no time zone 'Europe/Berln'; did you mean 'Europe/Berlin'?",
    ),
    "a zone that is a directory": (
        "schedule: 1 1 * * * America",
        "1: schedule: there is no time zone 'America'",
    ),
    "a zone that leads elsewhere": (
        "schedule: 1 1 * * * ../../etc/passwd",
        "1: schedule: a schedule is 'never'",
    ),
    "never among others": (
        "diskimages:\n- name: a\n  schedule:\n  - 1 1 * * *\n  - never",
        "5: diskimages[0].schedule[1]: 'never' stands alone",
    ),
    "an entry twice": (
        "schedule: [1 1 * * *, 1  1 * * *]",
        "1: schedule[1]: '1 1 * * *' is there twice",
    ),
    "no entry": (
        "diskimages:\n- name: a\n  schedule: []",
        "3: diskimages[0].schedule: is empty: say 'never'",
    ),
    "a number as a schedule": ("schedule: 5", "1: schedule: must be text, or a list of texts, not number 5"),
    "too many entries": (
        f"schedule: [{', '.join(f'{n} 1 * * *' for n in range(51))}]",
        "1: schedule[50]: a schedule has at most 50 entries",
    ),
    "after nothing": ("schedule: '@after'", "1: schedule: @after is followed by the name of one diskimage"),
    "after one that is not there": (
        "diskimages:\n- name: base-one\n- name: a\n  schedule: '@after base-on'",
        "4: diskimages[1].schedule: there is no diskimage 'base-on'; did you mean 'base-one'?",
    ),
    "after an abstract one": (
        "diskimages:\n- {name: b, abstract: true}\n- name: a\n  schedule: '@after b'",
        "4: diskimages[1].schedule: 'b' is abstract, and so never built",
    ),
    "after itself": (
        "diskimages:\n- {name: a, schedule: '@after b'}\n- {name: b, schedule: '@after c'}"
        "\n- {name: c, schedule: [1 1 * * *, '@after a']}",
        "2: diskimages[0].schedule: it follows itself: a after b after c after a",
    ),
    "a label": (
        "builder-labels: [good, 'not so good']",
        "1: builder-labels[1]: 'not so good' is no label",
    ),
    "a label that is required": (
        "diskimages:\n- name: a\n  requires: a/b",
        "3: diskimages[0].requires: 'a/b' is no label",
    ),
    "spread over more than a day": ("spread: 86401", "1: spread: must be at most 86400, not 86401"),
    "variable name": (
        "diskimages:\n- name: a\n  env-vars: {A-B: x}",
        "3: diskimages[0].env-vars.A-B: an environment variable's name is made of letters",
    ),
    "element name": (
        "diskimages:\n- name: a\n  elements: [vm, ../x]",
        "3: diskimages[0].elements[1]: '../x' is no element name",
    ),
    "empty element": (
        "diskimages:\n- name: a\n  elements: ['']",
        "3: diskimages[0].elements[0]: '' is no element name",
    ),
    "dib-cmd that never ends": (
        "diskimages:\n- name: a\n  dib-cmd: dib 'x",
        "3: diskimages[0].dib-cmd: can't be split into words: No closing quotation",
    ),
    "empty dib-cmd": (
        "diskimages:\n- name: a\n  dib-cmd: ''",
        "3: diskimages[0].dib-cmd: must name a program",
    ),
    "mirror": (
        "platforms:\n- {name: p, distribution: d, release: r, mirror: mirror.test}",
        "2: platforms[0].mirror: must be a URL, or 'host'",
    ),
    "variable called like a key": (
        "platforms:\n- {name: p, distribution: d, release: r, variables: {release: x}}",
        "2: platforms[0].variables.release: 'release' is a key of the platform itself",
    ),
    "variable no template can name": (
        "platforms:\n- {name: p, distribution: d, release: r, variables: {my-var: x}}",
        "2: platforms[0].variables.my-var: a variable's name is made of letters",
    ),
    "a size without sense": (
        "keep: 1\ncache-limit: 20X",
        "2: cache-limit: a size is a number of bytes, or one with K, M, G or T as in '20G', not '20X'",
    ),
    "a size below nothing": ("disk-reserve: -1", "1: disk-reserve: a size is a number of bytes"),
    "a fraction of a byte": ("disk-reserve: 1.5", "1: disk-reserve: a size is a number of bytes"),
    "a size that is none": ("build-log-limit: true", "1: build-log-limit: a size is a number of bytes"),
    "an empty size": ("build-log-limit: ''", "1: build-log-limit: a size is a number of bytes"),
    "a size no disk has": (
        "cache-limit: 1048577T",
        "1: cache-limit: '1048577T' is more than any disk has",
    ),
    "memory without sense": (
        "build-limits:\n  memory: lots",
        "2: build-limits.memory: a size is a number of bytes",
    ),
    "no memory": ("build-limits:\n  memory: 0M", "2: build-limits.memory: must be at least 64M"),
    "hardly any memory": (
        "build-limits:\n  memory: 63M",
        "2: build-limits.memory: must be at least 64M, without which no build begins, not 63M",
    ),
    "no processors": ("build-limits:\n  cpus: 0", "2: build-limits.cpus: must be more than 0, not 0"),
    "endless processors": (
        "build-limits: {cpus: .inf}",
        "1: build-limits.cpus: must be a finite number, not number inf",
    ),
    "too nice": ("build-limits: {nice: 20}", "1: build-limits.nice: must be at most 19, not 20"),
    "rude": ("build-limits: {nice: -1}", "1: build-limits.nice: must be at least 0, not -1"),
    "io class": (
        "build-limits: {io: realtime}",
        "1: build-limits.io: must be 'idle', 'best-effort' or 'none', not text 'realtime'",
    ),
    "unknown limit": (
        "build-limits:\n  cpu: 1",
        "2: build-limits.cpu: unknown key; did you mean 'cpus'?",
    ),
    "unknown format that is kept": (
        "diskimages:\n- name: a\n  keep-formats: [raw, qcow]",
        "3: diskimages[0].keep-formats[1]: unknown format 'qcow'; did you mean 'qcow2'?",
    ),
    "text for what goes after upload": (
        "diskimages:\n- name: a\n  delete-after-upload: 'true'",
        "3: diskimages[0].delete-after-upload: must be true or false, not text 'true'",
    ),
    "options of an unknown format": (
        "diskimages:\n- name: a\n  format-options:\n    raw: {}\n    qcow: {}",
        "5: diskimages[0].format-options.qcow: unknown format 'qcow'; did you mean 'qcow2'?",
    ),
    "an inherited option of an unknown format": (
        "diskimages:\n- {name: a, format-options: {iso: {}}}\n- {name: b, parent: a}\n- {name: c, parent: a}",
        "2: diskimages[0].format-options.iso: unknown format 'iso'; known: ami, qcow2, raw, vhd, vhdx, vmdk",
    ),
    "an unknown option": (
        "diskimages:\n- name: a\n  format-options:\n    qcow2: {compresion: zstd}",
        "4: diskimages[0].format-options.qcow2.compresion: unknown key; did you mean 'compression'?",
    ),
    "a compression nobody knows": (
        "diskimages:\n- name: a\n  format-options: {qcow2: {compression: lz4}}",
        "3: diskimages[0].format-options.qcow2.compression: must be 'zstd', 'zlib' or 'none', not text 'lz4'",
    ),
    "a version that is a number": (
        "diskimages:\n- name: a\n  format-options: {qcow2: {compat: 1.1}}",
        "3: diskimages[0].format-options.qcow2.compat: must be '1.1' or '0.10', not number 1.1;"
        " put it in quotes",
    ),
    "options of a format that has none": (
        "diskimages:\n- name: a\n  format-options:\n    vmdk: {compression: none}",
        "4: diskimages[0].format-options.vmdk: vmdk has no options",
    ),
    "options that exclude each other": (
        "diskimages:\n- name: a\n  format-options:\n    qcow2: {compat: '0.10', compression: zstd}",
        "4: diskimages[0].format-options.qcow2: zstd needs compat '1.1': choose zlib or none for '0.10'",
    ),
    "text for options": (
        "diskimages:\n- name: a\n  format-options: {qcow2: zstd}",
        "3: diskimages[0].format-options.qcow2: must be a mapping, not text 'zstd'",
    ),
    "nothing for options": (
        "diskimages:\n- name: a\n  format-options:\n    qcow2:",
        "4: diskimages[0].format-options.qcow2: must be a mapping, not nothing",
    ),
    "unchanged": (
        "diskimages:\n- name: a\n  if-unchanged: wait",
        "3: diskimages[0].if-unchanged: must be 'skip' or 'build', not text 'wait'",
    ),
    "no age at all": (
        "diskimages:\n- name: a\n  max-age: 0",
        "3: diskimages[0].max-age: must be more than 0, not 0",
    ),
    "no servers": ("zookeeper-servers: []", "1: zookeeper-servers: must list at least one server"),
    "tls alone": (
        "zookeeper-tls: {cert: a, key: b, ca: c}",
        "1: zookeeper-tls: is of no use without zookeeper-servers",
    ),
    "port": (
        "zookeeper-servers:\n- {host: zk, port: 70000}",
        "2: zookeeper-servers[0].port: must be at most 65535, not 70000",
    ),
    "host": ("zookeeper-servers:\n- {host: 'a,b'}", "2: zookeeper-servers[0].host: 'a,b' is no host name"),
    "two chroots": (
        "zookeeper-servers:\n- {host: a, chroot: /x}\n- {host: b, chroot: /y}",
        "3: zookeeper-servers[1].chroot: every server must have the same chroot, not '/x' and '/y'",
    ),
    "chroot": (
        "zookeeper-servers:\n- {host: a, chroot: /x/../y}",
        "2: zookeeper-servers[0].chroot: '/x/../y' is no path in ZooKeeper",
    ),
}


@pytest.mark.parametrize(("text", "expected"), ONE_PROBLEM.values(), ids=ONE_PROBLEM.keys())
def test_a_problem_is_told_with_file_line_and_key(files: Files, text: str, expected: str) -> None:
    [problem] = files.problems(text)
    assert problem.startswith(f"imagepool.yaml:{expected}")


@pytest.mark.parametrize("value", ["zstd", "{colour: red}", ""])
def test_an_option_that_stands_where_formats_do_is_told_where_it_belongs(files: Files, value: str) -> None:
    assert files.problems(f"diskimages:\n- name: a\n  format-options: {{compression: {value}}}") == [
        "imagepool.yaml:3: diskimages[0].format-options: `compression` is no format;"
        " options stand below one, as in qcow2: {compression: zstd}"
    ]


@pytest.mark.parametrize("name", ["../x", "a b", "a/b", "", "x" * 300, "-a", "a\n", ".", "ä"])
@pytest.mark.parametrize("kind", ["diskimages", "platforms", "providers"])
def test_a_name_that_could_do_harm_is_refused(files: Files, name: str, kind: str) -> None:
    more = {"diskimages": "", "platforms": ", distribution: d, release: r", "providers": ", cloud: beta"}[
        kind
    ]
    quoted = name.replace("\n", "\\n")
    problems = files.problems(f'{kind}:\n- {{name: "{quoted}"{more}}}')
    assert len(problems) == 1
    assert problems[0].startswith(f"imagepool.yaml:2: {kind}[0].name: ")
    assert len(problems[0]) < 500


def test_what_comes_after_an_entry_that_is_left_out_is_told_at_its_own_line(files: Files) -> None:
    problems = files.problems(
        """\
        diskimages:
          - elements: [vm]
          - name: a
            elements: [1, fine, ../x, 2, ../y]
          - parent: a
          - name: b
            platform: nobody
        """
    )
    assert [problem.split(": ")[0:2] for problem in problems] == [
        ["imagepool.yaml:2", "diskimages[0].name"],
        ["imagepool.yaml:4", "diskimages[1].elements[0]"],
        ["imagepool.yaml:4", "diskimages[1].elements[3]"],
        ["imagepool.yaml:4", "diskimages[1].elements[2]"],
        ["imagepool.yaml:4", "diskimages[1].elements[4]"],
        ["imagepool.yaml:5", "diskimages[2].name"],
        ["imagepool.yaml:7", "diskimages[3].platform"],
    ]


def test_all_problems_are_told_at_once_in_the_order_of_the_file(files: Files) -> None:
    problems = files.problems(
        """\
        stat-dir: /x
        keep: 0
        schedule: often
        platforms:
          - {name: p, distribution: d}
        diskimages:
          - name: a
            platform: p
            parent: nobody
          - name: b
            elements: [vm, "{{ platform.x }}"]
            pause: 3
        providers:
          - name: q
            cloud: gamma
            diskimages: [{name: a}, {name: zzz}]
        """
    )
    assert [problem.split(": ")[0:2] for problem in problems] == [
        ["imagepool.yaml:1", "stat-dir"],
        ["imagepool.yaml:2", "keep"],
        ["imagepool.yaml:3", "schedule"],
        ["imagepool.yaml:5", "platforms[0].release"],
        ["imagepool.yaml:9", "diskimages[0].parent"],
        ["imagepool.yaml:11", "diskimages[1].elements[1]"],
        ["imagepool.yaml:12", "diskimages[1].pause"],
        ["imagepool.yaml:15", "providers[0].cloud"],
        ["imagepool.yaml:16", "providers[0].diskimages[1].name"],
    ]


def test_one_mistake_is_told_once_and_not_again_by_what_depends_on_it(files: Files) -> None:
    problems = files.problems(
        """\
        platforms:
          - {name: p, distribution: d, release: 1.5}
        diskimages:
          - {name: base, abstract: true, platform: p, elements: ["{{ nothing }}"], keep: no}
          - {name: a, parent: base}
          - {name: b, parent: base}
        providers:
          - {name: q, cloud: beta, diskimages: [{name: a}, {name: b}]}
        """
    )
    assert [problem.split(": ")[1] for problem in problems] == ["platforms[0].release", "diskimages[0].keep"]


def test_a_parents_broken_text_is_told_once_where_it_is_written(files: Files) -> None:
    problems = files.problems(
        """\
        diskimages:
          - name: base
            abstract: true
            env-vars:
              FINE: x
              BROKEN: "{{ nothing }}"
          - {name: a, parent: base}
          - {name: b, parent: base}
        """
    )
    assert len(problems) == 1
    assert problems[0].startswith("imagepool.yaml:6: diskimages[0].env-vars.BROKEN: ")


def test_aliases_that_explode_are_stopped(files: Files) -> None:
    levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 12)]
    problems = files.problems("\n".join(["l0: &l0 [x, x, x, x, x, x, x, x, x]", *levels]))
    assert len(problems) == 1
    assert "more than 100000 entries, aliases included" in problems[0]


def test_a_file_that_is_not_there_says_so(files: Files) -> None:
    assert files.problems() == ["imagepool.yaml: can't be read: No such file or directory"]


def test_a_directory_for_a_file_says_so(files: Files) -> None:
    files.main.mkdir()
    assert files.problems() == ["imagepool.yaml: can't be read: Is a directory"]


def test_a_file_that_is_not_text_says_where(files: Files) -> None:
    files.main.write_bytes(b"keep: 1\nstate-dir: \xff\n")
    assert files.problems() == ["imagepool.yaml:2: not UTF-8 text"]


def test_a_control_character_says_where(files: Files) -> None:
    files.main.write_bytes(b"keep: 1\nstate-dir: \x01\n")
    assert files.problems() == ["imagepool.yaml:2: not a text file: special characters are not allowed"]


def test_a_secure_file_that_cannot_be_read_is_a_problem(files: Files) -> None:
    files.write("keep: 1")
    files.secure.mkdir()
    assert files.problems() == ["secure.yaml: can't be read: Is a directory"]


def test_the_secure_file_is_checked_but_its_values_are_never_told(files: Files) -> None:
    files.write("diskimages: [{name: a}, {name: base, abstract: true}]\nzookeeper-servers: [{host: zk}]")
    files.write_secure(
        """\
        zookeeper-auth: {username: me, password: 424242}
        diskimages:
          - name: aa
            env-vars: {X: 434343}
          - name: base
        more: 454545
        """
    )
    problems = files.problems()
    assert problems == [
        "secure.yaml:1: zookeeper-auth.password: must be text, not something else; put it in quotes",
        "secure.yaml:3: diskimages[0].name: there is no diskimage 'aa'; did you mean 'a'?",
        "secure.yaml:4: diskimages[0].env-vars.X: must be text, not something else; put it in quotes",
        "secure.yaml:5: diskimages[1].name: diskimage 'base' is abstract: name the diskimages that are built",
        "secure.yaml:6: more: unknown key; known: diskimages, notify, zookeeper-auth, zookeeper-servers,"
        " zookeeper-timeout, zookeeper-tls",
    ]


def test_a_secret_in_the_main_file_is_not_told_either(files: Files) -> None:
    problems = files.problems("diskimages:\n- name: a\n  env-vars: {DB_PASSWORD: 424242}")
    assert problems == [
        "imagepool.yaml:3: diskimages[0].env-vars.DB_PASSWORD: must be text, not something else;"
        " put it in quotes"
    ]


def test_a_problem_is_one_line_whatever_the_key_is(files: Files) -> None:
    [problem] = files.problems('diskimages:\n- name: a\n  "x\\ny\\e[2J": 1')
    assert problem.startswith("imagepool.yaml:3: diskimages[0].x y [2J: unknown key")


@pytest.mark.parametrize(
    "written", ["!hunter2", "*hunter2", "!!int hunter2", "&hunter2 {a: b", "[hunter2", "hunter2: x"]
)
@pytest.mark.parametrize("key", ["password", "username"])
def test_no_value_of_the_secure_file_is_told(files: Files, key: str, written: str) -> None:
    files.write("zookeeper-servers: [{host: zk}]")
    files.write_secure(f"zookeeper-auth:\n  {key}: {written}\n")
    told = files.problems()
    assert told and all(problem.startswith("secure.yaml:") for problem in told)
    assert "hunter2" not in str(told)


def test_no_number_of_the_secure_file_is_told(files: Files) -> None:
    files.write("zookeeper-servers: [{host: zk}]")
    files.write_secure("zookeeper-timeout: -4711")
    assert files.problems() == ["secure.yaml:1: zookeeper-timeout: must be more than 0, not that"]


def test_a_missing_file_is_told_with_the_option_that_names_it(files: Files) -> None:
    for missing, option in ((files.main, "--config"), (files.secure, "--secure")):
        files.write("")
        secure = files.secure if missing is files.secure else None
        missing.unlink(missing_ok=True)
        with pytest.raises(ConfigError) as caught:
            load(files.main, image_format_of=image_format_of, environ={}, secure=secure)
        assert f"with {option} FILE" in caught.value.hint


def test_where_a_cloud_was_looked_for_is_told(files: Files) -> None:
    def unknown(cloud: str, region: str | None) -> ImageFormat:
        raise ConfigError([f"there is no cloud {cloud!r}"], hint="Looked at /etc/openstack/clouds.yaml.")

    files.write("providers: [{name: p, cloud: nope}]")
    with pytest.raises(ConfigError) as caught:
        load(files.main, image_format_of=unknown, environ={})
    (problem,) = caught.value.problems
    assert problem.endswith("there is no cloud 'nope'. Looked at /etc/openstack/clouds.yaml.")
