"""Valid calls of the recurrences, scans and state-space models."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.delta.calls import delta_inputs
from tests.newton.calls import PARA_CELLS, para_inputs
from tests.public.pick import Pick, subset
from tests.public.table import calls
from tests.scan.calls import COMPLEX, REAL
from tests.scan.calls import scan_inputs as linear_inputs
from tests.ssm.attention_calls import DECAYS, attention_inputs
from tests.ssm.calls import scan_inputs
from tests.ssm.conv_calls import conv_inputs
from tests.ssm.mlstm_calls import mlstm_inputs
from tests.support.cases import GATES, rnn_inputs


def bounds(pick: Pick, sequences: int, T: int) -> list[int]:
    """Return cu_seqlens of sequences of any lengths, including 0."""
    return [0, *sorted(pick.integer(0, T) for _ in range(sequences - 1)), T]


def division(pick: Pick, B: int, T: int) -> tuple[int, dict[str, Any]]:
    """Return the number of sequences, and the arguments that divide B rows of T steps into them."""
    kind = pick.one_of(("whole", "lengths", "cu_seqlens", "reset"))
    if kind == "lengths":
        lengths = [pick.integer(0, T) for _ in range(B)]
        return B, {"lengths": pick.one_of((lengths, np.array(lengths, np.int32), np.array(lengths, np.int64)))}
    if kind == "cu_seqlens" and B == 1:
        sequences = pick.integer(1, 3)
        return sequences, {"cu_seqlens": np.array(bounds(pick, sequences, T))}
    if kind == "reset":
        shape = pick.one_of(((B, T), (T,)))
        return B, {"reset": pick.generator().random(shape) < 0.3}
    return B, {}


def enter_cell(cell: str) -> None:
    @calls(f"fastiter.{cell}", terms=40)
    def make(pick: Pick) -> dict[str, Any]:
        B, T, N, D = pick.integer(0, 3), pick.integer(0, 6), pick.integer(1, 2), pick.integer(1, 9)
        dtype = pick.one_of(REAL)
        sequences, cut = division(pick, B, T)
        wx, r, b, _ = rnn_inputs(cell, B, T, N, D, dtype)
        state = rnn_inputs(cell, sequences, T, N, D, dtype).state
        options = {"b": b, "state": state, "reverse": True, "return_all_states": True, "clip_state": 0.5}
        if cell == "elman":
            options["activation"] = "relu"
        return {"wx": wx, "r": r, **subset(pick, options), **cut}


for each in GATES:
    enter_cell(each)


def enter_para(cell: str) -> None:
    @calls(f"fastiter.{cell}", terms=40)
    def make(pick: Pick) -> dict[str, Any]:
        B, T, D = pick.integer(0, 3), pick.integer(0, 12), pick.integer(1, 9)
        dtype = pick.one_of(REAL)
        sequences, cut = division(pick, B, T)
        wx, a, p, _ = para_inputs(cell, B, T, D, dtype)
        given = {"wx": wx, "a": a, **({"p": p} if cell == "paralstm" else {})}
        options = {"state": para_inputs(cell, sequences, T, D, dtype).state, "reverse": True, "method": "sequential"}
        return {**given, **subset(pick, options), **cut}


for each in PARA_CELLS:
    enter_para(each)


def enter_scan(name: str) -> None:
    kind = name.removesuffix("_scan")

    @calls(f"fastiter.{name}", terms=40)
    def make(pick: Pick) -> dict[str, Any]:
        B, T, dtype = pick.integer(0, 3), pick.integer(0, 9), pick.one_of((*REAL, *COMPLEX))
        sizes = (pick.integer(1, 9),) if kind == "linear" else (pick.integer(1, 3), pick.integer(1, 4))
        sequences, cut = division(pick, B, T)
        a, x, _ = linear_inputs(kind, B, T, sizes, dtype)
        state = linear_inputs(kind, sequences, T, sizes, dtype).state
        return {"A" if kind == "block" else "a": a, "x": x, **subset(pick, {"state": state, "reverse": True}), **cut}


for each in ("linear_scan", "block_scan"):
    enter_scan(each)


@calls("fastiter.delta_scan", terms=40)
def delta(pick: Pick) -> dict[str, Any]:
    B, T, N, K, V = (pick.integer(low, high) for low, high in ((0, 3), (0, 9), (1, 2), (1, 5), (1, 5)))
    dtype = pick.one_of(REAL)
    sequences, cut = division(pick, B, T)
    given = delta_inputs(B, T, N, K, V, dtype, gated=pick.flag(), rows=sequences).arrays()
    if pick.flag():
        del given["state"]
    options = {"method": pick.one_of(("sequential", "chunk")), "chunk": pick.integer(1, 5), "reverse": True}
    return {**given, **subset(pick, options), **cut}


@calls("fastiter.ssm.selective_scan", terms=400)  # steps that may be negative, so that states grow
def selective_scan(pick: Pick) -> dict[str, Any]:
    B, D, T, N = pick.integer(0, 3), pick.integer(1, 6), pick.integer(0, 9), pick.integer(1, 4)
    sequences, cut = division(pick, B, T)
    without = tuple(name for name in ("D", "z", "delta_bias", "state") if pick.flag())
    made = scan_inputs(
        *(B, D, T, N, pick.one_of(REAL)),
        fixed=pick.one_of(("", "B", "C", "BC")),
        without=without,
        sequences=sequences,
        is_complex=pick.flag(),
    )
    options = {"delta_softplus": True, "return_last_state": True, "reverse": True}
    return {**made.arguments(), **subset(pick, options), **cut}


@calls("fastiter.ssm.selective_state_update", written=("state",))
def selective_state_update(pick: Pick) -> dict[str, Any]:
    B, D, N, dtype = pick.integer(0, 3), pick.integer(1, 6), pick.integer(1, 4), pick.one_of(REAL)
    shapes = {"state": (B, D, N), "x": (B, D), "dt": (B, D), "A": (D, N), "B": (B, N), "C": (B, N)}
    optional = {"D": (D,), "z": (B, D), "dt_bias": (D,)}
    given: dict[str, Any] = {name: pick.normal(*shape, dtype=dtype) for name, shape in shapes.items()}
    given |= {name: pick.normal(*shape, dtype=dtype) for name, shape in subset(pick, optional).items()}
    given["A"] = -np.abs(given["A"])
    return {**given, **subset(pick, {"dt_softplus": True, "state_batch_indices": np.arange(B)[::-1]})}


@calls("fastiter.ssm.causal_conv1d", terms=40)
def causal_conv1d(pick: Pick) -> dict[str, Any]:
    B, D, T, W = pick.integer(0, 3), pick.integer(1, 6), pick.integer(0, 9), pick.integer(1, 5)
    sequences, cut = division(pick, B, T)
    cut.pop("reset", None)
    without = tuple(name for name in ("bias", "state") if pick.flag())
    order = pick.one_of(("time", "channels"))
    made = conv_inputs(B, D, T, W, pick.one_of(REAL), order=order, without=without, sequences=sequences)
    return {
        **made.arguments(),
        **subset(pick, {"activation": "silu", "return_last_state": True, "reverse": True}),
        **cut,
    }


@calls("fastiter.ssm.causal_conv1d_update", written=("conv_state",))
def causal_conv1d_update(pick: Pick) -> dict[str, Any]:
    B, D, W, N, dtype = pick.integer(0, 3), pick.integer(1, 6), pick.integer(1, 5), 5, pick.one_of(REAL)
    x = (B, D, pick.integer(1, 3)) if pick.flag() else (B, D)
    shapes = {"x": x, "conv_state": (B, D, N), "weight": (D, W)}
    given: dict[str, Any] = {name: pick.normal(*shape, dtype=dtype) for name, shape in shapes.items()}
    options = {
        "bias": pick.normal(D, dtype=dtype),
        "activation": "silu",
        "cache_seqlens": np.arange(B),
        "conv_state_indices": np.arange(B)[::-1],
    }
    return {**given, **subset(pick, options)}


@calls("fastiter.ssm.causal_conv1d_varlen_states")
def causal_conv1d_varlen_states(pick: Pick) -> dict[str, Any]:
    T, D = pick.integer(0, 9), pick.integer(1, 6)
    cut = np.array(bounds(pick, pick.integer(1, 3), T))
    return {"x": pick.normal(T, D, dtype=pick.one_of(REAL)), "cu_seqlens": cut, "state_len": pick.integer(1, 4)}


def attention_sizes(pick: Pick) -> tuple[int, int, int, int, int]:
    return pick.integer(0, 3), pick.integer(0, 9), pick.one_of((2, 4)), pick.integer(1, 5), pick.integer(1, 5)


@calls("fastiter.ssm.linear_attention", terms=60)
def linear_attention(pick: Pick) -> dict[str, Any]:
    size = attention_sizes(pick)
    sequences, cut = division(pick, *size[:2])
    decay = pick.one_of(tuple(DECAYS))
    made = attention_inputs(
        *(size, pick.one_of(REAL), decay),
        shared=pick.one_of((1, 2)),
        bonus=pick.flag(),
        state=pick.flag(),
        sequences=sequences,
    )
    return {**made.arguments(), **subset(pick, {"scale": 0.5, "reverse": True}), **cut}


@calls("fastiter.ssm.dplr_delta_rule", terms=60)
def dplr_delta_rule(pick: Pick) -> dict[str, Any]:
    size = B, T, N, K, _ = attention_sizes(pick)
    dtype = pick.one_of(REAL)
    sequences, cut = division(pick, B, T)
    made = attention_inputs(size, dtype, pick.one_of(("none", "vector")), state=pick.flag(), sequences=sequences)
    a, b = (pick.normal(B, T, N, K, dtype=dtype) / K for _ in range(2))
    return {
        **made.arguments(),
        "a": a.astype(dtype),
        "b": b.astype(dtype),
        **subset(pick, {"scale": 0.5, "reverse": True}),
        **cut,
    }


@calls("fastiter.ssm.mlstm", terms=400)
def mlstm(pick: Pick) -> dict[str, Any]:
    size = attention_sizes(pick)
    sequences, cut = division(pick, *size[:2])
    shared, state = pick.one_of((1, 2)), pick.flag()
    made = mlstm_inputs(size, pick.one_of(REAL), shared=shared, state=state, sequences=sequences)
    return {**made, **subset(pick, {"scale": 0.5, "eps": 1e-5, "reverse": True}), **cut}


@calls("fastiter.ssm.ssd", terms=60)
def ssd(pick: Pick) -> dict[str, Any]:
    B, T, H, P, N = attention_sizes(pick)
    G, dtype = pick.one_of((1, 2)), pick.one_of(REAL)
    sequences, cut = division(pick, B, T)
    shapes = {"x": (B, T, H, P), "dt": (B, T, H), "A": (H,), "B": (B, T, G, N), "C": (B, T, G, N)}
    optional = {"D": (H,), "z": (B, T, H, P), "dt_bias": (H,), "state": (sequences, H, P, N)}
    shapes |= subset(pick, optional)
    given: dict[str, Any] = {name: pick.normal(*shape, dtype=dtype) for name, shape in shapes.items()}
    given["A"] = -np.abs(given["A"])
    options = {"dt_softplus": True, "dt_limit": (0.0, 1.0), "reverse": True}
    return {**given, **subset(pick, options), **cut}
