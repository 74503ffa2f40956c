"""HLS types compiled with the vendor's headers, which the package hls4ml ships: conversions, division, networks.

A C++ compiler and hls4ml (its folder templates/vivado/ap_types) are needed; hls4ml is not imported.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from fastiter import quant
from fastiter.quant import Fixed, FixedArray, parse

COMPILER = shutil.which("g++") or shutil.which("c++")
FOUND = importlib.util.find_spec("hls4ml")
if COMPILER is None or FOUND is None or FOUND.origin is None:
    pytest.skip("needs a C++ compiler and hls4ml", allow_module_level=True)
HEADERS = Path(FOUND.origin).parent / "templates" / "vivado" / "ap_types"

#: ap_fixed types: every two of a width with a binary point, a rounding and an overflow mode; integer types
SHAPES = ["ap_fixed<8,4", "ap_ufixed<7,3", "ap_fixed<5,9", "ap_ufixed<9,-3", "ap_fixed<24,12"]
ROUNDINGS = ("TRN", "TRN_ZERO", "RND", "RND_ZERO", "RND_MIN_INF", "RND_INF", "RND_CONV")
OVERFLOWS = ("SAT", "SAT_ZERO", "SAT_SYM", "WRAP", "WRAP_SM")
FIXED = [
    f"{shape},AP_{rounding},AP_{overflow}{bits}>"
    for (i, shape), (j, rounding), (k, overflow) in product(*map(enumerate, (SHAPES, ROUNDINGS, OVERFLOWS)))  # type: ignore[misc]
    if (i + j + k) % 5 == 0 and not ("ufixed" in shape and overflow == "WRAP_SM")
    for bits in ([",2"] if overflow.startswith("WRAP") and (i + j) % 2 else [""])
]
INTEGERS = [f"ap_{sign}int<{width}>" for sign in ("", "u") for width in (1, 3, 8, 13, 32, 50)]
SOURCE = "ap_fixed<40,20>"

PROGRAM = """
#include <ap_fixed.h>
#include <ap_int.h>
#include <cstdio>
template <class T> void row(const T& x) { std::printf("%a ", x.to_double()); }
template <class T> void all(double x) {
    T a = x, b = float(x);
    SOURCE source = x;
    T c = source;
    std::printf("%a %a %a\\n", a.to_double(), b.to_double(), c.to_double());
}
int main() {
    double x;
    while (std::scanf("%la", &x) == 1) { CALLS }
}
"""


def compiled(folder: Path, text: str, *options: str) -> Path:
    """Compile a program with the vendor's headers."""
    (folder / "program.cpp").write_text(text)
    command = [
        str(COMPILER),
        "-std=c++17",
        "-w",
        "-O0",
        "-isystem",
        str(HEADERS),
        *options,
        "program.cpp",
        "-o",
        "program",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "program"


def inputs() -> npt.NDArray[np.float64]:
    """Return values of all magnitudes of the types, ties of every fraction, and whole numbers around the limits."""
    rng = np.random.default_rng(4)
    ties = np.concatenate([np.arange(-21, 22) * 2.0**-e for e in range(-6, 14, 2)])
    limits = [
        sign * (2.0**e + d) for sign in (1, -1) for e in (2, 3, 7, 8, 12, 31, 32, 49) for d in (-1.5, -0.75, 0, 0.5)
    ]
    values = np.concatenate(
        [ties, limits, rng.normal(0, 1, 200) * 2.0 ** rng.integers(-14, 18, 200), [-0.0, 2.0**-1074]]
    )
    return np.unique(values)


def test_conversions_from_double_float_and_fixed_point(tmp_path: Path) -> None:
    """Equal everywhere but between -0.5 and 0, whence the headers convert floats to the integer 1 instead of 0."""
    names = [*FIXED, *INTEGERS]
    calls = " ".join(f"all<{name}>(x);" for name in names)
    program = compiled(tmp_path, PROGRAM.replace("SOURCE", SOURCE).replace("CALLS", calls))
    x = inputs()
    text = "\n".join(value.hex() for value in x.tolist())
    done = subprocess.run([program], input=text, capture_output=True, text=True, check=True)
    said = np.array([float.fromhex(word) for word in done.stdout.split()]).reshape(len(x), len(names), 3)
    sources = x, x.astype(np.float32).astype(np.float64), quant.quantize(x, SOURCE)
    for k, name in enumerate(names):
        for j, (source, column) in enumerate(zip(sources, said[:, k].T, strict=True)):
            expected = quant.quantize(source, name)
            if name in INTEGERS and j < 2:  # a fault of the headers, which negate -1 for floats that round to zero
                expected = np.where((source > -0.5) & (source < 0), quant.quantize(np.ones(1), name), expected)
            np.testing.assert_array_equal(expected, column, err_msg=name)


def test_integers_truncate_toward_zero_where_hls4mls_own_type_rounds_down(tmp_path: Path) -> None:
    """hls4ml writes its IntegerPrecisionType as ap_int, but describes it with the rounding TRN."""
    program = compiled(tmp_path, PROGRAM.replace("SOURCE", SOURCE).replace("CALLS", "all<ap_int<6>>(x);"))
    done = subprocess.run([program], input=(-2.75).hex(), capture_output=True, text=True, check=True)
    assert [float.fromhex(word) for word in done.stdout.split()] == [-2.0] * 3
    types = (HEADERS.parents[2] / "model" / "types.py").read_text()
    own = types[types.index("class IntegerPrecisionType") : types.index("class FixedPrecisionType")]
    assert "return RoundingMode.TRN\n" in own and "return SaturationMode.WRAP\n" in own
    assert quant.quantize(np.array([-2.75]), "int<6>").tolist() == [-3.0]


def test_the_lowest_number_divided_by_minus_one(tmp_path: Path) -> None:
    """The vendor's quotient loses the bit that the exact one has; every other quotient is equal."""
    fmt = parse("ap_fixed<5,2>")
    body = "ap_fixed<5,2> a, b; a.range(4, 0) = i; b.range(4, 0) = j; if (j) row(a / b);"
    program = compiled(
        tmp_path,
        PROGRAM.replace("SOURCE", SOURCE).replace("double x;", "").replace("while (std::scanf(\"%la\", &x) == 1)", "")
        .replace("CALLS", f"for (int i = -16; i < 16; ++i) for (int j = -16; j < 16; ++j) {{ {body} }}"),
    )  # fmt: skip
    said = subprocess.run([program], capture_output=True, text=True, check=True).stdout.split()
    pairs = [(i, j) for i in range(-16, 16) for j in range(-16, 16) if j]
    assert isinstance(fmt, Fixed)
    codes = [np.array(c, np.int64) for c in zip(*pairs, strict=True)]
    a, b = (FixedArray.from_codes(c, fmt) for c in codes)
    for pair, ours, word in zip(pairs, (a / b).to_float(), said, strict=True):
        theirs = float.fromhex(word)
        if pair == (-16, -1):
            assert (Fraction(ours), theirs) == (16, -16)
        else:
            assert ours == theirs, pair


def test_headers_abort_where_an_assignment_drops_more_bits_than_a_number_has(tmp_path: Path) -> None:
    drop = "ap_fixed<6,-30> a; a.range(5, 0) = 9; ap_fixed<4,1,AP_RND> b = a; row(b);"
    program = compiled(tmp_path, PROGRAM.replace("SOURCE", SOURCE).replace("CALLS", drop))
    done = subprocess.run([program], input="0x1p0", capture_output=True, text=True, check=False)
    assert done.returncode < 0 and "Attempting to read bit beyond MSB" in done.stderr


def test_exported_networks(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from fastiter.torch import nn as ours
    from fastiter.torch.quant import export_hls

    torch.manual_seed(3)
    fmt, other = "fixed<9,3,RND,SAT>", "fixed<8,3,TRN,WRAP>"
    first, second = ours.QuantPlan(fmt, fmt, other, fmt), ours.QuantPlan(other, other, "fixed<12,5,RND,SAT_SYM>", other)
    model = torch.nn.Sequential(
        ours.QuantLinear(5, 7, plan=first), torch.nn.ReLU(), ours.QuantLinear(7, 3, plan=second)
    )
    export_hls(model, tmp_path, torch.randn(30, 5))
    text = (tmp_path / "testbench.cpp").read_text()
    program = compiled(tmp_path, text, "-DFASTITER_VENDOR_TYPES", "model.cpp")
    done = subprocess.run([program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "30 samples, 0 codes differ\n")
