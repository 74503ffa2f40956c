"""The benchmark of the family scan: the tasks, their peers, and a run without the peers installed."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bench import __main__ as command  # noqa: E402
from bench import scan  # noqa: E402
from bench.harness import contest, gate  # noqa: E402
from bench.harness.contest import FRESH, REUSED  # noqa: E402
from bench.scan import cases as scan_cases  # noqa: E402
from bench.scan import peers as scan_peers  # noqa: E402
from bench.scan import table as scan_table  # noqa: E402

SMALL = (2, 5, 3)


def test_ours_is_the_loop() -> None:
    assert scan_cases.linear_work(SMALL).check() < 1e-5


def forgets_one_step(a: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    h = scan_cases.loop_over_unbound_steps(a, x)
    return torch.cat([h[:, :3], h[:, 2:3], h[:, 4:]], 1)


def test_a_wrong_kernel_is_refused() -> None:
    with pytest.raises(gate.GateError, match=r"linear_scan \(2, 5, 3\): h is off"):
        replace(scan_cases.linear_work(SMALL), ours=forgets_one_step).check()


@pytest.mark.parametrize(
    "transfer",
    [scan_cases.linear_transfer(SMALL), scan_cases.block_transfer((2, 5, 4), 2)],
    ids=lambda transfer: transfer.name,
)
def test_forward_is_the_loop_and_every_array_counts_once(transfer: scan_cases.Transfer) -> None:
    assert transfer.check() < 1e-5
    a, x = transfer.inputs
    assert transfer.nbytes == a.nbytes + x.nbytes + transfer.out.nbytes


def test_a_forward_that_does_not_write_its_output_is_refused() -> None:
    def elsewhere(a: np.ndarray, x: np.ndarray, out: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        return (np.full_like(x, np.nan) if out is None else out), x

    with pytest.raises(gate.GateError, match="out is off by inf"):
        replace(scan_cases.linear_transfer(SMALL), function=elsewhere).check()


@pytest.mark.filterwarnings("ignore")  # torch's prototypes warn, and fail if warnings are errors
def test_peers_in_torch_compute_the_same_in_both_layouts() -> None:
    work = scan_cases.linear_work(SMALL)
    entrants = scan_peers.in_both_layouts("loop", scan_cases.loop_over_unbound_steps, work)
    entrants += [e for e in scan_peers.higher_order_entrants(work, False) if isinstance(e, contest.Entrant)]
    assert [contest.reason_against(entrant, work) for entrant in entrants] == [None] * len(entrants)
    assert [entrant.variant for entrant in entrants[:2]] == ["", "time first"]


# ---- The command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def no_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a machine that has torch and no other peer."""
    monkeypatch.setattr(scan_peers, "load", lambda module: None)
    monkeypatch.setattr(scan_peers, "jax_on", lambda threads: None)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)


def quick_arguments(out: Path | None, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    scan.add_arguments(parser)
    arguments = parser.parse_args(["--quick", "--threads", "1", "--budget", "0.001", *more])
    arguments.command, arguments.out = "scan", out
    return arguments


@pytest.mark.usefixtures("no_peers")
def test_a_run_without_peers_is_written_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.measure(quick_arguments(tmp_path / "x.json"))
    results = json.loads((tmp_path / "x.json").read_text())
    assert [r["work"].partition(" (")[0] for r in results["share"]] == [
        "linear_scan",
        *(f"block_scan K = {K}" for K in (2, 4, 8)),
    ]
    (race,) = results["peers"]
    assert list(race["peers"]) == [scan_peers.LOOP]
    assert set(race["out"]) == set(scan_table.GOALS) - {scan_peers.LOOP}
    assert race["peers"][scan_peers.LOOP]["ratio"].keys() == {FRESH, REUSED}
    capsys.readouterr()
    command.report([tmp_path / "x.json"])
    printed = capsys.readouterr().out
    assert "**A quick run: its sizes are not those of the goals.**" in printed
    for name in scan_table.GOALS:
        assert f"\n| {name} | " in printed
    assert "| mambapy pscan | - | - | no mambapy here |" in printed
    assert "### Backward against the forward pass before it" in printed


@pytest.mark.usefixtures("no_peers")
def test_a_refused_run_reports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(scan_cases.linear_work(SMALL), ours=forgets_one_step)
    monkeypatch.setattr(scan, "linear_work", lambda shape: wrong)
    with pytest.raises(SystemExit, match=r"h is off .* No ratios while results differ"):
        command.measure(quick_arguments(tmp_path / "x.json", "--sections", "peers"))
    assert not (tmp_path / "x.json").exists()


def test_goals_are_those_of_the_issue() -> None:
    assert {name: (goal[FRESH], goal[REUSED]) for name, goal in scan_table.GOALS.items()} == {
        "mambapy pscan": (5.0, 7.0),
        "torch scan": (8.0, 12.0),
        "torch associative_scan": (8.0, 12.0),
        "jax.lax.scan": (4.0, 6.0),
        "jax.lax.associative_scan": (4.0, 6.0),
        "loop over unbound steps": (8.0, 10.0),
    }
    assert scan_table.SHARE_GOALS == {"linear_scan": 0.8}
    assert scan_table.BACKWARD_GOAL == 2.5
