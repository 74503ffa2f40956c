"""The family fixed's numbers as Markdown, with the goals."""

from __future__ import annotations

from collections.abc import Sequence

from bench.harness import tables
from bench.harness.contest import FRESH, REUSED, Record
from bench.harness.tables import Entry
from bench.quant.fixed_peers import APYTYPES

#: By accumulator
RATE_GOALS = {"fixed<14,8,RND,SAT>": 0.20, "fixed<14,8,TRN,WRAP>": 0.30, "float32": 0.50}
GOALS = {APYTYPES: {FRESH: 150.0, REUSED: 150.0}}


def code(work: str) -> str:
    """As Markdown code, as Markdown takes angle brackets for HTML."""
    return f"`{work}`"


def rates(records: Sequence[Record]) -> list[str]:
    def share(r: Record) -> str:
        goal = RATE_GOALS.get(r["work"].strip("`").rpartition(", ")[2])
        value = f"{r['share']:.0%}"
        return value if goal is None else tables.against(value, f"{goal:.0%}", r["share"] >= goal)

    columns: dict[str, Entry] = {
        "share of torch.mm": share,
        "10^9 multiply-adds / s of": lambda r: f"{r['gmacs']:.1f} of {r['sgemm_gmacs']:.1f}",
        "ms": lambda r: f"{r['ms']:.3f}",
    }
    table = tables.pivot([{**r, "work": code(r["work"])} for r in records], columns)
    note = "Inputs are codes, or numbers first rounded to e4m3fn; the accumulator is rounded after every addition."
    return ["### Multiply-adds per second, beside an ordinary product in float32", note, table]


def steps(records: Sequence[Record]) -> list[str]:
    parts = []
    for work in dict.fromkeys(r["work"] for r in records):
        own = [{**r, "work": code(work)} for r in records if r["work"] == work]
        parts += tables.peers_markdown(own, GOALS if "codes" in work else {}, "rounded at every step")
    return parts


def markdown(results: Record) -> str:
    return tables.document(results, {"rate": rates, "steps": steps})
