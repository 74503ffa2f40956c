"""Representative variants of kernels/newton/newton.cu."""

from __future__ import annotations

CUDA: list[dict[str, object]] = [
    {"REAL": real, "CELL": cell, "UNITS": 32 // item, "CHUNK": 32 // item}
    for real, item, cell in (("float", 4, 0), ("float", 4, 1), ("double", 8, 1))
]
