"""The family fixedpoint's numbers as Markdown, with the goals."""

from __future__ import annotations

from collections.abc import Sequence

from bench.fixedpoint import prox, small
from bench.harness import tables
from bench.harness.contest import Record

#: Speedup over the fastest solver of each library
GOALS = {"torchdeq": 3.0, "jaxopt": 1.0, "scipy": 5.0}
OVERHEAD_GOAL = 40.0

HEADERS = {
    "solvers": f"{'to the residual':36}{'threads':>8}  {'solver':28}{'ms':>10}{'calls':>7}{'residual':>10}",
    "large": f"{'one system':36}{'threads':>8}  {'peer':20}{'ms':>10}{'ours, ms':>10}{'ratio':>8}{'calls':>12}",
    "small": small.HEADER,
    "overhead": f"{'a step beyond f':36}{'us':>8}",
    "prox": prox.HEADER,
}


def solvers_row(r: Record) -> str:
    return (
        f"{r['work']:36}{r['threads']:8}  {r['solver']:28}{r['ms']:10.3f}{r['evaluations']:7}{r['residual']:10.1e}"
        f"  load {r['load']:.1f}"
    )


def large_row(r: Record) -> str:
    calls = f"{r['peer_evaluations']} / {r['evaluations']}"
    return (
        f"{r['work']:36}{r['threads']:8}  {r['peer']:20}{r['peer_ms']:10.1f}{r['ms']:10.1f}{r['ratio']:8.1f}{calls:>12}"
        f"  load {r['load']:.1f}"
    )


def overhead_row(r: Record) -> str:
    return f"{r['work']:36}{r['us']:8.1f}  load {r['load']:.1f}"


ROWS = {"solvers": solvers_row, "large": large_row, "small": small.row, "overhead": overhead_row, "prox": prox.row}


def solvers_markdown(records: Sequence[Record]) -> list[str]:
    groups = dict.fromkeys((r["work"], r["threads"]) for r in records)
    rows = []
    for work, threads in groups:
        some = [r for r in records if (r["work"], r["threads"]) == (work, threads)]
        best = min((r for r in some if r["ours"]), key=lambda r: r["ms"])
        fewest = min(r["evaluations"] for r in some if r["ours"])
        row = [work, tables.on_threads(threads), f"{best['ms']:.2f} ({best['solver']}, {fewest} calls)"]
        for library, goal in GOALS.items():
            theirs = [r for r in some if r["solver"].startswith(library)]
            if not theirs:
                row.append("")
                continue
            peer = min(theirs, key=lambda r: r["ms"])
            ratio = peer["ms"] / best["ms"]
            shown = tables.against(f"{ratio:.1f}", f"{goal:g}", ratio >= goal)
            row.append(f"{shown}, {min(r['evaluations'] for r in theirs)} calls")
        rows.append(row)
    header = ["work", "", "ours, ms (the fastest method, fewest calls of f)", *(f"{name}: ratio" for name in GOALS)]
    note = "The fastest method of each library, to the same residual; the fewest calls of f over all of its methods."
    return ["### z = tanh(z M + x)", note, tables.markdown_table(header, rows)]


def large_markdown(records: Sequence[Record]) -> list[str]:
    goal = GOALS["scipy"]
    rows = [
        [
            r["work"],
            tables.on_threads(r["threads"]),
            tables.against(f"{r['ratio']:.1f}", f"{goal:g}", r["ratio"] >= goal),
            f"{r['ms']:.1f} ({r['peer_ms']:.1f})",
            f"{r['evaluations']} ({r['peer_evaluations']})",
        ]
        for r in records
    ]
    header = ["work", "", "times as fast as SciPy", "ms (SciPy's)", "calls of f (SciPy's)"]
    return ["### One large system", tables.markdown_table(header, rows)]


def overhead_markdown(records: Sequence[Record]) -> list[str]:
    rows = []
    for r in records:
        value, has_goal = f"{r['us']:.1f}", "m=6" in r["work"]
        shown = tables.at_most(value, f"{OVERHEAD_GOAL:g}", r["us"] <= OVERHEAD_GOAL) if has_goal else value
        rows.append([r["work"], shown])
    note = "One thread, with a map that returns a stored array; the setup time of a call is included, over 200 steps."
    return ["### A step beyond f", note, tables.markdown_table(["work", "us"], rows)]


def markdown(results: Record) -> str:
    parts = {
        "solvers": solvers_markdown,
        "large": large_markdown,
        "small": small.markdown,
        "overhead": overhead_markdown,
        "prox": prox.markdown,
    }
    return tables.document(results, parts)
