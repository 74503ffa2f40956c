"""The benchmark of recurrent networks in depth: the gates, the goals, and a run with its file and report."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from bench import __main__ as command  # noqa: E402
from bench.harness import gate  # noqa: E402
from bench.rnn import depth as rnn_depth  # noqa: E402
from bench.rnn import depth_cases as rnn_depth_cases  # noqa: E402
from bench.rnn import depth_table as rnn_depth_table  # noqa: E402
from bench.rnn.cases import Case, Recurrence  # noqa: E402


def test_a_run_is_written_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    parser = argparse.ArgumentParser()
    rnn_depth.add_arguments(parser)
    arguments = parser.parse_args(["--quick", "--threads", "1", "--budget", "0.001"])
    arguments.command, arguments.out = "depth", tmp_path / "x.json"
    command.measure(arguments)
    results = json.loads((tmp_path / "x.json").read_text())
    assert [len(results[section]) for section in rnn_depth.SECTIONS] == [2, 4, 3]
    capsys.readouterr()
    command.report([tmp_path / "x.json"])
    printed = capsys.readouterr().out
    for title in ("A PackedSequence", "Layers in bfloat16", "checkpoint=32 against all gates stored"):
        assert f"### {title}" in printed


def test_the_memory_of_a_checkpoint_is_as_documented() -> None:
    units, every = 2 * 100 * 8, rnn_depth_cases.EVERY
    for cell, numbers, states in (("lstm", 5, 2), ("gru", 4, 1), ("slstm", 7, 4)):
        case = Case(cell, 2, 100, 8)
        kept = rnn_depth_cases.Checkpoints(case, Recurrence.random(case)).bytes_saved()
        assert kept == {"stored": 4 * numbers * units, "checkpoint": 4 * states * (99 // every) * 2 * 8}, cell


@pytest.mark.parametrize("contest", [rnn_depth_cases.ragged, rnn_depth_cases.halves])
def test_the_gates_detect_a_wrong_result(contest: object, monkeypatch: pytest.MonkeyPatch) -> None:
    rivals = contest(Case("gru", 3, 9, 8))  # type: ignore[operator]
    rivals.check()
    right = rivals.ours.results()
    monkeypatch.setattr(rivals.ours, "results", lambda: {**right, "dweight_hh_l0": 1.1 * right["dweight_hh_l0"]})
    with pytest.raises(gate.GateError, match="dweight_hh_l0"):
        rivals.check()


def test_a_checkpoint_that_changes_a_bit_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("lstm", 2, 40, 8)
    contest = rnn_depth_cases.Checkpoints(case, Recurrence.random(case))
    contest.check()
    monkeypatch.setattr(contest, "again", lambda: contest.stored() * (1 + 2**-22))
    with pytest.raises(gate.GateError, match="h is not the same"):
        contest.check()


def test_goals_are_those_of_the_issue() -> None:
    goals = {(B, H): rnn_depth_table.gain_goal({"B": B, "H": H}) for B in (1, 16, 64) for H in (64, 256, 512, 768)}
    assert {key: goal for key, goal in goals.items() if goal} == {
        (1, 512): 1.8,
        **{(B, H): 1.6 for B in (16, 64) for H in (512, 768)},
    }
    assert [str(case) for case in rnn_depth.PACKED] == ["lstm B 16 T 512 H 128", "gru B 16 T 512 H 128"]
