"""The shapes of the arguments of scans, for arrays and tensors alike."""

from __future__ import annotations

from collections.abc import Sequence

Shape = tuple[int, ...]

#: The largest K of a K x K block
LARGEST_BLOCK = 16


def check_linear_shapes(function: str, a: Shape, x: Shape) -> None:
    """Check that ``x`` is (B, T, D), and that ``a`` broadcasts to it."""
    if len(x) != 3:
        raise ValueError(f"{function}: x must have shape (B, T, D), got {tuple(x)}")
    if not _broadcasts(a, x):
        raise ValueError(f"{function}: a must be broadcastable to x with shape (B, T, D) = {tuple(x)}, got {tuple(a)}")


def check_block_shapes(function: str, A: Shape, x: Shape) -> None:
    """Check that ``x`` is (B, T, N, K), and that ``A`` is (B, T, N, K, K) or broadcasts to it over B and T."""
    if len(x) != 4:
        raise ValueError(f"{function}: x must have shape (B, T, N, K), got {tuple(x)}")
    if not 1 <= x[3] <= LARGEST_BLOCK:
        raise ValueError(f"{function}: x must have blocks of K = 1 to {LARGEST_BLOCK}, got shape {tuple(x)}")
    expected = (*x, x[3])
    if len(A) < 3 or A[-3:] != expected[2:] or not _broadcasts(A, expected):
        raise ValueError(
            f"{function}: A must be broadcastable over B and T to (B, T, N, K, K) = {expected} to go with x, "
            f"got {tuple(A)}"
        )


def _broadcasts(shape: Shape, to: Shape) -> bool:
    if len(shape) > len(to):
        return False
    for size, full in zip(shape, to[len(to) - len(shape) :], strict=True):  # noqa: SIM110 (a generator takes longer)
        if size not in (1, full):
            return False
    return True


def check_first(function: str, state: Shape, sequences: int, inner: Sequence[int], packed: bool) -> None:
    """Check the shape of the initial states of ``sequences`` sequences."""
    if tuple(state) != (sequences, *inner):
        letters = "S" if packed else "B"
        units = "D" if len(inner) == 1 else "N, K"
        raise ValueError(
            f"{function}: state must have shape ({letters}, {units}) = {(sequences, *inner)}, got {tuple(state)}"
        )
