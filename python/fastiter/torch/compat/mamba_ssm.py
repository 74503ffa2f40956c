"""mamba_ssm's functions, with the names, argument order, layouts, defaults and results of mamba_ssm 2.3.

``RMSNorm`` is the class in its layer_norm; the classes in its layernorm_gated are ``RMSNormGated`` and
``LayerNormGated`` here.
"""

from __future__ import annotations

from ..._public import publish
from ...ssm._torch.compat.mamba_ssm import (
    mamba_chunk_scan_combined,
    mamba_inner_fn,
    mamba_split_conv1d_scan_combined,
    selective_scan_fn,
    selective_state_update,
)
from ...ssm._torch.compat.mamba_ssm_norms import (
    LayerNormGated,
    RMSNorm,
    RMSNormGated,
    layer_norm_fn,
    layernorm_fn,
    rms_norm_fn,
    rmsnorm_fn,
)

__all__ = [
    "LayerNormGated",
    "RMSNorm",
    "RMSNormGated",
    "layer_norm_fn",
    "layernorm_fn",
    "mamba_chunk_scan_combined",
    "mamba_inner_fn",
    "mamba_split_conv1d_scan_combined",
    "rms_norm_fn",
    "rmsnorm_fn",
    "selective_scan_fn",
    "selective_state_update",
]

publish(globals())
