"""Representative variants of kernels/ssm/triton_attention_levels.py."""

from __future__ import annotations

from tests.ssm.attention_variants import BF16, OWN, SHARED, constants, variant

#: TF32 exists on NVIDIA only.
NVIDIA = [
    variant("levels_fwd", OWN, "bonus", ""),
    variant("levels_fwd", BF16, "", "starts owner reset"),
    variant("levels_fwd", ("fp16", constants("fp16", 128, 128, True, before=True)), "", "lengths"),
    variant("levels_fwd", OWN, "bonus writes b_writes totals", "", two=True),
    variant("levels_fwd", BF16, "bonus", "starts owner reset", two=True),
    variant("levels_fwd", SHARED, "bonus", "lengths reset", two=True),
    variant("levels_fwd", ("fp16", constants("fp16", 128, 128, True, before=True)), "bonus", "lengths reset", two=True),
]
COUNTED = True
