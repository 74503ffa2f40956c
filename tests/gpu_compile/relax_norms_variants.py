"""The variant of kernels/cuda/relax_norms.cu."""

from __future__ import annotations

CUDA: list[dict[str, object]] = [{}]
