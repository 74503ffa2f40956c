"""Solve your own recurrent cell for all steps at once, and check states and gradients against the loop.

The cell is a leaky unit with fatigue: the more active it has been, the less of its input it lets through. No library
has a compiled version of it, so the alternative is a Python loop. Its state has two parts, which are coupled unit by
unit; the 2 x 2 block structure of its Jacobian is detected automatically. The Lyapunov exponent in the output is the
mean logarithm of the factor by which a step amplifies small differences: below 0 the cell forgets, and Newton's method
needs few iterations.

    python examples/custom_cell.py            # 3 to 60 seconds; writes custom_cell.png next to this file
    python examples/custom_cell.py --help

:Starts from: a map
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from _script import OURS, THEIRS, command_line, figure_option, option, progress, save
from matplotlib.figure import Figure
from torch import Tensor

import fastiter
from fastiter.torch import solve_recurrence

State = tuple[Tensor, Tensor]
Method = Literal["auto", "sequential", "newton", "quasi", "elk"]


def cell(state: State, x: Tensor, params: dict[str, Tensor]) -> State:
    """One step of M rows: the state (M, D) and (M, D), the input (M, D)."""
    activity, fatigue = state
    leak, rest = torch.sigmoid(params["leak"]), torch.sigmoid(params["rest"])
    drive = torch.tanh(x + params["self"] * activity - params["cost"] * fatigue)
    activity = (1 - leak) * activity + leak * drive
    fatigue = (1 - rest) * fatigue + rest * activity**2
    return activity, fatigue


def loop(x: Tensor, params: dict[str, Tensor], state: State) -> State:
    steps = []
    for step in x.unbind(1):
        state = cell(state, step, params)
        steps.append(state)
    activity, fatigue = zip(*steps, strict=True)
    return torch.stack(activity, 1), torch.stack(fatigue, 1)


def timed(run: Callable[[], Any], repeats: int, bar: Any) -> tuple[float, Any]:
    """The shortest time in milliseconds, and the result."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - started)
        bar.update()
    return 1000 * min(times), result


def largest_difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The largest difference, relative to the largest number of each tensor."""
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(ours, theirs, strict=True))


@dataclass(frozen=True)
class Options:
    batch: int = option(1, "number of sequences")
    steps: int = option(4096, "steps in a sequence", 512)
    units: int = option(16, "units of the cell")
    method: Method = option("auto", "method of solve_recurrence")
    lengths: int = option(5, "sequence lengths in the figure, each twice the previous one", 2)
    repeats: int = option(3, "repetitions of each measurement", 1)
    figure: Path = figure_option(__file__)


class Growth(NamedTuple):
    """Measurements for sequences of several lengths."""

    lengths: list[int]
    iterations: list[float]  # per window
    solved: list[float]  # milliseconds
    looped: list[float]


def measure_growth(
    solve: Callable[[Tensor], Any], run: Callable[[Tensor], State], x: Tensor, options: Options, bar: Any
) -> Growth:
    """Solve and run the loop over increasing numbers of steps of x, up to all of them."""
    lengths = [max(2, options.steps >> k) for k in reversed(range(options.lengths))]
    growth = Growth(lengths, [], [], [])
    for length in lengths:
        part = x[:, :length]
        milliseconds, solution = timed(partial(solve, part), options.repeats, bar)
        growth.iterations.append(int(solution.steps.max()) / solution.sequential.shape[1])
        growth.solved.append(milliseconds)
        growth.looped.append(timed(partial(run, part), options.repeats, bar)[0])
    return growth


def draw(growth: Growth, path: Path) -> None:
    figure = Figure(figsize=(8.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(growth.lengths, growth.iterations, "o-", color=OURS)
    left.set(
        ylabel="iterations", ylim=(0, 1.2 * max(growth.iterations)), title="Iterations of Newton's method on a window"
    )
    right.plot(growth.lengths, growth.looped, "s-", color=THEIRS, label="loop in Python")
    right.plot(growth.lengths, growth.solved, "o-", color=OURS, label="solve_recurrence")
    right.set(ylabel="milliseconds", ylim=(0, None), title="Time for all states")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.set(xlabel="steps of the sequence", xlim=(0, None))
    save(figure, path)


def main() -> None:
    options = command_line(Options, __doc__)
    torch.set_num_threads(1)
    fastiter.set_num_threads(1)
    torch.manual_seed(0)
    size = (options.batch, options.units)
    names = ("leak", "rest", "self", "cost")
    params = {name: (torch.randn(options.units, dtype=torch.float64) / 2).requires_grad_() for name in names}
    x = torch.randn(options.batch, options.steps, options.units, dtype=torch.float64, requires_grad=True)
    state = (torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64))
    inputs = [x, *params.values()]

    def gradients(states: State) -> list[Tensor]:
        return list(torch.autograd.grad(states[0].square().mean() + states[1].mean(), inputs))

    def solve(x: Tensor) -> Any:
        return solve_recurrence(cell, x, params, state=state, method=options.method)

    def run(x: Tensor) -> State:
        return loop(x, params, state)

    solve(x)  # warm-up
    repeats = options.repeats
    with progress((4 + 2 * options.lengths) * repeats, "runs") as bar:
        forward, solution = timed(lambda: solve(x), repeats, bar)
        both, ours = timed(lambda: gradients(solve(x).value), repeats, bar)
        loop_forward, states = timed(lambda: run(x), repeats, bar)
        loop_both, theirs = timed(lambda: gradients(run(x)), repeats, bar)
        growth = measure_growth(solve, run, x, options, bar)

    windows = solution.sequential.shape[1]
    print(f"method {solution.method}, Jacobian {solution.jacobian}, {windows} windows of {solution.window} steps")
    print(f"iterations {solution.steps.max()}, windows run as a loop {solution.sequential.sum()}")
    print(f"largest residual {solution.residual.max():.1e}, Lyapunov exponent {solution.lyapunov.max():.2f}")
    print(f"difference of the states    {largest_difference(list(solution.value), list(states)):.1e}")
    print(f"difference of the gradients {largest_difference(ours, theirs):.1e}")
    print(f"\n{'milliseconds':24}{'solved':>10}{'loop':>10}{'ratio':>8}")
    print(f"{'states':24}{forward:10.1f}{loop_forward:10.1f}{loop_forward / forward:8.1f}")
    print(f"{'states and gradients':24}{both:10.1f}{loop_both:10.1f}{loop_both / both:8.1f}\n")
    draw(growth, options.figure)


if __name__ == "__main__":
    main()
