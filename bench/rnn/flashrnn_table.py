"""The numbers of flashrnn as Markdown, with the goals."""

from __future__ import annotations

from collections.abc import Sequence

from bench.harness import tables
from bench.harness.contest import REUSED, Record
from bench.rnn.flashrnn_cases import LONG
from bench.rnn.flashrnn_peers import MANUAL, peer_name

# By function and D: against the faster backend, and against vanilla if that is another one
FASTER = {
    ("lstm", 64): 6.0,
    ("gru", 64): 7.0,
    ("elman", 64): 9.0,
    ("slstm", 64): 6.0,
    ("lstm", 128): 6.0,
    ("gru", 128): 4.0,
    ("elman", 128): 5.0,
    ("slstm", 128): 6.0,
}
VANILLA = {("slstm", 64): 18.0, ("slstm", 128): 50.0}
LONG_GOALS = {peer_name("vanilla"): {REUSED: 500.0}, peer_name("vanilla_fwbw"): {REUSED: 10.0}}
FLOOR_GOAL = 0.8


def goals_of(work: str) -> tables.Goals:
    """The goals of a task by its name; if a function has a backend besides vanilla, vanilla is the slower one."""
    function, *words = work.split()
    width = int(words[-1])
    faster = FASTER.get((function, width))
    if faster is None:
        return {}
    if function not in MANUAL:
        return {peer_name("vanilla"): {REUSED: faster}}
    vanilla = VANILLA.get((function, width), faster)
    return {peer_name("vanilla"): {REUSED: vanilla}, peer_name("vanilla_fwbw"): {REUSED: faster}}


def peers_markdown(records: Sequence[Record]) -> list[str]:
    parts = []
    for work in dict.fromkeys(r["work"] for r in records):
        parts += tables.peers_markdown([r for r in records if r["work"] == work], goals_of(work))
    return parts


def long_markdown(records: Sequence[Record]) -> list[str]:
    full = records[0]["work"].startswith(str(LONG))
    return tables.peers_markdown(records, LONG_GOALS if full else {}, "gradients alone")


def floor_markdown(records: Sequence[Record]) -> list[str]:
    columns: dict[str, tables.Entry] = {
        "share": lambda r: tables.against(f"{r['share']:.0%}", f"{FLOOR_GOAL:.0%}", r["share"] >= FLOOR_GOAL),
        "ms": lambda r: f"{r['ms']:.2f}",
        "floor, ms": lambda r: f"{r['floor_ms']:.2f}",
        "GF/s": lambda r: f"{r['sgemm_gflops']:.0f}",
    }
    title = "### Forward+backward: share of the floor, the products with R at the machine's best rate"
    if all("functions_ms" in r for r in records):
        columns |= {
            "with functions": lambda r: f"{r['share_with_functions']:.0%}",
            "functions, ms": lambda r: f"{r['functions_ms']:.2f}",
            "and memory": lambda r: f"{r['share_of_all']:.0%}",
            "memory, ms": lambda r: f"{r['memory_ms']:.2f}",
            "GB/s": lambda r: f"{r['copy_gbytes']:.1f}",
        }
        title += "; with the cells' functions in a core's own cache; and memory, read and written at the rate of a copy"
    return [title, tables.pivot(records, columns)]


def markdown(results: Record) -> str:
    return tables.document(results, {"peers": peers_markdown, "long": long_markdown, "floor": floor_markdown})
