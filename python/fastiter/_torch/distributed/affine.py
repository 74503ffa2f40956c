"""The affine maps S -> M S + c of a shard of steps, and their composition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .in_place import Optional


class Affine(NamedTuple):
    """The form of the maps S -> M S + c of a family.

    Attributes
    ----------
    transition : callable
        Returns M of the shard, (rows, ...), from the tensors of the call.
    is_open : Tensor (rows,) of bool
        Whether the final state depends on the initial one, because no step resets it. Otherwise M is not used.
    kind : {"numbers", "rows", "vector", "parts", "matrix"}
        M has a factor for each element of the state ("numbers") or for each of its rows, (..., K, 1) ("rows"), or is a
        K x K matrix that multiplies the state as a vector (..., K), as a vector formed by K parts (...) of the state,
        or as a matrix (..., K, V).
    """

    transition: Callable[[Optional], Tensor]
    is_open: Tensor
    kind: Literal["numbers", "rows", "vector", "parts", "matrix"]

    @property
    def _is_matrix(self) -> bool:
        return self.kind in ("vector", "parts", "matrix")

    def packed(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the state as one tensor."""
        return torch.stack(list(parts), -1) if self.kind == "parts" else parts[0]

    def unpacked(self, state: Tensor) -> list[Tensor]:
        """Return the parts of a state."""
        return list(state.unbind(-1)) if self.kind == "parts" else [state]

    def times(self, m: Tensor, s: Tensor) -> Tensor:
        """Return M S."""
        if not self._is_matrix:
            return m * s
        return m @ s if self.kind == "matrix" else (m @ s.unsqueeze(-1)).squeeze(-1)

    def adjoint(self, m: Tensor) -> Tensor:
        """Return M^H."""
        return m.mH if self._is_matrix else m.conj()

    def constant(self, c: Tensor) -> list[Tensor]:
        """Return the constant map to c."""
        shapes = {
            "numbers": c.shape,
            "rows": (*c.shape[:-1], 1),
            "vector": (*c.shape, c.shape[-1]),
            "parts": (*c.shape, c.shape[-1]),
            "matrix": (*c.shape[:-1], c.shape[-2]),
        }
        return [c.new_zeros(shapes[self.kind]), torch.zeros(c.shape[0], dtype=torch.bool, device=c.device), c]

    def combine(self, later: list[Tensor], earlier: list[Tensor]) -> list[Tensor]:
        """Return the composition of two maps; a reset in the later one masks even infinities of the earlier one."""
        (m, opened, c), (m0, opened0, c0) = later, earlier
        with torch.autocast(c.device.type, enabled=False):  # states keep their dtype, as in the kernels
            through = torch.where(opened.reshape(-1, *(1,) * (c.dim() - 1)), self.times(m, c0), 0)
            return [m @ m0 if self._is_matrix else m * m0, opened & opened0, c + through]
