"""Representative variants of kernels/ssm/triton_attention.py."""

from __future__ import annotations

from tests.ssm.attention_variants import BF16, DOUBLE, FLOAT, HALF, OWN, SHARED, THREE, constants, variant

#: Products of three TF32 numbers exist on NVIDIA only.
NVIDIA = [
    variant("states", FLOAT, "totals", "reset"),
    variant("states", SHARED, "totals saved", "lengths", wide=True),
    variant("states", HALF, "totals", "reset"),
    variant("states", OWN, "decay", ""),
    variant("states", THREE, "totals saved last", "starts owner", SPLIT=True),
    variant("states", DOUBLE, "totals saved", "lengths"),
    variant("weights", ("fp32", constants("fp32", 128, 128, True)), "bonus", "lengths"),
    variant("weights", THREE, "", "starts owner reset"),
    variant("fwd", FLOAT, "bonus weights", "reset"),
    variant("fwd", BF16, "decay", "starts owner"),
    variant("fwd", OWN, "bonus decay", ""),
    variant("fwd", OWN, "bonus decay", "", two=True),
    variant("fwd", ("fp16", constants("fp16", 128, 128, True)), "bonus decay", "starts owner", two=True),
    variant("fwd", SHARED, "bonus weights", "", wide=True),
    variant("fwd", HALF, "weights", "reset"),
    variant("fwd", THREE, "", "starts owner"),
    variant("fwd", DOUBLE, "bonus weights", "lengths"),
]
COUNTED = True
