"""The run on a GPU: a dry run of all its parts, and the runner, which no item may stop."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import fastiter.torch  # noqa: E402
from bench import __main__ as command  # noqa: E402
from bench.card import about_the_card, table  # noqa: E402
from bench.card.calls import CALLS, kernels_in  # noqa: E402
from bench.card.device import Place  # noqa: E402
from bench.card.emulated import SHARED  # noqa: E402
from bench.card.parts import BUDGET, PARTS, START, STEPS, Step  # noqa: E402
from bench.card.record import Results, file_name  # noqa: E402
from bench.card.runner import Progress, Runner, end, environment, seconds_of  # noqa: E402
from bench.card.steps import about, families, gpu_tests, model, plans, planted, profile, sanitizer  # noqa: E402
from bench.card.worker import Item  # noqa: E402
from fastiter.rnn._torch._gpu import launch_plan  # noqa: E402
from fastiter.tune import DEVICES  # noqa: E402
from tests.gpu.compile.gate import stems  # noqa: E402
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
    launched = {name for row in told["kernels"] for name in row["launched"]}
    assert launched == {name for stem in stems() for name in kernels_in(stem)}
    (checked,) = told["sanitizer"]
    assert checked["none"] == {"checked": 2, "found": {}}
    assert 0 < max(told["correctness"][0]["off"]) < 0.1  # the kernel rounds differently from the reference
    text = table.markdown(told)
    assert "#### Correctness" in text and "| mlstm |" in text and "- none: 2 calls; reports in none" in text
    assert "| lstm | 16 |" in text and "#### Failed" not in text


def test_every_source_that_is_compiled_is_called() -> None:
    assert {source for call in CALLS.values() for source in call.sources} == {*stems()}
    assert {"rnn_fwd", "rnn_bwd", "linear_scan_fwd_kernel", "relax_stencil_kernel"} <= set(profile.kernels())


def test_the_command_runs_the_named_steps_of_each_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv(SHARED, str(tmp_path))
    monkeypatch.setattr("sys.argv", ["bench", "card", "--dry-run", "--steps", "about,profile"])
    command.main()
    said = capsys.readouterr().out
    path = Path(said.rpartition("failures; ")[2].split()[0])
    told = json.loads(path.read_text())
    assert f"{len(planted.FAILURES)} planted failures are recorded" in said
    assert told["failed"] == []
    assert [step for step in STEPS if told.get(step)] == ["about", "profile"]
    every_planted_failure_is_required(json.loads((path.parent / "planted.json").read_text()))


def every_planted_failure_is_required(told: dict[str, Any]) -> None:
    """A dry run begins with these, and ends unless each is recorded with its reason."""
    planted.check(told["planted"], told["failed"])
    with pytest.raises(SystemExit, match="has records of"):
        planted.check(told["planted"][1:], told["failed"])
    for number in range(len(told["failed"])):
        with pytest.raises(SystemExit, match="planted"):
            planted.check(told["planted"], told["failed"][:number] + told["failed"][number + 1 :])
        other = [dict(failure) for failure in told["failed"]]
        other[number]["error"] = "ended"
        with pytest.raises(SystemExit, match=r"has recorded .*ended"):
            planted.check(told["planted"], other)


def a_run(tmp_path: Path, step: Step, seconds: float = 60) -> dict[str, Any]:
    results = Results.open(tmp_path / "x.json", card={"name": "none"})
    Runner(results, True, time.monotonic() + seconds, lambda text: None).run(step)
    told: dict[str, Any] = json.loads((tmp_path / "x.json").read_text())
    return told


def test_nothing_of_a_session_outlives_its_end() -> None:
    child = "import time; time.sleep(600)"
    program = (
        "import os, subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], preexec_fn=os.setpgrp)\n"
        "print(child.pid, flush=True)\nchild.wait()"
    )
    command = [sys.executable, "-c", program]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    number = int(process.stdout.readline())
    end(process)
    process.stdout.close()
    state = Path(f"/proc/{number}/stat")
    waited = time.monotonic()
    while state.exists() and " Z " not in state.read_text() and time.monotonic() < waited + 30:
        time.sleep(0.01)
    assert not state.exists() or " Z " in state.read_text()  # killed, though its parent cannot collect it


def test_a_step_that_does_not_start_is_recorded(tmp_path: Path) -> None:
    told = a_run(tmp_path, Step("step", "bench.card.steps.planted:broken", 60))
    assert told["step"] == [] and len(told["failed"]) == 1
    assert "ImportError: no such package" in told["failed"][0]["error"]


def test_a_step_ends_with_its_budget(tmp_path: Path) -> None:
    started = time.monotonic()
    told = a_run(tmp_path, Step("step", "bench.card.steps.planted:slow", 20), 1)
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


def test_parts_are_expected_to_take_less_than_ten_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step's expectation covers those of its items, as they are listed for an H100."""
    monkeypatch.setattr(Place, "card", lambda self: DEVICES["H100"])
    assert BUDGET < 600 and len(PARTS) == 3
    assert sum(len(steps) for steps in PARTS.values()) == len(STEPS)
    for steps in PARTS.values():
        assert sum(step.expected for step in steps) <= BUDGET
    for name, step in STEPS.items():
        every = items_of(step)
        needed = START + sum(item.expected for item in every)
        assert needed <= step.expected, f"{name}: its items need {needed:.0f} s"
        assert all(item.expected <= item.limit <= BUDGET for item in every), name


def items_of(step: Step) -> list[Item]:
    module, _, function = step.where.partition(":")
    found: list[Item] = getattr(importlib.import_module(module), function)(False)
    return found


def test_a_late_step_leaves_the_others_their_share() -> None:
    assert seconds_of(100, 300, 500) == 200  # all but what the others are expected to take
    assert seconds_of(100, 300, 200) == 50  # half of the time is there
    assert seconds_of(100, 0, 60) == 60
    assert seconds_of(100, 300, -1) < 0


def test_only_files_with_tests_for_a_card_are_imported() -> None:
    found = gpu_tests.files()
    assert {"tests/gpu/test_gpu_streams.py", "tests/ssm/tensors/test_torch_triton_conv.py"} <= set(found)
    assert len(found) < 40 and all((ROOT / path).exists() for path in found)


class Plain(Place):
    """The CPU with its own kernels."""

    def run(self, call: Callable[[], Any]) -> Any:
        return call()


def test_a_peer_that_is_missing_or_fails_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_broken_peer.py").write_text("raise OSError('libcudart.so.12: cannot open shared object file')")
    (tmp_path / "a_peer.py").write_text("import torch\ndef scan(a, x): return torch.cumsum(a * x, 1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    peers = (
        families.Peer("missing", "no_such_peer", "scan", lambda f, a, x: f(a, x)),
        families.Peer("broken", "a_broken_peer", "scan", lambda f, a, x: f(a, x)),
        families.Peer("older", "a_peer", "no_such_function", lambda f, a, x: f(a, x)),
        families.Peer("failing", "a_peer", "scan", lambda f, a, x: f(a, x, x)),
        families.Peer("good", "a_peer", "scan", lambda f, a, x: f(a, x)),
    )
    ours = fastiter.torch.linear_scan
    contest = families.Contest("scan", ours, peers, lambda a, x: [a * 0 + 1, x], ((1, 5, 2),) * 2, ())
    records = [json.loads(json.dumps(record)) for record in families.measured(Plain(True), contest)]
    last = records[-1]
    assert len(records) == 6 and [len(record["ms"]) for record in records] == [1, 1, 1, 1, 1, 2]
    assert {name: why.partition(":")[0] for name, why in last["left_out"].items()} == {
        "missing": "ModuleNotFoundError",
        "broken": "OSError",
        "older": "AttributeError",
        "failing": "TypeError",
    }
    assert set(last["ms"]["good"]) == {"forward", "forward+backward"} and last["differs"]["good"] < 1e-6
    assert "| missing, broken, older, failing |" in table.families([{"name": "scan", **last}])


@pytest.mark.parametrize("contest", families.CONTESTS, ids=lambda contest: contest.name)
def test_contests_pass_arguments_that_our_functions_take(contest: families.Contest) -> None:
    inputs = [x.detach().requires_grad_() for x in contest.prepare(*map(torch.randn, contest.small))]
    result = families.first(contest.ours(*inputs))
    assert result.isfinite().all() and [len(shape) for shape in contest.small] == [len(x) for x in contest.large]
    if contest.has_gradients:
        assert len(torch.autograd.grad(result.sum(), inputs)) == len(inputs)


# ---- the sanitizer ---------------------------------------------------------------------------------------------------

#: A tool and the program under it: each call does what its name says
UNDER_A_TOOL = """
import os, signal, sys, time
print("========= COMPUTE-SANITIZER", flush=True)
for name in sys.argv[1:]:
    print("begin", name, flush=True)
    if name == "racing":
        print("========= Error: Race reported between Write access\\n=========     at a_kernel+0x10", flush=True)
    if name == "crashing":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "hanging":
        time.sleep(600)
    if name == "raising":
        print("failed ArithmeticError: off by 3", flush=True)
    print("end", name, flush=True)
print("========= ERROR SUMMARY: 0 errors", flush=True)
"""


def test_a_tool_survives_its_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sanitizer, "EACH", 1.0)
    command = [sys.executable, "-c", UNDER_A_TOOL]
    told: list[Any] = []
    names = ["well", "racing", "crashing", "fine", "hanging", "raising", "good"]
    with pytest.raises(RuntimeError, match=r"reports by tool: .*racing.*crashing.*hanging.*raising"):
        told += sanitizer.run({"racecheck": command}, names, 100)
    last = told[-1]["racecheck"]
    assert last["checked"] == 5
    assert last["found"] == {
        "racing": ["Error: Race reported between Write access"],
        "crashing": ["was killed by SIGSEGV"],
        "hanging": ["took more than 1 s"],
        "raising": ["ArithmeticError: off by 3"],
    }
    assert told[0]["racecheck"]["checked"] <= 1  # it is told call by call


def test_a_tool_that_does_not_start_is_told_for_every_call() -> None:
    with pytest.raises(RuntimeError, match=r"'one', 'two'"):
        list(
            sanitizer.run({"memcheck": [sys.executable, "-c", "raise SystemExit('no such tool')"]}, ["one", "two"], 60)
        )


def test_the_sanitizer_of_the_wheel_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its script, which sets paths, and not the larger program, a library's folder, or the documentation."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert about.sanitizer() is None
    inside = ("nvidia/cu13/bin/compute-sanitizer", "nvidia/cu13/compute-sanitizer/compute-sanitizer")
    for place, text in zip(inside, ("#!/bin/sh", "#" * 999), strict=True):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_text(text)
        (tmp_path / place).chmod(0o755)
    installed = tmp_path / "nvidia_cuda_sanitizer_api-13.5.25.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Name: {about.SANITIZER}\nVersion: 13.5.25\n")
    (installed / "RECORD").write_text("".join(f"{place},,\n" for place in inside))
    monkeypatch.syspath_prepend(tmp_path)
    assert about.sanitizer() == str(tmp_path / inside[0])


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
