"""The benchmark of the family delta: the tasks, the two peers, and a quick run."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from bench import __main__ as command  # noqa: E402
from bench import delta  # noqa: E402
from bench.delta import table as delta_table  # noqa: E402
from bench.harness import contest, gate  # noqa: E402

SMALL = (1, 2, 70, 4, 3)


def test_ours_and_all_peers_compute_the_same() -> None:
    work = delta.delta_work(SMALL)
    assert work.check() < 1e-5
    entrants = delta.entrants(work, False)
    assert [contest.reason_against(entrant, work) for entrant in entrants] == [None] * len(entrants)


def test_a_wrong_kernel_is_refused() -> None:
    work = delta.delta_work(SMALL)
    without_beta = replace(work, ours=lambda q, k, v, beta: work.loop(q, k, v, beta.detach() + 0 * beta))
    with pytest.raises(gate.GateError, match=r"delta_scan \(1, 2, 70, 4, 3\): dbeta is off"):
        without_beta.check()


def test_a_run_is_written_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    parser = argparse.ArgumentParser()
    delta.add_arguments(parser)
    arguments = parser.parse_args(["--quick", "--threads", "1", "--budget", "0.001"])
    arguments.command, arguments.out = "delta", tmp_path / "x.json"
    command.measure(arguments)
    results = json.loads((tmp_path / "x.json").read_text())
    (race,) = results["peers"]
    assert set(race["peers"]) == set(delta_table.GOALS)
    assert race["out"] == {}
    capsys.readouterr()
    command.report([tmp_path / "x.json"])
    printed = capsys.readouterr().out
    for name in delta_table.GOALS:
        assert f"\n| {name} | " in printed
    assert "### Backward against the forward pass before it" in printed


def test_goals_are_those_of_the_issue() -> None:
    assert delta_table.GOALS == {delta.CHUNKED: {contest.REUSED: 3.0}, delta.STEPS: {contest.REUSED: 30.0}}
    assert delta_table.BACKWARD_GOAL == 2.5
    assert delta.FULL == (2, 4, 1024, 64, 64)
