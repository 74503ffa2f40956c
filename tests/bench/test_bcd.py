"""The benchmark of the family bcd: worse objectives refused, the table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")

from bench import __main__ as command  # noqa: E402
from bench.bcd import cases  # noqa: E402
from bench.bcd import table as bcd_table  # noqa: E402
from bench.harness import gate  # noqa: E402


def test_worse_objectives_are_refused() -> None:
    case = cases.nonnegative(30, 5)
    found = {solver.name: solver.solve() for solver in case.solvers}
    assert max(cases.checked(case, found).values()) < 1e-6
    with pytest.raises(gate.GateError, match="too high"):
        cases.checked(case, {**found, "fastiter": found["fastiter"] + np.ones(5)})


def test_a_run_and_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bcd.json"
    monkeypatch.setattr("sys.argv", ["bench", "bcd", "--quick", "--budget", "0.02", "--out", str(out)])
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    command.main()
    assert "lasso path, dense 60 x 200" in capsys.readouterr().out
    results = json.loads(out.read_text())
    assert [r["blocks"] for r in results["lattice"]] == [2, 2, 2]
    assert [r["work"] for r in results["kaczmarz"]][:2] == ["200 rows of 100, float64", "2000 rows of 100, float64"]
    assert all(r["ratio"] == pytest.approx(r["peer_us"] / r["us"]) for r in results["kaczmarz"])
    for record in results["solvers"]:
        assert record["ratio"] == pytest.approx(record["peer_ms"] / record["ms"])
        assert record["excess"] <= cases.TOLERANCE
    shown = bcd_table.markdown(results)
    for row in ("| x >= 0, 60 x 20 | SciPy nnls |", "20 x 20, combs", "2000 rows of 100, float32"):
        assert row in shown
