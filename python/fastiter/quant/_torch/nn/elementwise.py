"""Layers without a matrix whose inputs, parameters and outputs are rounded to the formats of a plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...._check import type_name
from .layers import QuantLayer
from .plan import QuantPlan, new_quantizer
from .quantizer import Quantizer


class QuantAffine(QuantLayer):
    """y = Q_output(Q_input(x) Q_weight(g) + Q_bias(b)): a factor and a shift for each feature of the last axis.

    Parameters
    ----------
    features : int
        The size of the last axis.
    bias : bool
        Whether there is a shift.
    device : torch.device, optional
        The device of the parameters ``weight`` (initially ones) and ``bias`` (initially zeros).
    dtype : torch.dtype, optional
        The dtype of the parameters.
    plan : QuantPlan
        By default nothing is rounded.

    Raises
    ------
    TypeError, ValueError
        If features is no positive int, or plan no QuantPlan.

    See Also
    --------
    QuantBatchNorm1d, QuantBatchNorm2d : With the statistics of a batch.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import QuantAffine, QuantPlan
    >>> QuantAffine(2, plan=QuantPlan(output="int8"))(torch.tensor([[0.4, 1.7]]))
    tensor([[0., 2.]], grad_fn=<RoundedBackward>)
    """

    __call__: Callable[..., Tensor]
    weight: Tensor
    bias: Tensor | None

    def __init__(
        self, features: int, bias: bool = True, device: Any = None, dtype: Any = None, *, plan: QuantPlan | None = None
    ) -> None:
        super().__init__()
        if isinstance(features, bool) or not isinstance(features, int):
            raise TypeError(f"QuantAffine: features must be an int, got {type_name(features)}")
        if features < 1:
            raise ValueError(f"QuantAffine: features must be positive, got {features}")
        self.features = features
        self.weight = nn.Parameter(torch.ones(features, device=device, dtype=dtype))
        zeros = nn.Parameter(torch.zeros(features, device=device, dtype=dtype)) if bias else None
        self.register_parameter("bias", zeros)
        self.set_plan(QuantPlan() if plan is None else plan)

    def forward(self, input: Tensor) -> Tensor:
        """Return the scaled and shifted input, rounded by the plan.

        Parameters
        ----------
        input : Tensor (..., features)
            The input.

        Returns
        -------
        Tensor (..., features)
            The rounded output.

        Raises
        ------
        ValueError
            If the size of the channels of input is not features.
        """
        if input.dim() == 0 or input.shape[-1] != self.features:
            expected = f"{self.features} features along the last axis"
            raise ValueError(f"QuantAffine: input must have {expected}, got shape {tuple(input.shape)}")
        y = self._rounded("input", input) * self._rounded("weight", self.weight)
        return self._finished(y if self.bias is None else y + self._rounded("bias", self.bias))

    def products(self, output: Tensor) -> dict[str, tuple[int, str]]:
        return {"weight": (int(output.numel()), "input")}

    def extra_repr(self) -> str:
        """Return the number of features."""
        return f"{self.features}, bias={self.bias is not None}"


class QuantAdd(QuantLayer):
    """y = Q_output(Q_input(a) + Q_input'(b)): the sum of a shortcut; each input has its own quantizer.

    Parameters
    ----------
    plan : QuantPlan
        ``input``, ``output`` and ``gradient``. By default nothing is rounded.

    See Also
    --------
    QuantLinear : Products with rounded factors.
    quantize_model : Leaves sums alone; put this layer in their place.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import QuantAdd, QuantPlan
    >>> QuantAdd(plan=QuantPlan(input="fixed<8,7,RND,SAT>"))(torch.tensor([0.4]), torch.tensor([1.7]))
    tensor([2.])
    """

    __call__: Callable[..., Tensor]
    other_quantizer: Quantizer | None
    rounds = ("input", "output")

    def __init__(self, *, plan: QuantPlan | None = None) -> None:
        super().__init__()
        self.set_plan(QuantPlan() if plan is None else plan)

    def set_plan(self, plan: QuantPlan) -> None:
        super().set_plan(plan)
        self._give("other_quantizer", new_quantizer(plan.input))

    def forward(self, input: Tensor, other: Tensor) -> Tensor:
        """Return the rounded sum.

        Parameters
        ----------
        input, other : Tensor
            Two tensors that broadcast together.

        Returns
        -------
        Tensor
            The sum, rounded by the plan.
        """
        return self._finished(self._rounded("input", input) + self._rounded("other", other))
