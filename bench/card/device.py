"""The device on which the items of a step run: the card, or a CPU with the emulation."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from bench.card import emulated
from fastiter.tune import Device

T = TypeVar("T")


class Place:
    """A card, or for a dry run the emulation of one."""

    def __init__(self, dry: bool) -> None:
        self.dry = dry
        self.device = "cpu" if dry else "cuda"

    def run(self, call: Callable[[], T]) -> T:
        """Return the result of the call with the kernels for cards, once it has been computed."""
        with emulated.routed() if self.dry else contextlib.nullcontext():
            result = call()
        self.wait()
        return result

    def card(self) -> Device:
        """Return the card's numbers, or in a dry run those that launches on a CPU are planned with."""
        from fastiter.rnn._torch._gpu import launch_plan

        return launch_plan.card(torch.empty(0, device=self.device))

    def wait(self) -> None:
        """Wait for the card."""
        if not self.dry:
            torch.cuda.synchronize()

    def milliseconds(self, call: Callable[[], object], rounds: int = 5) -> float:
        """Return the minimum of several rounds by the device's clock; in a dry run, one round by the CPU's clock."""
        if self.dry:
            started = time.perf_counter()
            self.run(call)
            return 1e3 * (time.perf_counter() - started)
        for _ in range(2):
            call()
        best = math.inf
        for _ in range(rounds):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            end.synchronize()
            best = min(best, begin.elapsed_time(end))
        return best


def drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return normal numbers, the same on every machine."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def error(result: Tensor, exact: Tensor) -> float:
    """Return the largest error relative to the largest exact value; infinite if a value is not finite."""
    result, exact = result.detach().cpu().double(), exact.detach().double()
    if result.shape != exact.shape or not result.isfinite().all():
        return math.inf
    return (result - exact).abs().max().item() / max(exact.abs().max().item(), 1e-300)


def bound(dtype: torch.dtype, length: int, width: int) -> float:
    """Return the rounding error allowed after sums of this length and width, the same as in the tests."""
    return torch.finfo(dtype).eps * (8 + math.sqrt(length) + math.sqrt(width))
