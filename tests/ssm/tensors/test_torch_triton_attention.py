"""Linear attention by Triton's kernels: interpreted on the CPU, compiled on a card."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

import fastiter.torch  # noqa: E402
from fastiter.ssm._torch import attention as functions  # noqa: E402
from fastiter.ssm._torch._gpu import triton_attention as triton  # noqa: E402
from fastiter.ssm._torch._gpu import triton_chunks as chunks  # noqa: E402
from tests.ssm.attention_calls import attention_inputs  # noqa: E402
from tests.ssm.calls import assert_near, some_bounds, some_resets  # noqa: E402
from tests.ssm.tensors.scratch import Scratch  # noqa: E402
from tests.support.bfloat16_dots import attention_dots  # noqa: E402
from tests.support.memory import fill_new_tensors  # noqa: E402

attend = fastiter.torch.ssm.linear_attention


@pytest.fixture
def gpu_kernels(device: str, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Route CPU tensors to the GPU implementation; fill uninitialised memory with NaN."""
    monkeypatch.setattr(functions.attention, "forward", triton.forward)
    monkeypatch.setattr(functions.attention, "backward", triton.backward)
    fill_new_tensors(monkeypatch)
    if device == "cpu":
        for changed in attention_dots():
            monkeypatch.setattr(*changed)
    return monkeypatch


def results(given: dict[str, Any], **how: Any) -> list[Any]:
    """Return o, the last state, and the gradients of every input that requires one."""
    outputs = attend(**given, **how)
    rng = np.random.default_rng(1)
    cotangents = [torch.from_numpy(rng.integers(-8, 9, y.shape) / 4).to(y.device, y.dtype) for y in outputs]  # exact
    needed = [x for x in given.values() if x.requires_grad]
    return [*outputs, *torch.autograd.grad(outputs, needed, cotangents)] if needed else list(outputs)


def cut_of(device: str, size: tuple[int, ...], cut: str, made: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that divide the rows into sequences; add their number to the options of the inputs."""
    batch, time = size[:2]
    how: dict[str, Any] = {"lengths": {"lengths": [time, time // 3, 0][:batch]}}.get(cut, {})
    if "packed" in cut:
        how["cu_seqlens"], made["sequences"] = some_bounds(3, time), 3
    if "reset" in cut:
        how["reset"] = torch.from_numpy(some_resets(batch, time)).to(device)
    return how


def found_and_exact(given: dict[str, Any], how: dict[str, Any], monkeypatch: Any) -> list[tuple[str, Any, Any]]:
    """Return (name, result, the same from the CPU's kernels in float64) of o, the last state and all gradients."""
    found = results(given, scale=0.7, **how)
    monkeypatch.undo()
    wide = {name: x.detach().cpu().double().requires_grad_() for name, x in given.items()}
    exact = results(wide, scale=0.7, **{name: x.cpu() if name == "reset" else x for name, x in how.items()})
    return [
        (name, x.detach().cpu(), y.detach()) for name, x, y in zip(("o", "last", *given), found, exact, strict=True)
    ]


def check(device: str, size: tuple[int, ...], dtype: Any, decay: str, cut: str, monkeypatch: Any, **made: Any) -> None:
    """Assert that o, the last state and all gradients equal those of the CPU's kernels in float64."""
    how = cut_of(device, size, cut, made)
    inputs = attention_inputs(size, dtype, decay, **made).arguments()  # type: ignore[arg-type]
    given = {name: torch.from_numpy(np.array(x)).to(device).requires_grad_() for name, x in inputs.items()}
    for name, x, expected in found_and_exact(given, how, monkeypatch):
        assert x.dtype == given["q"].dtype
        assert_near(x.numpy(), expected.numpy(), dtype, 4 * int(np.prod(size)), name)


@pytest.mark.parametrize(
    ("size", "dtype", "decay", "cut", "made"),
    [
        ((1, 1, 1, 1, 1), np.float64, "vector", "", {"state": False}),
        ((1, 19, 2, 17, 18), np.float64, "any scalar", "reset", {"shared": 2}),
        ((1, 67, 1, 3, 2), np.float64, "any vector", "packed", {"bonus": True}),
        ((3, 20, 2, 3, 5), np.float64, "scalar", "lengths", {"bonus": True}),
        ((1, 66, 1, 20, 3), np.float32, "fixed", "packed, reset", {}),
        ((2, 18, 1, 5, 33), np.float32, "vector", "lengths", {}),
        ((1, 67, 2, 3, 2), np.float32, "none", "reset", {"bonus": True, "state": False, "shared": 2}),
        ((1, 18, 1, 3, 2), np.float32, "vector", "reset", {"bonus": True}),
    ],
)
def test_outputs_and_gradients(
    size: Any, dtype: Any, decay: str, cut: str, made: dict[str, Any], device: str, gpu_kernels: Any
) -> None:
    check(device, size, dtype, decay, cut, gpu_kernels, **made)


@pytest.mark.parametrize(
    ("size", "dtype", "decay", "cut", "made"),
    [
        ((1, 70, 2, 5, 3), torch.bfloat16, "scalar", "", {"shared": 2}),
        ((1, 130, 1, 3, 2), torch.bfloat16, "any scalar", "reset", {"bonus": True}),
        ((2, 67, 1, 17, 66), torch.bfloat16, "vector", "lengths", {"state": False}),
        ((1, 70, 1, 66, 3), torch.bfloat16, "vector", "packed, reset", {"bonus": True}),
        ((1, 66, 1, 3, 2), torch.bfloat16, "any vector", "reset", {"bonus": True}),
        ((1, 66, 1, 3, 2), torch.float16, "vector", "", {}),
        ((1, 40, 1, 3, 18), torch.float16, "none", "", {}),
    ],
)
def test_products_of_16_bits(
    size: Any, dtype: Any, decay: str, cut: str, made: dict[str, Any], device: str, gpu_kernels: Any
) -> None:
    """Chunks of 64 steps, with operands rounded to the precision of the signals.

    At most four operands of the products that lead to a result are rounded: a key, the state, the query, and the output
    or its gradient. Each is off by half a unit, or by one unit where the interpreter or TF32 truncates.
    """
    made = dict(made)
    how = cut_of(device, size, cut, made)
    inputs = attention_inputs(size, np.float32, decay, **made).arguments()
    exact = ("bonus", "state")
    given = {n: torch.from_numpy(np.array(x)).to(device, None if n in exact else dtype) for n, x in inputs.items()}
    if decay == "vector":
        given["log_decay"][:, 5::7] = -torch.inf  # decays of 0
    for name, x, expected in found_and_exact({n: x.requires_grad_() for n, x in given.items()}, how, gpu_kernels):
        assert x.dtype == (given[name].dtype if name in given else {"o": dtype, "last": torch.float32}[name])
        off = float((x.double() - expected).abs().max())
        assert off <= 4 * torch.finfo(dtype).eps * float(expected.abs().max()), (name, off, float(expected.abs().max()))


def leaves(size: tuple[int, int, int, int, int], device: str, decay: str, **made: Any) -> dict[str, Any]:
    inputs = attention_inputs(size, np.float32, decay, **made).arguments()
    return {name: torch.from_numpy(np.array(x)).to(device).requires_grad_() for name, x in inputs.items()}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_parts_of_the_heads_one_after_the_other(dtype: Any, device: str, gpu_kernels: Any) -> None:
    """If not all states fit into the scratch memory, heads are processed in parts, with equal bits."""
    time, width = {torch.float64: (18, 8), torch.float32: (34, 4), torch.float16: (66, 4)}.get(dtype, (66, 2))
    made = leaves((1, time, 3, 3, 2), device, "scalar", bonus=True)
    exact = () if dtype == torch.float64 else ("bonus", "state")
    given = {n: x.detach().to(x.dtype if n in exact else dtype).requires_grad_() for n, x in made.items()}
    whole = results(given)
    # 2 heads forward and 1 backward: each has 2 chunks of 64 steps, in float32 of 32, in float64 of 16
    gpu_kernels.setattr(chunks, "SCRATCH", 2 * 2 * width * 3 * 2)
    for x, expected in zip(results(given), whole, strict=True):
        assert x.isfinite().all() and torch.equal(x, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("decay", ["scalar", "vector"])
def test_scratch_memory_is_bounded(dtype: Any, decay: str, device: str, gpu_kernels: Any) -> None:
    """All scratch memory of heads that are processed together is counted, and released before that of the next ones."""
    memory = Scratch(gpu_kernels)
    gpu_kernels.setattr(triton, "run", lambda *_: None)
    made = leaves((2, 130, 6, 24, 18), device, decay, shared=2)
    given = {n: x.detach().to(torch.float32 if n == "state" else dtype).requires_grad_() for n, x in made.items()}

    def scratch(limit: int) -> list[int]:
        memory.limit(limit)
        results(given)
        return memory.used

    forward, backward = scratch(1 << 40)
    assert scratch(max(forward, backward)) == [forward, backward]
    assert len(scratch(forward)) > 2  # backward in parts, too
    for limit in (forward, forward - 1, backward - 1, forward // 3, 1):
        assert max(*scratch(limit), memory.peak) <= max(limit, backward // 3)  # three heads of q and k


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])
def test_storage_types(stored: Any, device: str, gpu_kernels: Any) -> None:
    """Products round to the precision of the signals: results are close to those of the widened inputs.

    Gradients of float32 inputs are computed in float32.
    """
    size = (1, 18, 2, 5, 3)
    given = leaves(size, device, "scalar", bonus=True, shared=2)
    exact = ("bonus", "state")
    low = {n: (x.detach() if n in exact else x.detach().to(stored)).requires_grad_() for n, x in given.items()}
    wide = results({n: x.detach().float().requires_grad_() for n, x in low.items()})
    for name, x, expected in zip(("o", "last", *given), results(low), wide, strict=True):
        if name in exact:
            assert_near(x.cpu().numpy(), expected.cpu().numpy(), np.float32, 4 * int(np.prod(size)), name)
        scale = max(float(expected.detach().abs().max()), 1.0)
        assert float((x.detach().float() - expected.detach()).abs().max()) <= torch.finfo(stored).eps * 4 * scale
    found = results({**low, "k": low["k"].detach().float().requires_grad_()})[3]
    assert found.dtype == torch.float32
    assert_near(found.cpu().numpy(), wide[3].cpu().numpy(), np.float32, 4 * int(np.prod(size)), "k")


def test_gradients_of_the_state_alone_and_of_few_arguments(device: str, gpu_kernels: Any) -> None:
    given = leaves((1, 5, 2, 3, 2), device, "scalar", bonus=True)
    _, last = attend(**given)
    found = dict(zip(given, torch.autograd.grad(last.sum(), list(given.values())), strict=True))
    assert not found["q"].any() and not found["bonus"].any() and found["k"].any()
    for name, expected in zip(given, results(given)[2:], strict=True):
        alone = {n: x.detach().requires_grad_(n == name) for n, x in given.items()}
        assert torch.equal(results(alone)[2], expected)


def test_views(device: str, gpu_kernels: Any) -> None:
    given = {name: x.detach() for name, x in leaves((2, 5, 2, 3, 4), device, "vector").items()}
    expected = results(given)
    for view in (lambda x: x.transpose(1, 2).contiguous().transpose(1, 2), lambda x: x.mT.contiguous().mT):
        for x, y in zip(results({name: view(x) for name, x in given.items()}), expected, strict=True):
            assert torch.equal(x, y)


def test_empty_inputs(device: str, gpu_kernels: Any) -> None:
    for size in ((0, 3, 1, 2, 2), (2, 0, 1, 2, 2)):
        given = leaves(size, device, "vector", bonus=True)
        o, last = attend(**given)
        gradients = torch.autograd.grad(o.sum() + last.sum(), list(given.values()))
        assert [g.shape for g in gradients] == [x.shape for x in given.values()]
        assert torch.equal(last, given["state"]) and torch.equal(gradients[5], torch.ones_like(last))


def test_mamba_2(device: str, gpu_kernels: Any) -> None:
    """ssd is linear attention with arguments computed by torch."""
    rng = np.random.default_rng(0)
    shapes = {"x": (2, 18, 2, 3), "dt": (2, 18, 2), "A": (2,), "B": (2, 18, 1, 5), "C": (2, 18, 1, 5), "D": (2,)}
    given = {n: torch.from_numpy(rng.standard_normal(s)).to(device).requires_grad_() for n, s in shapes.items()}
    found = []
    for _ in range(2):
        out, last = fastiter.torch.ssm.ssd(**given, dt_softplus=True, lengths=[18, 5])
        found.append([out, last, *torch.autograd.grad(out.sum() + last.sum(), list(given.values()))])
        gpu_kernels.undo()  # the CPU's kernels
        given = {n: x.detach().cpu().requires_grad_() for n, x in given.items()}
    for x, expected in zip(*found, strict=True):
        torch.testing.assert_close(x.detach().cpu(), expected.detach(), rtol=1e-12, atol=1e-12)


@pytest.fixture
def fake_tensors() -> Iterator[None]:
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def test_the_path_to_a_card(fake_tensors: None) -> None:
    """Tensors with a device but no memory: kernels do not run, and the ops' fake versions describe their results."""
    shapes = {"q": (2, 70, 2, 8), "k": (2, 70, 2, 8), "v": (2, 70, 4, 16), "log_decay": (2, 70, 4, 8)}
    given = {n: torch.empty(shape, device="cuda", dtype=torch.bfloat16) for n, shape in shapes.items()}
    o, last = attend(**given)
    assert o.is_cuda and o.dtype == torch.bfloat16 and last.is_cuda and last.dtype == torch.float32
    every = (*given.values(), None, None, 1, 1.0, None, None, None, True)
    assert torch.ops.fastiter._attention_fwd(*every)[2].shape == (2 * 2, 4, 8, 16)  # tiles of 64 steps
    with pytest.raises(fastiter.BackendError, match="linear_attention: k must be on device cuda:0 like q, got cpu"):
        attend(given["q"], torch.empty(shapes["k"], dtype=torch.bfloat16), given["v"])
    x, dt, B = torch.empty(2, 70, 4, 16, device="cuda"), torch.empty(2, 70, 4, device="cuda"), given["q"].float()
    y, state = fastiter.torch.ssm.ssd(x, dt, torch.empty(4, device="cuda"), B, B, dt_softplus=True)
    assert y.is_cuda and y.shape == x.shape and state.shape == (2, 4, 16, 8)
