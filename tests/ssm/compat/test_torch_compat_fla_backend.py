"""fastiter as a back end of fla: its own functions and modules compute with fastiter on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib import import_module
from itertools import pairwise
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("fla", reason="needs fla-core, whose registry of back ends is used")

from torch.nn.functional import conv1d, logsigmoid, normalize, pad, silu  # noqa: E402

from fastiter.torch import compat  # noqa: E402
from tests.ssm.mixer_reference import norm  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::ImportWarning")
B, T, H, K, V, D, W = 2, 20, 3, 8, 5, 6, 4


@pytest.fixture(autouse=True)
def kernels_for_gpus() -> None:
    """Override the fixture that hides fla."""


@pytest.fixture(autouse=True)
def taken(kernels_for_gpus: None) -> Iterator[Any]:
    """Register the back end, and return a function that lists what fastiter has computed."""
    compat.fla.register()
    backends = import_module("fla.backends")
    registries = [*backends._operation_registries.values(), *backends._function_registries.values()]

    def names() -> set[str]:
        found = {key for registry in registries for key in registry._logged if key.endswith(":fastiter")}
        return {key.split(":")[-2] for key in found}

    for registry in registries:
        registry._logged.clear()
    yield names
    for registry in registries:
        registry._backends.pop("fastiter", None)


def signals(*decay: int) -> list[Any]:
    q, k, v = torch.randn(B, T, H, K), normalize(torch.randn(B, T, H, K), dim=-1), torch.randn(B, T, H, V)
    return [q, k, v, logsigmoid(torch.randn(B, T, H, *decay))]


def test_recurrences(taken: Any) -> None:
    ops = import_module("fla.ops")
    q, k, v, g = signals()
    _, _, _, gk = signals(K)
    beta, state = torch.rand(B, T, H), torch.randn(B, H, K, V)
    options = {"initial_state": state, "output_final_state": True}
    calls = {
        "chunk_gated_delta_rule": (q, k, v, g, beta),
        "chunk_kda": (q, k, v, gk, beta),
        "fused_recurrent_kda": (q, k, v, gk, beta),
        "chunk_dplr_delta_rule": (q, k, v, k, -k, gk),
        "chunk_rwkv7": (q, gk, k, v, k, -k),
        "fused_recurrent_simple_gla": (q, k, v, g),
    }
    for name, given in calls.items():
        found = getattr(ops, name)(*given, **options)
        for a, e in zip(found, getattr(compat.fla, name)(*given, **options), strict=True):
            assert torch.equal(a, e), name
    expected = {name for name in calls if name not in ("chunk_rwkv7", "fused_recurrent_kda")}
    assert taken() == expected | {"fused_recurrent_kda_fwd"}
    leaf = q.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(ops.chunk_gated_delta_rule(leaf, k, v, g, beta)[0].sum(), leaf)
    own = q.clone().requires_grad_()
    assert torch.equal(
        gradient, torch.autograd.grad(compat.fla.chunk_gated_delta_rule(own, k, v, g, beta)[0].sum(), own)[0]
    )


def convolved(x: Any, weight: Any, bias: Any, residual: Any, first: Any) -> tuple[Any, Any]:
    """The equation, and the last W inputs, for one sequence x (B, T, D)."""
    whole = torch.cat([first.transpose(1, 2), x], 1)
    y = silu(conv1d(whole.transpose(1, 2), weight[:, None], bias, groups=D)[..., 1:]).transpose(1, 2)
    return y + residual, whole[:, -W:].transpose(1, 2)


@pytest.mark.parametrize("bounds", [None, [0, 2, 2, 11, T]])
def test_convolutions(taken: Any, bounds: list[int] | None) -> None:
    conv = import_module("fla.modules.causal_conv1d")
    rows, sequences = (B, B) if bounds is None else (1, 4)
    shapes = {"x": (rows, T, D), "weight": (D, W), "bias": (D,), "residual": (rows, T, D), "first": (sequences, D, W)}
    given = {name: torch.randn(shape).requires_grad_() for name, shape in shapes.items()}
    x, weight, bias, residual, first = given.values()
    packed = None if bounds is None else torch.tensor(bounds)
    names = {"initial_state": first, "output_final_state": True, "activation": "silu", "cu_seqlens": packed}
    found = conv.causal_conv1d(x, weight, bias, residual, **names)
    if bounds is None:
        expected = convolved(*given.values())
    else:
        pairs = list(pairwise(bounds))
        parts = [
            convolved(x[:, a:b], weight, bias, residual[:, a:b], first[s : s + 1]) for s, (a, b) in enumerate(pairs)
        ]
        expected = torch.cat([y for y, _ in parts], 1), torch.cat([last for _, last in parts])
    weights = [torch.randn(y.shape) for y in expected]
    every = []
    for outputs in (found, expected):
        total = sum((y * w).sum() for y, w in zip(outputs, weights, strict=True))
        every.append([*outputs, *torch.autograd.grad(total, list(given.values()))])
    for a, e in zip(*every, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-5)
    plain = conv.causal_conv1d(x.detach().unflatten(2, (2, 3)), weight.detach(), activation=None, cu_seqlens=packed)
    assert plain[0].shape == (rows, T, 2, 3) and plain[1] is None
    assert taken() == {"causal_conv1d_fwd", "causal_conv1d_bwd"}


def test_steps_of_a_convolution(taken: Any) -> None:
    module = import_module("fla.modules").ShortConvolution(D, W, bias=True)
    x = torch.randn(B, T, D)
    with torch.no_grad():
        y, cache = module(x[:, :-1], output_final_state=True)
        last, same = module(x[:, -1:], cache=cache, output_final_state=True)
        assert torch.equal(same, x[:, -W:].transpose(1, 2))
        whole = silu(conv1d(pad(x.transpose(1, 2), (W - 1, 0)), module.weight, module.bias, groups=D)).transpose(1, 2)
    torch.testing.assert_close(torch.cat([y, last], 1), whole)
    assert taken() == {"causal_conv1d_fwd", "causal_conv1d_update"}
    states = import_module("fla.modules.causal_conv1d").causal_conv1d_update_states(x[:, :0], W)
    assert torch.equal(states, torch.zeros(B, D, W))


def test_norms(taken: Any) -> None:
    l2norm = import_module("fla.modules.norm.l2norm").l2norm
    leaf = torch.randn(B, T, K, requires_grad=True)
    y = l2norm(leaf, eps=0.1)
    expected = leaf / torch.sqrt(leaf.square().sum(-1, keepdim=True) + 0.1)
    torch.testing.assert_close(y, expected)
    weight = torch.randn(B, T, K)
    found = [torch.autograd.grad((z * weight).sum(), leaf)[0] for z in (y, expected)]
    torch.testing.assert_close(*found)
    half = leaf.detach().bfloat16()
    assert l2norm(half).dtype == torch.bfloat16
    assert torch.equal(l2norm(half, output_dtype=torch.float32).bfloat16(), l2norm(half))
    assert taken() == {"l2norm_fwd", "l2norm_bwd"}


def compared(function: Any, reference: Any, given: dict[str, Any]) -> None:
    """Results and gradients of a function and its reference."""
    every = []
    for call in (function, reference):
        leaves = {name: x.detach().clone().requires_grad_() for name, x in given.items()}
        found = call(**leaves)
        outputs = [found] if isinstance(found, torch.Tensor) else list(found)
        torch.manual_seed(1)
        total = sum((y.float() * torch.randn(y.shape)).sum() for y in outputs)
        every.append([*outputs, *torch.autograd.grad(total, list(leaves.values()))])
    for a, e in zip(*every, strict=True):
        assert a.dtype == e.dtype
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-5)


def test_norms_with_a_residual(taken: Any) -> None:
    theirs = import_module("fla.modules.norm.layernorm")
    given = {"x": torch.randn(B, T, D), "weight": torch.randn(D), "bias": torch.randn(D)}
    added = {"residual": torch.randn(B, T, D)}
    for name, more in (("layer_norm", {}), ("rms_norm", {}), ("group_norm", {"num_groups": 3})):
        options = {**more, "eps": 0.1}
        function, reference = (partial(getattr(theirs, n), **options) for n in (name, f"{name}_ref"))
        compared(function, reference, given)
        compared(partial(function, prenorm=True), partial(reference, prenorm=True), given | added)
    half = given["x"].bfloat16()
    y, total = theirs.rms_norm(half, None, None, prenorm=True, residual_in_fp32=True)
    assert y.dtype == torch.bfloat16 and total.dtype == torch.float32 and torch.equal(total, half.float())
    assert theirs.rms_norm(given["x"][:, :0], given["weight"], None).shape == (B, 0, D)
    assert taken() == {"layer_norm_fwd", "layer_norm_bwd"}


@pytest.mark.parametrize("activation", ["swish", "sigmoid"])
@pytest.mark.parametrize("centered", [True, False])
def test_gated_norms(taken: Any, activation: str, centered: bool) -> None:
    theirs = import_module("fla.modules.norm.fused_norm_gate")
    function = partial(theirs.layer_norm_gated if centered else theirs.rms_norm_gated, activation=activation, eps=0.1)

    def reference(x: Any, g: Any, weight: Any, bias: Any, residual: Any) -> Any:
        x = x + residual
        y = norm(x, weight, None, bias, 0.1, 1, True, centered)
        return y * torch.sigmoid(g) * (g if activation == "swish" else 1), x

    signals = {name: torch.randn(B, T, D) for name in ("x", "g", "residual")}
    given = signals | {"weight": torch.randn(D), "bias": torch.randn(D)}
    compared(partial(function, prenorm=True), reference, given)
    half = {name: x.bfloat16() for name, x in signals.items() if name != "residual"}
    y = function(**half, weight=None, bias=None)
    exact = function(**{name: x.float() for name, x in half.items()}, weight=None, bias=None)
    assert y.dtype == torch.bfloat16 and torch.equal(y, exact.bfloat16())
    assert taken() == {"layer_norm_gated_fwd", "layer_norm_gated_bwd"}


def test_a_norm_and_a_product(taken: Any) -> None:
    """The output is recomputed for the gradient of the product's weight."""
    theirs = import_module("fla.modules.norm")
    module = theirs.FusedRMSNormGatedLinear(D)
    weight = torch.randn(V, D)

    def reference(x: Any, g: Any, weight: Any) -> Any:
        return torch.nn.functional.linear(norm(x, module.weight, g, None, 1e-5, 1, True), weight)

    compared(module, reference, {"x": torch.randn(B, T, D), "g": torch.randn(B, T, D), "weight": weight})


def test_calls_left_to_fla() -> None:
    backends = import_module("fla.backends")
    backend = backends._operation_registries["gated_delta_rule"]._backends["fastiter"]
    q, k, v, g = signals()
    beta, conv = torch.rand(B, T, H), (torch.randn(B, T, D), torch.randn(D, W))
    refused = [
        ("chunk_gated_delta_rule", (q, k, v, g, beta), {}, None),
        ("chunk_gated_delta_rule", (q, k, v, g.to("meta"), beta), {}, "must be on the CPU, got device meta"),
        ("chunk_gated_delta_rule", (q, k, v, g, beta), {"cp_context": object()}, "cp_context must be None"),
        ("chunk_gated_delta_rule", (q, k, v, g, beta), {"colour": 1}, "unexpected keyword argument 'colour'"),
        ("chunk_gated_delta_rule", (q, k), {}, "missing a required argument: 'v'"),
        ("chunk_kda", (q, k, v, g, beta), {"return_intermediate_states": True}, "return_intermediate_states must be"),
        ("fused_recurrent_kda_fwd", (q, k, v, g, beta), {}, "inplace_final_state must be False, got True"),
        (
            "fused_recurrent_kda_fwd",
            (q, k, v, g, beta),
            {"inplace_final_state": False, "ssm_state_indices": beta},
            "'ssm_state_indices'",
        ),
        ("causal_conv1d_fwd", (*conv, None, None), {"chunk_size": 32}, None),
        ("causal_conv1d_fwd", (*conv, None, None), {"colour": 1}, "unexpected keyword argument 'colour'"),
        ("causal_conv1d_bwd", (conv[0], conv[0], None), {}, "weight"),
        ("layer_norm_gated_fwd", (beta[0], beta[0], None, None), {"activation": "relu"}, "got 'relu'"),
        ("causal_conv1d_update", (conv[0][:, 0], torch.zeros(B, D, W)), {}, "weight must be a tensor, got None"),
    ]
    for name, given, options, reason in refused:
        accepted, said = backend.verify(name, *given, **options)
        assert accepted == (reason is None), (name, said)
        assert reason is None or reason in said, said


def test_a_registry_that_is_switched_off_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("fla.backends"), "_DISPATCH_DISABLED", True)
    with pytest.raises(RuntimeError, match=r"^register: FLA_DISABLE_BACKEND_DISPATCH must not be 1"):
        compat.fla.register()
