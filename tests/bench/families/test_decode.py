"""The benchmark of the family decode: the models, the gate, and a quick run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", "5.24")

import fastiter.torch  # noqa: E402
from bench import __main__ as command  # noqa: E402
from bench import decode as bench_decode  # noqa: E402
from bench.decode import cases, gguf_files, models, never_slower, peers, products, table  # noqa: E402
from bench.harness import gate  # noqa: E402
from tests.decode import models as tiny  # noqa: E402

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def mamba() -> tuple[Any, Any]:
    """Return a small model, and tokens."""
    model = cases.build(cases.MODELS["mamba-130m"], quick=True)
    return model, torch.randint(1, 500, (2, 5), generator=torch.Generator().manual_seed(0))


def run(given: str, path: Path) -> Any:
    parser = argparse.ArgumentParser()
    bench_decode.add_arguments(parser)
    arguments = parser.parse_args(f"--quick --threads 1 --budget .001 {given}".split())
    arguments.command, arguments.out = "decode", path
    command.measure(arguments)
    return json.loads(path.read_text())


def test_a_run_is_written_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setattr(never_slower, "GOAL", 1e6)  # everything is slower
    monkeypatch.setattr(tiny, "OPTIONS", {key: tiny.OPTIONS[key] for key in [("Mamba", "")]})
    given = "--formats f32,int8,nf4 --models mamba-130m,Mamba --batches 1,2 --peers transformers"
    results = run(given, tmp_path / "x.json")
    assert [len(results[name]) for name in bench_decode.SECTIONS] == [6, 2, 2]
    assert all(r["share"] > 0 and r["cpu_ms"] > 0 for r in results["products"])
    names = [f"Decoder {fmt}" for fmt in ("f32", "int8", "nf4")]
    names += [f"{peer} {fmt}" for peer in ("transformers", "accelerate") for fmt in ("f32", "bf16")]
    for record in results["models"]:
        assert set(record["entrants"]) == {*names, "accelerate(decode) int8"} and not record["out"]
    assert capsys.readouterr().out.count("SLOWER") == 2
    command.report([tmp_path / "x.json"])
    printed = capsys.readouterr().out
    assert "### Products larger than the caches" in printed and "| nf4, 4 rows | " in printed
    assert "### mamba-130m, batch 2, 1 thread" in printed and "Mamba, batch 8, 1 thread, Decoder: " in printed


def test_entrants_compute_the_same_logits(mamba: tuple[Any, Any]) -> None:
    model, tokens = mamba
    for entrant in [*cases.by_decoder(model, tokens, "mxfp4"), *cases.by_transformers(model, tokens)]:
        for rows in (1, 2):
            assert entrant.check(cases.logits_of(entrant.start, tokens[:rows])) <= entrant.tolerance
    with pytest.raises(gate.GateError, match=f"{entrant.name}: logits are off by"):
        entrant.check(cases.logits_of(entrant.start, tokens.flip(1)))


def test_a_decoder_with_other_logits_stops_the_run_and_a_peer_is_left_out(mamba: tuple[Any, Any]) -> None:
    model, tokens = mamba
    (entrant,) = cases.by_decoder(model, tokens, "f32")
    ours, theirs = (
        cases.Entrant(name, entrant.start, -entrant.expected, 0.1, 1) for name in ("Decoder f32", "peer f32")
    )
    out: dict[str, str] = {}
    assert models.started([entrant, theirs], tokens, out).keys() == {entrant} and "peer f32" in out
    with pytest.raises(gate.GateError, match="Decoder f32"):
        models.started([ours], tokens, out)


def test_ratios_are_those_to_the_best_peer_and_to_as_many_bits() -> None:
    times = {"Decoder nf4": 2.0, "transformers f32": 12.0, "transformers bf16": 10.0, "llama.cpp int4": 4.0}
    times |= {"llama.cpp int8": 9.0}
    record = {"model": "mamba-130m", "batch": 1, "entrants": {name: {"median_ms": ms} for name, ms in times.items()}}
    found = [models.ratio(record, "Decoder nf4", peer) for peer in models.AGAINST]
    assert found == [5.0, None, 2.0]
    assert [models.goal(record, "Decoder nf4", peer) for peer in models.AGAINST] == [10, 7.5, 2.3]
    assert models.goal({**record, "batch": 4}, "Decoder nf4", cases.TRANSFORMERS) is None


def test_a_product_with_other_numbers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    packed = products.matrix("int4", 1 << 16)
    assert packed.N >= 256 and products.check(packed, np.ones((1, packed.K), np.float32)) < 1e-4
    right = packed.product
    monkeypatch.setattr(packed, "product", lambda x: right(x) * 1.001)
    with pytest.raises(gate.GateError, match="int4: y is off"):
        products.check(packed, np.ones((1, packed.K), np.float32))


@pytest.mark.parametrize("name", cases.MODELS)
def test_files_of_llama_have_the_same_weights(name: str, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    model = cases.build(cases.MODELS[name], quick=True)
    rounded = gguf_files.write(model, tmp_path / "x.gguf", "int8")
    for key, x in model.state_dict().items():
        assert rounded[key].shape == x.shape
        assert float((rounded[key] - x).abs().max()) <= float(x.abs().max()) / 127
    names = {tensor.name for tensor in gguf.GGUFReader(tmp_path / "x.gguf").tensors}
    assert len(names) == len(list(model.parameters()))


@pytest.mark.parametrize("name", cases.MODELS)
def test_llama_computes_the_same_logits(name: str) -> None:
    pytest.importorskip("llama_cpp_py_sync")
    pytest.importorskip("gguf")
    model = cases.build(cases.MODELS[name], quick=True)
    tokens = torch.randint(1, 500, (2, 5), generator=torch.Generator().manual_seed(0))
    for fmt in ("f32", "int4"):
        with torch.no_grad():
            (entrant,) = peers.by_llama(model, tokens, fmt)
        assert entrant.check(cases.logits_of(entrant.start, tokens)) < entrant.tolerance


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torchao", "ignore::UserWarning:torchao")
@pytest.mark.parametrize("name", cases.MODELS)
def test_torchao_computes_the_same_logits(name: str) -> None:
    pytest.importorskip("torchao.prototype.quantization.int4")
    model = cases.build(cases.MODELS[name], quick=True)
    tokens = torch.randint(1, 500, (2, 5), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        (entrant,) = peers.by_torchao(model, tokens, "int4")
    assert entrant.check(cases.logits_of(entrant.start, tokens)) < entrant.tolerance
    assert entrant.nbytes < cases.bytes_of(model)  # the head of a quick run has no multiple of 32 rows


def test_the_page_has_the_table_of_the_record() -> None:
    page, record = ROOT / "docs" / "decode" / "index.md", ROOT / "bench" / "results" / "epyc-zen4-2core" / "decode.json"
    text, results = page.read_text(), json.loads(record.read_text())
    assert table.page(text, results) == text
    shown = text.partition("<!-- bench decode: begin -->")[2].partition("<!-- bench decode: end -->")[0]
    entrants = next(r for r in results["models"] if (r["model"], r["threads"]) == ("mamba-130m", 2))["entrants"]
    own = entrants["Decoder int8"]
    assert f'| mamba-130m | "int8" | {own["nbytes"] / 1e6:.0f} | ' in shown
    assert f" | {1e3 / own['median_ms']:.0f} | " in shown


@pytest.mark.parametrize("name", cases.MODELS)
def test_all_weights_of_the_models_are_read_for_each_token(name: str) -> None:
    """So that the bytes of a step are the memory that the page states."""
    model = cases.build(cases.MODELS[name], quick=True)
    decoder = fastiter.torch.Decoder(model, weights="int8", trial=False)
    assert decoder.report.bytes_per_token - cases.state_bytes(decoder) == decoder.report.bytes


def test_goals_are_those_of_the_plan() -> None:
    assert models.GOALS["mamba-130m"]["int8"] == (7, 5, 2.1)
    assert models.GOALS["Qwen3.5-4B, 8 of 32 layers"]["int4"] == (6, 6, 1.3)
    assert set(models.GOALS) == set(cases.MODELS) and products.GOAL == 0.8
