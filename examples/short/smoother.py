"""The sweeps of fastiter.relax inside PyAMG's multigrid, by one import."""

import numpy as np
import pyamg

from fastiter.relax import compat as relaxation

A = pyamg.gallery.poisson((100, 100), format="csr")
b = np.random.default_rng(0).standard_normal(A.shape[0])
hierarchy = pyamg.ruge_stuben_solver(A)
for level in hierarchy.levels[:-1]:
    level.presmoother = lambda A, x, b: relaxation.gauss_seidel(A, x, b, sweep="forward")
    level.postsmoother = lambda A, x, b: relaxation.gauss_seidel(A, x, b, sweep="backward")
residuals: list[float] = []
x = hierarchy.solve(b, tol=1e-8, residuals=residuals)
print(f"{len(residuals) - 1} cycles, residual {residuals[-1] / residuals[0]:.1e}")
