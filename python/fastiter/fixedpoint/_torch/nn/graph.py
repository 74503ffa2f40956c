"""Contracting linear maps on sparse graphs: z = gamma A z + b for several heads, by relaxation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....relax._torch.solvers import gauss_seidel


@dataclass(frozen=True)
class Pattern:
    """The positions of a graph's edges in the block-diagonal matrix of all heads, in CSR, with its diagonal.

    ``slot`` (edges,) is each edge's position among the entries of one head, which parallel edges share; ``diagonal``
    (nodes,) is that of each node.
    """

    nodes: int
    heads: int
    crow: Tensor
    col: Tensor
    slot: Tensor
    diagonal: Tensor

    @staticmethod
    def of(edges: Tensor, nodes: int, heads: int) -> Pattern:
        """Return the pattern of edges (2, E) from each node to those that it reads."""
        own = torch.arange(nodes, device=edges.device)
        keys = torch.cat([edges[0] * nodes + edges[1], own * (nodes + 1)])
        unique, slot = torch.unique(keys, return_inverse=True)
        counts = torch.bincount(torch.div(unique, max(nodes, 1), rounding_mode="floor"), minlength=nodes)
        ends = counts.cumsum(0)
        heads_first = torch.arange(heads, device=edges.device).unsqueeze(1)
        crow = torch.cat([ends.new_zeros(1), (ends + heads_first * len(unique)).flatten()])
        col = (unique % max(nodes, 1) + heads_first * nodes).flatten()
        split = edges.shape[1]
        return Pattern(nodes, heads, crow, col, slot[:split], slot[split:])

    def solve(self, weight: Tensor, b: Tensor, gamma: float, **options: Any) -> tuple[Tensor, Any]:
        """Return z (N, H) = gamma A z + b, where A_uv is the weight (E, H) of edge (u, v), and the solution."""
        entries = len(self.col) // max(self.heads, 1)
        values = weight.new_zeros((entries, self.heads)).index_add(0, self.slot, -gamma * weight)
        values = values.index_add(0, self.diagonal, weight.new_ones((self.nodes, self.heads)))
        right = b.mT.reshape(-1)
        result = gauss_seidel((self.crow, self.col, values.mT.reshape(-1)), right, **options)
        return result.value.view(self.heads, self.nodes).mT, result
