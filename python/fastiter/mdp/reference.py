"""The specification of fastiter.mdp: loops over dense P (S, A, S) and R (S, A), directly from the equations.

An action that a state does not have has the reward -inf; a state without any is terminal, with the value 0.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def actions_of(R: Array, s: int) -> list[int]:
    """Return the actions of a state."""
    return [a for a in range(R.shape[1]) if R[s, a] > -np.inf]


def action_value(P: Array, R: Array, gamma: float, v: Array, s: int, a: int) -> float:
    """Return q(s, a) = R(s, a) + gamma sum over s' of P(s, a, s') v(s')."""
    return float(R[s, a] + gamma * sum(P[s, a, t] * v[t] for t in range(len(v))))


def backup(P: Array, R: Array, gamma: float, v: Array) -> tuple[Array, Array]:
    """Return T v, (T v)(s) = max over a of q(s, a), and the lowest action that attains it, -1 in terminal states."""
    values, actions = np.zeros(len(v)), np.full(len(v), -1)
    for s in range(len(v)):
        q = {a: action_value(P, R, gamma, v, s, a) for a in actions_of(R, s)}
        if q:
            actions[s] = min(q, key=lambda a: (-q[a], a))
            values[s] = q[int(actions[s])]
    return values, actions


def afterstate_backup(P: Array, R: Array, gamma: float, v: Array, states: Array, rows: Array) -> tuple[Array, Array]:
    """Return T v, and its actions, of pairs i of a state and an action that share the rows of P (X, S).

    (T v)(s) = max over the pairs of s of R(i) + gamma v^x(rows[i]), with v^x(x) = sum over s' of P(x, s') v(s'), which
    takes one expectation for each row of P in place of one for each pair.
    """
    after = [sum(P[x, t] * v[t] for t in range(len(v))) for x in range(len(P))]
    values, actions = np.zeros(len(v)), np.full(len(v), -1)
    for s in range(len(v)):
        q = [float(R[i] + gamma * after[rows[i]]) for i in range(len(states)) if states[i] == s]
        if q:
            values[s], actions[s] = max(q), q.index(max(q))
    return values, actions


def sweep(
    P: Array, R: Array, gamma: float, v: Array, order: Iterable[int], omega: float = 1.0, exact: bool = True
) -> Array:
    """Return v after v(s) <- v(s) + omega (max over a of q(s, a) - v(s)) for each state of the order.

    exact: q(s, a) = (R(s, a) + gamma sum over s' != s of P(s, a, s') v(s')) / (1 - gamma P(s, a, s)).
    """
    v = v.copy()
    for s in order:
        q = []
        for a in actions_of(R, s):
            stays = P[s, a, s] if exact else 0.0
            q.append((action_value(P, R, gamma, v, s, a) - gamma * stays * v[s]) / (1 - gamma * stays))
        if q:
            v[s] += omega * (max(q) - v[s])
    return v


def bounds(v: Array, w: Array, gamma: float) -> tuple[Array, Array]:
    """Return MacQueen's bounds on V*: w + gamma / (1 - gamma) times the least and largest of w - v, with w = T v."""
    factor = gamma / (1 - gamma)
    return w + factor * (w - v).min(), w + factor * (w - v).max()


def policy_values(P: Array, R: Array, gamma: float, policy: Array) -> Array:
    """Return V of a policy, (1 - gamma P) V = R for its rows."""
    S = len(P)
    chain, reward = np.zeros((S, S)), np.zeros(S)
    for s in range(S):
        if policy[s] >= 0:
            chain[s], reward[s] = P[s, policy[s]], R[s, policy[s]]
    return np.linalg.solve(np.eye(S) - gamma * chain, reward)


def occupancy(P: Array, policy: Array, start: Array, gamma: float, horizon: int | None = None) -> tuple[Array, Array]:
    """Return sum over t of gamma^t m_t(s), (S,), and of gamma^t m_t(s) policy(s, a), (S, A), for t < horizon or all t.

    m_0 = start, and m_(t + 1)(s') = sum over s and a of m_t(s) policy(s, a) P(s, a, s').
    """
    chain = np.einsum("sa,sat->st", policy, P)
    if horizon is None:
        visits = np.linalg.solve(np.eye(len(P)) - gamma * chain.T, start)
        return visits, policy * visits[:, None]
    visits, now = np.zeros(len(P)), start.astype(np.float64)
    for _ in range(horizon):
        visits, now = visits + now, gamma * (now @ chain)
    return visits, policy * visits[:, None]


def dominant(chain: Array, rank: int) -> tuple[Array, Array]:
    """Return U, an orthonormal basis of the span of the eigenvectors of the largest moduli, and B = U^T P U.

    The span is real, as conjugate eigenvectors are taken in pairs: there may be one more than ``rank``.
    """
    values, vectors = np.linalg.eig(chain)
    order = sorted(range(len(values)), key=lambda i: (-abs(values[i]), -values[i].real, values[i].imag))
    chosen = order[:rank]
    chosen += [i for i in order[rank : rank + 1] if rank and values[order[rank - 1]] == values[i].conj() != values[i]]
    columns = [vectors[:, i].imag if values[i].imag < 0 else vectors[:, i].real for i in chosen]
    basis = np.linalg.qr(np.stack(columns, 1))[0] if columns else np.zeros((len(chain), 0))
    return basis, basis.T @ chain @ basis


def deflated_sweeps(chain: Array, reward: Array, gamma: float, v: Array, rank: int, sweeps: int) -> Array:
    """Return v after sweeps v <- (1 - gamma E)^-1 (r + gamma (P - E) v), with E = U B U^T of :func:`dominant`.

    V = r + gamma P V is the fixed point for any E, and P - E has the eigenvalues of P except the deflated ones.
    """
    basis, inner = dominant(chain, rank)
    E = basis @ inner @ basis.T
    for _ in range(sweeps):
        v = np.linalg.solve(np.eye(len(v)) - gamma * E, reward + gamma * (chain - E) @ v)
    return v


def policy_iteration(P: Array, R: Array, gamma: float) -> tuple[Array, Array]:
    """Return V* and an optimal policy by Howard's method: an action is replaced only by a better one."""
    policy = backup(P, R, 0.0, np.zeros(len(P)))[1]
    while True:
        v = policy_values(P, R, gamma, policy)
        better = policy.copy()
        for s in range(len(P)):
            for a in actions_of(R, s):
                now = action_value(P, R, gamma, v, s, int(better[s]))
                if action_value(P, R, gamma, v, s, a) > now + 1e-12 * max(1.0, abs(now)):
                    better[s] = a
        if np.array_equal(better, policy):
            return v, policy
        policy = better


def loop_losses(Q: Array, J: Array, steps: Iterable[tuple[int, int, float, int]]) -> Array:
    """Return losses (F + 1, F): those of the Q of each hypothesis f' on the targets of each f, then f's own.

    A loss is the sum of (r + max of Q_f(s') - J_f - Q_f'(s, a) - c)^2 over the steps (s, a, r, s'), with the best c for
    f', and with c = 0 and f' = f in the last row.
    """
    losses, samples = np.zeros((len(J) + 1, len(J))), list(steps)
    for f in range(len(J)):
        targets = [r + max(Q[f, to]) - J[f] for _, _, r, to in samples]
        for other in range(len(J)):
            errors = [y - Q[other, s, a] for y, (s, a, _, _) in zip(targets, samples, strict=True)]
            c = sum(errors) / max(len(errors), 1)
            losses[other, f] = sum((error - c) ** 2 for error in errors)
            if other == f:
                losses[-1, f] = sum(error**2 for error in errors)
    return losses


def prioritized_sweeping(P: Array, R: Array, gamma: float, v: Array, tolerance: float) -> tuple[Array, int]:
    """Return values with |T v - v| <= tolerance, and the number of states that were changed.

    Each backup is of the state with the largest |T v - v|, from a heap whose outdated elements are skipped.
    """
    v, S = v.copy(), len(v)
    priority = np.abs(backup(P, R, gamma, v)[0] - v)
    heap = [(-float(priority[s]), s) for s in range(S) if priority[s] > tolerance]
    heapq.heapify(heap)
    before = [[s for s in range(S) if any(P[s, a, t] > 0 for a in actions_of(R, s))] for t in range(S)]
    changed = 0
    while heap:
        size, s = heapq.heappop(heap)
        if -size != priority[s]:
            continue
        v[s], priority[s], changed = backup(P, R, gamma, v)[0][s], 0.0, changed + 1
        for q in before[s]:
            priority[q] = abs(backup(P, R, gamma, v)[0][q] - v[q])
            if priority[q] > tolerance:
                heapq.heappush(heap, (-float(priority[q]), q))
    return v, changed
