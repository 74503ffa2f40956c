"""fastiter as a backend of flash-linear-attention (fla), for tensors on the CPU."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from . import fla_attention, fla_delta, fla_low_rank, fla_modules, fla_norms
from .fla_common import check_rest

Function = Callable[..., Any]


def _fused_recurrent_kda_fwd(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, *, inplace_final_state: bool = True, **rest: Any
) -> tuple[Tensor, Tensor | None]:
    """The function that fla's fused_recurrent_kda calls; it never changes the initial state."""
    return fla_low_rank.fused_recurrent_kda(q, k, v, g, beta, **rest)


#: The registered functions by their names in fla: the functions of fastiter with the same arguments
_OPS: dict[str, Function] = {
    "chunk_dplr_delta_rule": fla_low_rank.chunk_dplr_delta_rule,
    "chunk_gated_delta_rule": fla_delta.chunk_gated_delta_rule,
    "chunk_kda": fla_low_rank.chunk_kda,
    "fused_recurrent_kda_fwd": _fused_recurrent_kda_fwd,
    "fused_recurrent_simple_gla": fla_attention.fused_recurrent_simple_gla,
}
_MODULES: dict[str, Function] = {
    "causal_conv1d_bwd": fla_modules.causal_conv1d_bwd,
    "causal_conv1d_fwd": fla_modules.causal_conv1d_fwd,
    "causal_conv1d_update": fla_modules.causal_conv1d_update,
    "causal_conv1d_update_states": fla_modules.causal_conv1d_update_states,
    "l2norm_bwd": fla_modules.l2norm_bwd,
    "l2norm_fwd": fla_modules.l2norm_fwd,
    "layer_norm_bwd": fla_norms.layer_norm_bwd,
    "layer_norm_fwd": fla_norms.layer_norm_fwd,
    "layer_norm_gated_bwd": fla_norms.layer_norm_gated_bwd,
    "layer_norm_gated_fwd": fla_norms.layer_norm_gated_fwd,
}


def register() -> None:
    """Make fla compute with fastiter for tensors on the CPU, through its registry of backends.

    These functions of fla then run on the CPU, and with them the layers and functions that call them:
    chunk_gated_delta_rule, chunk_kda, fused_recurrent_kda, chunk_dplr_delta_rule (and so chunk_rwkv7),
    fused_recurrent_simple_gla, causal_conv1d, l2norm, layer_norm and layer_norm_gated (and so RMSNorm and
    FusedRMSNormGated). Calls with tensors on a GPU, or with options that fastiter does not support, are passed on to
    fla's own kernels, and fla's logger reports the reason.

    Raises
    ------
    ImportError
        If fla is not installed, or has no registry (before 0.5.2).
    RuntimeError
        If FLA_DISABLE_BACKEND_DISPATCH=1 has disabled the registry.

    See Also
    --------
    fastiter.torch.compat.install : Replaces a whole library.
    fastiter.torch.accelerate : Changes only one model.

    Examples
    --------
    >>> import sys
    >>> from unittest import mock
    >>> from fastiter.torch.compat import fla
    >>> with mock.patch.dict(sys.modules, {"fla": None}):  # as if fla were not installed
    ...     try:
    ...         fla.register()
    ...     except ImportError as error:
    ...         print(error.name)
    fla.ops
    """
    try:
        from fla import backends
    except ImportError:
        from fla.ops import backends
    if getattr(backends, "_DISPATCH_DISABLED", False):
        raise RuntimeError("register: FLA_DISABLE_BACKEND_DISPATCH must not be 1, as fla then has no back ends, got 1")
    kind = _backend(backends.BaseBackend)
    if not hasattr(backends, "register"):
        _register_by_names(backends.BackendRegistry, kind)
        return
    from fla.modules import causal_conv1d
    from fla.modules.norm import fused_norm_gate, l2norm, layernorm
    from fla.ops import kda, simple_gla

    for operation in ("gated_delta_rule", "generalized_delta_rule.dplr", "kda"):
        backends.register(operation)(kind)
    entries = [kda.chunk_kda, simple_gla.fused_recurrent_simple_gla]
    homes = (causal_conv1d, l2norm, layernorm, fused_norm_gate)
    entries += [getattr(home, name) for home in homes for name in _MODULES if name in home.__all__]
    for entry in entries:
        backends.register(entry)(kind)


def _register_by_names(registries: Any, kind: type) -> None:
    """Register with fla 0.5.2, which looks everything up by the names of operations."""
    for operation in ("gated_delta_rule", "kda", "modules"):
        registries.ensure_initialized(operation)
        (registries._registries.get(operation) or registries(operation)).register(kind())


def _backend(base: type) -> type:
    """Return the class of the backend, whose methods are the functions and a verifier of the arguments of each."""
    methods: dict[str, Any] = {"backend_type": "fastiter", "priority": 0}
    for name, function in (_OPS | _MODULES).items():
        methods[name] = staticmethod(function)
        methods[f"{name}_verifier"] = staticmethod(partial(_verify, name, function))
    return type("FastiterBackend", (base,), methods)


def _verify(name: str, function: Function, *arguments: Any, **options: Any) -> tuple[bool, str | None]:
    """Return whether a call is supported, and if not, why; fla treats an exception as a refusal, with its text."""
    for x in (*arguments, *options.values()):
        if isinstance(x, Tensor) and x.device.type != "cpu":
            return False, f"{name}: tensors must be on the CPU, got device {x.device}"
    named = inspect.signature(function).bind(*arguments, **options).arguments
    rest = named.pop("rest", {})
    if name == "fused_recurrent_kda_fwd":
        if named.get("inplace_final_state", True):
            return False, f"{name}: inplace_final_state must be False, got True"
        inspect.signature(fla_low_rank.fused_recurrent_kda).bind_partial(**rest)
        rest = {n: x for n, x in rest.items() if n in ("out", "ssm_state_indices", "num_accepted_tokens")}
    elif name in _MODULES:
        is_conv = name.startswith("causal_conv1d")
        if is_conv and "weight" in inspect.signature(function).parameters and named.get("weight") is None:
            return False, f"{name}: weight must be a tensor, got None"
        if not is_conv and named.get("activation", "swish") not in fla_norms.ACTIVATIONS:
            return False, f"{name}: activation must be one of {fla_norms.ACTIVATIONS}, got {named['activation']!r}"
        fla_modules.check_options(name, rest)
        return True, None
    whole = {n: named[n] for n in ("return_intermediate_states",) if n in named}
    check_rest(name, {**rest, **whole})
    return True, None
