"""Valid calls of Markov decision processes."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastiter import mdp
from tests.public.pick import Pick, subset
from tests.public.table import calls
from tests.scan.calls import REAL

LIMITS = {"atol": 1e-3, "max_steps": 50}


def process(P: Any, R: Any, gamma: Any, method: Any, policy: Any, value: Any, **limits: Any) -> Any:
    made = mdp.MDP(P, R, gamma)
    return made.solve(method, **limits), made.evaluate(policy), made.action_values(value)


@calls("fastiter.mdp.MDP", run=process, also=("solve", "evaluate", "action_values"))
def markov(pick: Pick) -> dict[str, Any]:
    A, S, dtype = pick.integer(1, 3), pick.integer(1, 5), pick.one_of(REAL)
    P = pick.generator().integers(1, 4, (S, A, S)).astype(np.float64)
    P /= P.sum(axis=2, keepdims=True)
    given = {"P": P.astype(dtype), "R": pick.normal(S, A, dtype=dtype), "gamma": 0.9, "value": np.ones(S, dtype)}
    return {**given, "method": pick.one_of(("auto", "vi", "gs", "pi")), "policy": np.zeros(S, np.int64), **LIMITS}


def batch(problem: Any, P: Any, R: Any, value0: Any, policy: Any, **limits: Any) -> Any:
    made = mdp.MDPBatch(problem, P, R)
    return made.solve(value0=value0, **limits), made.evaluate(policy)


@calls("fastiter.mdp.MDPBatch", run=batch, also=("solve", "evaluate"))
def several(pick: Pick) -> dict[str, Any]:
    B, S, dtype = pick.integer(1, 3), pick.integer(1, 5), pick.one_of(REAL)
    problem = mdp.examples.forest(max(S, 2), 0.9, dtype=dtype)
    given = {"problem": problem, "P": np.stack([problem.transitions[0]] * B), "value0": np.zeros(problem.S, dtype)}
    return {**given, "R": pick.normal(B, problem.rows, dtype=dtype), "policy": np.zeros((B, problem.S), int), **LIMITS}


@calls("fastiter.mdp.robust")
def robust(pick: Pick) -> dict[str, Any]:
    problem = mdp.examples.garnet(pick.integer(1, 5), pick.integer(1, 3), pick.integer(1, 3), seed=pick.integer(0, 9))
    return {"problem": problem, "kind": pick.one_of(("l1", "kl")), "radius": 0.1, **LIMITS}


@calls("fastiter.experimental.iwocs")
def iwocs(pick: Pick) -> dict[str, Any]:
    S, A = pick.integer(1, 5), pick.integer(1, 3)
    models = [mdp.examples.garnet(S, A, 2, seed=seed) for seed in range(pick.integer(1, 3))]
    return {"models": models, "start": 0, "atol": 1e-2, "max_steps": 2, **subset(pick, {"rectangular": True})}


EXAMPLES: dict[str, dict[str, Any]] = {
    "forest": {"S": 4, "gamma": 0.9, "r1": 3.0, "r2": 1.0, "p": 0.2},
    "garnet": {"S": 4, "A": 2, "b": 3, "gamma": 0.9, "seed": 1},
    "gridworld": {"n": 3, "gamma": 0.9, "slip": 0.1, "reward": -2.0, "goal": 1.0},
    "riverswim": {"S": 4, "gamma": 0.9},
    "inventory": {"capacity": 4, "gamma": 0.9, "mean": 2.0, "price": 3.0, "cost": 1.0, "holding": 0.2},
    "windy_walk": {"alpha": 0.3, "gamma": 0.9},
}


def enter_example(name: str) -> None:
    @calls(
        f"fastiter.mdp.examples.{name}", run=lambda **how: getattr(mdp.examples, name)(**how).transitions, also=("MDP",)
    )
    def make(pick: Pick) -> dict[str, Any]:
        return dict(EXAMPLES[name])


for each in EXAMPLES:
    enter_example(each)
