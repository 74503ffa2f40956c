"""Representative variants of kernels/ssm/triton_attention_levels.py."""

from __future__ import annotations

from tests.ssm.attention_variants import BF16, OWN, constants, variant

#: TF32 exists on NVIDIA only.
NVIDIA = [
    variant("levels_fwd", OWN, "bonus", ""),
    variant("levels_fwd", BF16, "", "starts owner reset"),
    variant("levels_fwd", ("fp16", constants("fp16", 128, 128, True, before=True)), "", "lengths"),
]
COUNTED = True
