"""The benchmark of the family relax: contests with equal results, a wrong sweep refused, the table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pyamg")

from bench import __main__ as command  # noqa: E402
from bench.harness import gate  # noqa: E402
from bench.relax import cases as relax_cases  # noqa: E402
from bench.relax import table as relax_table  # noqa: E402
from fastiter.relax import Relaxation  # noqa: E402


def test_every_contest_computes_the_same() -> None:
    contests = list(relax_cases.contests(quick=True))
    assert len(contests) == 12
    for contest in contests:
        assert contest.check() < 1e-10, contest.name
        contest.their_call()
        for call in contest.ours.values():
            call()


def test_a_wrong_sweep_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = Relaxation.sweep

    def lazy(self: Relaxation, x: np.ndarray, b: np.ndarray, sweeps: int = 1) -> None:
        sweep(self, x, b, max(0, sweeps - 1))

    monkeypatch.setattr(Relaxation, "sweep", lazy)
    for contest in relax_cases.contests(quick=True):
        if contest.name != "sor without a matrix" and not contest.name.startswith("sor, 8"):  # fastiter against itself
            with pytest.raises(gate.GateError, match="x is off by"):
                contest.check()


def test_a_run_and_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "relax.json"
    options = ["--quick", "--threads", "1", "--budget", "0.02", "--peers", "jacobi", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["bench", "relax", *options])
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    command.main()
    shown = capsys.readouterr().out
    assert "jacobi, 2-D" in shown
    results = json.loads(out.read_text())
    assert [r["work"] for r in results["sweeps"]] == ["jacobi, 2-D", "jacobi, 3-D", "block_jacobi, BSR 4"]
    table = relax_table.markdown(results)
    assert "jacobi, 3-D against pyamg jacobi" in table
    assert table.count("(≥ 80%") == 2
