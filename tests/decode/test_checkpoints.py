"""Checkpoints: files in the format safetensors, and quantized weights, repacked without rounding."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastiter.decode._checkpoint import Checkpoint
from fastiter.decode._layouts import from_awq, from_compressed_tensors, from_fp4, from_gptq

NUMBERS = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "F8_E4M3": "u1",
    "F8_E8M0": "u1",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}


def write(file: Path, tensors: dict[str, tuple[str, Any]], **changes: Any) -> None:
    """Write tensors, given by type and numbers, one after the other; changes apply to the first entry of the header."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = b""
    for name, (kind, array) in tensors.items():
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [len(body), len(body) + array.nbytes]}
        body += array.tobytes()
    if tensors:
        header[next(iter(tensors))] |= changes
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + body)


def some(seed: int, kind: str, *shape: int) -> tuple[str, Any]:
    rng, dtype = np.random.default_rng(seed), np.dtype(NUMBERS[kind])
    return kind, (rng.standard_normal(shape) * 50).astype(dtype) if dtype.kind == "f" else rng.integers(
        0, 2, shape, dtype
    )


# ---- Files ----------------------------------------------------------------------------------------------------------


def test_all_types_and_shapes(tmp_path: Path) -> None:
    """Numbers of several bytes follow a tensor of one byte, so that some are not aligned."""
    shapes = ((3, 5), (), (0, 4), (7,))
    tensors = {f"{kind} {shape}": some(0, kind, *shape) for kind in ("U8", *NUMBERS) for shape in shapes}
    write(tmp_path / "model.safetensors", tensors)
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    for path in (tmp_path, str(tmp_path / "model.safetensors")):
        found = Checkpoint(path)
        assert found.config == {"model_type": "mamba"} and list(found) == list(tensors) and len(found) == len(tensors)
        for name, (kind, array) in tensors.items():
            stored = found[name]
            assert stored.type == kind and stored.array.dtype == array.dtype and np.array_equal(stored.array, array)


def test_tensors_that_are_not_aligned_are_copied_one_by_one(tmp_path: Path) -> None:
    tensors = {"odd": some(0, "I8", 3)} | {f"{i}": some(i, "F32", 1 << 16) for i in range(8)}
    write(tmp_path / "a.safetensors", tensors)
    size = tensors["1"][1].nbytes
    tracemalloc.start()
    found = Checkpoint(tmp_path / "a.safetensors")
    for i in range(8):
        assert np.array_equal(found[f"{i}"].array, tensors[f"{i}"][1])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * size  # a copy, and the comparison


def test_floats_are_exact(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    bits = x.view(np.uint32) >> 16
    tensors = {"BF16": ("BF16", bits.astype("<u2")), "F16": ("F16", x.astype("<f2")), "F32": ("F32", x)}
    write(tmp_path / "a.safetensors", tensors | {"F64": ("F64", x.astype("<f8") / 3), "I8": some(0, "I8", 3)})
    found = Checkpoint(tmp_path / "a.safetensors")
    assert np.array_equal(found["BF16"].floats(), (bits << 16).view(np.float32))
    assert np.array_equal(found["F16"].floats(), x.astype(np.float16))
    assert np.array_equal(found["F32"].floats(), x) and found["F32"].floats().dtype == np.float32
    assert np.array_equal(found["F64"].floats(), x.astype(np.float64) / 3)
    with pytest.raises(ValueError, match="load: floats must be stored as F64, F32, F16 or BF16, got I8"):
        found["I8"].floats()


def test_several_files_with_an_index(tmp_path: Path) -> None:
    parts = {
        "1.safetensors": {"a": some(0, "F32", 3)},
        "2.safetensors": {"b": some(1, "I32", 2, 2), "c": some(2, "F16")},
    }
    for file, tensors in parts.items():
        write(tmp_path / file, tensors)
    listed = {name: file for file, tensors in parts.items() for name in tensors}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    found = Checkpoint(tmp_path)
    assert sorted(found) == ["a", "b", "c"] and np.array_equal(found["b"].array, parts["2.safetensors"]["b"][1])
    index.write_text(json.dumps({"weight_map": listed | {"d": "1.safetensors"}}))
    with pytest.raises(
        ValueError, match=r"load: .*1.safetensors must have the tensors that the index lists, got none nam"
    ):
        Checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"abc", "must be a file in the format safetensors, got 3 bytes"),
        (b"\xff" * 20, "must be a file in the format safetensors, got a header of 18446744073709551615 bytes"),
        ((2).to_bytes(8, "little") + b"{]", "must have a header in JSON, got an error"),
    ],
)
def test_other_files(tmp_path: Path, contents: bytes, message: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(contents)
    with pytest.raises(ValueError, match=f"load: .*model.safetensors {message}"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "F4"}, "load: a must have one of the types F64, .*, got F4"),
        ({"shape": [3, 6]}, "load: a in .* must have 18 numbers of 4 bytes, got bytes 0 to 60 of 60"),
        ({"data_offsets": [4, 64]}, "load: a in .* must have 15 numbers of 4 bytes, got bytes 4 to 64 of 60"),
        ({"data_offsets": [-60, 0]}, "load: a in .* must have 15 numbers of 4 bytes, got bytes -60 to 0 of 60"),
    ],
)
def test_headers_that_do_not_fit_the_file(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write(tmp_path / "model.safetensors", {"a": some(0, "F32", 3, 5)}, **changes)
    with pytest.raises(ValueError, match=message):
        Checkpoint(tmp_path)


def test_a_folder_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"load: path must be a file or a folder with model.safetensors or"):
        Checkpoint(tmp_path)


# ---- Quantized weights ----------------------------------------------------------------------------------------------


def words(values: Any, bits: int, order: tuple[int, ...] = tuple(range(8))) -> Any:
    """Return integers (R, n) as words of 32 bits, the integer numbered ``order[i]`` of a word in its place i."""
    rows, each = len(values), 32 // bits
    out = np.zeros((rows, -(-values.shape[1] // each)), np.uint32)
    for r in range(rows):
        for k, value in enumerate(values[r]):
            place = order.index(k % each)
            out[r, k // each] |= np.uint32((int(value) & (2**bits - 1)) << (bits * place))
    return out.view(np.int32)


def drawn(N: int, K: int, groups: int, bits: int, dtype: Any) -> tuple[Any, Any, Any]:
    """Return codes and zero points from 0 to 2^bits - 1, and scales over several binades."""
    rng = np.random.default_rng(N + K)
    codes, zero = (rng.integers(0, 2**bits, shape) for shape in ((N, K), (N, groups)))
    codes[0, :2] = 0, 2**bits - 1
    scales = np.ldexp(rng.integers(1, 256, (N, groups)), rng.integers(-16, -8, (N, groups))).astype(dtype)
    return codes, zero, scales


def exact(codes: Any, zero: Any, scales: Any) -> Any:
    """Return scale (q - zero), which float32 represents."""
    width = codes.shape[1] // scales.shape[1]
    offset, factors = (np.repeat(x.astype(np.float64), width, 1) for x in (zero, scales))
    return (factors * (codes - offset)).astype(np.float32)


SIZES = [(8, 32, 1), (24, 64, 4), (16, 96, 3)]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(("N", "K", "groups"), SIZES)
def test_compressed_tensors(N: int, K: int, groups: int, dtype: Any, bits: int) -> None:
    """Zero points are packed along the outputs."""
    codes, zero, scales = drawn(N, K, groups, bits, dtype)
    middle = np.full_like(zero, 2 ** (bits - 1))
    found = from_compressed_tensors("layer", words(codes, bits), scales, (N, K), bits)
    assert found.format == f"int{bits}"
    assert np.array_equal(found.pack().unpack(), exact(codes, middle, scales))
    if bits == 8:  # so that the differences have 8 bits
        codes, zero = codes // 2 + 64, middle + zero % 16
    found = from_compressed_tensors("layer", words(codes, bits), scales, (N, K), bits, words(zero.T, bits).T)
    assert found.format == "int8"
    assert np.array_equal(found.pack().unpack(), exact(codes, zero, scales))


@pytest.mark.parametrize("is_v2", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("N", "K", "groups"), SIZES)
def test_gptq(N: int, K: int, groups: int, bits: int, is_v2: bool) -> None:
    """Words run along the inputs, and those of zero points, stored less 1 before version 2, along the outputs."""
    codes, zero, scales = drawn(N, K, groups, bits, np.float16)
    if bits == 8:
        codes, zero = codes // 2 + 64, 128 + zero % 16
    stored = words(zero.T, bits)
    if not is_v2:
        ones = np.uint32(sum(1 << place for place in range(0, 32, bits)))
        stored = (stored.view(np.uint32) - ones).view(np.int32)
    order = np.arange(K) // (K // groups)
    for given in (None, order):
        found = from_gptq("layer", words(codes, bits).T, stored, scales.T, bits, given, is_v2=is_v2)
        assert np.array_equal(found.pack().unpack(), exact(codes, zero, scales))
    symmetric = np.full_like(zero, 2 ** (bits - 1))
    found = from_gptq("layer", words(codes, bits).T, words(symmetric.T, bits), scales.T, bits, is_v2=True)
    assert found.format == f"int{bits}"


@pytest.mark.parametrize(("N", "K", "groups"), SIZES)
def test_awq(N: int, K: int, groups: int) -> None:
    """Words run along the outputs, which they hold in another order."""
    codes, zero, scales = drawn(N, K, groups, 4, np.float16)
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    found = from_awq("layer", words(codes.T, 4, order), words(zero.T, 4, order), scales.T)
    assert np.array_equal(found.pack().unpack(), exact(codes, zero, scales))


@pytest.mark.parametrize("scale", [None, 0.0131])
def test_fp4(scale: float | None) -> None:
    """Two codes a byte, the first in the lower half; groups of 32 with powers of two, or of 16 with numbers in E4M3."""
    rng = np.random.default_rng(0)
    codes, width = rng.integers(0, 16, (5, 64)), 32 if scale is None else 16
    scales = rng.integers(100, 140, (5, 64 // width)) if scale is None else rng.integers(0, 127, (5, 64 // width))
    found = from_fp4("layer", (codes[:, ::2] + 16 * codes[:, 1::2]).astype(np.uint8), scales.astype(np.uint8), scale)
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    numbers = values[codes % 8] * np.where(codes < 8, 1, -1)
    if scale is None:
        factors = np.ldexp(1.0, scales - 127)
    else:
        fraction, exponent = scales % 8, scales // 8
        factors = np.where(exponent == 0, fraction * 2.0**-9, (1 + fraction / 8) * 2.0 ** (exponent - 7.0))
        factors = factors * np.float64(np.float32(scale))
    expected = (numbers * np.repeat(factors, width, 1)).astype(np.float32)
    assert np.array_equal(found.pack().unpack(), expected)


def good() -> dict[str, Any]:
    codes, zero, scales = drawn(8, 32, 2, 4, np.float16)
    return {"words": words(codes, 4).T, "zeros": words(zero.T, 4), "scales": scales.T, "bits": 4}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 3}, "layer must have codes of 4 or 8 bits, got 3"),
        ({"words": np.zeros((4, 9), np.int32)}, r"layer.qweight must have shape \(4, 8\), got \(4, 9\)"),
        ({"zeros": np.zeros((3, 1), np.int32)}, r"layer.qzeros must have shape \(2, 1\), got \(3, 1\)"),
        ({"order": np.arange(32) % 2}, "layer.g_idx must number groups in the order of inputs, got other groups"),
        ({"scales": np.full((2, 8), 1 / 3, np.float32)}, "layer must have scales that are numbers of float16 times a"),
        (
            {"scales": np.ones((3, 8), np.float16), "zeros": np.zeros((3, 1), np.int32)},
            "layer must have equally long groups of its 32 inputs, got 3 scales",
        ),
    ],
)
def test_weights_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    from_gptq("layer", **good())
    with pytest.raises(ValueError, match=f"load: {message}"):
        from_gptq("layer", **good() | changes)


def test_codes_of_more_than_8_bits() -> None:
    codes, zero, scales = drawn(8, 32, 2, 8, np.float16)
    with pytest.raises(ValueError, match="load: layer must have codes of 8 bits after its zero points are subtracted"):
        from_gptq("layer", words(codes, 8).T, words(0 * zero.T, 8), scales.T, 8, is_v2=True)
