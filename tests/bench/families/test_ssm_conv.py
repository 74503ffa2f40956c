"""The benchmark of causal convolutions: the tasks, the peer, and a quick run."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from bench import __main__ as command  # noqa: E402
from bench.harness import contest, gate  # noqa: E402
from bench.ssm import conv, conv_cases, conv_table  # noqa: E402

SMALL = (2, 5, 30)


@pytest.mark.parametrize("order", conv_cases.ORDERS)
def test_ours_and_the_peer_compute_the_same(order: str) -> None:
    work, task = conv_cases.gradients(SMALL, order), conv_cases.inference(SMALL, order)
    assert work.check() < 1e-5 and task.check() < 1e-5
    for entrants, given in (
        (conv_cases.gradient_entrants(work, order, False), work),
        (conv_cases.inference_entrants(task, order, False), task),
    ):
        assert [contest.reason_against(entrant, given) for entrant in entrants] == [None] * len(entrants)
    assert (task.inputs[0].stride(1) == 1) == (order == conv_cases.CHANNELS)


def test_a_wrong_kernel_is_refused() -> None:
    work = conv_cases.gradients(SMALL, conv_cases.ROWS)
    shifted = replace(work, ours=lambda x, weight, bias: work.loop(x, weight.flip(1), bias))
    with pytest.raises(gate.GateError, match=r"time contiguous: h is off"):
        shifted.check()


def test_a_step_can_be_repeated() -> None:
    with torch.no_grad():
        task = conv_cases.step((2, 5, 1))
        assert max(task.check() for _ in range(2)) < 1e-5
        assert contest.reason_against(conv_cases.entrant(conv_cases.step_of_models, task), task) is None


def test_a_run_is_written_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    parser = argparse.ArgumentParser()
    conv.add_arguments(parser)
    arguments = parser.parse_args(["--quick", "--threads", "1", "--budget", "0.001", "--batch", "2"])
    arguments.command, arguments.out = "conv", tmp_path / "x.json"
    command.measure(arguments)
    results = json.loads((tmp_path / "x.json").read_text())
    for section in ("inference", "peers", "step"):
        assert conv_cases.MODELS in results[section][0]["peers"]
    assert all(record["work"].startswith("(2, ") for record in results["inference"])
    capsys.readouterr()
    command.report([tmp_path / "x.json"])
    printed = capsys.readouterr().out
    assert f"\n| {conv_cases.MODELS} | " in printed
    assert "share of the copy bandwidth" in printed


def test_goals_are_those_of_the_issue() -> None:
    assert {conv_cases.ROWS: 7.0, conv_cases.CHANNELS: 9.0} == conv_table.FORWARD_GOALS
    assert {conv_cases.MODELS: {contest.REUSED: 6.0}} == conv_table.GRADIENT_GOAL
    assert {conv_cases.MODELS: {contest.REUSED: 8.0}} == conv_table.STEP_GOAL
    assert conv_table.SHARE_GOAL == 0.6
