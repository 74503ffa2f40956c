"""The family bcd's numbers as Markdown, with the goals."""

from __future__ import annotations

from collections.abc import Sequence

from bench.bcd.never_slower import GOAL
from bench.harness import tables
from bench.harness.contest import Record

SHARE_GOAL, STEP_GOAL = 0.5, 100.0

HEADERS = {
    "solvers": f"{'to the same objective':36}  {'solver':18}{'ms':>10}{'ours, ms':>10}{'ratio':>8}{'excess':>10}",
    "lattice": f"{'one sweep':28}{'blocks':>8}{'ms':>10}{'GB/s':>8}{'share':>8}",
    "kaczmarz": f"{'one step':28}{'us':>8}{'NumPy, us':>12}{'ratio':>8}{'of reading':>12}",
    "cutest": (
        f"{'problem':12}{'':>14}{'steps':>7}{'published':>11}{'residual':>10}{'calls':>7}{'projections':>13}{'ms':>8}"
    ),
    "never-slower": (
        f"{'fit':42}{'ms':>10}{'peer, ms':>10}{'ratio':>8}{'error':>10}{'of peer':>10}{'peak, MB':>10}{'of peer':>9}"
    ),
}


def solvers_row(r: Record) -> str:
    return (
        f"{r['work']:36}  {r['peer']:18}{r['peer_ms']:10.1f}{r['ms']:10.1f}{r['ratio']:8.2f}{r['peer_excess']:10.1e}"
        f"  load {r['load']:.1f}"
    )


def lattice_row(r: Record) -> str:
    return f"{r['work']:28}{r['blocks']:8}{r['ms']:10.3f}{r['gbs']:8.1f}{r['share']:8.0%}  load {r['load']:.1f}"


def kaczmarz_row(r: Record) -> str:
    return f"{r['work']:28}{r['us']:8.3f}{r['peer_us']:12.2f}{r['ratio']:8.1f}{r['share']:12.0%}  load {r['load']:.1f}"


def published(r: Record) -> str:
    steps = r["published"]
    if steps is None:
        return "fails"
    return "" if not steps else f"{steps[0]}" if steps[0] == steps[1] else f"{steps[0]} to {steps[1]}"


def cutest_row(r: Record) -> str:
    numbers = f"{r['residual']:10.1e}{r['calls']:7}{r['projections']:13,}{r['ms']:8.1f}"
    return f"{r['work']:12}{r['reason']:>14}{r['steps']:7}{published(r):>11}{numbers}"


def never_slower_row(r: Record) -> str:
    peaks = "" if r["peak_mb"] is None else f"{r['peak_mb']:10.1f}{r['peer_peak_mb']:9.1f}"
    mark = "" if r["is_met"] else f"  below {GOAL}"
    errors = f"{r['error']:10.1e}{r['peer_error']:10.1e}"
    return f"{r['work']:42}{r['ms']:10.3f}{r['peer_ms']:10.3f}{r['ratio']:8.2f}{errors}{peaks}{mark}"


ROWS = {
    "solvers": solvers_row,
    "lattice": lattice_row,
    "kaczmarz": kaczmarz_row,
    "cutest": cutest_row,
    "never-slower": never_slower_row,
}


def solvers_markdown(records: Sequence[Record]) -> list[str]:
    header = ["work", "peer", "times as fast", "ms (of the peer)", "excess (of the peer)"]
    rows = [
        [
            r["work"],
            r["peer"],
            tables.against(f"{r['ratio']:.1f}", f"{r['goal']:g}", r["ratio"] >= r["goal"]),
            f"{r['ms']:.1f} ({r['peer_ms']:.1f})",
            f"{r['excess']:.1e} ({r['peer_excess']:.1e})",
        ]
        for r in records
    ]
    note = "CPU time on one thread. The excess of an objective over the lowest one is relative to the objective at 0."
    return ["### To the same objective", note, tables.markdown_table(header, rows)]


def lattice_markdown(records: Sequence[Record]) -> list[str]:
    header = ["lattice", "blocks", "ms", "share of a copy"]
    rows = [
        [
            r["work"],
            str(r["blocks"]),
            f"{r['ms']:.2f}",
            tables.against(f"{r['share']:.0%}", f"{SHARE_GOAL:.0%}", r["share"] >= SHARE_GOAL),
        ]
        for r in records
    ]
    return ["### One sweep over all blocks", tables.markdown_table(header, rows)]


def kaczmarz_markdown(records: Sequence[Record]) -> list[str]:
    header = ["rows", "µs", "times as fast as a NumPy loop", "share of the time that is reading the row"]
    rows = [
        [
            r["work"],
            f"{r['us']:.3f}",
            tables.against(f"{r['ratio']:.0f}", f"{STEP_GOAL:g}", r["ratio"] >= STEP_GOAL),
            f"{r['share']:.0%}",
        ]
        for r in records
    ]
    return ["### One Kaczmarz step", tables.markdown_table(header, rows)]


def cutest_markdown(records: Sequence[Record]) -> list[str]:
    if not records:
        return []
    header = ["problem", "end", "steps", "published", "residual", "calls", "projections"]
    rows = [
        [
            *(r["work"], r["reason"], str(r["steps"]), published(r)),
            *(f"{r['residual']:.1e}", str(r["calls"]), f"{r['projections']:,}"),
        ]
        for r in records
    ]
    solved = [r for r in records if r["reason"] == "converged"]
    middle = {name: sorted(r[name] for r in solved)[len(solved) // 2] for name in ("steps", "calls") if solved}
    note = f"{len(solved)} of {len(records)} solved. Medians of these: " + ", ".join(
        f"{value} {name}" for name, value in middle.items()
    )
    return ["### Newton steps on CUTEst problems", note, tables.markdown_table(header, rows)]


def never_slower_markdown(records: Sequence[Record]) -> list[str]:
    header = ["fit", "times as fast", "ms (of the peer)", "error (of the peer)", "peak, MB (of the peer)"]
    rows = [
        [
            r["work"],
            tables.against(f"{r['ratio']:.2f}", f"{GOAL:g}", r["is_met"]),
            f"{r['ms']:.2f} ({r['peer_ms']:.2f})",
            f"{r['error']:.1e} ({r['peer_error']:.1e})",
            "" if r["peak_mb"] is None else f"{r['peak_mb']:.0f} ({r['peer_peak_mb']:.0f})",
        ]
        for r in records
    ]
    note = "CPU time on one thread, estimators as constructed; errors are duality gaps, or residuals without one."
    return ["### Never slower than scikit-learn", note, tables.markdown_table(header, rows)]


def markdown(results: Record) -> str:
    return tables.document(
        results,
        {
            "solvers": solvers_markdown,
            "lattice": lattice_markdown,
            "kaczmarz": kaczmarz_markdown,
            "cutest": cutest_markdown,
            "never-slower": never_slower_markdown,
        },
    )
