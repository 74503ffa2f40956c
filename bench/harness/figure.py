"""One figure of all results: the speedup of each family over its peers, with the range over the sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.harness.contest import BOTH, REUSED, Record

Select = Callable[[Record], bool]


class Bar(NamedTuple):
    """The records that a bar summarises: those that `select` accepts in a section of a family."""

    label: str
    peer: str
    family: str
    section: str
    select: Select = lambda record: True


def _cell(name: str) -> Select:
    return lambda record: record["cell"] == name and record["mode"] == BOTH


BARS = (
    Bar("LSTM layers, training", "torch.nn", "rnn", "grid", _cell("lstm")),
    Bar("GRU layers, training", "torch.nn", "rnn", "grid", _cell("gru")),
    Bar("RNN layers, training", "torch.nn", "rnn", "grid", _cell("elman")),
    Bar("recurrences with heads", "flashrnn", "flashrnn", "peers"),
    Bar("linear scans", "mambapy, torch, jax", "scan", "peers"),
    Bar("delta rule", "torch, in chunks", "delta", "peers"),
    Bar("diagonal cells", "pararnn", "newton", "peers"),
    Bar("linear attention, mLSTM, RWKV", "fla, mlstm_kernels", "attention", "inference"),
    Bar("short convolutions", "transformers", "conv", "peers"),
    Bar("whole models, inference", "transformers", "accelerate", "forward"),
    Bar("whole models, training", "transformers", "accelerate", "training"),
    Bar("rounding to number formats", "torch, ml_dtypes, others", "quant", "rounding"),
    Bar("relaxation sweeps", "PyAMG", "relax", "sweeps"),
)


def ratio_of(record: Record) -> float | None:
    """Return the time of the fastest peer over ours; None if there was no peer."""
    if "peers" in record:
        ratios = [peer["ratio"][REUSED] for peer in record["peers"].values() if "ratio" in peer]
        return min(ratios, default=None)
    return record.get("ratio")


def ratios(bar: Bar, results: Iterable[Record]) -> list[float]:
    """Return the ratios of a bar; if a family has several results, the last one counts."""
    own = [result for result in results if result["family"] == bar.family and bar.section in result]
    chosen = [record for record in own[-1][bar.section] if bar.select(record)] if own else []
    return [ratio for ratio in map(ratio_of, chosen) if ratio is not None]


def draw(results: Sequence[Record], path: Path) -> None:
    """Draw geometric means as bars and ranges as lines, on a logarithmic axis."""
    from matplotlib.figure import Figure

    bars = [(bar, ratios(bar, results)) for bar in BARS]
    bars = [(bar, values) for bar, values in bars if values]
    figure = Figure(figsize=(8, 0.36 * len(bars) + 0.9), layout="constrained")
    axes: Any = figure.subplots()
    for row, (_, values) in enumerate(bars):
        mean = math.exp(sum(map(math.log, values)) / len(values))
        axes.barh(row, mean - 1, left=1, color="tab:orange", height=0.62)
        axes.plot([min(values), max(values)], [row, row], color="black", linewidth=1, marker="|", markersize=6)
        axes.annotate(f"{mean:.1f}x", (max(*values, mean), row), (6, 0), textcoords="offset points", va="center")
    axes.axvline(1, color="black", linewidth=0.8)
    labels = [f"{bar.label}\nagainst {bar.peer}" for bar, _ in bars]
    axes.set_yticks(range(len(bars)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.set(
        xscale="log", xlabel="times as fast as the peer, two CPU cores; bar: geometric mean, line: all sizes measured"
    )
    axes.set_xticks([0.5, 1, 2, 5, 10, 20, 50, 100], ["0.5", "1", "2", "5", "10", "20", "50", "100"])
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
