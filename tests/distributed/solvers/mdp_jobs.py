"""Decision processes on the ranks of a group: equality with one process, refusals, and messages."""

from __future__ import annotations

import itertools
import os
import signal
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from scipy import sparse

from fastiter import ConvergenceError, ConvergenceWarning, Progress, mdp
from fastiter.torch import distributed
from tests.mdp import exact_bounds

Array = npt.NDArray[Any]
S, A, GAMMA, TOL = 23, 3, 0.7, 1e-2


class Rows(NamedTuple):
    """A row for each state and action: probabilities (rows, S), rewards (rows,), states and actions (rows,)."""

    P: Array
    R: Array
    states: Array
    actions: Array

    def of(self, states: Array) -> Rows:
        keep = np.isin(self.states, states)
        return Rows(*(x[keep] for x in self))


def table(dtype: str, near: bool = False) -> tuple[Array, Array]:
    """Return P (S, A, S) and R (S, A), where some states lack some actions; near: steps to adjacent states only."""
    random = np.random.default_rng(7)
    P = random.random((S, A, S)) * (random.random((S, A, S)) < 0.3) + 0.1 * np.eye(S)[:, None]
    if near:
        P *= np.abs(np.arange(S)[:, None] - np.arange(S))[:, None] <= 2
    P = (P / P.sum(2, keepdims=True)).astype(dtype)
    R = random.standard_normal((S, A)).astype(dtype)
    R[random.random((S, A)) < 0.2] = -np.inf
    R[:, 1] = np.maximum(R[:, 1], -1)
    return P, R


def rows(dtype: str) -> Rows:
    P, R = table(dtype)
    states, actions = np.nonzero(-np.inf < R)
    return Rows(P[states, actions], R[states, actions], states, 2 * actions + 1)


def parts(kind: str) -> list[Array]:
    """Return the states of each rank: in pieces, the second empty, or scattered."""
    size = dist.get_world_size()
    if kind == "scattered":
        owner = np.random.default_rng(3).integers(0, size, S)
        return [np.flatnonzero(owner == rank) for rank in range(size)]
    ends = [0, *np.sort(np.random.default_rng(size).integers(0, S, size - 1)), S]
    if size > 2:
        ends[2] = ends[1]
    return [np.arange(a, b) for a, b in itertools.pairwise(ends)]


def processes(dtype: str, exchange: str) -> list[tuple[str, distributed.MDP, mdp.MDP, Array]]:
    """Return a name, the process on ranks, the same in one process, and this rank's states."""
    every, rank = [], dist.get_rank()
    own = parts("pieces")[rank]
    how: dict[str, Any] = {"exchange": exchange}
    for near in (False, True):
        P, R = table(dtype, near)
        ended = np.arange(S) % 9 == 4
        one = mdp.MDP(P, R, GAMMA, terminal=ended)
        every.append(
            (
                f"table {near}",
                distributed.MDP(torch.from_numpy(P[own]), R[own], GAMMA, terminal=ended[own], **how),
                one,
                own,
            )
        )
    P, R = table(dtype)
    costs = np.maximum(R, -2)
    matrices = [sparse.csr_array(P[:, a]) for a in range(A)]
    local = [sparse.csr_array(P[own, a]) for a in range(A)]
    found = distributed.MDP(local, costs[own], GAMMA, sense="min", **how)
    every.append(("list", found, mdp.MDP(matrices, costs, GAMMA, sense="min"), own))
    all_rows, own = rows(dtype), parts("scattered")[rank]
    mine, gamma = all_rows.of(own), np.where(np.arange(len(all_rows.R)) % 2, 0.5, GAMMA)
    options: dict[str, Any] = {"states": mine.states, "actions": mine.actions, "owned": own, "terminal": own[own == 5]}
    kept = gamma[np.isin(all_rows.states, own)]
    found = distributed.MDP(sparse.csr_array(mine.P), mine.R, kept, **options, **how)
    whole: dict[str, Any] = {"states": all_rows.states, "actions": all_rows.actions, "terminal": [5]}
    every.append(("rows", found, mdp.MDP(sparse.csr_array(all_rows.P), all_rows.R, gamma, **whole), own))
    after = {"rows": np.arange(len(mine.R)) % 7}
    found = distributed.MDP(sparse.csr_array(all_rows.P[:7]), mine.R, GAMMA, **options | after, **how)
    at = np.concatenate([np.arange(np.isin(all_rows.states, x).sum()) % 7 for x in parts("scattered")])
    by = np.concatenate([np.flatnonzero(np.isin(all_rows.states, x)) for x in parts("scattered")])
    whole |= {"rows": at[np.argsort(by)]}
    every.append(("afterstates", found, mdp.MDP(all_rows.P[:7], all_rows.R, GAMMA, **whole), own))
    return every


def _compare(found: mdp.MDPSolution, one: mdp.MDPSolution, own: Array, said: str) -> None:
    for name in ("value", "lower", "upper", "policy"):
        ours, theirs = getattr(found, name), getattr(one, name)[own]
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs), f"{said}: {name}"
    assert np.array_equal(found.history, one.history), f"{said}: history"
    assert (found.steps, found.residual, found.reason) == (one.steps, one.residual, one.reason), said


def equal_one_process(dtype: str, exchange: str) -> int:
    """Compare all results, bit for bit; return the number of compared solutions."""
    solo = [dist.new_group([rank]) for rank in range(dist.get_world_size())][dist.get_rank()]
    done = 0
    for name, found, one, own in processes(dtype, exchange):
        assert found.S == S and found.gamma == one.gamma and np.array_equal(found.owned, own)
        start = np.linspace(-1, 1, S).astype(dtype)
        sup = {"policy_sweeps": 0, "stop": "sup"}
        calls: list[tuple[Any, dict[str, Any]]] = [("vi", {}), ("mpi", {}), ("mpi", sup)]
        for method, how in calls:
            whole, local = one.solve(method, atol=TOL, **how), found.solve(method, atol=TOL, **how)
            _compare(local, whole, own, f"{name}, {method}, {how}")
        begun = found.solve("vi", atol=TOL, value0=start[own])
        _compare(begun, one.solve("vi", atol=TOL, value0=start), own, f"{name}, value0")
        exact = one.solve("vi", atol=1e-5)
        for stop in ("span", "sup"):
            by_policies = found.solve("pi", atol=TOL, stop=stop)
            assert by_policies.converged and (by_policies.lower <= exact.upper[own]).all(), name
            assert (by_policies.upper >= exact.lower[own]).all(), name
        if name.startswith("table"):
            P, R = table(dtype, name == "table True")
            alone = distributed.MDP(P, R, GAMMA, terminal=np.arange(S) % 9 == 4, group=solo).solve("pi", atol=TOL)
            _compare(found.solve("pi", atol=TOL), alone, own, f"{name}, pi")
            _evaluate(found, one, own, (P, R), exact.policy)
        done += 1
    return done


def exact(dtype: str) -> int:
    """Compare the bounds of processes of four states with the exact values; return the number of comparisons."""
    rank, size, done = dist.get_rank(), dist.get_world_size(), 0
    random = np.random.default_rng(11)
    for gamma, method in itertools.product((0.9, 0.9999, 0.999999), ("vi", "mpi", "pi")):
        P, R = random.dirichlet(np.ones(4), (4, 2)).astype(dtype), random.standard_normal((4, 2)).astype(dtype)
        own = np.arange(4 * rank // size, 4 * (rank + 1) // size)
        whole = mdp.MDP(P, R, gamma, renormalize=True)
        P = whole.transitions[0].reshape(4, 2, 4)
        process = distributed.MDP(P[own], R[own], gamma)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found = process.solve(method, value0=np.zeros(len(own), dtype), max_steps=100)
        value = [exact_bounds.exact(whole)[s] for s in own]
        assert set(exact_bounds.faults(whole, found, 1e-6, value)) <= {"residual"}, (gamma, method)  # that of all ranks
        assert not found.converged or found.residual <= 1e-6
        done += 1
    return done


def _evaluate(found: distributed.MDP, one: mdp.MDP, own: Array, given: tuple[Array, Array], policy: Array) -> None:
    P, R = given
    has = np.flatnonzero(policy >= 0)
    of_policy = P[has, policy[has]], R[has, policy[has]], GAMMA
    chain = mdp.MDP(*of_policy, states=has, actions=policy[has], terminal=policy < 0)
    values = found.evaluate(policy[own], atol=TOL)
    _compare(values, chain.solve("vi", atol=TOL), own, "evaluate")
    exact = one.evaluate(policy)[own]
    slack = 16 * np.finfo(exact.dtype).eps * (1 + np.abs(exact).max(initial=0))  # the rounding of BiCGSTAB's solution
    assert (values.lower <= exact + slack).all() and (values.upper >= exact - slack).all()


def ends() -> tuple[str, int, str, str, int]:
    """Return the results of a solution that ends by the callback of one rank, by a warning and by an exception."""
    P, R = table("float64")
    own, rank = parts("pieces")[dist.get_rank()], dist.get_rank()
    process = distributed.MDP(P[own], R[own], GAMMA)
    found = process.solve("vi", callback=lambda progress: progress.steps >= 3 + rank)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        process.solve("vi", max_steps=2)
    assert caught[0].category is ConvergenceWarning
    try:
        process.solve("pi", max_steps=1, throw=True)
    except ConvergenceError as error:
        raised = error
    assert raised.solution is not None
    return found.reason, found.steps, str(caught[0].message), str(raised), raised.solution.steps


def traffic(exchange: Literal["halo", "gather"]) -> tuple[int, int, int, int]:
    """Return the rounds and bytes of one more sweep, and of one more check, on a ring with steps in both directions."""
    n, size, rank = 6, dist.get_world_size(), dist.get_rank()
    own = np.arange(n * rank, n * (rank + 1))
    P = np.zeros((n, 1, n * size))
    for side in (-1, 1):
        P[np.arange(n), 0, (own + side) % (n * size)] += 0.5
    process = distributed.MDP(P, own.astype(float) ** 2, GAMMA, exchange=exchange)
    counts = []
    for steps, sweeps in ((3, 4), (3, 5), (4, 4)):
        with distributed.record_traffic() as sent, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            process.solve("mpi", policy_sweeps=sweeps, max_steps=steps, atol=1e-12)
        counts.append((sent.rounds, sent.bytes))
    first, more, longer = counts
    # Two of the three backups are preceded by policy sweeps; a check is a backup after four more
    sweep = ((more[0] - first[0]) // 2, (more[1] - first[1]) // 2)
    return *sweep, longer[0] - first[0] - 5 * sweep[0], longer[1] - first[1] - 5 * sweep[1]


def refused(rank: int) -> dict[str, str]:
    """Return the errors of calls with an argument that is wrong or different on one rank."""
    P, R = table("float64")
    own = parts("pieces")[dist.get_rank()]
    wrong = dist.get_rank() == rank
    given: dict[str, Any] = {"P": P[own], "R": R[own], "gamma": GAMMA, "owned": own}
    twice = np.append(own, own[0])
    pairs = {"P": P[twice, 0], "R": R[twice, 0], "states": twice}
    changed: dict[str, dict[str, Any]] = {
        "dtype": {"P": P[own].astype(np.float32)},
        "gamma": {"gamma": 0.5},
        "one": {"gamma": 1.0},
        "none": {"gamma": None},
        "sum": {"P": P[own] / 2},
        "overlap": {"owned": own - 1},
        "columns": {"P": P[own, :, :-1], "owned": own - 1},
        "count": {"owned": own[1:]},
        "falls": {"owned": own[::-1]},
        "terminal": {"terminal": [int(own[0]) - 1]},
        "kind": {"owned": len(own)},
        "twins": {**pairs, "actions": np.repeat(5, len(own) + 1)},
        "label": {**pairs, "actions": np.arange(-1, len(own))},
    }
    process = distributed.MDP(**given)

    def made(other: dict[str, Any]) -> Callable[[], object]:
        return lambda: distributed.MDP(**given | (other if wrong else {}))

    calls = {what: made(other) for what, other in changed.items()}
    calls |= {
        "value0": lambda: process.solve(value0=np.zeros(len(own) + wrong)),
        "some": lambda: process.solve(value0=np.zeros(len(own)) if wrong else None),
        "method": lambda: process.solve("vi" if wrong else "pi"),
        "alpha": lambda: process.solve("mpi", alpha=0.5),
        "policy": lambda: process.evaluate(np.full(len(own), 99 if wrong else 1)),
    }
    found = {}
    for what, call in calls.items():
        try:
            call()
        except (TypeError, ValueError) as error:
            found[what] = str(error)
    return found


def dies(rank: int) -> str:
    """Let a rank die at its third check; return the error of this rank."""
    P, R = table("float64")
    own = parts("pieces")[dist.get_rank()]

    def callback(progress: Progress) -> None:
        if dist.get_rank() == rank and progress.steps == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        distributed.MDP(P[own], R[own], GAMMA).solve("vi", callback=callback)
    except distributed.CommunicationError as error:
        return str(error)
    return ""
