"""python -m tests.accelerate.fla.layers: accelerate on the layers and a model of flash-linear-attention, on the CPU.

The tests run it in a separate process, as transformers uses GPU kernels from fla if it can be imported.
"""

from __future__ import annotations

import copy
import logging
import pickle
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from fastiter.torch import accelerate
from tests.accelerate.fla import equations
from tests.accelerate.fla.functions import check_functions
from tests.support.reports import report_of, restored_names

#: Layers by their classes in fla: their equations, and their options
LAYERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "GatedDeltaNet": (equations.gated_delta_net, {"head_dim": 8, "num_heads": 2, "num_v_heads": 4}),
    "DeltaNet": (equations.delta_net, {"num_heads": 2, "use_gate": True}),
    "GatedLinearAttention": (equations.gated_linear_attention, {"num_heads": 2, "use_short_conv": True}),
    "SimpleGatedLinearAttention": (equations.gated_linear_attention, {"num_heads": 2, "fuse_norm": False}),
    "KimiDeltaAttention": (equations.kimi_delta_attention, {"head_dim": 8, "num_heads": 2}),
    "GatedDeltaProduct": (equations.gated_delta_product, {"head_dim": 8, "num_heads": 2}),
    "LinearAttention": (equations.linear_attention, {"num_heads": 2}),
    "MultiScaleRetention": (equations.retention, {"num_heads": 2}),
    "HGRNAttention": (equations.hgrn, {"use_short_conv": True}),
    "HGRN2Attention": (equations.hgrn2, {"num_heads": 2, "expand_ratio": None, "use_short_conv": True}),
    "RWKV6Attention": (equations.rwkv6, {"num_heads": 2}),
    "RWKV7Attention": (equations.rwkv7, {"head_dim": 8, "num_hidden_layers": 2, "layer_idx": 1}),
    "GatedDeltaNet2": (equations.gated_delta_net_2, {"head_dim": 8, "num_heads": 2, "num_v_heads": 4}),
    "Comba": (equations.comba, {"head_dim": 8, "num_heads": 2}),
    "LightNetAttention": (equations.light_net, {"num_heads": 2, "expand_ratio": None, "use_short_conv": True}),
    "GatedSlotAttention": (equations.gated_slots, {"num_heads": 2, "num_slots": 3}),
    "Mamba": (equations.mamba, {"state_size": 4, "intermediate_size": 24}),
    "Mamba2": (equations.mamba2, {"state_size": 4, "head_dim": 8, "n_groups": 2, "dt_limit": (0.1, 1.0)}),
    "BasedLinearAttention": (equations.based, {"num_heads": 2, "num_key_value_heads": 2, "feature_dim": 4}),
    "ReBasedLinearAttention": (equations.rebased, {"num_heads": 2, "num_key_value_heads": 2, "feature_dim": 4}),
}
WITHOUT_CACHE = ("BasedLinearAttention", "ReBasedLinearAttention")
#: Layers that run one step at a time after a prompt
STEPWISE = ("Mamba", "Mamba2")


def make(name: str, **options: Any) -> Any:
    """Return a layer with weights of about 0.3, as some are initialised to zeros."""
    home = "fla.layers.simple_gla" if name == "SimpleGatedLinearAttention" else "fla.layers"
    layers: Any = __import__(home, fromlist=[name])
    torch.manual_seed(0)
    number = {} if name in WITHOUT_CACHE else {"layer_idx": 0}
    layer = getattr(layers, name)(hidden_size=16, **{**number, **LAYERS[name][1], **options})
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return layer


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert (found - expected).norm() <= tolerance * expected.norm()


def output(layer: Any, x: Tensor, **options: Any) -> Any:
    y = layer(x, **options)
    return y[0] if isinstance(y, tuple) else y


def check_equations(name: str) -> None:
    """Compare the output and all gradients; decays that the layers round to float32 have errors of 1e-7 in float64."""
    layer, x = make(name), randn(2, 70, 16)
    first = {"v_first": randn(2, 70, 16).double()} if name == "RWKV7Attention" else {}
    exact = copy.deepcopy(layer).double()
    leaf = x.double().requires_grad_()
    expected = LAYERS[name][0](exact, leaf, **first)
    weights = [leaf, *(p for p in exact.parameters())]
    theirs = torch.autograd.grad(expected.square().sum(), weights, allow_unused=True)
    report = report_of(accelerate, layer)
    assert "" in report.accelerated and not report.left, report
    in_float32 = {key: y.float() for key, y in first.items()}
    found = output(layer, x, **in_float32)
    close(found, expected)
    with torch.no_grad():
        close(output(layer.eval(), x[:, :9], **{key: y[:, :9] for key, y in in_float32.items()}), expected[:, :9])
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(output(copied, x, **in_float32), found)
    own = x.double().requires_grad_()
    y = output(layer.train().double(), own, **first)
    close(y, expected, 1e-6)
    ours = torch.autograd.grad(y.square().sum(), [own, *layer.parameters()], allow_unused=True)
    for a, e in zip(ours, theirs, strict=True):
        assert (a is None) == (e is None) and (a is None or (a - e).norm() <= 1e-5 * e.norm()), name
    restored = restored_names(layer)
    assert restored == list(report.accelerated), restored


# ---- Layers in parts, norms, models ---------------------------------------------------------------------------------


def check_parts(name: str) -> None:
    """A sequence gives the same result as a whole, in parts with a cache, and after padding."""
    from fla.models.utils import Cache

    layer, x = accelerate(make(name)).eval(), randn(2, 12, 16)
    first = {"v_first": randn(2, 12, 16)} if name == "RWKV7Attention" else {}
    mask = torch.ones(2, 17, dtype=torch.long)
    mask[:, :5] = 0
    with torch.no_grad():
        y = layer(x, **first)[0]
        padded = {key: pad(v, (0, 0, 5, 0)) for key, v in first.items()}
        close(layer(pad(x, (0, 0, 5, 0), value=3.0), attention_mask=mask, **padded)[0][:, 5:], y)
    for with_gradients in (False, True) if name in STEPWISE else (False,):  # the layer's own steps if needed
        cache, parts, start = Cache(), [], 0
        for length in (10, 1, 1) if name in STEPWISE else (7, 3, 1, 1):
            part = slice(start, start + length)
            given = {key: v[:, part] for key, v in first.items()}
            with torch.set_grad_enabled(with_gradients):
                o, _, cache, *_ = layer(x[:, part], past_key_values=cache, use_cache=True, **given)
            parts.append(o)
            start += length
        close(torch.cat(parts, 1), y)


def check_packed(name: str) -> None:
    """Packed sequences, one of them empty, give the same results as each alone."""
    layer, x = accelerate(make(name)).eval(), randn(1, 12, 16)
    first = {"v_first": randn(1, 12, 16)} if name == "RWKV7Attention" else {}
    bounds = torch.tensor([0, 1, 1, 12])
    with torch.no_grad():
        y = layer(x, cu_seqlens=bounds, **first)[0]
        parts = [layer(x[:, p], **{key: v[:, p] for key, v in first.items()})[0] for p in (slice(1), slice(1, None))]
        close(y, torch.cat(parts, 1))


MODELS: dict[str, dict[str, Any]] = {
    "GatedDeltaNet": {"head_dim": 8, "num_heads": 2},
    "HGRN": {},
    "HGRN2": {"num_heads": 2, "expand_ratio": 8},
    "Mamba2": {"head_dim": 8, "state_size": 4, "num_heads": 4},
    "RetNet": {"num_heads": 2},
    "RWKV6": {"num_heads": 2, "intermediate_size": 24},
    "RWKV7": {"head_dim": 8, "intermediate_size": 24},
}


def check_model(name: str) -> None:
    """Logits computed step by step are those of the whole sequence, and every weight has a gradient.

    In generate, transformers 5.24 passes the cache under another name than fla 0.6 expects.
    """
    models: Any = __import__("fla.models", fromlist=[name])
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 40, **MODELS[name]}
    config = getattr(models, f"{name}Config")(**sizes)
    torch.manual_seed(0)
    model, tokens = getattr(models, f"{name}ForCausalLM")(config).eval(), torch.arange(2, 14).view(2, 6)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    report = report_of(accelerate, model)
    assert not report.left, report
    logits, cache, parts = model(tokens).logits, None, []
    loss = model(tokens, labels=tokens).loss
    loss.backward()
    model.config.fuse_linear_cross_entropy = True
    close(model(tokens, labels=tokens).loss, loss)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        for part in tokens.split([4, 1, 1], 1):
            out = model(part, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            parts.append(out.logits)
    close(torch.cat(parts, 1), logits)


def check_what_is_left() -> None:
    from fla.layers import ABCAttention
    from fla.models import RWKV7Config, RWKV7ForCausalLM
    from fla.modules import FusedCrossEntropyLoss

    report = report_of(accelerate, ABCAttention(hidden_size=16, num_heads=2, layer_idx=0))
    assert report.left == {"": "there is nothing for its chunk_abc yet"}, report
    model, kept = RWKV7ForCausalLM(RWKV7Config(hidden_size=64, num_hidden_layers=2)), FusedCrossEntropyLoss.forward
    FusedCrossEntropyLoss.forward = lambda self, logits, labels: logits
    try:
        report = report_of(accelerate, model)
    finally:
        FusedCrossEntropyLoss.forward = kept
    why = (
        "the forward of its FusedCrossEntropyLoss has the parameters self, logits, labels, not self, input, target, ..."
    )
    assert report.left == {"": why, "model": why} and report.accelerated, report


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)  # about packages that are missing
    torch.set_num_threads(1)
    for name in LAYERS:
        check_equations(name)
        if name not in WITHOUT_CACHE:
            check_parts(name)
        if name not in (*WITHOUT_CACHE, *STEPWISE):
            check_packed(name)
    check_functions()
    for name in MODELS:
        check_model(name)
    check_what_is_left()


if __name__ == "__main__":
    main()
