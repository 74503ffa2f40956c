"""Representative variants of kernels/delta/triton_chunks_gradient.py."""

from __future__ import annotations

from tests.delta.chunk_variants import variants

NVIDIA = variants("products_bwd pairs_bwd keys_bwd strengths_bwd")
BEFORE_BLACKWELL, BLACKWELL = variants("states_bwd"), variants("states_bwd", 10)
COUNTED = True
#: With Triton 3.6 the variant in bfloat16 spills two numbers on sm_80.
OLDER_SPILL = {"delta_chunk_strengths_bwd_kernel": 8}
