"""Variants of kernels/cuda/relax_stencil.cu, all that there are."""

from __future__ import annotations

CUDA = [{"NUMBER": number, "RESIDENT": 3} for number in ("float", "double")]
