"""mLSTM on tensors, differentiable: a matrix memory with exponential gates and a normaliser."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import has_torch_function

from ..._check import check_flag
from ..._docs import documented_like
from ..._torch.distributed.dtensors import CUTS, Axes, is_dtensor, on_shards
from ..._torch.ops import CPU_AND_CUDA
from ..._torch.overrides import dispatched
from ..._torch.sequences import backwards, checked_sequences, in_reverse
from .. import _mlstm as arrays
from .._mlstm_shapes import check_mlstm_shapes, check_mlstm_state, checked_numbers, named_state, parts_of
from ._gpu import triton_mlstm  # noqa: F401 (the ops of CUDA tensors)
from .checks import Integers, check_tensors
from .ops import computed
from .ops_mlstm import mlstm as mlstm_op

State = tuple[Tensor, Tensor, Tensor]


_MORE = """
    normalizer_gradient : bool
        Whether gradients flow through the divisor of h. The kernels of the ``mlstm_kernels`` package, apart from the
        ones named "autograd", take the divisor and m for constants, which False reproduces.
"""

_AXES: Axes = {
    "q": ("BTHK",),
    "k": ("BTHK",),
    "v": ("BTNV",),
    "i": ("BTN",),
    "f": ("BTN",),
    "state": ("BNKV", "BNK", "BN"),
    **CUTS,
}


@documented_like(arrays.mlstm, "eps", _MORE)
def mlstm(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    *,
    state: State | None = None,
    scale: float | None = None,
    eps: float = 1e-6,
    normalizer_gradient: bool = True,
    reverse: bool = False,
    reset: Tensor | None = None,
    lengths: Integers | None = None,
    cu_seqlens: Integers | None = None,
) -> tuple[Tensor, State]:
    """C = F C + I k v^T, n = F n + I k, h = C^T q / (max(|n q|, e^-m) + eps): xLSTM's mLSTM on tensors.

    The state may have any of the dtypes and is converted. Differentiable once in every floating-point tensor, including
    m, with gradients from the output and from the last state; second derivatives are refused.

    Tensors may be DTensors sharded by heads or by rows: each rank computes its own.

    %(sections)s

    See Also
    --------
    linear_attention : The memory without normaliser and exponential gates.
    fastiter.torch.slstm : The cell of xLSTM whose states are vectors.
    fastiter.ssm.mlstm : The same on arrays, with references.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> q, k, v = torch.randn(3, 1, 20, 2, 8).unbind()  # one row of 20 steps, 2 heads of width 8
    >>> i, f = torch.randn(2, 1, 20, 2, requires_grad=True).unbind()
    >>> h, (C, n, m) = fastiter.torch.ssm.mlstm(q, k, v, i, f)
    >>> h.shape, C.shape, n.shape, m.shape
    (torch.Size([1, 20, 2, 8]), torch.Size([1, 2, 8, 8]), torch.Size([1, 2, 8]), torch.Size([1, 2]))
    >>> torch.autograd.grad(h.sum(), f)[0].shape
    torch.Size([1, 20, 2])
    """
    function = "mlstm"
    inputs = (q, k, v, i, f)
    parts = parts_of(function, state)
    if has_torch_function((*inputs, *parts, reset, lengths, cu_seqlens)):
        numbers = {"scale": scale, "eps": eps, "normalizer_gradient": normalizer_gradient}
        cuts = {"reverse": reverse, "reset": reset, "lengths": lengths, "cu_seqlens": cu_seqlens}
        result: tuple[Tensor, State] = dispatched(mlstm, *inputs, state=state, **numbers, **cuts)
        return result
    if type(v) is not Tensor and is_dtensor(v):
        named = dict(zip(("q", "k", "v", "i", "f"), inputs, strict=True))
        rest = {"scale": scale, "eps": eps, "normalizer_gradient": normalizer_gradient, "reset": reset}
        more = {"reverse": reverse, "state": state, "lengths": lengths, "cu_seqlens": cu_seqlens}
        result = on_shards(mlstm, {**named, **rest, **more}, _AXES, ("BTNV", ("BNKV", "BNK", "BN")))
        return result
    check_flag(function, "normalizer_gradient", normalizer_gradient)
    check_flag(function, "reverse", reverse)
    tensors = dict(zip(("q", "k", "v", "i", "f"), inputs, strict=True))
    named_parts = {} if state is None else named_state(parts)
    check_tensors(function, {**tensors, **named_parts}, "q", CPU_AND_CUDA)
    sizes = check_mlstm_shapes(function, {name: x.shape for name, x in tensors.items()})
    factor, divisor = checked_numbers(function, scale, eps, sizes.keys, q.dtype == torch.float64)
    cut = checked_sequences(function, q, reset, lengths, cu_seqlens, "q")
    if named_parts:
        shapes = {name: x.shape for name, x in named_parts.items()}
        check_mlstm_state(function, shapes, cut.count(sizes.batch), sizes)
    dtype = computed(q.dtype)
    signals, ordered = backwards(function, cut, *inputs) if reverse else (inputs, cut)
    every = (*signals, *(None if x is None else x.to(dtype) for x in parts))
    h, C, n, m = mlstm_op(*every, factor, divisor, normalizer_gradient, *ordered)[:4]
    return (in_reverse(function, cut, h)[0] if reverse else h), (C, n, m)
