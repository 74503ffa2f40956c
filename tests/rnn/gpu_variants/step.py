"""Representative variants of kernels/rnn/step.cu."""

from __future__ import annotations

CUDA: list[dict[str, object]] = [
    {"ELEMENT": element, "CELL": cell} for element, cell in (("BFloat16", 4), ("float", 2), ("Half", 3), ("double", 0))
]
