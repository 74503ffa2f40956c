"""A Poisson problem by over-relaxation and by conjugate gradients."""

import numpy as np
import scipy.sparse

from fastiter import relax

m = 127  # points along one axis
line, eye = scipy.sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(m, m)), scipy.sparse.eye_array(m)
A = (scipy.sparse.kron(line, eye) + scipy.sparse.kron(eye, line)).tocsr()
b = np.ones(m * m)

omega = 2 / (1 + np.sin(np.pi / (m + 1)))  # the best one for this matrix
by_sor = relax.Relaxation(A, "sor", omega=omega, order="color").solve(b, rtol=1e-8, max_steps=2000)
by_cg = relax.ssor_cg(A, b, omega="auto", rtol=1e-8)
for name, solution in {"SOR": by_sor, "SSOR-CG": by_cg}.items():
    off = np.linalg.norm(b - A @ solution.value) / np.linalg.norm(b)
    print(f"{name}: {solution.reason} after {solution.steps} steps, residual {off:.1e}")
