"""delta_scan in exact float32 and in float64 by Triton's kernels: interpreted on the CPU, compiled on a card."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import fastiter.torch  # noqa: E402
from fastiter import BackendError  # noqa: E402
from fastiter.delta._plan import Sizes  # noqa: E402
from fastiter.delta._torch import functional as functions  # noqa: E402
from fastiter.delta._torch import triton  # noqa: E402
from fastiter.delta._torch.ops import requested  # noqa: E402
from tests.delta.calls import delta_inputs, some_bounds, some_resets, specified  # noqa: E402
from tests.delta.torch_calls import specified as specified_gradients  # noqa: E402
from tests.support.cases import assert_close  # noqa: E402


@pytest.fixture(autouse=True)
def gpu_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Route CPU tensors to the GPU implementation; fill uninitialised memory with NaN."""
    monkeypatch.setattr(triton.torch, "empty_like", lambda x: torch.full_like(x, torch.nan))

    def chosen(call: Any) -> Any:
        method, chunk = triton.checked_method(call.method, call.q.dtype, call.sizes)
        return call._replace(method=method, chunk=chunk)

    monkeypatch.setattr(functions.delta, "forward", lambda call: triton.forward(chosen(call)))
    monkeypatch.setattr(functions.delta, "backward", lambda call: requested(call, triton.backward(chosen(call))))
    monkeypatch.setattr(triton.chunks, "precision", lambda: "ieee")
    real = torch.Tensor.new_empty

    def filled(x: Any, *args: Any, **options: Any) -> Any:
        new = real(x, *args, **options)
        return new.fill_(torch.nan) if new.is_floating_point() else new

    monkeypatch.setattr(torch.Tensor, "new_empty", filled)


def check(
    device: str, B: int, T: int, N: int, K: int, V: int, dtype: Any, M: int | None, gated: bool, cut: str
) -> None:
    """Assert that o, the last states and all gradients equal the specification's."""
    packed = "packed" in cut
    inputs = delta_inputs(B, T, N, K, V, dtype, M=M, gated=gated, rows=3 if packed else None)
    how: dict[str, Any] = {"reset": some_resets(B, T)} if "reset" in cut else {}
    if "lengths" in cut:
        how["lengths"] = [T, T // 3, 0][:B]
    if packed:
        how["cu_seqlens"] = some_bounds(3, T).tolist()
    on = how | ({"reset": torch.from_numpy(how["reset"]).to(device)} if "reset" in how else {})
    given = [torch.from_numpy(np.array(x)).to(device).requires_grad_() for x in inputs if x is not None]
    o, last = fastiter.torch.delta_scan(*given[:5], decay=given[5] if gated else None, **on)
    rng = np.random.default_rng(5)
    cotangents = [rng.standard_normal(y.shape).astype(dtype) for y in (o, last)]
    gradients = torch.autograd.grad([o, last], given, [torch.from_numpy(y).to(device) for y in cotangents])
    exact = (*specified(inputs, **how), *specified_gradients(inputs, *cotangents, **how))
    for mine, expected in zip((o, last, *gradients), exact, strict=True):
        assert_close(
            mine.detach().cpu().numpy(),
            expected,
            16 * (K + V) * (M or 1),
            6,
            scale=max(1.0, float(abs(expected).max())),
        )


@pytest.mark.parametrize(
    ("B", "T", "N", "K", "V", "dtype", "M", "gated", "cut"),
    [
        (1, 1, 1, 3, 2, np.float64, None, False, ""),
        (2, 19, 2, 5, 7, np.float64, None, True, ""),
        (1, 66, 1, 5, 3, np.float32, None, True, "reset"),
        (3, 11, 1, 4, 5, np.float64, 3, True, "reset, lengths"),
        (1, 30, 2, 5, 3, np.float32, 2, False, "packed"),
        (1, 23, 1, 17, 3, np.float64, 1, True, "packed, reset"),
        (1, 3, 1, 2, 2, np.float64, 20, True, ""),
    ],
)
def test_outputs_and_gradients(
    B: int, T: int, N: int, K: int, V: int, dtype: Any, M: int | None, gated: bool, cut: str, device: str
) -> None:
    check(device, B, T, N, K, V, dtype, M, gated, cut)


def test_several_blocks_of_columns(device: str) -> None:
    check(device, 2, 5, 1, 3, 19, np.float64, 2, True, "lengths")


def test_empty_inputs(device: str) -> None:
    for B, T in ((0, 3), (2, 0)):
        given = [torch.from_numpy(np.array(x)).to(device).requires_grad_() for x in delta_inputs(B, T, 2, 3, 4)]
        o, last = fastiter.torch.delta_scan(*given[:5], decay=given[5])
        gradients = torch.autograd.grad(o.sum() + last.sum(), given)
        assert [g.shape for g in gradients] == [x.shape for x in given]
        assert torch.equal(last, given[4]) and torch.equal(gradients[4], torch.ones_like(given[4]))


def test_views(device: str) -> None:
    q, k, v, beta, h0, decay = (torch.from_numpy(np.array(x)).to(device) for x in delta_inputs(2, 5, 2, 3, 4))
    expected = fastiter.torch.delta_scan(q, k, v, beta, h0, decay=decay)
    for view in (lambda x: x.transpose(0, 1).contiguous().transpose(0, 1), lambda x: x.mT.contiguous().mT):
        viewed = fastiter.torch.delta_scan(*map(view, (q, k, v, beta, h0)), decay=view(decay))
        assert all(torch.equal(x, y) for x, y in zip(viewed, expected, strict=True))


def test_unsupported_sizes_and_methods(device: str) -> None:
    given = [torch.from_numpy(np.array(x)).to(device) for x in delta_inputs(1, 1, 1, 1, 1, M=65)[:5]]
    with pytest.raises(BackendError, match="k must have at most 64 factors a step on a CUDA device, got 65"):
        fastiter.torch.delta_scan(*given)
    with pytest.raises(BackendError, match="method must be 'auto' or 'chunk' on a CUDA device, got 'sequential'"):
        triton.checked_method("sequential", torch.float32, Sizes(1, 1, 1, 1, 1, 1))


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16], ids=str)
def test_functions_of_fla_in_16_bits_compute_in_float32(stored: Any, device: str) -> None:
    torch.manual_seed(0)
    given = [torch.randn(1, 5, 1, 3, device=device).to(stored) for _ in "qkv"]
    given += [torch.rand(1, 5, 1, device=device).to(stored) for _ in range(2)]
    found = []
    for inputs in (given, [x.float() for x in given]):
        leaves = [x.clone().requires_grad_() for x in inputs]
        o, last = fastiter.torch.compat.fla.chunk_gated_delta_rule(*leaves, output_final_state=True)
        assert (o.dtype, last.dtype) == (inputs[0].dtype, torch.float32)
        gradients = torch.autograd.grad(o.float().sum() + last.sum(), leaves)
        found.append([last, o.to(stored), *(x.to(stored) for x in gradients)])
    for mine, exact in zip(*found, strict=True):
        assert torch.equal(mine, exact)
