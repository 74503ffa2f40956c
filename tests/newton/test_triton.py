"""The diagonal cells by Triton's kernels: interpreted on the CPU, compiled on a card."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import fastiter.torch  # noqa: E402
from fastiter.newton._cells import CELLS  # noqa: E402
from fastiter.newton._torch import functional as functions  # noqa: E402
from fastiter.newton._torch import gpu  # noqa: E402
from fastiter.reference import newton as reference  # noqa: E402
from fastiter.scan._torch import ops as scan_ops  # noqa: E402
from fastiter.scan._torch import triton as scan_triton  # noqa: E402
from tests.support.cases import assert_close  # noqa: E402

every_cell = pytest.mark.parametrize("cell", CELLS)


@pytest.fixture(autouse=True)
def gpu_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Route CPU tensors to the GPU implementation; fill uninitialised memory with NaN."""
    monkeypatch.setattr(functions, "para_fwd", gpu.forward)
    monkeypatch.setattr(functions, "para_bwd", gpu.backward)
    real = torch.Tensor.new_empty

    def filled(x: Any, *args: Any, **options: Any) -> Any:
        new = real(x, *args, **options)
        return new.fill_(torch.nan) if new.is_floating_point() else new

    monkeypatch.setattr(torch.Tensor, "new_empty", filled)


def inputs(cell: str, B: int, T: int, D: int, dtype: Any) -> dict[str, Any]:
    rng, what = np.random.default_rng([B, T, D]), CELLS[cell]
    wx, a = rng.standard_normal((B, T, what.gates, D)), rng.standard_normal((what.gates, D))
    given: dict[str, Any] = {"wx": wx, "a": a}
    if what.peepholes:
        given["p"] = rng.standard_normal((2, D))
    state = [rng.standard_normal((B, D)) for _ in what.states]
    if cell == "paraslstm":
        state[2] = 1 + abs(state[2])
    return {name: x.astype(dtype) for name, x in given.items()} | {"state": [x.astype(dtype) for x in state]}


def call(cell: str, given: dict[str, Any], state: Any, **how: Any) -> Any:
    weights = [given["p"]] if "p" in given else []
    return getattr(fastiter.torch, cell)(given["wx"], given["a"], *weights, state, **how)


def check(device: str, cell: str, B: int, T: int, D: int, dtype: Any, how: dict[str, Any], first: bool) -> None:
    """Assert that h, the last states and all gradients equal the specification's."""
    arrays = inputs(cell, B, T, D, dtype)
    state = arrays.pop("state") if first else arrays.pop("state") and None
    given = {name: torch.from_numpy(x).to(device).requires_grad_() for name, x in arrays.items()}
    parts = [torch.from_numpy(x).to(device).requires_grad_() for x in state or ()]
    h, last = call(cell, given, tuple(parts) or None, **how)
    rng = np.random.default_rng(1)
    cotangents = [rng.standard_normal(y.shape).astype(dtype) for y in (h, *last)]
    leaves = [*given.values(), *parts]
    gradients = torch.autograd.grad([h, *last], leaves, [torch.from_numpy(y).to(device) for y in cotangents])
    wide = [x.astype(np.float64) for x in (arrays["wx"], arrays["a"], arrays.get("p", np.zeros((0, D))))]
    wide_state = None if state is None else [x.astype(np.float64) for x in state]
    exact_h, exact_last, _ = reference.sequential(cell, *wide, wide_state, **how)
    dwx, da, dp, dstate = reference.backward(cell, *wide, wide_state, cotangents[0], cotangents[1:], **how)
    exact = (exact_h, *exact_last, dwx, da, *([dp] if "p" in given else []), *(dstate if first else ()))
    for mine, expected in zip((h, *last, *gradients), exact, strict=True):
        assert_close(mine.detach().cpu().numpy(), expected.astype(dtype), 8 * T * B, 8)


@pytest.mark.parametrize(
    ("B", "T", "D", "dtype", "how", "first"),
    [
        (2, 6, 5, np.float32, {}, True),
        (3, 5, 3, np.float64, {"lengths": [5, 0, 3], "reverse": True}, True),
        (1, 1, 67, np.float64, {}, False),
    ],
)
@every_cell
def test_states_and_gradients(
    cell: str, B: int, T: int, D: int, dtype: Any, how: dict[str, Any], first: bool, device: str
) -> None:
    check(device, cell, B, T, D, dtype, how, first)


@every_cell
def test_empty_inputs_and_views(cell: str, device: str) -> None:
    for B, T in ((0, 2), (2, 0)):
        given = {
            k: torch.from_numpy(v).to(device) for k, v in inputs(cell, B, T, 3, np.float32).items() if k != "state"
        }
        h, last = call(cell, given, None)
        assert h.shape == (B, T, 3) and not any(x.any() for x in last)
    given = {k: torch.from_numpy(v).to(device) for k, v in inputs(cell, 2, 4, 3, np.float32).items() if k != "state"}
    expected = call(cell, given, None)[0]
    for view in (lambda x: x.transpose(0, 1).contiguous().transpose(0, 1), lambda x: x.mT.contiguous().mT):
        assert torch.equal(call(cell, given | {"wx": view(given["wx"])}, None)[0], expected)


def test_large_numbers_saturate(device: str) -> None:
    wx = torch.tensor([[-1e4, 1e4, -1e4], [1e4, -1e4, 1e4]], device=device).reshape(1, 2, 3, 1)
    h, _ = fastiter.torch.paragru(wx, torch.ones(3, 1, device=device))
    assert h.flatten().tolist() == [0.0, 1.0]


# ---- any cell: fastiter.torch.solve_recurrence on the scans ---------------------------------------------------------


def any_cell(h: Any, x: Any, params: Any) -> Any:
    keep = torch.sigmoid(x[..., 0] + params * h)
    return keep * h + (1 - keep) * torch.tanh(x[..., 1])


def coupled_cell(h: Any, x: Any, params: Any) -> Any:
    first, second = h
    return torch.tanh(x[..., 0] + params * second), torch.sigmoid(x[..., 1] - params * first)


@pytest.mark.parametrize("cell", [any_cell, coupled_cell])
def test_newton_on_the_scans(cell: Any, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launchers = (scan_triton.forward, scan_triton.forward_out, scan_triton.backward)
    for scan in (scan_ops.LINEAR, scan_ops.BLOCK):
        routed = scan_ops.Ops(*[partial(launcher, scan) for launcher in launchers])
        monkeypatch.setitem(scan_ops.OPS, scan.name, routed)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 9, 3, 2, generator=generator, dtype=torch.float64).to(device).requires_grad_()
    a = torch.linspace(-1, 1, 3, dtype=torch.float64, device=device, requires_grad=True)
    h0 = None if cell is any_cell else (torch.zeros_like(x[:, 0, :, 0]),) * 2
    # Tensors created without a device would be on the meta device.
    torch.set_default_device("meta")
    try:
        solution = fastiter.torch.solve_recurrence(cell, x, a, state=h0, method="newton")
        value = solution.value if cell is any_cell else solution.value[0]
        gradients = torch.autograd.grad(value.square().sum(), [x, a])
    finally:
        torch.set_default_device(None)
    h = torch.zeros_like(x[:, 0, :, 0]) if cell is any_cell else h0
    steps = []
    for t in range(9):
        h = cell(h, x[:, t], a)
        steps.append(h if cell is any_cell else h[0])
    expected = torch.stack(steps, 1)
    assert solution.method == "newton" and solution.converged.all() and not solution.sequential.any()
    assert solution.jacobian == ("diagonal" if cell is any_cell else "block 2")
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    for mine, exact in zip(gradients, torch.autograd.grad(expected.square().sum(), [x, a]), strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-12, atol=1e-12)
