"""A wrong solver, corrected by refinement: that of -2 u'' = b for -(a u')' = b, where a is about 2."""

import numpy as np

from fastiter.fixedpoint import refine

n = 255
a = 2 + np.sin(2 * np.pi * (np.arange(n + 1) + 0.5) / (n + 1))  # between the points
laplacian = (2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)) * (n + 1) ** 2


def apply(u):
    return -np.diff(a * np.diff(np.pad(u, 1))) * (n + 1) ** 2


solution = refine(apply, lambda r: np.linalg.solve(2 * laplacian, r), np.ones(n), rtol=1e-8)
print(f"{solution.reason} after {solution.steps} corrections")
