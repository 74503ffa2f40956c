"""Bounds against exact rationals: `python -m tests.mdp.exact_bounds --problems 10000` checks random small processes.

A process has 1 to 4 states with up to 3 actions, in any layout; its optimal values are those of policy iteration in
fractions on the stored floating-point numbers, so that nothing is rounded.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

import fastiter
from fastiter.mdp import MDP, MDPBatch

METHODS = ("auto", "vi", "gs", "ps", "pi", "mpi", "ipi", "anderson", "anchored", "deflated")
LAYOUTS = ("array", "matrices", "sparse", "rows", "csr", "lists")
STARTS = ("default", "zeros", "random", "huge")
DISCOUNTS = (0.0, 0.3, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999, 0.9999999)
#: The maximum number of sweeps; fewer for methods that take longer
STEPS = dict.fromkeys(METHODS, 1_000) | {"vi": 50_000, "mpi": 50_000, "gs": 50_000, "pi": 20, "ipi": 20, "auto": 20}


class Problem(NamedTuple):
    """A process, how it is solved, and words that describe it."""

    process: MDP
    options: dict[str, Any]
    words: tuple[str, ...]


def solve_exactly(rows: list[list[list[Fraction]]], rewards: list[list[Fraction]]) -> tuple[list[Fraction], list[int]]:
    """Return the largest V = r + W V over policies, and a policy; states without rows have the value 0."""
    states = range(len(rows))
    policy = [0 if rows[s] else -1 for s in states]
    while True:
        value = value_exactly(rows, rewards, policy)
        better = list(policy)
        for s in states:
            gain = [r + dot(row, value) for row, r in zip(rows[s], rewards[s], strict=True)]
            if gain and max(gain) > value[s]:
                better[s] = gain.index(max(gain))
        if better == policy:
            return value, policy
        policy = better


def dot(row: list[Any], value: list[Any]) -> Any:
    return sum(w * x for w, x in zip(row, value, strict=True))


def value_exactly(rows: list[list[list[Any]]], rewards: list[list[Any]], policy: list[int]) -> list[Any]:
    """Return the values of a policy, by elimination."""
    acting = [s for s in range(len(rows)) if policy[s] >= 0]
    table = [[int(s == t) - rows[s][policy[s]][t] for t in acting] + [rewards[s][policy[s]]] for s in acting]
    for k in range(len(table)):
        pivot = table[k]
        for i in range(len(table)):
            if i != k and table[i][k]:
                factor = table[i][k] / pivot[k]
                table[i] = [x - factor * y for x, y in zip(table[i], pivot, strict=True)]
    value: list[Any] = [Fraction(0)] * len(rows)
    for k, s in enumerate(acting):
        value[s] = table[k][-1] / table[k][k]
    return value


def fractions_of(process: MDP) -> tuple[list[list[list[Fraction]]], list[list[Fraction]]]:
    """Return the discounted weights and the rewards of each state's rows, as they are stored."""
    weight, target, entry = process.transitions
    start, reward = process.row_starts, process.rewards
    factor = Fraction(process._process.discount or 0.0)
    rows: list[list[list[Fraction]]] = [[] for _ in range(process.S)]
    rewards: list[list[Fraction]] = [[] for _ in range(process.S)]
    for s in range(process.S):
        for j in range(start[s], start[s + 1]):
            row = [Fraction(0)] * process.S
            for e in range(entry[j], entry[j + 1]):
                row[target[e]] += factor * Fraction(float(weight[e]))
            rows[s].append(row)
            rewards[s].append(Fraction(float(reward[j])))
    return rows, rewards


def exact(process: MDP) -> list[Fraction]:
    """Return the optimal values."""
    rows, rewards = fractions_of(process)
    sign = -1 if process._negated else 1
    value, _ = solve_exactly(rows, [[sign * r for r in each] for each in rewards])
    return [sign * x for x in value]


def faults(process: MDP, found: Any, tol: float, value: list[Fraction]) -> list[str]:
    """Return what is wrong with a solution: bounds that the values exceed, or convergence that is not true."""
    wrong = []
    lower, upper, middle = (
        [Fraction(float(x)) if np.isfinite(x) else None for x in each]
        for each in (found.lower, found.upper, found.value)
    )
    for s, v in enumerate(value):
        low, high, m = lower[s], upper[s], middle[s]
        if np.isnan(found.lower[s]) or np.isnan(found.upper[s]):
            wrong.append("nan")
        if (low is not None and low > v) or (high is not None and v > high):
            wrong.append("violation")
        if np.isposinf(found.lower[s]) or np.isneginf(found.upper[s]):
            wrong.append("violation")
        if np.isfinite(found.residual) and m is not None and abs(m - v) * 2 > Fraction(found.residual):
            wrong.append("value")
        if found.converged and m is not None and abs(m - v) * 2 > Fraction(tol):
            wrong.append("false convergence")
    with np.errstate(all="ignore"):
        width = float((found.upper - found.lower).max())
    if found.converged and not width <= tol:
        wrong.append("converged but wide")
    if np.isfinite(width) and found.reason != "diverged" and width != found.residual:
        wrong.append("residual")
    return sorted(set(wrong))


def random_problem(rng: np.random.Generator, method: str | None = None) -> Problem:
    """Return a random process, in a random layout, with random options of `solve`."""
    S, A = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    dtype = np.float64 if rng.random() < 0.7 else np.float32
    P = _probabilities(rng, S, A).astype(dtype)
    R, size = _rewards(rng, S, A)
    if dtype == np.float32:
        size = float(np.clip(size, 1e-25, 1e25))
        R = np.clip(R, -1e25, 1e25)
    R = R.astype(dtype)
    layout = str(rng.choice(LAYOUTS))
    gamma: Any = float(rng.choice(DISCOUNTS))
    words = [layout, np.dtype(dtype).name, f"gamma {gamma}"]
    keywords: dict[str, Any] = {"sense": str(rng.choice(["max", "min"]))}
    given_P, given_R, more = _laid_out(layout, P, R)
    if rng.random() < 0.15:
        gamma = rng.choice([gamma, gamma * 0.9, gamma * 0.99999], S * A)
        words.append("semi")
    if rng.random() < 0.15 and S > 1:
        keywords["terminal"] = rng.choice(S, 1)
        words.append("terminal")
    if dtype == np.float32:
        keywords["renormalize"] = True
    process = MDP(given_P, given_R, gamma, **more, **keywords)
    options, said = _options(rng, process, size, method)
    return Problem(process, options, (*words, *said, keywords["sense"]))


def _probabilities(rng: np.random.Generator, S: int, A: int) -> Any:
    kind = rng.integers(4)
    if kind == 0:
        return rng.dirichlet(np.ones(S), (S, A))
    if kind == 1:  # thirds and sevenths
        counts = rng.multinomial(int(rng.choice([3, 7, 10])), np.ones(S) / S, (S, A))
        return counts / counts.sum(2, keepdims=True)
    if kind == 2:
        return np.eye(S)[rng.integers(S, size=(S, A))]
    slow = 10.0 ** -rng.integers(1, 7)  # rarely leaves
    return (1 - slow) * np.eye(S)[:, None, :] + slow * rng.dirichlet(np.ones(S), (S, A))


def _rewards(rng: np.random.Generator, S: int, A: int) -> tuple[Any, float]:
    kind = rng.integers(4)
    if kind == 0:
        return rng.integers(0, 4, (S, A)).astype(float), 1.0
    if kind == 1:
        return rng.normal(size=(S, A)) * 5, 1.0
    if kind == 2:
        return 100 + rng.random((S, A)), 100.0
    size = float(10.0 ** rng.integers(-300, 299))
    return rng.normal(size=(S, A)) * size, size


def _laid_out(layout: str, P: Any, R: Any) -> tuple[Any, Any, dict[str, Any]]:
    S, A = R.shape
    flat = P.reshape(S * A, S)
    states = np.repeat(np.arange(S), A)
    matrices = [np.ascontiguousarray(P[:, a]) for a in range(A)]
    if layout == "array":
        return P, R, {}
    if layout == "matrices":
        return matrices, R, {}
    if layout == "sparse":
        return [sparse.csr_array(x) for x in matrices], R, {}
    if layout == "lists":
        nested = [[(np.flatnonzero(P[s, a]), P[s, a][P[s, a] != 0]) for a in range(A)] for s in range(S)]
        return nested, [list(r) for r in R], {}
    return flat if layout == "rows" else sparse.csr_array(flat), R.reshape(-1), {"states": states}


def _options(
    rng: np.random.Generator, process: MDP, size: float, method: str | None
) -> tuple[dict[str, Any], list[str]]:
    S, dtype = process.S, process.dtype
    start, method = str(rng.choice(STARTS)), method or str(rng.choice(METHODS))
    with np.errstate(over="ignore"):
        starts = {
            "default": None,
            "zeros": np.zeros(S, dtype),
            "random": (size * rng.normal(size=S)).astype(dtype),
            "huge": (1e7 * size * rng.normal(size=S)).astype(dtype),
        }
    value0 = starts[start]
    if value0 is not None and not np.isfinite(value0).all():
        start, value0 = "zeros", np.zeros(S, dtype)
    tol = 1e-6 * (max(size, 1e-300) if rng.random() < 0.5 else 1.0)
    options = {
        "method": method,
        "atol": tol,
        "stop": str(rng.choice(["span", "sup"])),
        "max_steps": int(rng.choice([1, 3, STEPS[method]], p=[0.05, 0.05, 0.9])),
        "value0": value0,
    }
    if method == "gs":
        options |= {"order": str(rng.choice(["bfs", "symmetric"])), "omega": float(rng.choice([1.0, 0.8, 1.2]))}
    return options, [method, start, options["stop"], f"tol {tol:g}"]


def check(problem: Problem, batch: bool) -> tuple[list[str], Any]:
    """Solve a problem, alone or as models of a batch, and return what is wrong, and the solution."""
    process, options = problem.process, problem.options
    value = exact(process)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fastiter.ConvergenceWarning)
        try:
            if not batch:
                found = process.solve(**options)
                return faults(process, found, options["atol"], value), found
            several = MDPBatch(process, R=np.stack([process.rewards, process.rewards / 2]))
            found = several.solve(**options)
        except ValueError as error:
            if options["method"] != "deflated":  # which does not take every process
                raise error
            return [], None
    wrong = []
    for m, each in enumerate((value, exact(several[1]))):
        one = fastiter.mdp._result.alone(found, m)
        wrong += faults(several[m], one, options["atol"], each)
    return sorted(set(wrong)), one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--show", type=int, default=10)
    given = parser.parse_args()
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    shown = 0
    for seed in range(given.first, given.first + given.problems):
        rng = np.random.default_rng(seed)
        problem = random_problem(rng)
        wrong, found = check(problem, bool(rng.random() < 0.2))
        reasons["unsuitable" if found is None else found.reason] += 1
        counts.update(wrong)
        if wrong and shown < given.show:
            shown += 1
            print(seed, ", ".join(wrong), "|", *problem.words, "|", found, file=sys.stderr)
    print(f"{given.problems} problems:", dict(reasons), "faults:", dict(counts))


if __name__ == "__main__":
    main()
