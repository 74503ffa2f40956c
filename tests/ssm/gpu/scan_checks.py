"""Comparisons of selective scans of tensors with the specification, for the kernels of a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fastiter.torch.ssm import selective_scan
from tests.ssm.calls import assert_near, scan_inputs, some_bounds, some_resets, specified, specified_gradients


def cuts(cut: str, batch: int, time: int) -> dict[str, Any]:
    return {
        "": {},
        "reset": {"reset": some_resets(batch, time)},
        "lengths": {"lengths": [time, time // 3][:batch], "reset": some_resets(2, time)[0]},
        "packed": {"cu_seqlens": some_bounds(3, time), "reset": some_resets(1, time)},
    }[cut]


def check(device: str, size: tuple[int, ...], dtype: Any, cut: str, softplus: bool, order: str, **how: Any) -> None:
    """Assert that out, the last states and all gradients equal the specification's."""
    inputs = scan_inputs(*size, dtype, sequences=3 if cut == "packed" else None, **how)
    if not softplus:
        inputs = inputs._replace(delta=abs(inputs.delta))
    given = {name: torch.from_numpy(x).to(device) for name, x in inputs.arguments().items()}
    if order == "channels":
        signals = {
            name: x.transpose(1, 2).contiguous().transpose(1, 2) for name, x in given.items() if x.shape == size[:3]
        }
        given |= signals
    given = {name: x.requires_grad_() for name, x in given.items()}
    options = cuts(cut, size[0], size[2])
    on = {name: torch.from_numpy(x).to(device) if name == "reset" else x for name, x in options.items()}
    outputs = selective_scan(**given, delta_softplus=softplus, return_last_state=True, **on)
    rng = np.random.default_rng(1)
    cotangents = [rng.standard_normal(y.shape).astype(dtype) for y in outputs]
    on_device = [torch.from_numpy(c.copy()).to(device) for c in cotangents]
    gradients = torch.autograd.grad(outputs, list(given.values()), on_device)
    terms = 4 * int(np.prod(size))  # a weight's gradient is a sum over rows, steps and channels
    for mine, expected in zip(outputs, specified(inputs, softplus, **options), strict=True):
        assert_near(mine.detach().cpu().numpy(), expected, dtype, terms)
    exact = specified_gradients(inputs, *cotangents, softplus, **options)
    for name, g in zip(given, gradients, strict=True):
        assert g.dtype == given[name].dtype
        assert_near(g.cpu().numpy(), getattr(exact, name), dtype, terms, name)
