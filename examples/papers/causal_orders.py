"""Causal orders by swaps: from NOTEARS's graph to the score of the true order, within .0001 on all data sets.

Variables depend linearly on others without a cycle; each order of them has a best weight matrix, the regressions of
each variable on those before it, and all residual variances come from one Cholesky factorisation of the covariance.
The score is half their sum. TOPO swaps two variables if that lowers it, and looks only at pairs whose swap is cheap:
where the gradient of the acyclicity function is smallest, as few paths lead from the one to the other. If no pair of
a small set helps, it tries a large set once.

NOTEARS, which follows a penalty of the cycles along a path of ever harder problems, ends above the true order's
score; the swaps from the order of its graph end at or below that score on four of five data sets, and .0001 above it
at most; their graphs are the true ones up to .5 edges on average. From random orders the swaps never raise the score
and end within .001 of the true order's on at least 4 of 5 data sets, with 10 and with 20 variables.

    python examples/papers/causal_orders.py  # 3 to 60 seconds; writes causal_orders.png next to this file

:Paper: Optimizing NOTEARS Objectives via Topological Swaps (2023), arXiv 2305.17277
:Shows: the swaps as a post-processing of NOTEARS and from random orders, for linear models with equal noise
:Does not show: logistic and nonlinear models, the large graphs of the paper, and its optimality conditions
:Starts from: a matrix
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
import scipy.optimize
from _paper import OTHERS, OURS, THEIRS, command_line, figure_option, option, save
from matplotlib import pyplot

SAMPLES, CUT, PENALTY = 1000, 0.3, 0.02


@dataclass(frozen=True)
class Options:
    seeds: int = option(5, "data sets of each size", 1)
    variables: tuple[int, ...] = option((10, 20), "numbers of variables", (10,))
    figure: Path = figure_option(__file__)


class Data(NamedTuple):
    C: Any  # the second moments (d, d)
    W: Any  # the true weights, W[i, j] of i in j
    order: Any  # the true order


def data(d: int, seed: int) -> Data:
    """A random graph with 2 d edges, and the moments of samples of it."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(d)
    pairs = np.array([(i, j) for j in range(d) for i in range(j)])
    chosen = pairs[rng.permutation(len(pairs))[: 2 * d]]
    W = np.zeros((d, d))
    W[order[chosen[:, 0]], order[chosen[:, 1]]] = rng.uniform(0.5, 2, 2 * d) * rng.choice([-1, 1], 2 * d)
    X = rng.normal(size=(SAMPLES, d)) @ np.linalg.inv(np.eye(d) - W)
    return Data(X.T @ X / SAMPLES, W, order)


def scores(C: Any, orders: Any) -> Any:
    """Half the sum of the residual variances of orders (n, d), each variable given those before it."""
    L = np.linalg.cholesky(C[orders[:, :, None], orders[:, None, :]])
    return (np.diagonal(L, axis1=1, axis2=2) ** 2).sum(axis=1) / 2


def weights(C: Any, order: Any) -> Any:
    """The regressions of each variable on those before it."""
    L = np.linalg.cholesky(C[np.ix_(order, order)])
    W = np.zeros_like(C)
    W[np.ix_(order, order)] = np.eye(len(C)) - (np.diagonal(L)[:, None] * np.linalg.inv(L)).T
    return W


def swaps(C: Any, order: Any) -> tuple[Any, list[float]]:
    """TOPO: return the order at the end, and the scores on the way."""
    d = len(C)
    small, large = d * (d - 1) // 8, d * (d - 1) // 2
    first, second = np.triu_indices(d, 1)  # positions of a pair, the first one before the other
    history = [float(scores(C, order[None])[0])]
    while True:
        W = np.abs(weights(C, order))
        gradient = np.linalg.matrix_power(np.eye(d) + W / d, d - 1).T
        cheapest = np.argsort(gradient[order[second], order[first]], kind="stable")
        for size in (small, large):
            some = cheapest[:size]
            orders = np.repeat(order[None], len(some), axis=0)
            at = np.arange(len(some))
            orders[at, first[some]], orders[at, second[some]] = order[second[some]], order[first[some]]
            found = scores(C, orders)
            best = int(found.argmin())
            if found[best] < history[-1] - 1e-12:
                order = orders[best]
                history.append(float(found[best]))
                break
        else:
            return order, history


def notears(C: Any) -> Any:
    """The weights by the augmented Lagrangian of tr exp(W * W) = d, as differences of two non-negative matrices."""
    d = len(C)
    alpha, rho, w, before = 0.0, 1.0, np.zeros(2 * d * d), np.inf
    bounds = [(0.0, 0.0 if i % (d + 1) == 0 else None) for i in range(d * d)] * 2

    def parts(w: Any) -> tuple[Any, float, Any]:
        W = (w[: d * d] - w[d * d :]).reshape(d, d)
        E = scipy.linalg.expm(W * W)
        return W, float(np.trace(E) - d), 2 * W * E.T

    def objective(w: Any) -> tuple[float, Any]:
        W, cycles, slope = parts(w)
        rest = np.eye(d) - W
        value = np.trace(rest.T @ C @ rest) / 2 + PENALTY * w.sum() + alpha * cycles + rho / 2 * cycles**2
        gradient = (-C @ rest + (alpha + rho * cycles) * slope).ravel()
        return float(value), np.concatenate([gradient, -gradient]) + PENALTY

    while rho < 1e16:
        w = scipy.optimize.minimize(objective, w, jac=True, method="L-BFGS-B", bounds=bounds).x
        W, cycles, _ = parts(w)
        if cycles <= 1e-8:
            break
        if cycles > before / 4:
            rho *= 10
        else:
            alpha, before = alpha + rho * cycles, cycles
    return np.where(np.abs(W) > CUT, W, 0)


def topological(W: Any) -> Any:
    """An order in which each variable comes after all that it depends on."""
    left, order = list(range(len(W))), []
    while left:
        free = min(left, key=lambda j: int((W[left, j] != 0).sum()))
        order.append(free)
        left.remove(free)
    return np.array(order)


def wrong_edges(W: Any, truth: Any) -> int:
    """Missing, additional and reversed edges, of weights above .3."""
    A, B = np.abs(W) > CUT, truth != 0
    missing, more = B & ~A, A & ~B
    return int(missing.sum() + more.sum() - (missing & more.T).sum())


def main(options: Options) -> None:
    rows: dict[str, list[float]] = {}
    edges: dict[str, list[int]] = {}
    histories = []
    for d in options.variables:
        for seed in range(options.seeds):
            C, truth, order = data(d, seed)
            true = float(scores(C, order[None])[0])
            found, history = swaps(C, np.random.default_rng(1000 + seed).permutation(d))
            assert (np.diff(history) < 0).all()
            rows.setdefault(f"{d}: random order", []).append(history[0] - true)
            rows.setdefault(f"{d}: swaps from it", []).append(history[-1] - true)
            edges.setdefault(f"{d}: swaps from it", []).append(wrong_edges(weights(C, found), truth))
            histories.append((d, np.array(history) - true))
            if d > 10:
                continue
            W = notears(C)
            rest = np.eye(d) - W
            start = topological(W)
            found, history = swaps(C, start)
            rows.setdefault(f"{d}: NOTEARS", []).append(float(np.trace(rest.T @ C @ rest) / 2) - true)
            rows.setdefault(f"{d}: its order", []).append(history[0] - true)
            rows.setdefault(f"{d}: swaps from that", []).append(history[-1] - true)
            edges.setdefault(f"{d}: NOTEARS", []).append(wrong_edges(W, truth))
            edges.setdefault(f"{d}: swaps from that", []).append(wrong_edges(weights(C, found), truth))
    print(f"{'score above that of the true order':36}{'mean':>10}{'largest':>10}{'wrong edges':>13}")
    for name, row in rows.items():
        mean = f"{np.mean(edges[name]):13.1f}" if name in edges else ""
        print(f"{name:36}{np.mean(row):10.4f}{max(row):10.4f}{mean}")

    after, before = rows["10: swaps from that"], rows["10: NOTEARS"]
    assert max(after) <= 1e-4 and sum(row <= 0 for row in after) >= 0.8 * options.seeds
    assert np.mean(edges["10: swaps from that"]) <= 0.5 and np.mean(before) >= 0.02
    for d in options.variables:
        assert sum(row <= 1e-3 for row in rows[f"{d}: swaps from it"]) >= 0.8 * options.seeds

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for d, above in histories:
        left.plot(above, color=OURS if d == 10 else THEIRS, linewidth=1, label=f"{d} variables")
    left.set_yscale("symlog", linthresh=1e-2)
    left.set(xlabel="swaps", ylabel="score above that of the true order", title="From random orders")
    handles, names = left.get_legend_handles_labels()
    left.legend(dict(zip(names, handles, strict=True)).values(), dict.fromkeys(names))
    places = np.arange(options.seeds)
    for shift, name, color in ((-0.27, "NOTEARS", OTHERS), (0, "its order", THEIRS), (0.27, "swaps from that", OURS)):
        right.bar(places + shift, rows[f"10: {name}"], width=0.25, color=color, label=name)
    right.set(xlabel="data set of 10 variables", ylabel="score above that of the true order", title="From NOTEARS")
    right.legend()
    save(figure, options.figure)


if __name__ == "__main__":
    main(command_line(Options, __doc__))
