"""fastiter.torch.compat.fla against the reference functions of fla itself, with its signatures."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("fla", reason="needs fla-core, whose naive functions are the reference")

from torch.nn.functional import logsigmoid  # noqa: E402

from fastiter.ssm._torch.compat.fla_common import IGNORED  # noqa: E402
from fastiter.torch import compat  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::ImportWarning")
B, T, H, K, V = 2, 70, 3, 8, 5


@pytest.fixture(autouse=True)
def kernels_for_gpus() -> None:
    """Override the fixture that hides fla."""


def naive(module: str, name: str) -> Any:
    return getattr(import_module(f"fla.ops.{module}"), name)


def inputs(*, decay: tuple[int, ...] | None = None, heads: int = H) -> dict[str, Any]:
    torch.manual_seed(0)
    made = {"q": torch.randn(B, T, H, K), "k": torch.randn(B, T, H, K) / K**0.5, "v": torch.randn(B, T, heads, V)}
    if decay is not None:
        made["g"] = logsigmoid(torch.randn(decay))
    return made


def close(found: Any, expected: Any) -> None:
    """Compare within the rounding of float32 sums of T K products."""
    for a, e in zip(found, expected, strict=True):
        if e is None:
            assert a is None
        elif isinstance(e, tuple):
            close(a, e)
        else:
            assert a.dtype == e.dtype
            torch.testing.assert_close(a, e, rtol=2e-5, atol=2e-5 * max([1.0, *e.abs().flatten().tolist()]))


def test_linear_attention() -> None:
    state = torch.randn(B, H, K, V)
    reference = naive("linear_attn.naive", "naive_recurrent_linear_attn")
    for normalize in (False, True):
        given = {**inputs(), "scale": 0.3, "normalize": normalize}
        if normalize:  # positive products, like those of feature maps
            given |= {name: given[name].abs() + 0.1 for name in "qk"}
        expected = reference(**given, initial_state=state, output_final_state=True)
        for function in (compat.fla.chunk_linear_attn, compat.fla.fused_recurrent_linear_attn):
            close(function(**given, initial_state=state, output_final_state=True), expected)
            assert function(**given)[1] is None
        if normalize:  # the state has both parts, and continues the sequence
            both = (state, torch.rand(B, 1, H, K))
            expected = reference(**given, initial_state=both, output_final_state=True)
            close(compat.fla.chunk_linear_attn(**given, initial_state=both, output_final_state=True), expected)


def test_simple_gla_and_fixed_decays() -> None:
    state = torch.randn(B, H, K, V)
    given = inputs(decay=(B, T, H))
    expected = naive("simple_gla.naive", "naive_recurrent_simple_gla")(**given, initial_state=state)
    for function in (compat.fla.chunk_simple_gla, compat.fla.fused_recurrent_simple_gla):
        close(function(**given, initial_state=state, output_final_state=True), expected)
        v_first = {"initial_state": state.transpose(2, 3), "state_v_first": True, "output_final_state": True}
        o, last = function(**given, **v_first)
        close((o, last.transpose(2, 3)), expected)
        gamma = given["g"][0, 0]
        same = {**given, "g": gamma.expand(B, T, H)}
        close(function(*[given[n] for n in "qkv"], g_gamma=gamma), function(**same))
    qkv = [given[n] for n in "qkv"]
    expected_o = naive("retention.naive", "naive_retention")(*[x.transpose(1, 2) for x in qkv]).transpose(1, 2)
    for function in (compat.fla.chunk_retention, compat.fla.fused_recurrent_retention):
        close(function(*qkv)[:1], [expected_o])
    lightning = -(8 / H * (1 - 2 / 7)) * torch.arange(H)
    for function in (compat.fla.chunk_lightning_attn, compat.fla.fused_recurrent_lightning_attn):
        close(function(*qkv, 2, 7), compat.fla.chunk_simple_gla(*qkv, g_gamma=lightning))


def test_gla_rwkv6_and_hgrn() -> None:
    state = torch.randn(B, H, K, V)
    given = inputs(decay=(B, T, H, K))
    qkv, g = [given[n] for n in "qkv"], given["g"]
    expected = naive("gla.naive", "naive_recurrent_gla")(*qkv, g, state, True)
    close(compat.fla.chunk_gla(*qkv, g, initial_state=state, output_final_state=True), expected)
    close(compat.fla.fused_recurrent_gla(*qkv, g, initial_state=state, output_final_state=True), expected)
    u = torch.randn(H, K)
    heads_first = [x.transpose(1, 2) for x in (*qkv, g)]
    o, last = naive("rwkv6.recurrent_naive", "naive_recurrent_rwkv6")(*heads_first, u, 0.5, state, True)
    for function in (compat.fla.chunk_rwkv6, compat.fla.fused_recurrent_rwkv6):
        close(function(*qkv, g, u, 0.5, state, True), (o.transpose(1, 2), last))
    x, gate, first = torch.randn(B, T, K), g[:, :, 0], torch.randn(B, K)
    expected = naive("hgrn.naive", "naive_recurrent_hgrn")(x, gate, first, True)
    close(compat.fla.fused_recurrent_hgrn(x, gate, first, True), expected)


def test_delta_rules() -> None:
    state = torch.randn(B, H, K, V)
    given = inputs(decay=(B, T, H))
    qkv, g = [given[n] for n in "qkv"], given["g"]
    qkv[1] = torch.nn.functional.normalize(qkv[1], dim=-1)
    beta = torch.rand(B, T, H)
    reference = naive("gated_delta_rule.naive", "naive_recurrent_gated_delta_rule")
    expected = reference(*qkv, beta, g, initial_state=state, output_final_state=True)
    options = {"initial_state": state, "output_final_state": True}
    close(compat.fla.chunk_gated_delta_rule(*qkv, g, beta, **options), expected)
    close(compat.fla.fused_recurrent_gated_delta_rule(*qkv, g=g, beta=beta, **options), expected)
    ungated = reference(*qkv, beta, torch.zeros_like(g), **options)
    close(compat.fla.chunk_delta_rule(*qkv, beta, **options), ungated)
    close(compat.fla.fused_recurrent_delta_rule(*qkv, beta, **options), ungated)
    raw, A_log, bias = torch.randn(B, T, H), torch.randn(H), torch.randn(H)
    inside = {"use_gate_in_kernel": True, "A_log": A_log, "dt_bias": bias, "use_beta_sigmoid_in_kernel": True}
    found = compat.fla.chunk_gated_delta_rule(*qkv, raw, raw, allow_neg_eigval=True, **inside, **options)
    outside = -A_log.exp() * torch.nn.functional.softplus(raw + bias)
    close(found, compat.fla.chunk_gated_delta_rule(*qkv, outside, 2 * raw.sigmoid(), **options))
    unit = [3 * x for x in qkv[:2]]
    normalized = [x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6) for x in unit]
    found = compat.fla.chunk_gated_delta_rule(*unit, qkv[2], g, beta, use_qk_l2norm_in_kernel=True)
    close(found, compat.fla.chunk_gated_delta_rule(*normalized, qkv[2], g, beta))
    v, wide_beta, wide_g = torch.randn(B, T, 2 * H, V), torch.rand(B, T, 2 * H), logsigmoid(torch.randn(B, T, 2 * H))
    repeated = [x.repeat_interleave(2, 2) for x in qkv[:2]]
    found = compat.fla.chunk_gated_delta_rule(*qkv[:2], v, wide_g, wide_beta, output_final_state=True)
    close(found, reference(*repeated, v, wide_beta, wide_g, output_final_state=True))


def test_delta_product() -> None:
    given = inputs(decay=(B, T, H))
    k = torch.nn.functional.normalize(torch.randn(B, 2 * T, H, K), dim=-1)
    v, beta = torch.randn(B, 2 * T, H, V), torch.rand(B, 2 * T, H)
    state = torch.randn(B, H, K, V)
    found = compat.fla.chunk_gated_delta_product(given["q"], k, v, given["g"], beta, 2, None, state, True)
    # A step with two factors is two steps, the second of which has no decay and is read.
    g = torch.stack([given["g"], torch.zeros_like(given["g"])], 2).flatten(1, 2)
    q = given["q"].repeat_interleave(2, 1)
    o, last = compat.fla.chunk_gated_delta_rule(q, k, v, g, beta, None, state, True)
    close(found, (o[:, 1::2], last))


def test_a_decay_for_each_key() -> None:
    given = inputs(decay=(B, T, H, K))
    qkv, g = [given[n] for n in "qkv"], given["g"]
    qkv[1] = torch.nn.functional.normalize(qkv[1], dim=-1)
    beta, state = torch.rand(B, T, H), torch.randn(B, H, K, V)
    options = {"initial_state": state, "output_final_state": True}
    reference = naive("kda.naive", "naive_recurrent_kda")
    expected = reference(*qkv, g, beta, **options)
    for function in (compat.fla.chunk_kda, compat.fla.fused_recurrent_kda):
        close(function(*qkv, g, beta, **options), expected)
        v_first = {"initial_state": state.transpose(2, 3), "state_v_first": True, "output_final_state": True}
        o, last = function(*qkv, g, beta, **v_first)
        close((o, last.transpose(2, 3)), expected)
    v, wide_beta, wide_g = torch.randn(B, T, 2 * H, V), torch.rand(B, T, 2 * H), logsigmoid(torch.randn(B, T, 2 * H, K))
    found = compat.fla.chunk_kda(*qkv[:2], v, wide_g, wide_beta, output_final_state=True)
    close(found, reference(*qkv[:2], v, wide_g, wide_beta, output_final_state=True))
    raw, A_log, bias = torch.randn(B, T, H, K), torch.randn(H), torch.randn(H * K)
    inside = {"use_gate_in_kernel": True, "A_log": A_log, "dt_bias": bias, "use_beta_sigmoid_in_kernel": True}
    gate = naive("kda.gate", "naive_kda_gate")(raw, A_log, bias)
    found = compat.fla.chunk_kda(*qkv, raw, beta, allow_neg_eigval=True, **inside, **options)
    close(found, reference(*qkv, gate, 2 * beta.sigmoid(), **options))
    bounded = naive("kda.gate", "naive_kda_lowerbound_gate")(raw, A_log, bias, lower_bound=-5.0)
    found = compat.fla.fused_recurrent_kda(*qkv, raw, beta, lower_bound=-5.0, **inside, **options)
    close(found, reference(*qkv, bounded, beta.sigmoid(), **options))
    unit = [3 * x for x in qkv[:2]]
    normalized = [x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6) for x in unit]
    found = compat.fla.chunk_kda(*unit, qkv[2], g, beta, use_qk_l2norm_in_kernel=True)
    close(found, compat.fla.chunk_kda(*normalized, qkv[2], g, beta))
    leaves = [x.detach().clone().requires_grad_() for x in (*qkv, g, beta)]
    copies = [x.detach().clone().requires_grad_() for x in (*qkv, g, beta)]
    weights = torch.randn(B, T, H, V)
    expected = torch.autograd.grad((reference(*copies)[0] * weights).sum(), copies)
    close(torch.autograd.grad((compat.fla.chunk_kda(*leaves)[0] * weights).sum(), leaves), expected)


def test_diagonal_plus_low_rank() -> None:
    given = inputs(decay=(B, T, H, K))
    qkv, g = [given[n] for n in "qkv"], given["g"]
    a = torch.nn.functional.normalize(torch.randn(B, T, H, K), dim=-1)
    b, state = -a * torch.rand(B, T, H, K), torch.randn(B, H, K, V)
    order = [x.transpose(1, 2) for x in (*qkv, a, b, g)]
    o, last = naive("generalized_delta_rule.dplr.naive", "dplr_recurrence")(*order, state)
    expected = (o.transpose(1, 2), last)
    for function in (compat.fla.chunk_dplr_delta_rule, compat.fla.fused_recurrent_dplr_delta_rule):
        close(function(*qkv, a, b, g, None, state, True), expected)
    q, k, v = qkv
    for function in (compat.fla.chunk_rwkv7, compat.fla.fused_recurrent_rwkv7):
        close(function(q, g, k, v, a, b, K**-0.5, state, True), expected)


def test_packed_and_reversed_rows_and_gradients() -> None:
    given = {n: x[:1] for n, x in inputs(decay=(B, T, H, K)).items()}
    bounds = torch.tensor([0, 20, 20, T])
    state = torch.randn(3, H, K, V)
    o, last = compat.fla.chunk_gla(**given, initial_state=state, output_final_state=True, cu_seqlens=bounds)
    for s, (a, b) in enumerate(((0, 20), (20, 20), (20, T))):
        part = {n: x[:, a:b] for n, x in given.items()}
        found = compat.fla.chunk_gla(**part, initial_state=state[s : s + 1], output_final_state=True)
        close((o[:, a:b], last[s : s + 1]), found)
    flipped = {n: x.flip(1) for n, x in given.items()}
    gk = {"gk" if n == "g" else n: x for n, x in given.items()}
    o, _ = compat.fla.fused_recurrent_gla(**gk, reverse=True)
    close([o.flip(1)], compat.fla.chunk_gla(**flipped)[:1])
    leaves = {n: x.detach().requires_grad_() for n, x in given.items()}
    copies = {n: x.detach().clone().requires_grad_() for n, x in given.items()}
    weights = torch.randn(1, T, H, V)
    reference = naive("gla.naive", "naive_recurrent_gla")(*copies.values())[0]
    expected = torch.autograd.grad((reference * weights).sum(), list(copies.values()))
    close(torch.autograd.grad((compat.fla.chunk_gla(**leaves)[0] * weights).sum(), list(leaves.values())), expected)


#: Functions, and the names of their arguments: a and b of the low-rank update, u a bonus, k2, v2 and beta2 for two
#: factors per step
IN_16_BITS = {
    "chunk_linear_attn": "q k v",
    "chunk_simple_gla": "q k v g",
    "fused_recurrent_simple_gla": "q k v g",
    "chunk_retention": "q k v",
    "chunk_gla": "q k v gk",
    "chunk_rwkv6": "q k v gk u",
    "chunk_delta_rule": "q k v beta",
    "chunk_gated_delta_rule": "q k v g beta",
    "fused_recurrent_gated_delta_rule": "q k v g",
    "chunk_gated_delta_product": "q k2 v2 g beta2",
    "chunk_kda": "q k v gk beta",
    "chunk_dplr_delta_rule": "q k v a b gk",
    "chunk_rwkv7": "q gk k v a b",
}


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", IN_16_BITS)
def test_16_bits_are_float32_rounded_once(name: str, stored: Any) -> None:
    """Results and gradients have the bits of a call on the same numbers in float32; K**-0.5 is not rounded first."""
    a = torch.nn.functional.normalize(torch.randn(B, T, H, K), dim=-1)
    wide = inputs(decay=(B, T, H)) | {"a": a, "b": -0.3 * a, "u": torch.randn(H, K), "beta": torch.rand(B, T, H)}
    wide |= {"k2": torch.cat([a, -a], 1), "v2": torch.randn(B, 2 * T, H, V), "beta2": torch.rand(B, 2 * T, H)}
    wide |= {"gk": logsigmoid(torch.randn(B, T, H, K))}
    options = {"initial_state": torch.randn(B, H, K, V), "output_final_state": True}
    options |= {"num_householder": 2} if "product" in name else {"normalize": False} if "linear" in name else {}
    rounded = [wide[each].to(stored) for each in IN_16_BITS[name].split()]
    weights = (torch.arange(B * T * H * V) % 7 - 3).view(B, T, H, V)  # exact in every dtype
    found = []
    for given in (rounded, [x.float() for x in rounded]):
        leaves = [x.clone().requires_grad_() for x in given]
        o, last = getattr(compat.fla, name)(*leaves, **options)
        assert (o.dtype, last.dtype) == (given[0].dtype, torch.float32)
        gradients = torch.autograd.grad((o * weights.to(o.dtype)).float().sum() + last.sum(), leaves)
        found.append([last, o.to(stored), *(x.to(stored) for x in gradients)])
    for mine, exact in zip(*found, strict=True):
        assert torch.equal(mine, exact)


def test_signatures_are_those_of_fla() -> None:
    """The parameters of fla come first, in its order; parameters that only fla has do not change any result."""
    ops = import_module("fla.ops")
    for name in compat.fla.__all__:
        if not hasattr(ops, name):
            continue
        theirs = [p.name for p in parameters(getattr(ops, name))]
        if not theirs:  # an alias in fla that only warns
            continue
        ours = [p.name for p in parameters(getattr(compat.fla, name)) if p.kind is not p.KEYWORD_ONLY]
        assert ours == theirs[: len(ours)], name
        assert set(theirs[len(ours) :]) <= (IGNORED | {"cp_context"}), name


def parameters(function: Any) -> list[inspect.Parameter]:
    return [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]


def test_unsupported_arguments_are_refused() -> None:
    given = inputs(decay=(B, T, H, K))
    qkv = [given[n] for n in "qkv"]
    with pytest.raises(ValueError, match="chunk_gla: cp_context must be None"):
        compat.fla.chunk_gla(**given, cp_context=object())
    with pytest.raises(TypeError, match="chunk_gla: options must be those of fla, got an unexpected keyword"):
        compat.fla.chunk_gla(**given, colour=1)
    with pytest.raises(ValueError, match="fused_recurrent_gla: gv must be None"):
        compat.fla.fused_recurrent_gla(*qkv, given["g"], given["v"])
    with pytest.raises(ValueError, match="reverse must be False if cu_seqlens is given"):
        compat.fla.fused_recurrent_gla(*[x[:1] for x in qkv], reverse=True, cu_seqlens=torch.tensor([0, T]))
    with pytest.raises(ValueError, match="gk must be None"):
        compat.fla.fused_recurrent_gated_delta_rule(*qkv, gk=given["g"])
    with pytest.raises(ValueError, match="A_log must be a tensor if use_gate_in_kernel is True"):
        compat.fla.chunk_gated_delta_rule(*qkv, given["g"][..., 0], given["g"][..., 0], use_gate_in_kernel=True)
    both = (torch.zeros(B, H, K, V), torch.zeros(B, 1, H, K))
    with pytest.raises(TypeError, match=r"^chunk_linear_attn: initial_state must be a tensor if normalize is False"):
        compat.fla.chunk_linear_attn(*qkv, initial_state=both, normalize=False)
    with pytest.raises(ValueError, match=r"^chunk_linear_attn: initial_state must have both its parts"):
        compat.fla.chunk_linear_attn(*qkv, initial_state=(None, both[1]))


def names_of_fla() -> Any:
    """Errors name gates, states and options as in fla, whatever their names are in fastiter."""
    fla, (q, k, v) = compat.fla, inputs().values()
    gate, strength, state = torch.zeros(B, T, H, K), torch.ones(B, T, H), torch.zeros(B, H, V, K)
    one, packed = [x[:1] for x in (q, k, v)], {"cu_seqlens": torch.tensor([0, 9])}
    inside = {"use_gate_in_kernel": True}
    wrong = [
        ("chunk_gla: g must have shape", "chunk_gla", (q, k, v, strength), {}),
        ("chunk_gla: g must be a torch.Tensor, got NoneType", "chunk_gla", (q, k, v, None), {}),
        ("chunk_gla: g must have dtype float32", "chunk_gla", (q, k, v, gate.double()), {}),
        ("chunk_gla: k must have dtype float32", "chunk_gla", (q, k.double(), v, gate), {}),
        ("chunk_gla: initial_state must have shape", "chunk_gla", (q, k, v, gate), {"initial_state": state}),
        ("chunk_gla: scale must be finite in float32, got 1e", "chunk_gla", (q, k, v, gate), {"scale": 1e300}),
        ("chunk_gla: q must have B = 1", "chunk_gla", (q, k, v, gate), packed),
        ("chunk_gla: cu_seqlens must", "chunk_gla", (*one, gate[:1]), packed),
        ("fused_recurrent_gla: gk must have shape", "fused_recurrent_gla", (q, k, v, strength), {}),
        ("chunk_simple_gla: g_gamma must have shape", "chunk_simple_gla", (q, k, v), {"g_gamma": strength}),
        ("chunk_rwkv6: r must be a torch.Tensor", "chunk_rwkv6", (None, k, v, gate, gate[0, 0]), {}),
        ("chunk_rwkv6: w must be a torch.Tensor", "chunk_rwkv6", (q, k, v, None, gate[0, 0]), {}),
        ("chunk_rwkv6: u must have shape", "chunk_rwkv6", (q, k, v, gate, gate), {}),
        ("chunk_rwkv7: w must have shape", "chunk_rwkv7", (q, strength, k, v, gate, gate), {}),
        ("chunk_dplr_delta_rule: gk must have shape", "chunk_dplr_delta_rule", (q, k, v, gate, gate, strength), {}),
        ("chunk_retention: q must be a torch.Tensor", "chunk_retention", (1.0, k, v), {}),
        ("chunk_lightning_attn: num_layers must not be 0", "chunk_lightning_attn", (q, k, v, 0, 0), {}),
        ("chunk_delta_rule: beta must have shape", "chunk_delta_rule", (q, k, v, gate), {}),
        ("chunk_delta_rule: scale must be finite", "chunk_delta_rule", (q, k, v, strength, 1e300), {}),
        ("chunk_gated_delta_rule: g must have shape", "chunk_gated_delta_rule", (q, k, v, gate, strength), {}),
        (
            "chunk_gated_delta_rule: initial_state must have shape",
            "chunk_gated_delta_rule",
            (q, k, v, strength, strength),
            {"initial_state": state},
        ),
        (
            "chunk_gated_delta_rule: A_log must have shape",
            "chunk_gated_delta_rule",
            (q, k, v, strength, strength),
            {**inside, "A_log": gate},
        ),
        ("chunk_kda: beta must have shape", "chunk_kda", (q, k, v, gate, gate), {}),
        (
            "chunk_kda: dt_bias must have 24 elements",
            "chunk_kda",
            (q, k, v, gate, strength),
            {**inside, "A_log": torch.zeros(H), "dt_bias": torch.zeros(H)},
        ),
        ("fused_recurrent_hgrn: g must have shape", "fused_recurrent_hgrn", (q[0], k[0, :1]), {}),
        ("fused_recurrent_hgrn: x must have shape", "fused_recurrent_hgrn", (q, k), {}),
        (
            "chunk_linear_attn: initial_state must have a second part of shape",
            "chunk_linear_attn",
            (q, k, v),
            {"initial_state": (state.transpose(2, 3), state)},
        ),
    ]
    for message, name, given, options in wrong:
        yield message, lambda name=name, given=given, options=options: getattr(fla, name)(*given, **options)


def test_signals_that_do_not_go_together_are_refused() -> None:
    fla, (q, k, v) = compat.fla, inputs().values()
    gate, strength, two = torch.zeros(B, T, H, K), torch.ones(B, T, H), torch.zeros(B, T, 2, V)
    refusals = [
        ("chunk_gla: q must be a torch.Tensor, got list", lambda: fla.chunk_gla([1.0], k, v, gate)),
        ("chunk_linear_attn: v must have shape", lambda: fla.chunk_linear_attn(q, k, v[0])),
        ("chunk_kda: beta must have shape .* to go with q", lambda: fla.chunk_kda(q, k, v, gate, gate)),
        ("chunk_kda: g must have shape .* to go with q", lambda: fla.chunk_kda(q, k, v, strength, strength)),
        ("chunk_kda: v must have .* a multiple of 3 heads", lambda: fla.chunk_kda(q, k, two, gate, strength)),
        ("chunk_rwkv7: k must have shape", lambda: fla.chunk_rwkv7(q, gate, k[..., 1:], v, gate, gate)),
        ("chunk_delta_rule: k must have shape", lambda: fla.chunk_delta_rule(q, k[:, 1:], v, strength)),
        ("fused_recurrent_delta_rule: k must be a torch", lambda: fla.fused_recurrent_delta_rule(q, None, v)),
        (
            "chunk_gated_delta_rule: k must have shape",
            lambda: fla.chunk_gated_delta_rule(q, k[:, :, None], v, gate, gate),
        ),
        ("fused_recurrent_gated_delta_rule: v must have", lambda: fla.fused_recurrent_gdn(q, k, two)),
        (rf"chunk_gated_delta_product: k must have shape \({B}, {2 * T},", lambda: product(2, strength)),
        ("chunk_gated_delta_product: beta must have shape", lambda: product(1, strength[:, 1:])),
        ("chunk_gated_delta_product: num_householder must be", lambda: product(0, strength)),
    ]

    def product(factors: int, beta: Any) -> Any:
        return fla.chunk_gated_delta_product(q, k, v, None, beta, factors)

    for message, call in (*refusals, *names_of_fla()):
        with pytest.raises((TypeError, ValueError), match="^" + message):
            call()
