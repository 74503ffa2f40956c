"""DEQ: a layer whose output is the fixed point of a module."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ...._check import type_name
from ..functional import check_solver, detached, fixed_point


class DEQ(nn.Module):
    """z = f(z, x): a deep equilibrium layer, the output of infinitely many layers f with the same weights.

    Memory and gradient do not depend on the number of steps, see :func:`fastiter.torch.fixedpoint.fixed_point`. In
    training mode, dropout inside f uses one mask for all steps of a call, as there would be no fixed point otherwise.

    Parameters
    ----------
    f : Module or callable
        The map ``f(z, *inputs) -> z``, which treats each row of the batch independently. The parameters of a module are
        those of the layer; second derivatives need a module, or all tensors with a gradient among the inputs. Under
        autocast, f must end with ``.to(z.dtype)``.
    **solver : object
        Options of :func:`fastiter.torch.fixedpoint.fixed_point`: method, rtol, atol, max_steps, grad, adjoint and
        others.

    Attributes
    ----------
    solution : FixedPointSolution or None
        The last call's solution without its gradient: steps, residuals and convergence of each sample.

    Raises
    ------
    TypeError, ValueError
        For an f that cannot be called, and for wrong options; for wrong inputs when the layer is called.

    See Also
    --------
    fastiter.torch.fixedpoint.fixed_point : The function.
    fastiter.torch.fixedpoint.jacobian_penalty : A regularisation that keeps f contracting.
    MonotoneDEQ : A layer that has a fixed point for all values of its parameters.

    References
    ----------
    S. Bai, J. Z. Kolter, V. Koltun, "Deep equilibrium models" (NeurIPS 2019).

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from fastiter.torch.nn import DEQ
    >>> class Cell(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.inner, self.outer = nn.Linear(8, 8), nn.Linear(8, 8)
    ...     def forward(self, z, x):
    ...         return torch.tanh(0.3 * self.inner(z) + self.outer(x))
    >>> layer, x = DEQ(Cell(), rtol=1e-5), torch.randn(4, 8)
    >>> z = layer(x)
    >>> z.shape, bool(layer.solution.converged.all()), torch.allclose(layer.f(z, x), z, atol=1e-4)
    (torch.Size([4, 8]), True, True)
    """

    def __init__(self, f: Callable[..., Any], **solver: Any) -> None:
        super().__init__()
        if not callable(f):
            raise TypeError(f"DEQ: f must be a module or a function of (z, *inputs), got {type_name(f)}")
        check_solver("DEQ", solver)
        self.f = f
        self.solver = solver
        self.solution: Any = None

    def extra_repr(self) -> str:
        """Return the options of the solver."""
        return ", ".join(f"{name}={value!r}" for name, value in self.solver.items())

    def forward(self, *inputs: Any, z0: Any = None) -> Any:
        """Return the fixed point of f for the inputs.

        Parameters
        ----------
        *inputs : object
            The arguments of f after the state: tensors, tuples, lists and dicts of tensors, and other values.
        z0 : Tensor (B, ...), or a tuple, list or dict of these, optional
            The initial state, by default zeros in the form of the first input.

        Returns
        -------
        Tensor, or tuple, list or dict of Tensor
            The fixed point, in the form of z0.

        Raises
        ------
        TypeError, ValueError
            For a wrong type or dtype; for a wrong shape or value.
        """
        if z0 is None:
            if not inputs:
                raise TypeError("DEQ: z0 must be given if f has no inputs, got None")
            z0 = pytree.tree_map_only(Tensor, torch.zeros_like, inputs[0])
            result = _from_zeros(partial(fixed_point, self.f, z0, *inputs, **self.solver), z0)
        else:
            result = fixed_point(self.f, z0, *inputs, **self.solver)
        self.solution = detached(result)
        return result.value


def _from_zeros(solve: Callable[[], Any], z0: Any) -> Any:
    """Return the solution; where f does not take zeros in the form of the first input, say so."""
    try:
        return solve()
    except (RuntimeError, ValueError) as error:
        if not re.search("shape|size|dimension|channels", str(error)):
            raise
        form = pytree.tree_map_only(Tensor, lambda x: tuple(x.shape), z0)
        raise ValueError(
            f"DEQ: z0 must be given if the state of f has not the shape of the first input, {form}, got None; {error}"
        ) from error
