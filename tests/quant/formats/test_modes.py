"""The numbers of the kernels' enumerations are defined once, in C++; all copies are compared with them here."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from fastiter import _core
from fastiter.quant import Fixed
from fastiter.quant._formats import fixed, floating, modes

ROOT = Path(__file__).parents[3]
EXPORTED = {
    "Kind": _core.quant.kind,
    "Rounding": _core.quant.rounding,
    "Overflow": _core.quant.overflow,
    "Element": _core.quant.element,
    "FixedPath": _core.quant.fixed_path,
    "FloatSums": _core.quant.float_sums,
}

#: Descriptions of operands, and the functions that construct them
BINDINGS = [
    ("Index3", "index_of"),
    ("FixedCodes", "codes_of"),
    ("FixedTarget", "target_of"),
    ("FixedStart", "start_of"),
    ("FixedOutput", "output_of"),
    ("FixedBatch", "batch_of"),
    ("Strided", "strided"),
    ("FloatAccumulator", "accumulator_of"),
]


@pytest.mark.parametrize("name", EXPORTED)
def test_the_stub_has_the_members(name: str) -> None:
    stub = (ROOT / "python/fastiter/_core/quant.pyi").read_text()
    body = stub.partition(f"class {name}:\n")[2].partition("\n\n")[0]
    assert [*vars(EXPORTED[name])] == re.findall(r"^    (\w+): int$", body, re.MULTILINE)
    assert [*vars(EXPORTED[name]).values()] == [*range(len(vars(EXPORTED[name])))]


def test_every_word_has_a_number() -> None:
    words = {*fixed.FIXED_ROUNDINGS, *floating.FLOAT_ROUNDINGS}
    assert words <= {*modes.ROUNDINGS} and {*modes.ROUNDINGS.values()} == {*vars(_core.quant.rounding).values()}
    formats = [Fixed(8, 4, True, "TRN", mode, n) for mode in ("WRAP", "WRAP_SM") for n in (0, 1, 2)]
    formats += [Fixed(8, 4, True, "TRN", mode) for mode in ("SAT", "SAT_SYM", "SAT_ZERO")]
    found = {fmt._overflow_mode for fmt in formats}
    assert found == {*vars(_core.quant.overflow).values()}


@pytest.mark.parametrize("name", ["Kind", "Rounding", "Overflow"])
def test_triton_kernels_have_the_same_numbers(name: str) -> None:
    pytest.importorskip("triton")
    from fastiter.kernels.quant import triton_modes

    renamed = {"zero": "TO_ZERO"} if name == "Overflow" else {}
    numbers: SimpleNamespace = EXPORTED[name]
    for member, number in vars(numbers).items():
        assert getattr(triton_modes, renamed.get(member, member.upper())).value == number, member


def test_launchers_have_the_numbers_of_the_kernels() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("triton")
    from fastiter.kernels.quant import triton_modes

    from fastiter.quant._torch import triton_backward, triton_forward, triton_matmul

    for launcher, names in (
        (triton_forward, ("INTEGER", "ANY", "ONE", "ROWS", "COLUMNS")),
        (triton_backward, ("NOTHING", "ONE_SUM", "PRODUCTS")),
        (triton_matmul, ("BELOW", "ABOVE", "FAR")),
    ):
        for name in names:
            assert getattr(launcher, f"_{name}") == getattr(triton_modes, name).value
    assert triton_modes.INTEGER.value not in vars(_core.quant.kind).values()


@pytest.mark.parametrize(("name", "function"), BINDINGS)
def test_the_stub_has_the_parameters_of_the_binding(name: str, function: str) -> None:
    source = (ROOT / "csrc/quant/bindings_matmul.cpp").read_text()
    expected = re.findall(r"(\w+)(?:,|$)", source.partition(f" {function}(")[2].partition(")")[0])
    stub = (ROOT / "python/fastiter/_core/quant.pyi").read_text().partition(f"class {name}:\n")[2]
    assert re.findall(r"(\w+):", stub.partition("self,")[2].partition("/")[0]) == expected


def test_every_binding_is_compared() -> None:
    source = (ROOT / "csrc/quant/bindings_matmul.cpp").read_text()
    assert {*re.findall(r'py::class_<\w+>\(m, "(\w+)"\)', source)} == {name for name, _ in BINDINGS}
