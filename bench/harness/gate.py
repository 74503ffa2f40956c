"""The gate before the race: a result that differs from its peer's is not timed."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


class GateError(Exception):
    """Two competitors do not compute the same results: no times are reported."""


def tolerance(dtype: torch.dtype, length: int) -> float:
    """The permitted rounding error relative to the largest value: `length` errors add up like a random walk."""
    return torch.finfo(dtype).eps * (64 + 4 * math.sqrt(length))


def difference(result: Tensor, expected: Tensor) -> float:
    """Largest deviation relative to the largest expected value; infinite if shapes differ or values are not finite."""
    if result.shape != expected.shape or not result.isfinite().all():
        return math.inf
    scale = expected.abs().max().item()
    return (result - expected).abs().max().item() / (scale or 1.0)


def check(case: str, results: Mapping[str, Tensor], expected: Mapping[str, Tensor], length: int) -> float:
    """Compare by name; raise GateError at the first that is off, else return the largest difference."""
    worst = 0.0
    for name, want in expected.items():
        if name not in results:
            raise GateError(f"{case}: {name} is missing")
        error, limit = difference(results[name], want.to(results[name].dtype)), tolerance(want.dtype, length)
        if not error <= limit:
            raise GateError(f"{case}: {name} is off by {error:.1e} of its largest value, more than {limit:.1e}")
        worst = max(worst, error)
    return worst
