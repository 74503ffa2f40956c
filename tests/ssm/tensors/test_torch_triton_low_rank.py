"""The generalised delta rule by Triton's kernels: interpreted on the CPU, compiled on a card."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

import fastiter.torch  # noqa: E402
from fastiter.ssm._torch import low_rank as functions  # noqa: E402
from fastiter.ssm._torch._gpu import triton_attention as attention  # noqa: E402
from fastiter.ssm._torch._gpu import triton_chunks as chunks  # noqa: E402
from fastiter.ssm._torch._gpu import triton_low_rank as triton  # noqa: E402
from tests.ssm.attention_calls import attention_inputs  # noqa: E402
from tests.ssm.calls import assert_near, some_bounds, some_resets  # noqa: E402
from tests.ssm.tensors.scratch import Scratch  # noqa: E402
from tests.support.bfloat16_dots import attention_dots  # noqa: E402
from tests.support.memory import fill_new_tensors  # noqa: E402

dplr = fastiter.torch.ssm.dplr_delta_rule


@pytest.fixture
def gpu_kernels(device: str, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Route CPU tensors to the GPU implementation; fill uninitialised memory with NaN."""
    monkeypatch.setattr(functions.low_rank, "forward", triton.forward)
    monkeypatch.setattr(functions.low_rank, "backward", triton.backward)
    fill_new_tensors(monkeypatch)
    if device == "cpu":
        for changed in attention_dots():
            monkeypatch.setattr(*changed)
    return monkeypatch


def leaves(size: Any, dtype: Any, decay: str, device: str, **made: Any) -> dict[str, Any]:
    arrays = attention_inputs(size, dtype, decay, **made).arguments()
    rng = np.random.default_rng(0)
    arrays |= {name: rng.standard_normal((*size[:3], size[3])) / (2 * size[3] ** 0.5) for name in ("a", "b")}
    return {name: torch.from_numpy(x.astype(dtype)).to(device).requires_grad_() for name, x in arrays.items()}


def results(given: dict[str, Any], **how: Any) -> list[Any]:
    """Return o, the last state, and all gradients."""
    outputs = dplr(**given, **how)
    rng = np.random.default_rng(1)
    cotangents = [torch.from_numpy(rng.integers(-8, 9, y.shape) / 4).to(y.device, y.dtype) for y in outputs]
    return [*outputs, *torch.autograd.grad(outputs, list(given.values()), cotangents)]


@pytest.mark.parametrize(
    ("size", "dtype", "decay", "cut", "made"),
    [
        ((1, 17, 1, 3, 2), np.float64, "any vector", "reset", {}),
        ((1, 18, 1, 3, 2), np.float64, "scalar", "packed", {}),
        ((1, 66, 1, 3, 2), np.float32, "any scalar", "reset", {}),
        ((2, 8, 2, 3, 17), np.float32, "none", "lengths", {"state": False, "shared": 2}),
        ((2, 0, 1, 3, 2), np.float32, "vector", "", {}),
    ],
)
def test_outputs_and_gradients(
    size: Any, dtype: Any, decay: str, cut: str, made: dict[str, Any], device: str, gpu_kernels: Any
) -> None:
    """o, the last state and all gradients equal those of the CPU's kernels in float64."""
    how: dict[str, Any] = {"lengths": [size[1], 5]} if cut == "lengths" else {}
    if cut == "packed":
        how["cu_seqlens"], made = some_bounds(3, size[1]), {"sequences": 3}
    given = leaves(size, dtype, decay, device, **made)
    resets = {"reset": torch.from_numpy(some_resets(*size[:2]))} if cut == "reset" else {}
    found = results(given, scale=0.7, **how, **{name: x.to(device) for name, x in resets.items()})
    gpu_kernels.undo()
    wide = {name: x.detach().cpu().double().requires_grad_() for name, x in given.items()}
    exact = results(wide, scale=0.7, **how, **resets)
    for name, x, expected in zip(("o", "last", *given), found, exact, strict=True):
        assert_near(x.detach().cpu().numpy(), expected.detach().numpy(), dtype, 4 * int(np.prod(size)), name)


@pytest.mark.parametrize(
    ("size", "dtype", "decay", "cut", "made"),
    [
        ((1, 34, 1, 33, 3), torch.bfloat16, "vector", "reset", {}),
        ((2, 67, 1, 3, 34), torch.bfloat16, "any vector", "lengths", {"state": False}),
        ((1, 70, 2, 3, 2), torch.bfloat16, "any scalar", "packed", {"shared": 2}),
        ((1, 66, 1, 3, 2), torch.float16, "vector", "reset", {}),
        ((1, 20, 1, 66, 66), torch.float16, "none", "", {}),
        ((1, 18, 1, 129, 2), torch.bfloat16, "scalar", "", {}),
    ],
)
def test_products_of_16_bits(
    size: Any, dtype: Any, decay: str, cut: str, made: dict[str, Any], device: str, gpu_kernels: Any
) -> None:
    """Forward, operands are rounded to the precision of the signals, in chunks of 64 steps.

    In a chunk, 10 products of rounded operands follow each other: L and M, two for each of the two sizes of blocks
    joined in T, T M, Y, X, the state and o. Their errors are nearly independent, and decay from chunk to chunk no
    faster than new ones arise. Gradients are computed in float32 from what the forward pass has saved.
    """
    made = dict(made)
    how: dict[str, Any] = {"lengths": [size[1], 5]} if cut == "lengths" else {}
    if cut == "packed":
        how["cu_seqlens"], made["sequences"] = some_bounds(3, size[1]), 3
    resets = {"reset": torch.from_numpy(some_resets(*size[:2]))} if cut == "reset" else {}
    low = leaves(size, np.float32, decay, device, **made)
    low = {n: x.detach() if n in ("state", "decay") else x.detach().to(dtype) for n, x in low.items()}
    if "vector" in decay and "log_decay" in low:
        low["log_decay"][:, 5::7] = -torch.inf  # decays of 0
    given = {n: x.requires_grad_() for n, x in low.items()}
    found = results(given, scale=0.7, **how, **{name: x.to(device) for name, x in resets.items()})
    gpu_kernels.undo()
    wide = {name: x.detach().cpu().double().requires_grad_() for name, x in given.items()}
    exact = results(wide, scale=0.7, **how, **resets)
    unit = torch.finfo(dtype).eps
    tolerance = unit * (1 + (2 * 10 * -(-size[1] // 64)) ** 0.5 / 2)
    for name, x, expected in zip(("o", "last", *given), found, exact, strict=True):
        assert x.dtype == (given[name].dtype if name in given else {"o": dtype, "last": torch.float32}[name])
        off, most = (
            float((x.detach().cpu().double() - expected.detach()).abs().max()),
            float(expected.detach().abs().max()),
        )
        assert off <= tolerance * most, (name, off, most)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_parts_of_the_heads_one_after_the_other(dtype: Any, device: str, gpu_kernels: Any) -> None:
    """If not all states fit into the scratch memory, heads are processed in parts, with equal bits."""
    time = 18 if dtype == torch.float64 else 34 if dtype == torch.float32 else 66  # two chunks
    heads, shared = (4, 2) if dtype == torch.float64 else (2, 1)
    given = leaves((1, time, heads, 3, 2), np.float64, "scalar", device, shared=shared)
    state = torch.promote_types(dtype, torch.float32)
    low = {n: x.detach().to(dtype if n != "state" else state) for n, x in given.items()}
    found = results({n: x.clone().requires_grad_() for n, x in low.items()})
    alone = dplr(**low)
    gpu_kernels.setattr(chunks, "SCRATCH", 1)
    for x, expected in zip(results({n: x.clone().requires_grad_() for n, x in low.items()}), found, strict=True):
        assert x.isfinite().all() and torch.equal(x, expected)
    for x, expected in zip(alone, found, strict=False):  # without saving w
        assert torch.equal(x, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("decay", ["scalar", "vector"])
def test_scratch_memory_is_bounded(dtype: Any, decay: str, device: str, gpu_kernels: Any) -> None:
    """All scratch memory of heads that are processed together is counted, and released before that of the next ones."""
    for module in (triton, attention):
        gpu_kernels.setattr(module, "run", lambda *_: None)
    made = leaves((2, 130, 6, 24, 18), np.float32, decay, device)
    low = {n: x.detach().to(torch.float32 if n == "state" else dtype) for n, x in made.items()}
    memory = Scratch(gpu_kernels)

    def peak(limit: int, needs: bool) -> int:
        memory.limit(limit)
        given = {n: x.clone().requires_grad_(needs) for n, x in low.items()}
        results(given) if needs else dplr(**given)
        return memory.peak

    for needs in (False, True):
        whole = peak(1 << 40, needs)
        assert peak(2 * whole, needs) <= whole and len(memory.used) == 1 + needs  # one part forward, one backward
        for limit in (whole, whole // 2, whole // 5):
            assert peak(limit, needs) <= limit
        assert len(memory.used) > 2


def test_the_path_to_a_card() -> None:
    with torch.no_grad(), FakeTensorMode():
        k, v = (torch.empty(2, 70, 2, width, device="cuda") for width in (8, 16))
        o, last = dplr(k, k, v, k, k)
        assert o.is_cuda and o.shape == v.shape and last.shape == (2, 2, 8, 16)
        saved = torch.ops.fastiter._low_rank_fwd(k, k, v, None, k, k, None, None, 0, 1.0, None, None, None, True)
        assert saved[3].shape == (4, 2, 8, 16)


def test_the_delta_rule_with_a_decay_for_each_key() -> None:
    """GPU kernels take the corrections as tensors; CPU kernels compute them themselves, with the same results."""
    rng = np.random.default_rng(0)
    shapes = ((1, 9, 1, 4), (1, 9, 1, 4), (1, 9, 2, 3), (1, 9, 2, 4), (1, 9, 2))
    q, k, v, g, beta = (torch.from_numpy(rng.standard_normal(shape)).requires_grad_() for shape in shapes)
    given = functions.DeltaTensors(q, k, v, -g.abs(), beta, None)
    rest = (True, 0.7, None, None, None)
    ours = functions.low_rank(*given[:4], None, None, beta, None, *rest)[:2]
    apart = functions.low_rank(*functions._corrections(given), None, None, *rest)[:2]
    torch.testing.assert_close(ours, apart)
    inputs = (q, k, v, g, beta)
    torch.testing.assert_close(
        *(torch.autograd.grad(o.sum() + s.square().sum(), inputs, retain_graph=True) for o, s in (ours, apart))
    )
