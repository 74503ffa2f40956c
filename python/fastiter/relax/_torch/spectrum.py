"""The spectral radius of Jacobi's iteration matrix on a device: as relax._omega.spectrum, with the same start vectors.

Inner products stay on the device; the host reads them once every ten steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._omega import spectrum
from .._omega.auto import Choice, by_formula
from .._omega.spectrum import EVERY, Spectrum, mean_growth, of_radius, spectrum_of
from .cuda import OfRows
from .tensors import DTYPES


def power(apply: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Return the mean growth of x over the last half of the power iterations; synchronizes once."""
    norms, limit = [torch.linalg.vector_norm(x).to(torch.float64)], spectrum.MAX_PRODUCTS
    for _ in range(limit):
        x = apply(x / norms[-1].to(x.real.dtype))
        norms.append(torch.linalg.vector_norm(x).to(torch.float64))
    result = torch.stack(norms).tolist()
    ends = (k for k, norm in enumerate(result) if norm == 0 or not math.isfinite(norm))
    return mean_growth(result[1 : next(ends, limit) + 1])


def auto_choice(matrix: OfRows, dtype: torch.dtype, method: str) -> Choice:
    """Return the omega="auto" of "jacobi", or of coloured "sor" or "ssor", as relax._auto.choice_of."""
    if method == "ssor":
        return Choice(1.0, True)
    return by_formula(_spectrum_of_jacobi(matrix, dtype), method, False)


def _spectrum_of_jacobi(matrix: OfRows, dtype: torch.dtype) -> Spectrum:
    """Return the spectrum of I - D^-1 A, as relax._spectrum.jacobi_spectrum."""
    result = _lanczos(matrix, dtype) if _is_definite(matrix, dtype) else None
    if result is not None:
        return result
    inverse = matrix.inverse.to(dtype)
    rho = power(lambda x: x - inverse * _times(matrix, x), matrix.random(dtype, inverse.device))
    return of_radius(rho, _numpy_dtype(dtype))


def _numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    return np.dtype(DTYPES[dtype])


def _times(matrix: OfRows, x: Tensor) -> Tensor:
    return matrix.remainder(x, torch.zeros_like(x)).neg_()


def _dot(u: Tensor, v: Tensor) -> Tensor:
    return torch.vdot(u, v).real.to(torch.float64)


def _is_definite(matrix: OfRows, dtype: torch.dtype) -> bool:
    device = matrix.diagonal.device
    u, v = matrix.random(dtype, device), matrix.random(dtype, device, 1)
    Au, Av = _times(matrix, u), _times(matrix, v)
    wide = torch.promote_types(dtype, torch.float64)
    u, v, Au, Av = (x.to(wide) for x in (u, v, Au, Av))
    largest = torch.maximum(Au.abs().max(), Av.abs().max())
    Au, Av = (x / torch.where(largest > 0, largest, 1) for x in (Au, Av))
    scale = torch.linalg.vector_norm(u) * torch.linalg.vector_norm(Av) * torch.finfo(dtype).eps
    near = (torch.vdot(u, Av) - torch.vdot(Au, v)).abs() <= 10 * scale
    inverse = matrix.inverse
    is_positive = (inverse.real >= 0).all() & ((inverse.imag == 0).all() if inverse.is_complex() else True)
    return bool(near & is_positive)


def _lanczos(matrix: OfRows, dtype: torch.dtype) -> Spectrum | None:
    """Return the spectrum by the recurrence of relax._omega.spectrum.lanczos, which also keeps q = D v for each v."""
    inverse = matrix.inverse.to(dtype)
    positive = inverse.real > 0
    q = matrix.random(dtype, inverse.device) * torch.where(positive, inverse.real, 1).rsqrt()
    v, before = inverse * q, torch.zeros_like(q)
    limit, nothing = min(spectrum.MAX_PRODUCTS, matrix.rows), (10 * torch.finfo(dtype).eps) ** 2
    alphas: list[Tensor] = []
    squares, beta = [_dot(v, q)], torch.zeros((), dtype=torch.float64, device=q.device)
    result, real = Spectrum(0.0, 0.0, 0.0, True), v.real.dtype
    for step in range(1, limit + 1):
        scale = squares[-1].rsqrt().to(real)
        v, q = scale * v, scale * q
        p = _times(matrix, v)
        alphas.append(_dot(v, p))
        p -= alphas[-1].to(real) * q + beta.to(real) * before
        v, q, before = inverse * p, p, q
        squares.append(_dot(v, q))
        beta = squares[-1].clamp(min=0).sqrt()
        if step % EVERY and step != limit:
            continue
        known, of_step = torch.stack(alphas).tolist(), torch.stack(squares).tolist()
        for k in range((step - 1) // EVERY * EVERY + 1, step + 1):
            if not of_step[k - 1] > 0:
                return None
            is_done = abs(of_step[k]) < nothing or k == limit
            if k % EVERY == 0 or is_done:
                last, result = result, _of_steps(known[:k], of_step[1:k], dtype)
            if is_done or (k % EVERY == 0 and abs(result.high - last.high) <= 0.02 * abs(1 - result.high)):
                return result
    return result


def _of_steps(alphas: list[float], squares: list[float], dtype: torch.dtype) -> Spectrum:
    return spectrum_of(alphas, [math.sqrt(max(square, 0.0)) for square in squares], _numpy_dtype(dtype))
