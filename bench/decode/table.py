"""The family decode's numbers as Markdown, with the goals."""

from __future__ import annotations

from bench.decode import models, never_slower, products
from bench.decode.cases import ACCELERATE, OURS, TRANSFORMERS
from bench.harness import tables
from bench.harness.contest import Record

#: Formats of the table of the documentation
_SHOWN = ("f32", "bf16", "int8", "int4", "mxfp4")


def markdown(results: Record) -> str:
    sections = {"products": products.markdown, "models": models.markdown, "never-slower": never_slower.markdown}
    return tables.document(results, sections)


def page(text: str, results: Record) -> str:
    """Return the family's page with the memory and the tokens a second of all models between its marks."""
    found = {(r["model"], r["threads"]): r for r in results["models"] if r["batch"] == 1}
    threads = sorted({threads for _, threads in found})
    most = threads[-1]
    header = ["model", "weights", "RAM, MB", *(f"tokens a second, {tables.on_threads(n)}" for n in threads)]
    header += [f"times as fast as {peer}, {tables.on_threads(most)}" for peer in (TRANSFORMERS, ACCELERATE)]
    rows = []
    for model in dict.fromkeys(model for model, _ in found):
        for fmt in _SHOWN:
            name, last = f"{OURS} {fmt}", found[model, most]
            if name not in last["entrants"]:
                continue
            speeds = [1e3 / found[model, n]["entrants"][name]["median_ms"] for n in threads]
            ratios = [models.ratio(last, name, peer) for peer in (TRANSFORMERS, ACCELERATE)]
            shown = ["-" if ratio is None else f"{ratio:.1f}" for ratio in ratios]
            memory = f"{1e-6 * last['entrants'][name]['nbytes']:.0f}"
            rows.append([model, f'"{fmt}"', memory, *(f"{speed:.0f}" for speed in speeds), *shown])
    machine = results["machine"]
    busy = ", which was not quiet" if machine["load"] >= tables.BUSY else ""
    note = (
        "One sequence, random weights. RAM is that of the packed weights, all of which are read for each token;\n"
        f"transformers {machine['versions']['transformers']} and accelerate have their faster dtype; "
        f"{machine['cpu']}, {machine['cores']} cores{busy}."
    )
    return tables.between_marks(text, "decode", f"{tables.markdown_table(header, rows)}\n\n{note}")
