"""mLSTM by Triton's kernels: interpreted on the CPU, compiled on a card."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

import fastiter.torch  # noqa: E402
from fastiter.ssm._torch import mlstm as functions  # noqa: E402
from fastiter.ssm._torch._gpu import triton_mlstm as triton  # noqa: E402
from tests.ssm.calls import some_bounds, some_resets  # noqa: E402
from tests.ssm.mlstm_calls import NAMES, mlstm_inputs  # noqa: E402
from tests.support.bfloat16_dots import attention_dots  # noqa: E402
from tests.support.memory import fill_new_tensors  # noqa: E402

mlstm = fastiter.torch.ssm.mlstm


@pytest.fixture
def gpu_kernels(device: str, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Route CPU tensors to the GPU implementation; fill uninitialised memory with NaN."""
    monkeypatch.setattr(functions.mlstm_op, "forward", triton.forward)
    monkeypatch.setattr(functions.mlstm_op, "backward", triton.backward)
    fill_new_tensors(monkeypatch)
    if device == "cpu":
        for changed in attention_dots():
            monkeypatch.setattr(*changed)
    return monkeypatch


def results(given: list[Any], needs: set[str], **how: Any) -> list[Any]:
    """Return h, C, n, m, and the gradients of the arguments from cotangents of the outputs in `needs`."""
    h, last = mlstm(*given[:5], state=tuple(given[5:]) or None, **how)
    outputs = [h, *last]
    rng = np.random.default_rng(1)
    weights = [torch.from_numpy(rng.integers(-8, 9, y.shape) / 4).to(y.device, y.dtype) for y in outputs]
    total = sum((w * y).sum() for name, w, y in zip("hCnm", weights, outputs, strict=True) if name in needs)
    return [*outputs, *torch.autograd.grad(total, given, allow_unused=True)]


@pytest.mark.parametrize(
    ("size", "dtype", "cut", "made", "needs"),
    [
        ((1, 1, 1, 1, 1), np.float64, "", {"state": False}, "hCnm"),
        ((1, 19, 2, 5, 17), np.float64, "reset", {"shared": 2}, "hCnm"),
        ((1, 40, 1, 3, 2), np.float32, "packed", {}, "hm"),
        ((2, 12, 1, 3, 2), np.float64, "lengths", {}, "Cn"),
        ((2, 12, 1, 3, 2), np.float64, "constant divisor", {}, "h"),
        ((2, 0, 1, 3, 2), np.float32, "", {}, "Cnm"),
    ],
)
def test_outputs_and_gradients(
    size: Any, dtype: Any, cut: str, made: dict[str, Any], needs: str, device: str, gpu_kernels: Any
) -> None:
    how: dict[str, Any] = {"lengths": {"lengths": [12, 5]}, "constant divisor": {"normalizer_gradient": False}}.get(
        cut, {}
    )
    if cut == "packed":
        how["cu_seqlens"], made = some_bounds(3, size[1]), {"sequences": 3}
    inputs = mlstm_inputs(size, dtype, **made)
    arrays = [*(inputs[name] for name in NAMES), *inputs.get("state", ())]
    given = [torch.from_numpy(np.array(x)).to(device).requires_grad_() for x in arrays]
    resets = {"reset": torch.from_numpy(some_resets(*size[:2]))} if cut == "reset" else {}
    on = {name: x.to(device) for name, x in resets.items()}
    found = results(given, set(needs), eps=0.1, **how, **on)
    gpu_kernels.undo()  # the CPU's kernels, in float64
    wide = [x.detach().cpu().double().requires_grad_() for x in given]
    exact = results(wide, set(needs), eps=0.1, **how, **resets)
    eps = 64 * float(np.finfo(dtype).eps)
    for name, x, e in zip([*"hCnm", *"qkvifCnm"[: len(given)]], found, exact, strict=True):
        largest = float(e.detach().abs().max()) if e.numel() else 0.0
        torch.testing.assert_close(x.detach().cpu().double(), e.detach(), rtol=0, atol=eps * max(largest, 1), msg=name)


def test_storage_types(device: str, gpu_kernels: Any) -> None:
    inputs = mlstm_inputs((1, 20, 2, 3, 2), np.float32, shared=2, state=False)
    low = [torch.from_numpy(inputs[name]).to(device, torch.bfloat16).requires_grad_() for name in NAMES]
    wide = [x.detach().float().requires_grad_() for x in low]
    for x, e in zip(results(low, {"h"}), results(wide, {"h"}), strict=True):
        scale = max(float(e.detach().abs().max()), 1.0)
        assert float((x.detach().float() - e.detach()).abs().max()) <= torch.finfo(torch.bfloat16).eps * 4 * scale


def test_a_long_sequence_with_a_large_maximum(device: str, gpu_kernels: Any) -> None:
    """Rounding errors of m, 3e-5 per step for m near 1000, must not accumulate in the decays."""
    rng, steps = np.random.default_rng(0), np.arange(400).reshape(1, -1, 1, 1)
    q, k, v = (rng.random(steps.shape) + 1 for _ in range(3))
    f = np.full(steps.shape[:3], 3.5, np.float32)  # the same at all steps, so that all roundings have the same sign
    i = 995 - np.cumsum(np.logaddexp(0, -f.astype(np.float64)), 1) + rng.standard_normal(f.shape)
    arrays = [q, k, v + steps / 100, i, f]
    state = [np.full(shape, x) for shape, x in (((1, 1, 1, 1), 1.0), ((1, 1, 1), 1.0), ((1, 1), 1000.0))]
    given = [torch.from_numpy(x.astype(np.float32)).to(device) for x in (*arrays, *state)]
    found = mlstm(*given[:5], state=tuple(given[5:]))[0]
    gpu_kernels.undo()  # the CPU's kernels, in float64
    wide = [x.cpu().double() for x in given]
    exact = mlstm(*wide[:5], state=tuple(wide[5:]))[0]
    error = float((found.cpu().double() - exact).abs().max() / exact.abs().max())
    assert error <= 2e-5


def test_the_path_to_a_card() -> None:
    with torch.no_grad(), FakeTensorMode():
        q, v, i = (torch.empty(2, 70, 2, *width, device="cuda") for width in ((8,), (16,), ()))
        h, (C, n, m) = mlstm(q, q, v, i, i)
        assert h.is_cuda and (C.shape, n.shape, m.shape) == ((2, 2, 8, 16), (2, 2, 8), (2, 2))
        assert (
            torch.ops.fastiter._mlstm_fwd(q, q, v, i, i, *[None] * 3, 1.0, 0.0, True, *[None] * 3, True)[4].shape[0]
            == 4
        )
