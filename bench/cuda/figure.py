"""The crossover of Newton's method and the sequential kernel as T grows: an SVG, both axes logarithmic."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from bench.harness.contest import Record

WIDTH, HEIGHT, MARGIN = 320, 260, 50
COLOURS = {"sequential": "#1b6ca8", "newton": "#c8401a", "newton on the scans": "#8a8a8a", "loop": "#444444"}


def crossover(results: Record) -> str:
    """A panel for each cell and size, side by side; milliseconds over steps."""
    records = results["newton"]
    panels = [list(panel) for _, panel in itertools.groupby(records, lambda r: (r["cell"], r["B"], r["D"]))]
    times = [ms for record in records for ms in record["ms"].values()]
    steps = [record["T"] for record in records]
    bounds = (min(steps), max(steps)), (min(times), max(times))
    parts = [line for i, panel in enumerate(panels) for line in draw(panel, i * WIDTH, bounds)]
    size = f'width="{WIDTH * len(panels)}" height="{HEIGHT}" font-family="sans-serif" font-size="11"'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', *parts, "</svg>\n"])


def place(value: float, bounds: tuple[float, float], start: float, end: float) -> float:
    low, high = (math.log(bound) for bound in bounds)
    return start + (math.log(value) - low) / max(high - low, 1e-9) * (end - start)


def draw(panel: list[Record], left: int, bounds: tuple[tuple[float, float], tuple[float, float]]) -> Iterator[str]:
    def x(steps: float) -> float:
        return place(steps, bounds[0], left + MARGIN, left + WIDTH - 10)

    def y(ms: float) -> float:
        return place(ms, bounds[1], HEIGHT - MARGIN, 30)

    first = panel[0]
    yield f'<text x="{left + MARGIN}" y="18">{first["cell"]}, B {first["B"]}, D {first["D"]}</text>'
    for record in panel:
        yield f'<text x="{x(record["T"]):.1f}" y="{HEIGHT - 32}" text-anchor="middle">{record["T"]}</text>'
    for ms in bounds[1]:
        yield f'<text x="{left + MARGIN - 6}" y="{y(ms):.1f}" text-anchor="end">{ms:.2g} ms</text>'
    for i, name in enumerate(first["ms"]):
        points = " ".join(f"{x(record['T']):.1f},{y(record['ms'][name]):.1f}" for record in panel)
        yield f'<polyline points="{points}" fill="none" stroke="{COLOURS[name]}" stroke-width="2"/>'
        at = f'x="{left + MARGIN + i % 2 * 120}" y="{HEIGHT - 16 + i // 2 * 12}"'
        yield f'<text {at} fill="{COLOURS[name]}">{name}</text>'
