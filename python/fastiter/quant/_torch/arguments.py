"""Checks of the arguments of :mod:`fastiter.torch.quant`; formats are passed on as strings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.compiler import is_compiling

from ..._backend import BackendError
from ..._check import type_name
from ..._torch.ops import CPU_AND_CUDA, check_tensors
from .. import Fixed, Int, SumOfPowers
from .._check import FormatLike as ArrayFormatLike
from .._check import check_format, check_seed
from .._formats.properties import Target
from .._scale import check_amax, refuse_axis, target_of
from .ops import FLOATS, read

FormatLike: TypeAlias = "ArrayFormatLike | torch.dtype"
Rng: TypeAlias = "int | torch.Generator | Tensor | None"
Scale: TypeAlias = "float | Tensor | Literal['amax'] | None"
Nan: TypeAlias = "Literal['raise', 'keep'] | float"
Ste: TypeAlias = Literal["clip", "pass"]
_Function = TypeVar("_Function", bound=Callable[..., Any])


class Facts(NamedTuple):
    """Properties of a format that the functions need."""

    block: int
    stochastic: bool
    has_nan: bool
    fits_float32: bool
    accumulates: bool
    targets: tuple[Target, Target] | None  # for "amax" in float32 and float64; None: no scale of the tensor

    @property
    def fits_itself(self) -> bool:
        """Whether the format fits the scales of its blocks to the numbers, and takes no other scale."""
        return self.block > 0 and self.targets is None


def constant(function: _Function) -> _Function:
    """Cache a function of constants, and mark its result as constant for torch.compile.

    Sets the mark of torch.compiler.assume_constant_result without importing the compiler, which takes as long as torch.
    """
    known: Any = lru_cache(maxsize=512, typed=True)(function)

    @wraps(function)
    def call(*arguments: Any) -> Any:
        try:
            return known(*arguments)
        except TypeError:  # unhashable arguments: the function raises its own error
            return function(*arguments)

    call._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]


@constant
def facts(text: str) -> Facts:
    """Return the properties of the format with this string."""
    fmt = read(text)
    in_float, in_double = target_of(fmt, False), target_of(fmt, True)
    targets = (in_float, in_double) if in_float and in_double and in_float.largest > 0 else None
    return Facts(fmt.block, fmt.stochastic, fmt.has_nan, fmt._fits_float32, fmt._accumulates, targets)


@constant
def text_of(function: str, fmt: FormatLike, name: str = "fmt") -> str:
    """Check a format and return its string; ``name`` is its name in messages."""
    return str(check_format(function, fmt, name))


@constant
def integer_text(width: int, signed: bool, rounding: str, overflow: str) -> str:
    """Return the string of an integer format."""
    return str(Int(width, signed, rounding, overflow))


@constant
def fixed_text(
    width: int, signed: bool, rounding: str, overflow: str, terms: int | None, method: Literal["GREEDY", "NEAREST"]
) -> str:
    """Return the string of a fixed-point or sum-of-powers format whose values are integers, equal to the codes."""
    if isinstance(width, int) and not 1 <= width <= 53:
        raise ValueError(f"round_fixed: width must be from 1 to 53, got {width}")
    code = Fixed(width, width, signed, rounding, overflow)
    if terms is None:
        return str(code)
    if code.overflow != "SAT":
        raise ValueError(f"round_fixed: overflow must be 'SAT' with terms, got {overflow!r}")
    return str(SumOfPowers(terms, width, width, signed, method, rounding))


def checked_accumulator(function: str, accumulator: FormatLike, every: int) -> str:
    """Check an accumulator's format and return its string."""
    text = text_of(function, accumulator, "accumulator")
    known = facts(text)
    if not known.accumulates or known.stochastic:
        raise ValueError(
            f"{function}: accumulator must be a Fixed or a signed Float that rounds without random numbers, got {text}"
        )
    if isinstance(every, bool) or not isinstance(every, int):
        raise TypeError(f"{function}: accumulate_every must be an int, got {type_name(every)}")
    if every < 1:
        raise ValueError(f"{function}: accumulate_every must be at least 1, got {every}")
    return text


def check_floats(function: str, x: object, devices: Sequence[str] = CPU_AND_CUDA) -> None:
    """Check that x is a dense tensor of floats on one of the devices."""
    if isinstance(x, Tensor) and not (x.is_floating_point() or x.is_complex()):
        raise TypeError(f"{function}: x must be floats, as x.float() is, got dtype {x.dtype}")
    check_tensors(function, ("x",), (x,), FLOATS, devices)


def checked_seed(function: str, rng: Rng, x: Tensor, needed: bool) -> Tensor | None:
    """Return the seed as an int64 tensor of one element, on the CPU or on the device of x.

    By default, torch's own generator draws one where the rounding is stochastic.
    """
    if rng is None:
        return torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64, device="cpu") if needed else None
    if isinstance(rng, Tensor):
        if rng.dtype != torch.int64 or rng.numel() != 1:
            got = f"{rng.dtype} of shape {tuple(rng.shape)}"
            raise TypeError(f"{function}: rng must be an int64 tensor of one element, an int or a generator, got {got}")
        check_device(function, "rng", rng.device, x)
        return rng
    if isinstance(rng, torch.Generator):
        check_device(function, "rng", rng.device, x)
        return torch.randint(-(2**63), 2**63 - 1, (), generator=rng, dtype=torch.int64, device=rng.device)
    numpys = isinstance(rng, (np.random.Generator, np.random.SeedSequence, np.random.BitGenerator))
    if not numpys and (not isinstance(rng, int) or isinstance(rng, bool)):
        raise TypeError(f"{function}: rng must be an int, an int64 tensor or a torch.Generator, got {type_name(rng)}")
    seed = check_seed(function, rng, True)
    return torch.tensor(seed - 2**64 if seed >= 2**63 else seed, dtype=torch.int64, device="cpu")


def check_device(function: str, name: str, device: torch.device, x: Tensor) -> None:
    """Check that the device of an argument is the CPU or the device of x."""
    if device.type not in ("cpu", "meta") and device != x.device:
        where = f"the CPU or on {x.device}" if x.is_cuda else "the CPU"
        raise BackendError(f"{function}: {name} must be on {where}, got device {device}")


def number_or_tensor(function: str, name: str, value: Any, x: Tensor, *, floats: bool) -> Tensor:
    """Return a number or a tensor of floats (or of integers) as a tensor, on the CPU or on the device of x."""
    what = "floats" if floats else "integers"
    if isinstance(value, Tensor):
        if value.is_complex() or value.dtype == torch.bool or value.is_floating_point() != floats:
            raise TypeError(f"{function}: {name} must be a number or a tensor of {what}, got dtype {value.dtype}")
        check_device(function, name, value.device, x)
        if value.requires_grad and x.is_cuda and value.device != x.device:
            raise BackendError(f"{function}: {name} must be on {x.device} like x to be learned, got {value.device}")
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float) if floats else int):
        raise TypeError(f"{function}: {name} must be a number or a tensor of {what}, got {type_name(value)}")
    if not floats and not -(2**63) <= value < 2**63:
        raise ValueError(f"{function}: {name} must be from -2**63 to 2**63 - 1, got {value}")
    return torch.tensor(value, dtype=torch.float64 if floats else torch.int64, device="cpu")


def checked_amax(function: str, scale: str) -> None:
    """Check that a scale given as a string is 'amax'."""
    if scale != "amax":
        raise ValueError(f"{function}: scale must be a number, a tensor or 'amax', got {scale!r}")


def checked_scale(
    function: str, x: Tensor, text: str, scale: Scale, axis: int, scale_axis: int | None = None
) -> Tensor | None:
    """Return the scale as a tensor; also check the axes."""
    if isinstance(axis, bool) or not isinstance(axis, int):
        raise TypeError(f"{function}: axis must be an int, got {type_name(axis)}")
    if not -max(x.dim(), 1) <= axis < max(x.dim(), 1):
        raise ValueError(f"{function}: axis must be one of the {x.dim()} axes of x, got {axis}")
    if scale_axis is not None:
        check_amax(function, scale, scale_axis, x.dim())
    if scale is None:
        return None
    if isinstance(scale, str):
        checked_amax(function, scale)
        if facts(text).fits_itself:
            refuse_axis(function, text, scale_axis)
            return None
        return largest_scale(function, x, text, scale_axis)
    factor = number_or_tensor(function, "scale", scale, x, floats=True)
    check_divides(function, "scale", factor, x)
    if factor.requires_grad and facts(text).block:
        raise ValueError(f"{function}: scale must require no gradient for a format with blocks, got one for {text}")
    return factor


def largest_scale(function: str, x: Tensor, text: str, axis: int | None = None) -> Tensor:
    """Return the scale that maps the largest magnitude of x (or of each index of ``axis``) to the format's."""
    targets = facts(text).targets
    if targets is None:
        raise ValueError(f"{function}: scale must be a number or a tensor for {text}, got 'amax'")
    magnitude = x.detach().abs()
    if axis is None:
        largest = magnitude.amax() if x.numel() else magnitude.new_ones(())
    else:
        if not -max(x.dim(), 1) <= axis < max(x.dim(), 1):
            raise ValueError(f"{function}: x must have an axis {axis}, got {x.dim()} axes")
        others = [k for k in range(x.dim()) if k != axis % x.dim()]
        if not x.numel():
            magnitude = magnitude.new_ones([1] * x.dim())
        largest = magnitude.amax(others, keepdim=True) if others else magnitude
    usable = torch.isfinite(largest) & (largest > 0)
    # If x holds only zeros, infinities and NaN, any scale keeps them.
    wide = torch.promote_types(x.dtype, torch.float32)
    target = targets[wide == torch.float64]
    largest = torch.where(usable, largest, 1).to(torch.float64)
    scale = (largest / target.largest).clamp(min=target.smallest)
    narrow = scale.to(wide)
    beyond = largest / narrow.to(torch.float64) > target.largest + target.margin
    return torch.where(beyond, torch.nextafter(narrow, narrow.new_full((), math.inf)), narrow).to(torch.float64)


def check_divides(function: str, name: str, parameter: Tensor, x: Tensor) -> None:
    """Check that the parameter has one element, or as many axes as x, with sizes that divide those of x."""
    if parameter.numel() == 1:
        return
    sizes, whole = parameter.shape, x.shape
    fits = len(sizes) == len(whole) and all(s > 0 and n % s == 0 for s, n in zip(sizes, whole, strict=True))
    if not fits:
        raise ValueError(
            f"{function}: {name} must have axes that divide those of x, {tuple(whole)}, got {tuple(sizes)}"
        )


def check_positive(function: str, name: str, parameter: Tensor) -> None:
    """Check that a number is positive and finite, if it can be read without synchronizing."""
    if not is_compiling() and parameter.device.type == "cpu" and not 0 < parameter.item() < math.inf:
        raise ValueError(f"{function}: {name} must be positive and finite, got {parameter.item():g}")


def checked_with_parameter(function: str, x: Tensor, name: str, parameter: Tensor, gradient_scale: float) -> None:
    """Check x, its learned parameter, and the factor of the parameter's gradient."""
    check_floats(function, x)
    if not isinstance(parameter, Tensor):
        raise TypeError(f"{function}: {name} must be a torch.Tensor, got {type_name(parameter)}")
    number_or_tensor(function, name, parameter, x, floats=True)
    check_divides(function, name, parameter, x)
    if isinstance(gradient_scale, bool) or not isinstance(gradient_scale, (int, float)):
        raise TypeError(f"{function}: gradient_scale must be a number, got {type_name(gradient_scale)}")
    if not is_compiling() and not math.isfinite(gradient_scale):
        raise ValueError(f"{function}: gradient_scale must be finite, got {gradient_scale}")
