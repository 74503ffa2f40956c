"""The generalised delta rule on tensors, differentiable: S = diag(decay) S' + b (S'^T a)^T + k v^T, o = scale S^T q."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import has_torch_function

from ..._check import check_flag
from ..._docs import documented_like
from ..._torch.distributed.dtensors import is_dtensor, on_shards
from ..._torch.elementwise import exp
from ..._torch.ops import CPU_AND_CUDA
from ..._torch.overrides import dispatched
from ..._torch.sequences import Sequences, backwards, checked_sequences, in_reverse
from .. import _low_rank as arrays
from .._attention_shapes import (
    AttentionSizes,
    check_attention_shapes,
    check_attention_state,
    check_correction_shapes,
    checked_scale,
    chosen_decay,
)
from ._gpu import triton_low_rank  # noqa: F401 (the ops of CUDA tensors)
from .attention import AXES, varying_decay
from .checks import Integers, check_tensors
from .ops import computed
from .ops_low_rank import low_rank

_AXES = {**AXES, "a": ("BTNK",), "b": ("BTNK",)}


@documented_like(arrays.dplr_delta_rule)
def dplr_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    log_decay: Tensor | None = None,
    *,
    decay: Tensor | None = None,
    scale: float = 1.0,
    state: Tensor | None = None,
    reverse: bool = False,
    reset: Tensor | None = None,
    lengths: Integers | None = None,
    cu_seqlens: Integers | None = None,
) -> tuple[Tensor, Tensor]:
    """S[t] = (diag(decay[t]) + b[t] a[t]^T) S[t-1] + k[t] v[t]^T, o[t] = scale S[t]^T q[t], on tensors.

    state may have any of the dtypes and is converted. Differentiable once in every floating-point tensor, with
    gradients from the output and from the last state; second derivatives are refused.

    Tensors may be DTensors sharded by heads or by rows: each rank computes its own.

    %(sections)s

    See Also
    --------
    linear_attention : The rule without the correction.
    fastiter.torch.delta_scan : The delta rule with a beta for each step.
    fastiter.ssm.dplr_delta_rule : The same on arrays, with references.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> q, k, v = torch.randn(3, 1, 20, 2, 8).unbind()  # one row of 20 steps, 2 heads of width 8
    >>> k = torch.nn.functional.normalize(k, dim=-1)
    >>> o, last = fastiter.torch.ssm.dplr_delta_rule(q, k, v, k, -k)  # the delta rule with beta 1
    >>> torch.allclose(o, fastiter.torch.delta_scan(q, k, v, torch.ones(1, 20, 2))[0], atol=1e-5)
    True
    """
    function = "dplr_delta_rule"
    inputs = (q, k, v, a, b, log_decay)
    options: dict[str, Any] = {"decay": decay, "state": state, "reset": reset}
    cuts: dict[str, Any] = {"lengths": lengths, "cu_seqlens": cu_seqlens}
    plain: dict[str, Any] = {"scale": scale, "reverse": reverse}
    if has_torch_function((*inputs, *options.values(), *cuts.values())):
        result: tuple[Tensor, Tensor] = dispatched(dplr_delta_rule, *inputs, **plain, **options, **cuts)
        return result
    if type(v) is not Tensor and is_dtensor(v):
        every = dict(zip(("q", "k", "v", "a", "b", "log_decay"), inputs, strict=True))
        result = on_shards(dplr_delta_rule, {**every, **plain, **options, **cuts}, _AXES, ("BTNV", "BNKV"))
        return result
    required = ("q", "k", "v", "a", "b")
    named: dict[str, Any] = dict(zip((*required, "log_decay"), inputs, strict=True))
    named |= {"decay": decay, "state": state}
    tensors = {name: x for name, x in named.items() if x is not None or name in required}
    check_tensors(function, tensors, "q", CPU_AND_CUDA)
    decays, form = chosen_decay(function, {"log_decay": log_decay, "decay": decay})
    factor = checked_scale(function, scale, q.dtype == torch.float64)
    shapes = {name: x.shape for name, x in tensors.items()}
    sizes = check_attention_shapes(function, shapes)
    check_correction_shapes(function, shapes, sizes)
    check_flag(function, "reverse", reverse)
    cut = checked_sequences(function, q, reset, lengths, cu_seqlens, "q")
    first = _checked_state(function, state, q, sizes, cut)
    ordered = cut
    if reverse:
        (q, k, v, a, b, varying), ordered = backwards(function, cut, q, k, v, a, b, varying_decay(decays))
        decays = decays if varying is None else varying
    if decays is not None and decays.dim() == 1:
        decays = decays.expand(sizes.batch, sizes.time, sizes.heads)
    o, last = low_rank(q, k, v, decays, a, b, None, first, form, factor, *ordered)[:2]
    return (in_reverse(function, cut, o)[0] if reverse else o), last


class DeltaTensors(NamedTuple):
    """The tensors of the delta rule with a decay for each key, whose logarithm is g (B, T, N, K); beta is (B, T, N)."""

    q: Tensor
    k: Tensor
    v: Tensor
    g: Tensor
    beta: Tensor
    state: Tensor | None


def key_decay_delta_rule(
    function: str, inputs: DeltaTensors, scale: float, cu_seqlens: Integers | None
) -> tuple[Tensor, Tensor]:
    """R = diag(e^g[t]) S[t-1], S[t] = R + beta[t] k[t] (v[t] - R^T k[t])^T, o[t] = scale S[t]^T q[t].

    This is :func:`dplr_delta_rule` with a = -beta e^g k, b = k and values beta v, which the kernel computes tile by
    tile. Error messages begin with ``function``.
    """
    if has_torch_function((*inputs, cu_seqlens)):
        result: tuple[Tensor, Tensor] = dispatched(key_decay_delta_rule, function, inputs, scale, cu_seqlens)
        return result
    q, k, v, g, beta, state = inputs
    check_tensors(function, {name: x for name, x in inputs._asdict().items() if x is not None}, "q", CPU_AND_CUDA)
    sizes = check_attention_shapes(function, {"q": q.shape, "k": k.shape, "v": v.shape})
    steps = (sizes.batch, sizes.time, sizes.heads)
    for name, x, expected in (("g", g, (*steps, sizes.keys)), ("beta", beta, steps)):
        if tuple(x.shape) != expected:
            raise ValueError(f"{function}: {name} must have shape {expected} to go with v, got {tuple(x.shape)}")
    cut = checked_sequences(function, q, None, None, cu_seqlens, "q")
    first = _checked_state(function, state, q, sizes, cut)
    rest = (1, checked_scale(function, scale, q.dtype == torch.float64), *cut)
    tensors = (*_corrections(inputs), None) if q.is_cuda else (q, k, v, g, None, None, beta)
    o, last = low_rank(*tensors, first, *rest)[:2]
    return o, last


def _corrections(inputs: DeltaTensors) -> tuple[Tensor, ...]:
    """Return q, k, v, g, a and b of :func:`dplr_delta_rule`, which the GPU kernels do not compute themselves."""
    q, k, v, g, beta, _ = inputs
    shared = v.shape[2] // k.shape[2]
    if shared > 1:
        q, k = (x.repeat_interleave(shared, 2) for x in (q, k))
    keys = k.to(computed(v.dtype))
    written = beta[..., None] * keys
    return q, written, v, g, (exp(g.to(keys.dtype)) * keys).neg_(), written


def _checked_state(
    function: str, state: Tensor | None, q: Tensor, sizes: AttentionSizes, cut: Sequences
) -> Tensor | None:
    """Return the initial state in the dtype of the arithmetic."""
    if state is None:
        return None
    check_attention_state(function, state.shape, cut.count(sizes.batch), sizes, cut.cu_seqlens is not None)
    return state.to(computed(q.dtype))
