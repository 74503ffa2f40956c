"""Mixtures of experts whose matrices are stacked in one parameter."""

from __future__ import annotations

from typing import Any

from ...builder import Builder
from ...plan import Experts, Linear, Matrix, Route, Slot
from .source import Part


def stacked_experts(b: Builder, part: Part, x: Slot, routes: Slot, out: Slot, *, add: bool = True) -> None:
    """Append experts with gate_up_proj, or up_proj without gates, and down_proj; each a stack of matrices."""
    count, down = routes.size, part.matrix("down_proj")
    if part.has("gate_up_proj"):
        both = part.matrix("gate_up_proj")
        inner = both.rows // count // 2
        gate, up = (_pieces(both, inner, first, 2 * inner, count) for first in (0, inner))
    else:
        only = part.matrix("up_proj")
        gate, up = None, _pieces(only, only.rows // count, 0, only.rows // count, count)
    downs = _pieces(down, out.size, 0, down.rows // count, count)
    b.add(Experts(x, routes, out, gate, up, downs, part.activation("act_fn"), add))


def _pieces(of: Matrix, rows: int, first: int, stride: int, count: int) -> tuple[Matrix, ...]:
    return tuple(Matrix(of.name, rows, of.columns, first + e * stride) for e in range(count))


def route(b: Builder, router: Part, x: Slot, method: Any, **how: Any) -> Slot:
    """Append a router with a weight, and return the slot of the experts' weights."""
    matrix = router.matrix()
    logits, routes = b.slot("router", matrix.rows), b.slot("routes", matrix.rows)
    b.add(Linear(x, logits, matrix), Route(logits, routes, router.module.top_k, method, **how))
    return routes


def biased_route(b: Builder, router: Part, x: Slot) -> Slot:
    """Append a router by sigmoids, whose choice has a bias and may be limited to groups of experts."""
    of = router.module
    how = {"scale": of.routed_scaling_factor, "groups": of.num_group, "top_groups": of.topk_group}
    bias = router.vector("e_score_correction_bias")
    return route(b, router, x, "sigmoid", normalize=of.norm_topk_prob, eps=1e-20, bias=bias, **how)
