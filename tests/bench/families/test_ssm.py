"""The benchmark of the family ssm: the tasks, the peers, and a quick run."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from bench import __main__ as command  # noqa: E402
from bench import ssm  # noqa: E402
from bench.harness import contest, gate  # noqa: E402
from bench.ssm import cases, peers, table  # noqa: E402

SMALL = (2, 5, 30, 3)


def test_ours_and_all_peers_compute_the_same() -> None:
    work = cases.selective_work(SMALL)
    assert work.check() < 1e-5
    entrants = [peer for peer in peers.entrants(work, False) if isinstance(peer, contest.Entrant)]
    assert {peers.LOOP} <= {entrant.name for entrant in entrants}
    assert [contest.reason_against(entrant, work) for entrant in entrants] == [None] * len(entrants)


def test_a_wrong_kernel_is_refused() -> None:
    work = cases.selective_work(SMALL)
    without_gate = replace(work, ours=lambda *x: work.loop(*x[:6], x[6].detach() + 0 * x[6], x[7]))
    with pytest.raises(gate.GateError, match=r"selective_scan \(2, 5, 30, 3\): dz is off"):
        without_gate.check()


def test_a_step_can_be_repeated() -> None:
    task = cases.step_task((2, 5, 1, 3))
    assert max(task.check() for _ in range(2)) < 1e-5
    (eager,) = peers.step_entrants(task)
    assert isinstance(eager, contest.Entrant)
    assert contest.reason_against(eager, task) is None


def test_a_run_is_written_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    parser = argparse.ArgumentParser()
    ssm.add_arguments(parser)
    arguments = parser.parse_args(["--quick", "--threads", "1", "--budget", "0.001"])
    arguments.command, arguments.out = "ssm", tmp_path / "x.json"
    command.measure(arguments)
    results = json.loads((tmp_path / "x.json").read_text())
    assert peers.LOOP in results["peers"][0]["peers"]
    assert peers.LOOP in results["inference"][0]["peers"]
    assert peers.EAGER in results["step"][0]["peers"]
    capsys.readouterr()
    command.report([tmp_path / "x.json"])
    printed = capsys.readouterr().out
    assert f"\n| {peers.LOOP} | " in printed
    assert "### One thread against the floor" in printed


def test_goals_are_those_of_the_issue() -> None:
    reused = contest.REUSED
    assert {peers.LOOP: {reused: 60.0}, peers.PSCAN: {reused: 70.0}} == table.INFERENCE_GOALS
    assert {peers.LOOP: {reused: 500.0}, peers.PSCAN: {reused: 60.0}} == table.GRADIENT_GOALS
    assert {peers.EAGER: {reused: 8.0}} == table.STEP_GOALS
    assert table.FLOOR_GOALS == {"forward": 0.85, "backward": 0.7}
