"""Representative variants of kernels/ssm/triton_attention_keys.py."""

from __future__ import annotations

from tests.ssm.attention_variants import FLOAT, THREE, constants, variant

_SHARED = ("bf16", constants("bf16", 128, 128, False, precision="tf32x3"))

#: Products of three TF32 numbers exist on NVIDIA only.
NVIDIA = [
    variant("bwd_keys", FLOAT, "bonus dbonus", "reset"),
    variant(
        "bwd_keys",
        ("bf16", constants("bf16", 128, 128, False, precision="tf32x3")),
        "bonus dbonus",
        "lengths",
        wide=True,
    ),
    variant("bwd_keys", THREE, "", "starts owner reset"),
    variant("bwd_keys", ("fp64", constants("fp64", 64, 64, True)), "bonus dbonus", "lengths"),
]
