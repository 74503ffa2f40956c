"""One call of every public sequence function, with the options that apply functions such as softplus to its inputs.

A call takes signals (B, T, ...), weights and a state, and returns results (B, T, ...) and the state after the last
step. The same calls run on arrays and on tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Shapes = Mapping[str, tuple[int, ...]]
#: (functions, signals, weights, state) -> (results, state); the functions are fastiter or fastiter.torch
Run = Callable[[Any, Any, Any, Any], tuple[Any, Any]]
H, P, N, K = 3, 5, 7, 5  # heads, channels per head, states, width of keys: no multiples of a vector

QKV: Shapes = {"q": (H, K), "k": (H, K), "v": (H, P)}
GATED: Shapes = {**QKV, "g": (H,), "beta": (H,)}


class Call(NamedTuple):
    """A call, the shapes of a step of its signals, and those of its weights.

    splits: whether the call continues a sequence from its state with the same bits.
    """

    run: Run
    signals: Shapes
    weights: Shapes
    splits: bool = True
    dtypes: tuple[str, ...] = ("float32", "float64")


ON_BOTH: dict[str, Call] = {}  # on arrays and on tensors
ON_TENSORS: dict[str, Call] = {}
WITH_BF16 = ("float32", "float64", "bfloat16")


def enter(table: dict[str, Call], name: str, *, signals: Shapes, weights: Shapes | None = None, **more: Any) -> Any:
    """Register a call of a public name, which may have several."""

    def decorate(run: Run) -> Run:
        count = sum(key.partition(" ")[0] == name for key in table)
        table[f"{name} {count}" if count else name] = Call(run, signals, weights or {}, **more)
        return run

    return decorate


def decay(x: Any) -> Any:
    """Return factors from 0 to 1: quotients are rounded alike everywhere."""
    return 1 / (1 + abs(x))


# ---- Recurrent cells and scans --------------------------------------------------------------------------------------


def cell(name: str, gates: int) -> None:
    @enter(ON_BOTH, name, signals={"wx": (gates, 2, P)}, weights={"r": (gates, 2, P, P), "b": (gates, 2, P)})
    def run(f: Any, x: Any, w: Any, state: Any) -> Any:
        found = getattr(f, name)(x.wx, 0.4 * w.r, w.b, state)
        return [found.output], tuple(found.state)


for _name, _gates in (("lstm", 4), ("gru", 3), ("elman", 1), ("slstm", 4)):
    cell(_name, _gates)


def para(name: str, gates: int) -> None:
    @enter(ON_BOTH, name, signals={"wx": (gates, 9)}, weights={"a": (gates, 9), "p": (2, 9)})
    def run(f: Any, x: Any, w: Any, state: Any) -> Any:
        peepholes = (w.p,) if name == "paralstm" else ()
        found = getattr(f, name)(x.wx, w.a, *peepholes, state)
        return [found[0]], tuple(found[1])


for _name, _gates in (("paragru", 3), ("paralstm", 3), ("paraslstm", 4)):
    para(_name, _gates)


@enter(ON_BOTH, "linear_scan", signals={"a": (9,), "x": (9,)})
def linear_scan(f: Any, x: Any, w: Any, state: Any) -> Any:
    h, last = f.linear_scan(decay(x.a), x.x, state)
    return [h], last


@enter(ON_BOTH, "block_scan", signals={"a": (3, 2, 2), "x": (3, 2)})
def block_scan(f: Any, x: Any, w: Any, state: Any) -> Any:
    h, last = f.block_scan(0.3 * x.a, x.x, state)
    return [h], last


def delta(method: str) -> None:
    @enter(ON_BOTH, "delta_scan", signals=GATED, splits=method == "sequential")
    def run(f: Any, x: Any, w: Any, state: Any) -> Any:
        o, last = f.delta_scan(x.q, 0.3 * x.k, x.v, decay(x.beta), state, decay=decay(x.g), method=method)
        return [o], last


for _name in ("sequential", "chunk"):
    delta(_name)


# ---- State-space models ---------------------------------------------------------------------------------------------

CHANNELS = 9
SELECTIVE: Shapes = {**dict.fromkeys(("u", "dt", "z"), (CHANNELS,)), **dict.fromkeys(("B", "C"), (N,))}
RATES: Shapes = {"A": (CHANNELS, N), "D": (CHANNELS,), "bias": (CHANNELS,)}


def last_axis(x: Any) -> Any:
    """Return (B, T, D) as (B, D, T), or back."""
    return x.swapaxes(1, 2)


@enter(ON_BOTH, "ssm.selective_scan", signals=SELECTIVE, weights=RATES, dtypes=WITH_BF16)
def selective_scan(f: Any, x: Any, w: Any, state: Any) -> Any:
    u, dt, B, C, z = (last_axis(y) for y in (x.u, x.dt, x.B, x.C, x.z))
    options = {"return_last_state": True, "state": state}
    out, last = f.ssm.selective_scan(u, dt, -abs(w.A), B, C, w.D, z, w.bias, True, **options)
    return [last_axis(out)], last


def without_gradient(x: Any) -> Any:
    """Return a signal of a function that updates its state in place and refuses gradients."""
    return x.detach() if hasattr(x, "detach") else x


@enter(ON_BOTH, "ssm.selective_state_update", signals=SELECTIVE, weights=RATES, splits=False)
def selective_state_update(f: Any, x: Any, w: Any, state: Any) -> Any:
    u, dt, B, C, z = (without_gradient(y)[:, 0] for y in (x.u, x.dt, x.B, x.C, x.z))
    start = u[:, :, None] * B[:, None, :]
    return [f.ssm.selective_state_update(start, u, dt, -abs(w.A), B, C, w.D, z, w.bias, True)[:, None]], None


HEADS: Shapes = {"x": (H, P), "dt": (H,), "B": (1, N), "C": (1, N), "z": (H, P)}
HEAD_RATES: Shapes = {"A": (H,), "D": (H,), "bias": (H,)}


@enter(ON_BOTH, "ssm.ssd", signals=HEADS, weights=HEAD_RATES)
def ssd(f: Any, x: Any, w: Any, state: Any) -> Any:
    given = (x.x, x.dt, -abs(w.A), x.B, x.C, w.D, x.z, w.bias, True)
    out, last = f.ssm.ssd(*given, state=state)
    return [out], last


@enter(ON_BOTH, "ssm.ssd", signals=HEADS, weights=HEAD_RATES)
def ssd_with_limits(f: Any, x: Any, w: Any, state: Any) -> Any:
    given = (x.x, x.dt, -abs(w.A), x.B, x.C)
    out, last = f.ssm.ssd(*given, dt_bias=w.bias, dt_softplus=True, dt_limit=(0.1, 2.0), state=state)
    return [out], last


def attention(signals: Shapes, **options: Callable[[Any, Any], Any]) -> None:
    @enter(ON_BOTH, "ssm.linear_attention", signals=signals, weights={"bonus": (H, K)})
    def run(f: Any, x: Any, w: Any, state: Any) -> Any:
        given = {name: make(x, w) for name, make in options.items()}
        o, last = f.ssm.linear_attention(x.q, x.k, x.v, **given, state=state)
        return [o], last


attention({**QKV, "g": (H,)}, log_decay=lambda x, w: -abs(x.g))
attention({**QKV, "g": (H, K)}, log_decay=lambda x, w: -abs(x.g), bonus=lambda x, w: w.bonus)
attention({**QKV, "g": (H,)}, decay=lambda x, w: decay(x.g))


@enter(ON_BOTH, "ssm.dplr_delta_rule", signals={**QKV, "a": (H, K), "b": (H, K), "g": (H, K)})
def dplr_delta_rule(f: Any, x: Any, w: Any, state: Any) -> Any:
    o, last = f.ssm.dplr_delta_rule(x.q, x.k, x.v, 0.2 * x.a, 0.2 * x.b, -abs(x.g), state=state)
    return [o], last


@enter(ON_BOTH, "ssm.mlstm", signals={**QKV, "i": (H,), "f": (H,)})
def mlstm(f: Any, x: Any, w: Any, state: Any) -> Any:
    h, last = f.ssm.mlstm(x.q, x.k, x.v, x.i, x.f, state=state)
    return [h], tuple(last)


CONV: Shapes = {"weight": (CHANNELS, 4), "bias": (CHANNELS,)}


@enter(ON_BOTH, "ssm.causal_conv1d", signals={"x": (CHANNELS,)}, weights=CONV, dtypes=WITH_BF16)
def causal_conv1d(f: Any, x: Any, w: Any, state: Any) -> Any:
    options = {"state": state, "activation": "silu", "return_last_state": True}
    out, last = f.ssm.causal_conv1d(last_axis(x.x), w.weight, w.bias, **options)
    return [last_axis(out)], last


@enter(ON_BOTH, "ssm.causal_conv1d_update", signals={"x": (CHANNELS,)}, weights=CONV, splits=False)
def causal_conv1d_update(f: Any, x: Any, w: Any, state: Any) -> Any:
    given = without_gradient(x.x)
    recent = last_axis(given[:, :3]) + 0
    out = f.ssm.causal_conv1d_update(last_axis(given[:, 3:5]), recent, w.weight, w.bias, "silu")
    return [last_axis(out)], None


# ---- Functions on tensors -------------------------------------------------------------------------------------------


def norm(run: Callable[[Any, Any, Any], Any], name: str) -> None:
    weights: Shapes = {"weight": (12,), "bias": (12,)}

    @enter(ON_TENSORS, name, signals={"x": (12,), "z": (12,)}, weights=weights, dtypes=WITH_BF16)
    def of_steps(f: Any, x: Any, w: Any, state: Any) -> Any:
        return [run(f, x, w)], ()


norm(lambda f, x, w: f.ssm.gated_rms_norm(x.x, w.weight, x.z, groups=3), "ssm.gated_rms_norm")
norm(
    lambda f, x, w: f.ssm.gated_rms_norm(x.x, w.weight, x.z, w.bias, norm_before_gate=False),
    "ssm.gated_rms_norm",
)
_SHIM = "compat.mamba_ssm"
norm(lambda f, x, w: f.compat.mamba_ssm.layernorm_fn(x.x, w.weight, w.bias, x.z), f"{_SHIM}.layernorm_fn")
norm(lambda f, x, w: f.compat.mamba_ssm.rmsnorm_fn(x.x, w.weight, w.bias, x.z), f"{_SHIM}.rmsnorm_fn")
norm(lambda f, x, w: f.compat.mamba_ssm.layer_norm_fn(x.x, w.weight, w.bias, x.z), f"{_SHIM}.layer_norm_fn")
norm(lambda f, x, w: f.compat.mamba_ssm.rms_norm_fn(x.x, w.weight, w.bias, x.z), f"{_SHIM}.rms_norm_fn")

RANK, OUTPUTS = 2, 11
INNER: Shapes = {
    "conv": (CHANNELS, 1, 4),
    "conv_bias": (CHANNELS,),
    "x_proj": (RANK + 2 * N, CHANNELS),
    "dt_proj": (CHANNELS, RANK),
    "out_proj": (OUTPUTS, CHANNELS),
    "out_bias": (OUTPUTS,),
    "A": (CHANNELS, N),
    "D": (CHANNELS,),
    "bias": (CHANNELS,),
    "norm": (N,),
    "dt_norm": (CHANNELS,),
}


def inner(function: Callable[[Any], Any], name: str) -> None:
    @enter(ON_TENSORS, name, signals={"xz": (2 * CHANNELS,)}, weights=INNER, splits=False, dtypes=WITH_BF16)
    def run(f: Any, x: Any, w: Any, state: Any) -> Any:
        weights = (w.conv, w.conv_bias, w.x_proj, w.dt_proj, w.out_proj, w.out_bias, -abs(w.A))
        norms = {"b_rms_weight": w.norm, "c_rms_weight": w.norm, "dt_rms_weight": w.dt_norm}
        return [function(f)(last_axis(x.xz), *weights, D=w.D, delta_bias=w.bias, **norms)], None


inner(lambda f: f.ssm.mamba_inner, "ssm.mamba_inner")
inner(lambda f: f.compat.mamba_ssm.mamba_inner_fn, f"{_SHIM}.mamba_inner_fn")

MLP = 3
INNER2: Shapes = {
    "conv": (H * P + 2 * N, 4),
    "conv_bias": (H * P + 2 * N,),
    **HEAD_RATES,
    "norm": (H * P,),
    "out_proj": (OUTPUTS, MLP + H * P),
}


def inner2(function: Callable[[Any], Any], name: str, *between: Any, normed: bool) -> None:
    signals = {"x": (2 * MLP + 2 * H * P + 2 * N + H,)}

    @enter(ON_TENSORS, name, signals=signals, weights=INNER2, splits=False, dtypes=WITH_BF16)
    def run(f: Any, x: Any, w: Any, state: Any) -> Any:
        how = {"rmsnorm_weight": w.norm} if normed else {}
        how |= {"outproj_weight": w.out_proj, "headdim": P, "norm_before_gate": False}
        return [function(f)(x.x, w.conv, w.conv_bias, w.bias, -abs(w.A), w.D, *between, **how)], None


inner2(lambda f: f.ssm.mamba2_inner, "ssm.mamba2_inner", normed=True)
inner2(lambda f: f.ssm.mamba2_inner, "ssm.mamba2_inner", normed=False)
inner2(
    lambda f: f.compat.mamba_ssm.mamba_split_conv1d_scan_combined,
    f"{_SHIM}.mamba_split_conv1d_scan_combined",
    64,
    normed=True,
)


@enter(ON_TENSORS, "flashrnn", signals={"wx": (4, 2, 8)}, weights={"r": (4, 2, 8, 8), "b": (4, 2, 8)})
def flashrnn(f: Any, x: Any, w: Any, state: Any) -> Any:
    states, last = f.flashrnn(x.wx, 0.3 * w.r, w.b, state, function="slstm")
    return list(states), last


# ---- Signatures of other libraries ----------------------------------------------------------------------------------


@enter(ON_TENSORS, f"{_SHIM}.selective_scan_fn", signals=SELECTIVE, weights=RATES, splits=False)
def selective_scan_fn(f: Any, x: Any, w: Any, state: Any) -> Any:
    u, dt, B, C, z = (last_axis(y) for y in (x.u, x.dt, x.B, x.C, x.z))
    return [last_axis(f.compat.mamba_ssm.selective_scan_fn(u, dt, -abs(w.A), B, C, w.D, z, w.bias, True))], None


@enter(ON_TENSORS, f"{_SHIM}.selective_state_update", signals=SELECTIVE, weights=RATES, splits=False)
def selective_state_update_of_mamba(f: Any, x: Any, w: Any, state: Any) -> Any:
    u, dt, B, C, z = (y[:, 0] for y in (x.u, x.dt, x.B, x.C, x.z))
    given = ((u[:, :, None] * B[:, None, :]).detach(), u, dt, -abs(w.A), B, C, w.D, z, w.bias, True)
    return [f.compat.mamba_ssm.selective_state_update(*given)[:, None]], None


@enter(ON_TENSORS, f"{_SHIM}.mamba_chunk_scan_combined", signals=HEADS, weights=HEAD_RATES, dtypes=WITH_BF16)
def mamba_chunk_scan_combined(f: Any, x: Any, w: Any, state: Any) -> Any:
    options = {"dt_bias": w.bias, "dt_softplus": True, "initial_states": state, "return_final_states": True}
    given = (x.x, x.dt, -abs(w.A), x.B, x.C, 64, w.D, x.z)
    out, last = f.compat.mamba_ssm.mamba_chunk_scan_combined(*given, **options)
    return [out], last


@enter(ON_TENSORS, "compat.causal_conv1d.causal_conv1d_fn", signals={"x": (CHANNELS,)}, weights=CONV)
def causal_conv1d_fn(f: Any, x: Any, w: Any, state: Any) -> Any:
    options = {"initial_states": state, "activation": "silu", "return_final_states": True}
    out, last = f.compat.causal_conv1d.causal_conv1d_fn(last_axis(x.x), w.weight, w.bias, **options)
    return [last_axis(out)], last


def of_mlstm(name: str) -> None:
    signals = {**QKV, "i": (H,), "f": (H,)}

    @enter(ON_TENSORS, f"compat.mlstm_kernels.{name}", signals=signals)
    def run(f: Any, x: Any, w: Any, state: Any) -> Any:
        given = (last_axis(y) for y in (x.q, x.k, x.v, x.i, x.f))
        first = dict(zip(("c_initial", "n_initial", "m_initial"), state or [None] * 3, strict=True))
        how = {"dtype_state": x.q.dtype} if name == "mlstm_recurrent_sequence" else {}
        h, last = getattr(f.compat.mlstm_kernels, name)(*given, **first, **how, return_last_states=True)
        return [last_axis(h)], tuple(last)


for _name in ("mlstm_chunkwise", "mlstm_recurrent_sequence"):
    of_mlstm(_name)


@enter(ON_TENSORS, "compat.mlstm_kernels.mlstm_recurrent_step", signals={**QKV, "i": (H,), "f": (H,)}, splits=False)
def mlstm_recurrent_step(f: Any, x: Any, w: Any, state: Any) -> Any:
    q, k, v, i, forget = (y[:, 0] for y in (x.q, x.k, x.v, x.i, x.f))
    gates = (i[..., None], forget[..., None])
    first = (k[..., None] * v[..., None, :], k, i[..., None])
    step = f.compat.mlstm_kernels.mlstm_recurrent_step
    return [step(q, k, v, *gates, *first, dtype_state=q.dtype)[0][:, None]], None


def of_fla(*names: str, signals: Shapes, weights: Shapes | None = None, **options: Any) -> None:
    """Register functions of fla, whose options are values or made from signals and weights."""
    for name in names:

        def run(f: Any, x: Any, w: Any, state: Any, name: str = name) -> Any:
            given = {key: make(x, w) if callable(make) else make for key, make in options.items()}
            plain = {key: getattr(x, key) for key in signals if key not in given}
            function = getattr(f.compat.fla, name)
            o, last = function(**{**plain, **given}, initial_state=state, output_final_state=True)
            return [o], last

        enter(ON_TENSORS, f"compat.fla.{name}", signals=signals, weights=weights)(run)


def negative(name: str) -> Callable[[Any, Any], Any]:
    return lambda x, w: -abs(getattr(x, name))


def small(name: str) -> Callable[[Any, Any], Any]:
    return lambda x, w: 0.2 * getattr(x, name)


of_fla("chunk_linear_attn", "fused_recurrent_linear_attn", signals=QKV, normalize=True)
of_fla(
    "chunk_simple_gla",
    "fused_recurrent_simple_gla",
    signals={**QKV, "g": (H,)},
    g=negative("g"),
)
of_fla("chunk_gla", signals={**QKV, "g": (H, K)}, g=negative("g"))
of_fla("fused_recurrent_gla", signals={**QKV, "gk": (H, K)}, gk=negative("gk"))
of_fla("chunk_retention", "fused_recurrent_retention", signals=QKV)
of_fla("chunk_lightning_attn", "fused_recurrent_lightning_attn", signals=QKV, layer_idx=1, num_layers=4)
_RWKV6: Shapes = {"r": (H, K), "k": (H, K), "v": (H, P), "w": (H, K)}
of_fla(
    "chunk_rwkv6",
    "fused_recurrent_rwkv6",
    signals=_RWKV6,
    weights={"u": (H, K)},
    w=negative("w"),
    u=lambda x, w: w.u,
)
of_fla("fused_recurrent_hgrn", signals={"x": (9,), "g": (9,)}, g=negative("g"))
_DELTA = ("chunk_delta_rule", "fused_recurrent_delta_rule")
of_fla(*_DELTA, signals={**QKV, "beta": (H,)}, beta=lambda x, w: decay(x.beta), use_qk_l2norm_in_kernel=True)
_GATES: dict[str, Any] = {
    "use_qk_l2norm_in_kernel": True,
    "use_gate_in_kernel": True,
    "use_beta_sigmoid_in_kernel": True,
    "allow_neg_eigval": True,
    "A_log": lambda x, w: w.A_log,
    "dt_bias": lambda x, w: w.dt_bias,
}
_GATED_RULES = ("chunk_gated_delta_rule", "fused_recurrent_gated_delta_rule")
of_fla(*_GATED_RULES, signals=GATED, weights={"A_log": (H,), "dt_bias": (H,)}, **_GATES)
of_fla("chunk_gated_delta_rule", signals=GATED, g=negative("g"), beta=lambda x, w: decay(x.beta))
_KDA = {"signals": {**GATED, "g": (H, K)}, "weights": {"A_log": (H,), "dt_bias": (H * K,)}}
of_fla("chunk_kda", "fused_recurrent_kda", **_KDA, **_GATES)
of_fla("chunk_kda", "fused_recurrent_kda", **_KDA, **_GATES, lower_bound=-5.0)
_DPLR: Shapes = {**QKV, "a": (H, K), "b": (H, K), "gk": (H, K)}
of_fla(
    "chunk_dplr_delta_rule",
    "fused_recurrent_dplr_delta_rule",
    signals=_DPLR,
    a=small("a"),
    b=small("b"),
    gk=negative("gk"),
)
_RWKV7: Shapes = {"r": (H, K), "w": (H, K), "k": (H, K), "v": (H, P), "a": (H, K), "b": (H, K)}
of_fla("chunk_rwkv7", "fused_recurrent_rwkv7", signals=_RWKV7, a=small("a"), b=small("b"), w=negative("w"))


@enter(
    ON_TENSORS,
    "compat.fla.chunk_gated_delta_product",
    signals={"q": (H, K), "k": (2, H, K), "v": (2, H, P), "g": (H,), "beta": (2, H)},
)
def chunk_gated_delta_product(f: Any, x: Any, w: Any, state: Any) -> Any:
    k, v, beta = (y.flatten(1, 2) for y in (x.k, x.v, decay(x.beta)))
    options = {"use_qk_l2norm_in_kernel": True, "output_final_state": True, "initial_state": state}
    o, last = f.compat.fla.chunk_gated_delta_product(x.q, k, v, -abs(x.g), beta, 2, **options)
    return [o], last


# ---- Modules --------------------------------------------------------------------------------------------------------


def module(name: str, **options: Any) -> None:
    @enter(ON_TENSORS, f"nn.{name}", signals={"x": (9,)})
    def run(f: Any, x: Any, w: Any, state: Any) -> Any:
        import torch

        torch.manual_seed(0)
        layer = getattr(f.nn, name)(9, 7, batch_first=True, dtype=x.x.dtype, **options)
        y, last = layer(x.x, state)
        return [y], last


for _name in ("LSTM", "GRU", "RNN", "sLSTM", "ParaGRU", "ParaLSTM"):
    module(_name)

_PRODUCTS = "torch's matrix products, which round differently for different numbers of rows (docs/rnn/modules.md)"
_COPIES = "copies its inputs and computes nothing"
_NO_CALL = "computes nothing: a result, a configuration, or a change of other objects"
#: Public names of the families of sequences that have no call, with the reason
EXCUSED: dict[str, str] = {
    **dict.fromkeys(("nn.DeltaNet", "nn.LinearRNN", "nn.sLSTMBlock"), _PRODUCTS),
    **dict.fromkeys(("ssm.causal_conv1d_varlen_states", "compat.causal_conv1d.causal_conv1d_varlen_states"), _COPIES),
    **dict.fromkeys(("FlashRNNConfig", "RecurrenceSolution"), _NO_CALL),
    **dict.fromkeys(("Replaced", "Restored", "replace", "compat.fla.register"), _NO_CALL),
    **dict.fromkeys(("compat.install", "compat.uninstall", "compat.mlstm_kernels.register"), _NO_CALL),
    **dict.fromkeys((f"{_SHIM}.{name}" for name in ("RMSNorm", "RMSNormGated")), "calls a function"),
    "compat.causal_conv1d.causal_conv1d_update": "calls ssm.causal_conv1d_update",
    "nn.StreamingRNN": "steps of the modules, compared with whole sequences in tests/rnn",
    "solve_recurrence": "the user's cell determines the bits",
}
