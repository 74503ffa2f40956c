"""Scans of some columns of larger arrays, and final states without results: as a rank computes them."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

import torch

import fastiter.torch
from fastiter.scan._torch import ops
from fastiter.scan._torch.ops import LINEAR, ScanBackward, ScanForward


def cuts(batch: int, steps: int) -> list[dict[str, Any]]:
    packed = torch.tensor([0, steps // 3, steps // 3, steps])
    flags = torch.rand(batch, steps) < 0.2
    return [{}, {"reset": flags}, {"lengths": torch.randint(0, steps + 1, (batch,))}] + (
        [{"cu_seqlens": packed}, {"cu_seqlens": packed, "reset": flags}] if batch == 1 else []
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("reverse", [False, True])
def test_final_state_alone_has_the_same_bits(dtype: torch.dtype, reverse: bool) -> None:
    for batch, steps in ((0, 3), (1, 0), (1, 1), (1, 97), (5, 10)):
        for width in (0, 1, 15, 16, 31, 33, 64, 65, 200):
            a, x = torch.randn(2, batch, steps, width, dtype=dtype)
            for how in cuts(batch, steps):
                expected = fastiter.torch.linear_scan(a, x, reverse=reverse, **how)[1]
                state = torch.zeros_like(expected)
                flags, lengths, bounds = (how.get(name) for name in ("reset", "lengths", "cu_seqlens"))
                for given in (None, state):
                    found = ops.last_state(ScanForward(a, x, given, reverse, flags, lengths, bounds))
                    assert torch.equal(found, expected)


def test_nan_and_infinity_reach_the_final_state_alone() -> None:
    a, x = torch.ones(1, 9, 70), torch.zeros(1, 9, 70)
    x[0, 2, 3], x[0, 2, 40] = torch.nan, torch.inf
    found = ops.last_state(ScanForward(a, x, None, False, None, None, None))
    assert found[0, 3].isnan() and found[0, 40].isinf() and found[0, [*range(3), *range(41, 70)]].eq(0).all()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("first", "width"), [(0, 16), (64, 64), (3, 33), (32, 160), (255, 1)])
def test_columns_of_arrays_larger_than_every_cache(first: int, width: int, reverse: bool) -> None:
    """The results of some columns use non-temporal stores too, at any alignment; other columns keep their values."""
    columns = slice(first, first + width)
    every = [torch.rand(1, 14_000, 256) for _ in range(3)]
    a, x, dh = (y[..., columns] for y in every)
    h, dx, da = (torch.full(every[0].shape, -1.0) for _ in range(3))
    last = ops.forward_into(LINEAR, ScanForward(a, x, None, reverse, None, None, None), h[..., columns])
    expected, expected_last = fastiter.torch.linear_scan(a.contiguous(), x.contiguous(), reverse=reverse)
    assert torch.equal(h[..., columns], expected) and torch.equal(last, expected_last)
    call = ScanBackward(a, h[..., columns], None, dh, None, reverse, None, None, None, True, True, True)
    first_gradient = ops.backward_into(LINEAR, call, dx[..., columns], da[..., columns])
    leaves = [a.clone().requires_grad_(), x.clone().requires_grad_(), torch.zeros(1, width, requires_grad=True)]
    result = fastiter.torch.linear_scan(*leaves, reverse=reverse)[0]
    gradients = torch.autograd.grad(result, leaves, dh.contiguous())
    assert torch.equal(da[..., columns], gradients[0]) and torch.equal(dx[..., columns], gradients[1])
    assert torch.equal(first_gradient, gradients[2])
    for y in (h, dx, da):
        assert y[..., :first].eq(-1).all() and y[..., first + width :].eq(-1).all()
