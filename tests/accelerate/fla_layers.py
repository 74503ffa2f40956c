"""python -m tests.accelerate.fla_layers: accelerate on the layers and a model of flash-linear-attention, on the CPU.

The tests run it in a process of its own, as transformers takes kernels for GPUs from fla where this can be imported.
"""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad, silu, softplus

from fastiter.torch import accelerate
from tests.support.reports import restored_names

LAYERS: dict[str, dict[str, Any]] = {
    "GatedDeltaNet": {"head_dim": 8, "num_heads": 2, "num_v_heads": 4},
    "DeltaNet": {"num_heads": 2, "use_gate": True},
    "GatedLinearAttention": {"num_heads": 2, "use_short_conv": True},
    "KimiDeltaAttention": {"head_dim": 8, "num_heads": 2},
    "GatedDeltaProduct": {"head_dim": 8, "num_heads": 2},
    "LinearAttention": {"num_heads": 2},
}
WITH_CACHE = ("GatedDeltaNet", "DeltaNet", "GatedLinearAttention", "KimiDeltaAttention")


def make(name: str, **options: Any) -> Any:
    layers: Any = __import__("fla.layers", fromlist=[name])
    torch.manual_seed(0)
    return getattr(layers, name)(hidden_size=16, layer_idx=0, **LAYERS.get(name, {}), **options)


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


# ---- One layer step by step -----------------------------------------------------------------------------------------


def convolved(layer: Any, x: Tensor) -> Tensor:
    out = conv1d(pad(x.transpose(1, 2), (layer.kernel_size[0] - 1, 0)), layer.weight, layer.bias, groups=x.shape[2])
    return silu(out.transpose(1, 2))


def gated_delta_net(layer: Any, x: Tensor) -> Tensor:
    """Return the output of a GatedDeltaNet with two key heads and four value heads, by its definition."""
    q, k, v = (
        convolved(getattr(layer, f"{n}_conv1d"), getattr(layer, f"{n}_proj")(x)).unflatten(-1, (heads, -1))
        for n, heads in (("q", 2), ("k", 2), ("v", 4))
    )
    q, k = (y * torch.rsqrt(y.square().sum(-1, True) + 1e-6) for y in (q, k))
    q, k = (y.repeat_interleave(2, 2) for y in (q, k))
    beta = layer.b_proj(x).sigmoid()
    decay = (-layer.A_log.exp() * softplus(layer.a_proj(x) + layer.dt_bias)).exp()
    state, outputs = x.new_zeros(x.shape[0], 4, 8, v.shape[3]), []
    for t in range(x.shape[1]):
        state = decay[:, t, :, None, None] * state
        error = v[:, t] - torch.einsum("bhkv,bhk->bhv", state, k[:, t])
        state = state + torch.einsum("bhk,bhv->bhkv", k[:, t], beta[:, t, :, None] * error)
        outputs.append(torch.einsum("bhkv,bhk->bhv", state, q[:, t]) * 8**-0.5)
    o, norm = torch.stack(outputs, 1), layer.o_norm
    o = o * torch.rsqrt(o.square().mean(-1, True) + norm.eps) * norm.weight
    return layer.o_proj((o * silu(layer.g_proj(x).unflatten(-1, (4, -1)))).flatten(2))


def check_one_layer() -> None:
    layer, x = make("GatedDeltaNet"), randn(2, 70, 16)
    expected = gated_delta_net(layer, x)
    weights = list(layer.parameters())
    theirs = torch.autograd.grad(expected.square().sum(), weights)
    accelerate(layer)
    found = layer(x)[0]
    close(found, expected)
    for a, e in zip(torch.autograd.grad(found.square().sum(), weights), theirs, strict=True):
        assert (a - e).norm() <= 1e-4 * e.norm()
    with torch.no_grad():
        close(layer.eval()(x[:, :9])[0], expected[:, :9])
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(copied(x)[0], found)
    names = ["", "q_conv1d", "k_conv1d", "v_conv1d", "o_norm"]
    restored = restored_names(layer)
    assert restored == names, restored


# ---- All layers and a model -----------------------------------------------------------------------------------------


def check_parts(name: str) -> None:
    """A sequence gives the same at once, in parts with a cache, and behind padding; all weights have gradients."""
    from fla.models.utils import Cache

    layer, x = accelerate(make(name)), randn(2, 12, 16)
    y = layer(x)[0]
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
    mask = torch.ones(2, 17, dtype=torch.long)
    mask[:, :5] = 0
    with torch.no_grad():
        layer.eval()
        if name not in WITH_CACHE:
            return
        close(layer(pad(x, (0, 0, 5, 0), value=3.0), attention_mask=mask)[0][:, 5:], y)
        cache, parts = Cache(), []
        for part in x.split([7, 3, 1, 1], 1):
            o, _, cache = layer(part, past_key_values=cache, use_cache=True)
            parts.append(o)
        close(torch.cat(parts, 1), y)


def check_norms() -> None:
    from fla.modules import FusedRMSNormGated, RMSNorm

    x, residual, gate = randn(3, 5, 8), randn(5, 3, 8).transpose(0, 1), randn(3, 8, 5).transpose(1, 2)
    norm = accelerate(RMSNorm(8, bias=True))
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    expected = torch.nn.functional.rms_norm(x + residual, (8,), norm.weight, norm.eps) + norm.bias
    y, after = norm(x, residual, prenorm=True)
    close(y, expected)
    assert torch.equal(after, x + residual) and torch.equal(norm(x, residual), y)
    gated = accelerate(FusedRMSNormGated(8, activation="sigmoid"))
    close(gated(x, gate), torch.nn.functional.rms_norm(x, (8,), None, gated.eps) * gate.sigmoid())


def check_model() -> None:
    from fla.models import GatedDeltaNetConfig, GatedDeltaNetForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 40, "head_dim": 8, "num_heads": 2}
    model = accelerate(GatedDeltaNetForCausalLM(GatedDeltaNetConfig(**sizes, intermediate_size=24))).eval()
    tokens = torch.arange(2, 14).view(2, 6)
    written = model.generate(tokens, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0)
    with torch.no_grad():
        again = model(written[:, :-1]).logits.argmax(-1)
    assert torch.equal(again[:, 5:], written[:, 6:])


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    check_one_layer()
    for name in LAYERS:
        check_parts(name)
    check_norms()
    check_model()


if __name__ == "__main__":
    main()
