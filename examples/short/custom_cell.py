"""A cell of your own, solved for all steps at once: the same states as the loop."""

import torch

from fastiter.torch import solve_recurrence


def cell(h, x, p):
    return torch.tanh(p["decay"] * h + x) - p["leak"] * h


torch.manual_seed(0)
x = torch.randn(1, 1000, 16, dtype=torch.float64)  # batch, steps, units
p = {"decay": torch.rand(16, dtype=torch.float64), "leak": torch.full((16,), 0.1, dtype=torch.float64)}
solution = solve_recurrence(cell, x, p)
print(solution.method, solution.converged.all().item(), f"{int(solution.steps.max())} iterations")

h, states = torch.zeros(1, 16, dtype=torch.float64), []
for step in x.unbind(1):
    h = cell(h, step, p)
    states.append(h)
torch.testing.assert_close(solution.value, torch.stack(states, 1))
