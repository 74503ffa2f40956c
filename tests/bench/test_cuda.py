"""The GPU benchmark at sizes that a CPU computes: every call is made and compared, and every table written."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from bench import __main__ as command  # noqa: E402
from bench import cuda  # noqa: E402
from bench.cuda import figure, table  # noqa: E402
from bench.harness import gate  # noqa: E402


def test_every_section_has_its_rows() -> None:
    results = cuda.measure(cuda.SMALL, cuda.SECTIONS)
    assert {record["work"] for record in results["memory"]} > {"copy", "linear_scan", "quantize int8"}
    assert len(results["products"]) == 1 + len(cuda.ACCUMULATORS)
    assert [(record["cell"], record["width"]) for record in results["rnn"]] == [
        (cell, width) for cell in ("lstm", "slstm") for width in cuda.SMALL.widths
    ]
    assert "torch.nn.LSTM, W x included" in results["rnn"][0]["ms"]
    assert [record["T"] for record in results["newton"]] == 2 * list(cuda.SMALL.times)
    assert figure.crossover(results).count("<polyline") == 4 + 2
    text = table.markdown({**results, "card": {"name": "a card", "cuda": "13.0"}})
    rows = sum(len(results[section]) for section in cuda.SECTIONS)
    assert text.count("\n| ") + text.count("\n|-") == rows + 2 * len(cuda.SECTIONS)


def test_wrong_results_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "loop", lambda wx, a: torch.zeros_like(wx[:, :, 0]))
    with pytest.raises(gate.GateError, match="loop: y is off"):
        cuda.measure(replace(cuda.SMALL, times=(3,)), ("newton",))


def test_a_missing_card_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setattr("sys.argv", ["bench", "--device", "cuda"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="needs a CUDA device, and torch finds none"):
        command.main()
