"""MonotoneDBM: the mean field of a Boltzmann machine with a monotone coupling, for which it exists and is unique."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...._call.iterate import Limits
from ...._check import check_choice
from ..._problem import Stopping
from ..._result import FixedPointSolution
from ..functional import Solver, check_solver, detached, fixed_point, with_gradient
from ..layout import Layout, checked_state
from ..prox_norms import prox_softmax_entropy
from ..space import solve_tensors
from .coupling import Coupling
from .coupling_check import checked_features, checked_observed, checked_tiers, linked_maps
from .monotone_deq import SPLITTINGS, odd, share
from .precision import without_autocast

_NAME = "MonotoneDBM"
#: Products of the power iteration that estimates ||I - W||
_POWERS = 12


class MonotoneDBM(nn.Module):
    """q = softmax(W q + b) over the states of each variable: the mean field of a deep Boltzmann machine.

    The coupling W = S (blkdiag(A^T A) - A^T A) S is symmetric and couples no variable with itself. A scale S for each
    variable keeps the norms of the diagonal blocks of S A^T A S at most 1 - m, so that I - W is at least m I: the mean
    field exists, is unique, and depends smoothly on the parameters. A links each tier of variables with the next one,
    by matrices or, between images, by convolutions with circular padding.

    Any of the variables may be observed: they keep their distributions, and the mean field of the others is found. The
    gradient is implicit, with derivatives of any order. Under autocast, the layer computes in the dtype of the
    parameters.

    Parameters: `bias`, b of each tier; `lower` and `upper`, the rows of A that act on tier i and on tier i + 1.

    Parameters
    ----------
    tiers : sequence of (groups, states) or (groups, states, H, W)
        Variables of each tier and their states; for a tier with an image, these are the variables at each of its H W
        pixels. Sizes of consecutive images must be multiples of each other.
    kernel_size : int
        The odd size of the kernels between images.
    features : sequence of int, optional
        The rows of A for each pair of tiers, or channels of rows; by default the states of the pair's second tier.
    m : float
        The least monotonicity, in (0, 1].
    splitting : {"forward-backward", "peaceman-rachford"}
        The iteration: q <- prox((1 - alpha) q + alpha (W q + b)), with the proximal operator of alpha times the
        entropy less half the squared norm, or Peaceman-Rachford, whose linear systems are solved by conjugate
        gradients.
    alpha : float, optional
        The step size, in (0, 1]. The default for forward-backward is 1.8 / (||I - W|| + m), at most 1, with an estimate
        of the norm; it converges below 2 / ||I - W||. The default for Peaceman-Rachford, which converges with any step,
        is 1 / 2.
    device, dtype : object, optional
        The device and dtype of the parameters.
    **solver : object
        Options of :func:`fastiter.torch.fixedpoint.fixed_point`: method, rtol, atol, max_steps, adjoint and others. The
        method is that of forward-backward steps and of adjoint equations.

    Attributes
    ----------
    solution : FixedPointSolution or None
        The last call's solution without its gradient.

    Raises
    ------
    TypeError, ValueError
        For an option of a wrong type or value.

    See Also
    --------
    fastiter.torch.nn.MonotoneDEQ : A monotone layer of real numbers.
    fastiter.torch.fixedpoint.fixed_point : The solver.

    References
    ----------
    Z. Feng, E. Winston, J. Z. Kolter, "Monotone deep Boltzmann machines" (TMLR 2023).

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.experimental import MonotoneDBM
    >>> _ = torch.manual_seed(0)
    >>> machine = MonotoneDBM([(16, 4), (8, 2), (1, 10)])  # 16 pixels of 4 values, 8 latent bits, a label
    >>> pixels = torch.eye(4)[torch.randint(4, (5, 16))]
    >>> seen = torch.arange(16).expand(5, 16) < 8  # the first half of the pixels
    >>> q = machine([pixels, None, None], [seen, None, None])
    >>> [tuple(each.shape) for each in q]
    [(5, 16, 4), (5, 8, 2), (5, 1, 10)]
    >>> torch.equal(q[0][:, :8], pixels[:, :8]), torch.allclose(q[2].sum(-1), torch.ones(5, 1))
    (True, True)
    """

    __call__: Callable[..., tuple[Tensor, ...]]

    def __init__(
        self,
        tiers: Sequence[Sequence[int]],
        kernel_size: int = 3,
        features: Sequence[int] | None = None,
        *,
        m: float = 0.1,
        splitting: Literal["forward-backward", "peaceman-rachford"] = "forward-backward",
        alpha: float | None = None,
        device: Any = None,
        dtype: Any = None,
        **solver: Any,
    ) -> None:
        super().__init__()
        self.m = share(_NAME, "m", m)
        self.kernel_size = odd(_NAME, "kernel_size", kernel_size)
        check_choice(_NAME, "splitting", splitting, SPLITTINGS)
        self.splitting, self.alpha = splitting, None if alpha is None else share(_NAME, "alpha", alpha)
        check_solver(_NAME, solver)
        self.solver = solver
        self.solution: FixedPointSolution[Tensor] | None = None
        self.tiers = checked_tiers(_NAME, tiers, self.kernel_size)
        rows = checked_features(_NAME, features, self.tiers)
        options = {"device": device, "dtype": dtype}
        lower, upper = [], []
        self.lower, self.upper = nn.ParameterList(), nn.ParameterList()
        for i, number in enumerate(rows):
            one, other = linked_maps(self.tiers, i)
            lower.append(one)
            self.lower.append(nn.Parameter(torch.empty(one.weight_shape(number, self.kernel_size), **options)))
            if other is not None:
                upper.append(other)
                self.upper.append(nn.Parameter(torch.empty(other.weight_shape(number, self.kernel_size), **options)))
        self.bias = nn.ParameterList([nn.Parameter(torch.empty(tier.shape, **options)) for tier in self.tiers])
        self.coupling = Coupling(self.tiers, tuple(lower), tuple(upper))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the rows of A ~ U(-1 / sqrt(fan in), 1 / sqrt(fan in)), with biases of zeros."""
        for weight in (*self.lower, *self.upper):
            bound = 1 / math.sqrt(weight[0].numel())
            weight.uniform_(-bound, bound)
        for bias in self.bias:
            bias.zero_()

    def extra_repr(self) -> str:
        """Return the tiers and the splitting."""
        shapes = [tier.shape for tier in self.tiers]
        return f"{shapes}, kernel_size={self.kernel_size}, m={self.m}, splitting={self.splitting!r}"

    def weights(self) -> dict[str, Any]:
        """Return the coupling's weights, with the scales and diagonal blocks that they imply.

        Returns
        -------
        dict
            ``lower`` and ``upper``, the rows of A; ``scales``, S of each tier; ``blocks``, its diagonal blocks of
            S A^T A S.
        """
        lower, upper = list(self.lower), list(self.upper)
        scales, blocks = self.coupling.scaled(lower, upper, self.m)
        return {"lower": lower, "upper": upper, "scales": scales, "blocks": blocks}

    def couple(self, q: Sequence[Tensor]) -> list[Tensor]:
        """Return W q.

        Parameters
        ----------
        q : sequence of Tensor
            A tensor (B, *tier) for each tier.

        Returns
        -------
        list of Tensor
            W q, in the shapes of q.
        """
        return self.coupling.apply(self.weights(), q)

    @without_autocast
    def forward(
        self, observed: Sequence[Tensor | None], mask: Sequence[Tensor | None] | None = None
    ) -> tuple[Tensor, ...]:
        """Return the mean field of all variables.

        Parameters
        ----------
        observed : sequence of Tensor or None
            For each tier the distributions (B, groups, states, ...) of its observed variables, None if there are none;
            at least one must be given, as it sets the batch.
        mask : sequence of Tensor or None, optional
            For each tier bool (B, groups, ...), True for observed variables; where None, a tier with distributions is
            observed as a whole.

        Returns
        -------
        tuple of Tensor
            The distributions of each tier; observed ones are unchanged.

        Raises
        ------
        TypeError, ValueError
            For a wrong type or dtype; for a wrong shape.
        """
        values = checked_observed(_NAME, self.tiers, observed, mask, self.bias[0])
        weights, bias = self.weights(), list(self.bias)
        visible, known = [one for one, _ in values], [one for _, one in values]
        start = tuple(
            torch.where(k, x, torch.full_like(x, 1 / tier.states))
            for x, k, tier in zip(visible, known, self.tiers, strict=True)
        )
        with torch.no_grad():
            step = min(1.0, 1.8 / (self._norm(weights) + self.m))
        if self.splitting == "forward-backward":
            step = step if self.alpha is None else self.alpha
            result = fixed_point(
                partial(_forward_backward, self.coupling, step), start, weights, bias, visible, known, **self.solver
            )
        else:
            alpha = 0.5 if self.alpha is None else self.alpha
            rule = partial(_forward_backward, self.coupling, step)
            value, result = self._peaceman_rachford(start, weights, bias, (visible, known), alpha)
            adjoint = self._solver("anderson").changed(_NAME, self.solver.get("adjoint"))
            result = with_gradient(rule, result, value, (weights, bias, visible, known), adjoint)
        self.solution = detached(result)
        return tuple(result.value)

    def _solver(self, method: str) -> Solver:
        """Return the solver of a method with this module's tolerances, and with its options if it is its own method."""
        options = {name: x for name, x in self.solver.items() if name not in ("adjoint", "method")}
        limits = Limits(callback=options.pop("callback", None))
        stopping = Stopping(limits).changed(options).checked(_NAME)
        return Solver(stopping, method, options if self.solver.get("method", "anderson") == method else {})

    @torch.no_grad()
    def _norm(self, weights: dict[str, Any]) -> float:
        """Return an estimate of ||I - W||."""
        generator = torch.Generator().manual_seed(0)  # reproducible, and leaves torch's random state unchanged
        like = self.bias[0]
        z = [
            torch.randn((1, *tier.shape), generator=generator, dtype=like.dtype).to(like.device) for tier in self.tiers
        ]
        norm = 1.0
        for _ in range(_POWERS):
            size = math.sqrt(sum(float(x.square().sum()) for x in z))
            z = [x / size for x in z]
            z = [x - y for x, y in zip(z, self.coupling.apply(weights, z), strict=True)]
            norm = math.sqrt(sum(float(x.square().sum()) for x in z))
        return norm

    @torch.no_grad()
    def _peaceman_rachford(
        self,
        start: tuple[Tensor, ...],
        weights: dict[str, Any],
        bias: list[Tensor],
        values: tuple[list[Tensor], list[Tensor]],
        alpha: float,
    ) -> tuple[tuple[Tensor, ...], Any]:
        """Return the mean field and the solution for the state u of the iteration, q = prox(u)."""
        flat, layout = checked_state(_NAME, start)
        system = _System(self.coupling, weights, values, alpha)
        right, free = system.right(bias), system.free(layout)
        near = [flat]

        def step(u: Tensor) -> Tensor:
            half = 2 * layout.pack(system.prox(layout.unpack(u))) - u
            near[0] = system.solve(layout, half + alpha * layout.pack(right), near[0])
            return torch.where(free, 2 * near[0] - half, flat)

        picard = self._solver("picard")
        result = solve_tensors(_NAME, step, flat, picard.stopping, picard.method, compact=False)
        return tuple(system.prox(layout.unpack(result.value))), result


def _forward_backward(
    coupling: Coupling,
    alpha: float,
    q: Sequence[Tensor],
    weights: dict[str, Any],
    bias: Sequence[Tensor],
    visible: Sequence[Tensor],
    known: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    result = []
    for x, w, b, fixed, mask in zip(q, coupling.apply(weights, q), bias, visible, known, strict=True):
        p = prox_softmax_entropy((1 - alpha) * x + alpha * (w + b), alpha, axis=2)
        result.append(torch.where(mask, fixed, p))
    return tuple(result)


class _System:
    """The resolvents of Peaceman-Rachford on the variables that are not observed."""

    def __init__(
        self, coupling: Coupling, weights: dict[str, Any], values: tuple[list[Tensor], list[Tensor]], alpha: float
    ) -> None:
        self._coupling, self._weights, self._alpha = coupling, weights, alpha
        self._values, self._known = values

    def prox(self, u: Sequence[Tensor]) -> list[Tensor]:
        """Return the resolvent of the entropy, which keeps observed variables."""
        result = (prox_softmax_entropy(x, self._alpha, axis=2) for x in u)
        return [torch.where(k, s, p) for k, s, p in zip(self._known, self._values, result, strict=True)]

    def free(self, layout: Layout) -> Tensor:
        """Return the mask of the entries of a flat state that are not observed."""
        return ~layout.pack([k.expand_as(s) for k, s in zip(self._known, self._values, strict=True)])

    def right(self, bias: Sequence[Tensor]) -> list[Tensor]:
        """Return b, plus the influence of observed variables on the others."""
        clamped = [torch.where(k, s, torch.zeros_like(s)) for k, s in zip(self._known, self._values, strict=True)]
        return [w + b for w, b in zip(self._coupling.apply(self._weights, clamped), bias, strict=True)]

    def solve(self, layout: Layout, right: Tensor, near: Tensor) -> Tensor:
        """Return the solution of (I + alpha (I - W)) z = right among free entries, by conjugate gradients."""
        free = self.free(layout)

        def product(z: Tensor) -> Tensor:
            coupled = layout.pack(self._coupling.apply(self._weights, layout.unpack(z)))
            return torch.where(free, (1 + self._alpha) * z - self._alpha * coupled, 0)

        inner = torch.where(free, right, 0)
        z = torch.where(free, near, 0)
        r = inner - product(z)
        p, size = r, r.square().sum(1, keepdim=True)
        goal = (torch.finfo(r.dtype).eps * 4) ** 2 * inner.square().sum(1, keepdim=True)
        for _ in range(r.shape[1]):
            if bool((size <= goal).all()):
                break
            q = product(p)
            step = size / (p * q).sum(1, keepdim=True).clamp_min(torch.finfo(r.dtype).tiny)
            z, r = z + step * p, r - step * q
            size, before = r.square().sum(1, keepdim=True), size
            p = r + size / before.clamp_min(torch.finfo(r.dtype).tiny) * p
        return z
