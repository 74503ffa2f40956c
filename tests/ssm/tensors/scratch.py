"""The scratch memory of the GPU kernels of linear attention, counted while calls process their heads in parts."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from fastiter.ssm._torch._gpu import triton_chunks as chunks


class Scratch:
    """Counts what calls allocate for the heads of each part, and the most that exists at once, in bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._live = self.peak = 0
        self.used: list[int] = []
        self._monkeypatch = monkeypatch
        new, parts = chunks.Problem.new, chunks.Problem.parts

        def counted(problem: Any, *shape: int, **options: Any) -> Any:
            memory = new(problem, *shape, **options)
            if self.used:
                self.used[-1] += memory.nbytes
                self._change(memory.nbytes)
                weakref.finalize(memory, self._change, -memory.nbytes)
            return memory

        def in_parts(*arguments: Any) -> Iterator[Any]:
            for part in parts(*arguments):
                self.used.append(0)
                yield part

        monkeypatch.setattr(chunks.Problem, "new", counted)
        monkeypatch.setattr(chunks.Problem, "parts", in_parts)

    def _change(self, nbytes: int) -> None:
        self._live += nbytes
        self.peak = max(self.peak, self._live)

    def limit(self, nbytes: int) -> None:
        """Let calls use at most this much, and begin to count."""
        self.used.clear()
        self.peak = 0
        self._monkeypatch.setattr(chunks, "SCRATCH", nbytes)
