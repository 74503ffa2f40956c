"""A card's record as Markdown, for the page about GPUs: measurements and failures."""

from __future__ import annotations

from bench.cuda import table as contests
from bench.harness import tables
from bench.harness.record import Record

#: The text of the page while there is no record
NONE = "No card was available yet: there are no measured numbers, and the goals are open."


def latencies(rows: list[Record]) -> str:
    lines = ["| what | cycles |", "|---|---:|"]
    return "\n".join([*lines, *(f"| {row['name']} | {row['cycles']:.0f} |" for row in rows if "cycles" in row)])


def correctness(rows: list[Record]) -> str:
    worst = max((row for row in rows if "off" in row), key=lambda row: max(row["off"]), default=None)
    if worst is None:
        return ""
    stepwise = [row["name"] for row in rows if "stepwise" in row.get("path", [])]
    return (
        f"{len(rows)} shapes and dtypes agree with the CPU, twice with the same bits; the largest error is "
        f"{max(worst['off']):.1e} ({worst['name']}). A step at a time: {', '.join(stepwise) or 'none'}."
    )


def tests(rows: list[Record]) -> str:
    return "\n".join(
        f"`pytest -m gpu`: {row['passed']} passed, failed: {', '.join(row['failed']) or 'none'}"
        + ("." if row["is_complete"] else " (the time ended before the last).")
        for row in rows
    )


def plans(rows: list[Record]) -> str:
    best: dict[tuple[object, ...], list[Record]] = {}
    for row in rows:
        if "plan" in row:
            best.setdefault((row["cell"], row["D"], row["backward"]), []).append(row)
    lines = ["| cell, D, pass | launcher's plan, us | fastest, us | its shape |", "|---|---:|---:|---|"]
    for (cell, width, back), its in best.items():
        fastest = min(its, key=lambda row: float(row["us"]))
        way = "backward" if back else "forward"
        lines.append(f"| {cell}, {width}, {way} | {its[0]['us']:.2f} | {fastest['us']:.2f} | {fastest['name']} |")
    return "\n".join(lines)


def model(rows: list[Record]) -> str:
    values = [(way, value) for row in rows for way, value in row.items() if way not in ("name", "seconds")]
    return "\n".join(f"- {way}: {value}" for way, value in values)


def kernels(rows: list[Record]) -> str:
    lines = ["| call | largest error | forward, forward+backward in ms |", "|---|---:|---|"]
    for row in rows:
        if "ms" in row:
            lines.append(f"| {row['name']} | {row['off']:.1e} | {milliseconds(row['ms'])} |")
    return "\n".join(lines)


def sanitizer(rows: list[Record]) -> str:
    told = {tool: found for row in rows for tool, found in row.items() if isinstance(found, dict)}
    return "\n".join(
        f"- {tool}: {its['checked']} calls; reports in {', '.join(its['found']) or 'none'}"
        for tool, its in told.items()
    )


def families(rows: list[Record]) -> str:
    lines = ["| work | forward, forward+backward in ms | left out |", "|---|---|---|"]
    for row in rows:
        parts = [f"{name} {milliseconds(both)}" for name, both in row["ms"].items()]
        absent = ", ".join(row["left_out"]) or "none"
        lines.append(f"| {row['name']}, {row['shape']} | {'; '.join(parts)} | {absent} |")
    return "\n".join(lines)


def milliseconds(times: dict[str, float]) -> str:
    return ", ".join(f"{ms:.3g}" for ms in times.values())


def failures(rows: list[Record]) -> str:
    return "\n".join(f"- {row['step']}, {row['item']}: {row['error'].splitlines()[0][:200]}" for row in rows)


TITLES = {
    "kernels": ("Kernels", kernels),
    "correctness": ("Correctness", correctness),
    "sanitizer": ("Sanitizer", sanitizer),
    "tests": ("Tests", tests),
    "latencies": ("Latencies", latencies),
    "families": ("Families against their peers", families),
    "plans": ("Plans of the recurrence", plans),
    "model": ("Constants of the tuner's model", model),
    "failed": ("Failed", failures),
}


def markdown(results: Record) -> str:
    """Return the sections of all steps that were run."""
    parts = [f"### {results['card']['name']}, CUDA {results['card']['cuda']}"]
    for step, (title, write) in TITLES.items():
        if results.get(step) and (text := write(results[step])):
            parts.append(f"#### {title}\n\n{text}")
    for step, header in contests.HEADERS.items():
        if results.get(step):
            lines = [contests.line(step, row) for row in results[step]]
            parts.append("\n".join([f"#### {step}\n", header, *lines]))
    return "\n\n".join(parts)


def page(text: str, every: list[Record]) -> str:
    """Return a page with the records of all cards between its two markers."""
    shown = "\n\n".join(markdown(results) for results in every) if every else NONE
    return tables.between_marks(text, "card", shown)
