"""The family mdp's numbers as Markdown, with the goals."""

from __future__ import annotations

from collections.abc import Sequence

from bench.harness import tables
from bench.harness.contest import Record

SHARE_GOAL, SLOWER_GOAL = 0.7, 1.5
OCCUPANCY_GOAL = 2.5  # sweeps, forward and backward together

HEADERS = {
    "sweeps": f"{'one sweep':34}{'threads':>8}{'ms':>10}{'ns/entry':>10}{'GB/s':>8}{'share':>8}",
    "never-slower": f"{'the automatic method':42}  {'ended with':12}{'ms':>10}  {'best':16}{'ms':>10}{'ratio':>8}",
    "afterstates": f"{'pairs that share rows':34}{'threads':>8}{'pairs/row':>10}{'ms':>10}{'faster':>8}{'smaller':>8}",
    "occupancy": f"{'a step, in sweeps':34}{'threads':>8}{'sweep, ms':>10}{'forward':>8}{'both':>8}{'with P':>8}",
    "solvers": f"{'to the tolerance':34}  {'solver':22}{'ms':>10}{'ours, ms':>10}{'ratio':>8}{'error':>10}",
}


def sweeps_row(r: Record) -> str:
    return (
        f"{r['work']:34}{r['threads']:8}{r['ms']:10.3f}{r['ns_per_entry']:10.2f}{r['gbs']:8.1f}{r['share']:8.0%}"
        f"  load {r['load']:.1f}"
    )


def solvers_row(r: Record) -> str:
    return (
        f"{r['work']:34}  {r['peer']:22}{r['peer_ms']:10.2f}{r['ms']:10.2f}{r['ratio']:8.1f}{r['peer_error']:10.1e}"
        f"  load {r['load']:.1f}"
    )


def never_slower_row(r: Record) -> str:
    capped = f"  capped: {' '.join(r['capped'])}" if r["capped"] else ""
    return (
        f"{r['work']:42}  {r['method']:12}{r['ms']:10.2f}  {r['best']:16}{r['best_ms']:10.2f}{r['ratio']:8.2f}"
        f"  load {r['load']:.1f}{capped}"
    )


def afterstates_row(r: Record) -> str:
    return (
        f"{r['work']:34}{r['threads']:8}{r['pairs_per_row']:10.2f}{r['ms']:10.3f}{r['faster']:8.2f}{r['smaller']:8.2f}"
        f"  load {r['load']:.1f}"
    )


def occupancy_row(r: Record) -> str:
    return (
        f"{r['work']:34}{r['threads']:8}{r['sweep_ms']:10.3f}{r['forward']:8.2f}{r['both']:8.2f}{r['with_P']:8.2f}"
        f"  load {r['load']:.1f}"
    )


ROWS = {
    "sweeps": sweeps_row,
    "solvers": solvers_row,
    "afterstates": afterstates_row,
    "occupancy": occupancy_row,
    "never-slower": never_slower_row,
}


def sweeps_markdown(records: Sequence[Record]) -> list[str]:
    columns: dict[str, tables.Entry] = {
        "ms": lambda r: f"{r['ms']:.3f}",
        "ns an entry": lambda r: f"{r['ns_per_entry']:.2f}",
        "share of a copy": lambda r: tables.against(f"{r['share']:.0%}", f"{SHARE_GOAL:.0%}", r["share"] >= SHARE_GOAL),
    }
    note = "The share counts each array once, against a copy of the same number of bytes, in cache if they fit."
    return ["### One sweep over all states", note, tables.pivot(records, columns)]


def solvers_markdown(records: Sequence[Record]) -> list[str]:
    def ratio(r: Record) -> str:
        value = f"{r['ratio']:.1f}"
        return value if r["goal"] is None else tables.against(value, f"{r['goal']:g}", r["ratio"] >= r["goal"])

    header = ["work", "peer", "times as fast", "ms (of the peer)", "error (of the peer)"]
    rows = [
        [
            r["work"],
            r["peer"],
            ratio(r),
            f"{r['ms']:.2f} ({r['peer_ms']:.2f})",
            f"{r['error']:.1e} ({r['peer_error']:.1e})",
        ]
        for r in records
    ]
    note = (
        "One thread; each solve is on a fresh model, whose construction is not timed. Errors are against exact values."
    )
    return ["### To the same tolerance", note, tables.markdown_table(header, rows)]


def never_slower_markdown(records: Sequence[Record]) -> list[str]:
    header = ["shape", "ended with", "ms", "best of all", "ms", "ratio"]
    rows = [
        [
            r["work"],
            r["method"],
            f"{r['ms']:.2f}",
            r["best"],
            f"{r['best_ms']:.2f}",
            tables.at_most(f"{r['ratio']:.2f}", f"{SLOWER_GOAL:g}", r["ratio"] <= SLOWER_GOAL),
        ]
        for r in records
    ]
    note = "One thread. The best is of all single methods and QuantEcon's; slow ones are capped and left out."
    return ["### The automatic method against the best one", note, tables.markdown_table(header, rows)]


def afterstates_markdown(records: Sequence[Record]) -> list[str]:
    columns: dict[str, tables.Entry] = {
        "pairs / rows": lambda r: f"{r['pairs_per_row']:.2f}",
        "times as fast": lambda r: f"{r['faster']:.2f}",
        "times as small": lambda r: f"{r['smaller']:.2f}",
    }
    note = "A sweep, and the arrays of the process, against those of the same process with a row for each pair."
    return ["### Pairs that share rows", note, tables.pivot(records, columns)]


def occupancy_markdown(records: Sequence[Record]) -> list[str]:
    def goal(name: str) -> tables.Entry:
        return lambda r: tables.at_most(f"{r[name]:.2f}", f"{OCCUPANCY_GOAL:g}", r[name] <= OCCUPANCY_GOAL)

    columns = {"forward": lambda r: f"{r['forward']:.2f}", "and backward": goal("both"), "and for P": goal("with_P")}
    note = "A step of a horizon, in sweeps of the same process."
    return ["### Occupancies", note, tables.pivot(records, columns)]


def markdown(results: Record) -> str:
    sections = {"sweeps": sweeps_markdown, "solvers": solvers_markdown, "afterstates": afterstates_markdown}
    sections |= {"occupancy": occupancy_markdown, "never-slower": never_slower_markdown}
    return tables.document(results, sections)
