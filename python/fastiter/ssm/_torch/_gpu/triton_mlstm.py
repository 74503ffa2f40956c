"""mLSTM on a GPU: linear attention with decays and factors computed by a kernel of kernels/ssm/triton_mlstm.py.

The normaliser n is an additional column of the state, and the factor of i multiplies the values: C and n are the state
of linear attention with the values e^(i - m) (v, 1).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...._torch import launch
from ...._torch.ops import contiguous
from ..ops import GPU_TILE, plain
from ..ops_attention import AttentionBackward, AttentionForward
from ..ops_mlstm import (
    MlstmBackward,
    MlstmForward,
    along_m,
    as_arguments,
    empty_gradients,
    forward_outputs,
    mlstm_bwd,
    mlstm_fwd,
)
from .triton_attention import backward as attention_backward
from .triton_attention import forward as attention_forward
from .triton_chunks import Cut, cut_of, strides

#: Lanes (heads of sequences) per program of the gates' kernels, and steps that a program loads before it computes
_LANES, _UNROLL = 32, 8


class _Gates(NamedTuple):
    """The scales of the steps computed from the gates, (B, T, N) in the dtype of the arithmetic, and the last m."""

    decay: Tensor
    enter: Tensor
    m: Tensor
    last: Tensor


def _run(kernel: str, call: Any, cut: Cut, state: torch.dtype, arguments: dict[str, Any]) -> None:
    import triton.language as tl

    heads = call.v.shape[2]
    programs = -(-cut.sequences * heads // _LANES)
    if not programs:
        return
    i, f = plain(call.i), plain(call.f)
    flags = {"reset": cut.reset, "lengths": cut.lengths, "starts": cut.starts, "reset_row": cut.reset_row}
    sizes = {"sequences": cut.sequences, "time": cut.time, "heads": heads}
    constants = {"STATE": tl.float64 if state == torch.float64 else tl.float32, "UNROLL": _UNROLL, "LANES": _LANES}
    with launch.on(call.v):
        launcher = getattr(launch.triton_kernels("mlstm", "ssm/triton_mlstm"), f"mlstm_gates_{kernel}_kernel")
        launcher[(programs,)](
            i=i,
            f=f,
            **arguments,
            **flags,
            **strides(i=i, f=f),
            **sizes,
            **constants,
            num_warps=1,
            enable_fp_fusion=True,
        )


def _gates(call: Any, cut: Cut, last: Tensor) -> _Gates:
    """Compute the gates of all steps; those beyond the lengths are zero."""
    decay, enter, m = (last.new_empty(call.v.shape[:3]) for _ in range(3))
    gates = _Gates(decay, enter, m, last)
    if cut.lengths is not None:
        for x in gates[:3]:
            x.zero_()
    _run("fwd", call, cut, last.dtype, {**gates._asdict(), "first": contiguous(call.m)})
    return gates


def _values(call: Any, enter: Tensor) -> Tensor:
    """Return e^(i - m) (v, 1), (B, T, N, V + 1)."""
    return torch.cat((call.v * enter.unsqueeze(3), enter.unsqueeze(3)), 3)


def _with_n(C: Tensor | None, n: Tensor | None, like: Tensor | None = None) -> Tensor | None:
    """Return (C, n) as one state; if only one of them is None, it counts as zero."""
    if C is None and n is None:
        return None
    if C is None:
        C = torch.zeros_like(like)  # type: ignore[arg-type]
    return torch.cat((C, (torch.zeros_like(C[..., 0]) if n is None else n).unsqueeze(3)), 3)


def _attend(call: Any, gates: _Gates, values: Tensor, first: Tensor | None, save: bool) -> list[Tensor]:
    """Return C^T q and the product q n of every step, then the last states and the saved ones."""
    arguments = (call.q, call.k, values, gates.decay, None, first, False, call.scale)
    return attention_forward(AttentionForward(*arguments, call.reset, call.lengths, call.cu_seqlens, save))


def _divisor(product: Tensor, m: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return max(|q n|, e^-m) + eps, and the derivative of the maximum with respect to q n."""
    smallest = torch.exp(-m)
    size = product.abs()
    return torch.maximum(size, smallest) + eps, torch.where(size > smallest, product.sign(), 0.0)


def forward(call: MlstmForward) -> list[Tensor]:
    """Implement the forward op on a GPU."""
    h, C, n, m, *saved = outputs = forward_outputs(call, GPU_TILE)
    gates = _gates(call, cut_of("mlstm", call), m)
    o, last, *states = _attend(call, gates, _values(call, gates.enter), _with_n(call.C, call.n), call.save)
    divisor, _ = _divisor(o[..., -1], gates.m, call.eps)
    torch.div(o[..., :-1], divisor.unsqueeze(3), out=h)
    C.copy_(last[..., :-1])
    n.copy_(last[..., -1])
    if saved:
        saved[0].copy_(states[0][..., :-1])
        saved[1].copy_(states[0][..., -1])
        saved[2].zero_()  # not needed, as the backward pass recomputes m
    return outputs


class _Output(NamedTuple):
    """The gradients of C^T q and q n, (B, T, N, V + 1), and the gradient of the divisor of h."""

    d_o: Tensor | None
    d_divisor: Tensor


def _through_output(call: MlstmBackward, gates: _Gates, values: Tensor) -> _Output:
    """Return the gradients of the quantities that determine h, which are recomputed."""
    if call.dh is None:
        return _Output(None, torch.zeros_like(gates.m))
    o = _attend(call, gates, values, _with_n(call.C, call.n), False)[0]
    divisor, slope = _divisor(o[..., -1], gates.m, call.eps)
    dh = call.dh.to(o.dtype) / divisor.unsqueeze(3)
    d_divisor = torch.zeros_like(divisor)
    if call.through_normalizer:
        d_divisor.sub_((dh * o[..., :-1]).sum(3) / divisor)
    return _Output(torch.cat((dh, (d_divisor * slope).unsqueeze(3)), 3), d_divisor)


def _through_attention(call: MlstmBackward, gates: _Gates, values: Tensor, d_o: Tensor | None) -> list[Tensor]:
    """Return dq, dk, and the gradients of the values, of the decay and of the first states."""
    states, dlast = _with_n(call.saved_C, call.saved_n), _with_n(call.dlast_C, call.dlast_n, call.last_C)
    assert states is not None  # for the type checker
    arguments = (call.q, call.k, values, gates.decay, None, states, d_o, dlast, False, call.scale)
    return attention_backward(
        AttentionBackward(*arguments, call.reset, call.lengths, call.cu_seqlens, requested=0b101111)
    )


def backward(call: MlstmBackward) -> list[Tensor]:
    """Implement the backward op on a GPU."""
    gradients = empty_gradients(call)
    dm = gradients[7]
    assert dm is not None  # for the type checker
    cut = cut_of("mlstm", call)
    gates = _gates(call, cut, torch.empty_like(dm))
    values = _values(call, gates.enter)
    output = _through_output(call, gates, values)
    q, k, d_values, d_decay, d_first = _through_attention(call, gates, values, output.d_o)
    weighted = d_values * gates.enter.unsqueeze(3)
    # The last C and n are relative to m, so a larger m makes them smaller.
    dm.zero_().sub_(along_m(call.last_C, call.dlast_C)).sub_(along_m(call.last_n, call.dlast_n))
    if call.dlast_m is not None:
        dm += call.dlast_m
    others = {"m": gates.m, "first": contiguous(call.m), "dm": dm}
    d_enter = (weighted[..., :-1] * call.v).sum(3) + weighted[..., -1]
    to = {"di": torch.zeros_like(gates.m), "df": torch.zeros_like(gates.m), "d_enter": d_enter}
    to |= {"d_decay": d_decay * gates.decay, "d_divisor": output.d_divisor}
    _run("bwd", call, cut, dm.dtype, {**others, **to, "eps": call.eps})
    for place, x in enumerate((q, k, weighted[..., :-1], to["di"], to["df"], d_first[..., :-1], d_first[..., -1])):
        own = gradients[place]
        if own is not None:
            own.copy_(x)
    for state, gradient in ((call.C, d_first[..., :-1]), (call.n, d_first[..., -1])):
        dm += 0.0 if state is None else along_m(state, gradient)
    return as_arguments(call, gradients)


mlstm_fwd.on_cuda(forward)
mlstm_bwd.on_cuda(backward)
