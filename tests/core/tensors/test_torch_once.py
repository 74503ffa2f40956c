"""The error of a second derivative names the function that was called, not one that it calls."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastiter.torch  # noqa: E402
from fastiter.torch import compat  # noqa: E402

SIGNAL, STEPS, TWO = (1, 3, 2, 4), (1, 3, 2), (2,)
#: Shapes of arguments by their names, of all packages: B 1, T 3, 2 heads of width 4
FLA = {
    **dict.fromkeys(("q", "k", "v", "r", "w", "a", "b", "gk"), SIGNAL),
    "g": STEPS,
    "beta": STEPS,
    "u": (2, 4),
    "layer_idx": 0,
    "num_layers": 2,
    "num_householder": 1,
}
CHANNELS = {"x": (1, 3, 8), "g": (1, 3, 8)}
KEYS = {"g": SIGNAL}
MAMBA = {
    "u": (1, 4, 3),
    "delta": (1, 4, 3),
    "A": (4, 3),
    "B": (1, 3, 3),
    "C": (1, 3, 3),
    "xz": (1, 8, 3),
    "conv1d_weight": (4, 1, 2),
    "conv1d_bias": (4,),
    "x_proj_weight": (7, 4),
    "delta_proj_weight": (4, 1),
    "out_proj_weight": (2, 4),
    "out_proj_bias": (2,),
}
MAMBA2 = {
    "x": SIGNAL,
    "dt": STEPS,
    "A": TWO,
    "B": (1, 3, 1, 5),
    "C": (1, 3, 1, 5),
    "chunk_size": 2,
    "zxbcdt": (1, 3, 28),
    "conv1d_weight": (18, 2),
    "conv1d_bias": (18,),
    "dt_bias": TWO,
    "D": TWO,
    "headdim": 4,
}
HEADS = (1, 2, 3, 4)
MLSTM = {**dict.fromkeys("qkv", HEADS), **dict.fromkeys("if", (1, 2, 3))}
STEP = {**dict.fromkeys("qkv", (1, 2, 4)), **dict.fromkeys("if", (1, 2, 1))}
STEP |= {"c": (1, 2, 4, 4), "n": (1, 2, 4), "m": (1, 2, 1)}
CONV = {"x": (1, 4, 3), "weight": (4, 2)}
OWN = {**dict.fromkeys(("q", "k", "v", "a", "b"), SIGNAL), "i": STEPS, "f": STEPS}
SSM = {
    **dict.fromkeys(("linear_attention", "dplr_delta_rule", "mlstm"), OWN),
    **dict.fromkeys(("selective_scan", "mamba_inner", "selective_scan_fn", "mamba_inner_fn"), MAMBA),
    **dict.fromkeys(("ssd", "mamba2_inner", "mamba_chunk_scan_combined", "mamba_split_conv1d_scan_combined"), MAMBA2),
    **dict.fromkeys(("causal_conv1d", "causal_conv1d_fn"), CONV),
    **dict.fromkeys(("mlstm_chunkwise", "mlstm_recurrent_sequence"), MLSTM),
    "mlstm_recurrent_step": STEP,
}
#: Functions that are differentiable to any order or not at all, or that register others
OTHERS = {
    *("causal_conv1d_update", "causal_conv1d_varlen_states", "selective_state_update", "gated_rms_norm", "register"),
    *("chunk_delta_rule", "chunk_gated_delta_rule", "chunk_gated_delta_product", "chunk_gdn", "chunk_hgrn"),
    *("fused_chunk_delta_rule", "fused_recurrent_delta_rule", "fused_recurrent_gated_delta_rule"),
    *("fused_recurrent_gdn", "fused_recurrent_hgrn", "LayerNorm", "LayerNormGated", "RMSNorm", "RMSNormGated"),
    *("layer_norm_fn", "layernorm_fn", "rms_norm_fn", "rmsnorm_fn"),
}
MODULES = [fastiter.torch.ssm, compat.fla, compat.mamba_ssm, compat.causal_conv1d, compat.mlstm_kernels]
REFUSING = [(m, name) for m in MODULES for name in m.__all__ if name not in OTHERS]


def arguments(name: str, function: Any) -> dict[str, Any]:
    """Return the arguments without a default, as leaves."""
    torch.manual_seed(0)
    shapes: dict[str, Any] = SSM.get(name, FLA)
    if name.endswith(("gla", "kda")) and "simple" not in name:
        shapes = {**shapes, **KEYS}
    given = {}
    for key, parameter in inspect.signature(function).parameters.items():
        needed = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        if needed or key == "headdim" or (key == "g" and "simple_gla" in name):
            size = shapes[key]
            given[key] = torch.rand(size).requires_grad_() if isinstance(size, tuple) else size
    return given


@pytest.mark.parametrize(("module", "name"), REFUSING, ids=[name for _, name in REFUSING])
def test_the_function_is_named(module: Any, name: str) -> None:
    function = getattr(module, name)
    given = arguments(name, function)
    result = function(**given)
    out = result[0] if isinstance(result, tuple) else result
    leaves = [x for x in given.values() if isinstance(x, torch.Tensor)]
    gradients = torch.autograd.grad(out.square().sum(), leaves, create_graph=True, allow_unused=True)
    called = {"fused_chunk_linear_attn": "chunk_linear_attn"}.get(name, name)  # another name of the same function
    with pytest.raises(RuntimeError, match=rf"^{called}: the gradient has no derivative"):
        sum(g.sum() for g in gradients if g is not None).backward()


def test_a_function_called_after_another_is_named_itself() -> None:
    """Also after a call that raised an error."""
    x = torch.rand(SIGNAL, requires_grad=True)
    with pytest.raises(ValueError, match=r"^ssd: B must"):
        fastiter.torch.ssm.ssd(x, x[..., 0], -torch.ones(2), x[0], x[0])
    (g,) = torch.autograd.grad(fastiter.torch.ssm.linear_attention(x, x, x)[0].sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"^linear_attention: "):
        g.sum().backward()
