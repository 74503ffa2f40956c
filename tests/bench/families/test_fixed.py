"""The benchmark of the family fixed: the products, their reference loops, and a run without peers."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bench import __main__ as command  # noqa: E402
from bench.harness import gate  # noqa: E402
from bench.harness.contest import FRESH, REUSED  # noqa: E402
from bench.quant import fixed as quant_fixed  # noqa: E402
from bench.quant import fixed_cases as quant_fixed_cases  # noqa: E402
from bench.quant import fixed_peers as quant_fixed_peers  # noqa: E402
from bench.quant import fixed_table as quant_fixed_table  # noqa: E402
from bench.quant.fixed_cases import Product  # noqa: E402
from fastiter.quant import FixedArray, fixed_matmul, quant_matmul  # noqa: E402

SMALL = 12


PRODUCTS = list(quant_fixed.products(SMALL))


@pytest.mark.parametrize("work", PRODUCTS, ids=lambda work: work.name)
def test_ours_is_the_loop(work: Product) -> None:
    assert work.check() == 0
    assert work.multiply_adds == SMALL**3


@pytest.mark.parametrize("acc", quant_fixed.FIXED)
def test_the_loop_is_the_specification(acc: str) -> None:
    work = quant_fixed_cases.fixed_product(acc, SMALL)
    factors = (FixedArray.from_codes(z, quant_fixed_cases.CODES) for z in (work.a, work.b))
    assert (work.expected == fixed_matmul(*factors, acc, backend="reference").to_float()).all()


@pytest.mark.parametrize("accumulate", quant_fixed.FLOATS)
def test_the_loop_over_floats_is_the_specification(accumulate: str) -> None:
    work = quant_fixed_cases.float_product(accumulate, SMALL)
    exact = quant_matmul(work.a, work.b, "e4m3fn", "e4m3fn", accumulate, backend="reference")
    assert (work.expected == exact).all()


def test_small_codes_stay_in_the_range_of_the_accumulator() -> None:
    work = quant_fixed_cases.fixed_product(quant_fixed.FIXED[0], quant_fixed_cases.FULL, quant_fixed_cases.LARGEST)
    assert np.abs(work.expected).max() < 128 - 2**-6
    assert quant_fixed_cases.FULL * (quant_fixed_cases.LARGEST / 16) ** 2 > 128


def test_one_wrong_bit_is_refused() -> None:
    right = PRODUCTS[0]
    c = np.asarray(right.function()).copy()
    c[3, 4] += 2.0**-6
    with pytest.raises(gate.GateError, match=r"0\.7% of c differ from the loop over k"):
        replace(right, function=lambda: c).check()
    with pytest.raises(gate.GateError, match="a peer: c has shape"):
        right.compare("a peer", {"c": torch.from_numpy(c[1:])})


# ---- The command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def no_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a machine that has torch and no other peer."""
    monkeypatch.setattr(quant_fixed_peers, "load", lambda module: None)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)


def quick_arguments(out: Path | None, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    quant_fixed.add_arguments(parser)
    arguments = parser.parse_args(["--quick", "--threads", "1", "--budget", "0.001", *more])
    arguments.command, arguments.out = "fixed", out
    return arguments


@pytest.mark.usefixtures("no_peers")
def test_a_run_without_peers_is_written_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.measure(quick_arguments(tmp_path / "x.json"))
    found = json.loads((tmp_path / "x.json").read_text())
    assert [r["work"].rpartition(", ")[2] for r in found["rate"]] == [*quant_fixed.FIXED, *quant_fixed.FLOATS]
    assert [r["out"] for r in found["steps"]] == [{"apytypes": "no apytypes here"}] * 3
    capsys.readouterr()
    command.report([tmp_path / "x.json"])
    printed = capsys.readouterr().out
    assert "**A quick run: its sizes are not those of the goals.**" in printed
    assert "\n| `fixed<8,4> codes, fixed<14,8,RND,SAT>` | " in printed
    assert "### `fixed<8,4> codes, small, fixed<14,8,TRN,WRAP>`, rounded at every step" in printed
    assert printed.count("≥ ") == 3  # one for each product with a goal; no peers
    assert "| apytypes | - | - | no apytypes here |" in printed


@pytest.mark.usefixtures("no_peers")
def test_a_refused_run_reports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(PRODUCTS[0], loop=lambda a, b: np.zeros((SMALL, SMALL)))
    monkeypatch.setattr(quant_fixed, "products", lambda size: iter([wrong]))
    with pytest.raises(SystemExit, match=r"differ from the loop over k\. No ratios while results differ"):
        command.measure(quick_arguments(tmp_path / "x.json", "--sections", "rate"))
    assert not (tmp_path / "x.json").exists()


def test_goals_are_those_of_the_issue() -> None:
    assert quant_fixed_table.RATE_GOALS == {"fixed<14,8,RND,SAT>": 0.2, "fixed<14,8,TRN,WRAP>": 0.3, "float32": 0.5}
    assert quant_fixed_table.GOALS == {"apytypes": {FRESH: 150.0, REUSED: 150.0}}
    records = [
        {"work": work.name, "threads": 1, "share": 0.4, "gmacs": 1, "sgemm_gmacs": 2, "ms": 1} for work in PRODUCTS
    ]
    (_, _, table) = quant_fixed_table.rates(records)
    marks = [line.split("|")[2].strip() for line in table.splitlines()[2:]]
    assert marks == ["40% (≥ 20%)", "40% (≥ 30%)", "40%", "40%", "**40%** (≥ 50%: missed)", "40%"]
