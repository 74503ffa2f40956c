"""The benchmark of the family fixedpoint: wrong results refused, the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")

import bench.fixedpoint  # noqa: E402
from bench import __main__ as command  # noqa: E402
from bench.fixedpoint import cases, table  # noqa: E402
from bench.harness import gate  # noqa: E402


def test_a_large_residual_is_refused() -> None:
    bench.fixedpoint.checked("ours", 1e-6, 1e-6, ours=True)
    with pytest.raises(gate.GateError, match=r"the residual must be at most 1e-06, got 1\.2e-06"):
        bench.fixedpoint.checked("ours", 1.2e-6, 1e-6, ours=True)


def test_a_run_and_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fixedpoint.json"
    monkeypatch.setattr(cases, "QUICK", (cases.Case("sym", "float64", 1e-6, 2, 8),))
    monkeypatch.setattr(cases, "PEERS", (cases.scipy,))
    monkeypatch.setattr(bench.fixedpoint, "STEPS", 3)
    sections = "solvers,overhead,prox"
    arguments = ["fixedpoint", "--quick", "--threads", "1", "--budget", "0.02", "--sections", sections]
    monkeypatch.setattr("sys.argv", ["bench", *arguments, "--out", str(out)])
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    command.main()
    assert "scipy anderson" in capsys.readouterr().out
    results = json.loads(out.read_text())
    assert {r["solver"] for r in results["solvers"]} >= {"anderson", "broyden", "picard", "scipy anderson"}
    assert all(r["residual"] <= 2e-5 for r in results["solvers"])
    assert len(results["prox"]) == 6 and all(r["ratio"] > 0 for r in results["prox"])
    results["large"] = [
        {"work": "9 unknowns", "threads": 1, "ratio": 2.0, "ms": 1.0, "peer_ms": 2.0, "evaluations": 3, "peer": "scipy",
         "peer_evaluations": 4}
    ]  # fmt: skip
    shown = table.markdown(results)
    assert "| sym, float64, 2 x 8, 1e-06 | 1 thread |" in shown and "**2.0** (≥ 5: missed)" in shown
    assert "| 64 x 256 float32, anderson, m=6 |" in shown
    assert "| simplex (100, 10) float64 | 1 thread | NumPy, sorting |" in shown
