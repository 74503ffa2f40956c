"""Linear attention on tensors, differentiable: S[t] = decay[t] S[t-1] + k v^T, o[t] = scale S[t]^T q[t]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import has_torch_function

from ..._check import check_flag
from ..._docs import documented_like
from ..._torch.distributed.dtensors import CUTS, Axes, is_dtensor, on_shards
from ..._torch.ops import CPU_AND_CUDA
from ..._torch.overrides import dispatched
from ..._torch.sequences import backwards, checked_sequences, in_reverse
from .. import _attention as arrays
from .._attention_shapes import check_attention_shapes, check_attention_state, checked_scale, chosen_decay
from ._gpu import triton_attention  # noqa: F401 (the ops of CUDA tensors)
from .checks import Integers, check_tensors
from .ops import computed
from .ops_attention import attention

#: The axes of the arguments, in the letters of `Axes`
AXES: Axes = {
    "q": ("BTHK",),
    "k": ("BTHK",),
    "v": ("BTNV",),
    "log_decay": ("N", "BTN", "BTNK"),
    "decay": ("N", "BTN", "BTNK"),
    "bonus": ("NK",),
    "state": ("BNKV",),
    **CUTS,
}


@documented_like(arrays.linear_attention)
def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None = None,
    *,
    decay: Tensor | None = None,
    bonus: Tensor | None = None,
    scale: float = 1.0,
    state: Tensor | None = None,
    reverse: bool = False,
    reset: Tensor | None = None,
    lengths: Integers | None = None,
    cu_seqlens: Integers | None = None,
) -> tuple[Tensor, Tensor]:
    """S[t] = decay[t] S[t-1] + k[t] v[t]^T, o[t] = scale S[t]^T q[t]: attention whose memory is a matrix, on tensors.

    bonus and state may have any of the dtypes and are converted. Differentiable once in every floating-point
    tensor, with gradients from the output and from the last state; second derivatives are refused.

    Tensors may be DTensors sharded by heads or by rows: each rank computes its own.

    %(sections)s

    See Also
    --------
    ssd : The same with Mamba-2's names and layout.
    dplr_delta_rule : Linear attention with a correction of the state at each step.
    fastiter.ssm.linear_attention : The same on arrays, with references.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> q, k, v = torch.randn(3, 1, 20, 2, 8).unbind()  # one row of 20 steps, 2 heads of width 8
    >>> gates = torch.randn(1, 20, 2, 8, requires_grad=True)
    >>> o, last = fastiter.torch.ssm.linear_attention(q, k, v, torch.nn.functional.logsigmoid(gates))
    >>> o.shape, last.shape, torch.autograd.grad(o.sum(), gates)[0].shape
    (torch.Size([1, 20, 2, 8]), torch.Size([1, 2, 8, 8]), torch.Size([1, 20, 2, 8]))
    """
    function = "linear_attention"
    inputs = (q, k, v, log_decay)
    options = {"decay": decay, "bonus": bonus, "state": state, "reset": reset}
    cuts: dict[str, Any] = {"lengths": lengths, "cu_seqlens": cu_seqlens}
    plain: dict[str, Any] = {"scale": scale, "reverse": reverse}
    if has_torch_function((*inputs, *options.values(), *cuts.values())):
        result: tuple[Tensor, Tensor] = dispatched(linear_attention, *inputs, **options, **plain, **cuts)
        return result
    if type(v) is not Tensor and is_dtensor(v):
        first = dict(zip(("q", "k", "v", "log_decay"), inputs, strict=True))
        result = on_shards(linear_attention, {**first, **options, **plain, **cuts}, AXES, ("BTNV", "BNKV"))
        return result
    named: dict[str, Any] = dict(zip(("q", "k", "v", "log_decay"), inputs, strict=True))
    named |= {"decay": decay, "bonus": bonus, "state": state}
    tensors = {name: x for name, x in named.items() if x is not None or name in ("q", "k", "v")}
    check_tensors(function, tensors, "q", CPU_AND_CUDA)
    decays, form = chosen_decay(function, {"log_decay": log_decay, "decay": decay})
    factor = checked_scale(function, scale, q.dtype == torch.float64)
    sizes = check_attention_shapes(function, {name: x.shape for name, x in tensors.items()})
    check_flag(function, "reverse", reverse)
    cut = checked_sequences(function, q, reset, lengths, cu_seqlens, "q")
    if state is not None:
        check_attention_state(function, state.shape, cut.count(sizes.batch), sizes, cut.cu_seqlens is not None)
    ordered = cut
    if reverse:
        (q, k, v, varying), ordered = backwards(function, cut, q, k, v, varying_decay(decays))
        decays = decays if varying is None else varying
    if decays is not None and decays.dim() == 1:
        decays = decays.expand(sizes.batch, sizes.time, sizes.heads)
    dtype = computed(q.dtype)
    exact = (None if x is None else x.to(dtype) for x in (bonus, state))
    o, last = attention(q, k, v, decays, *exact, form, factor, *ordered)[:2]
    return (in_reverse(function, cut, o)[0] if reverse else o), last


def varying_decay(decay: Tensor | None) -> Tensor | None:
    """Return a decay that has an axis of steps, else None."""
    return None if decay is None or decay.dim() == 1 else decay
