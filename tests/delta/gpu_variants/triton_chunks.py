"""Representative variants of kernels/delta/triton_chunks.py."""

from __future__ import annotations

from tests.delta.chunk_variants import variants

NVIDIA = variants("products_fwd states_fwd outputs_fwd")
COUNTED = True
