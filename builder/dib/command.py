"""Turn a diskimage into the disk-image-create command that builds it: arguments and environment.

Nothing here runs anything or looks at this machine; what comes from it (proxies, mirrors, where
programs are) comes in as an argument.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

import builder
from builder.config.model import MASK, DiskImage, FormatOptions, credentials_in
from builder.dib.isolation import sandbox
from builder.dib.output import convert
from builder.model import ImageFormat

_NONE: Final[Mapping[str, str]] = MappingProxyType({})
#: Where this Python's own programs are, diskimage-builder's among them.
_BESIDE: Final = Path(sys.executable).parent
_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: Added to every build: it leaves the data beside the image that contents/manifest.py reads.
MANIFEST_ELEMENT: Final = "imagepool-manifest"
#: Gives back the loop devices that the stand-in for kpartx listed and that are still this build's.
_RELEASE: Final = r"""release() {{
    local loop file
    [ -f {loops} ] || return 0
    sort -u {loops} | while read -r loop; do
        file=$(losetup --noheadings --output BACK-FILE "$loop" 2>/dev/null || :)
        case "$file" in
            "" | {directory}/*) ;;
            *) continue ;;
        esac
        # Partitions stay of a device that went by itself as well.
        rm -f "/dev/mapper/${{loop#/dev/}}p"*
        partx --delete "$loop" 2>/dev/null || :
        [ -z "$file" ] || losetup --detach "$loop" || :
    done
    rm -f {loops}
}}
trap release EXIT"""
#: Binds what is in /tmp into the build's own: by name, and by a list of paths as in $PATH.
_SHOW: Final = r"""show() {{
    local real=/tmp/$1 target={private}/$1
    [ ! -d "$real" ] || mkdir -p "$target"
    [ ! -f "$real" ] || touch "$target"
    [ ! -e "$target" ] || mountpoint -q "$target" || mount --rbind "$real" "$target"
}}
show_path() {{
    local path name IFS=:
    for path in $1; do
        name=${{path#/tmp/}}
        [ "$name" = "$path" ] || show "${{name%%/*}}"
    done
}}"""
_QUOTED: Final = "# shellcheck disable=SC2016  # what is quoted is for the inner bash"
_PROXIES: Final = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")


@dataclass(frozen=True, kw_only=True)
class Command:
    """A program with its arguments and its whole environment; `secret_names` are never shown."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    secret_names: frozenset[str] = frozenset()

    @property
    def shown_environment(self) -> Mapping[str, str]:
        """The environment with secret values masked, fit for screens, logs and records."""
        return {k: MASK if k in self.secret_names else v for k, v in self.environment.items()}

    @property
    def secrets(self) -> tuple[str, ...]:
        """The values that must never be seen."""
        values = [v for k, v in self.environment.items() if k in self.secret_names and v]
        # Of a URL, what matters is also shown without the rest of it; words such as "env http_proxy=..."
        # before the program may have one too.
        return (*values, *(each for text in (*values, *self.argv) for each in credentials_in(text)))


def shipped_elements() -> Path:
    """The directory of imagepool's own elements: in the package when installed, beside it in a checkout."""
    package = Path(builder.__file__).parent
    inside = package / "elements"
    return inside if inside.is_dir() else package.parent / "elements"


def proxies(environ: Mapping[str, str]) -> Mapping[str, str]:
    """The proxy settings in an environment, in either spelling."""
    return {k: v for k, v in environ.items() if k.lower() in _PROXIES}


def render(
    image: DiskImage,
    *,
    build_id: str,
    output: Path,
    work_dir: Path,
    cache_dir: Path,
    elements_dirs: Sequence[Path],
    mirrors: Mapping[str, str],
    proxies: Mapping[str, str] = _NONE,
    programs: Path = _BESIDE,
    shipped: Path | None = None,
) -> Command:
    """The command that builds `image` as a raw file `output` + ".raw".

    `work_dir` is this build's own directory (HOME and TMPDIR are in it), `cache_dir` is shared by
    all builds (below it one for each image), `mirrors` and `proxies` are variables as they are
    passed on, and `programs` is searched for disk-image-create first. The diskimage's own
    environment wins over all of it. Elements of the `shipped` directory (default: those of this
    imagepool) are found last, and imagepool-manifest among them is always built in.
    """
    platform = image.platform
    environment = {
        "PATH": ":".join(dict.fromkeys([str(programs), str(_BESIDE), _SYSTEM_PATH])),
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "USER": "root",
        "LOGNAME": "root",
        **proxies,
        "IMAGEPOOL_BUILD_ID": build_id,
        "DIB_IMAGE_NAME": image.name,
        **_places(image.name, output=output, work_dir=work_dir, cache_dir=cache_dir),
        # Our log stamps each line itself, also those that don't pass dib's own filter.
        "DIB_NO_TIMESTAMP": "1",
    }
    architecture: tuple[str, ...] = ()
    if platform is not None:
        environment["DIB_RELEASE"] = platform.release
        environment["ARCH"] = platform.architecture
        architecture = ("-a", platform.architecture)
    environment |= {**mirrors, **image.environment}
    search = environment.get("ELEMENTS_PATH") or ":".join(str(directory) for directory in elements_dirs)
    environment["ELEMENTS_PATH"] = ":".join(filter(None, (search, str(shipped or shipped_elements()))))
    return Command(
        argv=(
            *image.dib_cmd,
            "-x",
            *architecture,
            "-t",
            str(ImageFormat.RAW),
            "--no-tmpfs",
            "-o",
            str(output),
            *dict.fromkeys((*image.elements, MANIFEST_ELEMENT)),
        ),
        environment=MappingProxyType(environment),
        secret_names=frozenset(
            name for name, value in environment.items() if name in image.secret_names or credentials_in(value)
        ),
    )


def _places(image: str, *, output: Path, work_dir: Path, cache_dir: Path) -> Mapping[str, str]:
    """The variables that say where a build works."""
    return {
        "HOME": str(work_dir / "home"),
        # mktemp in dib takes the one or the other, depending on how it is called.
        "TMPDIR": str(work_dir / "tmp"),
        "TMP_DIR": str(work_dir / "tmp"),
        "DIB_IMAGE_FILENAME": str(output),
        # Of each image its own: dib binds apt's cache from here, and apt locks it.
        "DIB_IMAGE_CACHE": str(cache_dir / "image-create" / image),
        "DIB_LOCKFILES": str(cache_dir / "locks"),
        # Base trees (our element base-cache) appear whole, and are for every image that fits them.
        "DIB_BASE_CACHE": str(cache_dir / "base-cache"),
        # So are the repositories of our element cache-git, which locks each of them.
        "DIB_CACHE_GIT_DIR": str(cache_dir / "cache-git"),
    }


def moved(rendered: Command, image: str, *, output: Path, work_dir: Path, cache_dir: Path) -> Command:
    """The command of a build of `image`, with directories as in `render` in place of the build's own."""
    before = rendered.environment.get("DIB_IMAGE_FILENAME")
    places = _places(image, output=output, work_dir=work_dir, cache_dir=cache_dir)
    return replace(
        rendered,
        argv=tuple(str(output) if word == before else word for word in rendered.argv),
        environment=MappingProxyType({**rendered.environment, **places}),
    )


@dataclass(frozen=True, kw_only=True)
class Additions:
    """What a script does beyond building: lines of bash, run as root within the sandbox.

    `before` comes first, `after` when all files are made. `values` are variables of the build whose
    value is an expression of bash, such as '"$programs"': what only the other machine knows.
    """

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)


_PLAIN: Final = Additions()


def script(command: Command, image: DiskImage, additions: Additions = _PLAIN) -> str:
    """A bash script that builds the same image by hand, without the daemon, in the same sandbox.

    Of `image` only the name, the formats and their options matter. Secret values are not in the
    script: it asks for them as variables of the caller's environment.
    """
    environment = command.environment
    output = environment["DIB_IMAGE_FILENAME"]
    directories = [environment[name] for name in ("HOME", "TMPDIR", "DIB_IMAGE_CACHE", "DIB_LOCKFILES")]
    directories.append(str(Path(output).parent))
    lines = [
        "#!/bin/bash",
        f"# Builds the image {image.name} as imagepool does. Run it as root.",
        "",
        "set -eu",
        "umask 022",
        "",
        '[ "$(id -u)" = 0 ] || { echo "building an image needs root" >&2; exit 1; }',
        *(f': "${{{name}:?set {name}}}"' for name in sorted(command.secret_names)),
        "",
        "# Mounts and processes of the build end with these namespaces.",
        'if [ -z "${IMAGEPOOL_SANDBOX:-}" ]; then',
        f'    IMAGEPOOL_SANDBOX=1 exec {shlex.join(sandbox.UNSHARE)} bash "$0" "$@"',
        "fi",
        "# sudo wants to resolve the name of the machine; this one resolves everywhere.",
        "echo localhost >/proc/sys/kernel/hostname",
        "",
        f"mkdir -p {shlex.join(directories)}",
        "",
        *additions.before,
        *_private_tmp(command, additions.values),
        "",
        *_stand_ins(environment["TMPDIR"]),
        "",
        *([_QUOTED] if command.secret_names else []),
        "env -i \\",
        *(f"    {assignment} \\" for assignment in _assignments(command, additions.values)),
        *_invocation(command),
        "",
        *_conversions(output, image),
        *additions.after,
        f"ls -l {shlex.quote(str(Path(output).parent))}",
    ]
    return "\n".join(lines) + "\n"


def _assignments(command: Command, values: Mapping[str, str]) -> list[str]:
    names = sorted(command.environment.keys() - command.secret_names)
    return [f"{name}={values.get(name) or shlex.quote(command.environment[name])}" for name in names]


def _conversions(output: str, image: DiskImage) -> list[str]:
    raw = Path(f"{output}.{ImageFormat.RAW}")
    if ImageFormat.AMI in image.formats:
        # Kernel and ramdisk lie beside it already.
        return [shlex.join(["mv", str(raw), f"{output}.{ImageFormat.AMI}"])]
    lines = [
        shlex.join(convert.arguments(raw, Path(f"{output}.{wanted}"), wanted, _options(image, wanted)))
        for wanted in image.formats
        if wanted is not ImageFormat.RAW
    ]
    return lines if ImageFormat.RAW in image.formats else [*lines, f"rm -f {shlex.quote(str(raw))}"]


def _options(image: DiskImage, wanted: ImageFormat) -> FormatOptions:
    return image.format_options.get(wanted, FormatOptions())


def _invocation(command: Command) -> list[str]:
    """The command itself; secrets reach it through a pipe, for arguments are for everybody to read."""
    argv, names = shlex.join(command.argv), sorted(command.secret_names)
    if not names:
        return [f"    {argv}"]
    take = f"for name in {' '.join(names)}; do " + """IFS= read -r -d "" "$name" <&3; export "$name"; done"""
    program = shlex.quote(f'{take}; exec "$@" 3<&-')
    values = " ".join(f'"${name}"' for name in names)
    return [f"    bash -c {program} bash {argv} \\", f"    3< <(printf '%s\\0' {values})"]


def _private_tmp(command: Command, values: Mapping[str, str]) -> list[str]:
    """What `sandbox.start` does about /tmp, in bash."""
    closed = f"{command.environment['TMPDIR']}/shared"
    private = shlex.quote(f"{closed}/tmp")
    hidden = command.secret_names | values.keys()
    shown = (value for name, value in command.environment.items() if name not in hidden)
    names = sandbox.names_below_tmp([*command.argv, *shown])
    return [
        "# A /tmp of its own, with what the build names of the real one: sudo drops TMPDIR.",
        f"mkdir -p {private}",
        f"chmod 700 {shlex.quote(closed)}",
        f"chmod 1777 {private}",
        *([_SHOW.format(private=private)] if names or values else []),
        *(f"show {shlex.quote(name)}" for name in names),
        *(f"show_path {values[name]}" for name in sorted(values)),
        f"mount --rbind {private} /tmp",
    ]


def _stand_ins(directory: str) -> list[str]:
    loops = Path(directory) / "loops"
    lines = ["# Without device-mapper in the kernel, partitions of loop devices come from partx instead."]
    lines.append("if ! grep -qw device-mapper /proc/misc; then")
    lines.append(_RELEASE.format(loops=shlex.quote(str(loops)), directory=shlex.quote(directory)))
    for tool, text in sandbox.stand_ins(loops=loops).items():
        file = shlex.quote(f"{directory}/{tool}")
        lines += [f"cat > {file} <<'STAND_IN'", text.rstrip("\n"), "STAND_IN", f"chmod 755 {file}"]
        lines += [f'mount --bind {file} "$(readlink -f "$(command -v {tool})")"']
    return [*lines, "fi"]
