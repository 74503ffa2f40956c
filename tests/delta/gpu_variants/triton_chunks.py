"""Representative variants of kernels/delta/triton_chunks.py."""

from __future__ import annotations

from tests.delta.chunk_variants import variants

NVIDIA = variants("inverse products_fwd states_fwd outputs_fwd")
COUNTED = True
