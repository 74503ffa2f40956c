"""Replacements for linear attention without a gated delta rule: KDA, lightning attention, xLSTM's mLSTM."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...ssm._torch.attention import linear_attention
from ...ssm._torch.compat.fla_low_rank import chunk_kda
from ...ssm._torch.compat.mlstm_kernels import mlstm_chunkwise
from ...ssm._torch.mlstm import mlstm
from ...ssm._torch.ops import computed
from .functions import Function, has_few_steps_with_gradients, on_cpu
from .rebind import parameters_of

_FORMER_CACHE = "past_key_values"  # MiniMax's name for its cache before transformers 5.24


def kimi_delta_attention(theirs: Function) -> Function:
    """Return a replacement for chunk_kimi_delta_attention or recurrent_kimi_delta_attention of transformers.

    Packed sequences (cu_seqlens) go to the original, which knows whether the convolution before it supports them.
    """

    def kimi_delta_attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        g: Tensor,
        beta: Tensor,
        *rest: Any,
        initial_state: Tensor | None = None,
        output_final_state: bool = False,
        use_qk_l2norm_in_kernel: bool = False,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        flags: dict[str, Any] = {
            "output_final_state": output_final_state,
            "use_qk_l2norm_in_kernel": use_qk_l2norm_in_kernel,
        }
        if rest or options.get("cu_seqlens") is not None or not on_cpu(query):
            result: tuple[Tensor, Tensor | None] = theirs(
                query, key, value, g, beta, *rest, initial_state=initial_state, **flags, **options
            )
            return result
        dtype = computed(query.dtype)
        # The output of a convolution has time contiguous: one transposition here is faster than strided passes below.
        q, k, v, decay, b = (x.to(dtype).contiguous() for x in (query, key, value, g, beta))
        h0 = None if initial_state is None else initial_state.to(dtype)
        o, last = chunk_kda(q, k, v, decay, b, initial_state=h0, **flags)
        return o.to(query.dtype), last

    return kimi_delta_attention


def lightning_attention(theirs: Function) -> Function:
    """Return a replacement for MiniMaxLightningAttention.forward of transformers, whose decays are constant in time."""
    of_cache = parameters_of(theirs)[4]

    def forward(
        self: Any,
        hidden_states: Tensor,
        position_embeddings: Any,
        attention_mask: Tensor | None,
        *rest: Any,
        **options: Any,
    ) -> tuple[Tensor, Tensor]:
        is_former = of_cache != _FORMER_CACHE and _FORMER_CACHE in options
        if is_former or len(rest) > 1 or not on_cpu(hidden_states) or has_few_steps_with_gradients(hidden_states):
            result: tuple[Tensor, Tensor] = theirs(
                self, hidden_states, position_embeddings, attention_mask, *rest, **options
            )
            return result
        cache = rest[0] if rest else options.get(of_cache)
        qkv = self.act_fn(self.qkv_proj(hidden_states))
        if attention_mask is not None:
            qkv = (qkv * attention_mask[:, :, None]).to(qkv.dtype)
        heads, width = self.num_attention_heads, self.head_dim
        q, k, v = qkv.unflatten(-1, (heads, 3 * width)).split(width, 3)
        state = None if cache is None else cache.get_linear_cache(self.layer_idx)
        log_decay = -self.slope_rate.to(computed(qkv.dtype)).reshape(heads)
        o, last = linear_attention(q, k, v, log_decay, state=state)
        last = last.to(v.dtype)
        o = self.norm(o.to(v.dtype).flatten(2))
        out = self.out_proj(torch.sigmoid(self.output_gate(hidden_states)) * o)
        if cache is not None:
            cache.set_linear_cache(self.layer_idx, last)
        return out, last

    return forward


def mlstm_backend(theirs: Function) -> Function:
    """Return a replacement for forward of xLSTMBackend of transformers, or of mLSTMBackend of mlstm_kernels.

    Kernels other than those named "autograd" treat the divisor of the output as a constant in the gradient.

    Unknown modes and empty sequences go to the original, which raises.
    """
    names = parameters_of(theirs)[1:]

    def forward(self: Any, *args: Any, **options: Any) -> Any:
        inputs = {**dict(zip(names, args, strict=False)), **options}
        q, k, v, i, f = (inputs[name] for name in names[:5])
        config, mode, wants = self.config, inputs.get("mode"), inputs.get("return_last_states")
        mode = config.mode if mode is None else mode
        is_refused = config.mode == "train_with_padding" and wants
        if not on_cpu(q) or q.shape[2] < 1 or is_refused or mode not in _MODES:
            return theirs(self, *args, **options)
        dtype = computed(q.dtype)
        named: dict[str, Any] = {name: None if inputs.get(name) is None else inputs[name].to(dtype) for name in _STATES}
        i, f = i.to(dtype), f.to(dtype)
        is_inference = mode == "inference"
        named["return_last_states"] = is_inference or (config.return_last_states if wants is None else wants)
        named["normalizer_gradient"] = "autograd" in self.chunkwise_kernel_fn.__name__
        result = mlstm_chunkwise(q, k, v, i, f, eps=config.eps, **named)
        if not is_inference:
            return result
        h, last = result
        of_state = getattr(torch, config.inference_state_dtype)
        return h, tuple(x.to(of_state) for x in last)

    return forward


def mlstm_in_parallel(theirs: Function) -> Function:
    """Return a replacement for parallel_stabilized_simple of xlstm, which is quadratic in the number of steps."""

    def parallel_stabilized_simple(
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        igate_preact: Tensor,
        fgate_preact: Tensor,
        lower_triangular_matrix: Tensor | None = None,
        stabilize_rowwise: bool = True,
        eps: float = 1e-6,
        **options: Any,
    ) -> Tensor:
        inputs = (queries, keys, values, igate_preact, fgate_preact)
        if not stabilize_rowwise or not on_cpu(queries):
            out: Tensor = theirs(*inputs, lower_triangular_matrix, stabilize_rowwise, eps, **options)
            return out
        q, k, v, i, f = (x.transpose(1, 2) for x in inputs)
        heads, dtype = q.shape[::2], computed(q.dtype)
        memory, sums = (torch.zeros(*heads, *w, dtype=dtype) for w in ((q.shape[3], v.shape[3]), (q.shape[3],)))
        first = (memory, sums, torch.full(heads, _NO_MAXIMUM, dtype=dtype))  # only eps depends on the maximum
        h, _ = mlstm(q, k, v, i[..., 0], f[..., 0], state=first, eps=eps)
        return h.transpose(1, 2)

    return parallel_stabilized_simple


def mlstm_step(theirs: Function) -> Function:
    """Return a replacement for recurrent_step_stabilized_simple of xlstm, which scales keys instead of queries."""

    def recurrent_step_stabilized_simple(
        c_state: Tensor,
        n_state: Tensor,
        m_state: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        igate_preact: Tensor,
        fgate_preact: Tensor,
        eps: float = 1e-6,
        **options: Any,
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        states, inputs = (c_state, n_state, m_state), (q, k, v, igate_preact, fgate_preact)
        if not on_cpu(q):
            result: tuple[Tensor, tuple[Tensor, Tensor, Tensor]] = theirs(*states, *inputs, eps, **options)
            return result
        q, k, v, i, f = (x.transpose(1, 2) for x in inputs)
        first = (c_state, n_state[..., 0], m_state[..., 0, 0])
        h, last = mlstm(q, k * k.shape[-1] ** -0.5, v, i[..., 0], f[..., 0], state=first, scale=1.0, eps=eps)
        C, n, m = (x.to(y.dtype) for x, y in zip(last, states, strict=True))
        return h.transpose(1, 2), (C, n[..., None], m[..., None, None])

    return recurrent_step_stabilized_simple


_NO_MAXIMUM = -1e30  # maximum of the input gates before the first step
_MODES = ("train", "train_with_padding", "inference")
_STATES = ("c_initial", "n_initial", "m_initial")
