"""Representative variants of kernels/ssm/triton_attention.py."""

from __future__ import annotations

from tests.ssm.attention_variants import BF16, DOUBLE, FLOAT, constants, variant

#: Products of three TF32 numbers exist on NVIDIA only.
NVIDIA = [
    variant("states", FLOAT, "", "reset"),
    variant("states", BF16, "saved last", "starts owner", SPLIT=True),
    variant("states", DOUBLE, "saved", "lengths"),
    variant("weights", ("fp32", constants("fp32", 128, 128, True)), "bonus", "lengths"),
    variant("weights", BF16, "", "starts owner reset"),
    variant("fwd", FLOAT, "bonus weights", "reset"),
    variant("fwd", BF16, "", "starts owner"),
    variant("fwd", ("bf16", constants("bf16", 128, 128, False)), "bonus weights", ""),
    variant("fwd", DOUBLE, "bonus weights", "lengths"),
]
