"""The family rnn's numbers as text: rows during the measurement, Markdown with the goals afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.harness.contest import BOTH, FORWARD, Record
from bench.harness.tables import against, at_most, geometric_mean, heading, markdown_table
from bench.rnn import streaming

# # ---- During the measurement
# -----------------------------------------------------------------------------------------

HEADERS = {
    "grid": f"{'cell':6}{'B':>4}{'T':>6}{'H':>5}  {'mode':17}{'threads':>7}{'recurrence':>12}{'floor':>10}{'share':>7}"
    f"  {'bound':11}{'layer':>10}{'torch.nn':>10}{'ratio':>7}{'load':>6}",
    "heads": f"{'cell':6}{'heads':>6}{'D':>5}  {'mode':17}{'threads':>7}{'one call':>13}{'best':>10}  {'form':9}"
    f"{'torch.nn':>10}{'ratio':>7}{'load':>6}",
    "calls": f"{'cell':6}  {'mode':17}{'threads':>7}{'one call':>11}{'median':>9}{'after a torch op':>18}{'median':>9}"
    f"{'load':>6}",
    "streaming": streaming.HEADER,
}


def grid_row(r: Record) -> str:
    peer = (
        f"{r['ours_ms']:10.3f}{r['torch_ms']:10.3f}{r['ratio']:7.2f}" if "ratio" in r else f"{'-':>10}{'-':>10}{'-':>7}"
    )
    return (
        f"{r['cell']:6}{r['B']:4}{r['T']:6}{r['H']:5}  {r['mode']:17}{r['threads']:7}"
        f"{r['recurrence_ms']:9.3f} ms{r['floor_ms']:10.3f}{r['share']:7.0%}  {r['bound']:11}{peer}{r['load']:6.1f}"
    )


def heads_row(r: Record) -> str:
    return (
        f"{r['cell']:6}{r['N']:6}{r['H']:5}  {r['mode']:17}{r['threads']:7}"
        f"{r['one_call_ms']:13.3f}{r['ours_ms']:10.3f}  {r['form']:9}"
        f"{r['torch_ms']:10.3f}{r['ratio']:7.2f}{r['load']:6.1f}"
    )


def calls_row(r: Record) -> str:
    return (
        f"{r['cell']:6}  {r['mode']:17}{r['threads']:7}{r['us']:8.1f} us{r['median_us']:9.1f}"
        f"{r['us_after_torch']:18.1f}{r['median_us_after_torch']:9.1f}{r['load']:6.1f}"
    )


ROWS: dict[str, Callable[[Record], str]] = {
    "grid": grid_row,
    "heads": heads_row,
    "calls": calls_row,
    "streaming": streaming.row,
}


def limits(measured: Record) -> str:
    lines = ["limits:"]
    for threads, rates in measured["sgemm_gflops"].items():
        lines.append(f"  {threads} thread(s), GF/s: " + ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items()))
        reading = ", ".join(f"{name} {rate:.0f}" for name, rate in measured["read_gbs"][threads].items())
        lines.append(f"  {threads} thread(s), GB/s: {reading}, copy {measured['copy_gbs'][threads]:.0f}")
    return "\n".join(lines)


# ---- Goals ----------------------------------------------------------------------------------------------------------


def share_goal(r: Record) -> float:
    """The goal as a fraction of the floor, for the recurrence alone."""
    if r["B"] == 1:
        return 0.60
    if r["H"] == 64:
        return 0.80
    return 0.95 if r["mode"] == FORWARD else 0.85


def ratio_goal(r: Record) -> float | None:
    """The goal for a whole layer's ratio to torch.nn's."""
    if "ratio" not in r:
        return None
    if r["cell"] != "lstm":
        return 1.15
    if r["B"] == 1 and r["H"] <= 256:
        return 2.0
    return 1.3 if r["H"] == 64 else 0.95


HEADS_GOALS = {"lstm": (2.0, 1.4), "gru": (5.0, 2.5), "elman": (5.0, 2.0)}  # D 64 and 128; for two threads
MEAN_GOALS = {"gru": 3.0, "elman": 3.0}  # geometric mean of the ratios
CALL_GOALS = {FORWARD: 7.0, BOTH: 35.0}  # microseconds


def heads_goal(r: Record) -> float | None:
    if r["threads"] == 1:
        return None
    at_64, at_128 = HEADS_GOALS[r["cell"]]
    return at_64 if r["H"] == 64 else at_128


# ---- Markdown -------------------------------------------------------------------------------------------------------


def pivot(records: Sequence[Record], quantity: str, entry: Callable[[Record], str]) -> str:
    """One row for each B, T, H; one column for each mode and number of threads."""
    records = [r for r in records if quantity in r]
    columns = list(dict.fromkeys((r["mode"], r["threads"]) for r in records))
    by_shape = {(r["B"], r["T"], r["H"], r["mode"], r["threads"]): r for r in records}
    header = ["B, T, H", *(f"{mode}, {threads} thread{'s' * (threads > 1)}" for mode, threads in columns)]
    rows = []
    for shape in dict.fromkeys((r["B"], r["T"], r["H"]) for r in records):
        cells = [by_shape.get((*shape, *column)) for column in columns]
        rows.append([", ".join(map(str, shape)), *("" if r is None else entry(r) for r in cells)])
    return markdown_table(header, rows)


def share_entry(r: Record) -> str:
    goal = share_goal(r)
    bound = "" if r["bound"] == "flops" else " r"
    return (
        f"{r['share']:.0%}{bound}"
        if goal is None
        else against(f"{r['share']:.0%}{bound}", f"{goal:.0%}", r["share"] >= goal)
    )


def ratio_entry(r: Record, goal: float | None) -> str:
    value = f"{r['ratio']:.2f}"
    return value if goal is None else against(value, f"{goal:g}", r["ratio"] >= goal)


def grid_summary(records: Sequence[Record]) -> str:
    rows = []
    for cell in dict.fromkeys(r["cell"] for r in records):
        for mode in (FORWARD, BOTH):
            group = [r for r in records if r["cell"] == cell and r["mode"] == mode]
            with_peer = [r for r in group if "ratio" in r]
            share_reached = sum(r["share"] >= share_goal(r) for r in group)
            row = [f"{cell}, {mode}", f"{share_reached} of {len(group)}", f"{min(r['share'] for r in group):.0%}"]
            if with_peer:
                ratios = [r["ratio"] for r in with_peer]
                ratio_reached = sum(r["ratio"] >= (ratio_goal(r) or 0.0) for r in with_peer)
                row += [f"{ratio_reached} of {len(with_peer)}", f"{min(ratios):.2f}", mean_entry(cell, ratios)]
            rows.append([*row, *["-"] * (6 - len(row))])
    header = [
        "",
        "share of floor: goals reached",
        "lowest",
        "ratio to torch.nn: goals reached",
        "lowest",
        "geometric mean",
    ]
    return markdown_table(header, rows)


def mean_entry(cell: str, ratios: Sequence[float]) -> str:
    mean = geometric_mean(ratios)
    goal = MEAN_GOALS.get(cell)
    return f"{mean:.2f}" if goal is None else against(f"{mean:.2f}", f"{goal:g}", mean >= goal)


def grid_markdown(records: Sequence[Record]) -> list[str]:
    parts = ["### Summary", grid_summary(records)]
    for cell in dict.fromkeys(r["cell"] for r in records):
        own = [r for r in records if r["cell"] == cell]
        parts += [f"### {cell}: the recurrence alone, share of the floor", SHARE_NOTE, pivot(own, "share", share_entry)]
        if any("ratio" in r for r in own):
            parts += [
                f"### {cell}: a whole layer, times as fast as torch.nn",
                pivot(own, "ratio", lambda r: ratio_entry(r, ratio_goal(r))),
            ]
    return parts


SHARE_NOTE = "The floor is the flops at the sgemm rate; marked `r`: the bytes of r at the cache's bandwidth."


def heads_markdown(records: Sequence[Record]) -> list[str]:
    rows = [
        [
            f"{r['cell']}, {r['N']} heads of {r['H']}, {r['mode']}, {r['threads']} thread{'s' * (r['threads'] > 1)}",
            f"{r['one_call_ms']:.2f}",
            f"{r['ours_ms']:.2f} ({r['form']})",
            f"{r['torch_ms']:.2f}",
            ratio_entry(r, heads_goal(r)),
        ]
        for r in records
    ]
    title = "### N heads against N separate torch.nn layers (W x included)"
    return [
        title,
        markdown_table(["", "one call of all heads, ms", "ours at best, ms", "torch.nn, ms", "times as fast"], rows),
    ]


def calls_markdown(records: Sequence[Record]) -> list[str]:
    rows = [
        [
            f"{r['cell']}, {r['mode']}, {r['threads']} thread{'s' * (r['threads'] > 1)}",
            call_entry(r["us"], CALL_GOALS[r["mode"]]),
            f"{r['median_us']:.1f}",
            f"{r['us_after_torch']:.1f}",
        ]
        for r in records
    ]
    return ["### One call of 64 elements, µs", markdown_table(["", "minimum", "median", "after a torch op"], rows)]


def call_entry(us: float, goal: float) -> str:
    return at_most(f"{us:.1f}", f"{goal:g}", us <= goal)


def limits_markdown(measured: Record) -> str:
    rows = []
    for threads in measured["sgemm_gflops"]:
        numbers = {
            **{f"{name}, GF/s": rate for name, rate in measured["sgemm_gflops"][threads].items()},
            **{f"{name}, GB/s": rate for name, rate in measured["read_gbs"][threads].items()},
            "copy, GB/s": measured["copy_gbs"][threads],
        }
        rows.append([threads, *(f"{number:.0f}" for number in numbers.values())])
    return markdown_table(["threads", *numbers], rows)


def markdown(results: Record) -> str:
    """Every cell of the table, its goal, and whether the goal is reached."""
    parts = [
        *heading(results),
        "### Limits, in the same run",
        limits_markdown(results["limits"]),
    ]
    sections = {
        "grid": grid_markdown,
        "heads": heads_markdown,
        "calls": calls_markdown,
        "streaming": streaming.markdown,
    }
    for name, section in sections.items():
        if results.get(name):
            parts += section(results[name])
    return "\n\n".join(parts) + "\n"
