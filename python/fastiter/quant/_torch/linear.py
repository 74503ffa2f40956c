"""A linear layer whose accumulator is rounded to a format after every addition."""

from __future__ import annotations

from torch import Tensor

from ..._torch.ops import CPU_AND_CUDA, check_tensors
from .arguments import FormatLike, checked_accumulator
from .matmul import accumulated
from .ops import FLOATS


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, accumulator: FormatLike, accumulate_every: int = 1
) -> Tensor:
    """y[m, n] = bias[n], then y[m, n] = acc(y[m, n] + x[m, k] weight[n, k]) for k = 0, 1, 2, ... in this order.

    :func:`fastiter.quant.quant_matmul` on tensors that are already rounded: each sum is exact and is rounded once. The
    gradient is that of x weight^T + bias, as if the accumulator were exact.

    Parameters
    ----------
    x : Tensor (..., K), float32, float64, float16 or bfloat16
        Any strides.
    weight : Tensor (N, K)
        Has x's dtype.
    bias : Tensor (N,), optional
        Initial value of the accumulator, rounded to its format as a first sum.
    accumulator : Fixed, Float, str or dtype
        The format acc of the sums; "float32" is fp32. With a Fixed, x and weight must be finite, and integers
        times a power of two, of at most 64 bits together, as :func:`quantize` returns them; with a Float they
        must be exact in float32.
    accumulate_every : int
        Number of products that are added between two roundings.

    Returns
    -------
    y : Tensor (..., N)
        Has x's dtype.

    Raises
    ------
    TypeError, ValueError
        For a wrong type, dtype or shape, and for numbers that the accumulator does not support.
    BackendError
        For a tensor on a device other than the CPU or CUDA; on a CUDA device for a Fixed of more than 62 bits,
        and for sums of ``accumulate_every`` products that need more than 64. With a Fixed the call
        synchronizes, to find the bits that x and weight need.

    See Also
    --------
    fastiter.quant.quant_matmul : The same on arrays, with formats of the factors.
    fastiter.torch.nn.QuantLinear : A layer, with the accumulator of its plan.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.quant import linear
    >>> x, weight = torch.ones(1, 40), torch.ones(1, 40)
    >>> linear(x, weight, accumulator="e4m3fn").item()  # 16 + 1 is a tie, and 16 is even
    16.0
    >>> linear(x, weight, accumulator="fixed<6,6,RND,SAT>").item()
    31.0
    """
    text = checked_accumulator("linear", accumulator, accumulate_every)
    tensors = [("x", x), ("weight", weight)] + ([] if bias is None else [("bias", bias)])
    check_tensors("linear", [name for name, _ in tensors], [tensor for _, tensor in tensors], FLOATS, CPU_AND_CUDA)
    if weight.dim() != 2 or x.dim() < 1 or x.shape[-1] != weight.shape[1]:
        got = f"{tuple(x.shape)} and {tuple(weight.shape)}"
        raise ValueError(f"linear: x and weight must have shapes (..., K) and (N, K), got {got}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"linear: bias must have shape {tuple(weight.shape[:1])}, got {tuple(bias.shape)}")
    result = accumulated(x if x.dim() > 1 else x.unsqueeze(0), weight, bias, text, accumulate_every)
    return result if x.dim() > 1 else result.squeeze(0)
