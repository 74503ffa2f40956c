"""The steps rnn, memory, products and newton: contests of bench/cuda, one record each.

In a dry run they use the CPU's own kernels.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from bench import cuda
from bench.card.flashrnn_build import only_built
from bench.card.worker import Item
from bench.harness.record import Record

#: Head sizes, those with a goal first, so that an exhausted budget leaves out the others
WIDTHS = (64, 768, 128, 256, 192, 16, 32, 384, 512)
TIMES = (8192, 512, 2048)


def sizes(dry: bool) -> cuda.Sizes:
    return cuda.SMALL if dry else replace(cuda.Sizes("cuda"), rounds=5)


def rnn(dry: bool) -> list[Item]:
    its = sizes(dry)
    pairs = [("lstm", its.widths[0])] if dry else [(cell, width) for width in WIDTHS for cell in ("lstm", "slstm")]
    return [Item(f"{cell} {width}", partial(cuda.recurrent, its, cell, width, only_built), 6) for cell, width in pairs]


def memory(dry: bool) -> list[Item]:
    its = sizes(dry)

    def measured(name: str) -> Record:
        return list(cuda.memory(its, [name]))[1]

    names = ["linear_scan", "quantize int8"] if dry else cuda.works_of_memory(its)
    return [Item(name, partial(measured, name), 3, 40) for name in names]


def products(dry: bool) -> list[Item]:
    its = sizes(dry)

    def measured(accumulator: tuple[str, int]) -> Record:
        theirs, ours = cuda.products(its, [accumulator])
        return {**ours, "torch_ms": theirs["ms"]}

    chosen = cuda.ACCUMULATORS[:1] if dry else cuda.ACCUMULATORS
    return [Item(f"{name}, every {every}", partial(measured, (name, every)), 4, 40) for name, every in chosen]


def newton(dry: bool) -> list[Item]:
    its = sizes(dry)
    every = [(*size, length, cell) for size in its.para for length in TIMES for cell in ("paragru", "paralstm")]
    every = [(*its.para[0], its.times[0], "paragru")] if dry else every
    listed = []
    for batch, units, length, cell in every:
        # The loop has some hundred launches of 5 us a step, forward and backward, in each of seven rounds.
        expected = 4 + (7 * 500e-6 * length if cell == "paragru" else 0)
        call = partial(cuda.diagonal, its, cell, batch, units, length)
        listed.append(Item(f"{cell}, B {batch}, D {units}, T {length}", call, expected, 90))
    return listed
