"""Valid calls: average rewards, finite horizons, laws of returns, latent contexts, mixtures, and compatible names."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastiter import experimental, mdp
from fastiter.mdp import compat, distributional
from tests.public.pick import Pick, subset
from tests.public.table import calls
from tests.scan.calls import REAL
from tests.support.cases import Array


def probabilities(pick: Pick, *shape: int) -> Array:
    """Return positive float64 numbers that sum to 1 over the last axis."""
    p = pick.generator().integers(1, 4, shape).astype(np.float64)
    return p / p.sum(axis=-1, keepdims=True)


# ---- Average rewards and finite horizons ----------------------------------------------------------------------------


@calls("fastiter.mdp.average")
def average(pick: Pick) -> dict[str, Any]:
    S, dtype = pick.integer(2, 5), pick.one_of(REAL)
    given = {"tau": 0.5, "sojourn": pick.generator().uniform(1, 2, 2 * S).astype(dtype)}
    given["value0"] = pick.normal(S, dtype=dtype)
    given |= {"problem": mdp.examples.forest(S, None, dtype=dtype), "method": pick.one_of(("rvi", "howard"))}
    return {**given, "atol": 1e-2, "max_steps": 20, "throw": False}


@calls("fastiter.mdp.extended_value_iteration")
def optimistic(pick: Pick) -> dict[str, Any]:
    S = pick.integer(2, 5)
    radius = pick.one_of((0.1, pick.generator().uniform(0, 1, 2 * S)))
    given = {"probability_radius": radius, "reward_radius": 0.1, "largest_reward": 4.0, "value0": pick.normal(S)}
    return {**given, "problem": mdp.examples.forest(S, None), "atol": 1e-2, "max_steps": 20, "throw": False}


@calls("fastiter.mdp.finite_horizon")
def horizons(pick: Pick) -> dict[str, Any]:
    S, dtype = pick.integer(2, 5), pick.one_of(REAL)
    made = [mdp.examples.forest(S, None, p=p, dtype=dtype) for p in (0.1, 0.2)]
    steps = pick.one_of(({"problem": made[0], "horizon": 2}, {"problem": made}))
    return {**steps, "value": pick.normal(S, dtype=dtype)}


@calls("fastiter.mdp.occupancy")
def visits(pick: Pick) -> dict[str, Any]:
    S, dtype = pick.integer(2, 5), pick.one_of(REAL)
    start = pick.one_of((0, probabilities(pick, S).astype(dtype)))
    given = {"problem": mdp.examples.forest(S, 0.9, dtype=dtype), "start": start, "horizon": pick.one_of((None, 3))}
    return {**given, "policy": np.full((S, 2), 0.5, dtype)}


# ---- Laws of returns ------------------------------------------------------------------------------------------------

STOCKS = np.arange(-8.0, 9.0)


def law(pick: Pick) -> dict[str, Any]:
    shape = (*pick.one_of(((), (2,), (2, 3))), pick.integer(1, 4))
    return {"p": probabilities(pick, *shape), "x": pick.normal(*shape)}


@calls("fastiter.mdp.distributional.project_categorical")
def categorical(pick: Pick) -> dict[str, Any]:
    return {**law(pick), "z": np.arange(float(pick.integer(1, 5)))}


@calls("fastiter.mdp.distributional.project_quantile")
def quantile(pick: Pick) -> dict[str, Any]:
    return {**law(pick), "m": pick.integer(1, 5)}


@calls("fastiter.mdp.distributional.cvar")
def tail(pick: Pick) -> dict[str, Any]:
    return {**law(pick), "level": 0.3}


def outcomes(pick: Pick) -> dict[str, Any]:
    S = pick.integer(1, 2)
    listed = [[[(0.5, 1.0, 0), (0.5, 0.0, S - 1)] for _ in range(pick.integer(1, 2))] for _ in range(S)]
    return {"outcomes": listed, "horizon": pick.integer(1, 2), "stocks": STOCKS, "gamma": pick.one_of((1.0, 0.9))}


def below_zero(outcomes: Any, horizon: Any, stocks: Any, gamma: Any, degree: Any) -> Any:
    return distributional.stock_augmented(outcomes, horizon, stocks, lambda c: np.minimum(c, 0), gamma, degree=degree)


@calls("fastiter.mdp.distributional.stock_augmented", run=below_zero)
def stock(pick: Pick) -> dict[str, Any]:
    return {**outcomes(pick), "degree": 1.0}


@calls("fastiter.mdp.distributional.best_tail", also=("stock_augmented",))
def best_tail(pick: Pick) -> dict[str, Any]:
    return {**outcomes(pick), "start": 0, "level": 0.5}


# ---- Latent processes and linear mixtures ---------------------------------------------------------------------------


def latent_makers(transitions: Any, rewards: Any, means: Any) -> Any:
    return experimental.LatentMDP.of(transitions, rewards), experimental.LatentMDP.bandit(means)


@calls("fastiter.experimental.LatentMDP", run=latent_makers, also=("LatentMDP.of", "LatentMDP.bandit"))
def latent_process(pick: Pick) -> dict[str, Any]:
    M, S, A = (pick.integer(1, 3) for _ in range(3))
    given = {"transitions": probabilities(pick, M, S, A, S), "rewards": pick.normal(M, S, A)}
    return {**given, "means": pick.generator().uniform(0, 1, (M, A))}


def hidden(pick: Pick) -> dict[str, Any]:
    M, S, A, O = 2, pick.integer(1, 2), pick.integer(1, 2), pick.integer(1, 2)
    given = {"likelihood": probabilities(pick, M, S, A, O), "reward": pick.normal(M, S, A)}
    return {**given, "next": pick.generator().integers(0, S, (S, A, O)), "horizon": 2}


def by_tree(likelihood: Any, reward: Any, next: Any, state: Any, weights: Any, horizon: Any) -> Any:
    return experimental.belief_tree(experimental.LatentMDP(likelihood, reward, next), state, weights, horizon)


def by_vectors(likelihood: Any, reward: Any, next: Any, horizon: Any, beliefs: Any = None) -> Any:
    return experimental.alpha_vectors(experimental.LatentMDP(likelihood, reward, next), horizon, beliefs=beliefs)


@calls("fastiter.experimental.belief_tree", run=by_tree)
def tree(pick: Pick) -> dict[str, Any]:
    return {**hidden(pick), "state": 0, "weights": probabilities(pick, 2)}


@calls("fastiter.experimental.alpha_vectors", run=by_vectors)
def vectors(pick: Pick) -> dict[str, Any]:
    return {**hidden(pick), **subset(pick, {"beliefs": probabilities(pick, pick.integer(1, 3), 2)})}


def regression(features: Any, horizon: Any, target: Any, rewards: Any, bonus: Any, **numbers: Any) -> Any:
    model = experimental.LinearMixture(features, horizon, ridge=numbers["ridge"])
    model.update(numbers["state"], numbers["action"], numbers["next_state"], target, numbers["variance"])
    variance = model.variance(target, model, least=numbers["least"], bonus=bonus)
    found = model.expectations(target), model.uncertainty(target), model.exploration_rewards(target)
    return found, variance, model.theta, model.precision, model.has_doubled, model.plan(rewards, width=numbers["width"])


@calls("fastiter.experimental.LinearMixture", run=regression, also=("update", "variance", "plan"))
def mixture(pick: Pick) -> dict[str, Any]:
    d, S, A = (pick.integer(1, 3) for _ in range(3))
    given = {"features": probabilities(pick, d, S, A, S), "target": pick.normal(S), "rewards": pick.normal(S, A)}
    step = {"state": S - 1, "action": A - 1, "next_state": 0}
    numbers = {"ridge": 1.0, "variance": 0.5, "least": 0.1, "width": 0.1}
    return {**given, **step, **numbers, "bonus": pick.one_of((0.1, pick.normal(S, A))), "horizon": pick.integer(1, 3)}


def optimist(Q: Any, J: Any, beta: Any, **step: Any) -> Any:
    learner = experimental.LOOP(Q, J, beta)
    changed = learner.update(**step)
    return changed, learner.losses, learner.excess, learner.believed, learner.policy


@calls("fastiter.experimental.LOOP", run=optimist, also=("update",))
def hypotheses(pick: Pick) -> dict[str, Any]:
    F, S, A = (pick.integer(1, 3) for _ in range(3))
    step = {"state": S - 1, "action": A - 1, "reward": 0.5, "next_state": 0}
    return {"Q": pick.normal(F, S, A), "J": pick.normal(F), "beta": 0.5, **step}


def optimist_of(models: Any, beta: Any, atol: Any = 1e-9) -> Any:
    return experimental.LOOP.of(models, beta, atol=atol).policy


@calls("fastiter.experimental.LOOP", at=".of", run=optimist_of)
def hypotheses_of(pick: Pick) -> dict[str, Any]:
    S, dtype = pick.integer(2, 4), pick.one_of(REAL)
    models = [mdp.examples.forest(S, None, p=p, dtype=dtype) for p in (0.1, 0.2)]
    return {"models": models, "beta": 0.5, **subset(pick, {"atol": 1e-3})}


# ---- pymdptoolbox's names -------------------------------------------------------------------------------------------


@calls("fastiter.mdp.compat.example.forest")
def compat_forest(pick: Pick) -> dict[str, Any]:
    return {"S": pick.integer(2, 5), "r1": 4, "r2": 2.0, "p": 0.1}


@calls("fastiter.mdp.compat.example.small")
def compat_small(pick: Pick) -> dict[str, Any]:
    return {}


#: The arguments of each solver after the transitions and the rewards
SOLVERS: dict[str, dict[str, Any]] = {
    "FiniteHorizon": {"discount": 0.9, "N": 2, "h": np.ones(2)},
    "PolicyIteration": {"discount": 0.9, "policy0": np.zeros(2, np.int64), "max_iter": 20},
    "PolicyIterationModified": {"discount": 0.9, "epsilon": 0.1, "max_iter": 20},
    "RelativeValueIteration": {"epsilon": 0.1, "max_iter": 20},
    "ValueIteration": {"discount": 0.9, "epsilon": 0.1, "max_iter": 20, "initial_value": np.ones(2)},
    "ValueIterationGS": {"discount": 0.9, "epsilon": 0.1, "max_iter": 20, "initial_value": 1.0},
}


def enter_solver(name: str) -> None:
    def solved(transitions: Any, reward: Any, **how: Any) -> Any:
        solver = getattr(compat.mdp, name)(transitions, reward, **how)
        solver.run()
        return solver.V, solver.policy, solver.iter

    @calls(f"fastiter.mdp.compat.mdp.{name}", run=solved)
    def make(pick: Pick) -> dict[str, Any]:
        A, dtype = pick.integer(1, 3), pick.one_of(REAL)
        P = probabilities(pick, A, 2, 2).astype(dtype)
        return {"transitions": pick.one_of((P, list(P))), "reward": pick.normal(2, A, dtype=dtype), **SOLVERS[name]}


for each in SOLVERS:
    enter_solver(each)
