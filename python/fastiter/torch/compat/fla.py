"""flash-linear-attention's functions, with the names, argument order, layouts, defaults and results of fla 0.6."""

from __future__ import annotations

from ...ssm._torch.compat.fla_attention import (
    chunk_gla,
    chunk_linear_attn,
    chunk_rwkv6,
    chunk_simple_gla,
    fused_chunk_linear_attn,
    fused_recurrent_gla,
    fused_recurrent_linear_attn,
    fused_recurrent_rwkv6,
    fused_recurrent_simple_gla,
)
from ...ssm._torch.compat.fla_backend import register
from ...ssm._torch.compat.fla_delta import (
    chunk_delta_rule,
    chunk_gated_delta_product,
    chunk_gated_delta_rule,
    chunk_gdn,
    fused_chunk_delta_rule,
    fused_recurrent_delta_rule,
    fused_recurrent_gated_delta_rule,
    fused_recurrent_gdn,
)
from ...ssm._torch.compat.fla_fixed import (
    chunk_hgrn,
    chunk_lightning_attn,
    chunk_retention,
    fused_recurrent_hgrn,
    fused_recurrent_lightning_attn,
    fused_recurrent_retention,
)
from ...ssm._torch.compat.fla_low_rank import (
    chunk_dplr_delta_rule,
    chunk_kda,
    chunk_rwkv7,
    fused_recurrent_dplr_delta_rule,
    fused_recurrent_kda,
    fused_recurrent_rwkv7,
)

__all__ = [
    "chunk_delta_rule",
    "chunk_dplr_delta_rule",
    "chunk_gated_delta_product",
    "chunk_gated_delta_rule",
    "chunk_gdn",
    "chunk_gla",
    "chunk_hgrn",
    "chunk_kda",
    "chunk_lightning_attn",
    "chunk_linear_attn",
    "chunk_retention",
    "chunk_rwkv6",
    "chunk_rwkv7",
    "chunk_simple_gla",
    "fused_chunk_delta_rule",
    "fused_chunk_linear_attn",
    "fused_recurrent_delta_rule",
    "fused_recurrent_dplr_delta_rule",
    "fused_recurrent_gated_delta_rule",
    "fused_recurrent_gdn",
    "fused_recurrent_gla",
    "fused_recurrent_hgrn",
    "fused_recurrent_kda",
    "fused_recurrent_lightning_attn",
    "fused_recurrent_linear_attn",
    "fused_recurrent_retention",
    "fused_recurrent_rwkv6",
    "fused_recurrent_rwkv7",
    "fused_recurrent_simple_gla",
    "register",
]
