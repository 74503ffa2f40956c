"""The pages of the site: six tables of all results, and all tables of a family on a page of its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from bench.harness.figure import MACHINES, Line, Results, lines, number
from bench.harness.record import Record
from bench.harness.tables import geometric_mean, markdown_table, on_threads

#: The six tables: their titles, and the figure's rows in them
SUMMARY = {
    "Whole models": (
        "whole models, inference",
        "whole models, training",
        "whole models, one more token",
        "whole models, tokens by a Decoder",
    ),
    "Recurrent layers": (
        "LSTM layers, training",
        "GRU layers, training",
        "RNN layers, training",
        "LSTM and GRU, a step at a time",
        "recurrences with heads",
        "diagonal cells",
    ),
    "State-space models, linear attention, scans": (
        "linear scans",
        "delta rule",
        "selective scans",
        "linear attention, mLSTM",
        "short convolutions",
    ),
    "Number formats": ("number formats",),
    "Linear systems and decision processes": ("relaxation sweeps", "decision processes"),
    "Fixed points and convex problems": (
        "fixed points",
        "proximal operators",
        "Hopfield networks",
        "lasso, logistic, NNLS",
    ),
}


def row(line: Line) -> list[str]:
    mean = number(geometric_mean(line.values))
    about = [line.row.label, line.row.peer, line.machine, on_threads(line.threads) + "*" * line.is_busy]
    return [*about, str(len(line.values)), number(min(line.values)), mean, number(max(line.values))]


def summary(results: Results) -> str:
    """Return the tables of `SUMMARY`, with a row for each machine."""
    header = ["", "against", "machine", "on", "measured", "least", "mean", "most"]
    every, parts = lines(results), []
    for title, labels in SUMMARY.items():
        shown = [row(line) for line in every if line.row.label in labels]
        parts += [f"## {title}", markdown_table(header, shown)] if shown else []
    return "\n\n".join(parts) + "\n"


def pages(results: Results, markdown: Callable[[Record], str], folders: dict[str, str]) -> dict[str, str]:
    """Return the tables of all results by folder of bench/, where `folders` has that of each family."""
    found: dict[str, list[str]] = defaultdict(list)

    def order(result: tuple[str, Record]) -> tuple[bool, str]:
        """The family that the folder is named after comes first."""
        family = result[1]["family"]
        return family != folders[family], family

    for machine, record in sorted(results, key=order):
        named = {**record, "machine": {**record["machine"], "cpu": MACHINES.get(machine, record["machine"]["cpu"])}}
        found[folders[record["family"]]].append(markdown(named))
    return {folder: "\n".join(parts) for folder, parts in found.items()}
