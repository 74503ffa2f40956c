"""The numbers of recurrent networks in depth as text: rows during the measurement, Markdown with goals afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.harness import tables
from bench.harness.contest import MODES, Record
from bench.rnn.depth_cases import EVERY

# ---- Goals ----------------------------------------------------------------------------------------------------------

PACKED, PADDED = 4.0, 1.0  # speedup over torch.nn; time relative to our run on the padded batch
LSTM_GOAL, GRU_MEAN = 0.95, 1.8  # against torch.nn in bfloat16
GAIN_WIDE, GAIN_ROW = 1.6, 1.8  # against float32: B >= 16 and H >= 512; B 1 and H 512
EXTRA, SAVED = 0.4, 1 / 8


def gain_goal(r: Record) -> float | None:
    if r["B"] >= 16 and r["H"] >= 512:
        return GAIN_WIDE
    return GAIN_ROW if r["B"] == 1 and r["H"] == 512 else None


# # ---- During the measurement
# -----------------------------------------------------------------------------------------

_CASE = f"{'cell':6}{'B':>4}{'T':>6}{'H':>5}"
HEADERS = {
    "packed": f"{_CASE}{'threads':>9}{'packed':>13}{'torch.nn':>10}{'ratio':>7}{'full rows':>11}{'a step':>8}"
    f"{'load':>6}",
    "bfloat16": f"{_CASE}  {'mode':17}{'threads':>7}{'bfloat16':>13}{'torch.nn':>10}{'ratio':>7}{'float32':>10}"
    f"{'gain':>6}{'load':>6}",
    "checkpoint": f"{_CASE}{'threads':>9}{'stored':>13}{'again':>10}{'extra':>7}{'kept':>8}{'load':>6}",
}


def _case(r: Record) -> str:
    return f"{r['cell']:6}{r['B']:4}{r['T']:6}{r['H']:5}"


def packed_row(r: Record) -> str:
    return (
        f"{_case(r)}{r['threads']:9}{r['ours_ms']:10.3f} ms{r['torch_ms']:10.3f}{r['ratio']:7.2f}{r['padded_ms']:11.3f}"
        f"{r['step_ratio']:8.2f}{r['load']:6.1f}"
    )


def bfloat16_row(r: Record) -> str:
    return (
        f"{_case(r)}  {r['mode']:17}{r['threads']:7}{r['ours_ms']:10.3f} ms{r['torch_ms']:10.3f}{r['ratio']:7.2f}"
        f"{r['float32_ms']:10.3f}{r['gain']:6.2f}{r['load']:6.1f}"
    )


def saved_share(r: Record) -> float:
    return float(r["checkpoint_bytes"] / r["stored_bytes"])


def checkpoint_row(r: Record) -> str:
    return (
        f"{_case(r)}{r['threads']:9}{r['stored_ms']:10.3f} ms{r['checkpoint_ms']:10.3f}{r['extra']:7.0%}"
        f"{saved_share(r):8.1%}{r['load']:6.1f}"
    )


ROWS: dict[str, Callable[[Record], str]] = {
    "packed": packed_row,
    "bfloat16": bfloat16_row,
    "checkpoint": checkpoint_row,
}

# ---- Markdown -------------------------------------------------------------------------------------------------------


def _named(records: Sequence[Record]) -> list[Record]:
    return [{**r, "work": f"{r['cell']} B {r['B']} T {r['T']} H {r['H']}"} for r in records]


def packed_markdown(records: Sequence[Record]) -> list[str]:
    columns: dict[str, tables.Entry] = {
        "times as fast": lambda r: tables.against(f"{r['ratio']:.1f}", f"{PACKED:g}", r["ratio"] >= PACKED),
        "packed, ms": lambda r: f"{r['ours_ms']:.2f}",
        "torch.nn, ms": lambda r: f"{r['torch_ms']:.2f}",
        "a valid step / one of the padded run": lambda r: tables.at_most(
            f"{r['ours_ms'] / r['padded_ms']:.2f}", f"{PADDED:g}", r["ours_ms"] <= PADDED * r["padded_ms"]
        ),
        "a valid step / a step of full rows": lambda r: f"{r['step_ratio']:.2f}",
    }
    return ["### A PackedSequence, lengths T / 4 to T, forward+backward", tables.pivot(_named(records), columns)]


def _gain(r: Record) -> str:
    goal, value = gain_goal(r), f"{r['gain']:.2f}"
    return value if goal is None else tables.against(value, f"{goal:g}", r["gain"] >= goal)


def bfloat16_markdown(records: Sequence[Record]) -> list[str]:
    parts = ["### Layers in bfloat16: times as fast as torch.nn's, and as our own in float32", summary(records)]
    for mode in MODES:
        columns: dict[str, tables.Entry] = {
            "torch.nn": lambda r: (
                tables.against(f"{r['ratio']:.2f}", f"{LSTM_GOAL:g}", r["ratio"] >= LSTM_GOAL)
                if r["cell"] == "lstm"
                else f"{r['ratio']:.2f}"
            ),
            "float32": _gain,
            "ms": lambda r: f"{r['ours_ms']:.2f}",
        }
        own = [r for r in _named(records) if r["mode"] == mode]
        parts += [f"{mode}:".capitalize(), tables.pivot(own, columns)] if own else []
    return parts


def summary(records: Sequence[Record]) -> str:
    rows = []
    for cell in dict.fromkeys(r["cell"] for r in records):
        for threads in sorted({r["threads"] for r in records}):
            ratios = [r["ratio"] for r in records if (r["cell"], r["threads"]) == (cell, threads)]
            smallest, mean = f"{min(ratios):.2f}", f"{tables.geometric_mean(ratios):.2f}"
            if cell == "lstm":
                smallest = tables.against(smallest, f"{LSTM_GOAL:g}", min(ratios) >= LSTM_GOAL)
            else:
                mean = tables.against(mean, f"{GRU_MEAN:g}", tables.geometric_mean(ratios) >= GRU_MEAN)
            rows.append([f"{cell}, {tables.on_threads(threads)}", smallest, mean])
    return tables.markdown_table(["against torch.nn in bfloat16", "least", "geometric mean"], rows)


def checkpoint_markdown(records: Sequence[Record]) -> list[str]:
    def saved(r: Record) -> str:
        share = saved_share(r)
        return f"{tables.at_most(f'{share:.1%}', '1/8', share <= SAVED)} ({r['checkpoint_bytes'] / 2**20:.2f} MiB)"

    columns: dict[str, tables.Entry] = {
        "extra time": lambda r: tables.at_most(f"{r['extra']:.0%}", f"{EXTRA:.0%}", r["extra"] <= EXTRA),
        "stored, ms": lambda r: f"{r['stored_ms']:.2f}",
        "kept, of what is stored": saved,
    }
    title = f"### checkpoint={EVERY} against all gates stored: the recurrence alone, forward+backward"
    return [title, tables.pivot(_named(records), columns)]


def markdown(results: Record) -> str:
    sections = {"packed": packed_markdown, "bfloat16": bfloat16_markdown, "checkpoint": checkpoint_markdown}
    return tables.document(results, sections)
