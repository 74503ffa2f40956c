"""quantize_optimizer: rounds the states of an optimizer after each step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from ...._check import type_name
from ...._torch.ops import check_tensors
from ..._check import check_format
from ..._formats.base import Format
from ..arguments import FormatLike
from ..functional import quantize
from ..ops import FLOATS
from .format_quantizers import scale_by_default
from .plan import QuantPlan
from .quantizer import Rng, drawn_seed

Scaling: TypeAlias = Literal["amax"] | None


class OptimizerQuantizer:
    """Handle returned by :func:`quantize_optimizer`: the formats, and the counter of stochastic rounding.

    ``state_dict`` and ``load_state_dict`` let a run resumed from a checkpoint draw the same numbers; ``remove`` ends
    the rounding.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Its states are rounded after each step.
    formats : dict of str to Format
        By the names of states; "*" for all others.
    scale : "amax" or None
        As for :func:`quantize_optimizer`.
    seed : int
        A seed of 31 bits for stochastic rounding.

    See Also
    --------
    quantize_optimizer : The function that returns it.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import quantize_optimizer
    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    >>> rounding = quantize_optimizer(optimizer, "e4m3fn")
    >>> (0.3 * weight).sum().backward()
    >>> rounding.remove()  # the next step is not rounded
    >>> optimizer.step()
    >>> round(optimizer.state[weight]["momentum_buffer"].item(), 4)
    0.3
    """

    def __init__(self, optimizer: torch.optim.Optimizer, formats: dict[str, Format], scale: Scaling, seed: int):
        self.formats, self.scale, self.seed, self.count = formats, scale, seed, 0
        self._unknown = {name for name in formats if name != "*"}
        self._handle = optimizer.register_step_post_hook(self._after_step)

    def __repr__(self) -> str:
        """Show the formats."""
        texts = {name: str(fmt) for name, fmt in self.formats.items()}
        return f"OptimizerQuantizer({texts}, scale={self.scale!r}, seed={self.seed}, count={self.count})"

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                for name, value in optimizer.state.get(parameter, {}).items():
                    fmt = self.formats.get(name, self.formats.get("*"))
                    if fmt is not None and isinstance(value, Tensor) and value.dim() > 0 and value.is_floating_point():
                        self._round(name, value, fmt)
        if self._unknown:
            self._check_names(optimizer)

    def _check_names(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuse names that no state has, once every trained parameter has states."""
        learning = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        states = [optimizer.state.get(parameter, {}) for parameter in learning]
        states_by_name = {str(name): None for state in states for name in state}
        self._unknown -= states_by_name.keys()
        if states and all(states) and self._unknown:
            wrong, names = sorted(self._unknown)[0], ", ".join(map(repr, states_by_name))
            raise ValueError(f"quantize_optimizer: plan must have names of states, {names}, got {wrong!r}")

    def _round(self, name: str, value: Tensor, fmt: Format) -> None:
        rng = None
        if fmt.stochastic:
            rng = torch.tensor((self.seed << 32) + self.count, dtype=torch.int64, device="cpu")
            self.count += 1
        check_tensors("quantize_optimizer", (f"state {name!r}",), (value,), FLOATS)
        with torch.no_grad():
            value.copy_(quantize(value, fmt, scale=self.scale or scale_by_default(fmt), rng=rng, nan="keep"))

    def state_dict(self) -> dict[str, int]:
        """Return the seed, and the number of tensors rounded stochastically so far.

        Returns
        -------
        state : dict
            For :meth:`load_state_dict`.
        """
        return {"seed": self.seed, "count": self.count}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Resume from the result of :meth:`state_dict`.

        Parameters
        ----------
        state : mapping
            A result of :meth:`state_dict`.
        """
        self.seed, self.count = int(state["seed"]), int(state["count"])

    def remove(self) -> None:
        """Stop rounding the optimizer's states."""
        self._handle.remove()


def quantize_optimizer(
    optimizer: torch.optim.Optimizer,
    plan: QuantPlan | Mapping[str, FormatLike] | FormatLike,
    *,
    scale: Scaling = None,
    rng: Rng = None,
) -> OptimizerQuantizer:
    """Round the states of an optimizer to number formats after each of its steps.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Its steps are unchanged.
    plan : Format, str, dtype, QuantPlan, or mapping of str to Format, str or dtype
        One format for all states (for a plan: its ``optimizer``), or one for each name: "exp_avg", "exp_avg_sq" of
        Adam, "momentum_buffer" of SGD; "*" for all others. Scalar states, such as "step", are not rounded.
    scale : "amax", optional
        Scales each state so that its largest magnitude maps to the format's. Integers do so by default.
    rng : int or torch.Generator, optional
        For stochastic rounding: a seed of 31 bits, or a generator that draws one; by default torch's own.

    Returns
    -------
    rounding : OptimizerQuantizer
        ``remove()`` ends the rounding; ``state_dict()`` belongs in checkpoints if rounding is stochastic.

    Raises
    ------
    TypeError, ValueError
        For wrong arguments; for a name that no state has, at the first step after which all parameters have states.

    See Also
    --------
    quantize_model : Rounding in the layers of a model.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import quantize_optimizer
    >>> weight = torch.nn.Parameter(torch.ones(3))
    >>> optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    >>> rounding = quantize_optimizer(optimizer, "e4m3fn")
    >>> (weight * torch.tensor([0.3, 1.0, 2.1])).sum().backward()
    >>> optimizer.step()
    >>> optimizer.state[weight]["momentum_buffer"].tolist()
    [0.3125, 1.0, 2.0]
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"quantize_optimizer: optimizer must be a torch.optim.Optimizer, got {type_name(optimizer)}")
    if scale not in (None, "amax"):
        raise ValueError(f"quantize_optimizer: scale must be 'amax' or None, got {scale!r}")
    if isinstance(plan, QuantPlan):
        if plan.optimizer is None:
            raise ValueError("quantize_optimizer: plan must have a format for the optimizer, got None")
        plan = plan.optimizer
    plans = plan if isinstance(plan, Mapping) else {"*": plan}
    formats = {}
    for name, fmt in plans.items():
        if not isinstance(name, str):
            raise TypeError(f"quantize_optimizer: plan must have names that are str, got {type_name(name)}")
        formats[name] = check_format("quantize_optimizer", fmt)
    return OptimizerQuantizer(optimizer, formats, scale, drawn_seed("quantize_optimizer", rng))
