"""Hopfield layers with learned patterns: pooling by learned states, lookup in learned stored patterns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...._check import check_flag, count
from .hopfield import Hopfield
from .hopfield_checks import parts_of
from .hopfield_views import Association

#: Arguments after input_size that have the same positions in all modules of hopfield-layers
_SHARED = 7


def _rest(name: str, more: tuple[Any, ...], options: dict[str, Any]) -> dict[str, Any]:
    """Return the options; refuse positional arguments beyond those with the same positions."""
    if len(more) > _SHARED:
        raise TypeError(f"{name}: arguments after update_steps_eps must be given by name, got {1 + len(more)} without")
    return options


class _Learned(Association, nn.Module):
    """A Hopfield layer some of whose patterns are parameters."""

    hopfield: Hopfield

    def __init__(self, hopfield: Hopfield, quantity: int) -> None:
        super().__init__()
        self.hopfield = hopfield
        self._quantity = count(type(self).__name__, "quantity", quantity, 1)

    def _weights(self, width: int | None, trainable: bool) -> nn.Parameter:
        """Return patterns for all rows of a batch, (1, quantity, width), or with the first two axes swapped."""
        if width is None:
            raise ValueError(f"{type(self).__name__}: input_size must be given, got None")
        shape = (1, self._quantity) if self.batch_first else (self._quantity, 1)
        return nn.Parameter(torch.empty(*shape, width), requires_grad=trainable)

    def reset_parameters(self) -> None:
        """Initialize the learned patterns ~ N(0, 0.02^2), and the association."""
        self.hopfield.reset_parameters()
        self._reset_patterns()

    @torch.no_grad()
    def _reset_patterns(self) -> None:
        for weights in self.parameters(recurse=False):
            nn.init.normal_(weights, std=0.02)

    def _patterns(self, input: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return stored patterns, states and pattern projections."""
        raise NotImplementedError

    def _associate(self, input: Any, padding: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        return self.hopfield._associate(self._patterns(input), padding, mask)

    @property
    def _association(self) -> Hopfield:
        return self.hopfield

    @property
    def batch_first(self) -> bool:
        """Whether batches are (B, L, .)."""
        return self.hopfield.batch_first

    @property
    def quantity(self) -> int:
        """The number of learned patterns."""
        return self._quantity

    @property
    def scaling(self) -> float | Tensor:
        """The beta of all heads, or a copy of the tensor of each head's."""
        return self.hopfield.scaling


class HopfieldPooling(_Learned):
    """Z = softmax(beta Q (Y W_K)^T) Y W_V with learned states: pool a set of patterns Y into `quantity` vectors.

    The constructor's arguments and the state_dict are those of hopfield-layers; :class:`Hopfield` says where the
    results differ.

    Parameters
    ----------
    input_size : int
        Width of the patterns.
    *more
        Up to update_steps_eps, the arguments of :class:`Hopfield` in its order.
    quantity : int
        The number of learned states.
    trainable : bool
        The states are trained.
    **options
        The other arguments of :class:`Hopfield`.

    Raises
    ------
    TypeError, ValueError
        For an option of a wrong type or value.

    See Also
    --------
    Hopfield : The association, and its options.
    HopfieldLayer : With learned stored patterns.

    References
    ----------
    Ramsauer et al., Hopfield networks is all you need, 2021.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import HopfieldPooling
    >>> pool = HopfieldPooling(input_size=16, num_heads=4, quantity=2, output_size=8)
    >>> pool(torch.randn(3, 10, 16)).shape
    torch.Size([3, 16])
    """

    __call__: Callable[..., Tensor]

    def __init__(self, input_size: int, *more: Any, quantity: int = 1, trainable: bool = True, **options: Any) -> None:
        check_flag("HopfieldPooling", "trainable", trainable)
        super().__init__(Hopfield(input_size, *more[:_SHARED], **_rest(type(self).__name__, more, options)), quantity)
        is_static = self.hopfield.association_core.static.state
        width = self.hopfield.hidden_size if is_static else self.hopfield.input_size
        self.pooling_weights = self._weights(input_size if width is None else width, trainable)
        self._reset_patterns()

    def _patterns(self, input: Any) -> tuple[Tensor, Tensor, Tensor]:
        stored, projection = parts_of("HopfieldPooling", input, 2, "a tensor or (stored, projection)")
        if stored.dim() != 3:
            raise ValueError(f"HopfieldPooling: input must have three axes, got shape {tuple(stored.shape)}")
        batch = stored.shape[0 if self.batch_first else 1]
        shape = (batch, -1, -1) if self.batch_first else (-1, batch, -1)
        return stored, self.pooling_weights.expand(shape), projection

    def forward(
        self,
        input: Tensor | Sequence[Tensor],
        stored_pattern_padding_mask: Tensor | None = None,
        association_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the pooled patterns, (B, quantity output_size).

        Parameters
        ----------
        input : Tensor (B, S, .), or two of them
            The stored patterns, and those projected to values.
        stored_pattern_padding_mask : bool Tensor (B, S), optional
            True where a pattern is not retrieved.
        association_mask : Tensor (quantity, S) or (B H, quantity, S), optional
            Likewise for each state; floats are added to the products.

        Returns
        -------
        Tensor (B, quantity output_size)
            The pooled patterns.
        """
        z = self.hopfield(self._patterns(input), stored_pattern_padding_mask, association_mask)
        z = z if self.batch_first else z.transpose(0, 1)
        return z.flatten(1)  # type: ignore[no-any-return]


class HopfieldLayer(_Learned):
    """Z = softmax(beta R W_Q (Y W_K)^T) Y W_V with learned stored patterns Y: look patterns R up in a learned memory.

    The constructor's arguments and the state_dict are those of hopfield-layers; :class:`Hopfield` says where the
    results differ. The stored patterns are projected once for all rows of a batch.

    Parameters
    ----------
    input_size : int
        Width of the patterns that are looked up.
    *more
        Up to update_steps_eps, the arguments of :class:`Hopfield` in its order.
    quantity : int
        The number of stored patterns.
    trainable : bool
        The stored patterns are trained.
    lookup_weights_as_separated : bool
        The patterns that are projected to values are other parameters, not the stored patterns.
    lookup_targets_as_trainable : bool
        These are trained.
    **options
        The other arguments of :class:`Hopfield`.

    Raises
    ------
    TypeError, ValueError
        For an option of a wrong type or value.

    See Also
    --------
    Hopfield : The association, and its options.
    HopfieldPooling : With learned state patterns.

    References
    ----------
    Ramsauer et al., Hopfield networks is all you need, 2021.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import HopfieldLayer
    >>> lookup = HopfieldLayer(input_size=16, quantity=30)
    >>> lookup(torch.randn(3, 10, 16)).shape
    torch.Size([3, 10, 16])
    """

    __call__: Callable[..., Tensor]
    target_weights: nn.Parameter | None

    def __init__(
        self,
        input_size: int,
        *more: Any,
        quantity: int = 1,
        trainable: bool = True,
        lookup_weights_as_separated: bool = False,
        lookup_targets_as_trainable: bool = True,
        **options: Any,
    ) -> None:
        flags = (("trainable", trainable), ("lookup_weights_as_separated", lookup_weights_as_separated))
        for name, value in (*flags, ("lookup_targets_as_trainable", lookup_targets_as_trainable)):
            check_flag("HopfieldLayer", name, value)
        super().__init__(Hopfield(input_size, *more[:_SHARED], **_rest(type(self).__name__, more, options)), quantity)
        is_static = self.hopfield.association_core.static.stored
        width = self.hopfield.hidden_size if is_static else self.hopfield.stored_pattern_dim
        width = input_size if width is None else width
        self.lookup_weights = self._weights(width, trainable)
        if lookup_weights_as_separated:
            values = options.get("pattern_projection_size")
            self.target_weights = self._weights(width if values is None else values, lookup_targets_as_trainable)
        else:
            self.register_parameter("target_weights", None)
        self._reset_patterns()

    def _patterns(self, input: Any) -> tuple[Tensor, Tensor, Tensor]:
        targets = self.lookup_weights if self.target_weights is None else self.target_weights
        return self.lookup_weights, input, targets

    def forward(
        self,
        input: Tensor,
        stored_pattern_padding_mask: Tensor | None = None,
        association_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the values that each pattern retrieves, (B, L, output_size).

        Parameters
        ----------
        input : Tensor (B, L, .)
            The patterns that are looked up.
        stored_pattern_padding_mask : bool Tensor (B, quantity), optional
            True where a stored pattern is not retrieved.
        association_mask : Tensor (L, quantity) or (B H, L, quantity), optional
            Likewise for each query; floats are added to the products.

        Returns
        -------
        Tensor (B, L, output_size)
            The retrieved values.
        """
        return self.hopfield(self._patterns(input), stored_pattern_padding_mask, association_mask)  # type: ignore[no-any-return]
