"""The replaceable functions of other packages: how they are recognised, and a trial on a small input."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from types import MethodType, SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...rnn._torch.nn.modules import GRU, LSTM
from . import attention, conv, functions, policies, recurrent_gemma, rwkv
from .mamba import mamba2
from .rebind import parameters_of

Call = tuple[tuple[Any, ...], dict[str, Any]]
IN_TORCH = ""
KERNEL = "a kernel of fastiter"  # without a public function


class Rule(NamedTuple):
    """A function of a model: its first parameters, its replacement, and calls to compare both.

    `by` is the name of the replacement below ``fastiter.torch``, `IN_TORCH` if it uses only torch's operations,
    `KERNEL` if it has no public name, None if it does nothing. `more` are calls that the model's function may refuse;
    if it does, they are not compared. `calls_of` returns calls for a module whose attributes determine what the
    function computes. `may_be_none` is whether the model's function may be None because its package is not installed.
    """

    parameters: tuple[str, ...]
    make: Callable[[functions.Function], functions.Function]
    by: str | None
    calls: Callable[[], list[Call]]
    more: Callable[[], list[Call]] = list
    calls_of: Callable[[Any], list[Call]] | None = None
    may_be_none: bool = False


def _randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def _conv_calls() -> list[Call]:
    x, weight, bias = _randn(2, 4, 7), _randn(4, 3), _randn(4)
    by_channels = _randn(2, 7, 4).transpose(1, 2)
    return [((x, weight, bias), {"activation": "silu"}), ((by_channels, weight, None), {"activation": None})]


def _conv_step_calls() -> list[Call]:
    x, state, weight, bias = _randn(2, 4, 1), _randn(2, 4, 3), _randn(4, 3), _randn(4)
    return [((x, state, weight, bias, "silu"), {}), ((x, state, weight), {})]


def _older_conv_step_calls() -> list[Call]:
    return _conv_step_calls()[:1]


def _scan_calls() -> list[Call]:
    rates, bias, signals = -_randn(4, 3).abs(), _randn(4), [_randn(2, 4, 5), _randn(2, 4, 5).flip(-1)]
    projections = [_randn(2, 3, 5), _randn(2, 3, 5).flip(-1)]
    every = {"D": _randn(4), "z": _randn(2, 4, 5).flip(1), "delta_bias": bias, "delta_softplus": True}
    last = {"return_last_state": True}
    return [((*signals, rates, *projections), every), ((signals[0], signals[1].abs(), rates, *projections), last)]


def _step_calls() -> list[Call]:
    rates, signals, projections = (
        -_randn(4, 3).abs(),
        (_randn(2, 4), _randn(2, 4).flip(0)),
        (_randn(2, 3), _randn(3, 2).T),
    )
    every = {"z": _randn(2, 4).flip(1), "dt_bias": _randn(4), "dt_softplus": True}
    return [((_randn(2, 4, 3), *signals, rates, *projections, _randn(4)), every)]


def _inner_calls() -> list[Call]:
    conv, rank, states, channels = 2, 1, 3, 4
    weights = _randn(channels, 1, conv), _randn(channels), _randn(rank + 2 * states, channels), _randn(channels, rank)
    arguments = (_randn(2, 2 * channels, 5), *weights, _randn(6, channels), None, -_randn(channels, states).abs())
    return [(arguments, {"D": _randn(channels), "delta_bias": _randn(channels), "delta_softplus": True})]


def _chunk_scan_calls() -> list[Call]:
    x, dt, rates, bias = _randn(2, 5, 4, 3), _randn(2, 5, 4), -_randn(4).abs(), _randn(4)
    projections = _randn(2, 5, 2, 6), _randn(2, 5, 2, 6).flip(1)
    state = {"initial_states": _randn(2, 4, 3, 6), "return_final_states": True}
    every = {"chunk_size": 2, "D": _randn(4), "dt_bias": bias, "dt_softplus": True, "dt_limit": (0.1, 1.0), **state}
    return [((x, dt, rates, *projections), every), ((x, dt.abs(), rates, *projections), {"chunk_size": 8})]


def _heads_step_calls() -> list[Call]:
    x, dt, rates = _randn(2, 4, 3), _randn(2, 4, 1).expand(2, 4, 3), -_randn(4, 1, 1).abs().expand(4, 3, 6)
    projections = _randn(2, 2, 6), _randn(2, 2, 6).flip(1)
    bias, skip = (_randn(n)[:4, None].expand(4, 3) for n in (4, 5))
    every = {"D": skip, "z": _randn(2, 4, 3).flip(1), "dt_bias": bias, "dt_softplus": True}
    return [((_randn(2, 4, 3, 6), x, dt, rates, *projections), every)]


def _split_calls() -> list[Call]:
    heads, width, states, kernel = 2, 3, 4, 2
    inner, channels = heads * width, heads * width + 2 * states
    weights = _randn(channels, kernel), _randn(channels), _randn(heads), -_randn(heads).abs(), _randn(heads)
    options = {"chunk_size": 4, "rmsnorm_weight": _randn(inner), "outproj_weight": _randn(5, inner), "headdim": width}
    return [((_randn(2, 5, inner + channels + heads), *weights), {**options, "norm_before_gate": False})]


def _delta_calls(groups: int) -> list[Call]:
    q, k, v = _randn(2, 5, 2, 3), _randn(2, 5, 2, 3).flip(1), _randn(2, 5, 2 * groups, 4)
    arguments = (q, k, v, -_randn(2, 5, 2 * groups).abs(), _randn(2, 5, 2 * groups).sigmoid())
    state = {"initial_state": _randn(2, 2 * groups, 3, 4), "output_final_state": True}
    none = {"initial_state": None, "output_final_state": False}
    return [(arguments, {"use_qk_l2norm_in_kernel": True, **state}), ((q, k / 2, *arguments[2:]), none)]


def _grouped_calls() -> list[Call]:
    """Return calls with grouped value heads, which some versions of transformers repeat before the call."""
    return _delta_calls(2)


def _kimi_calls() -> list[Call]:
    q, k, v, g = _randn(2, 5, 2, 3), _randn(2, 5, 2, 3).flip(1), _randn(2, 5, 2, 4), -_randn(2, 5, 2, 3).abs()
    every = {"use_qk_l2norm_in_kernel": True, "initial_state": _randn(2, 2, 3, 4), "output_final_state": True}
    none = {"initial_state": None, "output_final_state": False}
    beta = _randn(2, 5, 2).sigmoid()
    return [((q, k, v, g, beta), every), ((q, k / 2, v, g.flip(1), beta), none)]


class _Cache:
    """MiniMax's cache of one layer; the state that the layer sets is compared as one of its results."""

    def get_linear_cache(self, layer: int) -> Tensor:
        return _randn(2, 2, 3, 3)

    def set_linear_cache(self, layer: int, state: Tensor) -> None:
        pass


def _lightning_calls() -> list[Call]:
    """Return calls of MiniMax's layer with 2 heads of width 3, blocks of 4 steps and no norm."""
    rate, block = torch.tensor([0.3, 0.7])[:, None, None], 4
    steps = torch.arange(block) + 1.0
    apart = rate * (steps[:, None] - steps).tril()
    decays = {
        "slope_rate": rate,
        "query_decay": (-rate * steps[:, None]).exp(),
        "key_decay": (-rate * (block - steps[:, None])).exp(),
        "diagonal_decay": (-apart).exp().tril()[None],
    }
    layer = SimpleNamespace(
        act_fn=torch.nn.functional.silu,
        qkv_proj=lambda x: x @ _randn(5, 18),
        norm=lambda x: 2 * x,
        output_gate=lambda x: x @ _randn(5, 6),
        out_proj=lambda x: x.flip(-1),
        **{"num_attention_heads": 2, "head_dim": 3, "block_size": block, "layer_idx": 0, **decays},
    )
    x, mask = _randn(2, 7, 5), torch.ones(2, 7).index_fill(1, torch.tensor([1]), 0)
    return [((layer, x, None, mask), {}), ((layer, x[:, :2], None, None, _Cache()), {})]


def _mlstm_calls_of(module: Any) -> list[Call]:
    """Return a call in the module's own mode, with a sequence of two chunks."""
    time = 2 * int(module.config.chunk_size)
    q, k, v, i, f = _randn(1, 2, time, 4), _randn(1, 2, time, 4).flip(2), _randn(1, 2, time, 3), *_randn(2, 1, 2, time)
    return [((module, q, k, v, i, f + 2), {"return_last_states": "inference" in module.config.mode})]


def _parallel_mlstm_calls() -> list[Call]:
    q, k, v = _randn(2, 3, 5, 4), _randn(2, 3, 5, 4).flip(2), _randn(2, 3, 5, 4).flip(3)
    i, f = _randn(2, 3, 5, 1), _randn(2, 3, 5, 1).flip(2)
    return [((q, k, v, i, f), {"eps": 1e-3}), ((q, k, v, i, f), {"lower_triangular_matrix": None})]


def _mlstm_step_calls() -> list[Call]:
    q, k, v = _randn(2, 3, 1, 4), _randn(2, 3, 1, 4).flip(3), _randn(2, 3, 1, 4).flip(1)
    i, f, states = _randn(2, 3, 1, 1), _randn(2, 3, 1, 1).flip(1), (_randn(2, 3, 4, 4), _randn(2, 3, 4, 1))
    return [((*states, _randn(2, 3, 1, 1) / 2, q, k, v, i, f), {})]


def _rwkv_calls() -> list[Call]:
    weights, k, v = (_randn(4), _randn(4).flip(0)), _randn(2, 5, 4), _randn(2, 5, 4).flip(1)
    state = [_randn(2, 4), _randn(2, 4).abs() + 1, _randn(4, 2).T]
    return [((*weights, 3 * k, v), {}), ((*weights, k, v), {"state": state, "return_state": True})]


def _rnn_calls() -> list[Call]:
    x, reset = _randn(2, 5, 3), torch.zeros(2, 5, 1, dtype=torch.bool).index_fill(1, torch.tensor([2]), True)
    arguments = (None, x, x.sigmoid(), reset)
    return [((*arguments, _randn(2, 3)), {}), ((*arguments, None), {})]


class _Rglru(SimpleNamespace):
    """RecurrentGemma's layer with 2 heads of width 3; its scan returns its arguments, and no state."""

    def _rnn_scan(self, **arguments: Any) -> tuple[list[Any], None]:
        return list(arguments.values()), None


def _rglru_calls() -> list[Call]:
    gates = {"input_gate_bias": _randn(2, 3), "recurrent_gate_bias": _randn(2, 3).flip(0)}
    weights = {"input_gate_weight": _randn(2, 3, 3), "recurrent_gate_weight": _randn(2, 3, 3).flip(0), **gates}
    layer = _Rglru(num_attention_heads=2, block_width=3, recurrent_param=_randn(6), recurrent_states=None, **weights)
    return [((layer, _randn(2, 5, 6), torch.tensor([[0, 1, 2, 3, 4], [1, 2, 0, 1, 2]])), {})]


def _mambapy_calls() -> list[Call]:
    block = SimpleNamespace(config=SimpleNamespace(d_inner=4, d_state=3))
    projections = _randn(2, 5, 3), _randn(2, 5, 3).flip(1)
    return [((block, _randn(2, 5, 4), _randn(2, 5, 4).abs(), -_randn(4, 3).abs(), *projections, _randn(4)), {})]


def _layer(of: type[LSTM | GRU], **options: Any) -> LSTM | GRU:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return of(3, 4, num_layers=2, **options)


def _process_calls() -> list[Call]:
    """Return calls of two sequences of 5 steps with and without starts of episodes, and of single steps."""
    lstm = _layer(LSTM)
    states, starts = (_randn(2, 2, 4), _randn(2, 2, 4).flip(1)), torch.eye(10)[[0, 3, 7]].sum(0)
    calls = ((_randn(10, 3), starts), (_randn(10, 3), 0 * starts), (_randn(2, 3), starts[:2]))
    return [((x, states, flags, lstm), {}) for x, flags in calls]


def _module_calls(layer: str) -> list[Call]:
    """Return a call of torchrl's LSTMModule or GRUModule with two rows, which are cut in three places."""
    from tensordict import TensorDict
    from torchrl.modules import GRUModule, LSTMModule

    of, theirs = (LSTM, LSTMModule) if layer == "lstm" else (GRU, GRUModule)
    names = ["h", "c"][: 1 + (layer == "lstm")]
    module = SimpleNamespace(
        in_keys=["x", *names, "is_init"],
        out_keys=["y", *(f"next_{name}" for name in names)],
        recurrent_mode=True,
        recurrent_backend="auto",
        **{layer: _layer(of, batch_first=True)},
    )
    setattr(module, f"_{layer}", MethodType(getattr(theirs, f"_{layer}"), module))
    given = {name: _randn(2, 5, 2, 4).roll(k) for k, name in enumerate(names)}
    starts = torch.eye(10)[[0, 3, 6, 7]].sum(0).bool().view(2, 5, 1)
    return [((module, TensorDict({"x": _randn(2, 5, 3), **given, "is_init": starts}, [2, 5])), {})]


_CONV = ("hidden_states", "weight", "bias", "activation")
_CONV_STEP = ("hidden_states", "conv_state", "weight", "bias", "activation")
_SCAN = ("hidden_states", "dt", "A", "B", "C", "D", "z", "delta_bias", "delta_softplus", "return_last_state")
_STEP = ("state", "hidden_states", "dt", "A", "B", "C", "D", "dt_bias", "dt_softplus", "z")
_INNER = ("xz", "conv1d_weight", "conv1d_bias", "x_proj_weight", "delta_proj_weight", "out_proj_weight")
_CHUNK_SCAN = ("hidden_states", "dt", "A", "B", "C", "chunk_size", "D", "dt_bias", "initial_states")
_SPLIT = ("zxbcdt", "conv1d_weight", "conv1d_bias", "dt_bias", "A", "D", "chunk_size")
_DELTA = ("query", "key", "value", "g", "beta")
_KIMI = ("query", "key", "value", "g", "beta")
_LIGHTNING = ("self", "hidden_states", "position_embeddings", "attention_mask")
_STATES = ("c_initial", "n_initial", "m_initial", "return_last_states", "mode")
_MLSTM = ("self", "query", "key", "value", "igate", "fgate", *_STATES)
_OF_KERNELS = ("self", "q", "k", "v", "i", "f", *_STATES)
_PARALLEL = ("queries", "keys", "values", "igate_preact", "fgate_preact", "lower_triangular_matrix")
_MLSTM_STEP = ("c_state", "n_state", "m_state", "q", "k", "v", "igate_preact", "fgate_preact")
_RWKV = ("time_decay", "time_first", "key", "value", "state", "return_state")
_RNN = ("self", "hidden_states", "recurrent_gate", "reset", "recurrent_states", "acc_dtype")
_RGLRU = ("self", "activations", "position_ids")
_MAMBAPY = ("self", "x", "delta", "A", "B", "C", "D")
_MODULE = ("self", "tensordict")
_PROCESS = ("features", "lstm_states", "episode_starts", "lstm")
_DELTA_RULE = Rule(_DELTA, functions.gated_delta_rule, "delta_scan", partial(_delta_calls, 1), _grouped_calls)
_CONV_STEP_RULE = Rule(_CONV_STEP, conv.convolution_step, "ssm.causal_conv1d_update", _conv_step_calls)
_OLDER_CONV_STEP = Rule(
    _CONV_STEP,
    partial(conv.convolution_step, activations=conv.SILU),
    "ssm.causal_conv1d_update",
    _older_conv_step_calls,
)
_KIMI_RULE = Rule(_KIMI, attention.kimi_delta_attention, "compat.fla.chunk_kda", _kimi_calls)
_OF_MAMBAPY = Rule(_MAMBAPY, functions.mambapy_scan, "ssm.selective_scan", _mambapy_calls)

#: Functions that modules' methods use by these global names
GLOBALS = {
    "causal_conv1d_fn": Rule(_CONV, conv.convolution, "ssm.causal_conv1d", _conv_calls),
    "causal_conv1d_update": _CONV_STEP_RULE,
    "torch_causal_conv1d_update": _OLDER_CONV_STEP,
    "mamba_selective_scan": Rule(_SCAN, functions.scan, "ssm.selective_scan", _scan_calls),
    "mamba_selective_state_update": Rule(_STEP, functions.step, "ssm.selective_state_update", _step_calls),
    "mamba_inner_fn": Rule(_INNER, functions.unfused, None, _inner_calls),
    "mamba2_chunk_scan": Rule(_CHUNK_SCAN, mamba2.chunk_scan, "ssm.ssd", _chunk_scan_calls),
    "mamba2_selective_state_update": Rule(_STEP, functions.step, "ssm.selective_state_update", _heads_step_calls),
    "mamba2_split_conv1d_scan_combined": Rule(_SPLIT, functions.unfused, None, _split_calls),
    "torch_chunk_gated_delta_rule": _DELTA_RULE,
    "torch_recurrent_gated_delta_rule": _DELTA_RULE,
    "chunk_kimi_delta_attention": _KIMI_RULE,
    "recurrent_kimi_delta_attention": _KIMI_RULE,
    "rwkv_linear_attention": Rule(_RWKV, rwkv.linear_attention, KERNEL, _rwkv_calls),
    "parallel_stabilized_simple": Rule(_PARALLEL, attention.mlstm_in_parallel, "ssm.mlstm", _parallel_mlstm_calls),
    "recurrent_step_stabilized_simple": Rule(_MLSTM_STEP, attention.mlstm_step, "ssm.mlstm", _mlstm_step_calls),
}
#: Methods of any module's class
METHODS = {
    "_rnn_scan": Rule(_RNN, recurrent_gemma.rnn_scan, "linear_scan", _rnn_calls),
    "selective_scan": _OF_MAMBAPY,
    "selective_scan_seq": _OF_MAMBAPY,
}
#: Methods that classes with these names define, with the name of the package if theirs is not specific
CLASSES = {
    "RecurrentActorCriticPolicy": {
        "_process_sequence": Rule(_PROCESS, policies.process_sequence, "nn.LSTM", _process_calls)
    },
    **{
        f"torchrl.{layer}Module": {
            "forward": Rule(
                _MODULE,
                partial(policies.recurrent_module, layer=layer.lower()),
                f"nn.{layer}",
                partial(_module_calls, layer.lower()),
            )
        }
        for layer in ("LSTM", "GRU")
    },
    "RecurrentGemmaRglru": {"forward": Rule(_RGLRU, recurrent_gemma.rglru, IN_TORCH, _rglru_calls)},
    "MiniMaxLightningAttention": {
        "forward": Rule(_LIGHTNING, attention.lightning_attention, "ssm.linear_attention", _lightning_calls)
    },
    "xLSTMBackend": {"forward": Rule(_MLSTM, attention.mlstm_backend, "ssm.mlstm", list, calls_of=_mlstm_calls_of)},
    "mLSTMBackend": {
        "forward": Rule(_OF_KERNELS, attention.mlstm_backend, "ssm.mlstm", list, calls_of=_mlstm_calls_of)
    },
}
#: Attributes that a module's __init__ sets to a function with such a name, in transformers before 5.15 and in xlstm
ATTRIBUTES = {
    "backend_fn": "parallel_stabilized_simple",
    "backend_fn_step": "recurrent_step_stabilized_simple",
    "causal_conv1d_update": "torch_causal_conv1d_update",
    "chunk_gated_delta_rule": "torch_chunk_gated_delta_rule",
    "recurrent_gated_delta_rule": "torch_recurrent_gated_delta_rule",
}


def reason_against(rule: Rule, name: str, theirs: Any) -> str | None:
    """Return why a function cannot be replaced, None if it can."""
    if theirs is None and rule.may_be_none:
        return None
    if not callable(theirs):
        return f"its {name} is {theirs!r}, not a function"
    names = parameters_of(theirs)
    if names[: len(rule.parameters)] != rule.parameters:
        return f"its {name} has the parameters {', '.join(names)}, not {', '.join(rule.parameters)}, ..."
    return _reason_after_trial(rule, name, theirs, rule.calls(), rule.more())


def reason_against_instance(rule: Rule, name: str, theirs: Any, module: Any) -> str | None:
    """Return why a method of this module cannot be replaced, None if it can."""
    return None if rule.calls_of is None else _reason_after_trial(rule, name, theirs, rule.calls_of(module), [])


def _reason_after_trial(rule: Rule, name: str, theirs: Any, calls: list[Call], more: list[Call]) -> str | None:
    plain = inspect.unwrap(theirs)  # transformers' own, if it has replaced it by a GPU package's
    try:
        with torch.no_grad():
            is_same = all(_gives_the_same(plain, rule.make(plain), call) for call in calls)
            is_same &= all(_gives_the_same(plain, rule.make(plain), call) for call in more if _takes(plain, call))
    except Exception as error:  # whatever the original raises
        return f"its {name} fails: {error}"
    return None if is_same else f"its {name} computes something else than before"


def _takes(theirs: functions.Function, call: Call) -> bool:
    try:
        theirs(*call[0], **call[1])
    except Exception:  # whatever it raises: the question is whether it raises
        return False
    return True


def _gives_the_same(theirs: functions.Function, ours: functions.Function, call: Call) -> bool:
    """Compare the results, and the elements of the arguments, which may be updated in place."""
    solution = []
    for function in (theirs, ours):
        arguments = tuple(x.clone() if hasattr(x, "clone") else x for x in call[0])
        result = function(*arguments, **call[1])
        solution.append((result, tuple(x.flatten() if isinstance(x, Tensor) else x for x in arguments)))
    return all(_is_close(x, y) for x, y in zip(_leaves(solution[0]), _leaves(solution[1]), strict=True))


def _leaves(x: Any) -> list[Any]:
    if isinstance(x, Mapping):  # such as a TensorDict, whose iterator gives rows
        return _leaves([x[name] for name in sorted(x.keys())])
    return [leaf for part in x for leaf in _leaves(part)] if isinstance(x, (tuple, list)) else [x]


def _is_close(theirs: Any, ours: Any) -> bool:
    if not isinstance(theirs, Tensor):
        return theirs is ours
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return False
    return bool((ours.double() - theirs.double()).norm() <= 2**-12 * theirs.double().norm())
