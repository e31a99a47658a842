"""What a machine's architecture is called."""

from __future__ import annotations

import platform

import pytest

from builder.host import architectures


@pytest.mark.parametrize(
    ("kernels", "debians"),
    [("x86_64", "amd64"), ("aarch64", "arm64"), ("ppc64le", "ppc64el"), ("s390x", "s390x")],
)
def test_the_architecture_has_two_names(monkeypatch: pytest.MonkeyPatch, kernels: str, debians: str) -> None:
    monkeypatch.setattr(platform, "machine", lambda: kernels)
    assert architectures() == {kernels, debians}
