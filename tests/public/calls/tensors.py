"""Valid calls of functions on tensors with counterparts on arrays: the same arguments, with tensors for arrays."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

import fastiter.torch
from fastiter import Solution
from tests.public import every
from tests.public.calls.hopfield import network
from tests.public.calls.processes import LIMITS
from tests.public.calls.processes_more import probabilities
from tests.public.calls.systems import dense
from tests.public.pick import Pick, subset
from tests.public.table import Entry, Make
from tests.scan.calls import REAL

TENSORS: dict[str, Entry] = {}


def tensor(x: Any) -> Any:
    """Return arrays as tensors that share their memory, if possible, and other objects unchanged."""
    if isinstance(x, np.ndarray) and not np.ma.isMaskedArray(x):
        try:
            return torch.from_numpy(x if x.flags.writeable and min(x.strides, default=0) >= 0 else x.copy())
        except (TypeError, ValueError):  # a dtype that torch does not have
            return x
    if sp.issparse(x):
        return tensor(x.toarray())
    if isinstance(x, (tuple, list)) and any(isinstance(part, np.ndarray) for part in x):
        return type(x)(map(tensor, x))
    return x


def array(x: Any) -> Any:
    """Return the result of a call as nested tuples of arrays."""
    if isinstance(x, Solution):
        return tuple(array(getattr(x, name)) for name in ("value", "converged", "steps", "residual", "reason"))
    if isinstance(x, torch.Tensor):
        return x.detach().resolve_neg().numpy()
    return tuple(map(array, x)) if isinstance(x, (tuple, list)) else x


def enter(name: str, function: Callable[..., Any], make: Make, *names: str) -> None:
    """Register a function on tensors, whose arguments are those of ``make`` with tensors for arrays."""

    def run(**arguments: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return array(function(**{key: tensor(x) for key, x in arguments.items()}))

    # The rounding of matrix products depends on the addresses of their operands.
    TENSORS[name] = Entry(run, make, (name, *names), terms=8 if name == "project_affine" else 0)


def fixed_point(pick: Pick) -> dict[str, Any]:
    given = every.TABLE["fastiter.fixedpoint.fixed_point"].make(pick)
    return {**given, "f": torch.cos, **subset(pick, {"grad": "implicit", "grad_damping": 0.5})}


def state(pick: Pick) -> Any:
    return pick.normal(pick.integer(1, 3), pick.integer(1, 4), dtype=pick.one_of(REAL))


def of_a_map(pick: Pick) -> dict[str, Any]:
    return {"f": torch.tanh, "x": state(pick)}


def bound(pick: Pick) -> dict[str, Any]:
    residual = np.abs(pick.normal(3, dtype=pick.one_of(REAL)))
    return {"residual": residual, "rho": pick.one_of((0.5, np.full(3, 0.5, residual.dtype)))}


def conjugate(pick: Pick) -> dict[str, Any]:
    n, dtype = pick.integer(0, 6), pick.one_of((np.float64, np.float32, np.complex128))
    given = {"A": dense(pick, n, dtype), "b": pick.normal(n, *pick.one_of(((), (2,))), dtype=dtype), "max_steps": 9}
    more = {"x0": np.ones_like(given["b"]), "rtol": 1e-3, "atol": 1e-3, "check_every": 2, "throw": False}
    return {**given, **subset(pick, {**more, "precond": torch.negative, "memory": 1})}


def decisions(pick: Pick) -> dict[str, Any]:
    S, A, dtype = pick.integer(1, 4), pick.integer(1, 3), pick.one_of(REAL)
    P = pick.generator().random((S, A, S)) + 0.1
    P = (P / P.sum(axis=-1, keepdims=True)).astype(dtype)
    return {"P": P, "R": pick.normal(S, A, dtype=dtype), "gamma": 0.5, **LIMITS}


def of_one_dtype(name: str) -> Make:
    """Return the arguments' function of an entry, with b in the dtype of A."""

    def make(pick: Pick) -> dict[str, Any]:
        given = every.TABLE[name].make(pick)
        return {**given, "b": given["b"].astype(given["A"].dtype)}

    return make


def visited(pick: Pick) -> dict[str, Any]:
    S, A, dtype = pick.integer(2, 4), pick.integer(1, 3), pick.one_of(REAL)
    shares = [probabilities(pick, *shape).astype(dtype) for shape in ((S, A, S), (S, A), (S,))]
    names = ("P", "policy", "start")
    return {**dict(zip(names, shares, strict=True)), "gamma": 0.5, "horizon": pick.one_of((None, 3))}


prox, more = fastiter.torch.fixedpoint.prox, fastiter.torch.fixedpoint
for _name in prox.__all__:
    enter(_name, getattr(prox, _name), every.TABLE[f"fastiter.fixedpoint.prox.{_name}"].make)
for _name in ("refine", "sinkhorn"):
    enter(_name, getattr(more, _name), every.TABLE[f"fastiter.fixedpoint.{_name}"].make)
enter("sketch_solve", fastiter.torch.bcd.sketch_solve, of_one_dtype("fastiter.bcd.sketch_solve"))
enter("fixed_point", more.fixed_point, fixed_point)
enter("hopfield_energy", more.hopfield_energy, network)
enter(
    "hopfield_update",
    more.hopfield_update,
    lambda pick: {**network(pick), "steps": pick.integer(0, 3)},
)
enter("jacobian_penalty", lambda **given: more.jacobian_penalty(**given, generator=torch.manual_seed(0)), of_a_map)
enter("spectral_radius", lambda **given: more.spectral_radius(**given, generator=torch.manual_seed(0)), of_a_map)
enter("monotonicity", lambda **given: more.monotonicity(**given, generator=torch.manual_seed(0)), of_a_map)
enter("error_bound", more.error_bound, bound)
enter("flexible_cg", fastiter.torch.relax.flexible_cg, conjugate)
enter("values", fastiter.torch.mdp.values, decisions)
enter("solve", fastiter.torch.mdp.solve, decisions)
enter("occupancy", fastiter.torch.mdp.occupancy, visited)
