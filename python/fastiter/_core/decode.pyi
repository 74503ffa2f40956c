"""Packed weights, and programs. A stub."""

from typing import Any

from . import Address

class PackedMatrix:
    def __init__(self, format: str, N: int, K: int, group: int, scale: float, /) -> None: ...
    @property
    def N(self) -> int: ...
    @property
    def K(self) -> int: ...
    @property
    def group(self) -> int: ...
    @property
    def scale(self) -> float: ...
    @property
    def format(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    def pack_rows(self, first: int, count: int, codes: Address, scales: Address, /) -> None: ...
    def unpack_rows(self, first: int, count: int, out: Address, /) -> None: ...
    def multiply(self, M: int, x: Address, stride: int, y: Address, /) -> None: ...

class Program:
    def __init__(
        self,
        bits: int,
        rows: int,
        buffers: list[tuple[str, int]],
        states: list[tuple[str, bool, list[int]]],
        operations: list[tuple[Any, ...]],
        /,
    ) -> None: ...
    def set_threads(self, threads: int, /) -> None: ...
    @property
    def vocabulary(self) -> int: ...
    @property
    def waits(self) -> list[int]: ...
    @property
    def nbytes(self) -> int: ...
    def step(
        self,
        tokens: Address,
        positions: Address,
        firsts: Address,
        length: int,
        capacity: int,
        states: Address,
        logits: Address,
        /,
    ) -> None: ...
    def generate(
        self,
        tokens: Address,
        positions: Address,
        firsts: Address,
        length: int,
        capacity: int,
        states: Address,
        sampling: tuple[float, int, float, float, float],
        uniform: Address,
        stops: Address,
        pad: int,
        seen: Address,
        out: Address,
        /,
    ) -> int: ...
