"""The run on a GPU: a dry run of all its parts, and the runner, which no item may stop."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from bench import __main__ as command  # noqa: E402
from bench.card import about_the_card, gpu_tests, model, plans, profile, table  # noqa: E402
from bench.card.emulated import SHARED  # noqa: E402
from bench.card.parts import BUDGET, PARTS, STEPS, Step  # noqa: E402
from bench.card.record import Results, file_name  # noqa: E402
from bench.card.runner import Progress, Runner, environment  # noqa: E402
from fastiter.rnn._torch._gpu import launch_plan  # noqa: E402
from fastiter.tune import DEVICES  # noqa: E402
from tests.support.scripts import run_script  # noqa: E402

ROOT = Path(__file__).parents[2]


class Forked(Runner):
    """A runner whose workers are forked from one process that has imported torch, instead of new interpreters."""

    def _worker(self, step: Step, lines: Path, log: Path, progress: Progress, ends: float) -> str:
        where = [step.where, "--lines", str(lines), "--skip", str(progress.done), "--dry-run"]
        run_script("bench.card.worker", *where, **{**environment(True), SHARED: str(self.results.path.parent)})
        self._read(step, lines, 0, progress)
        return ""


def test_a_dry_run_executes_every_step(tmp_path: Path) -> None:
    results = Results.open(tmp_path / "x.json", card=about_the_card(True))
    for step in STEPS.values():
        Forked(results, True, time.monotonic() + BUDGET, print).run(step)
    told = json.loads(results.path.read_text())
    assert told["failed"] == []
    assert all(told[step] for step in STEPS)
    (calls,) = told["profile"]
    wanted = {"rnn_fwd", "rnn_bwd", "newton_fwd", "scan/triton_linear", "quant/triton_elementwise"}
    assert wanted <= set(calls["launched"])
    assert 0 < max(told["correctness"][0]["off"]) < 0.1  # the kernel rounds differently from the reference
    text = table.markdown(told)
    assert "#### Correctness" in text and "| lstm | 16 |" in text and "#### Failed" not in text


def test_the_command_runs_the_named_steps_of_each_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv(SHARED, str(tmp_path))
    monkeypatch.setattr("sys.argv", ["bench", "card", "--dry-run", "--steps", "about,memcheck"])
    command.main()
    told = json.loads(Path(capsys.readouterr().out.rpartition("failures; ")[2].split()[0]).read_text())
    assert told["failed"] == []
    assert [step for step in STEPS if told.get(step)] == ["about", "memcheck"]


def a_run(tmp_path: Path, step: Step, seconds: float = 60) -> dict[str, Any]:
    results = Results.open(tmp_path / "x.json", card={"name": "none"})
    Runner(results, True, time.monotonic() + seconds, lambda text: None).run(step)
    told: dict[str, Any] = json.loads((tmp_path / "x.json").read_text())
    return told


def test_failures_are_recorded_and_skipped(tmp_path: Path) -> None:
    told = a_run(tmp_path, Step("step", "tests.bench.card_items:items", 300), 300)
    assert [row["name"] for row in told["step"]] == ["0 well", "3 well", "5 well", "7 well", "8 growing"]
    assert told["step"][-1]["passed"] == 2
    errors = {each["item"]: each["error"] for each in told["failed"]}
    assert len(errors) == len(told["failed"]) == 6
    assert errors["1 raising"] == "ArithmeticError: off by 3"
    assert errors["2 crashing"].startswith("ended with exit code 11; ") and errors["2 crashing"].endswith("last words")
    assert errors["4 hanging"].startswith("took more than 1 s")
    assert errors["6 breaking"] == errors["9 breaking"] == "RuntimeError: an illegal memory access"
    assert errors["8 growing"].startswith("ended with exit code 7")


def test_a_step_that_does_not_start_is_recorded(tmp_path: Path) -> None:
    told = a_run(tmp_path, Step("step", "tests.bench.card_items:broken", 60))
    assert told["step"] == [] and len(told["failed"]) == 1
    assert "ImportError: no such package" in told["failed"][0]["error"]


def test_a_step_ends_with_its_budget(tmp_path: Path) -> None:
    started = time.monotonic()
    told = a_run(tmp_path, Step("step", "tests.bench.card_items:slow", 20), 1)
    assert time.monotonic() - started < 100  # less than the items' 300 seconds
    assert told["step"] == [] and "out of time" in told["failed"][0]["error"]


def test_a_step_that_runs_again_replaces_its_own_records(tmp_path: Path) -> None:
    results = Results.open(tmp_path / "x.json", card={"name": "a"})
    for step in ("one", "two"):
        results.begin(step)
        results.add(step, {"name": step})
        results.fail(step, "item", "error")
    again = Results.open(tmp_path / "x.json", card={"name": "b"})
    again.begin("one")
    told = json.loads((tmp_path / "x.json").read_text())
    assert told["one"] == [] and told["two"] == [{"name": "two"}] and told["card"] == {"name": "b"}
    assert [each["step"] for each in told["failed"]] == ["two"]
    assert again.failures(["one"]) == [] and len(again.failures(["two"])) == 1


def test_parts_take_less_than_nine_minutes() -> None:
    assert BUDGET < 540
    assert sum(len(steps) for steps in PARTS.values()) == len(STEPS)
    for steps in PARTS.values():
        assert all(step.limit < BUDGET for step in steps)


def test_the_file_of_a_card_is_named_after_it() -> None:
    assert file_name("NVIDIA H100 80GB HBM3") == "h100-80gb-hbm3.json"
    assert file_name("NVIDIA GeForce RTX 4090") == "rtx-4090.json"


def test_the_page_has_the_records_of_all_cards() -> None:
    text = (ROOT / "docs" / "gpu.md").read_text()
    every = [json.loads(path.read_text()) for path in sorted((ROOT / "bench" / "results").rglob("*.json"))]
    assert table.page(text, [told for told in every if told["family"] == "card"]) == text
    record = {"card": {"name": "a card", "cuda": "13.0"}, "latencies": [{"name": "l2", "cycles": 273.4}]}
    assert "### a card, CUDA 13.0" in table.page(text, [record]) and "| l2 | 273 |" in table.page(text, [record])
    with pytest.raises(ValueError, match="the page has no"):
        table.page("no marks", [])


# ---- the parts of the steps ------------------------------------------------------------------------------------------


def test_the_fit_finds_the_constants_of_its_rows() -> None:
    exact = {
        "step": 120.0,
        "element": 1900.0,
        "product": 30.0,
        "fragment": 9.0,
        "sum": 20.0,
        "joined": 1500.0,
        "word": 40.0,
    }
    rows = []
    for width in (16, 64, 192, 256, 768):
        problem = plans.problem_of("lstm", width, False)
        for its in plans.candidates(problem, DEVICES["H100"]):
            row = plans.described(problem, its)
            row["cycles"] = sum(exact[name] * value for name, value in model.terms(row).items())
            rows.append(row)
    found, error = model.fit(rows)
    assert found == pytest.approx(exact) and error == pytest.approx(1)
    told = model.constants_of(rows)
    known = [row for row in rows if not row["plan"].get("clustered")]  # the tuner does not support clusters
    assert told["forward"]["rows"] == len(known) < len(rows) and "backward" not in told
    for row in rows:  # a constant that would be negative becomes 0
        row["cycles"] = 1000.0 + 10 * model.terms(row)["element"]
    found, _ = model.fit(rows)
    assert min(found.values()) >= 0 and found["step"] == pytest.approx(1000)


def test_plans_fit_the_card_and_begin_with_the_launchers() -> None:
    card_ = DEVICES["H100"]
    for width in (16, 64, 192, 768):
        for back in (False, True):
            problem = plans.problem_of("lstm", width, back)
            found = plans.candidates(problem, card_)
            assert found[0] == launch_plan.plan(problem, card_) and len(set(found)) == len(found) > 1
            for its in found:
                groups = problem.heads * -(-problem.batch // its.rows)
                assert its.shared <= card_.block_shared and its.units * its.blocks >= width
                assert its.blocks == 1 or groups * its.blocks <= card_.sms
                assert problem.outs * its.units % (16 * its.row_warps) == 0


def test_results_of_pytest_are_read_from_its_lines() -> None:
    text = (
        "[gw3] [ 12%] PASSED tests/rnn/gpu/test_cuda.py::test_a[cuda-1] \n"
        "[gw1] [ 13%] FAILED tests/rnn/gpu/test_cuda.py::test_b[cuda] \n"
        "tests/scan/test_triton.py::test_c PASSED    [ 50%]\n"
        "FAILED tests/rnn/gpu/test_cuda.py::test_b[cuda] - AssertionError\n"
        "= 1 failed, 2 passed =\n"
    )
    found: dict[str, list[str]] = {}
    assert [gpu_tests.read(line, found) for line in text.splitlines()] == [True, True, True, False, False]
    assert found["FAILED"] == ["tests/rnn/gpu/test_cuda.py::test_b[cuda]"] and len(found["PASSED"]) == 2


def test_the_profilers_table_is_read() -> None:
    text = (
        '==PROF== connected\n"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"\n'
        '"0","rnn_fwd(const int *)","Duration","us","812.3"\n"0","rnn_fwd(const int *)","Grid Size","","24"\n'
    )
    assert profile.read(text) == {"0 rnn_fwd": {"Duration": "812.3 us"}}


def test_weights_held_by_a_peer_get_gradients_too() -> None:
    from bench import cuda

    x = torch.randn(2, 3, 32)
    for peer, inputs in ((cuda.cudnn(cuda.SMALL, 16, x), 1), (cuda.ours_with_wx(x, torch.randn(4, 2, 16, 16)), 3)):
        gradients = cuda.with_gradients(peer.call, *peer.inputs, weights=peer.weights)()
        assert isinstance(gradients, tuple) and len(gradients) == inputs + len(peer.weights)
        assert all(np.isfinite(each.numpy()).all() and each.abs().max() > 0 for each in gradients)
