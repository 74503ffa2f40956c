"""Sizes and matrices that all modules of modern Hopfield networks return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Association:
    """Views of a module's association."""

    @property
    def _association(self) -> Any:
        raise NotImplementedError

    def _associate(self, input: Any, padding: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the retrieved values, their weights, and the values that they are retrieved from."""
        raise NotImplementedError

    @torch.no_grad()
    def get_association_matrix(
        self,
        input: Tensor | Sequence[Tensor],
        stored_pattern_padding_mask: Tensor | None = None,
        association_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the weights of the stored patterns for each query.

        Parameters
        ----------
        input, stored_pattern_padding_mask, association_mask : Tensor
            As for :meth:`forward`.

        Returns
        -------
        Tensor (B, H, L, S)
            Rows that sum to 1.
        """
        return self._associate(input, stored_pattern_padding_mask, association_mask)[1]

    @torch.no_grad()
    def get_projected_pattern_matrix(
        self,
        input: Tensor | Sequence[Tensor],
        stored_pattern_padding_mask: Tensor | None = None,
        association_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the values that are retrieved.

        Parameters
        ----------
        input, stored_pattern_padding_mask, association_mask : Tensor
            As for :meth:`forward`.

        Returns
        -------
        Tensor (B, H, S, pattern_size)
            The projected patterns.
        """
        return self._associate(input, stored_pattern_padding_mask, association_mask)[2]

    input_size = property(lambda self: self._association.sizes.state, doc="The width of the state patterns.")
    hidden_size = property(lambda self: self._association.sizes.head, doc="The width of a head.")
    output_size = property(lambda self: self._association.sizes.out, doc="The width of the output.")
    pattern_size = property(lambda self: self._association.sizes.value, doc="The width of a head's values.")
    update_steps_max = property(lambda self: self._association._updates.max_steps, doc="The maximum number of updates.")
    update_steps_eps = property(lambda self: self._association._updates.eps, doc="The change that ends updates.")
