"""Representative variants of kernels/delta/triton_chunks_gradient.py."""

from __future__ import annotations

from tests.delta.chunk_variants import variants

NVIDIA = variants("products_bwd pairs_bwd keys_bwd")
BEFORE_BLACKWELL, BLACKWELL = variants("states_bwd"), variants("states_bwd", 10)
COUNTED = True
