"""The family accelerate's numbers as Markdown, with the goals."""

from __future__ import annotations

from functools import partial

from bench.accelerate import NEVER_SLOWER, never_slower
from bench.accelerate.models import MAMBAPY, TRANSFORMERS
from bench.harness import tables
from bench.harness.contest import REUSED, Record

#: By section and the beginning of the task's name; results are in reused memory, as in a loop over batches
GOALS = {
    "forward": {
        "Mamba": {TRANSFORMERS: 9.0},
        "Mamba2": {TRANSFORMERS: 4.5},
        "RecurrentGemma": {TRANSFORMERS: 1.8},
        "Qwen3Next": {TRANSFORMERS: 2.8},
        "xLSTM": {TRANSFORMERS: 1.3},
    },
    "training": {
        "Mamba": {TRANSFORMERS: 100.0, MAMBAPY: 7.0},
        "Mamba2": {TRANSFORMERS: 4.0},
        "RecurrentGemma": {TRANSFORMERS: 3.3},
        "Qwen3Next": {TRANSFORMERS: 2.2},
    },
    "decode": {"Mamba": {TRANSFORMERS: 4.0}, "Mamba2": {TRANSFORMERS: 4.0}},
    "products": {"Qwen3Next": {TRANSFORMERS: 2.8}},
    "episodes": {"RecurrentPPO": {"sb3_contrib": 4.0}},
}


def section(name: str, records: list[Record]) -> list[str]:
    """The tables of one section: each model with its goals."""
    parts = []
    for model in dict.fromkeys(r["work"].partition(" ")[0] for r in records):
        own = [r for r in records if r["work"].startswith(f"{model} ")]
        goals = {peer: {REUSED: goal} for peer, goal in GOALS[name].get(model, {}).items()}
        parts += tables.peers_markdown(own, goals, name)
    return parts


def markdown(results: Record) -> str:
    return tables.document(
        results, {name: partial(section, name) for name in GOALS} | {NEVER_SLOWER: never_slower.markdown}
    )
