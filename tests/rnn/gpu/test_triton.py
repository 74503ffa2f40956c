"""The Triton kernels of the recurrent cells agree with the specification: on a card, or interpreted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from tests.rnn.gpu.gpu_calls import check, check_options, check_packed, make  # noqa: E402
from tests.support.cases import RNN_CELLS  # noqa: E402

every_cell = pytest.mark.parametrize(("cell", "activation"), RNN_CELLS, ids=[*map("".join, RNN_CELLS)])
TOLD: dict[str, dict[str, Any]] = {"forward": {"backend": "triton"}, "backward": {"backend": "triton"}}


@pytest.fixture(autouse=True)
def nan_where_nothing_is_written() -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@every_cell
@pytest.mark.parametrize("size", [4, 2])
def test_the_specification(cell: str, activation: str, size: int, device: str) -> None:
    # the interpreter multiplies bfloat16 as raw bits
    dtype = torch.float32 if size == 4 else torch.bfloat16 if device == "cuda" else torch.float16
    # in 8 bits another gate may win the max in m, which changes a loss on m but not one on h alone
    bare = cell == "slstm" and size == 2
    cases: list[tuple[tuple[int, int, int, int], dict[str, Any]]] = [
        ((18, 2, 2, 19), {}),
        ((4, 4, 1, 33), {"reverse": True, "lengths": [2, 4, 0, 3]}),
        ((4, 4, 1, 9), {"lengths": [2, 3, 0, 1]}),
        ((2, 2, 1, 70), {}),
        ((2, 0, 1, 19), {}),
    ]
    for sizes, how in cases if size == 4 else cases[:2]:
        check(make(cell, activation, sizes, dtype, device, bare=bare), **how, **TOLD)
    check(make(cell, activation, (2, 1, 1, 16), dtype, device, bare=True), **TOLD)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", ["gru", "slstm"])
def test_packed_rows(cell: str, reverse: bool, device: str) -> None:
    check_packed(cell, reverse, device, **TOLD)


@every_cell
def test_clips_resets_and_cut_rows(cell: str, activation: str, device: str) -> None:
    check_options(cell, activation, device, **TOLD)
