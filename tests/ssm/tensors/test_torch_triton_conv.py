"""Causal convolutions by Triton's kernels: interpreted on the CPU, compiled on a card."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

import fastiter.torch  # noqa: E402
from fastiter.ssm import reference_conv  # noqa: E402
from fastiter.ssm._torch import causal_conv as functions  # noqa: E402
from fastiter.ssm._torch._gpu import triton_conv as triton  # noqa: E402
from tests.ssm.calls import assert_near, some_bounds  # noqa: E402
from tests.ssm.conv_calls import conv_inputs, some_labels, specified, specified_gradients  # noqa: E402
from tests.support.memory import fill_new_tensors  # noqa: E402

conv, update = fastiter.torch.ssm.causal_conv1d, fastiter.torch.ssm.causal_conv1d_update


@pytest.fixture(autouse=True)
def gpu_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Route CPU tensors to the GPU implementation; fill uninitialised memory with NaN."""
    monkeypatch.setattr(functions.conv, "forward", triton.forward)
    monkeypatch.setattr(functions.conv, "backward", triton.backward)
    monkeypatch.setattr(functions, "conv_update", triton.update)
    fill_new_tensors(monkeypatch)


def check(device: str, size: tuple[int, ...], dtype: Any, cut: str, order: str, **options: Any) -> None:
    """Assert that out, the final states and all gradients equal the specification's."""
    batch, _, time, _ = size
    count = {"packed": 4, "numbered": None}.get(cut, batch)
    without = ("state",) if cut == "numbered" else ()
    inputs = conv_inputs(*size, dtype, order=order, sequences=count, without=without)
    how: dict[str, Any] = {"lengths": [time, 2][:batch]} if cut == "lengths" else {}
    if cut == "packed":
        how["cu_seqlens"] = some_bounds(4, time)
    if cut == "numbered":
        how["seq_idx"] = some_labels(batch, time)
    given = {name: torch.from_numpy(y).to(device).requires_grad_() for name, y in inputs.arguments().items()}
    found = conv(**given, return_last_state=cut != "numbered", **how, **options)
    outputs = (found,) if cut == "numbered" else found
    rng = np.random.default_rng(1)
    cotangents = [rng.standard_normal(y.shape).astype(dtype) for y in outputs]
    gradients = torch.autograd.grad(outputs, list(given.values()), [torch.from_numpy(c).to(device) for c in cotangents])
    told = (cotangents[0], cotangents[1] if len(cotangents) > 1 else None)
    exact = specified_gradients(inputs, *told, **how, **options)
    for mine, expected in zip(outputs, specified(inputs, **how, **options), strict=False):
        assert_near(mine.detach().cpu().numpy(), expected, dtype, size[3])
    for name, g in zip(given, gradients, strict=True):
        assert g.dtype == given[name].dtype
        assert_near(g.cpu().numpy(), getattr(exact, name), dtype, 4 * batch * time + size[3], name)


SILU = {"activation": "silu"}


@pytest.mark.parametrize(
    ("size", "dtype", "cut", "order", "options"),
    [
        ((2, 2, 37, 4), np.float32, "whole rows", "time", SILU),
        ((1, 34, 11, 3), np.float64, "whole rows", "channels", {}),
        ((2, 3, 14, 3), np.float64, "lengths", "channels", SILU),
        ((1, 3, 37, 4), np.float32, "packed", "time", SILU),
        ((2, 2, 37, 3), np.float32, "numbered", "time", SILU),
        ((2, 2, 20, 2), np.float64, "numbered", "channels", {}),
        ((1, 2, 8, 9), np.float64, "packed", "channels", SILU),
        ((1, 1, 2100, 2), np.float32, "whole rows", "time", {}),  # several segments
        ((1, 2, 1, 4), np.float64, "whole rows", "time", SILU),
        ((1, 2, 3, 1), np.float64, "whole rows", "time", SILU),
        ((2, 3, 0, 3), np.float64, "whole rows", "time", SILU),
        ((0, 3, 4, 3), np.float64, "whole rows", "time", SILU),
        ((2, 0, 4, 3), np.float64, "whole rows", "time", SILU),
    ],
    ids=str,
)
def test_outputs_and_gradients(
    size: tuple[int, ...], dtype: Any, cut: str, order: str, options: dict[str, Any], device: str
) -> None:
    check(device, size, dtype, cut, order, **options)


def test_gradients_of_the_states_alone_and_of_requested_inputs(device: str) -> None:
    x, weight, _, first = (torch.from_numpy(y).to(device) for y in conv_inputs(1, 2, 5, 3))
    _, last = conv(x.requires_grad_(), weight.requires_grad_(), state=first, return_last_state=True)
    dx, dweight = torch.autograd.grad(last.sum(), (x, weight))
    assert dx.tolist() == [[[0, 0, 0, 1, 1]] * 2] and not dweight.any()
    (dx,) = torch.autograd.grad(conv(x, weight.detach()).sum(), x)
    later = weight.detach().flip(1).cumsum(1)[..., [2, 2, 2, 1, 0]]
    assert torch.allclose(dx, later[None])


def test_halves_are_stored_and_float32_computed(device: str) -> None:
    dtype = torch.bfloat16
    x, weight, bias, first = (torch.from_numpy(y).to(device) for y in conv_inputs(1, 3, 9, 4, np.float32))
    given = [
        y.to(kind).requires_grad_() for y, kind in ((x, dtype), (weight, dtype), (bias, torch.float32), (first, dtype))
    ]
    wide = [y.detach().float().requires_grad_() for y in given]
    results = []
    for x, weight, bias, first in (given, wide):
        outputs = conv(x, weight, bias, state=first, return_last_state=True, activation="silu")
        results.append(
            [*outputs, *torch.autograd.grad(sum(y.float().sum() for y in outputs), [x, weight, bias, first])]
        )
    assert [y.dtype for y in results[0]] == [dtype] * 4 + [torch.float32, dtype]
    for mine, expected in zip(*results, strict=True):  # the interpreter rounds to bfloat16 towards zero
        assert torch.allclose(mine.float(), expected, rtol=2**-7, atol=2**-7)


def test_the_same_bits_for_any_strides(device: str) -> None:
    x, weight, bias, first = (torch.from_numpy(y).to(device) for y in conv_inputs(1, 2, 9, 3, np.float32))
    results = []
    for view in (lambda y: y, lambda y: y.repeat_interleave(2, 2)[..., ::2], lambda y: torch._neg_view(-y)):
        given = [y.detach().requires_grad_() for y in (view(x), weight, bias, view(first))]
        out = conv(*given[:3], state=given[3])
        results.append([out, *torch.autograd.grad(out, given, view(x))])
    for other in results[1:]:
        assert all(torch.equal(y, z) for y, z in zip(other, results[0], strict=True))


STEPS: list[tuple[int, int, int, dict[str, Any]]] = [
    (1, 4, 4, {}),
    (3, 3, 2, {"cache_seqlens": [3, 0, 9]}),
    (2, 5, 3, {"conv_state_indices": [4, -1, 0]}),
    (7, 4, 4, {"cache_seqlens": [5, 1, 2], "conv_state_indices": [0, 3, -2]}),
    (1, 1, 1, {}),
]


@pytest.mark.parametrize("stored", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("steps", "kept", "width", "options"), STEPS)
def test_updates(steps: int, kept: int, width: int, options: dict[str, Any], stored: Any, device: str) -> None:
    x, weight, bias, _ = (torch.from_numpy(y).to(device, stored) for y in conv_inputs(3, 5, steps, width))
    state = torch.randn(5 if "conv_state_indices" in options else 3, 5, kept, dtype=torch.float64).to(device, stored)
    rows = options.get("conv_state_indices", [0, 1, 2])
    used, own = [b for b in range(3) if rows[b] >= 0], [r for r in rows if r >= 0]
    wide = [y.double().cpu().numpy() for y in (x[used], state[own], weight, bias)]
    positions = np.array(options["cache_seqlens"])[used] if "cache_seqlens" in options else None
    expected, after = reference_conv.causal_conv1d_update(*wide, activation=True, cache_seqlens=positions)
    mine = state.transpose(0, 1).contiguous().transpose(0, 1)
    out = update(x[..., 0] if steps == 1 else x, mine, weight, bias, "silu", **options)
    out = out[..., None] if steps == 1 else out
    tolerance = 1e-12 if stored == torch.float64 else 2**-7
    assert np.allclose(out[used].double().cpu().numpy(), expected, rtol=tolerance, atol=tolerance)
    assert not out[[b for b in range(3) if b not in used]].any()
    assert np.array_equal(mine[own].double().cpu().numpy(), after)
    others = [r for r in range(len(state)) if r not in own]
    assert torch.equal(mine[others], state[others])


def test_updates_that_are_refused(device: str) -> None:
    x, weight = torch.zeros(2, 3, device=device), torch.zeros(3, 2, device=device)
    with pytest.raises(ValueError, match="conv_state_indices must be below the number of rows of conv_state, 4, got 4"):
        update(x, torch.zeros(4, 3, 2, device=device), weight, conv_state_indices=[0, 4])
    with pytest.raises(ValueError, match="conv_state must have one place for each element"):
        update(x, torch.zeros(3, 2, device=device).expand(2, 3, 2), weight)


def test_states_of_packed_sequences_on_a_device(device: str) -> None:
    x = torch.arange(1.0, 6, device=device)[:, None]
    states = fastiter.torch.ssm.causal_conv1d_varlen_states(x, [0, 1, 5], 2)
    assert states.device == x.device and states.tolist() == [[[0, 1]], [[4, 5]]]


@pytest.fixture
def fake_tensors() -> Iterator[None]:
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        yield


def test_cuda_tensors_are_accepted(fake_tensors: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    x, step, weight, state = (torch.empty(n, device="cuda") for n in ((2, 3, 9), (2, 3), (3, 4), (2, 3, 4)))
    whole = torch.empty(2, dtype=torch.int64, device="cuda")
    out, last = conv(x, weight, return_last_state=True, lengths=whole)
    assert out.is_cuda and last.is_cuda and update(step, state, weight).is_cuda
    with pytest.raises(fastiter.BackendError, match="causal_conv1d: weight must be on device cuda:0 like x, got cpu"):
        conv(x, torch.zeros(3, 4))
