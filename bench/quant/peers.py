"""The peers that round floats to a format and back: torch itself, eager and compiled, and the packages for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.harness.contest import Absent, Entrant
from bench.harness.peers import absent, compile_once_for_all_threads, load
from bench.quant.cases import Task

Peers = list[Entrant | Absent]
FAKE_QUANTIZE, COMPILED, EAGER = "torch fake_quantize", "torch.compile", "torch eager"
APYTYPES, GFLOAT, FXPMATH, QTORCH = "apytypes", "gfloat", "fxpmath", "qtorch"
ML_DTYPES, BREVITAS, TORCHAO = "ml_dtypes", "brevitas", "torchao"
STEP, LOW, HIGH = 2.0**-4, -128, 127  # step and range of fixed<8,4>


def entrant(name: str, call: Callable[[], Any], variant: str = "") -> Entrant:
    """A call that returns a tensor or an array of float32."""

    def results() -> dict[str, Tensor]:
        y = call()
        return {"y": y.detach() if isinstance(y, Tensor) else torch.from_numpy(np.asarray(y, np.float32))}

    return Entrant(name, call, results, variant)


def of_package(name: str, module: str, task: Task, make: Callable[[ModuleType, Task], Callable[[], Any]]) -> Peers:
    """A peer that may be missing, or lack a required function."""
    package = load(module)
    if package is None:
        return [absent(name, module)]
    try:
        return [entrant(name, make(package, task))]
    except (ImportError, AttributeError, RuntimeError, TypeError) as error:
        return [Absent(name, f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")]


# ---- torch ----------------------------------------------------------------------------------------------------------


def on_torch(expression: Callable[[Tensor], Tensor], task: Task, compiled: bool) -> Peers:
    """An expression of x as a user would write it, eager and compiled."""
    x = torch.from_numpy(task.x)
    peers: Peers = [entrant(EAGER, lambda: expression(x))]
    if compiled:
        compile_once_for_all_threads()
        function = torch.compile(expression)
        peers.append(entrant(COMPILED, lambda: function(x)))
    return peers


def nearest(x: Tensor) -> Tensor:
    return torch.clamp(torch.round(x * (1 / STEP)), LOW, HIGH) * STEP


def stochastic(x: Tensor) -> Tensor:
    return torch.clamp(torch.floor(x * (1 / STEP) + torch.rand_like(x)), LOW, HIGH) * STEP


def wrapped(x: Tensor) -> Tensor:
    turns = torch.floor(x * (1 / STEP)) - LOW
    return (turns - 256 * torch.floor(turns * (1 / 256)) + LOW) * STEP


def through(dtype: torch.dtype, x: Tensor) -> Tensor:
    return x.to(dtype).to(torch.float32)


def scales(x: Tensor, largest_exponent: int) -> tuple[Tensor, Tensor]:
    """Blocks of 32, and the OCP scale of each."""
    blocks = x.view(-1, 32)
    exponent = (blocks.abs().amax(1, keepdim=True).view(torch.int32) >> 23) - 127 - largest_exponent
    return blocks, torch.exp2(exponent.float())


def mxfp8(x: Tensor) -> Tensor:
    blocks, scale = scales(x, 8)
    elements = torch.clamp(blocks / scale, -448, 448)
    return (through(torch.float8_e4m3fn, elements) * scale).view(-1)


def mxfp4(x: Tensor) -> Tensor:
    blocks, scale = scales(x, 2)
    elements = blocks / scale
    exponent = torch.clamp((elements.abs().view(torch.int32) >> 23) - 127, min=0)
    step = torch.exp2((exponent - 1).float())
    return (torch.clamp(torch.round(elements / step) * step, -6, 6) * scale).view(-1)


def fake_quantize(task: Task) -> Peers:
    x = torch.from_numpy(task.x)
    return [entrant(FAKE_QUANTIZE, lambda: torch.fake_quantize_per_tensor_affine(x, STEP, 0, LOW, HIGH))]


# ---- Packages -------------------------------------------------------------------------------------------------------


def apytypes_fixed(package: ModuleType, task: Task, *, rounding: str, overflow: str) -> Callable[[], Any]:
    """Rounding of floats with 20 fractional bits, which is exact except for the last bits of small numbers."""
    modes = getattr(package.QuantizationMode, rounding), getattr(package.OverflowMode, overflow)

    def call() -> Any:
        wide = package.APyFixedArray.from_array(task.x, int_bits=8, frac_bits=20)
        return wide.cast(int_bits=4, frac_bits=4, quantization=modes[0], overflow=modes[1]).to_numpy()

    return call


def apytypes_float(package: ModuleType, task: Task, *, exponent: int, mantissa: int) -> Callable[[], Any]:
    def call() -> Any:
        wide = package.APyFloatArray.from_array(task.x, exp_bits=8, man_bits=23)
        return wide.cast(exp_bits=exponent, man_bits=mantissa).to_numpy()

    return call


def fxpmath_fixed(package: ModuleType, task: Task, *, rounding: str, overflow: str) -> Callable[[], Any]:
    return lambda: package.Fxp(task.x, True, 8, 4, rounding=rounding, overflow=overflow).get_val()


def qtorch_fixed(package: ModuleType, task: Task, *, rounding: str) -> Callable[[], Any]:
    x = torch.from_numpy(task.x)
    return lambda: package.fixed_point_quantize(x, wl=8, fl=4, rounding=rounding)


def qtorch_float(package: ModuleType, task: Task, *, exponent: int, mantissa: int) -> Callable[[], Any]:
    x = torch.from_numpy(task.x)
    return lambda: package.float_quantize(x, exponent, mantissa, rounding="nearest")


def qtorch_block(package: ModuleType, task: Task) -> Callable[[], Any]:
    x = torch.from_numpy(task.x).view(-1, 32)
    return lambda: package.block_quantize(x, wl=8, dim=0, rounding="nearest").view(-1)


def gfloat_rounding(package: ModuleType, task: Task, *, info: str) -> Callable[[], Any]:
    fmt = getattr(import_module("gfloat.formats"), f"format_info_{info}")
    x = task.x.astype(np.float64)  # it may round float32 inputs incorrectly
    return lambda: package.round_ndarray(fmt, x, package.RoundMode.TiesToEven, True)


def ml_dtypes_rounding(package: ModuleType, task: Task, *, name: str) -> Callable[[], Any]:
    dtype = getattr(package, name)
    return lambda: task.x.astype(dtype).astype(np.float32)


def brevitas_fixed(package: ModuleType, task: Task) -> Callable[[], Any]:
    functions = {"input_view_impl": torch.nn.Identity(), "float_to_int_impl": package.RoundSte()}
    module = package.IntQuant(narrow_range=False, signed=True, **functions).eval()
    x, scale, zero, bits = torch.from_numpy(task.x), torch.tensor(STEP), torch.tensor(0.0), torch.tensor(8.0)

    def call() -> Tensor:
        with torch.no_grad():
            result: Tensor = module(scale, zero, bits, x)
        return result

    return call


def torchao_mx(package: ModuleType, task: Task, *, element: Any) -> Callable[[], Any]:
    x = torch.from_numpy(task.x)
    return lambda: package.MXTensor.to_mx(x, element, block_size=32).dequantize(torch.float32)


def torchao_nvfp4(package: ModuleType, task: Task) -> Callable[[], Any]:
    x = torch.from_numpy(task.x).view(-1, 1024)
    return lambda: package.NVFP4Tensor.to_nvfp4(x).dequantize(torch.float32).view(-1)


# ---- Contests -------------------------------------------------------------------------------------------------------

MX_FORMATS = "torchao.prototype.mx_formats"
QUANT_FUNCTION = "qtorch.quant.quant_function"


def fixed_nearest(task: Task, compiled: bool) -> Peers:
    return [
        *fake_quantize(task),
        *on_torch(nearest, task, compiled),
        *of_package(APYTYPES, APYTYPES, task, partial(apytypes_fixed, rounding="RND_CONV", overflow="SAT")),
        *of_package(FXPMATH, FXPMATH, task, partial(fxpmath_fixed, rounding="around", overflow="saturate")),
        *of_package(QTORCH, QUANT_FUNCTION, task, partial(qtorch_fixed, rounding="nearest")),
        *of_package(BREVITAS, "brevitas.core.quant.int_base", task, brevitas_fixed),
    ]


def fixed_wrapped(task: Task, compiled: bool) -> Peers:
    return [
        *on_torch(wrapped, task, compiled),
        *of_package(APYTYPES, APYTYPES, task, partial(apytypes_fixed, rounding="TRN", overflow="WRAP")),
        *of_package(FXPMATH, FXPMATH, task, partial(fxpmath_fixed, rounding="floor", overflow="wrap")),
    ]


def fixed_stochastic(task: Task, compiled: bool) -> Peers:
    function = partial(apytypes_fixed, rounding="STOCH_WEIGHTED", overflow="SAT")
    return [
        *on_torch(stochastic, task, compiled),
        *of_package(APYTYPES, APYTYPES, task, function),
        *of_package(QTORCH, QUANT_FUNCTION, task, partial(qtorch_fixed, rounding="stochastic")),
    ]


def float_e4m3(task: Task, compiled: bool) -> Peers:
    return [
        *on_torch(partial(through, torch.float8_e4m3fn), task, compiled),
        *of_package(ML_DTYPES, ML_DTYPES, task, partial(ml_dtypes_rounding, name="float8_e4m3fn")),
        *of_package(GFLOAT, GFLOAT, task, partial(gfloat_rounding, info="ocp_e4m3")),
        *of_package(APYTYPES, APYTYPES, task, partial(apytypes_float, exponent=4, mantissa=3)),
        *of_package(QTORCH, QUANT_FUNCTION, task, partial(qtorch_float, exponent=4, mantissa=3)),
    ]


def float_bf16(task: Task, compiled: bool) -> Peers:
    return [
        *on_torch(partial(through, torch.bfloat16), task, compiled),
        *of_package(ML_DTYPES, ML_DTYPES, task, partial(ml_dtypes_rounding, name="bfloat16")),
        *of_package(GFLOAT, GFLOAT, task, partial(gfloat_rounding, info="bfloat16")),
    ]


def float_e2m1(task: Task, compiled: bool) -> Peers:
    return [
        *of_package(ML_DTYPES, ML_DTYPES, task, partial(ml_dtypes_rounding, name="float4_e2m1fn")),
        *of_package(GFLOAT, GFLOAT, task, partial(gfloat_rounding, info="ocp_e2m1")),
    ]


def blocks_of_fp8(task: Task, compiled: bool) -> Peers:
    function = partial(torchao_mx, element=torch.float8_e4m3fn)
    return [*on_torch(mxfp8, task, compiled), *of_package(TORCHAO, f"{MX_FORMATS}.mx_tensor", task, function)]


def blocks_of_fp4(task: Task, compiled: bool) -> Peers:
    function = partial(torchao_mx, element=torch.float4_e2m1fn_x2)
    return [*on_torch(mxfp4, task, compiled), *of_package(TORCHAO, f"{MX_FORMATS}.mx_tensor", task, function)]


def blocks_of_nvfp4(task: Task, compiled: bool) -> Peers:
    return of_package(TORCHAO, f"{MX_FORMATS}.nvfp4_tensor", task, torchao_nvfp4)


def blocks_of_integers(task: Task, compiled: bool) -> Peers:
    return of_package(QTORCH, QUANT_FUNCTION, task, qtorch_block)


CONTESTS: dict[str, Callable[[Task, bool], Peers]] = {
    "fixed<8,4,RND_CONV,SAT>": fixed_nearest,
    "fixed<8,4,TRN,WRAP>": fixed_wrapped,
    "fixed<8,4,STOCHASTIC,SAT>": fixed_stochastic,
    "e4m3fn": float_e4m3,
    "e2m1": float_e2m1,
    "bf16": float_bf16,
    "mxfp8_e4m3": blocks_of_fp8,
    "mxfp4_e2m1": blocks_of_fp4,
    "nvfp4": blocks_of_nvfp4,
    "mxint8": blocks_of_integers,
}
