"""The benchmark of the family newton: the peer's parameters renamed to ours, and a run without the peer."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from bench import __main__ as command  # noqa: E402
from bench import newton  # noqa: E402
from bench.harness import contest, gate  # noqa: E402
from bench.newton import cases as newton_cases  # noqa: E402
from bench.newton import peers as newton_peers  # noqa: E402
from bench.newton import table as newton_table  # noqa: E402
from bench.newton.cases import Case  # noqa: E402

SMALL = {cell: Case(cell, 2, 5, 4) for cell in newton_cases.CELLS}


@pytest.mark.parametrize("cell", SMALL)
def test_ours_is_the_loop(cell: str) -> None:
    assert newton_cases.cell_work(SMALL[cell], "sequential").check() < 1e-5
    assert newton_cases.cell_work(SMALL[cell], "newton").check() < 1e-5
    assert newton_cases.layer_work(SMALL[cell]).check() < 1e-5


@pytest.mark.parametrize("cell", SMALL)
def test_a_wrong_kernel_is_refused(cell: str) -> None:
    work = newton_cases.cell_work(SMALL[cell])
    swapped = replace(work, ours=lambda wx, *weights: work.loop(wx.flip(2), *weights))
    with pytest.raises(gate.GateError, match=f"{cell} B 2 T 5 H 4: h is off"):
        swapped.check()


# ---- The peer -------------------------------------------------------------------------------------------------------


class PeerCell(torch.nn.Module):
    """Cell with pararnn-torch's names and gate order: z, r, n of a GRU; f, z (candidate), o of an LSTM; peepholes c."""

    def __init__(self, names: str, H: int, max_recurrent_norm: float | None) -> None:
        super().__init__()
        assert max_recurrent_norm is None
        self.W_x = torch.nn.Linear(H, 3 * H)
        for name in names.split():
            setattr(self, name, torch.nn.Parameter(torch.randn(H)))


class PeerRNN(torch.nn.Module):
    def __init__(self, cell: PeerCell, **_: object) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        cell = self.cell
        first, second, third = cell.W_x(x).chunk(3, -1)
        if not hasattr(cell, "c_f"):
            wx, a = torch.stack([first, second, third], 2), torch.stack([cell.a_z, cell.a_r, cell.a_n])
            return newton_cases.gru_loop(wx, a)
        wx, a = torch.stack([first, third, second], 2), torch.stack([cell.a_f, cell.a_o, cell.a_z])
        return newton_cases.lstm_loop(wx, a, torch.stack([cell.c_f, cell.c_o]))


def peer_module() -> SimpleNamespace:
    return SimpleNamespace(
        ParaGRU=lambda I, H, **options: PeerCell("a_z a_r a_n", H, **options),
        ParaLSTM=lambda I, H, **options: PeerCell("a_f a_z a_o c_f c_o", H, **options),
        ParaRNN=PeerRNN,
    )


@pytest.mark.parametrize("cell", SMALL)
def test_parameters_and_gradients_of_the_peer_are_converted(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newton_peers, "load", lambda module: peer_module())
    work = newton_cases.layer_work(SMALL[cell])
    entrants = newton_peers.entrants(SMALL[cell], work, False)
    assert [(e.name, e.variant) for e in entrants] == [("pararnn-torch", "sequential"), ("pararnn-torch", "Newton")]
    for entrant in entrants:
        assert entrant.results().keys() == work.expected.keys()
        assert contest.reason_against(entrant, work) is None


# ---- The command ----------------------------------------------------------------------------------------------------


def quick_arguments(out: Path | None, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    newton.add_arguments(parser)
    arguments = parser.parse_args(["--quick", "--threads", "1", "--budget", "0.001", *more])
    arguments.command, arguments.out = "newton", out
    return arguments


def test_a_run_without_the_peer_is_written_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(newton_peers, "load", lambda module: None)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    command.measure(quick_arguments(tmp_path / "x.json"))
    results = json.loads((tmp_path / "x.json").read_text())
    assert [len(results[section]) for section in newton.SECTIONS] == [2, 2, 4]
    assert [r["out"] for r in results["peers"]] == [{"pararnn-torch": "no pararnn here"}] * 2
    capsys.readouterr()
    command.report([tmp_path / "x.json"])
    printed = capsys.readouterr().out
    assert printed.count("| pararnn-torch | - | - | no pararnn here |") == 2
    for title in ("forward: newton / sequential", "forward+backward: newton / sequential", "backward / forward"):
        assert title in printed


def test_goals_are_those_of_the_issue() -> None:
    assert newton_table.GOALS == {"pararnn-torch": {contest.REUSED: 20.0}}
    assert newton_table.BACKWARD_GOAL == 2.5
    assert newton_cases.SHAPES == ((16, 256, 256), (4, 2048, 64))
