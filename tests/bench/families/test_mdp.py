"""The benchmark of the family mdp: exact values, wrong values refused, the table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")

from bench import __main__ as command  # noqa: E402
from bench.harness import gate  # noqa: E402
from bench.mdp import cases, peers  # noqa: E402
from bench.mdp import table as mdp_table  # noqa: E402
from fastiter.mdp import MDP, examples, reference  # noqa: E402


def dense(problem: MDP, tol: float) -> Iterator[peers.Solver]:
    """Value iteration by NumPy, as a peer."""
    matrix, _, _ = peers.rows_of(problem)

    def solve(made: Any) -> Any:
        v = np.zeros(problem.S)
        for _ in range(600):
            v = np.maximum.reduceat(problem.rewards + problem.gamma * (made @ v), problem.row_starts[:-1])
        return v

    yield peers.Solver("NumPy", matrix.toarray, solve)


CASE = cases.Case("forest 20", lambda: examples.forest(20, 0.9), 1e-6, (dense,), {"NumPy": 1e-9})


def test_exact_values() -> None:
    value, uncertainty = cases.exact(CASE.make())
    matrix, _, _ = peers.rows_of(CASE.make())
    P, R = matrix.toarray().reshape(20, 2, 20), CASE.make().rewards.reshape(20, 2)
    np.testing.assert_allclose(value, reference.policy_iteration(P, R, 0.9)[0], rtol=0, atol=1e-11)
    assert uncertainty < 1e-11


def test_wrong_values_are_refused() -> None:
    value, _ = cases.exact(CASE.make())
    mine = peers.ours(CASE.make(), CASE.tol, (1,))
    assert cases.checked(CASE, mine, value, 0.0) <= CASE.tol / 2
    with pytest.raises(gate.GateError, match="the values are off by"):
        cases.checked(CASE, mine, value + 1e-5, 0.0)


def test_a_run_and_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mdp.json"
    monkeypatch.setattr(cases, "QUICK", (CASE,))
    monkeypatch.setattr(
        "sys.argv", ["bench", "mdp", "--quick", "--threads", "1", "--budget", "0.02", "--out", str(out)]
    )
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    command.main()
    assert "forest 20" in capsys.readouterr().out
    results = json.loads(out.read_text())
    assert [r["work"] for r in results["sweeps"]] == ["Garnet 500, 10 actions, 5 next", "grid 20 x 20"]
    record = results["solvers"][0]
    assert record["peer"] == "NumPy" and record["ratio"] == pytest.approx(record["peer_ms"] / record["ms"])
    shapes = {r["work"]: r for r in results["never-slower"]}
    assert set(shapes) == {"three states, gamma .95", "chain 60, gamma .99"}
    for record in shapes.values():
        assert record["ratio"] == pytest.approx(record["ms"] / record["best_ms"]) and record["best"] in record["all_ms"]
    shown = mdp_table.markdown(results)
    assert "| chain 60, gamma .99 |" in shown and "(≤ 1.5" in shown
    assert "| forest 20 | NumPy |" in shown and "(≥ 1e-09)" in shown and "grid 20 x 20" in shown
