"""The CUDA kernels of the recurrent cells agree with the specification: on a card, or on a CPU under sanitizers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from cases import RNN_CELLS  # noqa: E402
from cuda_on_host.host import Host  # noqa: E402
from fastiter.torch import _gpu, _rnn_cuda, _rnn_plan  # noqa: E402
from rnn_gpu_calls import check, make  # noqa: E402

every_cell = pytest.mark.parametrize(("cell", "activation"), RNN_CELLS, ids=map("".join, RNN_CELLS))


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rnn")


@pytest.fixture
def launch(device: str, programs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Call it to launch on the CPU, under a sanitizer; what no kernel has written is NaN."""

    def under(sanitizer: str = "none") -> Host:
        host = Host(programs, sanitizer)
        if device == "cpu":
            monkeypatch.setattr(_gpu, "launch_cuda", host)
            monkeypatch.setattr(_rnn_cuda, "_THREADS", 64)
        return host

    torch.use_deterministic_algorithms(True, warn_only=True)
    yield under
    torch.use_deterministic_algorithms(False)


def shapes(case: Any, warps: tuple[int, int, int], held: int) -> dict[str, dict[str, Any]]:
    """Plans of ``warps`` (of units, of terms, tiles of rows) forward and backward, ``held`` tiles of r in registers."""
    wx, r, *_ = case.inputs
    B, _, G, N, D = wx.shape
    cores = r.element_size() == 2
    told = {}
    for name, outs, terms in (("forward", G, D), ("backward", 1, G * D)):
        problem = _rnn_plan.Problem(outs, D, terms, N, B, r.element_size(), cores)
        told[name] = {"plan": _rnn_plan.shape(problem, *warps, held=held)}
    return told


@every_cell
def test_fused(cell: str, activation: str, device: str, launch: Any) -> None:
    launch()
    case = make(cell, activation, (3, 4, 2, 17), torch.float32, device)
    check(case, **shapes(case, (2, 1, 1), 1))
