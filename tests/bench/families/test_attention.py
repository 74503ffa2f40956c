"""The benchmark of matrix memories: the tasks, the peers, and a quick run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from bench import __main__ as command  # noqa: E402
from bench.harness import contest  # noqa: E402
from bench.ssm import attention, attention_table  # noqa: E402
from bench.ssm import attention_cases as cases  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::ImportWarning")
SMALL: cases.Shape = (1, 128, 2, 8, 8)


@pytest.fixture(autouse=True)
def kernels_for_gpus() -> None:
    """Override the fixture that hides fla, whose naive functions are peers."""


@pytest.mark.parametrize("name", cases.FORMS)
def test_ours_and_all_peers_compute_the_same(name: str) -> None:
    task, work = cases.inference(name, SMALL), cases.gradients(name, SMALL)
    assert max(task.check(), work.check()) < 1e-4
    peers = [p for p in cases.inference_entrants(name, task) if isinstance(p, contest.Entrant)]
    assert [contest.reason_against(peer, task) for peer in peers] == [None] * len(peers)
    assert peers or name not in ("mLSTM", "SSD")


def test_a_run_is_written_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    parser = argparse.ArgumentParser()
    attention.add_arguments(parser)
    arguments = parser.parse_args(["--quick", "--threads", "1", "--budget", "0.001", "--batch", "2"])
    arguments.command, arguments.out = "attention", tmp_path / "x.json"
    command.measure(arguments)
    results = json.loads((tmp_path / "x.json").read_text())
    assert {record["work"].partition(" (")[0] for record in results["inference"]} == set(cases.FORMS)
    assert all(" (2, " in record["work"] for record in results["floor"])
    capsys.readouterr()
    command.report([tmp_path / "x.json"])
    printed = capsys.readouterr().out
    assert f"\n| {cases.CHUNKS} | " in printed
    assert "### One thread against the floor" in printed


def test_goals_are_those_of_the_issue() -> None:
    assert attention_table.FORWARD_GOALS["simple GLA"] == {cases.NAIVE: 5.0}
    for name in ("GLA", "RWKV-6", "RWKV-7"):
        assert attention_table.FORWARD_GOALS[name] == {cases.NAIVE: 25.0}
    assert attention_table.FORWARD_GOALS["mLSTM"] == {cases.NATIVE: 5.0}
    assert attention_table.FORWARD_GOALS["SSD"] == {cases.CHUNKS: 20.0}
    assert attention_table.GRADIENT_GOALS == {"mLSTM": {cases.NATIVE: 3.0}, "SSD": {cases.CHUNKS: 8.0}}
