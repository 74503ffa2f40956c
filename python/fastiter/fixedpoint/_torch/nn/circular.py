"""Convolutions with circular padding: in space, transposed, and as one matrix for each frequency."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


def circular_conv(x: Tensor, kernel: Tensor, stride: int = 1) -> Tensor:
    """Return the convolution (B, O, H / stride, W / stride) of x (B, C, H, W) with a kernel (O, C, K, K), K odd."""
    pad = kernel.shape[-1] // 2
    return F.conv2d(F.pad(x, (pad,) * 4, mode="circular") if pad else x, kernel, stride=stride)


def circular_conv_transposed(y: Tensor, kernel: Tensor, stride: int = 1) -> Tensor:
    """Return the product (B, C, H, W) of the transpose of :func:`circular_conv` with y (B, O, H / stride, ...)."""
    pad = kernel.shape[-1] // 2
    wide = F.conv_transpose2d(y, kernel, stride=stride, output_padding=stride - 1)
    return _folded(_folded(wide, pad, 2), pad, 3) if pad else wide


def _folded(x: Tensor, pad: int, axis: int) -> Tensor:
    """Add the values beyond the edges to the opposite side."""
    size = x.shape[axis] - 2 * pad
    left, right = x.narrow(axis, 0, pad), x.narrow(axis, size + pad, pad)
    rest = list(x.shape)
    rest[axis] = size - pad
    zeros = x.new_zeros(rest)
    return x.narrow(axis, pad, size) + torch.cat([right, zeros], axis) + torch.cat([zeros, left], axis)


@dataclass(frozen=True)
class Frequencies:
    """A shift-invariant linear map of images (B, n, H, W), as matrices (H, W / 2 + 1, n, n) for rfft2."""

    matrices: Tensor
    size: tuple[int, int]

    @staticmethod
    def of_kernel(kernel: Tensor, size: tuple[int, int]) -> Frequencies:
        """Return :func:`circular_conv` as a map; torch's convolutions are correlations, hence the conjugate."""
        pad = kernel.shape[-1] // 2
        height, width = size
        placed = F.pad(kernel, (0, width - kernel.shape[-1], 0, height - kernel.shape[-2]))
        placed = torch.roll(placed, (-pad, -pad), (2, 3))
        return Frequencies(torch.fft.rfft2(placed).conj().permute(2, 3, 0, 1), size)

    def apply(self, x: Tensor) -> Tensor:
        """Apply the map to x."""
        result = torch.einsum("hwij,bjhw->bihw", self.matrices, torch.fft.rfft2(x))
        return torch.fft.irfft2(result, s=self.size)
