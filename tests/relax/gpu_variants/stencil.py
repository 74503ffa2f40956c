"""All variants of kernels/relax/stencil.cu."""

from __future__ import annotations

CUDA = [{"NUMBER": number, "RESIDENT": 3} for number in ("float", "double")]
