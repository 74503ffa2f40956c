"""A walk in unknown wind: the worst winds, found one by one, and the return of each policy in every wind.

:Paper: Solving Robust MDPs as a Sequence of Static RL Problems (2024), arXiv 2410.06212
:Shows: the worst winds, found one by one, and the value of the robust policy
:Does not show: deep agents and continuous control
:Starts from: a decision
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _paper import command_line, figure_option, save
from matplotlib import pyplot

from fastiter import experimental, mdp

WINDS = np.arange(51) / 100
START = 0


@dataclass(frozen=True)
class Options:
    figure: Path = figure_option(__file__)


def main() -> None:
    options = command_line(Options, __doc__)
    models = [mdp.examples.windy_walk(float(wind)) for wind in WINDS]
    solution = experimental.iwocs(models, START, atol=1e-8)
    print(f"winds that were solved for: {', '.join(f'{WINDS[k]:.2f}' for k in solution.worst[:-1, 0])}")
    policies = {
        "for no wind": models[0].solve().policy,
        "for the strongest wind": models[-1].solve().policy,
        "against all winds": solution.policy,
    }
    best = [float(model.solve(atol=1e-8).value[START]) for model in models]
    curves = {name: [float(model.evaluate(p)[START]) for model in models] for name, p in policies.items()}
    for name, curve in curves.items():
        print(f"policy {name:24}{min(curve):9.4f} in its worst wind")
    assert abs(min(curves["against all winds"]) - min(best)) < 1e-6
    assert abs(min(curves["for no wind"]) + 16.4347) < 1e-4
    assert abs(solution.value[START] + 9.3171009) < 1e-6
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for width, (name, curve) in zip((2, 6, 2), curves.items(), strict=True):  # the last two coincide
        axes.plot(WINDS, curve, linewidth=width, label=f"policy {name}")
    axes.plot(WINDS, best, "k:", label="best for each wind")
    axes.set(xlabel="wind", ylabel="value of the start")
    axes.legend()
    save(figure, options.figure)


if __name__ == "__main__":
    main()
