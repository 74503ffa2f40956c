"""Representative variants of kernels/ssm/selective_gradient.cu."""

from __future__ import annotations

CUDA: list[dict[str, object]] = [
    {"ELEMENT": element, "PER": per, "RESET": reset}
    for element, per, reset in (("float", 4, 0), ("BFloat16", 4, 1), ("Half", 1, 0))
]
