"""The family quant's numbers as Markdown, with the goals."""

from __future__ import annotations

from collections.abc import Sequence

from bench.harness import tables
from bench.harness.contest import FRESH, REUSED, Record
from bench.harness.tables import Goals
from bench.quant.cases import BLOCKS, ELEMENTWISE, OTHERS, STOCHASTIC
from bench.quant.peers import APYTYPES, BREVITAS, COMPILED, FAKE_QUANTIZE, FXPMATH, GFLOAT, ML_DTYPES, QTORCH, TORCHAO


def code(fmt: str) -> str:
    """As Markdown code, as Markdown takes angle brackets for HTML."""
    return f"`{fmt}`"


SHARE_GOALS = {
    code(fmt): goal
    for formats, goal in ((ELEMENTWISE, 0.80), (BLOCKS, 0.60), (STOCHASTIC, 0.45), (OTHERS, 0.15))
    for fmt in formats
}
COMPILED_GOALS = {
    "fixed<8,4,RND_CONV,SAT>": 1.0,
    "fixed<8,4,STOCHASTIC,SAT>": 15.0,
    "e4m3fn": 3.0,
    "mxfp8_e4m3": 12.0,
    "mxfp4_e2m1": 12.0,
}
FAKE_QUANTIZE_GOAL, PACKAGE_GOAL = 15.0, 20.0
PACKAGES = (APYTYPES, GFLOAT, FXPMATH, QTORCH, ML_DTYPES, BREVITAS, TORCHAO)


def both(goal: float) -> dict[str, float]:
    return {FRESH: goal, REUSED: goal}


def goals(work: str, peers: set[str]) -> Goals:
    """The goals of the peers that were requested."""
    columns = {name: both(PACKAGE_GOAL) for name in PACKAGES if name in peers}
    if FAKE_QUANTIZE in peers:
        columns[FAKE_QUANTIZE] = both(FAKE_QUANTIZE_GOAL)
    if work in COMPILED_GOALS and COMPILED in peers:
        columns[COMPILED] = both(COMPILED_GOALS[work])
    return columns


def shares(records: Sequence[Record]) -> list[str]:
    copied = "The bandwidth is the best of several copies of an array of this size."
    return tables.share_markdown([{**r, "work": code(r["work"])} for r in records], SHARE_GOALS, copied)


def rounding(records: Sequence[Record]) -> list[str]:
    parts = []
    for work in dict.fromkeys(r["work"] for r in records):
        own = [{**r, "work": code(work)} for r in records if r["work"] == work]
        there = {name.partition(" (")[0] for r in own for name in (*r["peers"], *r["out"])}
        parts += tables.peers_markdown(own, goals(work, there), "rounded and back")
    return parts


def markdown(results: Record) -> str:
    return tables.document(results, {"share": shares, "rounding": rounding})
