"""Selective scans by Triton's kernels: interpreted on the CPU, compiled on a card."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

import fastiter.torch  # noqa: E402
from fastiter._torch import launch  # noqa: E402
from fastiter.ssm._torch import functional as functions  # noqa: E402
from fastiter.ssm._torch import ops  # noqa: E402
from fastiter.ssm._torch._gpu import triton_selective as triton  # noqa: E402
from tests.ssm.calls import assert_near, scan_inputs, specified, specified_gradients  # noqa: E402
from tests.ssm.gpu.scan_checks import check  # noqa: E402
from tests.ssm.test_arrays import step_inputs, stepped  # noqa: E402
from tests.support.memory import fill_new_tensors  # noqa: E402

scan, update = fastiter.torch.ssm.selective_scan, fastiter.torch.ssm.selective_state_update


@pytest.fixture(autouse=True)
def gpu_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Route CPU tensors to the GPU implementation, with short chunks; fill uninitialised memory with NaN."""
    monkeypatch.setattr(functions.selective, "forward", triton.forward)
    monkeypatch.setattr(functions.selective, "backward", triton.backward)
    monkeypatch.setattr(functions, "selective_step", triton.step)
    monkeypatch.setattr(triton, "_LANES", 4)
    fill_new_tensors(monkeypatch)


FEW = {"without": ("D", "z", "delta_bias", "state")}


@pytest.mark.parametrize(
    ("size", "dtype", "cut", "softplus", "order", "how"),
    [
        ((1, 3, 37, 2), np.float32, "", True, "time", {}),
        ((1, 4, 21, 1), np.float64, "reset", True, "channels", {"groups": 2}),
        ((2, 2, 40, 2), np.float32, "lengths", True, "time", {}),  # 8 steps are read at a time
        ((1, 3, 40, 1), np.float64, "packed", True, "time", {}),
        ((1, 2, 37, 2), np.float64, "packed", True, "channels", {"fixed": "B"}),
        ((2, 3, 13, 1), np.float64, "lengths", False, "time", {"fixed": "C"}),
        ((1, 2, 20, 2), np.float32, "", False, "time", {"fixed": "BC", **FEW}),
        ((1, 11, 5, 1), np.float64, "", True, "time", FEW),  # two blocks of channels
        ((1, 2, 1, 2), np.float64, "", True, "time", {}),
        ((2, 3, 0, 2), np.float64, "", True, "time", {}),
        ((0, 3, 4, 2), np.float64, "", True, "time", {}),
        ((2, 0, 4, 2), np.float64, "", True, "time", {}),
    ],
    ids=str,
)
def test_outputs_and_gradients(
    size: tuple[int, ...], dtype: Any, cut: str, softplus: bool, order: str, how: dict[str, Any], device: str
) -> None:
    check(device, size, dtype, cut, softplus, order, **how)


def test_chunks_of_the_usual_length(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "_LANES", ops.SELECTIVE_GPU_TILE // 4)
    check(device, (1, 1, 300, 1), np.float32, "packed", True, "time")


def test_states_that_vanish_at_once(device: str) -> None:
    """The products of decays underflow to 0 long before the end of a chunk."""
    inputs = scan_inputs(1, 2, 20, 1, np.float32)._replace(A=np.array([[-3000.0], [0]], np.float32))
    given = {name: torch.from_numpy(x).to(device).requires_grad_() for name, x in inputs.arguments().items()}
    out = scan(**given, delta_softplus=True)
    assert_near(out.detach().cpu().numpy(), specified(inputs)[0], np.float32, 100)
    gradients = torch.autograd.grad(out, list(given.values()), torch.ones_like(out))
    exact = specified_gradients(inputs, np.ones(out.shape), None)
    for name, g in zip(given, gradients, strict=True):
        assert_near(g.cpu().numpy(), getattr(exact, name), np.float32, 400, name)


def test_gradients_of_the_state_alone_and_of_requested_inputs(device: str) -> None:
    inputs = scan_inputs(1, 2, 9, 1)
    every = {name: torch.from_numpy(x).to(device).requires_grad_() for name, x in inputs.arguments().items()}
    last = scan(**every, delta_softplus=True, return_last_state=True)[1]
    expected = specified_gradients(inputs, None, np.ones(last.shape))
    found = torch.autograd.grad(last.sum(), list(every.values()))
    for name, g in zip(every, found, strict=True):
        assert_near(g.cpu().numpy(), getattr(expected, name), np.float64, 100, name)
    for name in ("A", "B"):
        given = {n: x.detach().requires_grad_(n == name) for n, x in every.items()}
        last = scan(**given, delta_softplus=True, return_last_state=True)[1]
        assert torch.equal(torch.autograd.grad(last.sum(), given[name])[0], found[list(every).index(name)])


def test_halves_are_stored_and_float32_computed(device: str) -> None:
    dtype = torch.bfloat16
    inputs = scan_inputs(1, 2, 8, 1, np.float32).arguments()
    cast = {n: torch.from_numpy(x).to(device, torch.float32 if n in "AD" else dtype) for n, x in inputs.items()}
    results = []
    for wide in (False, True):
        given = {n: (x.float() if wide else x).detach().requires_grad_() for n, x in cast.items()}
        out, last = scan(**given, delta_softplus=True, return_last_state=True)
        assert last.dtype == torch.float32
        results.append([out, last, *torch.autograd.grad(out.float().sum() + last.sum(), list(given.values()))])
    assert [y.dtype for y in results[0][2:]] == [x.dtype for x in cast.values()] and results[0][0].dtype == dtype
    for mine, expected in zip(*results, strict=True):  # the interpreter rounds to bfloat16 towards zero
        assert torch.allclose(mine.float(), expected, rtol=2**-6, atol=2**-6 * float(expected.detach().abs().max()))


@pytest.mark.parametrize(
    ("rows", "inner", "states", "groups", "dtype"),
    [
        (2, (37,), 16, 1, np.float32),
        (2, (4, 5), 3, 2, np.float64),
        (1, (2, 20), 70, 1, np.float64),
        (1, (1,), 1, 1, np.float64),
        (0, (4,), 2, 1, np.float64),
    ],
    ids=str,
)
def test_a_step(rows: int, inner: tuple[int, ...], states: int, groups: int, dtype: Any, device: str) -> None:
    arrays = step_inputs(rows, inner, states, groups, dtype)
    for without in ((), ("D", "z", "dt_bias")):
        some = {**arrays, **dict.fromkeys(without)}
        given = {n: torch.from_numpy(x).to(device) if isinstance(x, np.ndarray) else x for n, x in some.items()}
        given["state"] = given["state"].clone()
        out = update(**given)
        assert out.dtype == given["x"].dtype
        for name, a, e in zip(("out", "state"), (out, given["state"]), stepped(some), strict=True):
            assert_near(a.cpu().numpy(), e, dtype, states, name)


def test_a_step_of_chosen_rows_and_of_one_rate_a_head(device: str) -> None:
    """Mamba 2's decay is one number per head, passed with strides of 0, and its model's states have any layout."""
    arrays = step_inputs(3, (2, 5), 6, 1, np.float64)
    for name in ("A", "dt", "D", "dt_bias"):
        whole = arrays[name]
        first = (slice(None),) * (name == "dt") + (slice(None), slice(0, 1))
        arrays[name] = np.broadcast_to(whole[first][..., :1] if name == "A" else whole[first], whole.shape)
    expected, after = stepped(arrays)
    given = {n: torch.from_numpy(x.copy()).to(device) if isinstance(x, np.ndarray) else x for n, x in arrays.items()}
    given["A"] = given["A"][:, :1, :1].expand(2, 5, 6)
    pool = (
        torch.zeros(6, 5, 2, dtype=torch.float64, device=device)[:, None]
        .repeat(1, 7, 1, 1)
        .permute(0, 3, 2, 1)[..., :6]
    )
    pool[[4, 1]] = given["state"][:2]
    out = update(**{**given, "state": pool, "state_batch_indices": [4, 1, -1]})
    assert torch.allclose(out[:2].cpu(), torch.from_numpy(expected[:2]), rtol=1e-12, atol=1e-12) and not out[2].any()
    assert torch.allclose(pool[[4, 1]].cpu(), torch.from_numpy(after[:2]), rtol=1e-12, atol=1e-12)
    assert not pool[[0, 2, 3, 5]].any()
    with pytest.raises(ValueError, match="state_batch_indices must be below the number of rows of state, 6, got 6"):
        update(**{**given, "state": pool, "state_batch_indices": [4, 1, 6]})
    with pytest.raises(ValueError, match="state must have one place for each element"):
        update(**{**given, "state": given["state"][:1].expand(3, 2, 5, 6)})


def test_a_complex_A_is_refused() -> None:
    u, A = torch.zeros(1, 2, 3), torch.zeros(2, 4, dtype=torch.complex64)
    call = ops.SelectiveForward(u, u, A, A, A, *(None,) * 4, True, *(None,) * 3, False)
    message = (
        r"^selective_scan: A must be real on a CUDA device, got torch.complex64; CPU tensors may have a complex A$"
    )
    with pytest.raises(NotImplementedError, match=message):
        triton.forward(call)


@pytest.mark.parametrize("name", ["conv", "selective", "selective_gradient", "selective_step"])
def test_sizes_do_not_specialize_the_code(name: str) -> None:
    """Only strides of channels, steps and states do, and only whether they are 1."""
    module = launch.triton_kernels("", f"ssm/triton_{name}")
    for node in ast.parse(inspect.getsource(module)).body:
        if not isinstance(node, ast.FunctionDef) or not node.name.endswith("_kernel"):
            continue
        lists = {k.arg: eval(ast.unparse(k.value), vars(module)) for d in node.decorator_list for k in d.keywords}
        numbers = {a.arg for a in node.args.args if a.annotation and ast.unparse(a.annotation).startswith("tl.int")}
        strides = {number for number in numbers if number.endswith(("_channel", "_time", "_state"))}
        assert strides and strides <= set(lists["do_not_specialize_on_alignment"])
        assert numbers - strides <= set(lists["do_not_specialize"])
        assert not strides & set(lists["do_not_specialize"])


@pytest.fixture
def fake_tensors(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.undo()
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        yield


def test_cuda_tensors_are_accepted(fake_tensors: None) -> None:
    u, delta = (torch.empty(2, 3, 300, device="cuda") for _ in range(2))
    A, B, C = (torch.empty(n, device="cuda") for n in ((3, 4), (2, 2, 4, 300), (2, 1, 4, 300)))
    with pytest.raises(ValueError, match="selective_scan: B must have shape"):
        scan(u, delta, A, B, C)
    out, last = scan(u, delta, A, C, C, return_last_state=True)
    assert out.is_cuda and last.is_cuda
    state, x, A_step = (torch.empty(n, device="cuda") for n in ((2, 3, 4), (2, 3), (3, 4)))
    B_step = torch.empty(2, 4, device="cuda")
    assert update(state, x, x, A_step, B_step, B_step).is_cuda
    with pytest.raises(fastiter.BackendError, match="selective_scan: A must be on device cuda:0 like u, got cpu"):
        scan(u, delta, torch.zeros(3, 4), C, C)
