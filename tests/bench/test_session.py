"""The arithmetic of the benchmark: ratios, refusals and reports. Nothing here is timed."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from bench import __main__ as command  # noqa: E402
from bench import rnn  # noqa: E402
from bench.harness import gate, limits, machine, timing  # noqa: E402
from bench.harness.contest import BOTH, FORWARD  # noqa: E402
from bench.rnn import cases as rnn_cases  # noqa: E402
from bench.rnn import table as rnn_table  # noqa: E402
from bench.rnn.cases import Case  # noqa: E402

# ---- The gate -------------------------------------------------------------------------------------------------------


def test_gate_returns_the_largest_difference_relative_to_the_largest_value() -> None:
    expected = {"h": torch.tensor([4.0, 1.0]), "dx": torch.tensor([1.0, 2.0])}
    found = {"h": torch.tensor([4.0, 1.0]), "dx": torch.tensor([1.0, 2.0 + 2**-20])}
    assert gate.check("case", found, expected, length=1) == 2**-21


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"h": torch.tensor([1.0, 1.001])}, "case: h is off by 1.0e-03"),
        ({"h": torch.tensor([1.0, math.nan])}, "case: h is off by inf"),
        ({"h": torch.ones(3)}, "case: h is off by inf"),
        ({}, "case: h is missing"),
    ],
)
def test_gate_refuses(found: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(gate.GateError, match=message):
        gate.check("case", found, {"h": torch.ones(2)}, length=1)


def test_tolerance_grows_with_length_and_shrinks_with_precision() -> None:
    assert gate.tolerance(torch.float32, 1) < gate.tolerance(torch.float32, 1024) < 1e-4
    assert gate.tolerance(torch.float64, 1024) < 1e-12


# ---- Timing ---------------------------------------------------------------------------------------------------------


def timings(**seconds: float) -> dict[str, timing.Timing]:
    return {name: timing.Timing([value, 2 * value]) for name, value in seconds.items()}


def test_interleave_gives_everybody_the_same_number_of_batches() -> None:
    calls: list[str] = []
    competitors = [timing.Competitor(name, lambda name=name: calls.append(name)) for name in "ab"]
    found = timing.interleave(competitors, budget=0.0, min_samples=3)
    assert [len(found[name].seconds) for name in "ab"] == [3, 3]
    assert all(timing_.calls <= calls.count(name) for name, timing_ in found.items())


def test_stirring_happens_before_every_call() -> None:
    events: list[str] = []
    timing.time_batch(lambda: events.append("call"), 3, lambda: events.append("stir"))
    assert events == ["stir", "call"] * 3


def test_slow_variants_drop_out_and_others_remain() -> None:
    competitors = [
        timing.Competitor("ours", print),
        timing.Competitor("torch@1", print, 1, variant_of="torch"),
        timing.Competitor("torch@2", print, 2, variant_of="torch"),
        timing.Competitor("torch@4", print, 4, variant_of="torch"),
    ]
    estimates = {"ours": 9.0, "torch@1": 1.0, "torch@2": 1.2, "torch@4": 2.0}
    kept = timing.drop_slow_variants(competitors, estimates)
    assert [competitor.name for competitor in kept] == ["ours", "torch@1", "torch@2"]


def test_batches_are_longer_beside_long_calls() -> None:
    competitors = [timing.Competitor("long", print), timing.Competitor("short", print)]
    assert timing.batch_sizes(competitors, {"long": 10.0, "short": 1e-3}) == {"long": 1, "short": 200}


def test_ratio_is_against_the_better_thread_count() -> None:
    record = rnn.against_torch(timings(layer=0.002, **{"torch@1": 0.005, "torch@2": 0.003}), "layer")
    assert record["torch_threads"] == 2
    assert (record["ratio"], record["ratio_median"]) == pytest.approx((1.5, 1.5))
    assert record["ours_ms"] == pytest.approx(2.0)


def test_torch_is_tried_on_one_thread_where_that_may_be_faster() -> None:
    assert rnn.thread_counts(1, 1e6) == rnn.thread_counts(1, 1e12) == [1]
    assert rnn.thread_counts(2, 1e6) == [1, 2]
    assert rnn.thread_counts(2, 1e12) == [2]


# ---- Limits and the floor -------------------------------------------------------------------------------------------


def test_rate_leaves_out_the_overhead() -> None:
    limit = limits.Limit("read", print, work=100.0, overhead=1.0)
    assert limit.rate(timing.Timing([3.0, 4.0])) == 50.0
    assert limit.rate(timing.Timing([1.0])) == 500.0  # never less than a fifth of the time


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("nbytes", [1 << 12, 1 << 18, 1 << 21])
def test_reading_counts_every_byte_of_every_thread(nbytes: int, threads: int) -> None:
    limit = limits.read_bandwidth(nbytes, threads)
    limit.call()
    assert limit.work > 0
    assert limit.work % max(nbytes, threads * limits.FIRST_CACHE) == 0


def test_floor_is_the_larger_of_flops_and_bytes() -> None:
    one_row, many_rows = Case("lstm", 1, 128, 256), Case("lstm", 64, 128, 256)
    flop_rate, read_rate = 1e11, 1e11
    by_bytes, bound = rnn_cases.floor_seconds(one_row, FORWARD, flop_rate, read_rate)
    assert (by_bytes, bound) == (pytest.approx(4 * 4 * 256 * 256 * 128 / 1e11), "bytes of r")
    by_flops, bound = rnn_cases.floor_seconds(many_rows, FORWARD, flop_rate, read_rate)
    assert (by_flops, bound) == (pytest.approx(2 * 64 * 128 * 4 * 256 * 256 / 1e11), "flops")


def test_share_is_the_floor_over_the_time_of_the_recurrence() -> None:
    case = Case("lstm", 16, 128, 256)
    beside = limits.Limit("product", print, work=1e9), limits.Limit("read", print, work=1e9)
    record = rnn.against_floor(case, FORWARD, timings(recurrence=0.04, layer=0.01, product=0.01, read=0.001), beside)
    assert record["bound"] == "flops"
    assert record["floor_ms"] == pytest.approx(1e3 * 2 * 16 * 128 * 4 * 256 * 256 / 1e11)
    assert record["share"] == pytest.approx(record["floor_ms"] / 40)


def test_backward_has_twice_the_flops_of_forward_and_reads_r_once_more() -> None:
    case = Case("gru", 16, 128, 64)
    assert rnn_cases.recurrent_flops(case, BOTH) == 3 * rnn_cases.recurrent_flops(case, FORWARD)
    assert rnn_cases.recurrent_bytes(case, BOTH) == 2 * rnn_cases.recurrent_bytes(case, FORWARD)
    assert rnn_cases.recurrent_bytes(case, FORWARD) == 128 * 4 * 3 * 64 * 64


# ---- The contests ---------------------------------------------------------------------------------------------------

SMALL = {cell: Case(cell, 3, 7, 8) for cell in rnn_cases.CELLS}


@pytest.mark.parametrize("cell", SMALL)
def test_all_rivals_compute_the_same(cell: str) -> None:
    torch.manual_seed(0)
    assert rnn_cases.check(SMALL[cell], rnn_cases.rivals(SMALL[cell])) < 1e-5


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("cell", ["lstm", "gru", "elman"])
def test_heads_are_the_separate_layers(cell: str, *, together: bool) -> None:
    torch.manual_seed(0)
    peer = rnn_cases.SeparateLayers(SMALL[cell], 3)
    found = rnn_cases.BlockDiagonal(SMALL[cell], peer, together=together).results()
    assert gate.check(cell, found, peer.results(), length=7) < 1e-5


@pytest.mark.parametrize("cell", ["lstm", "slstm"])
def test_a_wrong_kernel_is_refused(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = rnn_cases.CELLS[cell]

    def forgets_one_step(wx: torch.Tensor, *rest: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        h, state = right.function(wx, *rest)
        return torch.cat([h[:, :4], h[:, 3:4], h[:, 5:]], 1), state

    monkeypatch.setitem(rnn_cases.CELLS, cell, dataclasses.replace(right, function=forgets_one_step))
    torch.manual_seed(0)
    with pytest.raises(gate.GateError, match=f"{cell} B 3 T 7 H 8, recurrence: h is off"):
        rnn_cases.check(SMALL[cell], rnn_cases.rivals(SMALL[cell]))


# ---- The command ----------------------------------------------------------------------------------------------------


def quick_arguments(out: Path | None, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    rnn.add_arguments(parser)
    words = ["--quick", "--cells", "elman", "--threads", "1", "--batches", "2", "--lengths", "8", "--widths", "16"]
    arguments = parser.parse_args([*words, "--budget", "0.001", *more])
    arguments.command, arguments.out = "rnn", out
    return arguments


def test_a_refused_run_reports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> float:
        raise gate.GateError("elman: h is off")

    monkeypatch.setattr(rnn, "check", refuse)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    with pytest.raises(SystemExit, match="elman: h is off"):
        command.measure(quick_arguments(tmp_path / "x.json", "--sections", "grid"))
    assert not (tmp_path / "x.json").exists()


def test_a_run_is_written_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    command.measure(quick_arguments(tmp_path / "results" / "x.json"))
    results = json.loads((tmp_path / "results" / "x.json").read_text())
    assert [(r["mode"], r["threads"]) for r in results["grid"]] == [(FORWARD, 1), (BOTH, 1)]
    assert len(results["heads"]) == 4
    assert {"cpu", "versions", "load"} <= results["machine"].keys()
    capsys.readouterr()
    command.report([tmp_path / "results" / "x.json"])
    printed = capsys.readouterr().out
    assert "### elman: a whole layer, times as fast as torch.nn" in printed
    assert "### One call of 64 elements" in printed
    assert "| elman, H 64, 1 thread |" in printed.split("### One time step at a time")[1]


def test_unknown_cells_are_refused() -> None:
    with pytest.raises(SystemExit, match="--cells must be of lstm, gru, elman, slstm, got vanilla"):
        rnn.read_options(quick_arguments(None, "--cells", "vanilla"))


def test_sleeping_workers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    with pytest.raises(SystemExit, match="OMP_WAIT_POLICY"):
        machine.refuse_unfair_environment()


# ---- The report -----------------------------------------------------------------------------------------------------


def row(**changes: object) -> dict[str, object]:
    usual = {"cell": "lstm", "B": 16, "T": 128, "H": 256, "mode": FORWARD, "threads": 1, "bound": "flops"}
    return {**usual, "share": 0.96, "ratio": 1.0, **changes}


@pytest.mark.parametrize(
    ("changes", "share", "ratio"),
    [
        ({}, 0.95, 0.95),
        ({"mode": BOTH}, 0.85, 0.95),
        ({"H": 64}, 0.80, 1.3),
        ({"B": 1}, 0.60, 2.0),
        ({"B": 1, "H": 512}, 0.60, 0.95),
        ({"cell": "gru"}, 0.95, 1.15),
    ],
)
def test_goals_are_those_of_the_issue(changes: dict[str, object], share: float, ratio: float) -> None:
    assert rnn_table.share_goal(row(**changes)) == share
    assert rnn_table.ratio_goal(row(**changes)) == ratio


def test_goals_for_heads_are_stated_for_two_threads() -> None:
    assert rnn_table.heads_goal(row(cell="gru", H=128, threads=2)) == 2.5
    assert rnn_table.heads_goal(row(cell="gru", H=128, threads=1)) is None
    assert rnn_table.ratio_entry(row(), None) == "1.00"


def test_a_missed_goal_is_bold_and_marked() -> None:
    assert rnn_table.share_entry(row()) == "96% (≥ 95%)"
    assert rnn_table.share_entry(row(share=0.90)) == "**90%** (≥ 95%: missed)"
    assert rnn_table.ratio_entry(row(ratio=0.9), 0.95) == "**0.90** (≥ 0.95: missed)"
    assert rnn_table.call_entry(7.4, 7.0) == "**7.4** (≤ 7: missed)"


def test_the_geometric_mean_is_compared_with_its_goal() -> None:
    assert rnn_table.mean_entry("gru", [2.0, 8.0]) == "4.00 (≥ 3)"
    assert rnn_table.mean_entry("elman", [1.0, 4.0]) == "**2.00** (≥ 3: missed)"
    assert rnn_table.mean_entry("lstm", [1.0, 4.0]) == "2.00"


def test_pivot_has_a_line_for_each_shape_and_a_column_for_each_mode_and_thread_count() -> None:
    rows = [row(threads=1), row(threads=2, ratio=1.5), row(threads=1, H=64, ratio=2.0)]
    assert rnn_table.pivot(rows, "ratio", lambda r: f"{r['ratio']:.1f}").splitlines() == [
        "| B, T, H | forward, 1 thread | forward, 2 threads |",
        "| --- | ---: | ---: |",
        "| 16, 128, 256 | 1.0 | 1.5 |",
        "| 16, 128, 64 | 2.0 |  |",
    ]


def test_results_are_written_with_a_record_a_line() -> None:
    results = {"family": "x", "machine": {"cpu": "y", "list": [1, 2]}, "peers": [row(), row(ratio=2.0)], "none": []}
    text = command.as_lines(results)
    assert json.loads(text) == results and text.count("\n") == 9
