"""Parameters of packed weights: operations on them give what they give on the numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn.functional import embedding, linear  # noqa: E402

from fastiter.decode._pack import pack  # noqa: E402
from fastiter.decode._torch.substitute import PackedWeight, Parts  # noqa: E402
from fastiter.decode.plan import Matrix  # noqa: E402

N, K, HEADS = 24, 20, 4


@pytest.fixture(scope="module")
def numbers() -> Any:
    """Return numbers that bfloat16 stores exactly."""
    return np.random.default_rng(0).integers(-127, 128, (N, K)).astype(np.float32)


def weight_of(numbers: Any, shape: tuple[int, ...], *matrices: Matrix) -> tuple[Any, Any]:
    """Return a parameter of packed matrices, and the same as a tensor."""
    plain = torch.from_numpy(numbers.copy()).view(shape)
    packed = {matrix: pack(np.ascontiguousarray(matrix.of(plain.numpy())), "bf16") for matrix in matrices}
    parts = Parts(plain.shape, torch.float32, packed)
    assert parts.is_whole()
    return PackedWeight(parts), plain


WHOLE = (Matrix("w", N, K),)
BLOCKS = tuple(Matrix("w", N, K).blocks(first, 3, 6) for first in (0, 3))
STACK = tuple(Matrix("w", 3, K, first) for first in range(0, N, 3))
TRANSPOSED = tuple(Matrix("w", K, N // HEADS, first, transposed=True) for first in range(0, N, N // HEADS))
LAYOUTS: dict[str, tuple[tuple[int, ...], tuple[Matrix, ...]]] = {
    "whole": ((N, K), WHOLE),
    "blocks": ((N, K), BLOCKS),
    "stack": ((HEADS, N // HEADS, K), STACK),
    "transposed": ((HEADS, N // HEADS, K), TRANSPOSED),
}


def inputs(rows: int) -> Any:
    return torch.randn(rows, K, generator=torch.Generator().manual_seed(rows))


ON_ALL: dict[str, Callable[[Any], Any]] = {
    "clone": lambda w: w.clone(),
    "detach": lambda w: w.detach(),
    "data": lambda w: w.data,
    "to": lambda w: w.double(),
    "numpy": lambda w: torch.from_numpy(w.numpy().copy()),
    "list": lambda w: torch.tensor(w.tolist()),
    "item": lambda w: w[1].clone(),
    "slice": lambda w: w[1:3],
    "view": lambda w: w.view(-1),
    "stack": lambda w: torch.stack([w, w]),
    "product": lambda w: inputs(3) @ w.transpose(-1, -2),
}
ON_MATRICES: dict[str, Callable[[Any], Any]] = {
    "one row": lambda w: linear(inputs(1)[0], w),
    "rows": lambda w: linear(inputs(6).view(2, 3, K), w, torch.arange(N, dtype=torch.float32)),
    "many rows": lambda w: linear(inputs(300), w),
    "table": lambda w: embedding(torch.tensor([[3, 1], [3, 0]]), w),
    "by name": lambda w: linear(input=inputs(2), weight=w, bias=None),
    "without gradients": lambda w: linear(inputs(2).requires_grad_(), w),
    "gradient": lambda w: torch.autograd.grad(linear(x := inputs(2).requires_grad_(), w).square().sum(), x)[0],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_operations(layout: str, numbers: Any) -> None:
    shape, matrices = LAYOUTS[layout]
    packed, plain = weight_of(numbers, shape, *matrices)
    assert (packed.shape, packed.dtype, packed.device) == (plain.shape, plain.dtype, plain.device)
    for name, operation in {**ON_ALL, **(ON_MATRICES if packed.dim() == 2 else {})}.items():
        with torch.set_grad_enabled(name == "gradient"):
            found, expected = operation(packed), operation(plain)
        assert type(found) is torch.Tensor
        assert found.dtype == expected.dtype
        # Products of K numbers up to 127 with a few others
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=K * 127 * 1e-6, msg=lambda m, of=name: f"{of}: {m}")


def test_an_expert_is_not_unpacked(numbers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    packed, plain = weight_of(numbers, *LAYOUTS["stack"][:1], *STACK)
    monkeypatch.setattr(Parts, "tensor", None)
    for index in (0, 2, torch.tensor(3)):
        torch.testing.assert_close(
            linear(inputs(5), packed[index]), linear(inputs(5), plain[index]), rtol=1e-5, atol=1e-2
        )
