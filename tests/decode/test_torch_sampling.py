"""Sampling by programs against transformers' logits processors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", "5.24")

from tests.decode.machines import Machine  # noqa: E402
from tests.decode.test_generate import generate, table  # noqa: E402

V = 60
OPTIONS: list[dict[str, Any]] = [
    {"temperature": 0.6},
    {"top_k": 7},
    {"top_k": 200},
    {"top_p": 0.8},
    {"top_p": 1e-9},
    {"min_p": 0.2},
    {"min_p": 1.0},
    {"repetition_penalty": 1.5},
    {"temperature": 1.7, "top_k": 30, "top_p": 0.7, "min_p": 0.1, "repetition_penalty": 0.8},
]


def processed(logits: Any, seen: Any, options: dict[str, Any]) -> Any:
    """Return transformers' probabilities."""
    config = transformers.GenerationConfig(do_sample=True, **{"top_k": 0, **options})
    # all that the method uses of a model
    mixin = transformers.generation.GenerationMixin
    host = type("Host", (mixin,), {"device": torch.device("cpu"), "config": transformers.PretrainedConfig()})()
    mixin._prepare_special_tokens(host, config, device=torch.device("cpu"))
    processors = mixin._get_logits_processor(
        host, config, input_ids_seq_length=seen.shape[1], logits_processor=transformers.LogitsProcessorList()
    )
    return processors(torch.tensor(seen), torch.tensor(logits)).softmax(1).numpy()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("ties", [False, True])
def test_the_same_tokens_with_the_same_probabilities(options: dict[str, Any], ties: bool) -> None:
    rng = np.random.default_rng(0)
    logits = 2 * rng.standard_normal((V, V))
    if ties and "top_p" not in options:  # of equal tokens at its limit, top_p keeps as many as it needs
        logits = np.round(2 * logits) / 2
    machine, rows = Machine(*table(logits), "float64", 8), np.arange(8)
    seen = rng.integers(0, V, (8, 5))
    sums = processed(logits[rows], np.hstack([seen, rows[:, None]]), options).cumsum(1)
    kept = 0
    for u in (np.arange(300) + 0.5) / 300:
        out, _ = generate(machine, rows, 1, uniform=np.full((8, 1), u), seen=seen, **options)
        clear = abs(sums - u).min(1) > 1e-9
        kept += clear.sum()
        assert np.array_equal(out[clear, 0], (sums <= u).sum(1)[clear]), u
    assert kept > 2000
