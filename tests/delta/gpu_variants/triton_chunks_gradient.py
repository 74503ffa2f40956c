"""Representative variants of kernels/delta/triton_chunks_gradient.py."""

from __future__ import annotations

from tests.delta.chunk_variants import variants

NVIDIA = variants("products_bwd pairs_bwd keys_bwd")
BEFORE_BLACKWELL, BLACKWELL = variants("states_bwd"), variants("states_bwd", 10)
COUNTED = True
#: With Triton 3.6 the variants with three products spill up to eight numbers, and keys two on sm_80 and sm_90.
OLDER_SPILL = {"delta_chunk_pairs_bwd_kernel": 32, "delta_chunk_keys_bwd_kernel": 8}
