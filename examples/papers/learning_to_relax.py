"""Solve sequences of systems while learning which omega takes the fewest iterations, and compare with the theory.

Shifted systems, with high and with low variance: system t is (A + c_t I) x = b_t, with the 5-point Laplacian A on
10 x 10 points, b_t of random direction, c_t = -0.15 + 0.6 beta_t, and beta_t from the Beta distribution (1/2, 3/2) or
(2, 6). One omega of SOR for all of them is a compromise. Tsallis-INF finds the best compromise without any knowledge;
with c_t as context a learner does better than any single omega, and ChebCB comes near the best omega of each system.

The heat equation with a time-dependent coefficient, by Crank-Nicolson steps: each step is a system for conjugate
gradients with SSOR, started from the previous step, and the coefficient is its context.

Theory, on the same Laplacians: iterations and their bounds, the spectral radius beta of Jacobi and the quantity tau,
a right-hand side for which a large omega is wasted, and the bound for conjugate gradients with SSOR.

    python examples/papers/learning_to_relax.py  # 20 seconds to 6 minutes; writes learning_to_relax*.png here
    python examples/papers/learning_to_relax.py --trials 3 --detail 2  # more sequences, and the fine grids of the paper
    python examples/papers/learning_to_relax.py --help

:Paper: Learning to Relax: Setting Solver Parameters Across a Sequence of Linear System Instances (2024), arXiv
    2310.02246
:Shows: Tsallis-INF near the best fixed omega, ChebCB below it, and the bounds on the iterations
:Does not show: the times of the paper's two-dimensional heat simulation
:Starts from: feedback
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse.linalg
from _paper import OTHERS, command_line, figure_option, option, progress, save
from _relaxation_theory import PANELS, draw_bounds, draw_choices, in_a_ball, laplacian
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

import fastiter
from fastiter.relax import Batch, ChebCB, ContextualTsallisINF, TsallisINF, solve_sequence, sor

POINTS = 10
EPSILON = 1e-8
ARMS = np.linspace(1, 1.95, 20)
AT_ONCE = 250  # systems in a batch
VARIANCES = {"high": (0.5, 1.5), "low": (2.0, 6.0)}
FIXED, HEAT_FIXED = (1.0, 1.2, 1.4, 1.6, 1.8), (1.0, 1.3, 1.5, 1.75, 1.95)
BEST, BEST_ARM = "omega*(c) of each system", "best arm of each system"
TITLES = {"high": "SOR, high variance", "low": "SOR, low variance", "heat": "heat, SSOR-CG"}
COLORS = {
    "Tsallis-INF": "tab:blue",
    "Tsallis-INF-CB": "tab:purple",
    "ChebCB": "tab:orange",
    BEST: "black",
    BEST_ARM: "tab:green",
}

#: Another implementation's numbers for 5000 systems: mean and, where known, standard deviation over three runs
PUBLISHED: dict[str, dict[str, tuple[int, int | None]]] = {
    "high": {
        "omega = 1.0": (3_020_969, 40_000),
        "omega = 1.2": (2_004_223, None),
        "omega = 1.4": (1_269_670, None),
        "omega = 1.6": (747_714, None),
        "omega = 1.8": (516_565, None),
        "Tsallis-INF": (595_891, 25_000),
        "Tsallis-INF-CB": (481_894, 22_000),
        "ChebCB": (332_014, 8_000),
        BEST: (279_271, None),
        BEST_ARM: (290_975, None),
    },
    "low": {},
    "heat": {
        "CG": (85_422, None),
        "omega = 1.0": (32_793, None),
        "omega = 1.3": (29_746, None),
        "omega = 1.5": (32_318, None),
        "omega = 1.75": (44_866, None),
        "omega = 1.95": (63_071, None),
        "Tsallis-INF": (29_753, None),
        "Tsallis-INF-CB": (29_383, None),
        "ChebCB": (25_237, None),
    },
}
PUBLISHED_SYSTEMS = 5000
Rows = dict[str, Any]  # the iterations (T,) of each line of a table


@dataclass(frozen=True)
class Options:
    systems: int = option(5000, "systems in a sequence", 150)
    trials: int = option(1, "sequences per experiment")
    seed: int = option(0, "seed of the systems and the learners")
    one_by_one: int = option(200, "systems solved one by one as a check", 10)
    detail: int = option(1, "fineness of the grids for the theory: 0, 1 or 2", 0)
    figure: Path = figure_option(__file__)


def learners(low: float, high: float, bins: int) -> dict[str, Callable[[int], Any]]:
    return {
        "Tsallis-INF": lambda seed: TsallisINF(ARMS, rng=seed),
        "Tsallis-INF-CB": lambda seed: ContextualTsallisINF(ARMS, bounds=(low, high), bins=bins, rng=seed),
        "ChebCB": lambda seed: ChebCB(ARMS, bounds=(low, high), degree=5, rng=seed),
    }


# ---- Shifted systems ------------------------------------------------------------------------------------------------
# The iterations that each omega takes are counted first, in batches of systems; the learners choose from these counts.
# The first systems are also solved one by one, to check that they take the same number of iterations.


class Shifted:
    """c (T,), b (T, n), and the pattern and values of A."""

    def __init__(self, count: int, beta: tuple[float, float], seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.A = laplacian(np.ones((POINTS, POINTS), bool))
        self.c = -0.15 + 0.6 * rng.beta(*beta, count)
        self.b = np.array([in_a_ball(rng, self.A.shape[0]) for _ in range(count)])
        row = np.repeat(np.arange(self.A.shape[0]), np.diff(self.A.indptr))
        self.on_diagonal = self.A.indices == row

    def batch(self, rows: Any) -> Batch:
        return Batch(self.A, self.A.data + self.c[rows, None] * self.on_diagonal)

    def one(self, t: int) -> Any:
        return scipy.sparse.csr_array((self.A.data + self.c[t] * self.on_diagonal, self.A.indices, self.A.indptr))


def best_omega(c: float) -> float:
    """Young's omega: beta is the spectral radius of Jacobi's iteration for A + c I."""
    beta = 4 * math.cos(math.pi / (POINTS + 1)) / (4 + c)
    return 2 / (1 + math.sqrt(1 - beta**2))


def count_iterations(systems: Shifted, bar: Any) -> Any:
    """Iterations of each omega, (T, arms). A batch has similar systems, as all continue until the last is done."""
    counts = np.empty((len(systems.c), len(ARMS)), np.int64)
    order = np.argsort(systems.c)
    for first in range(0, len(order), AT_ONCE):
        rows = order[first : first + AT_ONCE]
        for arm, omega in enumerate(ARMS):
            counts[rows, arm] = sor(systems.batch(rows), systems.b[rows], omega=omega, rtol=EPSILON).steps
            bar.update(len(rows))
    return counts


def learn(systems: Shifted, counts: Any, tuner: Any) -> Any:
    """Iterations with the omegas that a learner chooses, (T,)."""
    steps = []
    index = {omega: arm for arm, omega in enumerate(ARMS.tolist())}
    for t, c in enumerate(systems.c):
        steps.append(counts[t, index[tuner.predict(c)]])
        tuner.update(float(steps[-1]))
    return np.array(steps)


def shifted_trial(options: Options, variance: str, trial: int, bar: Any) -> tuple[Rows, int]:
    """The iterations of each line of the table, and the largest difference from solving the systems one by one."""
    systems = Shifted(options.systems, VARIANCES[variance], options.seed + trial)
    counts = count_iterations(systems, bar)
    rows = {f"omega = {omega}": counts[:, np.abs(ARMS - omega).argmin()] for omega in FIXED}
    some, difference = range(min(options.one_by_one, options.systems)), 0
    for name, learner in learners(-0.15, 0.45, bins=5).items():
        rows[name] = learn(systems, counts, learner(trial))
        sequence = ((systems.one(t), systems.b[t], systems.c[t]) for t in some)
        solution = solve_sequence(sequence, learner(trial), rtol=EPSILON)
        difference = max(difference, int(np.abs(solution.steps - rows[name][: len(some)]).max()))
    best = []
    for t, c in enumerate(systems.c):
        best.append(sor(systems.one(t), systems.b[t], omega=best_omega(c), rtol=EPSILON).steps)
        bar.update()
    return {**rows, BEST: np.array(best), BEST_ARM: counts.min(axis=1)}, difference


# ---- The heat equation ----------------------------------------------------------------------------------------------


class Fixed:
    """A tuner that has nothing to learn."""

    def __init__(self, omega: float) -> None:
        self.omega = omega

    def predict(self, context: float | None = None) -> float:
        return self.omega

    def update(self, iterations: float) -> None:
        pass


class Heat:
    """u_t = kappa(t) Laplace u + f on the unit square, 25 cells along an axis; u = 0 on the edge.

    A step solves (I + s L) u+ = (I - s L) u + dt f, s = dt kappa / 2, L = -Laplace, all at the midpoint of the step.
    The solutions are computed with the sines that diagonalise L, so that the systems do not depend on the solver.
    """

    cells, dt = 25, 1e-3

    def __init__(self, steps: int) -> None:
        from scipy.fft import dstn, idstn

        at = np.arange(1, self.cells) / self.cells
        self.x, self.y = np.meshgrid(at, at, indexing="ij")
        self.L = laplacian(np.ones(self.x.shape, bool)) * self.cells**2
        row = np.repeat(np.arange(self.L.shape[0]), np.diff(self.L.indptr))
        self.on_diagonal = self.L.indices == row
        line = 2 * self.cells**2 * (1 - np.cos(math.pi * at))
        u, self.right_sides = self.bump(0.5, 0.5, 0.25), []
        self.start = u
        for t in self.dt * np.arange(steps):
            middle, angle = t + self.dt / 2, 16 * math.pi * (t + self.dt / 2)
            force = 32 * self.bump(0.5 + math.cos(angle) / 4, 0.5 + math.sin(angle) / 4, 0.125)
            half = self.dt / 2 * self.kappa(middle)
            self.right_sides.append(u - half * (self.L @ u) + self.dt * force)
            sines = dstn(self.right_sides[-1].reshape(self.x.shape), type=1)
            u = idstn(sines / (1 + half * (line[:, None] + line)), type=1).ravel()

    @staticmethod
    def kappa(t: float) -> float:
        return max(0.1 * math.sin(2 * math.pi * t), -10 * math.sin(2 * math.pi * t))

    def bump(self, x: float, y: float, radius: float) -> Any:
        share = np.minimum(1, ((self.x - x) ** 2 + (self.y - y) ** 2) / radius**2)
        inside = share < 1
        return np.where(inside, np.exp(1 - 1 / np.where(inside, 1 - share, 1)), 0).ravel()

    def systems(self) -> Iterator[tuple[Any, Any, float]]:
        for t, b in enumerate(self.right_sides):
            half = self.dt / 2 * self.kappa((t + 0.5) * self.dt)
            values = half * self.L.data + self.on_diagonal
            yield scipy.sparse.csr_array((values, self.L.indices, self.L.indptr)), b, self.kappa(t * self.dt)

    def plain_cg(self) -> Any:
        """Iterations without a preconditioner, (T,)."""
        x, counts = self.start, []
        for A, b, _ in self.systems():
            steps: list[Any] = []
            x, _ = scipy.sparse.linalg.cg(A, b, x, rtol=EPSILON, callback=steps.append)
            counts.append(len(steps))
        return np.array(counts)


def heat_trial(heat: Heat, trial: int, bar: Any) -> tuple[Rows, Rows]:
    """The iterations of each line of the table, and the omegas of the learners."""
    tuners = {f"omega = {omega}": Fixed(omega) for omega in HEAT_FIXED}
    tuners |= {name: learner(trial) for name, learner in learners(0.0, 10.0, bins=6).items()}
    rows, omegas = {"CG": heat.plain_cg()}, {}
    for name, tuner in tuners.items():
        solution = solve_sequence(heat.systems(), tuner, method="ssor_cg", warm_start=True, rtol=EPSILON)
        rows[name], omegas[name] = solution.steps, solution.omegas
        bar.update(len(solution.omegas))
    return rows, omegas


# ---- The results ----------------------------------------------------------------------------------------------------


def print_table(title: str, trials: list[Rows], systems: int, published: dict[str, tuple[int, int | None]]) -> None:
    compare = systems == PUBLISHED_SYSTEMS and bool(published)
    print(f"\n{title:28}{'mean':>12}{'sd':>10}", f"{'published':>12}{'sd':>9}" * compare)
    for name in trials[0]:
        totals = [int(rows[name].sum()) for rows in trials]
        line = f"{name:28}{np.mean(totals):12,.0f}{np.std(totals):10,.0f}"
        if compare:
            mean, sd = published[name]
            line += f"{mean:13,}" + (f"{sd:9,}" if sd else "")
        print(line)


def draw_totals(axes: Any, title: str, rows: Rows, left_out: set[str]) -> None:
    shown = sorted(rows.keys() - left_out, key=lambda name: int(rows[name].sum()))  # those are far above the others
    gap, height = 0.065 * rows[shown[-1]].sum(), -math.inf
    for name in shown:
        style = {"color": OTHERS, "linestyle": "--"} if name.startswith("omega =") else {"color": COLORS[name]}
        axes.plot(np.cumsum(rows[name]) / 1000, **style)
        height = max(height + gap, rows[name].sum())  # names must not overlap
        place = (1.02 * len(rows[name]), height / 1000)
        axes.annotate(name, place, va="center", size=8, color=style["color"] if name in COLORS else "0.4")
    axes.set(title=title, xlabel="systems solved", ylabel="thousand iterations in all")
    axes.set(xlim=(0, 1.65 * len(rows[shown[0]])), ylim=(0, None))


def draw_omegas(axes: Any, heat: Heat, omegas: Rows) -> None:
    for name in ("Tsallis-INF", "Tsallis-INF-CB", "ChebCB"):
        width = min(25, len(omegas[name]))
        means = np.convolve(omegas[name], np.ones(width) / width, "valid")
        axes.plot(means, label=name, color=COLORS[name], linewidth=1)
    kappa = [heat.kappa(t * heat.dt) for t in range(len(omegas["ChebCB"]))]
    axes.plot(1 + 0.095 * np.array(kappa), color="0.5", linestyle=":", label="coefficient, to scale")
    axes.set(title="Heat: omega, means of 25 steps", xlabel="time step", ylabel="omega", ylim=(0.9, 2.4))
    axes.legend(fontsize=8, ncols=2, frameon=False, loc="upper left")


def draw_sequences(results: dict[str, list[Rows]], heat: Heat, omegas: Rows, path: Path) -> None:
    figure = Figure(figsize=(9, 7), layout="constrained")
    panels = figure.subplots(2, 2).ravel()
    for (kind, trials), axes in zip(results.items(), panels, strict=False):
        draw_totals(axes, TITLES[kind], trials[0], {"CG"} if kind == "heat" else {"omega = 1.0", "omega = 1.2"})
    draw_omegas(panels[3], heat, omegas)
    save(figure, path)


def draw_theory(options: Options) -> None:
    rng = np.random.default_rng(options.seed)
    with progress(PANELS, "panels", "theory ") as bar:
        for name, draw in (("bounds", draw_bounds), ("choices", draw_choices)):
            figure = Figure(figsize=(9, 7), layout="constrained")
            draw(figure.subplots(2, 2).ravel(), options.detail, rng, bar)
            save(figure, options.figure.with_stem(f"{options.figure.stem}_{name}"))


def run_trials(options: Options, heat: Heat) -> tuple[dict[str, list[Rows]], Rows, int]:
    """Return the tables' rows, the omegas of the heat equation's learners, and the largest difference of the check."""
    results: dict[str, list[Rows]] = {}
    differences: list[int] = []
    omegas: Rows = {}
    total = options.trials * options.systems * (2 * (len(ARMS) + 1) + len(HEAT_FIXED) + 3)
    with progress(total, "systems") as bar:
        for trial in range(options.trials):
            for variance in VARIANCES:
                rows, difference = shifted_trial(options, variance, trial, bar)
                results.setdefault(variance, []).append(rows)
                differences.append(difference)
            rows, omegas = heat_trial(heat, trial, bar)
            results.setdefault("heat", []).append(rows)
    return results, omegas, max(differences)


def main() -> None:
    options = command_line(Options, __doc__)
    fastiter.set_num_threads(1)  # these matrices are too small for two threads
    threadpool_limits(1)
    heat = Heat(options.systems)
    results, omegas, difference = run_trials(options, heat)
    for kind, trials in results.items():
        print_table(TITLES[kind], trials, options.systems, PUBLISHED[kind])
    print(f"\none by one: {options.one_by_one} systems differ by at most {difference} iterations\n")
    draw_sequences(results, heat, omegas, options.figure)
    draw_theory(options)


if __name__ == "__main__":
    main()
