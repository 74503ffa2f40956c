"""The measurements on a GPU as Markdown, with the goals."""

from __future__ import annotations

from bench.harness.contest import Record

HEADERS = {
    "memory": "| work | ms | GB/s | share of copy (goal 85%) |\n|---|---:|---:|---:|",
    "products": "| accumulator | ms | 10^9 steps a second |\n|---|---:|---:|",
    "rnn": "| cell | D | forward, forward+backward in ms |\n|---|---:|---|",
    "newton": (
        "| cell | B, D, T | forward+backward in ms | sequential / newton | loop / the faster (goal 665 at T 8192) |\n"
        "|---|---:|---|---:|---:|"
    ),
}


def line(section: str, record: Record) -> str:
    if section == "memory":
        return f"| {record['work']} | {record['ms']:.3g} | {record['gbs']:.3g} | {record['share']:.0%} |"
    if section == "products":
        return f"| {record['work']} | {record['ms']:.3g} | {record['steps']:.3g} |"
    if section == "rnn":
        parts = [f"{name} " + ", ".join(f"{ms:.3g}" for ms in both.values()) for name, both in record["ms"].items()]
        return f"| {record['cell']} | {record['width']} | {'; '.join(parts)} |"
    ms = record["ms"]
    times = "; ".join(f"{name} {value:.3g}" for name, value in ms.items())
    over = f"{ms['loop'] / min(ms['sequential'], ms['newton']):.0f}" if "loop" in ms else ""
    size = f"{record['B']}, {record['D']}, {record['T']}"
    return f"| {record['cell']} | {size} | {times} | {ms['sequential'] / ms['newton']:.2g} | {over} |"


def markdown(results: Record) -> str:
    """The tables of all sections that were run."""
    parts = [f"## {results['card']['name']}, CUDA {results['card']['cuda']}"]
    for section, header in HEADERS.items():
        if section in results:
            parts.append("\n".join([header, *(line(section, record) for record in results[section])]))
    return "\n\n".join(parts)
