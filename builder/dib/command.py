"""Turn a diskimage into the disk-image-create command that builds it: arguments and environment.

Nothing here runs anything or looks at this machine; what comes from it (proxies, mirrors, where
programs are) comes in as an argument.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from builder.config.model import MASK, DiskImage, credentials_in
from builder.dib import convert, sandbox
from builder.model import ImageFormat

_NONE: Final[Mapping[str, str]] = MappingProxyType({})
#: Where this Python's own programs are, diskimage-builder's among them.
_BESIDE: Final = Path(sys.executable).parent
_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: Gives back the loop devices that the stand-in for kpartx listed and that are still this build's.
_RELEASE: Final = r"""release() {{
    local loop file
    [ -f {loops} ] || return 0
    for loop in $(sort -u {loops}); do
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
        # Of a URL, what matters is also shown without the rest of it.
        return (*values, *(each for value in values for each in credentials_in(value)))


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
) -> Command:
    """The command that builds `image` as a raw file `output` + ".raw".

    `work_dir` is this build's own directory (HOME and TMPDIR are in it), `cache_dir` is shared by
    all builds (below it one for each image), `mirrors` and `proxies` are variables as they are
    passed on, and `programs` is searched for disk-image-create first. The diskimage's own
    environment wins over all of it.
    """
    platform = image.platform
    environment = {
        "PATH": ":".join(dict.fromkeys([str(programs), str(_BESIDE), _SYSTEM_PATH])),
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "USER": "root",
        "LOGNAME": "root",
        "HOME": str(work_dir / "home"),
        # mktemp in dib takes the one or the other, depending on how it is called.
        "TMPDIR": str(work_dir / "tmp"),
        "TMP_DIR": str(work_dir / "tmp"),
        **proxies,
        "IMAGEPOOL_BUILD_ID": build_id,
        "DIB_IMAGE_NAME": image.name,
        "DIB_IMAGE_FILENAME": str(output),
        # Of each image its own: dib binds apt's cache from here, and apt locks it.
        "DIB_IMAGE_CACHE": str(cache_dir / "image-create" / image.name),
        "DIB_LOCKFILES": str(cache_dir / "locks"),
        # Our log stamps each line itself, also those that don't pass dib's own filter.
        "DIB_NO_TIMESTAMP": "1",
    }
    architecture: tuple[str, ...] = ()
    if elements_dirs:
        environment["ELEMENTS_PATH"] = ":".join(str(directory) for directory in elements_dirs)
    if platform is not None:
        environment["DIB_RELEASE"] = platform.release
        environment["ARCH"] = platform.architecture
        architecture = ("-a", platform.architecture)
    environment |= {**mirrors, **image.environment}
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
            *image.elements,
        ),
        environment=MappingProxyType(environment),
        secret_names=frozenset(
            name for name, value in environment.items() if name in image.secret_names or credentials_in(value)
        ),
    )


def script(command: Command, image: DiskImage) -> str:
    """A bash script that builds the same image by hand, without the daemon, in the same sandbox.

    Secret values are not in it: it asks for them as variables of the caller's environment.
    """
    environment = command.environment
    output = environment["DIB_IMAGE_FILENAME"]
    raw = f"{output}.{ImageFormat.RAW}"
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
        *_private_tmp(command),
        "",
        *_stand_ins(environment["TMPDIR"]),
        "",
        "env -i \\",
        *(
            f"    {name}={shlex.quote(environment[name])} \\"
            for name in sorted(environment.keys() - command.secret_names)
        ),
        *_invocation(command),
        "",
        *(
            shlex.join(convert.arguments(Path(raw), Path(f"{output}.{wanted}"), wanted))
            for wanted in image.formats
            if wanted is not ImageFormat.RAW
        ),
        *([] if ImageFormat.RAW in image.formats else [f"rm -f {shlex.quote(raw)}"]),
        f"ls -l {shlex.quote(str(Path(output).parent))}",
    ]
    return "\n".join(lines) + "\n"


def _invocation(command: Command) -> list[str]:
    """The command itself; secrets reach it through a pipe, for arguments are for everybody to read."""
    argv, names = shlex.join(command.argv), sorted(command.secret_names)
    if not names:
        return [f"    {argv}"]
    take = f"for name in {' '.join(names)}; do " + """IFS= read -r -d "" "$name" <&3; export "$name"; done"""
    program = shlex.quote(f'{take}; exec "$@" 3<&-')
    values = " ".join(f'"${name}"' for name in names)
    return [f"    bash -c {program} bash {argv} \\", f"    3< <(printf '%s\\0' {values})"]


def _private_tmp(command: Command) -> list[str]:
    """What `sandbox.start` does about /tmp, in bash."""
    closed = f"{command.environment['TMPDIR']}/shared"
    private = shlex.quote(f"{closed}/tmp")
    shown = (value for name, value in command.environment.items() if name not in command.secret_names)
    names = sandbox.names_below_tmp([*command.argv, *shown])
    lines = [
        "# A /tmp of its own, with what the build names of the real one: sudo drops TMPDIR.",
        f"mkdir -p -m 700 {shlex.quote(closed)}",
        f"mkdir -p {private}",
        f"chmod 1777 {private}",
    ]
    for name in names:
        real, target = shlex.quote(f"/tmp/{name}"), shlex.quote(f"{closed}/tmp/{name}")
        lines += [
            f"[ ! -d {real} ] || mkdir -p {target}",
            f"[ ! -f {real} ] || touch {target}",
            f"[ ! -e {target} ] || mount --rbind {real} {target}",
        ]
    return [*lines, f"mount --rbind {private} /tmp"]


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
