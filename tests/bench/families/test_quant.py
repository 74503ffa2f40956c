"""The benchmark of the family quant: the tasks, the differences allowed to a peer, and a run without peers."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bench import __main__ as command  # noqa: E402
from bench import quant  # noqa: E402
from bench.harness import contest, gate  # noqa: E402
from bench.harness.contest import FRESH, REUSED  # noqa: E402
from bench.quant import cases as quant_cases  # noqa: E402
from bench.quant import peers as quant_peers  # noqa: E402
from bench.quant import table as quant_table  # noqa: E402
from bench.quant.cases import Task, task  # noqa: E402

SMALL = 1 << 10


@pytest.mark.parametrize("fmt", quant_cases.FORMATS)
def test_ours_is_the_specification(fmt: str) -> None:
    assert task(fmt, SMALL).check() == 0
    assert task(fmt, SMALL).nbytes == 8 * SMALL


class LastBit(Task):
    def ours(self, out: np.ndarray | None = None) -> np.ndarray:
        y = super().ours(out)
        y[3] += 2.0**-20
        return y


def test_one_wrong_bit_is_refused() -> None:
    right = task("fixed<8,4,RND_CONV,SAT>", SMALL)
    with pytest.raises(gate.GateError, match="differs from the specification"):
        LastBit(right.fmt, right.x, right.out).check()


class ElsewhereThanAsked(Task):
    def ours(self, out: np.ndarray | None = None) -> np.ndarray:
        y = super().ours()
        return y if out is None else out


def test_an_output_that_is_not_written_is_refused() -> None:
    right = task("e4m3fn", SMALL)
    with pytest.raises(gate.GateError, match="differs from the specification"):
        ElsewhereThanAsked(right.fmt, right.x, right.out).check()


def results(y: np.ndarray) -> dict[str, torch.Tensor]:
    return {"y": torch.from_numpy(y)}


def test_a_peer_may_differ_only_at_ties() -> None:
    work = task("e4m3fn", 4000)
    other = work.expected.copy()
    other[:4] *= -1
    assert work.compare("ties", results(other)) == pytest.approx(1e-3)
    other[4] *= -1
    with pytest.raises(gate.GateError, match=r"wrong: 0\.1% of y differ"):
        work.compare("wrong", results(other))
    with pytest.raises(gate.GateError, match="shape"):
        work.compare("short", results(other[1:]))


def test_other_random_numbers_are_accepted_and_wrong_results_refused() -> None:
    work = task("fixed<8,4,STOCHASTIC,SAT>", 1 << 14)
    inside = np.clip(work.x, -8, 7.9375)
    random = np.random.default_rng(0).random(inside.shape, np.float32)
    right = np.floor(inside * 16 + random) / 16
    assert work.compare("right", results(right)) == 0
    with pytest.raises(gate.GateError, match="bias"):
        work.compare("floor", results(np.floor(inside * 16) / 16))
    with pytest.raises(gate.GateError, match="differ"):
        work.compare("far", results(right + np.where(random < 0.5, 0.125, -0.125).astype(np.float32)))


@pytest.mark.parametrize(
    "fmt",
    [
        "fixed<8,4,RND_CONV,SAT>",
        "fixed<8,4,TRN,WRAP>",
        "fixed<8,4,STOCHASTIC,SAT>",
        "e4m3fn",
        "bf16",
        "mxfp8_e4m3",
        "mxfp4_e2m1",
    ],
)
def test_torch_computes_the_same(fmt: str) -> None:
    work = task(fmt, 1 << 12)
    on_torch = {quant_peers.EAGER, quant_peers.FAKE_QUANTIZE}
    peers = [p for p in quant_peers.CONTESTS[fmt](work, False) if p.name in on_torch]
    assert peers
    assert [contest.reason_against(p, work) for p in peers if isinstance(p, contest.Entrant)] == [None] * len(peers)


# ---- The command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def no_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a machine that has torch and no other peer."""
    monkeypatch.setattr(quant_peers, "load", lambda module: None)
    monkeypatch.setattr(quant_cases, "QUICK", 1 << 9)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)


def quick_arguments(out: Path | None, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    quant.add_arguments(parser)
    arguments = parser.parse_args(["--quick", "--threads", "1", "--budget", "0.001", *more])
    arguments.command, arguments.out = "quant", out
    return arguments


@pytest.mark.usefixtures("no_peers")
def test_a_run_without_peers_is_written_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.measure(quick_arguments(tmp_path / "x.json"))
    found = json.loads((tmp_path / "x.json").read_text())
    assert [r["work"] for r in found["share"]] == list(quant_cases.FORMATS)
    assert [r["work"] for r in found["rounding"]] == list(quant_peers.CONTESTS)
    first = found["rounding"][0]
    assert list(first["peers"]) == [quant_peers.FAKE_QUANTIZE, quant_peers.EAGER]
    assert set(first["out"]) == {"apytypes", "fxpmath", "qtorch", "brevitas"}
    assert first["peers"][quant_peers.EAGER]["ratio"].keys() == {FRESH, REUSED}
    capsys.readouterr()
    command.report([tmp_path / "x.json"])
    printed = capsys.readouterr().out
    assert "**A quick run: its sizes are not those of the goals.**" in printed
    assert "\n| `mx<e2m1<STOCHASTIC>>` | " in printed
    assert "### `mxfp8_e4m3`, rounded and back: times as fast as its peers" in printed
    assert "| torchao | - | - | no torchao here |" in printed


@pytest.mark.usefixtures("no_peers")
def test_a_refused_run_reports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = task("e4m3fn", SMALL)
    monkeypatch.setattr(quant_cases, "task", lambda fmt, n: LastBit(right.fmt, right.x, right.out))
    with pytest.raises(SystemExit, match=r"differs from the specification\. No ratios while results differ"):
        command.measure(quick_arguments(tmp_path / "x.json", "--sections", "rounding"))
    assert not (tmp_path / "x.json").exists()


def test_goals_are_those_of_the_issue() -> None:
    goals = quant_table.SHARE_GOALS
    assert {goals[f"`{fmt}`"] for fmt in quant_cases.ELEMENTWISE} == {0.8}
    assert {goals[f"`{fmt}`"] for fmt in quant_cases.BLOCKS} == {0.6}
    assert {goals[f"`{fmt}`"] for fmt in quant_cases.STOCHASTIC} == {0.45}
    assert {goals[f"`{fmt}`"] for fmt in quant_cases.OTHERS} == {0.15}
    everybody = {*quant_table.PACKAGES, quant_peers.FAKE_QUANTIZE, quant_peers.COMPILED}
    nearest = quant_table.goals("fixed<8,4,RND_CONV,SAT>", everybody)
    assert nearest == {
        **{name: {FRESH: 20.0, REUSED: 20.0} for name in quant_table.PACKAGES},
        "torch fake_quantize": {FRESH: 15.0, REUSED: 15.0},
        "torch.compile": {FRESH: 1.0, REUSED: 1.0},
    }
    assert quant_table.goals("e4m3fn", {"torch eager"}) == {}
    compiled = {
        fmt: quant_table.goals(fmt, {"torch.compile"}).get("torch.compile", {}).get(FRESH)
        for fmt in quant_peers.CONTESTS
    }
    assert compiled == {
        **dict.fromkeys(quant_peers.CONTESTS),
        "fixed<8,4,RND_CONV,SAT>": 1.0,
        "fixed<8,4,STOCHASTIC,SAT>": 15.0,
        "e4m3fn": 3.0,
        "mxfp8_e4m3": 12.0,
        "mxfp4_e2m1": 12.0,
    }
