"""KVM is taken where a guest runs under it, and only there; what works is tried, not believed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import host
from builder.emulator import accelerator
from builder.emulator.machine import Architecture
from builder.errors import ToolMissingError

HERE = next(each for each in Architecture if each in host.architectures())
#: What the probe waits for at most in tests that wait in vain.
SHORT = 0.5


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    accelerator.works.cache_clear()
    yield
    accelerator.works.cache_clear()


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /dev/kvm that can be opened."""
    file = tmp_path / "kvm"
    file.touch()
    monkeypatch.setattr(accelerator, "KVM_DEVICE", file)
    return file


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A QEMU of this machine's architecture that does as a test says; "asked" lists how it was called."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return programs / f"qemu-system-{HERE.kernel_name}"


def does(qemu: Path, what: str) -> None:
    qemu.write_text(f'#!/bin/sh\necho "$*" >>"{qemu.parent}/asked"\n{what}\n')
    qemu.chmod(0o755)


GOOD = f"exit {0 if HERE is Architecture.ARM64 else 85}"


def test_kvm_is_taken_where_the_guest_ends_itself_and_asked_once(device: Path, qemu: Path) -> None:
    does(qemu, GOOD)
    chosen = [accelerator.choose(HERE) for _ in range(3)]
    assert {each.name for each in chosen} == {"kvm"}
    (asked,) = (qemu.parent / "asked").read_text().splitlines()
    # What is tried is what will be run: the CPU as well.
    assert f"-accel {chosen[0].argument} -cpu {chosen[0].cpu} " in asked


@pytest.mark.parametrize(
    "what",
    ["exec sleep 60", "exit 1", 'echo "failed to set MSR" >&2; kill -ABRT $$', "exit 87"],
    ids=["it hangs", "it is refused", "it crashes", "it ends otherwise"],
)
def test_where_no_guest_runs_it_is_emulated(
    what: str, device: Path, qemu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    does(qemu, what)
    assert not accelerator.runs(str(qemu), HERE, "kvm", "host", SHORT)
    monkeypatch.setattr(accelerator, "runs", lambda *words: False)
    assert accelerator.choose(HERE).name == "tcg"


def test_a_device_that_may_not_be_opened_is_not_tried(
    qemu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerator, "KVM_DEVICE", tmp_path / "absent")
    does(qemu, GOOD)
    assert accelerator.choose(HERE).name == "tcg"
    assert not (qemu.parent / "asked").exists()


def test_another_architecture_is_always_emulated(device: Path) -> None:
    other = next(each for each in Architecture if each is not HERE)
    assert not accelerator.works("/bin/true", other)


@pytest.mark.parametrize("architecture", [*Architecture])
def test_the_guest_of_the_probe_does_end_itself(architecture: Architecture) -> None:
    program = accelerator.emulator(architecture)
    cpu = accelerator.emulated(architecture).cpu
    assert accelerator.runs(program, architecture, "tcg", cpu, limit=60.0)


@pytest.mark.parametrize("architecture", [*Architecture])
def test_emulated_processors_take_turns(architecture: Architecture) -> None:
    # Side by side, they see each other's changes to the kernel's code too late, and good kernels panic.
    assert "thread=single" in accelerator.emulated(architecture).argument.split(",")


def test_without_an_emulator_its_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(accelerator, "find_tool", _nothing)
    with pytest.raises(ToolMissingError, match="qemu-system-arm"):
        accelerator.choose(Architecture.ARM64)


def _nothing(name: str, *, package: str) -> str:
    raise ToolMissingError(f"the program {name} is not installed", hint=f"Install the package {package}.")
