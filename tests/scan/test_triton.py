"""linear_scan and block_scan by Triton's kernels: interpreted on the CPU, compiled on a card."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import fastiter.torch  # noqa: E402
from fastiter.reference import scan as reference  # noqa: E402
from fastiter.scan._torch import ops, triton  # noqa: E402
from tests.scan.calls import both_kinds, scan_inputs  # noqa: E402
from tests.support.cases import assert_close  # noqa: E402
from tests.support.pairs import pairs  # noqa: E402

SCANS = {"linear": fastiter.torch.linear_scan, "block": fastiter.torch.block_scan}
FORWARD = {"linear": reference.linear_scan, "block": reference.block_scan}
BACKWARD = {"linear": reference.linear_scan_backward, "block": reference.block_scan_backward}


@pytest.fixture(autouse=True)
def gpu_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Route CPU tensors to the GPU implementation; fill uninitialised memory with NaN."""
    launchers = (triton.forward, triton.forward_out, triton.backward)
    for scan in (ops.LINEAR, ops.BLOCK):
        monkeypatch.setitem(ops.OPS, scan.name, ops.Ops(*[partial(launcher, scan) for launcher in launchers]))
    real = torch.Tensor.new_empty

    def filled(x: Any, *args: Any, **options: Any) -> Any:
        new = real(x, *args, **options)
        return new.fill_(torch.nan) if new.is_floating_point() or new.is_complex() else new

    monkeypatch.setattr(torch.Tensor, "new_empty", filled)


def cuts(cut: str, rows: int, time: int) -> dict[str, Any]:
    resets = np.random.default_rng(3).random((rows, time)) < 0.2
    return {
        "plain": {},
        "reset": {"reset": torch.from_numpy(resets)},
        "lengths": {"lengths": [time, 0, time // 2][:rows], "reset": torch.from_numpy(resets[0])},
        "packed": {"cu_seqlens": [0, 2, 2, time - 1, time]},
    }[cut]


def check(
    kind: str, device: str, dtype: Any, cut: str, reverse: bool, broadcast: str, sizes: tuple[int, ...], time: int = 7
) -> None:
    """Assert that h, the last state and all gradients equal the specification's."""
    rows, sequences = (1, 4) if cut == "packed" else (3, 3)
    a, x, _ = scan_inputs(kind, rows, time, sizes, dtype, broadcast)
    _, dh, h0 = scan_inputs(kind, sequences, time, sizes, dtype, seed=1)
    how = cuts(cut, rows, time) | {"reverse": reverse}
    given = [torch.from_numpy(y.copy()).to(device).requires_grad_() for y in (a, x, h0)]
    on = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in how.items()}
    h, last = SCANS[kind](*given, **on)
    dlast = h0[::-1].copy()
    cotangents = [torch.from_numpy(dh[:rows].copy()).to(device), torch.from_numpy(dlast).to(device)]
    gradients = torch.autograd.grad([h, last], given, cotangents)
    wide = np.complex128 if h.is_complex() else np.float64
    theirs = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in how.items()}
    exact_h, exact_last = FORWARD[kind](*(y.astype(wide) for y in (a, x, h0)), **theirs)
    arrays = (y.astype(wide) for y in (a, exact_h, h0, dh[:rows], dlast))
    exact = (exact_h, exact_last, *BACKWARD[kind](*arrays, **theirs))
    for mine, expected in zip((h, last, *gradients), exact, strict=True):
        assert_close(mine.detach().cpu().numpy(), expected.astype(dtype), 4 * time * sizes[-1], 3)


SOME = pytest.mark.parametrize(
    ("dtype", "cut", "reverse", "broadcast"),
    [
        (np.float32, "plain", False, "full"),
        (np.float32, "lengths", True, "constant"),
        (np.float64, "packed", True, "one step"),
        (np.float64, "reset", False, "one row"),
        (np.complex64, "lengths", False, "full"),
        (np.complex128, "packed", True, "constant"),
    ],
)


@pairs
@SOME
@pytest.mark.parametrize("shortest", [64, 3], ids=["whole", "segments"])
@both_kinds
def test_states_and_gradients(
    kind: str,
    dtype: Any,
    cut: str,
    reverse: bool,
    broadcast: str,
    shortest: int,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(triton, "_SHORTEST", shortest)
    check(kind, device, dtype, cut, reverse, broadcast, (5,) if kind == "linear" else (2, 3))


@pytest.mark.parametrize(
    ("kind", "sizes"), [("linear", (67,)), ("block", (3, 1)), ("block", (1, 16)), ("block", (9, 8))]
)
def test_other_sizes(kind: str, sizes: tuple[int, ...], device: str) -> None:
    check(kind, device, np.float32, "plain", False, "full", sizes, 3)


@pairs
@SOME
@pytest.mark.parametrize("time", [7, 24])
@pytest.mark.parametrize("width", [5, 67])
def test_blocks_of_steps(
    dtype: Any,
    cut: str,
    reverse: bool,
    broadcast: str,
    time: int,
    width: int,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Blocks of 4 steps forward and 2 backward, and a rest, where programs have lanes of several lengths or of one."""
    item = np.dtype(dtype).itemsize
    monkeypatch.setitem(triton._AHEAD, "linear_scan", (4 * item, 2 * item))
    monkeypatch.setattr(triton, "_REST", (2 * item, 2 * item))
    check("linear", device, dtype, cut, reverse, broadcast, (width,), time)


@pytest.mark.parametrize("width", [5, 67])
@pytest.mark.parametrize("reverse", [False, True])
def test_segments_of_blocks(reverse: bool, width: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four segments, of which the last one is no block of steps; one sequence is empty."""
    monkeypatch.setattr(triton, "_SHORTEST", 8)
    monkeypatch.setattr(triton.launch, "multiprocessors", lambda x: 16)
    monkeypatch.setitem(triton._AHEAD, "linear_scan", (16, 8))
    check("linear", device, np.float32, "lengths", reverse, "full", (width,), 27)
    check("linear", device, np.float32, "reset", reverse, "constant", (width,), 27)


@both_kinds
def test_no_step_and_one_step(kind: str, device: str) -> None:
    sizes = (5,) if kind == "linear" else (2, 3)
    for rows, time in ((2, 0), (0, 4), (2, 1)):
        a, x, h0 = (torch.from_numpy(y).to(device) for y in scan_inputs(kind, rows, time, sizes, np.float64))
        for factors in (a, a[:1], torch.ones_like(a[:0].sum((0, 1), keepdim=True))):
            given = [y.clone().requires_grad_() for y in (factors, x, h0)]
            h, last = SCANS[kind](*given)
            gradients = torch.autograd.grad(last.sum() + h.sum(), given)
            assert [g.shape for g in gradients] == [y.shape for y in given]
            assert all(torch.isfinite(y).all() for y in (h, last, *gradients))
            if time == 0:
                assert torch.equal(last, h0) and not gradients[0].any()


@pytest.mark.parametrize("time", [0, 1, 31, 32, 50, 64, 135])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_real_numbers_of_one_segment_have_the_bits_of_the_cpu(
    dtype: Any, time: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton, "_SHORTEST", 1000)
    inputs = [torch.from_numpy(y) for y in scan_inputs("linear", 2, time, (5,), dtype)]
    expected = ops._forward(ops.LINEAR, ops.ScanForward(*inputs, False, None, None, None))
    given = [y.to(device).expand(2, *y.shape[1:]) for y in inputs]
    h, last = SCANS["linear"](*given)
    assert torch.equal(h.cpu(), expected[0]) and torch.equal(last.cpu(), expected[1])


def test_bfloat16_is_stored_and_float32_carried(device: str) -> None:
    a, x, h0 = (torch.from_numpy(y).to(device) for y in scan_inputs("linear", 2, 9, (5,), np.float32))
    a, x = (0.9 * torch.tanh(a)).bfloat16(), x.bfloat16()
    given = [y.clone().requires_grad_() for y in (a[:, :1], x, h0)]
    wide = [y.detach().float().requires_grad_() for y in given]
    (h, last), (exact, exact_last) = SCANS["linear"](*given), SCANS["linear"](*wide)
    assert h.dtype == torch.bfloat16 and last.dtype == torch.float32 and torch.equal(last, exact_last)
    results, exact = [h, *torch.autograd.grad(last.sum(), given)], [exact, *torch.autograd.grad(exact_last.sum(), wide)]
    assert [y.dtype for y in results] == [torch.bfloat16] * 3 + [torch.float32]
    for mine, expected in zip(results, exact, strict=True):  # the interpreter rounds to bfloat16 towards zero
        assert torch.allclose(mine.float(), expected, rtol=2**-6, atol=2**-6 * float(expected.detach().abs().max()))


@both_kinds
def test_out_and_views(kind: str, device: str) -> None:
    sizes = (4,) if kind == "linear" else (2, 3)
    a, x, h0 = (torch.from_numpy(y).to(device) for y in scan_inputs(kind, 2, 5, sizes, np.complex64))
    expected = SCANS[kind](a, x, h0)
    views = [
        lambda y: y.conj().resolve_conj().conj(),
        lambda y: y.transpose(0, -1).contiguous().transpose(0, -1),
        lambda y: torch.repeat_interleave(y, 2, 1)[:, ::2],
    ]
    for view in views:
        out = view(torch.full_like(x, torch.nan))
        h, last = SCANS[kind](view(a), view(x), h0, out=out)
        assert h is out and torch.equal(h, expected[0]) and torch.equal(last, expected[1])


@both_kinds
def test_second_gradients(kind: str, device: str) -> None:
    sizes = (2,) if kind == "linear" else (1, 2)
    given = [torch.from_numpy(y.copy()).to(device).requires_grad_() for y in scan_inputs(kind, 2, 3, sizes, np.float64)]
    f = lambda *y: SCANS[kind](*y, lengths=[3, 1])  # noqa: E731
    assert torch.autograd.gradgradcheck(f, given, fast_mode=True)


def test_one_pass_where_lanes_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    """B = 8, D = 1024 on 132 multiprocessors reads a and x once, where segments would read them twice."""
    monkeypatch.setattr(triton.launch, "multiprocessors", lambda x: 132)
    x = torch.empty(8, 8192, 1024, device="meta")
    assert triton._segment(ops.LINEAR, x, 8 * 1024) == 8192
    assert triton._segment(ops.LINEAR, x, 132 * 64 // 2) == 8192
    assert triton._segment(ops.LINEAR, x, 132 * 64 // 2 - 1) < 8192
    assert triton._segment(ops.BLOCK, x[..., None], 132 * 64 - 1) < 8192


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128])
def test_segments_are_whole_blocks(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton.launch, "multiprocessors", lambda x: 132)
    block = triton._AHEAD["linear_scan"][0] // ops.carried(dtype).itemsize
    for time, lanes in ((1000, 1000), (8191, 17), (65536, 640), (70, 4000)):
        segment = triton._segment(ops.LINEAR, torch.empty(1, time, lanes, dtype=dtype, device="meta"), lanes)
        assert segment >= triton._SHORTEST and segment % block == 0
