"""Selective scans by CUDA kernels: on a card, or as C++ on a CPU, under sanitizers too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastiter.torch  # noqa: E402
from fastiter._torch import launch as gpu  # noqa: E402
from fastiter.ssm._torch import functional as functions  # noqa: E402
from fastiter.ssm._torch._gpu import cuda_selective as cuda  # noqa: E402
from fastiter.ssm._torch._gpu import selective_kernels  # noqa: E402
from tests.gpu.host import host  # noqa: E402
from tests.ssm.calls import assert_near, scan_inputs, specified, specified_gradients  # noqa: E402
from tests.ssm.gpu.scan_checks import check  # noqa: E402
from tests.support.memory import fill_new_tensors  # noqa: E402

scan = fastiter.torch.ssm.selective_scan
Launch = Callable[..., None]


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("selective")


@pytest.fixture
def launch(device: str, programs: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    """Return a function that routes CPU tensors to the CUDA kernels, under a sanitizer; new tensors are NaN."""

    def route(sanitizer: str = "none") -> None:
        if device == "cpu":
            monkeypatch.setattr(gpu, "launch_cuda", host.Host(programs, sanitizer))
        monkeypatch.setattr(functions.selective, "forward", cuda.forward)
        monkeypatch.setattr(functions.selective, "backward", cuda.backward)
        fill_new_tensors(monkeypatch)

    return route


FEW = {"without": ("D", "z", "delta_bias", "state")}


@pytest.mark.parametrize(
    ("size", "cut", "softplus", "order", "how"),
    [
        ((1, 3, 37, 2), "", True, "time", {}),
        ((1, 66, 21, 13), "reset", True, "channels", {"groups": 2}),
        ((2, 3, 40, 16), "lengths", True, "time", {}),  # 4 steps are read at a time
        ((1, 2, 150, 7), "packed", True, "time", {}),
        ((1, 2, 20, 16), "", False, "time", FEW),
        ((1, 2, 1, 4), "", True, "time", {}),
        ((2, 3, 0, 2), "", True, "time", {}),
        ((0, 3, 4, 2), "", True, "time", {}),
        ((2, 0, 4, 2), "", True, "time", {}),
    ],
    ids=str,
)
def test_outputs_and_gradients(
    size: tuple[int, ...], cut: str, softplus: bool, order: str, how: dict[str, Any], device: str, launch: Launch
) -> None:
    launch()
    check(device, size, np.float32, cut, softplus, order, **how)


@pytest.mark.parametrize(("sanitizer", "cut"), [("address", "packed"), ("thread", "lengths")])
def test_under_sanitizers(sanitizer: str, cut: str, device: str, launch: Launch) -> None:
    launch(sanitizer)
    check(device, (1 if cut == "packed" else 2, 35, 37, 16), np.float32, cut, True, "time")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_halves_are_stored_and_float32_computed(dtype: Any, device: str, launch: Launch) -> None:
    launch()
    inputs = scan_inputs(1, 2, 24, 3, np.float32).arguments()
    cast = {n: torch.from_numpy(x).to(device, torch.float32 if n in "AD" else dtype) for n, x in inputs.items()}
    results = []
    for wide in (False, True):
        given = {n: (x.float() if wide else x).detach().requires_grad_() for n, x in cast.items()}
        out, last = scan(**given, delta_softplus=True, return_last_state=True)
        results.append([out, last, *torch.autograd.grad(out.float().sum() + last.sum(), list(given.values()))])
    assert [y.dtype for y in results[0][2:]] == [x.dtype for x in cast.values()] and results[0][0].dtype == dtype
    for mine, exact in zip(*results, strict=True):
        assert torch.equal(mine, exact.to(mine.dtype))


def test_states_that_vanish_at_once(device: str, launch: Launch) -> None:
    """The decays underflow to 0, and those below 2^-126 are flushed to 0."""
    launch()
    inputs = scan_inputs(1, 2, 20, 1, np.float32)._replace(A=np.array([[-3000.0], [-120.0]], np.float32))
    given = {name: torch.from_numpy(x).to(device).requires_grad_() for name, x in inputs.arguments().items()}
    out = scan(**given, delta_softplus=True)
    assert_near(out.detach().cpu().numpy(), specified(inputs)[0], np.float32, 100)
    gradients = torch.autograd.grad(out, list(given.values()), torch.ones_like(out))
    exact = specified_gradients(inputs, np.ones(out.shape), None)
    for name, g in zip(given, gradients, strict=True):
        assert_near(g.cpu().numpy(), getattr(exact, name), np.float32, 400, name)


def test_bits_alone_in_a_batch_packed_and_in_any_layout(device: str, launch: Launch) -> None:
    launch()
    inputs = scan_inputs(3, 5, 24, 6, np.float32).arguments()
    given = {name: torch.from_numpy(x).to(device) for name, x in inputs.items()}
    out, last = scan(**given, delta_softplus=True, return_last_state=True)
    for view in (lambda x: x.mT.contiguous().mT, lambda x: torch.nn.functional.pad(x, (1, 2))[..., 1:-2]):
        strided = {name: view(x) if x.shape == (3, 5, 24) else x for name, x in given.items()}
        found = scan(**strided, delta_softplus=True, return_last_state=True)
        assert torch.equal(found[0], out) and torch.equal(found[1], last)
    one = {name: x if name in ("A", "D", "delta_bias") else x[1:2] for name, x in given.items()}
    found = scan(**one, delta_softplus=True, return_last_state=True)
    assert torch.equal(found[0], out[1:2]) and torch.equal(found[1], last[1:2])
    packed = {
        name: x.movedim(0, -2).flatten(-2)[None] if name in "uBCz" or name == "delta" else x
        for name, x in given.items()
    }
    found = scan(**packed, delta_softplus=True, return_last_state=True, cu_seqlens=[0, 24, 48, 72])
    assert torch.equal(found[0].unflatten(2, (3, 24))[0].movedim(1, 0), out) and torch.equal(found[1], last)


def test_which_kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    installed, capability = {"cupy"}, (8, 0)
    monkeypatch.setattr(selective_kernels, "is_installed", lambda name: name in installed)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)

    def chosen(dtype: Any, states: int, fixed: bool = False) -> str:
        B = torch.empty((4, states) if fixed else (2, 1, states, 9), dtype=dtype)
        u, A = torch.empty((2, 4, 9), dtype=dtype), torch.empty(4, states)
        return selective_kernels.choose(SimpleNamespace(u=u, A=A, B=B, C=B))  # type: ignore[arg-type]

    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert chosen(dtype, 16) == "cuda"
    assert {chosen(torch.float64, 16), chosen(torch.float32, 17), chosen(torch.float32, 16, True)} == {"triton"}
    capability = (7, 5)
    assert chosen(torch.float32, 16) == "triton"
    capability = (9, 0)
    installed.clear()
    assert chosen(torch.float32, 16) == "triton"
