"""The benchmark of the family accelerate: the tasks, the gate, and a quick run."""

from __future__ import annotations

import argparse
import copy
import json
from importlib.util import find_spec
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from bench import __main__ as command  # noqa: E402
from bench import accelerate as bench_accelerate  # noqa: E402
from bench.accelerate import episodes, kinds, models, never_slower, table  # noqa: E402
from bench.harness import contest, gate  # noqa: E402

SMALL = models.Size(32, 12)


TASKS = [
    *(("sequence", name) for name in bench_accelerate.MODELS),
    *(("training", name) for name in bench_accelerate.TRAINED),
]


@pytest.mark.parametrize(("task", "name"), TASKS)
def test_ours_and_all_peers_compute_the_same(task: str, name: str) -> None:
    work = getattr(models, task)(name, SMALL)
    assert work.check() < 1e-4
    reasons = [
        contest.reason_against(peer, work) for peer in models.peers_of(work) if isinstance(peer, contest.Entrant)
    ]
    assert reasons == [None] * len(reasons) and reasons


@pytest.mark.parametrize("name", episodes.QUICK)
def test_lstms_on_episodes_compute_the_same(name: str) -> None:
    package = episodes.PACKAGES[name]
    pytest.importorskip(package)
    work, theirs = episodes.work_of(name, episodes.QUICK[name])
    assert work.check() < 1e-4
    assert contest.reason_against(contest.torch_entrant(package, theirs, work), work) is None


@pytest.mark.parametrize("name", bench_accelerate.DECODED)
def test_decoding_continues_from_the_cache(name: str) -> None:
    work = models.decoding(name, SMALL)
    assert work.check() < 1e-4
    first, second = (work.forms()[contest.REUSED] for _ in range(2))
    logits = [step().logits for step in (first, first, second)]
    assert torch.equal(logits[0], logits[2]) and not torch.equal(logits[0], logits[1])


def test_a_model_with_other_results_is_refused() -> None:
    work = models.sequence("Mamba", SMALL)
    other = copy.deepcopy(work.after)
    with torch.no_grad():
        other.backbone.layers[0].mixer.D.mul_(1.01)
    with pytest.raises(gate.GateError, match="Mamba 32, T 12: logits is off"):
        work.compare(work.name, work.results(other, work.tokens))


def test_a_run_is_written_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A few models: all of them are in the tests above."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    for name in ("MODELS", "TRAINED", "DECODED"):
        monkeypatch.setattr(bench_accelerate, name, ("Mamba", "Qwen3Next"))
    parser = argparse.ArgumentParser()
    bench_accelerate.add_arguments(parser)
    arguments = parser.parse_args(["--quick", "--budget", "0.001"])
    arguments.command, arguments.out = "accelerate", tmp_path / "x.json"
    command.measure(arguments)
    results = json.loads((tmp_path / "x.json").read_text())
    installed = sum(find_spec(package) is not None for package in episodes.PACKAGES.values())
    assert [len(results[name]) for name in bench_accelerate.USUAL] == [2, 2, 2, 4, installed]
    assert bench_accelerate.NEVER_SLOWER not in results  # it takes minutes, and runs only on request
    assert all(models.TRANSFORMERS in record["peers"] for record in results["training"])
    capsys.readouterr()
    command.report([tmp_path / "x.json"])
    printed = capsys.readouterr().out
    assert "### Mamba 32, T 24, training: times as fast as its peers" in printed
    assert printed.count(f"\n| {models.TRANSFORMERS} | ") == 2 + 2 + 2 + 4


def test_what_is_slower_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setattr(never_slower, "GOAL", 1e6)  # everything is slower
    parser = argparse.ArgumentParser()
    bench_accelerate.add_arguments(parser)
    given = "--sections never-slower --kinds RNN,Rwkv --batches 1,2 --lengths 1,3 --budget .001"
    arguments = parser.parse_args(given.split())
    arguments.command, arguments.out = "accelerate", tmp_path / "x.json"
    command.measure(arguments)
    records = json.loads((tmp_path / "x.json").read_text())["never-slower"]
    chosen = ["RNN 32-64", "RNN relu 32-64", "Rwkv 32", "Rwkv 128"]
    assert list(dict.fromkeys(r["work"] for r in records)) == chosen
    assert [r["mode"] for r in records if r["work"] == "Rwkv 32"] == 4 * ["forward"] + 4 * ["training"] + 2 * ["step"]
    assert capsys.readouterr().out.count("SLOWER") == len(records) == 2 * 8 + 2 * 10
    command.report([tmp_path / "x.json"])
    printed = capsys.readouterr().out
    assert "### Never slower: before / after" in printed and "RNN 32-64, training, B 2, T 3, 1 thread: " in printed


def test_every_rule_has_a_kind() -> None:
    """All models of the tests, layers of torch.nn, and the other packages whose originals run on CPUs."""
    from tests.accelerate.models import OPTIONS

    names = [kind.name for kind in kinds.every()]
    assert len(names) == len(set(names)) and {f"{name} 32" for name in OPTIONS} < set(names)
    assert {"LSTM 32-64", "GRU 64-64", "Linear, products", "older MambaMixer"} < set(names)


def test_an_accelerated_model_with_other_results_is_refused() -> None:
    kind = next(kind for kind in kinds.every() if kind.name == "GRU 64-64")
    before, after = kind.make(), kind.make()
    place = never_slower.Place("forward", 2, 3, 1)
    never_slower.check(kind, before, after, place)
    with torch.no_grad():
        after.weight_hh_l0.mul_(1.001)
    with pytest.raises(gate.GateError, match="GRU 64-64, B 2, T 3: the output differs"):
        never_slower.check(kind, before, after, place)


def test_goals_are_those_of_the_plan() -> None:
    assert table.GOALS["training"]["Mamba"] == {models.TRANSFORMERS: 100.0, models.MAMBAPY: 7.0}
    assert table.GOALS["forward"]["Mamba"] == {models.TRANSFORMERS: 9.0}
    assert [(size.width, size.time) for size in models.FULL] == [(256, 512), (256, 2048)]
