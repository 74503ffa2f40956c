"""Recurrences on sharded steps within models: data-parallel wrappers, torch.compile and activation checkpointing."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from tests.distributed.ranks import results
from tests.distributed.sequences import model_jobs


@pytest.mark.parametrize(
    ("kind", "exchange"),
    [
        ("ddp", "pipeline"),
        ("fsdp", "scan"),
        ("checkpoint", "pipeline"),
        ("checkpoint", "scan"),
        ("compile", "scan"),
    ],
)
def test_gradients_of_wrapped_models(kind: str, exchange: str) -> None:
    """Sums of a few hundred products of numbers of order one, in float64."""
    assert max(results(model_jobs.wrapped, 2, kind, exchange)) < 1e-11
