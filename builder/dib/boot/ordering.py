"""Says what is to be booted of a build, on which machine, and which own checks run there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builder.bootorder import ARCHITECTURES, Check, Order
from builder.config.model import BuildLimits, DiskImage
from builder.dib.command import Command
from builder.dib.contents import inputs
from builder.errors import RefusedError
from builder.host import architectures
from builder.model import Artifact, ImageFormat

#: Beside the configuration: scripts that run in every image that is booted.
DIRECTORY: Final = "boot-test.d"
#: In an element: scripts that run in every image that has it.
OF_ELEMENTS: Final = "tests"
#: The element by which diskimage-builder makes a disk that UEFI alone boots, and Glance's property of such.
_UEFI_ELEMENT: Final = "block-device-efi"
_UEFI_PROPERTY: Final = "hw_firmware_type"
#: Bytes that QEMU takes beside its machine's memory: translated code, what it is itself, and this program.
_BESIDE: Final = 512 << 20
#: What is booted, the first there is; the others are made from the same disk.
_PREFERRED: Final = (ImageFormat.QCOW2, ImageFormat.RAW, ImageFormat.AMI)
#: As run-parts has them, so that an editor's copies and a README are none.
_SCRIPT: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


@dataclass(frozen=True, kw_only=True)
class Checks:
    """The scripts that were found, and those that were not taken, each with why."""

    found: tuple[Check, ...] = ()
    left_out: tuple[str, ...] = ()


def to_boot(formats: Iterable[ImageFormat]) -> tuple[ImageFormat, ...]:
    """The formats of the files to boot of those that are made: one, and its parts."""
    whole = sorted({each for each in formats if not each.is_part})
    chosen = next((each for each in _PREFERRED if each in whole), whole[0])
    return (chosen, *chosen.parts)


def machine_of(image: DiskImage, environment: Mapping[str, str]) -> tuple[str, str]:
    """Architecture and firmware of the machine that an image is made for."""
    architecture = environment.get("ARCH", "")
    if image.platform is not None:
        architecture = image.platform.architecture
    ours = sorted(architectures().intersection(ARCHITECTURES))
    architecture = architecture or next(iter(ours), ARCHITECTURES[0])
    made_for_uefi = _UEFI_ELEMENT in image.elements or image.metadata.get(_UEFI_PROPERTY) == "uefi"
    usual = "uefi" if made_for_uefi or architecture == "arm64" else "bios"
    return architecture, image.boot_test.firmware or usual


def order(
    image: DiskImage,
    environment: Mapping[str, str],
    files: Mapping[ImageFormat, Path],
    artifact: Artifact,
    checks: Checks,
    *,
    place: Path,
    hold: bool = False,
) -> Order:
    """What the program is told: `files` are those of `to_boot`, `artifact` is the first of them."""
    test = image.boot_test
    architecture, firmware = machine_of(image, environment)
    kernel, ramdisk = (str(files.get(part, "")) for part in (ImageFormat.AKI, ImageFormat.ARI))
    return Order(
        disk=str(files[artifact.format].absolute()),
        format=str(artifact.format),
        size=artifact.virtual_size,
        architecture=architecture,
        firmware=firmware,
        memory=test.memory,
        cpus=test.cpus,
        user=test.user or image.username,
        timeout=test.timeout.total_seconds(),
        place=str(place),
        kernel=kernel,
        ramdisk=ramdisk,
        allowed_failed_units=test.allowed_failed_units,
        checks=checks.found,
        hold=hold,
    )


def own_checks(image: DiskImage, rendered: Command, config_dir: Path | None) -> Checks:
    """The scripts of every element in use and of the operator's directories, in this order.

    Raises RefusedError when a directory that is named in the configuration is not there; OSError when one
    can't be read.
    """
    found: list[Check] = []
    left_out: list[str] = []
    try:
        elements = inputs.resolve(rendered.argv, rendered.environment)
    except RefusedError as error:
        # Whatever builds the image by another `dib-cmd` may know them.
        elements = {}
        left_out.append(f"checks of elements: {error.message}")
    named = ((name, directory / OF_ELEMENTS) for name, directory in elements.items())
    there = [(name, directory) for name, directory in named if directory.is_dir()]
    for name, directory in (*there, *_of_the_operator(image, config_dir)):
        for path in sorted(directory.iterdir()):
            why = _why_not(path)
            if why is None:
                found.append(Check(name=f"{name}/{path.name}", path=str(path.resolve())))
            else:
                left_out.append(f"{path}: {why}")
    return Checks(found=tuple(found), left_out=tuple(left_out))


def check(image: DiskImage, limits: BuildLimits) -> None:
    """Raise RefusedError unless a build's memory is enough for the machine that its image is booted on, and
    the directories of its own checks are there."""
    for directory in image.boot_test.checks or ():
        if not directory.is_dir():
            raise _gone(directory)
    wanted = image.boot_test.memory + _BESIDE
    if limits.memory is not None and limits.memory < wanted:
        raise RefusedError(
            f"build-limits.memory, {limits.memory >> 20} MiB, has no room for a machine of"
            f" {image.boot_test.memory >> 20} MiB, on which the image is booted, and its emulator",
            hint=f"Raise it to {wanted >> 20}M, or lower boot-test.memory.",
        )


def _of_the_operator(image: DiskImage, config_dir: Path | None) -> Iterator[tuple[str, Path]]:
    """Every directory with checks beside the elements', and what the checks in it are called by."""
    if image.boot_test.checks is not None:
        for directory in image.boot_test.checks:
            if not directory.is_dir():
                raise _gone(directory)
            yield directory.name, directory
    elif config_dir is not None and (config_dir / DIRECTORY).is_dir():
        yield DIRECTORY, config_dir / DIRECTORY


def _gone(directory: Path) -> RefusedError:
    return RefusedError(
        f"there is no directory {directory} with checks of the boot test",
        hint="Make it, or mend boot-test.checks.",
    )


def _why_not(path: Path) -> str | None:
    """Why a file is no check; None when it is one."""
    if not path.is_file():
        return "no file"
    if not _SCRIPT.match(path.name):
        return "its name has other characters than letters, digits, '_' and '-'"
    return None if os.access(path, os.X_OK) else "not executable"
