"""Analysis of number formats (error, calibration) and packing of codes: :mod:`fastiter.quant` on tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ... import quant
from ..._backend import BackendError
from ..._check import type_name
from ..._torch.ops import CPU, CPU_AND_CUDA
from .._formats.base import Format
from . import gpu
from .arguments import FormatLike, Nan, Rng, Scale, check_floats, checked_seed, facts, text_of


class Calibration(NamedTuple):
    """A format with its scale and zero point, like :class:`fastiter.quant.Calibration`.

    Attributes
    ----------
    fmt : Format
        The given format; for fixed point, with its binary point moved to suit the numbers.
    scale : Tensor, float64, or None
        The scale to pass to :func:`quantize`; None for fixed point.
    zero_point : Tensor, int64, or None
        The zero point of an unsigned :class:`fastiter.quant.Int`; None for other formats.

    See Also
    --------
    calibrate : The function that returns it.
    quantize : Takes its scale and zero point.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.quant import calibrate, quantize
    >>> x = torch.tensor([-1.0, 0.2, 3.0])
    >>> fmt, scale, zero_point = calibrate(x, "uint8")
    >>> quantize(x, fmt, scale=scale, zero_point=zero_point)
    tensor([-1.0039,  0.2039,  2.9961])
    """

    fmt: Format
    scale: Tensor | None
    zero_point: Tensor | None


def measure_error(
    x: Tensor,
    fmt: FormatLike,
    *,
    scale: Scale = None,
    scale_axis: int | None = None,
    zero_point: int | Tensor | None = None,
    axis: int = -1,
    rng: Rng = None,
    nan: Nan = "keep",
) -> quant.ErrorStatistics:
    """Measure the error that :func:`quantize` makes on x: :func:`fastiter.quant.measure_error` on a tensor.

    Parameters
    ----------
    x : Tensor, float32, float64, float16 or bfloat16
        On the CPU. There is no gradient.
    fmt : Format, str or dtype
        As for :func:`quantize`.
    scale : number, Tensor of positive floats, or "amax", optional
        As for :func:`quantize`: 1 by default.
    scale_axis : int, optional
        With ``scale="amax"``, an axis along which every index has its own scale.
    zero_point : int or Tensor of integers, optional
        As for :func:`quantize`.
    axis : int
        The axis along which blocks run.
    rng : int, Tensor or torch.Generator, optional
        For stochastic rounding, as for :func:`quantize`.
    nan : {"keep", "raise"} or number
        As for :func:`quantize`.

    Returns
    -------
    fastiter.quant.ErrorStatistics
        (sqnr, max, mean, rms, histogram, edges, counts); histogram and edges are arrays.

    Raises
    ------
    TypeError, ValueError, BackendError
        As for :func:`quantize`; BackendError for a tensor on another device than the CPU.

    See Also
    --------
    quantize : The rounding itself.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.quant import measure_error
    >>> round(measure_error(torch.tensor([0.3, -1.26, 2.0]), "fixed<8,4,RND,SAT>").sqnr, 1)
    43.5
    """
    array, text = _floats("measure_error", x), text_of("measure_error", fmt)
    seed = checked_seed("measure_error", rng, x, facts(text).stochastic)
    factor: Any = _array(scale) if isinstance(scale, Tensor) else scale
    zero = _array(zero_point) if isinstance(zero_point, Tensor) else zero_point
    own: Any = {"scale_axis": scale_axis, "zero_point": zero, "axis": axis, "nan": nan}
    return quant.measure_error(array, text, scale=factor, rng=None if seed is None else int(seed) % 2**64, **own)


def calibrate(
    x: Tensor,
    fmt: FormatLike,
    *,
    method: Literal["minmax", "percentile", "mse"] = "minmax",
    percentile: float = 99.9,
    axis: int | Sequence[int] | None = None,
    group: int | None = None,
) -> Calibration:
    """Return the scale that fits the numbers of x to a format: :func:`fastiter.quant.calibrate` on a tensor.

    Parameters
    ----------
    x : Tensor, float32, float64, float16 or bfloat16
        A sample of finite numbers, on the CPU.
    fmt : Format, str or dtype
        Fixed point, integers, floats, posits or NVFP4. An unsigned :class:`fastiter.quant.Int` also gets a zero point.
    method : {"minmax", "percentile", "mse"}
        As for :func:`fastiter.quant.calibrate`.
    percentile : float
        0 to 100, for the method "percentile".
    axis : int or sequence of int, optional
        The axes along which every index has its own scale, such as channels.
    group : int, optional
        Number of contiguous elements along the last axis that share a scale.

    Returns
    -------
    Calibration
        (fmt, scale, zero_point): the scale is float64, the zero point int64.

    Raises
    ------
    TypeError, ValueError, BackendError
        As for :func:`fastiter.quant.calibrate`; BackendError for a tensor on another device than the CPU.

    See Also
    --------
    quantize : Takes what this returns; its scale="amax" needs no calibration.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.quant import calibrate, quantize
    >>> x = torch.tensor([[0.1, -0.4], [3.0, 1.0]])
    >>> fmt, scale, _ = calibrate(x, "int8", axis=0)
    >>> bool((quantize(x, fmt, scale=scale) - x).abs().max() < 0.5 * scale.max())
    True
    """
    calibration = quant.calibrate(
        _floats("calibrate", x),
        text_of("calibrate", fmt),
        method=method,
        percentile=percentile,
        axis=axis,
        group=group,
    )
    scale, zero_point = (None if part is None else torch.from_numpy(np.asarray(part)) for part in calibration[1:])
    return Calibration(calibration.fmt, scale, zero_point)


def pack(codes: Tensor, fmt: FormatLike) -> Tensor:
    """Pack the codes along the last axis into bytes (uint8): :func:`fastiter.quant.pack` on a tensor.

    Parameters
    ----------
    codes : Tensor of integers
        As returned by :func:`encode`; any shape and strides.
    fmt : Format, str or dtype
        Their format, which determines the number of bits per code.

    Returns
    -------
    packed : Tensor of uint8
        The shape of the codes, with ceil(n bits / 8) bytes along the last axis.

    Raises
    ------
    TypeError, ValueError, BackendError
        For anything but a tensor of integers; for codes that the format does not have (on the CPU); for another device
        than the CPU or CUDA.

    See Also
    --------
    unpack : The inverse.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.quant import encode, pack, unpack
    >>> packed = pack(encode(torch.tensor([0.5, 1.0, -1.5]), "e2m1"), "e2m1")
    >>> packed.tolist(), unpack(packed, "e2m1", 3).tolist()
    ([33, 11], [1, 2, 11])
    """
    _check_integers("pack", "codes", codes)
    return (
        gpu.pack(codes, text_of("pack", fmt))
        if codes.is_cuda
        else torch.from_numpy(quant.pack(_array(codes), text_of("pack", fmt)))
    )


def unpack(packed: Tensor, fmt: FormatLike, n: int) -> Tensor:
    """Return the n codes of each row of packed bytes: :func:`fastiter.quant.unpack` on a tensor.

    Parameters
    ----------
    packed : Tensor of uint8
        As returned by :func:`pack`.
    fmt : Format, str or dtype
        The format of the codes.
    n : int
        Number of codes in a row.

    Returns
    -------
    codes : Tensor
        In the dtype of :func:`encode`, (..., n).

    Raises
    ------
    TypeError, ValueError, BackendError
        For anything but bytes; for a last axis whose length does not match n codes; for another device than the CPU or
        CUDA.

    See Also
    --------
    pack : The inverse.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.quant import unpack
    >>> unpack(torch.tensor([33, 11], dtype=torch.uint8), "e2m1", 3).tolist()
    [1, 2, 11]
    """
    _check_integers("unpack", "packed", packed)
    text = text_of("unpack", fmt)
    return gpu.unpack(packed, text, n) if packed.is_cuda else torch.from_numpy(quant.unpack(_array(packed), text, n))


def _floats(function: str, x: Tensor) -> npt.NDArray[Any]:
    check_floats(function, x, CPU)
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
