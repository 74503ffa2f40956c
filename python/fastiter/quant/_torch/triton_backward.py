"""The straight-through gradient of rounding on a GPU, and the step of a binary point."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..._torch import launch
from ..._torch.ops import contiguous
from .._calibration.limits import is_limited, limits
from .._formats.base import Format
from .._launch import plan_of
from .ops import NAMES, Step, read
from .ops_backward import QuantizeBackward
from .triton_forward import BLOCK, Scales, scales_of

#: The kernel's constant SUMS
_NOTHING, _ONE_SUM, _PRODUCTS = range(3)


@launch.constants_of
def _limits(fmt: Format, name: str, device: torch.device) -> Tensor:
    """Return the lowest and highest code of an Int, or else the lowest and highest number that rounds into range."""
    ends = fmt._range()[:2] if fmt._is_affine else limits(fmt, name, 0)
    double = name == "float64" or fmt._is_affine
    exact = torch.tensor(ends, dtype=torch.float64, device="cpu")
    return exact.to(torch.float64 if double else torch.float32).to(device)


def _launch(
    arrays: list[Tensor],
    dx: Tensor,
    sums: Tensor | None,
    fmt: Format,
    scales: Scales,
    rule: tuple[bool, bool],
    mode: int,
) -> None:
    x, (limited, clips) = arrays[1], rule
    kernels = launch.triton_kernels("quantize", "quant/triton_gradient")
    tl = kernels.tl
    name = NAMES[torch.promote_types(x.dtype, torch.float32)]
    plan = plan_of(fmt, name, False)
    with launch.on(x):
        kernels.quantize_bwd_kernel[(-(-x.numel() // BLOCK),)](
            *(*arrays, dx, sums, scales.scale, scales.zero_point, scales.powers),
            _limits(fmt, name, x.device) if limited else None,
            *(x.numel(), scales.run, scales.size),
            ROUNDING=plan.rounding,
            T=tl.float64 if plan.in_double else tl.float32,
            LIMITED=limited,
            CLIPS=limited and clips,
            INTEGERS=fmt._is_affine,
            MAY_BE_EXACT=fmt._point is not None,
            SUMS=mode,
            HAS_SCALE=scales.scale is not None,
            HAS_ZERO_POINT=scales.zero_point is not None,
            SHARING=scales.sharing(x.numel()),
            INDEX=tl.int32 if x.numel() < 2**31 else tl.int64,
            BLOCK=BLOCK,
            enable_fp_fusion=False,
        )


def _of_each_scale(products: Tensor, scale: Tensor) -> Tensor:
    """Return the sums of the products that share a scale."""
    sizes = scale.shape
    parts = [part for each, size in zip(sizes, products.shape, strict=True) for part in (each, size // max(each, 1))]
    return products.reshape(parts).sum(list(range(1, len(parts), 2)), dtype=torch.float64)


def backward(call: QuantizeBackward) -> list[Tensor]:
    """Return dx, and for each scale the sum of dy (y - x) over its elements in range, plus dy y over the others."""
    dy, x, y, fmt, scale, zero_point, clip, need_scale = call
    form = read(fmt)
    wide = torch.promote_types(x.dtype, torch.float32)
    limited = is_limited(form, clip, need_scale)
    uniform = scale is None or scale.numel() == 1
    scales = scales_of("quantize", x, form, scale, zero_point) if limited else Scales()
    arrays = [contiguous(t.detach()) for t in (dy, x, y)]
    dx = torch.empty_like(arrays[1])
    mode, sums = _NOTHING, None
    if need_scale:
        mode = _ONE_SUM if uniform else _PRODUCTS
        programs = -(-x.numel() // BLOCK)
        sums = x.new_empty(programs, dtype=torch.float64) if uniform else x.new_empty(x.shape, dtype=wide)
    if x.numel():
        _launch(arrays, dx, sums, form, scales, (limited, clip), mode)
    if scale is None or sums is None:
        return [dx]
    total = sums.sum() if uniform else _of_each_scale(sums, scale)
    return [dx, total.to(wide).reshape(scale.shape)]


def step(call: Step) -> Tensor:
    """Return 2^-round(point), with the point clamped to -126 .. 126, as its value cannot be checked on the GPU."""
    point, function = call
    arrays = contiguous(point.detach())
    steps = torch.empty_like(arrays, dtype=torch.float64)
    block = max(min(1 << (math.prod(arrays.shape) - 1).bit_length(), 256), 1)
    if arrays.numel():
        kernels = launch.triton_kernels(function, "quant/triton_gradient")
        with launch.on(arrays):
            kernels.step_fwd_kernel[(-(-arrays.numel() // block),)](
                arrays, steps, arrays.numel(), BLOCK=block, enable_fp_fusion=False
            )
    return steps
