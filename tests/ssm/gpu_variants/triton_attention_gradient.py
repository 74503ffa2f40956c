"""Representative variants of kernels/ssm/triton_attention_gradient.py."""

from __future__ import annotations

from tests.ssm.attention_variants import DOUBLE, FLOAT, THREE, constants, variant

#: Products of three TF32 numbers exist on NVIDIA only.
NVIDIA = [
    variant("bwd_states", FLOAT, "", "reset"),
    variant("bwd_states", THREE, "", "starts owner"),
    variant("bwd_states", DOUBLE, "dlast", "lengths"),
    variant("bwd_values", ("bf16", constants("bf16", 128, 128, False, precision="tf32x3")), "bonus weights", "reset"),
    variant("bwd_values", THREE, "", "starts owner"),
    variant("bwd_values", DOUBLE, "bonus weights", "lengths"),
]
