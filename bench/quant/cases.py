"""The tasks of the family quant: floats rounded to a format and back, and the specification for the gate."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from bench.harness.contest import FRESH, REUSED, Call, Results, on_fresh_pages
from bench.harness.gate import GateError
from fastiter.quant import Fixed, parse, quantize

FULL, QUICK = 1 << 22, 1 << 12  # elements
CHECKED = 1 << 11  # elements at the start that are compared with the specification, which is slow
SEED = 1
MAY_DIFFER = 1e-3  # fraction of a peer's elements: another rule for ties, or double rounding

#: Every rounding mode, every overflow mode; integers; floats
ELEMENTWISE = (
    *(f"fixed<8,4,{q},SAT>" for q in ("TRN", "TRN_ZERO", "RND", "RND_ZERO", "RND_MIN_INF", "RND_INF", "RND_CONV")),
    *(f"fixed<8,4,TRN,{o}>" for o in ("SAT_ZERO", "SAT_SYM", "WRAP", "WRAP,3", "WRAP_SM", "WRAP_SM,1", "WRAP_SM,3")),
    *("fixed<8,4,RND_CONV,WRAP>", "fixed<8,4,RND_CONV,WRAP_SM,3>", "fixed<24,12,RND_CONV,SAT>", "ufixed<8,4,RND,SAT>"),
    *("int8", "bf16", "tf32", "fp16", "e5m2", "e4m3fn", "e4m3fnuz", "e2m3", "e2m1"),
)
BLOCKS = (
    "mxfp8_e4m3",
    "mxfp8_e5m2",
    "mxfp6_e2m3",
    "mxfp4_e2m1",
    "mxfp4_e2m1<32,RCEIL>",
    "mxint8",
    "nvfp4",
    "bfp<6,16>",
)
STOCHASTIC = (
    *("fixed<8,4,STOCHASTIC,SAT>", "int8<STOCHASTIC>", "e4m3fn<STOCHASTIC>", "bf16<STOCHASTIC>"),
    *("mx<e2m1<STOCHASTIC>>", "nvfp4<16,STOCHASTIC>", "bfp<6,16,STOCHASTIC>"),
)
OTHERS = (
    "posit<16,1>",
    "posit<8,0>",
    "nf4",
    "table<-1.0 -0.5 -0.25 0.0 0.25 0.5 1.0>",
    "pow2<-8,3>",
    "khot<2,8,4>",
    "log2<-8,3,2>",
)
FORMATS = (*ELEMENTWISE, *BLOCKS, *STOCHASTIC, *OTHERS)

Array = np.ndarray


@dataclass(frozen=True)
class Task:
    """x rounded to the numbers of a format."""

    fmt: str
    x: Array
    out: Array
    scale: float | None = None

    @property
    def name(self) -> str:
        return self.fmt

    @property
    def nbytes(self) -> int:
        return self.x.nbytes + self.out.nbytes

    def ours(self, out: Array | None = None) -> Array:
        return quantize(self.x, self.fmt, scale=self.scale, rng=SEED, out=out)

    def forms(self) -> dict[str, Call]:
        return {FRESH: on_fresh_pages(self.ours), REUSED: lambda: self.ours(self.out)}

    @cached_property
    def expected(self) -> Array:
        return self.ours()

    def check(self) -> float:
        """Raise if ours differs from the specification in a single bit; else return a difference of 0."""
        self.out.fill(np.nan)
        first = self.x[:CHECKED]
        exact = quantize(first, self.fmt, scale=self.scale, rng=SEED, backend="reference")
        for y in (self.ours(self.out), self.expected):
            if y[:CHECKED].tobytes() != exact.tobytes() or y.tobytes() != self.expected.tobytes():
                raise GateError(f"{self.name}: y differs from the specification")
        return 0.0

    def compare(self, name: str, results: Results) -> float:
        """Raise if a peer's result is wrong; with stochastic rounding, it must be one of the two neighbours."""
        y = results["y"].numpy()
        if y.shape != self.x.shape:
            raise GateError(f"{name}: y has shape {y.shape}, not {self.x.shape}")
        difference = np.abs(y.astype(np.float64) - self.expected)
        fmt = parse(self.fmt)
        if fmt.stochastic:
            assert isinstance(fmt, Fixed)
            bias = abs(float(np.mean(y.astype(np.float64) - self.expected)))
            wrong = float(np.mean(~(difference <= float(fmt.step))))
            if bias > 4 * float(fmt.step) * y.size**-0.5:
                raise GateError(f"{name}: y has a bias of {bias:.1e}")
        else:
            wrong = float(np.mean(difference != 0))
        if wrong > MAY_DIFFER:
            raise GateError(f"{name}: {wrong:.1%} of y differ")
        return wrong


def task(fmt: str, elements: int) -> Task:
    """Normal numbers with a standard deviation of 2: some exceed fixed<8,4>, few are subnormal in small floats."""
    x = 2 * torch.randn(elements, generator=torch.Generator().manual_seed(0)).numpy()
    scale = 2.0**-4 if fmt.startswith("int8") else None
    return Task(fmt, x, np.zeros_like(x), scale)
