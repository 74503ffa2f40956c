"""The benchmark beside busy processes: which processes run, for how long, and the table."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import fastiter  # noqa: E402
from bench import __main__ as command  # noqa: E402
from bench import busy  # noqa: E402
from bench.busy import table as busy_table  # noqa: E402
from bench.harness import machine  # noqa: E402


def test_busy_processes_run_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    popen = busy.subprocess.Popen
    monkeypatch.setattr(busy.subprocess, "Popen", lambda *given: started.append(popen(*given)) or started[-1])
    with busy.busy_processes(2):
        assert [process.poll() for process in started] == [None, None]
    assert all(process.poll() is not None for process in started) and len(started) == 2


def test_the_mean_counts_every_call_on_the_requested_threads() -> None:
    threads = []

    def call() -> None:
        threads.append(fastiter.get_num_threads())

    fastiter.set_num_threads(5)
    assert busy.mean_ms(call, 3, 0.0) > 0
    assert threads == [3, 3]  # once before timing, once during it


def test_a_quick_run_and_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    busy.add_arguments(parser)
    results = busy.main(parser.parse_args(["--quick", "--budget", "0.01"]))
    rows = results["busy"]
    assert [r["busy"] for r in rows] == [n for n in range(machine.cores() + 1) for _ in range(3)]
    assert all(r["ours"]["ratio"] == r["ours"]["all_ms"] / r["ours"]["one_ms"] > 0 for r in rows)
    assert [r["torch"] is None for r in rows[:3]] == [False, False, True]
    file = tmp_path / "busy.json"
    file.write_text(json.dumps(results))
    capsys.readouterr()
    command.report([file])
    table = capsys.readouterr().out
    assert table.count("| LSTM(16, 16), T 4, B 2 |") == machine.cores() + 1 and "A quick run" in table


def test_the_goal_is_only_for_busy_cores() -> None:
    slow = {"one_ms": 2.0, "all_ms": 3.5, "ratio": 1.75}
    assert busy_table.cells(slow, True) == ["2.00", "3.50", "**1.75** (≤ 1.5: missed)"]
    assert busy_table.cells(slow, False)[-1] == "1.75"
    assert busy_table.cells(None, True) == ["-"] * 3
