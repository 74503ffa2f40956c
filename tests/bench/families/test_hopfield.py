"""The benchmark of Hopfield networks: correct results, wrong ones refused, the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from bench import __main__ as command  # noqa: E402
from bench.fixedpoint import hopfield, hopfield_table  # noqa: E402
from bench.harness import gate  # noqa: E402


def test_wrong_results_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hopfield.checked(hopfield.QUICK) < 1e-4
    monkeypatch.setattr(hopfield, "ours", lambda x, p, b, n: hopfield.by_torch(x, p, 1.01 * b, n))
    with pytest.raises(gate.GateError, match="value is off by"):
        hopfield.checked(hopfield.QUICK)


def test_a_run_and_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "hopfield.json"
    given = ["bench", "hopfield", "--quick", "--threads", "1", "--budget", "0.02", "--out", str(out)]
    monkeypatch.setattr("sys.argv", given)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    command.main()
    assert "forward+backward" in capsys.readouterr().out
    results = json.loads(out.read_text())
    assert [r["work"].rpartition(", ")[2] for r in results["updates"]] == ["forward", "forward+backward"]
    assert all(r["mean_steps"] <= r["most_steps"] for r in results["stops"])
    full = {**results["updates"][0], "threads": 2, "ms": 2.0, "ratio": 1.2, "recorded_ms": 100.0}
    shown = hopfield_table.markdown({**results, "updates": [full]})
    assert "**1.2** (≥ 1.3: missed)" in shown and "50 (≥ 30)" in shown and "until all have converged" in shown
