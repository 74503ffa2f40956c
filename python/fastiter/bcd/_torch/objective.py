"""Functions of torch operations as problems: their penalties and bounds, and the equations of their solutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from ..._check import positive, type_name
from ..._torch.ops import FLOATS, check_tensors
from . import implicit
from .implicit import active_set
from .matrix import DEVICES

_NAME = "Objective"


class Objective:
    """f(x, *params) + sum_j l1_j |x_j| + l2_j x_j^2 / 2 with lower <= x <= upper, for a convex f of torch operations.

    Parameters
    ----------
    f : callable
        ``f(x, *params)`` returns a tensor of one number in the dtype of x, which is twice differentiable; it may be a
        module. It may be infinite or NaN outside its domain, where no step ends.
    *params : object
        Further arguments of f, unchanged. The solution is differentiable to any order in those that are tensors, and
        in the parameters of a module; once in other tensors that f reads.
    l1 : float or Tensor, optional
        Weights >= 0 of the magnitudes, the same for each coordinate or in the shape of x.
    l2 : float or Tensor, optional
        Weights >= 0 of x_j^2 / 2, the same for each coordinate or in the shape of x.
    lower : float or Tensor, optional
        Lower bounds, none by default.
    upper : float or Tensor, optional
        Upper bounds, none by default.

    Raises
    ------
    TypeError, ValueError
        If f is not callable; if a penalty or a bound is neither a number nor a tensor, or l1 is negative or not
        finite.

    See Also
    --------
    bcd : Solves it, differentiably.
    LeastSquares, Logistic, Softmax, Quadratic : Losses with compiled solvers.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.bcd import Objective, bcd
    >>> b = torch.tensor([3.0, -0.5], dtype=torch.float64)
    >>> def huber(x, b):
    ...     return torch.nn.functional.huber_loss(x, b, reduction="sum")
    >>> bcd(Objective(huber, b, l1=0.25), torch.zeros_like(b), rtol=1e-8).value.round(decimals=4)
    tensor([ 2.7500, -0.2500], dtype=torch.float64)
    """

    def __init__(
        self, f: Callable[..., Any], *params: Any, l1: Any = 0.0, l2: Any = 0.0, lower: Any = None, upper: Any = None
    ) -> None:
        if not callable(f):
            raise TypeError(f"{_NAME}: f must be a function of (x, *params), got {type_name(f)}")
        self._f, self._params = f, params
        self._parts = {"l1": l1, "l2": l2, "lower": lower, "upper": upper}
        for name, x in self._parts.items():
            if isinstance(x, Tensor) or (x is None and name in ("lower", "upper")):
                continue
            if isinstance(x, bool) or not isinstance(x, (int, float)):
                raise TypeError(f"{_NAME}: {name} must be a number or a tensor in the shape of x, got {type_name(x)}")
            if name in ("l1", "l2"):
                positive(_NAME, name, x)

    def __repr__(self) -> str:
        """Return one line, without tensors."""
        return f"{_NAME}({getattr(self._f, '__name__', type(self._f).__name__)})"


class Closure:
    """An objective as a function of the flattened x: its value, and the equations of a solution."""

    def __init__(self, objective: Objective, x0: Tensor) -> None:
        self._f, self._params, self.shape, self.dtype = objective._f, objective._params, x0.shape, x0.dtype
        self._module = {}
        if isinstance(self._f, torch.nn.Module):
            self._module = {name: x for name, x in self._f.named_parameters() if x.is_floating_point()}
        self._places = [i for i, x in enumerate(self._params) if isinstance(x, Tensor) and x.is_floating_point()]
        self.tensors = [*self._module.values(), *(self._params[i] for i in self._places)]
        self._tensor_parts = {name: x for name, x in objective._parts.items() if isinstance(x, Tensor)}
        self.tensors += [self._checked(name, x, x0) for name, x in self._tensor_parts.items()]
        defaults = {"lower": -torch.inf, "upper": torch.inf}
        for name, x in objective._parts.items():
            value = defaults[name] if x is None else x
            whole = value.detach() if isinstance(value, Tensor) else x0.new_tensor(value)
            setattr(self, name, whole.expand(self.shape).reshape(-1).clone())
        self._check_values()
        self._detached = [x.detach() for x in self.tensors]
        self._has_l2 = bool(self.l2.any())
        self.has_bounds = bool((self.lower.isfinite() | self.upper.isfinite()).any())

    l1: Tensor
    l2: Tensor
    lower: Tensor
    upper: Tensor

    def _checked(self, name: str, x: Tensor, x0: Tensor) -> Tensor:
        check_tensors(_NAME, ("x0", name), (x0, x), FLOATS, DEVICES)
        if x.shape not in ((), self.shape):
            raise ValueError(
                f"{_NAME}: {name} must be a number or have the shape {tuple(self.shape)} of x0, got {tuple(x.shape)}"
            )
        return x

    def _check_values(self) -> None:
        for name in ("l1", "l2"):
            x = getattr(self, name)
            wrong = x[~(x.isfinite() & (x >= 0))]
            if len(wrong):
                raise ValueError(f"{_NAME}: {name} must be finite and at least 0, got {wrong[0].item():g}")
        lower, upper = self.lower, self.upper
        wrong = torch.nonzero(~(lower <= upper) | (lower == torch.inf) | (upper == -torch.inf)).flatten()
        if len(wrong):
            got = f"{lower[wrong[0]].item():g} and {upper[wrong[0]].item():g}"
            raise ValueError(f"{_NAME}: lower must be at most upper, and neither NaN, got {got}")

    @property
    def is_smooth(self) -> bool:
        """Whether there is neither l1 nor a bound."""
        return not (self.has_bounds or bool(self.l1.any()))

    def smooth(self, x: Tensor) -> Tensor:
        """Return f(x) + sum l2 x^2 / 2 for flat x."""
        value = self._value(x, self._detached)
        return value + (self.l2 / 2 * x * x).sum() if self._has_l2 else value

    def rest(self, x: Tensor, chosen: Any = slice(None)) -> Tensor:
        """Return sum l1 |x| of some coordinates."""
        return (self.l1[chosen] * x.abs()).sum()

    def _value(self, x: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        own = dict(zip(self._module, tensors, strict=False))
        params = list(self._params)
        for i, tensor in zip(self._places, tensors[len(own) :], strict=False):
            params[i] = tensor
        args = (x.reshape(self.shape), *params)
        value = functional_call(self._f, own, args) if isinstance(self._f, torch.nn.Module) else self._f(*args)
        if not isinstance(value, Tensor) or value.dim() != 0 or value.dtype != self.dtype:
            got = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type_name(value)
            raise TypeError(f"{_NAME}: f must return a tensor of one number, {self.dtype} of shape (), got {got}")
        return value

    def solution(self, name: str, flat: Tensor, gradient: Tensor, tolerance: float) -> Tensor:
        """Return the solution, differentiable in the tensors, after a warning about ties."""
        if not torch.is_grad_enabled():
            return flat.reshape(self.shape)
        probe = self._value(flat.detach(), [x.detach() for x in self.tensors])
        if not probe.requires_grad and not any(x.requires_grad for x in self.tensors):
            return flat.reshape(self.shape)
        sides = active_set(flat, self.l1, self.lower, self.upper)
        margin = implicit.margins(flat, gradient, (self.l1, self.lower, self.upper), sides.free, 1.0)
        implicit.warn_of_ties(name, (margin <= tolerance).reshape(self.shape))
        at = torch.cat([sides.at_lower, sides.at_upper])

        def part(which: str, places: Tensor, tensors: Sequence[Tensor]) -> Tensor:
            if which not in self._tensor_parts:
                return getattr(self, which)[places]  # type: ignore[no-any-return]
            x = tensors[len(tensors) - len(self._tensor_parts) + list(self._tensor_parts).index(which)]
            return x.expand(self.shape).reshape(-1).index_select(0, places)

        def bounds(tensors: Sequence[Tensor]) -> Tensor:
            return torch.cat([part("lower", sides.at_lower, tensors), part("upper", sides.at_upper, tensors)])

        def slope(x: Tensor, tensors: Sequence[Tensor]) -> Tensor:
            with torch.enable_grad():
                whole = torch.zeros_like(flat).index_copy(0, sides.free, x).index_copy(0, at, bounds(tensors))
                whole = whole if whole.requires_grad else whole.detach().requires_grad_()
                (g,) = torch.autograd.grad(
                    self._value(whole, tensors), whole, create_graph=True, materialize_grads=True
                )
            l1, l2 = (part(which, sides.free, tensors) for which in ("l1", "l2"))
            return g.index_select(0, sides.free) + l2 * x + l1 * sides.signs

        equations = implicit.Problem(name, slope, len(flat), exact=False)
        x = implicit.attach(equations, flat[sides.free], self.tensors, probe.requires_grad)
        attached = torch.zeros_like(flat).index_copy(0, sides.free, x)
        return attached.index_copy(0, at, bounds(self.tensors)).reshape(self.shape)
