"""Solve a recurrent cell of your own for all steps at once, and check states and gradients against the loop.

The cell is a leaky unit that tires: the more it has been active, the less of its input it lets through. No library has
it compiled, so the alternative is a loop in Python. Its state has two parts, which each unit couples; that its Jacobian
is made of blocks of 2 x 2 is found, not told.

    python examples/custom_cell.py            # some seconds on one core
    python examples/custom_cell.py --help
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from _script import command_line, option, progress
from torch import Tensor

import fastiter
from fastiter.torch import solve_recurrence

State = tuple[Tensor, Tensor]


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
    """Relative to the largest number of each tensor."""
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(ours, theirs, strict=True))


@dataclass(frozen=True)
class Options:
    batch: int = option(1, "sequences")
    steps: int = option(4000, "their length", 500)
    units: int = option(16, "units of the cell")
    method: str = option("auto", "method of solve_recurrence")
    repeats: int = option(3, "times that each is measured", 1)


def main() -> None:
    options = command_line(Options, __doc__)
    torch.set_num_threads(1)
    fastiter.set_num_threads(1)
    torch.manual_seed(0)
    size = (options.batch, options.units)
    x = torch.randn(options.batch, options.steps, options.units, dtype=torch.float64, requires_grad=True)
    names = ("leak", "rest", "self", "cost")
    params = {name: torch.randn(options.units, dtype=torch.float64, requires_grad=True) for name in names}
    state = (torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64))
    inputs = [x, *params.values()]

    def gradients(states: State) -> list[Tensor]:
        return list(torch.autograd.grad(states[0].square().mean() + states[1].mean(), inputs))

    def solve() -> Any:
        return solve_recurrence(cell, x, params, state, method=options.method)

    solve()  # the first call of anything is slow
    with progress(4 * options.repeats, "runs") as bar:
        forward, solution = timed(solve, options.repeats, bar)
        both, ours = timed(lambda: gradients(solve().value), options.repeats, bar)
        loop_forward, states = timed(lambda: loop(x, params, state), options.repeats, bar)
        loop_both, theirs = timed(lambda: gradients(loop(x, params, state)), options.repeats, bar)

    windows = solution.sequential.shape[1]
    print(f"method {solution.method}, Jacobian {solution.jacobian}, {windows} windows of {solution.window} steps")
    print(f"iterations {solution.steps.max()}, windows run as a loop {solution.sequential.sum()}")
    print(f"largest residual {solution.residual.max():.1e}, Lyapunov exponent {solution.lyapunov.max():.2f}")
    print(f"difference of the states    {largest_difference(list(solution.value), list(states)):.1e}")
    print(f"difference of the gradients {largest_difference(ours, theirs):.1e}")
    print(f"\n{'milliseconds':24}{'solved':>10}{'loop':>10}{'ratio':>8}")
    print(f"{'states':24}{forward:10.1f}{loop_forward:10.1f}{loop_forward / forward:8.1f}")
    print(f"{'states and gradients':24}{both:10.1f}{loop_both:10.1f}{loop_both / both:8.1f}")


if __name__ == "__main__":
    main()
