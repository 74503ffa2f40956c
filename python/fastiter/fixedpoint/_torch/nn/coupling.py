"""Hollow and monotone couplings of Boltzmann machines: W = blkdiag(A^T A) - A^T A with scaled columns.

With every diagonal block of A^T A at most 1 - m in norm, I - W >= m I, and W has no block on its diagonal: no variable
is coupled with itself. A links each tier with the next one: its rows are linear maps of two neighbouring tiers, dense
or convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .circular import circular_conv, circular_conv_transposed


@dataclass(frozen=True)
class Tier:
    """Variables with the same number of states: ``groups`` of them, at each pixel if the tier has an image size."""

    groups: int
    states: int
    size: tuple[int, int] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample, (groups, states) or (groups, states, H, W)."""
        return (self.groups, self.states, *(self.size or ()))

    @property
    def channels(self) -> int:
        """The number of states of all groups at one pixel."""
        return self.groups * self.states

    @property
    def width(self) -> int:
        """The number of elements of one sample."""
        return self.channels * (self.size[0] * self.size[1] if self.size else 1)


@dataclass(frozen=True)
class Map:
    """The action of a weight on a tier: as a matrix (R, width), or as a convolution with a stride."""

    tier: Tier
    stride: int = 0  # 0 for a matrix

    def weight_shape(self, rows: int, kernel: int) -> tuple[int, ...]:
        """Return the shape of a weight with the given number of rows, or of channels."""
        return (rows, self.tier.channels, kernel, kernel) if self.stride else (rows, self.tier.width)

    def apply(self, weight: Tensor, z: Tensor) -> Tensor:
        """Return the features (B, R) or (B, R, h, w) of z (B, *tier.shape)."""
        if not self.stride:
            return z.flatten(1) @ weight.mT
        return circular_conv(z.flatten(1, 2), weight, self.stride)

    def transposed(self, weight: Tensor, h: Tensor) -> Tensor:
        """Return the product of the transpose with features."""
        result = circular_conv_transposed(h, weight, self.stride) if self.stride else h @ weight
        return result.unflatten(1, self.tier.shape[:2]) if self.stride else result.unflatten(1, self.tier.shape)

    def blocks(self, weight: Tensor) -> Tensor:
        """Return the diagonal blocks of the weight's Gram matrix, (groups, h, w, states, states).

        h and w are the image's size, or the stride of a convolution, as pixels a stride apart have the same block.
        """
        groups, states, size = self.tier.groups, self.tier.states, self.tier.size
        if not self.stride:
            height, width = size or (1, 1)
            columns = weight.view(len(weight), groups, states, height, width)
            return torch.einsum("rgahw,rgbhw->ghwab", columns, columns)
        pad = weight.shape[-1] // 2
        by_group = weight.unflatten(1, (groups, states))
        rows = []
        for a in range(self.stride):
            row = []
            for b in range(self.stride):
                # The taps that reach a pixel are those congruent to its offset.
                taps = by_group[..., (a + pad) % self.stride :: self.stride, (b + pad) % self.stride :: self.stride]
                row.append(torch.einsum("rgayx,rgbyx->gab", taps, taps))
            rows.append(torch.stack(row, 1))
        return torch.stack(rows, 1)


def add_blocks(one: Tensor, other: Tensor) -> Tensor:
    """Return the sum of blocks that repeat periodically, over the larger of the two periods."""
    height, width = (max(one.shape[i], other.shape[i]) for i in (1, 2))
    tiled = (x.tile(1, height // x.shape[1], width // x.shape[2], 1, 1) for x in (one, other))
    first, second = tiled
    return first + second


@dataclass(frozen=True)
class Coupling:
    """The maps of a machine: ``lower[i]`` of tier i and ``upper[i]`` of tier i + 1 give the features of row i."""

    tiers: tuple[Tier, ...]
    lower: tuple[Map, ...]
    upper: tuple[Map, ...]

    def scaled(self, lower: Sequence[Tensor], upper: Sequence[Tensor], m: float) -> tuple[list[Tensor], list[Tensor]]:
        """Return each tier's scale s, which broadcasts to (B, *shape), and its blocks s^2 blk (groups, H, W, k, k)."""
        scales, blocks = [], []
        for i, tier in enumerate(self.tiers):
            parts = [self.lower[i].blocks(lower[i])] if i < len(lower) else []
            parts += [self.upper[i - 1].blocks(upper[i - 1])] if 0 < i <= len(upper) else []
            result = parts[0] if len(parts) == 1 else add_blocks(*parts)
            norm = torch.linalg.eigvalsh(result)[..., -1]
            # Clamped at 1 - m, so that a small norm has the gradient 0 of s = 1; with m = 1 there is no coupling.
            s = ((1 - m) / norm.clamp_min(1 - m)).sqrt() if m < 1 else torch.zeros_like(norm)
            result = result * s[..., None, None] ** 2
            if tier.size is None:
                scales.append(s.view(tier.groups, 1))
                blocks.append(result)
                continue
            repeats = (tier.size[0] // s.shape[1], tier.size[1] // s.shape[2])
            scales.append(s.tile(1, *repeats).unsqueeze(1))
            blocks.append(result.tile(1, *repeats, 1, 1))
        return scales, blocks

    def apply(self, weights: dict[str, Any], z: Sequence[Tensor]) -> list[Tensor]:
        """Return W z."""
        lower, upper, scales, blocks = (weights[name] for name in ("lower", "upper", "scales", "blocks"))
        scaled = [s * x for s, x in zip(scales, z, strict=True)]
        gram: list[Any] = [None] * len(self.tiers)
        for i, weight in enumerate(lower):
            h = self.lower[i].apply(weight, scaled[i])
            if i < len(upper):
                h = h + self.upper[i].apply(upper[i], scaled[i + 1])
                gram[i + 1] = self.upper[i].transposed(upper[i], h)
            back = self.lower[i].transposed(weight, h)
            gram[i] = back if gram[i] is None else gram[i] + back
        result = []
        for tier, x, s, block, solution in zip(self.tiers, z, scales, blocks, gram, strict=True):
            own = torch.einsum("ghwab,ngbhw->ngahw", block, x if tier.size else x[..., None, None])
            result.append((own if tier.size else own[..., 0, 0]) - s * solution)
        return result
