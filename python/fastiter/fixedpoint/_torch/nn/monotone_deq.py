"""MonotoneDEQ: an equilibrium layer that has exactly one fixed point for all parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...._check import check_choice, count, positive
from ..._result import FixedPointSolution
from ..functional import check_solver, detached, fixed_point
from .circular import Frequencies, circular_conv
from .precision import without_autocast

SPLITTINGS = ("peaceman-rachford", "forward-backward")


class MonotoneDEQ(nn.Module):
    """z = relu(W z + U x + b) with W = (1 - m) I - A^T A + B - B^T, for which I - W is at least m I.

    Such a z exists and is unique for all A, B and m > 0, and operator splitting finds it: the Peaceman-Rachford
    iteration, whose linear systems share one inverse, or forward-backward steps z <- relu((1 - alpha) z + alpha (W z +
    U x + b)). The gradient is implicit, by the same iteration transposed, and has derivatives of any order. Under
    autocast, the layer computes in the dtype of the parameters.

    With ``kernel_size``, W is a convolution with circular padding, whose inverse is one matrix for each frequency.

    Parameters: `weight` (n, I) or (n, I, K, K), U; `bias` (n,), b; `weight_a` and `weight_b`, A and B, (n, n) or
    (n, n, K, K).

    Parameters
    ----------
    input_size : int
        Features I of the input, or its channels.
    hidden_size : int
        Features n of the output, or its channels.
    kernel_size : int, optional
        The odd size K of the kernels of a convolutional layer; None for a fully connected one.
    m : float
        The minimum monotonicity, in (0, 1]: the larger, the faster the solver converges, and the less expressive W is.
    splitting : {"peaceman-rachford", "forward-backward"}
        The iteration.
    alpha : float
        Its step size. Any alpha > 0 serves Peaceman-Rachford; forward-backward converges for alpha <= 2 m / L^2 with
        L = ||I - W||, often for much larger ones.
    device, dtype : object, optional
        The device and dtype of the parameters.
    **solver : object
        Options of :func:`fastiter.torch.fixedpoint.fixed_point`: method, rtol, atol, max_steps, adjoint and others.

    Attributes
    ----------
    solution : FixedPointSolution or None
        The last call's solution without its gradient. Its value is the state of the iteration: for Peaceman-Rachford u
        with z = relu(u).

    Raises
    ------
    TypeError, ValueError
        For an option of a wrong type or value.

    See Also
    --------
    DEQ : Any map, without a guarantee.
    fastiter.torch.experimental.MonotoneDBM : A Boltzmann machine with a monotone coupling.
    fastiter.torch.fixedpoint.monotonicity : An estimate of m for any map.

    References
    ----------
    E. Winston, J. Z. Kolter, "Monotone operator equilibrium networks" (NeurIPS 2020).

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import MonotoneDEQ
    >>> layer, x = MonotoneDEQ(6, 8), torch.randn(4, 6)
    >>> z = layer(x)
    >>> torch.allclose(z, torch.relu(z @ layer.W().T + x @ layer.weight.T + layer.bias), atol=1e-4)
    True
    >>> MonotoneDEQ(3, 8, kernel_size=3)(torch.randn(2, 3, 10, 10)).shape
    torch.Size([2, 8, 10, 10])
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        kernel_size: int | None = None,
        *,
        m: float = 0.1,
        splitting: Literal["peaceman-rachford", "forward-backward"] = "peaceman-rachford",
        alpha: float = 1.0,
        device: Any = None,
        dtype: Any = None,
        **solver: Any,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.input_size = count(name, "input_size", input_size, 1)
        self.hidden_size = count(name, "hidden_size", hidden_size, 1)
        self.kernel_size = None if kernel_size is None else odd(name, "kernel_size", kernel_size)
        self.m = share(name, "m", m)
        check_choice(name, "splitting", splitting, SPLITTINGS)
        self.splitting, self.alpha = splitting, positive(name, "alpha", alpha, zero=False)
        check_solver(name, solver)
        self.solver = solver
        self.solution: FixedPointSolution[Tensor] | None = None
        window = () if self.kernel_size is None else (self.kernel_size,) * 2
        options = {"device": device, "dtype": dtype}
        self.weight = nn.Parameter(torch.empty((hidden_size, input_size, *window), **options))
        self.bias = nn.Parameter(torch.empty(hidden_size, **options))
        self.weight_a = nn.Parameter(torch.empty((hidden_size, hidden_size, *window), **options))
        self.weight_b = nn.Parameter(torch.empty((hidden_size, hidden_size, *window), **options))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the weights ~ U(-1 / sqrt(fan in), 1 / sqrt(fan in)), with a bias of zeros."""
        for weight in (self.weight, self.weight_a, self.weight_b):
            bound = 1 / math.sqrt(weight[0].numel())
            weight.uniform_(-bound, bound)
        self.bias.zero_()

    def extra_repr(self) -> str:
        """Return the sizes and the splitting."""
        kernel = "" if self.kernel_size is None else f", kernel_size={self.kernel_size}"
        return f"{self.input_size}, {self.hidden_size}{kernel}, m={self.m}, splitting={self.splitting!r}"

    def W(self, size: tuple[int, int] | None = None) -> Tensor:
        """Return W.

        Parameters
        ----------
        size : (int, int), optional
            Height and width of the images of a convolutional layer.

        Returns
        -------
        Tensor (n, n)
            W; for a convolutional layer complex (H, W / 2 + 1, n, n), one matrix for each frequency of
            torch.fft.rfft2.

        Raises
        ------
        ValueError
            If a convolutional layer is given no size, or one below the kernel's.
        """
        a: Tensor
        b: Tensor
        if self.kernel_size is None:
            a, b = self.weight_a, self.weight_b
        elif size is None or min(size) < self.kernel_size:
            raise ValueError(f"MonotoneDEQ.W: size must be at least the kernel's, {self.kernel_size}, got {size}")
        else:
            a, b = (Frequencies.of_kernel(kernel, size).matrices for kernel in (self.weight_a, self.weight_b))
        eye = torch.eye(self.hidden_size, dtype=a.dtype, device=a.device)
        return (1 - self.m) * eye - a.mH @ a + b - b.mH

    @without_autocast
    def forward(self, x: Tensor, z0: Tensor | FixedPointSolution[Tensor] | None = None) -> Tensor:
        """Return z for the input.

        Parameters
        ----------
        x : Tensor (B, I), or (B, I, H, W)
            The input, in the dtype of the parameters.
        z0 : Tensor or FixedPointSolution, optional
            The initial iterate in the shape of the result, such as ``solution``; by default zeros.

        Returns
        -------
        Tensor (B, n), or (B, n, H, W)
            The fixed point.

        Raises
        ------
        TypeError, ValueError
            For a wrong dtype or shape.
        """
        self._check(x)
        if self.kernel_size is None:
            right, size = F.linear(x, self.weight, self.bias), None
        else:
            right = circular_conv(x, self.weight) + self.bias.view(-1, 1, 1)
            size = (x.shape[2], x.shape[3])
        first = z0.value if isinstance(z0, FixedPointSolution) else z0
        if isinstance(first, Tensor) and first.shape != right.shape:
            raise ValueError(f"MonotoneDEQ: z0 must have shape {tuple(right.shape)}, got {tuple(first.shape)}")
        start = torch.zeros_like(right) if z0 is None else z0
        matrix, alpha = self.W(size), self.alpha
        if self.splitting == "forward-backward":
            result = fixed_point(_forward_backward, start, matrix, right, alpha, size, **self.solver)
            z = result.value
        else:
            eye = torch.eye(self.hidden_size, dtype=matrix.dtype, device=matrix.device)
            inverse = torch.linalg.inv(eye + alpha * (eye - matrix))
            result = fixed_point(_peaceman_rachford, start, inverse, right, alpha, size, **self.solver)
            z = torch.relu(result.value)
        self.solution = detached(result)
        return z

    def _check(self, x: Any) -> None:
        shape = "(B, I)" if self.kernel_size is None else "(B, I, H, W)"
        if not isinstance(x, Tensor) or x.dtype != self.weight.dtype:
            got = x.dtype if isinstance(x, Tensor) else type(x).__qualname__
            raise TypeError(f"MonotoneDEQ: x must be a torch.Tensor of dtype {self.weight.dtype}, got {got}")
        if x.dim() != self.weight.dim() or x.shape[1] != self.input_size:
            expected = f"{shape} with I = {self.input_size}"
            raise ValueError(f"MonotoneDEQ: x must have shape {expected}, got {tuple(x.shape)}")
        if self.kernel_size is not None and min(x.shape[2:]) < self.kernel_size:
            raise ValueError(
                f"MonotoneDEQ: x must be at least as large as the kernel, {self.kernel_size}, got {tuple(x.shape)}"
            )


def odd(name: str, argument: str, value: object) -> int:
    """Return an odd size; refuse any other."""
    size = count(name, argument, value, 1)
    if size % 2 == 0:
        raise ValueError(f"{name}: {argument} must be odd, got {size}")
    return size


def share(name: str, argument: str, value: object) -> float:
    """Return a number in (0, 1]; refuse any other."""
    number = positive(name, argument, value, zero=False)
    if number > 1:
        raise ValueError(f"{name}: {argument} must be at most 1, got {value}")
    return number


def _times(matrix: Tensor, z: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Return the matrix times the features of z (B, n), or its convolution with z (B, n, H, W)."""
    return F.linear(z, matrix) if size is None else Frequencies(matrix, size).apply(z)


def _forward_backward(z: Tensor, matrix: Tensor, right: Tensor, alpha: float, size: tuple[int, int] | None) -> Tensor:
    return torch.relu((1 - alpha) * z + alpha * (_times(matrix, z, size) + right))


def _peaceman_rachford(u: Tensor, inverse: Tensor, right: Tensor, alpha: float, size: tuple[int, int] | None) -> Tensor:
    half = 2 * torch.relu(u) - u
    return 2 * _times(inverse, half + alpha * right, size) - half
