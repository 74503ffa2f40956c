"""The delta rule with a decay for each key, and RWKV-7, with the signatures of flash-linear-attention (fla)."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from ...._torch.elementwise import exp, sigmoid, softplus
from ..low_rank import DeltaTensors, dplr_delta_rule, key_decay_delta_rule
from ..ops import computed
from .docs_fla import documented_fla
from .fla_common import FlaState, check_rest, checked, l2norm

State = Tensor | None


class _KdaGates(NamedTuple):
    """The parameters that determine beta and the decay of each key; ``normalize`` is whether q and k are normalised."""

    g: Tensor
    beta: Tensor
    use_gate: bool
    A_log: Tensor | None
    dt_bias: Tensor | None
    beta_sigmoid: bool
    allow_neg_eigval: bool
    lower_bound: float | None
    normalize: bool

    def check(self, function: str, q: Tensor, heads: int) -> None:
        """Check the parameters of the gate."""
        if not self.use_gate:
            return
        if self.A_log is None and self.lower_bound is None:
            raise ValueError(f"{function}: A_log must be a tensor if use_gate_in_kernel is True, got None")
        for name, x, count in (("A_log", self.A_log, heads), ("dt_bias", self.dt_bias, heads * q.shape[3])):
            if x is None:
                continue
            if not isinstance(x, Tensor):
                raise TypeError(f"{function}: {name} must be a torch.Tensor, got {type(x).__qualname__}")
            if x.numel() != count:
                raise ValueError(f"{function}: {name} must have {count} elements, got shape {tuple(x.shape)}")

    def strength(self) -> Tensor:
        """Return beta (B, T, N) in the dtype of the arithmetic."""
        wide = self.beta.to(computed(self.beta.dtype))
        if not self.beta_sigmoid:
            return wide
        return 2 * sigmoid(wide) if self.allow_neg_eigval else sigmoid(wide)

    def log_decay(self) -> Tensor:
        """Return g (B, T, N, K) in the dtype of the arithmetic."""
        wide = self.g.to(computed(self.g.dtype))
        if not self.use_gate:
            return wide
        raw = wide if self.dt_bias is None else wide + self.dt_bias.to(wide.dtype).view(wide.shape[-2:])
        rate = 1.0 if self.A_log is None else exp(self.A_log.to(wide.dtype)).view(-1, 1)
        if self.lower_bound is not None:
            return self.lower_bound * sigmoid(rate * raw)
        return -rate * softplus(raw)


def _kda(
    q: Tensor, k: Tensor, v: Tensor, gates: _KdaGates, state: FlaState, scale: float | None
) -> tuple[Tensor, State]:
    """S = R + beta k (v - R^T k)^T with R = diag(e^g) S, o = S^T q, after the gates."""
    factor = checked(state, q, k, v, scale, {"g": (gates.g, "BTNK"), "beta": (gates.beta, "BTN")})
    gates.check(state.function, q, v.shape[2])
    dtype = v.dtype
    if gates.normalize:
        q, k = l2norm(q), l2norm(k)
    tensors = DeltaTensors(q, k, v, gates.log_decay(), gates.strength(), state.first())
    o, last = key_decay_delta_rule(state.function, tensors, factor, state.cu_seqlens)
    return o.to(dtype), state.last(last)


@documented_fla(g="g_keys")
def chunk_kda(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: State = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    safe_gate: bool = False,
    lower_bound: float | None = None,
    disable_recompute: bool = False,
    return_intermediate_states: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    *,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """R = diag(e^g) S, S = R + beta k (v - R^T k)^T, o = S^T q: fla's function of this name.

    Parameters
    ----------
    %(parameters)s

    %(result)s

    See Also
    --------
    chunk_gated_delta_rule : With one decay for each head.
    fused_recurrent_kda : The same without the options for chunks.
    fastiter.torch.ssm.dplr_delta_rule : The general rule.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.fla import chunk_kda
    >>> k = torch.eye(2)[[0, 1]].view(1, 2, 1, 2)
    >>> v = torch.tensor([4.0, 6.0]).view(1, 2, 1, 1)
    >>> g = torch.tensor([0.5, 1.0]).log().expand(1, 2, 1, 2)
    >>> _, state = chunk_kda(k, k, v, g, torch.ones(1, 2, 1), output_final_state=True)
    >>> state.flatten()  # the first value has halved
    tensor([2., 6.])
    """
    function = "chunk_kda"
    check_rest(function, {"return_intermediate_states": return_intermediate_states, **rest})
    options = (use_beta_sigmoid_in_kernel, allow_neg_eigval, lower_bound, use_qk_l2norm_in_kernel)
    gates = _KdaGates(g, beta, use_gate_in_kernel, A_log, dt_bias, *options)
    state = FlaState(function, initial_state, output_final_state, cu_seqlens, state_v_first=state_v_first)
    return _kda(q, k, v, gates, state, scale)


@documented_fla(g="g_keys")
def fused_recurrent_kda(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    scale: float | None = None,
    initial_state: State = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    lower_bound: float | None = None,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """R = diag(e^g) S, S = R + beta k (v - R^T k)^T, o = S^T q: fla's function of this name.

    Parameters
    ----------
    %(parameters)s

    %(result)s

    See Also
    --------
    chunk_kda : The same under fla's other name.
    fused_recurrent_gated_delta_rule : With one decay for each head.
    fastiter.torch.ssm.dplr_delta_rule : The general rule.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.fla import fused_recurrent_kda
    >>> k = torch.eye(2)[[0, 1]].view(1, 2, 1, 2)
    >>> v = torch.tensor([4.0, 6.0]).view(1, 2, 1, 1)
    >>> g = torch.tensor([0.5, 1.0]).log().expand(1, 2, 1, 2)
    >>> o, _ = fused_recurrent_kda(k, k, v, g, torch.ones(1, 2, 1), scale=1.0)
    >>> o.flatten()
    tensor([4., 6.])
    """
    function = "fused_recurrent_kda"
    check_rest(function, rest)
    options = (use_beta_sigmoid_in_kernel, allow_neg_eigval, lower_bound, use_qk_l2norm_in_kernel)
    gates = _KdaGates(g, beta, use_gate_in_kernel, A_log, dt_bias, *options)
    state = FlaState(function, initial_state, output_final_state, cu_seqlens, state_v_first=state_v_first)
    return _kda(q, k, v, gates, state, scale)


def _dplr(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    gk: Tensor,
    scale: float | None,
    state: FlaState,
) -> tuple[Tensor, State]:
    decay = "w" if state.query == "r" else "gk"
    parts = {name: (x, "BTNK") for name, x in (("a", a), ("b", b), (decay, gk))}
    factor = checked(state, q, k, v, scale, parts)
    o, last = dplr_delta_rule(q, k, v, a, b, gk, scale=factor, **state.options())
    return o.to(q.dtype), state.last(last)


@documented_fla(gk="gk_given")
def chunk_dplr_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    gk: Tensor,
    scale: float | None = None,
    initial_state: State = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """S = diag(e^gk) S + b (S^T a)^T + k v^T, o = S^T q: fla's function of this name.

    Parameters
    ----------
    %(parameters)s

    %(result)s

    See Also
    --------
    fused_recurrent_dplr_delta_rule : With ``reverse``.
    chunk_rwkv7 : The same by the names of RWKV-7.
    fastiter.torch.ssm.dplr_delta_rule : The function that it calls.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.fla import chunk_dplr_delta_rule
    >>> k = torch.eye(2)[[0, 1, 0]].view(1, 3, 1, 2)  # the third step writes to the same place as the first
    >>> v = torch.tensor([5.0, 6.0, 7.0]).view(1, 3, 1, 1)
    >>> _, state = chunk_dplr_delta_rule(k, k, v, k, -k, torch.zeros(1, 3, 1, 2), output_final_state=True)
    >>> state.flatten()  # and replaces it
    tensor([7., 6.])
    """
    check_rest("chunk_dplr_delta_rule", rest)
    state = FlaState("chunk_dplr_delta_rule", initial_state, output_final_state, cu_seqlens)
    return _dplr(q, k, v, a, b, gk, scale, state)


@documented_fla(gk="gk_given")
def fused_recurrent_dplr_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    gk: Tensor,
    scale: float | None = None,
    initial_state: State = None,
    output_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """S = diag(e^gk) S + b (S^T a)^T + k v^T, o = S^T q: fla's function of this name.

    Parameters
    ----------
    %(parameters)s

    %(result)s

    See Also
    --------
    chunk_dplr_delta_rule : The same without ``reverse``.
    chunk_rwkv7 : The same by the names of RWKV-7.
    fastiter.torch.ssm.dplr_delta_rule : The function that it calls.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.fla import fused_recurrent_dplr_delta_rule
    >>> k = torch.eye(2)[[0, 1, 0]].view(1, 3, 1, 2)  # the third step writes to the same place as the first
    >>> v = torch.tensor([5.0, 6.0, 7.0]).view(1, 3, 1, 1)
    >>> _, state = fused_recurrent_dplr_delta_rule(k, k, v, k, -k, torch.zeros(1, 3, 1, 2), output_final_state=True)
    >>> state.flatten()  # and replaces it
    tensor([7., 6.])
    """
    function = "fused_recurrent_dplr_delta_rule"
    check_rest(function, rest)
    state = FlaState(function, initial_state, output_final_state, cu_seqlens, reverse=reverse)
    return _dplr(q, k, v, a, b, gk, scale, state)


@documented_fla()
def chunk_rwkv7(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    scale: float | None = 1.0,
    initial_state: State = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """S = diag(e^w) S + b (S^T a)^T + k v^T, o = S^T r: fla's function of this name.

    Parameters
    ----------
    %(parameters)s

    %(result)s

    See Also
    --------
    fused_recurrent_rwkv7 : With 1 / sqrt(K) as scale by default, and the state returned.
    chunk_dplr_delta_rule : The same by other names.
    fastiter.torch.ssm.dplr_delta_rule : The function that it calls.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.fla import chunk_rwkv7
    >>> k = torch.eye(2)[[0, 1, 0]].view(1, 3, 1, 2)  # the third step writes to the same place as the first
    >>> v = torch.tensor([5.0, 6.0, 7.0]).view(1, 3, 1, 1)
    >>> _, state = chunk_rwkv7(k, torch.zeros(1, 3, 1, 2), k, v, k, -k, output_final_state=True)
    >>> state.flatten()  # and replaces it
    tensor([7., 6.])
    """
    check_rest("chunk_rwkv7", rest)
    state = FlaState("chunk_rwkv7", initial_state, output_final_state, cu_seqlens, query="r")
    return _dplr(r, k, v, a, b, w, scale, state)


@documented_fla()
def fused_recurrent_rwkv7(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    scale: float | None = None,
    initial_state: State = None,
    output_final_state: bool = True,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """S = diag(e^w) S + b (S^T a)^T + k v^T, o = S^T r: fla's function of this name.

    Parameters
    ----------
    %(parameters)s

    %(result)s

    See Also
    --------
    chunk_rwkv7 : With 1 as scale by default, and no state.
    chunk_dplr_delta_rule : The same by other names.
    fastiter.torch.ssm.dplr_delta_rule : The function that it calls.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.fla import fused_recurrent_rwkv7
    >>> k = torch.eye(2)[[0, 1, 0]].view(1, 3, 1, 2)  # the third step writes to the same place as the first
    >>> v = torch.tensor([5.0, 6.0, 7.0]).view(1, 3, 1, 1)
    >>> _, state = fused_recurrent_rwkv7(k, torch.zeros(1, 3, 1, 2), k, v, k, -k, output_final_state=True)
    >>> state.flatten()  # and replaces it
    tensor([7., 6.])
    """
    check_rest("fused_recurrent_rwkv7", rest)
    state = FlaState("fused_recurrent_rwkv7", initial_state, output_final_state, cu_seqlens, query="r")
    return _dplr(r, k, v, a, b, w, scale, state)
