"""Refusals on a GPU, tested without one by fake tensors that report a CUDA device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

import fastiter  # noqa: E402
from fastiter.torch import quant as q  # noqa: E402


def on_card(dtype: Any = torch.float32) -> Any:
    return torch.empty((), dtype=dtype, device="cuda")


CALLS: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "linear": (
        lambda x, cpu: q.linear(x, cpu, accumulator="e5m2"),
        "linear: weight must be on device cuda:0 like x, got cpu",
    ),
    "error": (
        lambda x, cpu: q.measure_error(x, "int8"),
        "measure_error: x must be on the CPU, as it has no GPU kernels",
    ),
    "calibrate": (lambda x, cpu: q.calibrate(x, "int8"), "calibrate: x must be on the CPU, as it has no GPU kernels"),
    "scale": (
        lambda x, cpu: q.quantize(cpu, "int8", scale=on_card()),
        "quantize: scale must be on the CPU, got device",
    ),
    "zero point": (
        lambda x, cpu: q.quantize(cpu, "int8", zero_point=on_card(torch.int64)),
        "quantize: zero_point must be on the CPU, got device cuda:0",
    ),
    "seed": (
        lambda x, cpu: q.quantize(cpu, "int8<STOCHASTIC>", rng=on_card(torch.int64)),
        "quantize: rng must be on the CPU, got device cuda:0",
    ),
    "learned": (
        lambda x, cpu: q.lsq(x, torch.ones((), requires_grad=True), 8),
        "lsq: step must be on cuda:0 like x to be learned, got cpu",
    ),
    "scales of blocks": (
        lambda x, cpu: q.decode(q.BlockCodes(x.to(torch.uint8), cpu.to(torch.uint8)), "mxfp4_e2m1<1>"),
        "decode: scales must be on cuda:0 like codes, got device cpu",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_message(name: str) -> None:
    call, message = CALLS[name]
    with FakeTensorMode():
        x, cpu = torch.empty(3, 3, device="cuda"), torch.empty(3, 3)
        with pytest.raises(fastiter.BackendError) as caught:
            call(x, cpu)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_parameters_of_a_tensor_on_a_gpu_may_be_on_the_cpu() -> None:
    with FakeTensorMode():
        x = torch.empty(3, 4, device="cuda")
        y = q.quantize(x, "uint8", scale=torch.full((3, 1), 0.5), zero_point=3, nan="keep")
        assert y.device == x.device and y.shape == x.shape


def test_products_are_on_the_gpu() -> None:
    with FakeTensorMode():
        x, weight = (torch.empty(*shape, device="cuda") for shape in ((2, 3, 4), (5, 4)))
        y = q.linear(x, weight, accumulator="fixed<9,5,RND,SAT>")
        assert y.device == x.device and y.shape == (2, 3, 5)


def test_logarithms_of_many_bits_are_not_decoded() -> None:
    from fastiter.quant._torch import triton_codes as codes
    from fastiter.quant._torch.ops import Decode

    with pytest.raises(
        fastiter.BackendError, match="decode: codes of log2<-900,900,6>, of more than 16 bits, have no GPU"
    ):
        codes.decode(Decode(torch.zeros(3, dtype=torch.int32), None, "log2<-900,900,6>", None, None, torch.float64))
