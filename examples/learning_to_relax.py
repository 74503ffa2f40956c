"""Solve a sequence of systems by SOR while learning which omega takes the fewest iterations, with and without contexts.

System t is (A + c_t I) x = b_t, A the 5-point Laplacian on 10 x 10 points, b_t of random direction, and
c_t = -0.15 + 0.6 beta_t, beta_t from the Beta distribution (1/2, 3/2): most systems are hard, some very easy. One omega
for all of them is a compromise. Tsallis-INF finds the best compromise without knowing anything; with c_t as context a
learner does better than any one omega, and ChebCB comes near the best omega of each system.

The iterations that each of 20 omegas takes are counted first, by batches of systems; the learners choose from these
counts. That solving the systems one by one with `solve_sequence` takes just as many is checked on the first of them.

    python examples/learning_to_relax.py            # some minutes; writes learning_to_relax.png beside this file
    python examples/learning_to_relax.py --help

Khodak, Chow, Balcan and Talwalkar, Learning to Relax: Setting Solver Parameters Across a Sequence of Linear System
Instances, ICLR 2024: this is the set-up that it calls high variance.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from matplotlib.figure import Figure
from tqdm import tqdm

import fastiter
from fastiter.relax import Batch, ChebCB, ContextualTsallisINF, TsallisINF, solve_sequence, sor

POINTS = 10
EPSILON = 1e-8
BOUNDS = (-0.15, 0.45)
ARMS = np.linspace(1, 1.95, 20)
FIXED = (1.0, 1.2, 1.4, 1.6, 1.8)
AT_ONCE = 500  # systems in a batch

LEARNERS: dict[str, Callable[[int], Any]] = {
    "Tsallis-INF": lambda seed: TsallisINF(ARMS, seed=seed),
    "Tsallis-INF-CB": lambda seed: ContextualTsallisINF(ARMS, bounds=BOUNDS, bins=5, seed=seed),
    "ChebCB": lambda seed: ChebCB(ARMS, bounds=BOUNDS, degree=5, seed=seed),
}
#: Another implementation's numbers for 5000 systems: mean and standard deviation over three runs, where it is known
PUBLISHED: dict[str, tuple[int, int | None]] = {
    "omega = 1.0": (3_020_969, 40_000),
    "omega = 1.2": (2_004_223, None),
    "omega = 1.4": (1_269_670, None),
    "omega = 1.6": (747_714, None),
    "omega = 1.8": (516_565, None),
    "Tsallis-INF": (595_891, 25_000),
    "Tsallis-INF-CB": (481_894, 22_000),
    "ChebCB": (332_014, 8_000),
    "omega*(c) of each system": (279_271, None),
    "best arm of each system": (290_975, None),
}
PUBLISHED_SYSTEMS = 5000


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Learning the relaxation factor of a sequence of linear systems.")
    parser.add_argument("--systems", type=int, default=5000, help="systems in a sequence (%(default)s)")
    parser.add_argument("--trials", type=int, default=3, help="sequences (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the systems and the learners (%(default)s)")
    parser.add_argument("--one-by-one", type=int, default=200, help="systems of the check (%(default)s)")
    parser.add_argument("--figure", type=Path, default=Path(__file__).with_suffix(".png"), help="where to draw it")
    parser.add_argument("--quick", action="store_true", help="a short sequence, to see that it runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.systems, arguments.trials, arguments.one_by_one = 200, 1, 20
    return arguments


# ---- The systems ----------------------------------------------------------------------------------------------------


def laplacian() -> Any:
    line = scipy.sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(POINTS, POINTS))
    eye = scipy.sparse.eye_array(POINTS)
    return scipy.sparse.csr_array(scipy.sparse.kron(line, eye) + scipy.sparse.kron(eye, line))


class Systems:
    """c (T,), b (T, n), and the pattern and values of A."""

    def __init__(self, count: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.A = laplacian()
        self.c = -0.15 + 0.6 * rng.beta(0.5, 1.5, count)
        self.b = np.array([in_a_ball(rng, self.A.shape[0]) for _ in range(count)])
        row = np.repeat(np.arange(self.A.shape[0]), np.diff(self.A.indptr))
        self.on_diagonal = self.A.indices == row

    def batch(self, rows: Any) -> Batch:
        return Batch(self.A, self.A.data + self.c[rows, None] * self.on_diagonal)

    def one(self, t: int) -> Any:
        return scipy.sparse.csr_array((self.A.data + self.c[t] * self.on_diagonal, self.A.indices, self.A.indptr))


def in_a_ball(rng: np.random.Generator, n: int) -> Any:
    """Normal numbers, drawn again where their norm is above sqrt(n)."""
    while True:
        b = rng.standard_normal(n)
        if b @ b <= n:
            return b


def best_omega(c: float) -> float:
    """Young's omega: beta is the spectral radius of Jacobi's iteration for A + c I."""
    beta = 4 * math.cos(math.pi / (POINTS + 1)) / (4 + c)
    return 2 / (1 + math.sqrt(1 - beta**2))


# ---- The iterations -------------------------------------------------------------------------------------------------


def count_iterations(systems: Systems, progress: tqdm[Any]) -> Any:
    """(T, arms): what each omega takes. Systems that are alike are in a batch, as all go on until the last is done."""
    counts = np.empty((len(systems.c), len(ARMS)), np.int64)
    order = np.argsort(systems.c)
    for first in range(0, len(order), AT_ONCE):
        rows = order[first : first + AT_ONCE]
        for arm, omega in enumerate(ARMS):
            counts[rows, arm] = sor(systems.batch(rows), systems.b[rows], omega=omega, rtol=EPSILON).steps
            progress.update(len(rows))
    return counts


def count_best(systems: Systems, progress: tqdm[Any]) -> Any:
    """(T,): what the asymptotically best omega of each system takes."""
    steps = []
    for t, c in enumerate(systems.c):
        steps.append(sor(systems.one(t), systems.b[t], omega=best_omega(c), rtol=EPSILON).steps)
        progress.update()
    return np.array(steps)


def learn(systems: Systems, counts: Any, tuner: Any) -> Any:
    """(T,): what the omegas of a learner take."""
    steps = []
    index = {omega: arm for arm, omega in enumerate(ARMS.tolist())}
    for t, c in enumerate(systems.c):
        steps.append(counts[t, index[tuner.predict(c)]])
        tuner.update(float(steps[-1]))
    return np.array(steps)


def run_trial(arguments: argparse.Namespace, trial: int, progress: tqdm[Any]) -> tuple[dict[str, Any], int]:
    """The iterations of each row of the table, and the largest difference from solving the systems one by one."""
    systems = Systems(arguments.systems, arguments.seed + trial)
    counts = count_iterations(systems, progress)
    rows = {f"omega = {omega}": counts[:, np.abs(ARMS - omega).argmin()] for omega in FIXED}
    difference = 0
    for name, learner in LEARNERS.items():
        rows[name] = learn(systems, counts, learner(trial))
        some = range(min(arguments.one_by_one, arguments.systems))
        sequence = ((systems.one(t), systems.b[t], systems.c[t]) for t in some)
        found = solve_sequence(sequence, learner(trial), rtol=EPSILON)
        difference = max(difference, int(np.abs(found.iterations - rows[name][: len(some)]).max()))
    rows["omega*(c) of each system"] = count_best(systems, progress)
    rows["best arm of each system"] = counts.min(axis=1)
    return rows, difference


# ---- What came out --------------------------------------------------------------------------------------------------


def print_table(trials: list[dict[str, Any]], systems: int) -> None:
    print(
        f"{'iterations in all':28}{'mean':>12}{'sd':>10}",
        f"{'published':>12}{'sd':>9}" * (systems == PUBLISHED_SYSTEMS),
    )
    for name in trials[0]:
        totals = [int(rows[name].sum()) for rows in trials]
        line = f"{name:28}{np.mean(totals):12,.0f}{np.std(totals):10,.0f}"
        if systems == PUBLISHED_SYSTEMS:
            mean, sd = PUBLISHED[name]
            line += f"{mean:12,}" + (f"{sd:9,}" if sd else "")
        print(line)


def draw_figure(rows: dict[str, Any], path: Path) -> None:
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    shown = [name for name in rows if name not in {"omega = 1.0", "omega = 1.2"}]  # far above the others
    for name in shown:
        is_fixed = name.startswith("omega =")
        style = {"color": "0.6", "linestyle": "--"} if is_fixed else {}
        axes.plot(np.cumsum(rows[name]), **style)
        axes.annotate(
            name, (len(rows[name]), rows[name].sum()), (4, 0), textcoords="offset points", va="center", size=8
        )
    axes.set(xlabel="systems solved", ylabel="iterations in all", xlim=(0, 1.3 * len(rows[shown[0]])), ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    arguments = parse_arguments()
    fastiter.set_num_threads(1)  # a sweep over such small systems is done before another thread has begun
    trials, differences = [], []
    with tqdm(
        total=arguments.trials * arguments.systems * (len(ARMS) + 1), unit="systems", unit_scale=True
    ) as progress:
        for trial in range(arguments.trials):
            rows, difference = run_trial(arguments, trial, progress)
            trials.append(rows)
            differences.append(difference)
    print_table(trials, arguments.systems)
    print(f"one by one: {arguments.one_by_one} systems differ by at most {max(differences)} iterations")
    draw_figure(trials[0], arguments.figure)
    print(f"figure: {arguments.figure}")


if __name__ == "__main__":
    main()
