"""Triton's Jacobi on stencils against the CPU's sweeps, interpreted on the CPU."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from fastiter.relax import Relaxation, Stencil  # noqa: E402
from fastiter.relax._torch import relaxation  # noqa: E402
from tests.support.cases import Array  # noqa: E402

GRIDS = [(1, 1), (9, 1), (3, 300), (2, 3, 4), (4, 1, 19), (3, 5, 33)]


def stencil(grid: tuple[int, ...], dtype: str, is_constant: bool, has_mask: bool) -> Stencil:
    rng = np.random.default_rng([*grid, is_constant, has_mask])
    c = rng.uniform(-1.0, 1.0, (2 * len(grid) + 1, *(() if is_constant else grid)))
    c[0] = 7.5
    return Stencil(grid, c.astype(dtype), rng.random(grid) < 0.8 if has_mask else None)


@pytest.mark.parametrize("is_constant", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_jacobi(dtype: str, is_constant: bool, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if device == "cpu":
        monkeypatch.setattr(relaxation, "_GPUS", ("cpu",))
    for grid, has_mask in itertools.product(GRIDS, (False, True)):
        s, rng = stencil(grid, dtype, is_constant, has_mask), np.random.default_rng(1)
        b, x = (rng.standard_normal(grid).astype(dtype) for _ in range(2))
        for omega, count in ((1.0, 1), (0.8, 2)) if grid == (3, 5, 33) else ((0.8, 2),):
            check(s, b, x, omega, count, device)


def check(s: Stencil, b: Array, x: Array, omega: float, count: int, device: str) -> None:
    expected, actual = x.copy(), torch.from_numpy(x.copy()).to(device)
    Relaxation(s, "jacobi", omega=omega).sweep(expected, b, count)
    ours: Any = relaxation.Relaxation(s, "jacobi", omega=omega, backend="triton")
    ours.sweep(actual, torch.from_numpy(b).to(device), count)
    atol = 20 * float(np.finfo(b.dtype).eps) * max(1.0, float(abs(expected).max(initial=0)))
    np.testing.assert_allclose(actual.cpu(), expected, rtol=0, atol=atol, err_msg=str((s.grid, omega)))


def test_an_empty_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relaxation, "_GPUS", ("cpu",))
    x = torch.zeros(0, 3)
    for is_constant in (True, False):
        empty = stencil((0, 3), "float32", is_constant, True)
        relaxation.Relaxation(empty, "jacobi", backend="triton").sweep(x, x.clone())
