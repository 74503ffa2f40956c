"""Newton's method for the diagonal cells in CUDA: on a card, or as C++ on a CPU, under sanitizers too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastiter.torch  # noqa: E402
from fastiter import BackendError  # noqa: E402
from fastiter._torch import launch as gpu  # noqa: E402
from fastiter.newton._cells import CELLS  # noqa: E402
from fastiter.newton._torch import cuda  # noqa: E402
from fastiter.newton._torch import functional as functions  # noqa: E402
from fastiter.newton._torch import gpu as newton_gpu  # noqa: E402
from fastiter.torch.nn import ParaGRU, ParaLSTM  # noqa: E402
from tests.gpu.host import host  # noqa: E402
from tests.newton import calls as newton_calls  # noqa: E402
from tests.newton.calls import ParaInputs, para_inputs, specified  # noqa: E402
from tests.newton.torch_calls import Leaves, numpy, random_cotangents, specified_gradients  # noqa: E402
from tests.support.cases import assert_close, assert_same_bits  # noqa: E402

#: An error of 64 eps is accepted by default.
WIDTH = 64**2

#: Each cell in one dtype, since each combination compiles a program
both_cells = pytest.mark.parametrize(("cell", "dtype"), [("paragru", np.float32), ("paralstm", np.float64)])


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("newton")


@pytest.fixture(autouse=True)
def gpu_kernels(device: str, programs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Route CPU tensors to the GPU implementation; fill uninitialised memory with NaN."""
    if device == "cpu":
        monkeypatch.setattr(gpu, "launch_cuda", host.Host(programs))
    monkeypatch.setattr(functions, "para_fwd", newton_gpu.forward)
    monkeypatch.setattr(functions, "para_bwd", newton_gpu.backward)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def leaves(inputs: ParaInputs, device: str) -> Leaves:
    def there(x: Any) -> Any:
        return torch.from_numpy(x).to(device).requires_grad_()

    return Leaves(there(inputs.wx), tuple(map(there, inputs.weights())), tuple(map(there, inputs.state)))


def solve(cell: str, given: Leaves, **how: Any) -> Any:
    """Return (h, final states) and the solver's info."""
    function = getattr(fastiter.torch, cell)
    h, last, info = function(given.wx, *given.weights, given.state, method="newton", return_info=True, **how)
    assert info.method == "newton" and info.steps.dtype == torch.int64
    return (h, last), info


def arrays(output: Any) -> Any:
    return numpy(output[0].cpu()), tuple(numpy(x.cpu()) for x in output[1])


def gradients(output: Any, given: Leaves) -> tuple[Any, tuple[Any, ...]]:
    """Return random cotangents of all outputs, and the gradients of all inputs."""
    cotangents = random_cotangents(arrays(output))
    there = [torch.from_numpy(x).to(given.wx.device) for x in cotangents]
    return cotangents, torch.autograd.grad([output[0], *output[1]], given.all(), there)


def check(cell: str, inputs: ParaInputs, device: str, **how: Any) -> Any:
    """Compare states and gradients with the specification."""
    B, T = inputs.wx.shape[:2]
    given = leaves(inputs, device)
    output, info = solve(cell, given, **how)
    where = {name: how[name] for name in ("reverse", "lengths") if name in how}
    assert_close(arrays(output), specified(cell, inputs, **where), T, WIDTH)
    cotangents, found = gradients(output, given)
    expected = specified_gradients(cell, inputs, cotangents, **where)
    assert_close(tuple(numpy(x.cpu()) for x in found), expected, B * T, WIDTH)
    return info


@pytest.mark.parametrize(
    ("B", "T", "D", "how"),
    [
        (1, 70, 9, {"window": 40}),
        (3, 9, 5, {"lengths": [9, 0, 4], "reverse": True}),
        (2, 41, 8, {"window": 7, "lengths": [41, 20]}),
        (1, 1, 3, {}),
        (2, 0, 3, {}),
        (0, 3, 2, {}),
        (2, 3, 0, {}),
    ],
)
@both_cells
def test_states_and_gradients(cell: str, dtype: Any, B: int, T: int, D: int, how: dict[str, Any], device: str) -> None:
    info = check(cell, para_inputs(cell, B, T, D, dtype), device, **how)
    lengths = how.get("lengths", [T] * B)
    assert [bool(n) for n in info.steps.tolist()] == [n > 0 and D > 0 for n in lengths]
    assert info.fallbacks.tolist() == [0] * B


@pytest.mark.parametrize(("cell", "dtype"), [("paragru", np.float64), ("paralstm", np.float32)])
def test_the_other_dtypes(cell: str, dtype: Any, device: str) -> None:
    inputs = para_inputs(cell, 1, 37, 5, dtype, bound=2)
    check(cell, inputs, device)
    *_, expected = newton_calls.run(cell, inputs, method="newton", return_info=True)
    info = solve(cell, leaves(inputs, device))[1]  # converges the same, with other rounding errors
    assert abs(info.steps.cpu().numpy() - expected.steps).max() <= 1 and not info.fallbacks.any()


def test_views_and_bits(device: str) -> None:
    inputs = para_inputs("paralstm", 2, 20, 4, np.float64)
    given = leaves(inputs, device)
    output, _ = solve("paralstm", given, window=15)
    expected = [*output[1], output[0], *gradients(output, given)[1]]
    for view in (lambda x: x, lambda x: x.transpose(0, 1).contiguous().transpose(0, 1), lambda x: x.mT.contiguous().mT):
        again, _ = solve("paralstm", given._replace(wx=view(given.wx)), window=15)
        found = [*again[1], again[0], *gradients(again, given)[1]]
        assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
    again, _ = solve("paralstm", given)
    wide = torch.ones((2, 20, 8), dtype=torch.float64, device=device)[..., ::2]
    by_row = [torch.autograd.grad(again[0], given.all(), dh, retain_graph=True) for dh in (wide, wide.contiguous())]
    assert all(torch.equal(x, y) for x, y in zip(*by_row, strict=True))


@both_cells
def test_abandoned_windows_are_counted(cell: str, dtype: Any, device: str) -> None:
    info = check(cell, para_inputs(cell, 2, 41, 5, dtype), device, window=16, max_steps=1, reverse=True)
    assert info.steps.tolist() == [1, 1] and info.fallbacks.tolist() == [3, 3]


@both_cells
def test_only_the_nonfinite_row_is_abandoned(cell: str, dtype: Any, device: str) -> None:
    inputs = para_inputs(cell, 3, 50, 5, dtype)
    inputs.wx[1, 20, 0, 3] = np.nan
    output, info = solve(cell, leaves(inputs, device), window=16)
    assert (info.fallbacks > 0).tolist() == [False, True, False]
    expected = newton_calls.run(cell, inputs)
    for x, e in zip((output[0], *output[1]), (expected[0], *expected[1]), strict=True):
        np.testing.assert_allclose(numpy(x.cpu()), e, rtol=0, atol=64 * np.finfo(dtype).eps)  # any NaN equals any NaN


@both_cells
def test_a_row_in_which_errors_grow_is_run_by_the_loop(cell: str, dtype: Any, device: str) -> None:
    """Row 0 leaves an unstable point, h+ = tanh(3 h) near 0, where any guess is within the tolerance; row 1 stays."""
    inputs = para_inputs(cell, 2, 40, 4, dtype)
    inputs.wx[:, :, :2], inputs.a[:2], inputs.p[:], inputs.a[2] = 20, 0, 0, 3
    inputs.wx[0, :, 2] *= 1e-6
    if cell == "paralstm":
        inputs.wx[0, :, 0] = -20
    else:
        inputs.wx[1, :, 0] = -20
    for s in inputs.state:
        s[0] = 0
    how: dict[str, Any] = {"window": 16, "rtol": 1e-4, "atol": 1e-4}
    info = check(cell, inputs, device, **how)
    assert info.fallbacks.tolist() == [3, 0]
    *_, expected = newton_calls.run(cell, inputs, method="newton", return_info=True, **how)
    assert expected.fallbacks.tolist() == [3, 0]


@both_cells
def test_without_a_tolerance(cell: str, dtype: Any, device: str) -> None:
    inputs = para_inputs(cell, 1, 40, 4, dtype, bound=4)
    given = leaves(inputs, device)
    exact, info = solve(cell, given, window=20, rtol=0, atol=0)
    assert 4 < info.steps.max() <= 20 and not info.fallbacks.any()
    assert_close(arrays(exact), specified(cell, inputs), 40, WIDTH)
    if device == "cpu":
        assert_same_bits(arrays(exact), arrays(solve(cell, given, window=20, max_steps=1)[0]))


def test_a_window_is_what_a_block_holds(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_THREADS", 32)
    info = check("paragru", para_inputs("paragru", 1, 70, 3, np.float32), device, window=2**31 - 1, max_steps=1)
    assert info.fallbacks.tolist() == [3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_launches(dtype: torch.dtype) -> None:
    for cell, time in ((name, time) for name in cuda.SOLVED for time in (0, 1, 33, 255, 5000)):
        launch = cuda.Launch(CELLS[cell], torch.empty((3, time, 3, 21), dtype=dtype, device="meta"))
        assert launch.window == cuda.WINDOW and launch.windows == -(-time // launch.window)
        assert launch.threads % 32 == 0 and 32 <= launch.threads <= 256
        assert launch.threads // launch.units * launch.chunk >= min(time, launch.window)
        assert max(launch.solve_bytes, launch.gradient_bytes) <= 48 << 10
        assert launch.grid * launch.units >= 3 * 21


@pytest.mark.parametrize("layer", [ParaGRU, ParaLSTM])
def test_modules(layer: Any, device: str) -> None:
    dtype = torch.float32 if layer is ParaGRU else torch.float64
    torch.manual_seed(0)
    plain = layer(3, 4, device=device, dtype=dtype)
    solved = layer(3, 4, device=device, dtype=dtype, method="newton")
    solved.load_state_dict(plain.state_dict())
    x = torch.randn(6, 2, 3, dtype=dtype).to(device)
    for y, expected in zip(solved(x)[0], plain(x)[0], strict=True):
        torch.testing.assert_close(y, expected, rtol=0, atol=64 * torch.finfo(dtype).eps)


def test_paraslstm_is_refused(device: str) -> None:
    message = "paraslstm: method must be 'auto' or 'sequential' on a CUDA device, got 'newton'"
    with pytest.raises(BackendError, match=message):
        solve("paraslstm", leaves(para_inputs("paraslstm", 1, 2, 3, np.float32), device))


# ---- sanitizers -----------------------------------------------------------------------------------------------------


def sanitized(sanitizer: str, folder: Path, monkeypatch: pytest.MonkeyPatch, cell: str, dtype: Any) -> None:
    """Run two windows of two warps, which the solver gives up after some passes."""
    monkeypatch.setattr(gpu, "launch_cuda", host.Host(folder, sanitizer))
    monkeypatch.setattr(cuda, "_CHUNK", 16)
    inputs = para_inputs(cell, 1, 45, 5, dtype, bound=2)
    assert check(cell, inputs, "cpu", window=32, max_steps=3).fallbacks.tolist() == [2]


@pytest.mark.parametrize(
    ("sanitizer", "cell", "dtype"), [("address", "paragru", np.float32), ("thread", "paralstm", np.float64)]
)
def test_sanitizers(
    sanitizer: str, cell: str, dtype: Any, programs: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device == "cpu":
        sanitized(sanitizer, programs, monkeypatch, cell, dtype)


def test_a_pass_that_overwrites_the_input_of_others_is_detected(
    tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device != "cpu":
        return
    headers = []
    for header in host.family_headers(host.KERNELS / "newton/newton.cu"):
        headers.append(tmp_path / header.name)
        headers[-1].write_text(header.read_text().replace("(turn + later) % 2", "0"))
    assert headers[-1].read_text() != header.read_text()
    monkeypatch.setattr(host, "family_headers", lambda source: headers)
    with pytest.raises(RuntimeError, match="data race"):
        sanitized("thread", tmp_path, monkeypatch, "paragru", np.float32)
