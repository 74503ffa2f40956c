"""A lasso path: the coefficients for decreasing weights of the l1 norm, with a bound on their error."""

import numpy as np

from fastiter.bcd import lasso_path

rng = np.random.default_rng(0)
A = rng.standard_normal((100, 300))
b = A[:, :10] @ rng.standard_normal(10) + 0.5 * rng.standard_normal(100)

path = lasso_path(A, b)
for k in (0, 20, 40):
    print(f"l1 {path.l1[k]:8.2f}: {np.count_nonzero(path.value[k]):3} coefficients, gap {path.residual[k]:.1e}")
