"""accelerate on the layers of flash-linear-attention, whose own functions do not run on CPUs."""

from __future__ import annotations

import importlib.metadata

import pytest

from tests.support.scripts import run_script

pytest.importorskip("torch")


def test_layers_of_flash_linear_attention() -> None:
    """Run in a separate process: here, fla is hidden from transformers."""
    try:
        importlib.metadata.version("flash-linear-attention")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs flash-linear-attention")
    run_script("tests.accelerate.fla.layers")
