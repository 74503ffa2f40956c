"""The variant of kernels/relax/norms.cu."""

from __future__ import annotations

CUDA: list[dict[str, object]] = [{}]
