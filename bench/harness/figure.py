"""One figure of all results: the speedup of each family over its peers, with the range over what was measured.

It is written as text rather than by a plotting library: the same records give the same bytes, which a test compares,
and its style sheet follows the reader's light or dark mode.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple
from xml.sax.saxutils import escape

from bench.harness.record import BOTH, REUSED, Record
from bench.harness.tables import BUSY, geometric_mean

Results = Sequence[tuple[str, Record]]  # the folder of a machine, and a file of it
Measure = Callable[[Sequence[Record]], list[float]]

#: Names of the machines, by folder of bench/results
MACHINES = {"epyc-zen4-2core": "Zen 4", "epyc-zen5-2core": "Zen 5", "xeon-amx-2core": "Xeon"}
THREADS = 2


class Row(NamedTuple):
    """A section of a family, and how the ratios of the figure follow from its records."""

    label: str
    peer: str
    family: str
    section: str
    measure: Measure


class Line(NamedTuple):
    """The ratios of a row on a machine."""

    row: Row
    machine: str
    threads: int
    is_busy: bool
    values: list[float]

    def about(self) -> str:
        one = f", {self.threads} thread" if self.threads == 1 else ""
        return f"{self.machine}{one}, n {len(self.values)}{'*' if self.is_busy else ''}"


def read(files: Sequence[Path] = ()) -> Results:
    """Return the results in these files, or in all of bench/results."""
    chosen = files or sorted((Path(__file__).parents[1] / "results").glob("*/*.json"))
    return [(file.parent.name, json.loads(file.read_text())) for file in chosen]


# ---- From records to ratios -----------------------------------------------------------------------------------------


def ratio_of(record: Record) -> float | None:
    """Return the time of the fastest peer over ours; None if there was no peer."""
    if isinstance(record.get("peers"), dict):
        ratios = [peer["ratio"][REUSED] for peer in record["peers"].values() if "ratio" in peer]
        return min(ratios, default=None)
    if "before_ms" in record:
        return float(record["before_ms"] / record["after_ms"])
    return record.get("ratio")


def each(records: Iterable[Record]) -> list[float]:
    return [ratio for ratio in map(ratio_of, records) if ratio is not None]


def where(**chosen: str) -> Measure:
    return lambda records: each(r for r in records if all(r[name] == value for name, value in chosen.items()))


def fastest(records: Sequence[Record]) -> list[float]:
    """For records of one peer each: the fastest peer of each task."""
    by_work: dict[str, list[float]] = defaultdict(list)
    for record in records:
        by_work[record["work"]] += each([record])
    return [min(ratios) for ratios in by_work.values()]


def now(records: Sequence[Record]) -> list[float]:
    """As `fastest`, without peers whose time was recorded earlier on another machine."""
    return fastest([record for record in records if not record["peer"].startswith("recorded")])


def models(mode: str = "") -> Measure:
    """For whole models, named by class and width: the geometric mean over the sizes of each class."""

    def measure(records: Sequence[Record]) -> list[float]:
        by_model: dict[str, list[float]] = defaultdict(list)
        for record in records:
            name = re.match(r"(\w+) \d+(, T .*|, after .*|$)", record["work"])
            if name and record.get("mode", mode) == mode:
                by_model[name[1]] += each([record])
        return [geometric_mean(ratios) for ratios in by_model.values() if ratios]

    return measure


def tokens(records: Sequence[Record]) -> list[float]:
    """A token of a Decoder with float32 weights, against transformers in float32."""
    entrants = [record["entrants"] for record in records]
    return [e["transformers f32"]["ms"] / e["Decoder f32"]["ms"] for e in entrants if "transformers f32" in e]


def quantecon(records: Sequence[Record]) -> list[float]:
    """The automatic method against the fastest of QuantEcon's, where one of them ended in time."""
    theirs = [[ms for name, ms in r["all_ms"].items() if name.startswith("QuantEcon")] for r in records]
    return [min(times) / r["ms"] for times, r in zip(theirs, records, strict=True) if times]


def solvers(records: Sequence[Record]) -> list[float]:
    """The fastest of the peers' solvers over the fastest of ours, for each task."""
    best: dict[str, dict[bool, float]] = defaultdict(lambda: {True: math.inf, False: math.inf})
    for record in records:
        times = best[record["work"]]
        times[record["ours"]] = min(times[record["ours"]], record["ms"])
    return [times[False] / times[True] for times in best.values()]


WHOLE = (
    Row("whole models, inference", "transformers", "accelerate", "forward", models()),
    Row("whole models, inference", "transformers", "accelerate", "never-slower", models("forward")),
    Row("whole models, training", "transformers", "accelerate", "training", models()),
    Row("whole models, training", "transformers", "accelerate", "never-slower", models("training")),
)
ROWS = (
    *WHOLE,
    Row("whole models, one more token", "transformers", "accelerate", "decode", models()),
    Row("whole models, one more token", "transformers", "accelerate", "never-slower", models("step")),
    Row("whole models, tokens by a Decoder", "transformers", "decode", "models", tokens),
    Row("LSTM layers, training", "torch.nn", "rnn", "grid", where(cell="lstm", mode=BOTH)),
    Row("GRU layers, training", "torch.nn", "rnn", "grid", where(cell="gru", mode=BOTH)),
    Row("RNN layers, training", "torch.nn", "rnn", "grid", where(cell="elman", mode=BOTH)),
    Row("LSTM and GRU, a step at a time", "torch.nn", "rnn", "streaming", each),
    Row("recurrences with heads", "flashrnn", "flashrnn", "peers", each),
    Row("linear scans", "mambapy, torch, jax", "scan", "peers", each),
    Row("delta rule", "torch, in chunks", "delta", "peers", each),
    Row("diagonal cells", "pararnn", "newton", "peers", each),
    Row("selective scans", "transformers, mambapy", "ssm", "inference", each),
    Row("linear attention, mLSTM", "fla, mlstm_kernels", "attention", "inference", each),
    Row("short convolutions", "transformers", "conv", "inference", each),
    Row("number formats", "torch, torchao, others", "quant", "rounding", each),
    Row("relaxation sweeps", "PyAMG, SciPy", "relax", "sweeps", fastest),
    Row("decision processes", "QuantEcon, mdpsolver", "mdp", "solvers", fastest),
    Row("decision processes", "QuantEcon, mdpsolver", "mdp", "never-slower", quantecon),
    Row("fixed points", "torchdeq, jaxopt", "fixedpoint", "solvers", solvers),
    Row("proximal operators", "NumPy, SciPy", "fixedpoint", "prox", now),
    Row("Hopfield networks", "torch", "hopfield", "updates", each),
    Row("lasso, logistic, NNLS", "scikit-learn, SciPy", "bcd", "solvers", fastest),
    Row("lasso, logistic, NNLS", "scikit-learn, SciPy", "bcd", "never-slower", each),
)


def line(row: Row, machine: str, files: Sequence[Record]) -> Line:
    """Return the ratios on two threads; on one thread if nothing was measured on two."""
    sections = [(record, file["machine"]["load"] >= BUSY) for file in files for record in file[row.section]]
    on_two = [(record, busy) for record, busy in sections if record.get("threads") == THREADS]
    chosen = on_two or sections
    is_busy = bool(on_two) and any(busy for _, busy in on_two)
    values = row.measure([record for record, _ in chosen])
    return Line(row, MACHINES.get(machine, machine), THREADS if on_two else 1, is_busy, values)


def lines(results: Results, rows: Sequence[Row] = ROWS) -> list[Line]:
    """Return a line for each row and machine with records, rows with the same label side by side."""
    found = []
    for row in rows:
        for machine in sorted({machine for machine, _ in results}):
            files = [r for place, r in results if place == machine and r["family"] == row.family and row.section in r]
            one = line(row, machine, files)
            found += [one] if one.values else []
    labels = [row.label for row in rows]
    return sorted(found, key=lambda each: (labels.index(each.row.label), each.machine))


def headline(results: Results) -> dict[str, str]:
    """Return the numbers of README's first sentence: the least, the middle and the largest gain of whole models."""
    gains = [value for each in lines(results, WHOLE) for value in each.values]
    return {"least": number(min(gains)), "median": number(median(gains)), "most": number(max(gains))}


# ---- From ratios to a drawing ---------------------------------------------------------------------------------------


def number(value: float) -> str:
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328; }
.about { fill: #59636e; font-size: 11px; }
.back { fill: #ffffff; }
.grid { stroke: #d1d9e0; }
.one { stroke: #1f2328; }
.m0 { stroke: #c2570c; fill: #c2570c; }
.m1 { stroke: #2671c4; fill: #2671c4; }
.m2 { stroke: #2b8a3e; fill: #2b8a3e; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .about { fill: #9198a1; }
  .back { fill: #0d1117; }
  .grid { stroke: #3d444d; }
  .one { stroke: #e6edf3; }
  .m0 { stroke: #f0883e; fill: #f0883e; }
  .m1 { stroke: #58a6ff; fill: #58a6ff; }
  .m2 { stroke: #56c271; fill: #56c271; }
}
"""
CAPTION = (
    f"Times as fast as the fastest peer (in parentheses), {THREADS} threads. Line: least to most; dot: geometric mean.",
    "n: sizes measured; of whole models: models, each the mean of its sizes. *: the machine was busy at the start. "
    "Zen 4 and 5: AMD EPYC; Xeon: Intel.",
)
WIDTH, TOP, STEP, GAP = 840, 52, 15, 5
LEFT, RIGHT = 424, 708  # the ends of the axis
TICKS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)


def text(x: float, y: float, content: str, anchor: str = "start", kind: str = "") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(content)}</text>'


def stroke(x1: float, y1: float, x2: float, y2: float, kind: str, width: float) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} class="{kind}" stroke-width="{width:g}"/>'


def axis(shown: Sequence[Line]) -> Callable[[float], float]:
    """Return the place of a ratio on a logarithmic axis that holds all of them."""
    every = [value for each in shown for value in each.values]
    start, end = math.log(min(*every, TICKS[0])), math.log(max(*every, TICKS[0] + 1))
    return lambda ratio: LEFT + (RIGHT - LEFT) * (math.log(ratio) - start) / (end - start)


def drawn(one: Line, y: float, colour: str, place: Callable[[float], float]) -> list[str]:
    low, mean, high = min(one.values), geometric_mean(one.values), max(one.values)
    span = f"  ({number(low)} to {number(high)})" if len(one.values) > 1 else ""
    return [
        text(LEFT - 12, y + 4, one.about(), "end", "about"),
        stroke(place(low), y, place(high), y, colour, 2),
        f'<circle cx="{place(mean):.1f}" cy="{y:.1f}" r="3.5" class="{colour}"/>',
        text(RIGHT + 10, y + 4, number(mean) + span),
    ]


def svg(results: Results) -> str:
    """Return the figure: a line for each row and machine, on a logarithmic axis."""
    shown = lines(results)
    place, machines = axis(shown), sorted({one.machine for one in shown})
    parts, y, label = [], float(TOP), ""
    for one in shown:
        if one.row.label != label:
            label, y = one.row.label, y + GAP
            parts.append(text(12, y + STEP + 4, f"{label} ({one.row.peer})"))
        y += STEP
        parts += drawn(one, y, f"m{machines.index(one.machine) % 3}", place)
    bottom = y + STEP
    height = bottom + 26
    ticks = [tick for tick in TICKS if place(tick) <= RIGHT]
    grid = [stroke(place(t), TOP, place(t), bottom, "one" if t == 1 else "grid", 1) for t in ticks]
    grid += [text(place(t), bottom + 15, f"{t:g}", "middle", "about") for t in ticks]
    title = "Speedup over the peer library, by family and machine"
    start = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img">'
    back = f'<rect width="{WIDTH}" height="{height:g}" rx="6" class="back"/>'
    captions = [text(12, 20 + 18 * i, caption, kind="about" if i else "") for i, caption in enumerate(CAPTION)]
    body = [f"<title>{title}</title>", f"<style>{STYLE}</style>", back, *captions, *grid, *parts]
    return "\n".join([start, *body, "</svg>\n"])


def draw(results: Results, path: Path) -> None:
    path.write_text(svg(results))
