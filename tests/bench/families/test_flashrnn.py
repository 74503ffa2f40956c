"""The benchmark of flashrnn: the gate, the peer's calls, the goals, and a run without the peer."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from bench import __main__ as command  # noqa: E402
from bench.harness import contest, session  # noqa: E402
from bench.harness.alone import HEAPS  # noqa: E402
from bench.rnn import flashrnn as rnn_flashrnn  # noqa: E402
from bench.rnn import flashrnn_cases as rnn_flashrnn_cases  # noqa: E402
from bench.rnn import flashrnn_peers as rnn_flashrnn_peers  # noqa: E402
from bench.rnn import flashrnn_table as rnn_flashrnn_table  # noqa: E402
from bench.rnn.flashrnn_cases import QUICK, Case  # noqa: E402


def stand_in(*given: Any, function: str, backend: str, dtype: str) -> Any:
    assert (backend in rnn_flashrnn_peers.BACKENDS, dtype) == (True, "float32")
    return rnn_flashrnn_cases.loop(*given, None, function)


@pytest.mark.parametrize("case", QUICK)
def test_the_peer_is_called_with_the_same_arguments(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rnn_flashrnn_peers, "load", lambda module: SimpleNamespace(flashrnn=stand_in))
    work = rnn_flashrnn_cases.work_of(case)
    assert work.check() < 1e-5
    for alone in (False, True):
        entrants = rnn_flashrnn_peers.entrants(case, work, alone)
        assert len(entrants) == (2 if case.function in ("lstm", "slstm") else 1)
        for entrant in entrants:
            assert contest.reason_against(entrant, work) is None
            assert len(entrant.call()) == 3


def test_a_run_without_the_peer_is_written_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rnn_flashrnn_peers, "load", lambda module: None)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    separately, begun = rnn_flashrnn.alone, list[str]()

    def alone(heap: str, function: Any, case: Case, *arguments: Any) -> Any:
        """Run the first call in a separate process, as a measurement runs all of them."""
        begun.append(heap)
        return separately(heap, function, case, *arguments) if len(begun) == 1 else function(case, *arguments)

    monkeypatch.setattr(rnn_flashrnn, "alone", alone)
    parser = argparse.ArgumentParser()
    rnn_flashrnn.add_arguments(parser)
    arguments = parser.parse_args(["--quick", "--threads", "1", "--budget", "0.001"])
    arguments.command, arguments.out = "flashrnn", tmp_path / "x.json"
    command.measure(arguments)
    results = json.loads((tmp_path / "x.json").read_text())
    assert [len(results[section]) for section in rnn_flashrnn.SECTIONS] == [4, 1, 4]
    capsys.readouterr()
    command.report([tmp_path / "x.json"])
    printed = capsys.readouterr().out
    assert printed.count("| flashrnn vanilla | - | - | no flashrnn here |") == 5
    assert "gradients alone" in printed and "share of the floor" in printed


@pytest.mark.parametrize("backward_alone", [False, True])
def test_peers_that_fail_the_gate_are_not_timed(backward_alone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rnn_flashrnn_peers, "load", lambda module: SimpleNamespace(flashrnn=stand_in))
    options = session.Options((), threads=(1,), budget=0.001, quick=True)
    record = rnn_flashrnn.against_the_clock(QUICK[0], backward_alone, ["flashrnn vanilla_fwbw (1 thread)"], 1, options)
    assert list(record["peers"]) == ["flashrnn vanilla_fwbw"]
    assert record["ours"].keys() == {contest.FRESH, contest.REUSED}


def test_each_peer_is_timed_in_both_heaps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rnn_flashrnn_peers, "load", lambda module: SimpleNamespace(flashrnn=stand_in))
    monkeypatch.setattr(
        rnn_flashrnn, "alone", lambda heap, function, *arguments: heaps.append(heap) or function(*arguments)
    )
    heaps: list[str] = []
    options = session.Options((), threads=(1,), budget=0.001, quick=True)
    (record,) = rnn_flashrnn.races(QUICK[0], False, options)
    assert heaps == list(HEAPS)
    names = ["flashrnn vanilla", "flashrnn vanilla_fwbw"]
    assert list(record["peers"]) == names + [f"{name}, memory kept" for name in names]
    assert record["difference"] < 1e-5 and not record["out"]


def test_a_peer_with_wrong_results_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*given: Any, function: str, backend: str, dtype: str) -> Any:
        every, last = stand_in(*given, function=function, backend=backend, dtype=dtype)
        return every + 1e-2, last

    monkeypatch.setattr(rnn_flashrnn_peers, "load", lambda module: SimpleNamespace(flashrnn=wrong))
    monkeypatch.setattr(rnn_flashrnn, "alone", lambda heap, function, *arguments: function(*arguments))
    (record,) = rnn_flashrnn.races(QUICK[0], False, session.Options((), threads=(1,), budget=0.001, quick=True))
    assert not record["peers"] and len(record["out"]) == 2


def test_goals_are_those_of_the_issue() -> None:
    names = [str(case) for case in rnn_flashrnn_cases.FULL]
    goals = {name: rnn_flashrnn_table.goals_of(name) for name in names}
    assert goals["gru B 16 T 256 N 4 D 128"] == {"flashrnn vanilla": {contest.REUSED: 4.0}}
    assert goals["slstm B 16 T 256 N 4 D 128"]["flashrnn vanilla"] == {contest.REUSED: 50.0}
    assert goals["slstm B 16 T 256 N 4 D 64"]["flashrnn vanilla_fwbw"] == {contest.REUSED: 6.0}
    assert len(goals) == 8 and all(goals.values())
    assert str(rnn_flashrnn_cases.LONG) == "lstm B 4 T 4096 N 4 D 32"
