"""The benchmark of distributed runs: the model, peers that compute the same, wrong results refused, the tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import bench.distributed  # noqa: E402
from bench import __main__ as command  # noqa: E402
from bench.distributed import jobs, model, poisson, table  # noqa: E402
from bench.distributed.team import Team  # noqa: E402
from bench.distributed.works import Work  # noqa: E402
from bench.harness import gate  # noqa: E402

COSTS = model.Costs(1e-4, 1e-9, 2e-3, 3e-3, 5e-4, 7e-4, 4000, 8000, 7 / 3)


def test_lines_are_fitted_and_outliers_are_reported() -> None:
    sizes = [1, 10, 100, 1000]
    line = model.fit(sizes, [3 + 2 * n for n in sizes])
    assert line.alpha == pytest.approx(3) and line.beta == pytest.approx(2)
    assert line.residuals == pytest.approx([0] * 4, abs=1e-12)
    assert max(map(abs, model.fit(sizes, [5.0, 23.0, 203.0, 3000.0]).residuals)) > 0.1


def test_the_model_by_hand() -> None:
    """Three ranks: a pipeline of two chunks has four turns; a scan has two rounds."""
    assert model.pipeline(1.2, 1, 2, COSTS) == model.scan(1.2, 1, COSTS) == pytest.approx(1.202)
    begin = 2e-3 + 3e-3 + 2 * 2e-4
    assert model.pipeline(1.2, 3, 2, COSTS) == pytest.approx(begin + 4 * (0.2 + 5e-4) + 4 * 2e-4 + 6 * 2e-6)
    assert model.speculation(1.2, 3, COSTS) == pytest.approx(begin + 0.4 + 4 * (5e-4 + 2e-4 + 4e-6))
    assert model.scan(1.2, 3, COSTS) == pytest.approx(begin + 2.8 / 3 + 2 * (7e-4 + 2 * (2e-4 + 12e-6)))


def test_the_crossover_is_the_first_length_that_pays() -> None:
    steps = model.crossover(1e-6, 8, (1, 2, 4), COSTS)
    assert steps is not None
    for count, pays in ((steps - 1, False), (steps, True)):
        assert (model.best(count * 1e-6, 8, (1, 2, 4), COSTS)[0] < count * 1e-6) == pays
    assert model.crossover(1e-6, 2, (1,), COSTS) is None  # one chunk or a scan: the second rank waits for the first


def test_ranks_and_their_errors() -> None:
    """All peers pass the gate on three ranks and two; a wrong result is refused, and the error names its rank."""
    with Team(3) as team:
        for name, steps in (("linear_scan", 12), ("delta_scan", 30)):
            peers = ("all-gather", "later ranks")  # heads do not divide by three
            for one in team.run(3, jobs.sequence, Work(name, steps), (("scan", None),), peers, (), 0.0):
                assert set(one["facts"]) == {"scan", *peers} and all(one["samples"].values())
            team.run(2, jobs.sequence, Work(name, steps), (), jobs.PEERS, (), 0.0)
        with pytest.raises(gate.GateError, match=r"(?s)rank 0 of 2 raised:.*: y is off by"):
            team.run(2, wrong)


def wrong(group: Any) -> None:
    """Check results that are shifted by one step."""
    work = Work("linear_scan", 8)
    shard = bench.distributed.works.Shard(work, group)
    jobs.check(shard, "shifted", shard.ours("scan"), [x.roll(1, 1) for x in work.one(torch.float64)])


def test_a_run_and_its_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "distributed.json"
    monkeypatch.setattr(bench.distributed, "QUICK_STEPS", 64)
    monkeypatch.setattr(bench.distributed.costs, "SIZES", (64, 4096, 65536))
    monkeypatch.setattr("sys.argv", ["bench", "distributed", "--quick", "--budget", "0.02", "--out", str(out)])
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    command.main()
    assert "linear_scan (1, 64, 256)" in capsys.readouterr().out
    results = json.loads(out.read_text())
    scans = [r for r in results["sequence"] if r["way"] == "scan"]
    assert len(scans) == 3 and all(r["bytes"] == r["bytes_of_a_quarter"] > 0 for r in scans)
    gathered = [r["bytes"] for r in results["sequence"] if r["way"] == "all-gather"]
    # The last rank sends its arguments, and the other half's gradients: of factors and inputs, or of q, k, v and beta
    assert gathered == [2 * 32 * 512 * 4, 2 * 32 * (3 * 256 + 8) * 4]
    assert {r["ranks"] for r in results["scaling"]} == {1, 2, 4} and len(results["messages"]) == 3
    shown = table.markdown(results)
    assert "#### delta_scan (1, 64, 8, 32)" in shown and "**A model, not a measurement**" in shown
    assert all(f"(≤ {table.ROUNDS_GOAL}" in shown and f"(≥ {goal:g}" in shown for goal in (1.7, 3.0))


def test_poisson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Solutions by all methods, in a run with this section."""
    pytest.importorskip("scipy")
    out = tmp_path / "poisson.json"
    monkeypatch.setattr(poisson, "QUICK_SIZES", (8,))
    given = ["bench", "distributed", "--quick", "--sections", "poisson", "--budget", "0.02", "--out", str(out)]
    monkeypatch.setattr("sys.argv", given)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    command.main()
    results = json.loads(out.read_text())
    found = {(r["way"], r["ranks"]): r["steps"] for r in results["poisson"]}
    # Without a preconditioner the number of steps is SciPy's, give or take one due to rounding
    assert abs(found["cg, preconditioner none", 2] - found[poisson.SCIPY, 1]) <= 1
    assert found["cg, preconditioner block_jacobi", 1] < found["cg, preconditioner block_jacobi", 2]
    assert f"(≥ {poisson.GOAL:g}" in table.markdown(results)
