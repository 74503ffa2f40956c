"""Parts of flash-linear-attention's layers as torch operations, against its reference functions and equations."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch.nn.functional import linear

from fastiter.accelerate._torch.fla import composed, functions, parts
from fastiter.torch import accelerate
from tests.ssm.mixer_reference import norm


def randn(*shape: int) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def ours(name: str) -> Any:
    return parts.FUNCTIONS[name][1]


def same(found: Any, expected: Any) -> None:
    found, expected = (x if isinstance(x, tuple) else (x,) for x in (found, expected))
    for a, e in zip(found, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-9)


def check_norms() -> None:
    from fla.modules.norm import layernorm

    x, residual, weight, bias = randn(2, 5, 6), randn(5, 2, 6).transpose(0, 1), randn(6), randn(6).flip(0)
    product_weight, product_bias = randn(4, 6), randn(4)
    for name, more in (("layer_norm", {}), ("rms_norm", {}), ("group_norm", {"num_groups": 3})):
        for added, prenorm in product((None, residual), (False, True)):
            how = {**more, "residual": added, "eps": 0.1, "prenorm": prenorm}
            expected = getattr(layernorm, f"{name}_ref")(x, weight, bias, **how)
            same(ours(name)(x, weight, bias, **how), expected)
            y = expected[0] if prenorm else expected
            total = (expected[1],) if prenorm else ()
            y = linear(y, product_weight, product_bias)
            weights = (weight, bias, product_weight, product_bias)
            same(ours(f"{name}_linear")(x, *weights, **how), (y, *total) if prenorm else y)
    gate = randn(2, 6, 5).transpose(1, 2)
    for name, centered in (("layer_norm", True), ("rms_norm", False)):
        for activation, added in product(("swish", "sigmoid"), (None, residual)):
            total = x if added is None else x + added
            factor = torch.sigmoid(gate) * (gate if activation == "swish" else 1)
            y = norm(total, weight, None, bias, 0.1, 1, True, centered) * factor
            how = {"residual": added, "prenorm": True, "eps": 0.1}
            same(ours(f"{name}_gated")(x, gate, weight, bias, activation, **how), (y, total))
        y = norm(x, weight, gate, None, 0.1, 1, True, centered)
        weights = (weight, None, product_weight, None)
        same(ours(f"{name}_swish_gate_linear")(x, gate, *weights, eps=0.1), linear(y, product_weight))


def check_dtypes() -> None:
    """Ours computes in float32 and rounds once; the sum has the dtype of the residual, or float32 on request."""
    x, g, w = (randn(*shape).bfloat16() for shape in ((2, 5, 6), (2, 6, 5), (6,)))
    g, others = g.transpose(1, 2), {"fast_gelu_impl", "sigmoid", "sqrelu", "swish", "logsigmoid", "l2norm"}
    for name in others:
        y = ours(name)(x)
        assert y.dtype == torch.bfloat16 and torch.equal(y, ours(name)(x.float()).bfloat16()), name
    assert torch.equal(ours("swiglu")(x, g), ours("swiglu")(x.float(), g.float()).bfloat16())
    y, total = ours("rms_norm")(x, w, None, prenorm=True, residual_in_fp32=True)
    assert y.dtype == torch.bfloat16 and torch.equal(total, x.float())
    assert torch.equal(y, ours("rms_norm")(x.float(), w.float(), None).bfloat16())
    _, total = ours("rms_norm")(x, w, None, g, prenorm=True, residual_in_fp32=True)
    assert torch.equal(total, (x.float() + g.float()).bfloat16())
    _, total = ours("rms_norm")(x, w, None, g.float(), prenorm=True)
    assert torch.equal(total, x.float() + g.float())


def check_activations() -> None:
    x, y = randn(5, 6) * 3, randn(6, 5).T
    s = 1 / (1 + torch.exp(-x))
    same(ours("swish")(x), x * s)
    same(ours("sigmoid")(x), s)
    same(ours("sqrelu")(x), torch.where(x > 0, x * x, 0))
    same(ours("logsigmoid")(x, 2.0), torch.log(s) / 2)
    same(ours("fast_gelu_impl")(x), x / 2 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))))
    same(ours("swiglu")(x, y), x * s * y)
    same(ours("swiglu_linear")(x, y, y, None), x * s * y @ y.T)
    same(ours("l2norm")(x, 0.1), x / torch.sqrt((x * x).sum(-1, True) + 0.1))


def check_rotary() -> None:
    """Rotation of complex numbers; at positions beyond the angles, rotated channels are 0."""
    from fla.modules.rotary.ops import rotary_embedding_ref

    x, angles, rest = randn(2, 7, 3, 6), randn(9, 2), slice(4, None)
    cos, sin = angles.cos(), angles.sin()
    for interleaved in (False, True):
        same(ours("rotary_embedding")(x, cos, sin, interleaved), rotary_embedding_ref(x, cos[:7], sin[:7], interleaved))
        offsets = torch.tensor([2, -3])
        y = ours("rotary_embedding")(x, cos, sin, interleaved, False, offsets)
        same(y[0], rotary_embedding_ref(x[:1], cos[2:], sin[2:], interleaved)[0])
        same(y[1:, 3:], rotary_embedding_ref(x[1:, 3:], cos[:4], sin[:4], interleaved))
        assert not y[1, :3, :, :4].any() and torch.equal(y[..., rest], x[..., rest])
        packed, bounds = x.flatten(0, 1)[None], torch.tensor([0, 5, 5, 14])
        y = ours("rotary_embedding")(packed, cos, sin, interleaved, cu_seqlens=bounds)
        same(y[:, :5], rotary_embedding_ref(packed[:, :5], cos[:5], sin[:5], interleaved))
        same(y[:, 5:], rotary_embedding_ref(packed[:, 5:], cos, sin, interleaved))
        moved = ours("rotary_embedding")(packed, cos, sin, interleaved, False, torch.tensor([1, 0, 0]), bounds)
        same(moved[:, :5], rotary_embedding_ref(packed[:, :5], cos[1:6], sin[1:6], interleaved))
        own = x.clone()
        y = ours("rotary_embedding")(own, cos, sin, interleaved, True, 1)
        assert y is own and torch.equal(y, ours("rotary_embedding")(x, cos, sin, interleaved, False, 1))
    assert ours("rotary_embedding")(x[:, :0], cos, sin).shape == (2, 0, 3, 6)


def check_shifts() -> None:
    """Parts that begin with the last steps of the previous ones equal the whole; packed sequences do not mix."""
    from fla.modules.token_shift import token_shift_ref

    x, shift = randn(2, 7, 3), ours("token_shift")
    same(shift(x), token_shift_ref(x))
    first, last = shift(x[:, :4], output_cache=True)
    second, end = shift(x[:, 4:], cache=last, output_cache=True)
    same(torch.cat([first, second], 1), token_shift_ref(x))
    assert torch.equal(last, x[:, 3]) and torch.equal(end, x[:, 6])
    nothing, kept = shift(x[:, :0], cache=last, output_cache=True)
    assert nothing.shape == (2, 0, 3) and torch.equal(kept, last)
    packed, bounds, cache = x.flatten(0, 1)[None], torch.tensor([0, 1, 1, 14]), randn(3, 3)
    same(shift(packed, bounds), token_shift_ref(packed, bounds))
    y, last = shift(packed, bounds, cache, True)
    same(y[:, [0, 1]], cache[[0, 2]] - packed[:, [0, 1]])
    assert torch.equal(last, torch.stack([packed[0, 0], cache[1], packed[0, 13]]))


def expected_terms(loss: Any, logits: Any, target: Any) -> tuple[Any, Any]:
    """The cross entropy of each row and its normaliser term, by their definitions."""
    y = logits * loss.logit_scale
    y = y if loss.logit_softcapping is None else loss.logit_softcapping * torch.tanh(y / loss.logit_softcapping)
    log_p, kept = torch.log(torch.exp(y) / torch.exp(y).sum(-1, True)), target != -100
    share, rows = loss.label_smoothing, torch.arange(len(target))
    terms = -(1 - share) * log_p[rows, target.clamp(min=0)] - share * log_p.mean(-1)
    squares = getattr(loss, "lse_square_scale", 0.0) * torch.log(torch.exp(y).sum(-1)) ** 2
    return torch.where(kept, terms + squares, 0), torch.where(kept, squares, 0)


def check_losses() -> None:
    from fla.modules import FusedCrossEntropyLoss, FusedLinearCrossEntropyLoss

    logits, target = randn(6, 5).requires_grad_(), torch.tensor([0, 4, -100, 2, 2, -100])
    options = {"label_smoothing": 0.2, "logit_scale": 0.7, "logit_softcapping": 3.0}
    for reduction, how in product(("mean", "sum", "none"), ({}, options, {**options, "lse_square_scale": 0.1})):
        loss = accelerate(FusedCrossEntropyLoss(reduction=reduction, return_z_loss=bool(how), **how))
        found = loss(logits, target)
        parts = expected_terms(loss, logits, target)
        scale = {"mean": 0.25, "sum": 1.0, "none": 1.0}[reduction]
        parts = [scale * (y if reduction == "none" else y.sum()) for y in parts]
        same(found, tuple(parts) if how else parts[0])
        ours, theirs = (torch.autograd.grad(y.sum(), logits)[0] for y in (found[0] if how else found, parts[0]))
        same(ours, theirs)
    x, weight, bias = (randn(*shape).requires_grad_() for shape in ((2, 3, 4), (5, 4), (5,)))
    for reduction, wrap in product(("mean", "sum"), (False, True)):
        loss = accelerate(FusedLinearCrossEntropyLoss(reduction=reduction, use_l2warp=wrap, **options))
        found, y = loss(x, target.view(2, 3), weight, bias), (x @ weight.T + bias).flatten(0, 1)
        expected = (0.25 if reduction == "mean" else 1.0) * expected_terms(loss, y, target)[0].sum()
        same(found, expected)
        total = expected + (y.max(-1).values ** 2).sum() * 1e-4 / 6 / 2 if wrap else expected
        same(*(torch.autograd.grad(z, (x, weight, bias), retain_graph=True) for z in (found, total)))
    half = logits.detach().bfloat16()
    y = accelerate(FusedCrossEntropyLoss())(half, target)
    assert y.dtype == torch.float32 and torch.equal(y, accelerate(FusedCrossEntropyLoss())(half.float(), target))


def check_sums_of_keys() -> None:
    """LightNet's sums continue from those of a sequence that was empty so far."""
    attend = composed.chunk_lightnet
    q, k, v = randn(1, 7, 2, 3), randn(1, 2, 3, 7).movedim(3, 1).requires_grad_(), randn(1, 7, 2, 4)
    how = {"output_final_state": True, "cu_seqlens": torch.tensor([0, 0, 3])}
    first, state = attend(q[:, :3], k[:, :3], v[:, :3], **how)
    how["cu_seqlens"] = torch.tensor([0, 2, 4])
    o, _ = attend(q[:, 3:], k[:, 3:], v[:, 3:], initial_state=state, **how)
    new, whole = (attend(*(x[:, steps] for x in (q, k, v)))[0] for steps in ([3, 4], [0, 1, 2, 5, 6]))
    same(torch.cat([first, o], 1), torch.cat([whole[:, :3], new, whole[:, 3:]], 1))
    found, expected = (torch.autograd.grad(sum(y.sin().sum() for y in ys), k)[0] for ys in ((first, o), (whole, new)))
    same(found, expected)


def check_slots() -> None:
    """Grouped queries, sums of weights in place of decays, and states, against fla's loop in float32."""
    from fla.ops.gsa.naive import naive_recurrent_gsa

    q, k, v, s = (randn(*shape).float() for shape in ((2, 6, 4, 3), (2, 6, 2, 3), (2, 6, 2, 5), (2, 6, 2, 4)))
    states = randn(2, 2, 3, 4).float(), randn(2, 2, 4, 5).float()
    decay = -randn(6, 2, 2, 4).transpose(0, 1).abs().float()
    for g, first in product((None, decay), (None, states)):
        how = {"g": g, "initial_state": first, "output_final_state": True}
        o, last = composed.chunk_gsa(q, k, v, s, **how)
        expected, after = naive_recurrent_gsa(q, k, v, s, **how)
        for a, e in zip((o, *last), (expected, *after), strict=True):
            torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-5)


def check_what_is_refused() -> None:
    from fla.modules import FusedCrossEntropyLoss

    x, loss = randn(1, 2, 3, 4), accelerate(FusedCrossEntropyLoss())
    loss.process_group = object()
    calls = {
        "chunk_comba: beta must have shape": (composed.chunk_comba, (x, x, x, x, x[..., 0], x), {}),
        "fused_recurrent_gsa: reverse must be False": (composed.chunk_gsa, 4 * (x,), {"reverse": True}),
        "chunk_gdn2: use_gate_in_kernel must be": (composed.chunk_gdn2, 6 * (x,), {"use_gate_in_kernel": True}),
        "chunk_gdn2: state_v_first must be False": (composed.chunk_gdn2, 6 * (x,), {"state_v_first": True}),
        "causal_conv1d: cp_context must be None": (functions.convolution, (x[0], x[0, 0]), {"cp_context": object()}),
        "parallel_retention: output_attentions": (functions.parallel_retention, 3 * (x,), {"output_attentions": True}),
        "fused_mul_recurrent_rwkv7: reverse": (functions.fused_mul_recurrent_rwkv7, 6 * (x,), {"reverse": True}),
        "FusedCrossEntropyLoss: process_group": (loss, (x[0, 0], torch.tensor([0, 1, 2])), {}),
    }
    for message, (function, given, options) in calls.items():
        with pytest.raises(ValueError, match=f"^{message}"):
            function(*given, **options)


def check_gradients() -> None:
    """Caches of shifts, packed angles and sums before norms, which the layers' tests do not differentiate."""
    x, cache, bounds = randn(1, 6, 4).requires_grad_(), randn(2, 4).requires_grad_(), torch.tensor([0, 2, 6])
    shift, rotate, rms = ours("token_shift"), ours("rotary_embedding"), ours("rms_norm")
    angles, weight = randn(6, 1), randn(4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, c: shift(x, bounds, c, True), (x, cache))
    assert torch.autograd.gradcheck(lambda x: rotate(x[:, :, None], angles.cos(), angles.sin(), cu_seqlens=bounds), x)
    residual = randn(1, 4, 6).transpose(1, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w, r: rms(x, w, None, r, prenorm=True), (x, weight, residual))


def check_functions() -> None:
    check_norms()
    check_dtypes()
    check_activations()
    check_rotary()
    check_shifts()
    check_losses()
    check_sums_of_keys()
    check_slots()
    check_what_is_refused()
    check_gradients()
