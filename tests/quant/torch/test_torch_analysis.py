"""measure_error, calibrate, pack and unpack give equal results on tensors and arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastiter  # noqa: E402
from fastiter import quant  # noqa: E402
from fastiter.torch import quant as ours  # noqa: E402
from tests.quant.torch.torch_cases import FORMATS, LAYOUTS, some_numbers  # noqa: E402

every_layout = pytest.mark.parametrize("layout", LAYOUTS)


@every_layout
@pytest.mark.parametrize("fmt", FORMATS)
def test_error(fmt: str, layout: str) -> None:
    x = LAYOUTS[layout](torch.from_numpy(some_numbers(6, 64)))
    found = ours.measure_error(x, fmt, **FORMATS[fmt])
    expected = quant.measure_error(x.resolve_neg().numpy(), fmt, **FORMATS[fmt])
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert found.counts.total == 6 * 64


def test_error_with_scales_of_channels() -> None:
    x, scale = torch.from_numpy(some_numbers(6, 64)), torch.linspace(0.1, 0.6, 6)[:, None]
    parts = [ours.measure_error(x[i], "int8", scale=float(scale[i])) for i in range(6)]
    whole = ours.measure_error(x.requires_grad_(), "int8", scale=scale.requires_grad_())
    assert whole.max == max(part.max for part in parts)
    assert whole.counts.overflow == sum(part.counts.overflow for part in parts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("fmt", "options"),
    [
        ("fixed<8,0,RND,SAT>", {}),
        ("fixed<6,0,RND,SAT>", {"method": "mse"}),
        ("int8", {"axis": 0}),
        ("uint4", {"group": 16, "method": "percentile", "percentile": 98.0}),
        ("e4m3fn", {"method": "mse"}),
        ("nvfp4", {}),
    ],
)
def test_calibrate(fmt: str, options: dict[str, Any], dtype: Any) -> None:
    x = torch.from_numpy(some_numbers(6, 64)).to(dtype)
    array = (x.float() if dtype == torch.bfloat16 else x).numpy()
    found, expected = ours.calibrate(x, fmt, **options), quant.calibrate(array, fmt, **options)
    assert found.fmt == expected.fmt
    for mine, theirs in zip(found[1:], expected[1:], strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            np.testing.assert_array_equal(mine.numpy(), theirs)
    wide = x.double()
    y = ours.quantize(wide, found.fmt, scale=found.scale, zero_point=found.zero_point)
    expected_y = quant.quantize(wide.numpy(), found.fmt, scale=expected.scale, zero_point=expected.zero_point)
    np.testing.assert_array_equal(y.numpy(), expected_y)


@every_layout
@pytest.mark.parametrize("fmt", ["fixed<5,2>", "ufixed<3,0>", "int4", "e2m1", "e3m2", "posit<7,0>"])
def test_pack_and_unpack(fmt: str, layout: str) -> None:
    codes = ours.encode(LAYOUTS[layout](torch.from_numpy(some_numbers(6, 33))), fmt)
    packed = ours.pack(codes, fmt)
    np.testing.assert_array_equal(packed.numpy(), quant.pack(codes.numpy(), fmt))
    assert torch.equal(ours.unpack(packed, fmt, 33), codes)
    strided = torch.stack([codes, codes], -1).flatten(-2)[..., ::2]
    assert torch.equal(ours.pack(strided, fmt), packed)


def test_ranges_are_the_same_for_arrays_and_tensors() -> None:
    assert ours.range_of is quant.range_of


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ours.measure_error(np.ones(3), "int8"), TypeError, "measure_error: x must be a torch.Tensor"),
        (
            lambda: ours.measure_error(torch.ones(3, dtype=torch.int32), "int8"),
            TypeError,
            r"measure_error: x must be floats, as x.float\(\) is, got dtype torch.int32",
        ),
        (lambda: ours.calibrate(torch.tensor([float("nan")]), "int8"), ValueError, "calibrate: x must be finite"),
        (lambda: ours.calibrate(torch.ones(3), "int8", method="best"), ValueError, "calibrate: method must be one of"),
        (lambda: ours.pack([1], "e2m1"), TypeError, "pack: codes must be a torch.Tensor, got list"),
        (lambda: ours.pack(torch.ones(3), "e2m1"), TypeError, "pack: codes must be a dense tensor of integers"),
        (lambda: ours.unpack(torch.ones(3), "e2m1", 6), TypeError, "unpack: packed must be a dense tensor of integers"),
        (
            lambda: ours.unpack(torch.ones(3, dtype=torch.uint8), "e2m1", 9),
            ValueError,
            "unpack: packed must have 5 bytes",
        ),
        (
            lambda: ours.pack(torch.ones(3, dtype=torch.uint8, device="meta"), "e2m1"),
            fastiter.BackendError,
            "pack: codes must be on the CPU or a CUDA device, got device meta",
        ),
    ],
)
def test_messages(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
