"""The modules of other libraries that code imports, and their contents in fastiter."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from . import (
    causal_conv1d,
    fla_attention,
    fla_delta,
    fla_fixed,
    fla_low_rank,
    mamba_ssm,
    mamba_ssm_norms,
    mlstm_kernels,
)

Names = dict[str, Any]


class Package(NamedTuple):
    """A library: the version whose functions are reproduced, and the names in each of its modules, by module path.

    The path of the package itself is empty.
    """

    version: str
    modules: dict[str, Names]


def _of(module: Any, *names: str) -> Names:
    return {name: getattr(module, name) for name in names}


def _mamba_ssm() -> dict[str, Names]:
    scans = _of(mamba_ssm, "selective_scan_fn", "mamba_inner_fn")
    chunks = _of(mamba_ssm, "mamba_chunk_scan_combined", "mamba_split_conv1d_scan_combined")
    gated = {"RMSNorm": mamba_ssm_norms.RMSNormGated, "LayerNorm": mamba_ssm_norms.LayerNormGated}
    return {
        "": scans,
        "ops.selective_scan_interface": scans,
        "ops.triton.selective_state_update": _of(mamba_ssm, "selective_state_update"),
        "ops.triton.ssd_combined": chunks,
        "ops.triton.layernorm_gated": gated | _of(mamba_ssm_norms, "layernorm_fn", "rmsnorm_fn"),
        "ops.triton.layer_norm": _of(mamba_ssm_norms, "RMSNorm", "layer_norm_fn", "rms_norm_fn"),
    }


def _causal_conv1d() -> dict[str, Names]:
    both = _of(causal_conv1d, "causal_conv1d_fn", "causal_conv1d_update")
    states = _of(causal_conv1d, "causal_conv1d_varlen_states")
    return {"": both, "causal_conv1d_interface": both, "causal_conv1d_varlen": states}


#: Names in each module of fla.ops
_FLA_OPS = {
    "delta_rule": ("chunk_delta_rule", "fused_chunk_delta_rule", "fused_recurrent_delta_rule"),
    "gated_delta_product": ("chunk_gated_delta_product",),
    "gated_delta_rule": (
        *("chunk_gated_delta_rule", "chunk_gdn"),
        *("fused_recurrent_gated_delta_rule", "fused_recurrent_gdn"),
    ),
    "generalized_delta_rule": ("chunk_dplr_delta_rule", "fused_recurrent_dplr_delta_rule"),
    "generalized_delta_rule.dplr": ("chunk_dplr_delta_rule", "fused_recurrent_dplr_delta_rule"),
    "gla": ("chunk_gla", "fused_recurrent_gla"),
    "hgrn": ("chunk_hgrn", "fused_recurrent_hgrn"),
    "kda": ("chunk_kda", "fused_recurrent_kda"),
    "lightning_attn": ("chunk_lightning_attn", "fused_recurrent_lightning_attn"),
    "linear_attn": ("chunk_linear_attn", "fused_chunk_linear_attn", "fused_recurrent_linear_attn"),
    "retention": ("chunk_retention", "fused_recurrent_retention"),
    "rwkv6": ("chunk_rwkv6", "fused_recurrent_rwkv6"),
    "rwkv7": ("chunk_rwkv7", "fused_recurrent_rwkv7"),
    "simple_gla": ("chunk_simple_gla", "fused_recurrent_simple_gla"),
}


def _fla() -> dict[str, Names]:
    functions = vars(fla_attention) | vars(fla_fixed) | vars(fla_delta) | vars(fla_low_rank)
    modules = {f"ops.{op}": {name: functions[name] for name in names} for op, names in _FLA_OPS.items()}
    return modules | {"ops": {name: f for names in modules.values() for name, f in names.items()}}


def _mlstm_kernels() -> dict[str, Names]:
    chunkwise, recurrent = mlstm_kernels.mlstm_chunkwise, mlstm_kernels.mlstm_recurrent_sequence
    without = partial(chunkwise, normalizer_gradient=False)  # as in the package's own backward passes
    kernels = {"fastiter": chunkwise, "native_autograd": chunkwise, "native_custbw": without}
    kernels |= {"triton_limit_chunk": without, "triton_xl_chunk": without}
    sequences = dict.fromkeys(("fastiter", "native_sequence__native", "native_sequence__triton"), recurrent)
    steps = dict.fromkeys(("fastiter", "native", "triton"), mlstm_kernels.mlstm_recurrent_step)
    return {
        "torch": {
            "get_mlstm_kernel": _lookup("get_mlstm_kernel", {f"chunkwise--{name}": f for name, f in kernels.items()}),
            "get_mlstm_sequence_kernel": _lookup("get_mlstm_sequence_kernel", sequences),
            "get_mlstm_step_kernel": _lookup("get_mlstm_step_kernel", steps),
        },
        "torch.chunkwise": {
            "registry": kernels,
            **{f"mlstm_chunkwise__{name.removeprefix('triton_')}": f for name, f in kernels.items()},
        },
        "torch.recurrent": {"registry_sequence": sequences, "registry_step": steps},
    }


def _lookup(function: str, known: Names) -> Callable[[str], Any]:
    def get(name: str) -> Any:
        if name not in known:
            raise ValueError(f"{function}: name must be one of {', '.join(map(repr, known))}, got {name!r}")
        return known[name]

    get.__name__ = get.__qualname__ = function
    return get


#: The libraries, by their names
PACKAGES = {
    "causal_conv1d": Package("1.6.1", _causal_conv1d()),
    "fla": Package("0.6.0", _fla()),
    "mamba_ssm": Package("2.3.2", _mamba_ssm()),
    "mlstm_kernels": Package("2.0.6", _mlstm_kernels()),
}
