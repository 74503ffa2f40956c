"""Analysis of number formats (error, calibration) and packing of codes: :mod:`fastiter.quant` on tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ... import quant
from ..._backend import BackendError
from ..._check import type_name
from ..._torch.ops import CPU_AND_CUDA, check_tensors
from .._formats import Format
from . import gpu
from .ops import FLOATS


class Calibration(NamedTuple):
    """A format with its scale and zero point, like :class:`fastiter.quant.Calibration`."""

    fmt: Format
    scale: Tensor | None
    zero_point: Tensor | None


def error(x: Tensor, fmt: Format | str, **options: Any) -> quant.Error:
    """Return the error of rounding x to a format: :func:`fastiter.quant.error` on a tensor.

    Options are arguments of :func:`fastiter.quant.quantize`; histogram and edges are arrays. There is no gradient.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.quant import error
    >>> round(error(torch.tensor([0.3, -1.26, 2.0]), "fixed<8,4,RND,SAT>").sqnr, 1)
    43.5
    """
    options = {name: _array(option) if isinstance(option, Tensor) else option for name, option in options.items()}
    return quant.error(_floats("error", x), fmt, **options)


def calibrate(
    x: Tensor,
    fmt: Format | str,
    *,
    method: str = "minmax",
    percentile: float = 99.9,
    axis: int | Sequence[int] | None = None,
    group: int | None = None,
) -> Calibration:
    """Return the scale that fits the numbers of x to a format: :func:`fastiter.quant.calibrate` on a tensor.

    The scale is float64, the zero point int64.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.quant import calibrate, quantize
    >>> x = torch.tensor([[0.1, -0.4], [3.0, 1.0]])
    >>> fmt, scale, _ = calibrate(x, "int8", axis=0)
    >>> bool((quantize(x, fmt, scale=scale) - x).abs().max() < 0.5 * scale.max())
    True
    """
    found = quant.calibrate(_floats("calibrate", x), fmt, method=method, percentile=percentile, axis=axis, group=group)
    scale, zero_point = (None if part is None else torch.from_numpy(np.asarray(part)) for part in found[1:])
    return Calibration(found.fmt, scale, zero_point)


def pack(codes: Tensor, fmt: Format | str) -> Tensor:
    """Pack the codes along the last axis into bytes (uint8): :func:`fastiter.quant.pack` on a tensor.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.quant import encode, pack, unpack
    >>> packed = pack(encode(torch.tensor([0.5, 1.0, -1.5]), "e2m1"), "e2m1")
    >>> packed.tolist(), unpack(packed, "e2m1", 3).tolist()
    ([33, 11], [1, 2, 11])
    """
    _check_integers("pack", "codes", codes)
    return gpu.pack(codes, fmt) if codes.is_cuda else torch.from_numpy(quant.pack(_array(codes), fmt))


def unpack(packed: Tensor, fmt: Format | str, n: int) -> Tensor:
    """Return the n codes of each row of packed bytes, the inverse of :func:`pack`: :func:`fastiter.quant.unpack`."""
    _check_integers("unpack", "packed", packed)
    if packed.is_cuda:
        return gpu.unpack(packed, fmt, n)
    return torch.from_numpy(quant.unpack(_array(packed), fmt, n))


def _floats(function: str, x: Tensor) -> npt.NDArray[Any]:
    check_tensors(function, ("x",), (x,), FLOATS)
    x = x.detach()
    return _array(x.float() if x.dtype == torch.bfloat16 else x)  # exact, and the dtype of the computation


def _check_integers(function: str, name: str, x: object) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{function}: {name} must be a torch.Tensor, got {type_name(x)}")
    if x.layout != torch.strided or x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        raise TypeError(f"{function}: {name} must be a dense tensor of integers, got {x.dtype}, {x.layout}")
    if x.device.type not in CPU_AND_CUDA[:2]:
        raise BackendError(f"{function}: {name} must be on the CPU or a CUDA device, got device {x.device}")


def _array(x: Tensor) -> npt.NDArray[Any]:
    return x.detach().resolve_neg().numpy()
