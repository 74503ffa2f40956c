"""The emulated card detects races and overruns, and its tensor-core products are correct."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.gpu.host.host import HERE, Host, program  # noqa: E402

RACE = HERE / "race.cu"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that keeps the compiled programs for all tests."""
    return tmp_path_factory.mktemp("race")


def launch(
    folder: Path, sanitizer: str, kernel: str, *args: object, grid: int = 1, defines: dict | None = None
) -> None:
    host = Host(folder, sanitizer)
    host.run(program(RACE, folder, sanitizer, defines), kernel, (grid,), (32,), args, 128, grid > 1)


def test_a_missing_barrier_is_caught(folder: Path) -> None:
    x, total = torch.arange(32.0), torch.full((1,), torch.nan)
    launch(folder, "thread", "sum_of_block", x, total, defines={"BARRIER": 1})
    assert total == 496
    with pytest.raises(RuntimeError, match="data race"):
        launch(folder, "thread", "sum_of_block", x, total)


def test_a_barrier_that_some_threads_do_not_reach_is_an_error(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="threads wait at a barrier that the others do not reach"):
        launch(folder, "address", "part_of_block")


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_blocks_meet(folder: Path, sanitizer: str) -> None:
    x, y = torch.full((2, 96), torch.nan)
    launch(folder, sanitizer, "rotate_blocks", x, y, torch.zeros(1, dtype=torch.int32), grid=3)
    assert y.reshape(3, 32).tolist() == [[1.0] * 32, [2.0] * 32, [0.0] * 32]


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_packets_come_with_their_tags(folder: Path, sanitizer: str) -> None:
    packets, y = torch.zeros(6, dtype=torch.int64), torch.full((96,), torch.nan)
    launch(folder, sanitizer, "rotate_packets", packets, y, grid=3)
    assert y.reshape(3, 32).tolist() == [[1.0] * 32, [2.0] * 32, [0.0] * 32]


def test_an_overrun_is_caught(folder: Path) -> None:
    x = torch.zeros(8)
    launch(folder, "address", "overrun", x, np.int64(7))
    with pytest.raises(RuntimeError, match="heap-buffer-overflow"):
        launch(folder, "address", "overrun", x, np.int64(8))


@pytest.mark.parametrize(("kernel", "dtype"), [("multiply_bf16", torch.bfloat16), ("multiply_f16", torch.float16)])
def test_products_of_tensor_cores(folder: Path, kernel: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(-8, 9, shape, generator=generator).to(dtype) for shape in ((16, 16), (16, 8)))
    c = torch.full((16, 8), torch.nan)
    launch(folder, "address", kernel, a, b, c)
    assert torch.equal(c, a.float() @ b.float())  # integers, so exact in any order
