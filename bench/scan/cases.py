"""The tasks of the family scan: ours, and loops over the steps for the gate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import fastiter
import fastiter.torch
from bench.harness import gate
from bench.harness.contest import Call, Work, leaves, on_fresh_pages

Shape = tuple[int, int, int]
FULL: Shape = (8, 4096, 256)  # (B, T, D)
QUICK: Shape = (2, 64, 16)


def loop_over_unbound_steps(a: Tensor, x: Tensor, axis: int = 1) -> Tensor:
    """The loop of a user who avoids h[:, t], whose indexing makes the backward pass quadratic."""
    h = torch.zeros_like(x.select(axis, 0))
    every_h = []
    for a_t, x_t in zip(a.unbind(axis), x.unbind(axis), strict=True):
        h = torch.addcmul(x_t, a_t, h)
        every_h.append(h)
    return torch.stack(every_h, axis)


def decay(*shape: int) -> Tensor:
    """Factors close to 1, so that products of thousands of them, which peers form, do not become subnormal."""
    return torch.exp(-0.02 * torch.rand(*shape))


def linear_work(shape: Shape) -> Work:
    torch.manual_seed(0)
    return Work(
        f"linear_scan {shape}",
        lambda a, x: fastiter.torch.linear_scan(a, x)[0],
        loop_over_unbound_steps,
        leaves(a=decay(*shape), x=torch.randn(shape)),
        torch.randn(shape),
        shape[1],
    )


# ---- Forward into preallocated memory -------------------------------------------------------------------------------

Array = np.ndarray


@dataclass(frozen=True)
class Transfer:
    """A forward pass that does little more than read its inputs and write its output."""

    name: str
    function: Callable[..., tuple[Array, Array]]
    loop: Callable[[Array, Array], Array]
    inputs: tuple[Array, Array]
    out: Array

    @property
    def nbytes(self) -> int:
        """Every input and output once."""
        return sum(array.nbytes for array in (*self.inputs, self.out))

    def into_out(self) -> Call:
        return lambda: self.function(*self.inputs, out=self.out)

    def fresh(self) -> Call:
        return on_fresh_pages(lambda: self.function(*self.inputs))

    def check(self) -> float:
        expected = torch.from_numpy(self.loop(*self.inputs).astype(self.out.dtype))
        self.out.fill(np.nan)
        results = {"out": self.into_out(), "fresh": lambda: self.function(*self.inputs)}
        arrays = {name: torch.from_numpy(call()[0]) for name, call in results.items()}  # type: ignore[index]
        return gate.check(self.name, arrays, dict.fromkeys(arrays, expected), self.out.shape[1])


def linear_loop(a: Array, x: Array) -> Array:
    h = np.zeros(x[:, 0].shape)
    every_h = np.empty(x.shape)
    for t in range(x.shape[1]):
        h = a[:, t] * h + x[:, t]
        every_h[:, t] = h
    return every_h


def block_loop(A: Array, x: Array) -> Array:
    h = np.zeros(x[:, 0].shape)
    every_h = np.empty(x.shape)
    for t in range(x.shape[1]):
        h = np.einsum("bnij,bnj->bni", A[:, t], h) + x[:, t]
        every_h[:, t] = h
    return every_h


def linear_transfer(shape: Shape) -> Transfer:
    torch.manual_seed(0)
    inputs = decay(*shape).numpy(), torch.randn(shape).numpy()
    return Transfer(f"linear_scan {shape}", fastiter.linear_scan, linear_loop, inputs, np.empty(shape, np.float32))


def block_transfer(shape: Shape, K: int) -> Transfer:
    """The same states in groups of K, each with a K x K matrix that shrinks it slightly."""
    torch.manual_seed(0)
    B, T, D = shape
    N = D // K
    A = (0.5 * K**-0.5 * torch.randn(B, T, N, K, K)).numpy()
    out = np.empty((B, T, N, K), np.float32)
    return Transfer(
        f"block_scan K = {K} {(B, T, N, K)}", fastiter.block_scan, block_loop, (A, torch.randn(out.shape).numpy()), out
    )
