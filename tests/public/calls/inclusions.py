"""Valid calls of methods for monotone inclusions."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastiter.fixedpoint import prox
from tests.public.pick import Pick, subset
from tests.public.table import calls
from tests.scan.calls import REAL
from tests.support.cases import Array

MONOTONE = "fastiter.fixedpoint.monotone"
#: The operators that the calls below use
OPERATORS = ("prox_l1", "project_l2_ball")


def soft(y: Any, t: float) -> Any:
    return prox.prox_l1(y, min(0.5 * t, 1e6))


def ball(y: Any, t: float) -> Any:
    return prox.project_l2_ball(y, 2.0)


def away(x: Any) -> Any:
    return x - 1


def first(pick: Pick) -> Array:
    return pick.normal(pick.integer(1, 4), dtype=pick.one_of(REAL))


def ends(pick: Pick) -> dict[str, Any]:
    return {"rtol": 1e-3, "max_steps": 30, **subset(pick, {"atol": 1e-3, "throw": False})}


for _name in ("forward_backward", "forward_backward_forward", "extragradient"):

    @calls(f"{MONOTONE}.{_name}", also=OPERATORS)
    def by_values(pick: Pick) -> dict[str, Any]:
        how: dict[str, Any] = pick.one_of(({}, {"step": 0.5}, {"lipschitz": 1.0}))
        return {"resolvent": soft, "forward": away, "x0": first(pick), **how, **ends(pick)}


for _name in ("peaceman_rachford", "douglas_rachford"):

    @calls(f"{MONOTONE}.{_name}", also=OPERATORS)
    def by_resolvents(pick: Pick) -> dict[str, Any]:
        return {"resolvent_a": soft, "resolvent_b": ball, "x0": first(pick), "step": 0.5, **ends(pick)}


@calls(f"{MONOTONE}.davis_yin", also=OPERATORS)
def of_three(pick: Pick) -> dict[str, Any]:
    more = {"step": 0.5, "relaxation": 1.2}
    return {"resolvent_a": soft, "resolvent_b": ball, "forward": away, "x0": first(pick), **more, **ends(pick)}


@calls(f"{MONOTONE}.primal_dual", also=OPERATORS)
def with_a_matrix(pick: Pick) -> dict[str, Any]:
    x = first(pick)
    given = {"resolvent": soft, "resolvent_dual": ball, "operators": (np.negative, np.negative)}
    return {**given, "x0": (x, x + 1), "norm_bound": 1.0, "ratio": 0.5, "relaxation": 1.2, **ends(pick)}


@calls(f"{MONOTONE}.mirror_prox", also=OPERATORS)
def on_simplices(pick: Pick) -> dict[str, Any]:
    even = np.full(3, 1 / 3, pick.one_of(REAL))
    entropy: dict[str, Any] = pick.one_of(({}, {"beta": 0.5}, {"beta": 0.5, "reference": (even, even)}))
    return {"forward": turned, "x0": (even, even), "step": 0.5, "average": pick.flag(), **entropy, **ends(pick)}


def turned(x: tuple[Any, Any]) -> tuple[Any, Any]:
    return x[-1], -x[0]


def components(x: Any, indices: Any) -> Any:
    return x - (1 if indices is None else indices.mean().astype(x.dtype))


@calls("fastiter.experimental.halpern_vr", also=OPERATORS)
def of_a_sum(pick: Pick) -> dict[str, Any]:
    given = {"components": components, "resolvent": soft, "x0": first(pick), "n": 3, "lipschitz": 1.0, "rng": 0}
    more = {"step": 0.5, "batch": 2, "probability": 0.5, "variant": pick.one_of(("cocoercive", "lipschitz"))}
    return {**given, **subset(pick, more), **ends(pick)}
