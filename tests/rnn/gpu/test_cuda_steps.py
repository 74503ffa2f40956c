"""One step at a time on a card: most steps run in a CUDA graph, of which Python launches one turn."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from fastiter._torch import graph  # noqa: E402
from fastiter._torch import launch as gpu  # noqa: E402
from fastiter.rnn._torch._gpu import stepwise  # noqa: E402
from tests.gpu.host.host import Host  # noqa: E402
from tests.rnn.gpu.gpu_calls import array, check, make, run  # noqa: E402

STEPWISE: dict[str, dict[str, Any]] = {"forward": {"backend": "stepwise"}, "backward": {"backend": "stepwise"}}


class Graphs(TorchDispatchMode):
    """Stand in for CUDA graphs: what is launched during a capture runs at each replay, and not before."""

    def __init__(self, host: Callable[..., None]) -> None:
        super().__init__()
        self.host = host
        self.calls: list[Callable[[], object]] | None = None
        self.replays = False
        self.python = {"launches": 0, "products": 0, "graphs": 0, "replays": 0}

    def launch_cuda(self, *args: Any, **options: Any) -> None:
        self.python["launches"] += 1
        self._run(lambda: self.host(*args, **options))

    def _run(self, call: Callable[[], object]) -> object:
        return call() if self.calls is None else self.calls.append(call)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.python["products"] += func is torch.ops.aten.bmm.out and not self.replays
        into = kwargs.get("out", args[0])
        assert self.calls is None or "out" in kwargs or func._schema.is_mutable, f"{func} allocates in a capture"
        done = self._run(lambda: func(*args, **kwargs))
        return into if self.calls is not None else done

    def captured(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        self.python["graphs"] += 1
        calls = self.calls = []
        enqueue()
        self.calls = None

        def replay() -> None:
            self.python["replays"] += 1
            self.replays = True
            for call in calls:
                call()
            self.replays = False

        return replay


@pytest.fixture
def graphs(device: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Graphs:
    """Return the stand-in, which the launches of tensors on a CPU go to; on a card there are graphs."""
    stand_in = Graphs(Host(shared(tmp_path_factory)))
    if device == "cpu":
        monkeypatch.setattr(gpu, "launch_cuda", stand_in.launch_cuda)
        monkeypatch.setattr(stepwise, "_THREADS", 64)
        monkeypatch.setattr(graph, "can_capture", lambda x: True)
        monkeypatch.setattr(graph, "beside", lambda x: contextlib.nullcontext())
        monkeypatch.setattr(graph, "captured", stand_in.captured)
    return stand_in


_FOLDERS: list[Path] = []


def shared(factory: pytest.TempPathFactory) -> Path:
    if not _FOLDERS:
        _FOLDERS.append(factory.mktemp("steps"))
    return _FOLDERS[0]


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_steps_of_a_graph_are_those_of_the_cell(
    cell: str, device: str, graphs: Graphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps in a graph have the bits of steps outside one, in both directions, with ends of rows and resets."""
    monkeypatch.setattr(stepwise, "_MIN_STEPS", 2)
    monkeypatch.setattr(stepwise, "_WORTH", 2)
    reset = [[False, True, False, False, True, False, False]] * 3
    for how in ({"lengths": [7, 0, 4], "reset": reset}, {"reverse": True, "lengths": [5, 7, 2]}):
        case = make(cell, "", (3, 7, 1, 5), torch.float32, device)
        with graphs:
            check(case, **how, **STEPWISE)
            inside = run(case, **how, **STEPWISE)
        if device == "cpu":
            assert graphs.python["graphs"] == 4 and graphs.python["replays"] == 12
            graphs.python.update(graphs=0, replays=0)
        monkeypatch.setattr(stepwise, "_WORTH", 100)
        outside = run(case, **how, **STEPWISE)
        monkeypatch.setattr(stepwise, "_WORTH", 2)
        for a, b in zip([*inside[0], *inside[1]], [*outside[0], *outside[1]], strict=True):
            assert (array(a) == array(b)).all()


@pytest.mark.parametrize(("steps", "of_graph"), [(1, 0), (32, 0), (33, 8), (1024, 8), (10_000, 12)])
def test_python_launches_few_steps(steps: int, of_graph: int, graphs: Graphs, monkeypatch: pytest.MonkeyPatch) -> None:
    """16 of 1024 steps, with a product and a launch each, and 127 replays."""
    monkeypatch.setattr(gpu, "launch_cuda", graphs.launch_cuda)
    graphs.host = lambda *args, **options: None
    case = make("lstm", "", (1, steps, 1, 1), torch.float32, "cpu")
    turns = (steps - 1) // of_graph if of_graph else 0
    launched = steps - (turns - 1) * of_graph if turns else steps
    for backward in (False, True):
        graphs.python = dict.fromkeys(graphs.python, 0)
        with graphs:
            if backward:
                stepwise_backward(case)
            else:
                stepwise_forward(case)
        expected = {"launches": launched + 2, "products": launched + backward, "graphs": turns > 0, "replays": turns}
        assert graphs.python == expected
        assert steps < 1024 or sum(expected.values()) < steps / 5


def stepwise_forward(case: Any) -> None:
    from fastiter.rnn._torch._gpu import kernels as rnn_gpu
    from fastiter.rnn._torch.ops import RnnForward

    wx, r, b, state = case.inputs
    rnn_gpu.forward(RnnForward(case.name, wx, r, b, state, False, None, None, True, True), **STEPWISE["forward"])


def stepwise_backward(case: Any) -> None:
    from fastiter.rnn._torch._gpu import kernels as rnn_gpu
    from fastiter.rnn._torch.ops import RnnBackward

    wx, r, _, state = case.inputs
    states, saved = [wx[:, :, 0].clone(), wx[:, :, 0].clone()], [wx.clone()]
    given = (case.name, r, state, states, saved, case.dstates, case.dlast, False, None, None)
    rnn_gpu.backward(RnnBackward(*given, False, False, True), **STEPWISE["backward"])


def test_a_failed_capture_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the stream stays in capture mode, and all later calls fail."""
    told: list[str] = []

    class CUDAGraph:
        def capture_begin(self, capture_error_mode: str) -> None:
            told.append(f"begin {capture_error_mode}")

        def capture_end(self) -> None:
            told.append("end")
            if "failed" in told:
                raise RuntimeError("operation failed due to a previous error during capture")

        def replay(self) -> None:
            told.append("replay")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", CUDAGraph)
    graph.captured(lambda: told.append("launch"))()
    assert told == ["begin thread_local", "launch", "end", "replay"]
    told[:] = ["failed"]

    def fail() -> None:
        raise ValueError("of the launch")

    with pytest.raises(ValueError, match="of the launch"):
        graph.captured(fail)
    assert told == ["failed", "begin thread_local", "end"]
    assert not graph.can_capture(torch.zeros(1))
