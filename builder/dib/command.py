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

from builder.config.model import MASK, DiskImage
from builder.dib import convert, sandbox
from builder.model import ImageFormat

_NONE: Final[Mapping[str, str]] = MappingProxyType({})
_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
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
        return tuple(v for k, v in self.environment.items() if k in self.secret_names and v)


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
    programs: Path = Path(sys.executable).parent,
) -> Command:
    """The command that builds `image` as a raw file `output` + ".raw".

    `work_dir` is this build's own directory (HOME and TMPDIR are in it), `cache_dir` is shared by
    all builds, `mirrors` and `proxies` are variables as they are passed on, and `programs` is
    searched for disk-image-create first. The diskimage's own environment wins over all of it.
    """
    platform = image.platform
    environment = {
        "PATH": f"{programs}:{_SYSTEM_PATH}",
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
        "DIB_IMAGE_CACHE": str(cache_dir / "image-create"),
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
        secret_names=image.secret_names & environment.keys(),
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
        *_stand_ins(environment["TMPDIR"]),
        "",
        "env -i \\",
        *(f"    {_assignment(name, command)} \\" for name in sorted(environment)),
        f"    {shlex.join(command.argv)}",
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


def _assignment(name: str, command: Command) -> str:
    if name in command.secret_names:
        return f'{name}="${name}"'
    return f"{name}={shlex.quote(command.environment[name])}"


def _stand_ins(directory: str) -> list[str]:
    lines = ["# Without device-mapper in the kernel, partitions of loop devices come from partx instead."]
    lines.append("if ! grep -qw device-mapper /proc/misc; then")
    for tool, text in sandbox.stand_ins(loops=Path(directory) / "loops").items():
        file = shlex.quote(f"{directory}/{tool}")
        lines += [f"cat > {file} <<'STAND_IN'", text.rstrip("\n"), "STAND_IN", f"chmod 755 {file}"]
        lines += [f'mount --bind {file} "$(readlink -f "$(command -v {tool})")"']
    return [*lines, "fi"]
