"""Thumbnails of the gallery: one panel of each figure, as several panels are not readable at that size.

A panel is found by its left and lower edges, the lines that `examples/_script.py` leaves of a frame.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

DARK = 150  # an edge of less than two pixels, smoothed, is not black
OFF, TICK = -3, 10  # pixels by which an edge ends before the other one, or goes on as a tick, at most
Box = tuple[int, int, int, int]  # left, top, right, bottom


def _lines(dark: np.ndarray, least: int) -> np.ndarray:
    """Return the row, the start and the end of each run of at least this many dark pixels along the rows."""
    edges = np.diff(np.pad(dark, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    _, ends = np.nonzero(edges == -1)
    return np.stack([rows, starts, ends], 1)[ends - starts >= least]


def panels(image: Image.Image) -> list[Box]:
    """Return the boxes whose left and lower edges are dark lines that meet."""
    dark = np.asarray(image.convert("RGB")).max(axis=2) < DARK
    height, width = dark.shape
    lower, left = _lines(dark, width // 12)[:, None], _lines(dark.T, height // 8)[None]
    before, below = left[..., 0] - lower[..., 1], left[..., 2] - lower[..., 0]
    meet = (before >= OFF) & (before <= TICK) & (below >= OFF) & (below <= TICK)
    ends = np.broadcast_arrays(left[..., 0], left[..., 1], lower[..., 2], lower[..., 0] + 1)
    return [(int(a), int(b), int(c), int(d)) for a, b, c, d in zip(*(end[meet] for end in ends), strict=True)]


def main_panel(image: Image.Image) -> Box | None:
    """Return the upper left one of the large panels; None if there is no panel."""
    boxes = panels(image)
    areas = [(right - left) * (lower - upper) for left, upper, right, lower in boxes]
    large = [box for box, area in zip(boxes, areas, strict=True) if area > 0.8 * max(areas)]
    return min(large, key=lambda box: (box[1] // 50, box[0]), default=None)


def write_thumbnail(figure: Path, to: Path) -> None:
    """Write the main panel of a figure, or all of a figure without panels."""
    with Image.open(figure) as image:
        image.convert("RGB").crop(main_panel(image)).save(to)
