"""Checkpoints in the format safetensors, by memory map: tensors take memory only while they are read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
_INDEX, _SINGLE, _CONFIG = "model.safetensors.index.json", "model.safetensors", "config.json"
_LENGTH = 8  # bytes of the header's length, before the header
_MOST = 100_000_000  # bytes of a header, as the format prescribes
#: NumPy's types of the format's types; those that NumPy lacks have integers of their bits
_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "F8_E4M3": "u1",
    "F8_E5M2": "u1",
    "F8_E8M0": "u1",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}


class Stored(NamedTuple):
    """A tensor of a file: its type in the format's terms, and its numbers, or their bits where NumPy lacks the type."""

    type: str
    array: Array

    def floats(self) -> Array:
        """Return the numbers as float64 if they are, else as float32; those of BF16 and F16 are exact."""
        if self.type == "BF16":
            return (self.array.astype(np.uint32) << 16).view(np.float32)
        if self.type not in ("F64", "F32", "F16"):
            raise ValueError(f"load: floats must be stored as F64, F32, F16 or BF16, got {self.type}")
        return self.array.astype(np.float64 if self.type == "F64" else np.float32, copy=False)


#: The type, the shape and the bytes of a tensor in its file
_Bytes: TypeAlias = tuple[str, list[int], Array]


class Checkpoint(Mapping[str, Stored]):
    """The tensors of a folder, or of one file, by name.

    Parameters
    ----------
    path : str or Path
        A file, or a folder with ``model.safetensors`` or with several files and their index.

    Attributes
    ----------
    config : dict
        The contents of ``config.json``, empty if there is none.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        folder = self.path if self.path.is_dir() else self.path.parent
        config = folder / _CONFIG
        self.config: dict[str, Any] = json.loads(config.read_text()) if config.is_file() else {}
        self._tensors: dict[str, _Bytes] = {}
        for file, names in _files_of(self.path).items():
            found = _tensors_of(file)
            missing = (set(found) if names is None else names) - set(found)
            if missing:
                raise ValueError(
                    f"load: {file} must have the tensors that the index lists, got none named {min(missing)}"
                )
            self._tensors |= found

    def __getitem__(self, name: str) -> Stored:
        kind, shape, part = self._tensors[name]
        dtype = np.dtype(_TYPES[kind])
        aligned = part if part.ctypes.data % dtype.itemsize == 0 else part.copy()
        return Stored(kind, np.asarray(aligned).view(dtype).reshape(shape))

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _files_of(path: Path) -> dict[Path, set[str] | None]:
    """Return the files of a checkpoint, with the names of the tensors that an index lists."""
    if path.is_file():
        return {path: None}
    if (path / _SINGLE).is_file():
        return {path / _SINGLE: None}
    if not (path / _INDEX).is_file():
        raise FileNotFoundError(f"load: path must be a file or a folder with {_SINGLE} or {_INDEX}, got {path}")
    files: dict[Path, set[str] | None] = {}
    for name, file in json.loads((path / _INDEX).read_text())["weight_map"].items():
        names = files.setdefault(path / file, set())
        assert names is not None
        names.add(name)
    return files


def _tensors_of(file: Path) -> dict[str, _Bytes]:
    """Return the tensors of a file, as views of its memory map."""
    size = file.stat().st_size
    if size < _LENGTH:
        raise ValueError(f"load: {file} must be a file in the format safetensors, got {size} bytes")
    data = np.memmap(file, np.uint8, "r")
    length = int.from_bytes(data[:_LENGTH].tobytes(), "little")
    if not length <= min(_MOST, size - _LENGTH):
        raise ValueError(f"load: {file} must be a file in the format safetensors, got a header of {length} bytes")
    try:
        header = json.loads(data[_LENGTH : _LENGTH + length].tobytes())
    except ValueError as error:
        raise ValueError(f"load: {file} must have a header in JSON, got an error: {error}") from None
    body = data[_LENGTH + length :]
    return {name: _bytes_of(file, name, entry, body) for name, entry in header.items() if name != "__metadata__"}


def _bytes_of(file: Path, name: str, entry: Mapping[str, Any], body: Array) -> _Bytes:
    kind, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if kind not in _TYPES:
        raise ValueError(f"load: {name} must have one of the types {', '.join(_TYPES)}, got {kind}")
    dtype = np.dtype(_TYPES[kind])
    if not 0 <= first <= last <= len(body) or last - first != prod(shape) * dtype.itemsize:
        got = f"bytes {first} to {last} of {len(body)}"
        raise ValueError(f"load: {name} in {file} must have {prod(shape)} numbers of {dtype.itemsize} bytes, got {got}")
    return kind, shape, body[first:last]
