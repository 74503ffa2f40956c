"""A smooth path near a shaky one, as a fixed point, by plain iteration and by Anderson's method."""

import numpy as np

from fastiter.fixedpoint import fixed_point

steps = 0.5 + np.random.default_rng(0).normal(size=(200, 2))
recorded = np.cumsum(steps, axis=0)
weights = np.exp(-(np.arange(-15, 16) ** 2) / 50.0)
weights[15] = 0  # a frame is not its own neighbour
total = np.convolve(np.ones(200), weights, mode="same")[:, None]


def smoother(path):
    around = np.stack([np.convolve(path[:, k], weights, mode="same") for k in (0, 1)], axis=1)
    return (recorded + 10 * around) / (1 + 10 * total)


for method in ("picard", "anderson"):
    solution = fixed_point(smoother, recorded, method=method, batched=False, max_steps=20_000)
    print(f"{method:10}{solution.reason} after {solution.evaluations} evaluations")
