"""The family distributed's numbers as Markdown, with the goals."""

from __future__ import annotations

from collections.abc import Sequence

from bench.distributed import bad_network, poisson
from bench.harness import tables
from bench.harness.contest import Record

#: Speedup over one process on two ranks; over ranks that exchange whole arguments; rounds of a call without steps
GOAL, PEER_GOAL, ROUNDS_GOAL = 1.7, 3.0, 3

HEADERS = {
    "sequence": f"{'forward+backward, 2 ranks':42}{'way':22}{'ms':>9}{'CPU ms':>9}{'one':>9}{'CPU':>9}{'bytes':>12}"
    f"{'rounds':>7}",
    "scaling": f"{'forward+backward':32}{'ranks':>6}  {'way':20}{'ms':>9}{'model':>9}{'CPU ms':>9}{'one':>9}{'CPU':>9}",
    "empty": f"{'a call without steps':32}{'way':10}{'us':>9}{'CPU us':>9}{'all-gather':>12}{'rounds':>8}",
    "messages": f"{'a message':32}{'us':>9}{'line':>9}{'off':>7}",
    "model": f"{'a model, not a measurement':32}{'ranks':>6}{'ms':>10}{'weak, ms':>10}{'pays from':>11}  way",
    "network": bad_network.HEADER,
    "poisson": poisson.HEADER,
}


def sequence_row(r: Record) -> str:
    return (
        f"{r['work']:42}{r['way']:22}{r['ms']:9.1f}{r['cpu_ms']:9.1f}{r['one_ms']:9.1f}{r['one_cpu_ms']:9.1f}"
        f"{r['bytes']:12}{r['rounds'] or '-':>7}  load {r['load']:.1f}"
    )


def scaling_row(r: Record) -> str:
    return (
        f"{r['work']:32}{r['ranks']:6}  {r['way']:20}{r['ms']:9.2f}{r['predicted_ms']:9.2f}{r['cpu_ms']:9.2f}"
        f"{r['one_ms']:9.2f}{r['one_cpu_ms']:9.2f}  load {r['load']:.1f}"
    )


def empty_row(r: Record) -> str:
    return (
        f"{r['work']:32}{r['way']:10}{r['us']:9.0f}{r['cpu_us']:9.0f}{r['all_gather_us']:12.0f}{r['rounds']:8}"
        f"  load {r['load']:.1f}"
    )


def messages_row(r: Record) -> str:
    return f"{r['work']:32}{r['us']:9.1f}{r['line_us']:9.1f}{r['residual']:+7.0%}  load {r['load']:.1f}"


def model_row(r: Record) -> str:
    return (
        f"{r['work']:32}{r['ranks']:6}{r['ms']:10.2f}{r['weak_ms']:10.1f}{_steps(r['crossover']):>11}  {r['way']}"
        f"  load {r['load']:.1f}"
    )


ROWS = {
    "sequence": sequence_row,
    "scaling": scaling_row,
    "empty": empty_row,
    "messages": messages_row,
    "model": model_row,
    "network": bad_network.row,
    "poisson": poisson.row,
}


def _steps(count: int | None) -> str:
    return "never" if count is None else str(count)


def _works(records: Sequence[Record]) -> list[list[Record]]:
    return [[r for r in records if r["work"] == work] for work in dict.fromkeys(r["work"] for r in records)]


def sequence_markdown(records: Sequence[Record]) -> list[str]:
    note = (
        "Two ranks with one thread each, forward and backward. Times are measured until both have finished; processor "
        "times are those of the busier rank; the speedup over one process with one thread is in brackets. "
        "`all-gather` and `later ranks` exchange the arguments of all steps, `all-to-all` those of half of the "
        "channels or heads, and then run the function of one process."
    )
    parts = ["### A sequence on two ranks", note]
    for some in _works(records):
        first = some[0]
        best = min((r for r in some if r["ours"]), key=lambda r: r["ms"])
        rows = [["one process", f"{first['one_ms']:.1f}", f"{first['one_cpu_ms']:.1f}", "", "", ""]]
        rows.append(
            [
                "one process, 2 threads",
                f"{first['two_threads_ms']:.1f} ({first['one_ms'] / first['two_threads_ms']:.2f})",
                f"{first['two_threads_cpu_ms']:.1f}",
                "",
                "",
                "",
            ]
        )
        for r in some:
            times = f"{r['one_ms'] / r['ms']:.2f}"
            if r is best:
                times = tables.against(times, f"{GOAL:g}", r["one_ms"] / r["ms"] >= GOAL)
            ratio = r["ms"] / best["ms"]
            rows.append(
                [
                    r["way"],
                    f"{r['ms']:.1f} ({times})",
                    f"{r['cpu_ms']:.1f} ({r['one_cpu_ms'] / r['cpu_ms']:.2f})",
                    "" if r["ours"] else tables.against(f"{ratio:.1f}", f"{PEER_GOAL:g}", ratio >= PEER_GOAL),
                    f"{r['bytes']}",
                    "" if r["rounds"] is None else f"{r['rounds']}",
                ]
            )
        header = ["", "ms", "processor, ms", "times our best", "bytes a rank sends", "rounds"]
        parts += [f"#### {first['work']}", tables.markdown_table(header, rows)]
        quarter = {r["way"]: (r["bytes_of_a_quarter"], r["bytes"]) for r in some if "bytes_of_a_quarter" in r}
        said = ", ".join(f"{a} ({way}; {b} for all)" for way, (a, b) in quarter.items())
        parts.append(f"Bytes for a quarter of the steps: {said}.")
    return parts


def scaling_markdown(records: Sequence[Record]) -> list[str]:
    note = (
        "For strong scaling, compare rows of the same length; for weak scaling, a length on one rank with twice the "
        "length on two. The model is that of `bench/distributed/model.py` with the costs of messages and calls of this "
        "machine. With more ranks than cores, only the processor time of the busiest rank is meaningful."
    )
    header = ["", "ranks", "way", "ms", "model, ms", "processor, ms", "one process, ms (processor)"]
    rows = [
        [
            r["work"],
            f"{r['ranks']}",
            r["way"],
            f"{r['ms']:.2f}",
            f"{r['predicted_ms']:.2f}",
            f"{r['cpu_ms']:.2f}",
            f"{r['one_ms']:.2f} ({r['one_cpu_ms']:.2f})",
        ]
        for r in records
    ]
    return ["### One to four ranks", note, tables.markdown_table(header, rows)]


def empty_markdown(records: Sequence[Record]) -> list[str]:
    note = "On two ranks, forward and backward; the all-gather of 40 bytes is the one with which every call begins."
    header = ["", "exchange", "rounds", "us", "processor, us", "an all-gather, us"]
    rows = [
        [
            r["work"],
            r["way"],
            tables.at_most(f"{r['rounds']}", f"{ROUNDS_GOAL}", r["rounds"] <= ROUNDS_GOAL),
            f"{r['us']:.0f}",
            f"{r['cpu_us']:.0f}",
            f"{r['all_gather_us']:.0f}",
        ]
        for r in records
    ]
    return ["### A call without steps", note, tables.markdown_table(header, rows)]


def messages_markdown(records: Sequence[Record]) -> list[str]:
    first = records[0]
    note = (
        f"Half of the round-trip time between two ranks; the line has alpha = {first['alpha_us']:.0f} us and "
        f"beta = {first['beta_ns']:.2f} ns per byte, by least squares of relative errors."
    )
    header = ["", "us", "line, us", "the line is off by"]
    rows = [[r["work"], f"{r['us']:.1f}", f"{r['line_us']:.1f}", f"{r['residual']:+.0%}"] for r in records]
    return ["### Messages", note, tables.markdown_table(header, rows)]


def model_markdown(records: Sequence[Record]) -> list[str]:
    note = (
        "**A model, not a measurement**: the faster exchange, with at most 8 chunks, and the costs of this machine. "
        "With P times the steps, each rank has as many as in the first column. The last column is the number of steps "
        "from which on the ranks are faster than one process."
    )
    header = ["", "one process, ms", "ranks", "ms", "exchange", "P times the steps, ms", "exchange", "pays from"]
    rows = [
        [
            r["work"],
            f"{r['one_ms']:.1f}",
            f"{r['ranks']}",
            f"{r['ms']:.2f} ({r['one_ms'] / r['ms']:.1f})",
            r["way"],
            f"{r['weak_ms']:.1f}",
            r["weak_way"],
            _steps(r["crossover"]),
        ]
        for r in records
    ]
    return ["### More ranks", note, tables.markdown_table(header, rows)]


def network_markdown(records: Sequence[Record]) -> list[str]:
    note = (
        "Ranks in network namespaces, whose packets pass through a switch with such links. The model of a message "
        "includes only the delay and the rate, that of a call also the costs of this machine. If a link goes down, the "
        "times are those until all ranks have raised, and the timeout of the group."
    )
    header = ["", "ranks", "way", "ms", "model, ms", "slowest, ms", "packets lost"]
    parts = ["### Slow and lossy networks", note]
    for link in dict.fromkeys(r["link"] for r in records):
        rows = [
            [
                r["work"],
                f"{r['ranks']}",
                r["way"],
                f"{r['ms']:.1f}",
                f"{r['model_ms']:.1f}",
                f"{r['slowest_ms']:.1f}",
                f"{r['lost']}",
            ]
            for r in records
            if r["link"] == link
        ]
        parts += [f"#### {link}", tables.markdown_table(header, rows)]
    return parts


def markdown(results: Record) -> str:
    sections = {
        "sequence": sequence_markdown,
        "scaling": scaling_markdown,
        "empty": empty_markdown,
        "messages": messages_markdown,
        "model": model_markdown,
        "network": network_markdown,
        "poisson": poisson.markdown,
    }
    return tables.document(results, sections)
