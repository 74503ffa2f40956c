"""The delta rule and its gated forms with the signatures of flash-linear-attention (fla)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...._torch.elementwise import exp, sigmoid, softplus
from ....delta._torch.functional import delta_scan
from ..ops import computed
from .docs_fla import documented_fla
from .fla_common import FlaState, check_rest, checked, l2norm

State = Tensor | None


class _Gates(NamedTuple):
    """The parameters that determine beta and the decay of a head."""

    use_gate: bool = False
    A_log: Tensor | None = None
    dt_bias: Tensor | None = None
    beta_sigmoid: bool = False
    allow_neg_eigval: bool = False

    def parts(self) -> dict[str, tuple[Tensor | None, str]]:
        """Return A_log and dt_bias in the form that :func:`checked` takes."""
        return {"A_log": (self.A_log, "N"), "dt_bias": (self.dt_bias, "N")} if self.use_gate else {}

    def beta(self, beta: Tensor) -> Tensor:
        if not self.beta_sigmoid:
            return beta
        result = sigmoid(beta.to(computed(beta.dtype)))
        return 2 * result if self.allow_neg_eigval else result

    def log_decay(self, function: str, g: Tensor | None) -> Tensor | None:
        if g is None or not self.use_gate:
            return g
        if self.A_log is None:
            raise ValueError(f"{function}: A_log must be a tensor if use_gate_in_kernel is True, got None")
        wide = g.to(computed(g.dtype))
        raw = wide if self.dt_bias is None else wide + self.dt_bias.to(wide.dtype)
        return -exp(self.A_log.to(wide.dtype)) * softplus(raw)


def _delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None,
    state: FlaState,
    scale: float,
    normalize: bool,
) -> tuple[Tensor, State]:
    """Compute (o, final state or None) of the delta rule with fla's conventions, for checked arguments."""
    dtype, wide = q.dtype, computed(q.dtype)
    q, k = (l2norm(x) for x in (q, k)) if normalize else (q, k)
    shared = v.shape[-2] // q.shape[2]
    q, k, v, beta = (x.to(wide) for x in (q, k, v, beta))
    q = q * scale
    if shared > 1:  # value heads that share a key head
        q, k = (x.repeat_interleave(shared, -2) for x in (q, k))
    first, decay = state.first(), None if log_decay is None else exp(log_decay.to(wide))
    first = None if first is None else first.to(wide)
    o, last = delta_scan(q, k, v, beta, first, decay=decay, cu_seqlens=state.cu_seqlens)
    return o.to(dtype), state.last(last)


@documented_fla()
def chunk_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: State = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """S = S + beta k (v - S^T k)^T, o = S^T q: fla's function of this name.

    Parameters
    ----------
    %(parameters)s

    %(result)s

    See Also
    --------
    chunk_gated_delta_rule : With a decay.
    fastiter.torch.delta_scan : The function that it calls.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.fla import chunk_delta_rule
    >>> k = torch.eye(2)[[0, 1, 0]].view(1, 3, 1, 2)  # the third step writes to the same place as the first
    >>> v = torch.tensor([5.0, 6.0, 7.0]).view(1, 3, 1, 1)
    >>> _, state = chunk_delta_rule(k, k, v, torch.ones(1, 3, 1), output_final_state=True)
    >>> state.flatten()  # and replaces it
    tensor([7., 6.])
    """
    check_rest("chunk_delta_rule", rest)
    state = FlaState("chunk_delta_rule", initial_state, output_final_state, cu_seqlens)
    factor = checked(state, q, k, v, scale, {"beta": (beta, "BTN")})
    return _delta(q, k, v, beta, None, state, factor, use_qk_l2norm_in_kernel)


@documented_fla()
def fused_recurrent_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor | None = None,
    scale: float | None = None,
    initial_state: State = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """S = S + beta k (v - S^T k)^T with beta 1 by default, o = S^T q: fla's function of this name.

    Parameters
    ----------
    %(parameters)s

    %(result)s

    See Also
    --------
    chunk_delta_rule : The same, with beta required.
    fused_recurrent_gated_delta_rule : With a decay.
    fastiter.torch.delta_scan : The function that it calls.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.fla import fused_recurrent_delta_rule
    >>> k, v = torch.tensor([3.0, 4.0]).expand(1, 2, 1, 2), torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)
    >>> o, _ = fused_recurrent_delta_rule(k, k, v, scale=1.0, use_qk_l2norm_in_kernel=True)
    >>> o.flatten()
    tensor([1., 2.])
    """
    check_rest("fused_recurrent_delta_rule", rest)
    state = FlaState("fused_recurrent_delta_rule", initial_state, output_final_state, cu_seqlens)
    factor = checked(state, q, k, v, scale, {}, {"beta": (beta, "BTN")})
    strength = torch.ones_like(v[..., 0]) if beta is None else beta
    return _delta(q, k, v, strength, None, state, factor, use_qk_l2norm_in_kernel)


@documented_fla(dt_bias="dt_bias_heads")
def chunk_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: State = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    *,
    use_gate_in_kernel: bool = False,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """R = e^g S, S = R + beta k (v - R^T k)^T, o = S^T q: fla's function of this name.

    Parameters
    ----------
    %(parameters)s

    %(result)s

    See Also
    --------
    chunk_kda : With a decay for each key.
    chunk_delta_rule : Without a decay.
    fastiter.torch.delta_scan : The function that it calls.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.fla import chunk_gated_delta_rule
    >>> k = torch.eye(2)[[0, 1]].view(1, 2, 1, 2)
    >>> v = torch.tensor([4.0, 6.0]).view(1, 2, 1, 1)
    >>> g = torch.full((1, 2, 1), 0.5).log()
    >>> _, state = chunk_gated_delta_rule(k, k, v, g, torch.ones(1, 2, 1), output_final_state=True)
    >>> state.flatten()  # the first value has halved
    tensor([2., 6.])
    """
    function = "chunk_gated_delta_rule"
    check_rest(function, rest)
    gates = _Gates(use_gate_in_kernel, A_log, dt_bias, use_beta_sigmoid_in_kernel, allow_neg_eigval)
    state = FlaState(function, initial_state, output_final_state, cu_seqlens, state_v_first=state_v_first)
    factor = checked(state, q, k, v, scale, {"beta": (beta, "BTN")}, {"g": (g, "BTN"), **gates.parts()})
    decay = gates.log_decay(function, g)
    return _delta(q, k, v, gates.beta(beta), decay, state, factor, use_qk_l2norm_in_kernel)


@documented_fla(dt_bias="dt_bias_heads", gk="gk_none")
def fused_recurrent_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    gk: Tensor | None = None,
    gv: Tensor | None = None,
    beta: Tensor | None = None,
    scale: float | None = None,
    initial_state: State = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """R = e^g S, S = R + beta k (v - R^T k)^T, o = S^T q; gk and gv must be None: fla's function of this name.

    Parameters
    ----------
    %(parameters)s

    %(result)s

    See Also
    --------
    chunk_gated_delta_rule : The same, with g and beta required.
    fused_recurrent_kda : With a decay for each key.
    fastiter.torch.delta_scan : The function that it calls.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.fla import fused_recurrent_gated_delta_rule
    >>> k = torch.eye(2)[[0, 1]].view(1, 2, 1, 2)
    >>> v = torch.tensor([4.0, 6.0]).view(1, 2, 1, 1)
    >>> g = torch.full((1, 2, 1), 0.5).log()
    >>> _, state = fused_recurrent_gated_delta_rule(k, k, v, g, output_final_state=True)
    >>> state.flatten()
    tensor([2., 6.])
    """
    function = "fused_recurrent_gated_delta_rule"
    check_rest(function, {"gv": gv, **rest})
    if gk is not None:
        raise ValueError(f"{function}: gk must be None, as only kda has a decay for each key, got a tensor")
    gates = _Gates(use_gate_in_kernel, A_log, dt_bias, use_beta_sigmoid_in_kernel, allow_neg_eigval)
    state = FlaState(function, initial_state, output_final_state, cu_seqlens, state_v_first=state_v_first)
    parts = {"g": (g, "BTN"), "beta": (beta, "BTN"), **gates.parts()}
    factor = checked(state, q, k, v, scale, {}, parts)
    strength = torch.ones_like(v[..., 0]) if beta is None else gates.beta(beta)
    return _delta(q, k, v, strength, gates.log_decay(function, g), state, factor, use_qk_l2norm_in_kernel)


@documented_fla(k="k_factors", v="v_factors", beta="beta_factors")
def chunk_gated_delta_product(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    beta: Tensor,
    num_householder: int,
    scale: float | None = None,
    initial_state: State = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """num_householder factors of the delta rule per step, with their k, v and beta consecutive along time.

    k, v and beta are (B, T num_householder, H, ...): fla's function of this name.

    Parameters
    ----------
    %(parameters)s

    %(result)s

    See Also
    --------
    chunk_gated_delta_rule : One factor for each step.
    fastiter.torch.delta_scan : The function that it calls.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.fla import chunk_gated_delta_product
    >>> k = torch.eye(2).view(1, 2, 1, 2)  # one step, which writes to two places
    >>> v = torch.tensor([4.0, 6.0]).view(1, 2, 1, 1)
    >>> q = torch.ones(1, 1, 1, 2)
    >>> o, _ = chunk_gated_delta_product(q, k, v, None, torch.ones(1, 2, 1), num_householder=2, scale=1.0)
    >>> o.flatten()
    tensor([10.])
    """
    check_rest("chunk_gated_delta_product", rest)
    state = FlaState("chunk_gated_delta_product", initial_state, output_final_state, cu_seqlens)
    if not isinstance(num_householder, int) or num_householder < 1:
        raise ValueError(f"{state.function}: num_householder must be an int of at least 1, got {num_householder!r}")
    factor = checked(state, q, k, v, scale, {"beta": (beta, "BFN")}, {"g": (g, "BTN")}, num_householder)
    k, v, beta = (x.unflatten(1, (q.shape[1], num_householder)) for x in (k, v, beta))
    return _delta(q, k, v, beta, g, state, factor, use_qk_l2norm_in_kernel)


chunk_gdn, fused_recurrent_gdn = chunk_gated_delta_rule, fused_recurrent_gated_delta_rule
fused_chunk_delta_rule = chunk_delta_rule
