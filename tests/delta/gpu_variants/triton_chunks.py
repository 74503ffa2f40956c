"""Representative variants of kernels/delta/triton_chunks.py."""

from __future__ import annotations

from tests.delta.chunk_variants import variants

NVIDIA = variants("products_fwd states_fwd outputs_fwd")
COUNTED = True
#: With Triton 3.6 the variant with one TF32 product spills four numbers on sm_100.
OLDER_SPILL = {"delta_chunk_products_fwd_kernel": 16}
