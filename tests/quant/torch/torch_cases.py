"""Formats, numbers and layouts of the tests of fastiter.torch.quant."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

#: One format of each kind and rounding, followed by its arguments.
FORMATS: dict[str, dict[str, Any]] = {
    "fixed<8,4,RND_CONV,SAT>": {},
    "fixed<5,7,TRN,WRAP>": {},
    "ufixed<6,2,RND_ZERO,SAT_ZERO>": {},
    "fixed<40,8,TRN_ZERO,SAT_SYM>": {},
    "fixed<6,2,RND,WRAP_SM,2>": {},
    "fixed<8,4,STOCHASTIC,SAT>": {"rng": 5},
    "int8": {"scale": 0.05},
    "uint4": {"scale": 0.3, "zero_point": 5},
    "int4<RND_CONV,SAT_SYM>": {},
    "bf16": {},
    "e4m3fn": {"scale": 0.7},
    "e5m2<STOCHASTIC>": {"rng": 2**64 - 3},
    "e8m0": {},
    "posit<8,1>": {},
    "table<-1.0 -0.25 0.5 2.0>": {},
    "pow2<-6,2>": {},
    "khot<2,8,3>": {},
    "log2<-6,3,2>": {},
    "mxfp8_e4m3": {},
    "mxfp4_e2m1<16>": {},
    "nvfp4<16,STOCHASTIC>": {"rng": 9, "scale": 0.01},
    "bfp<6,8>": {},
    "nf4": {},
}

LAYOUTS = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "every other": lambda x: torch.stack([x, x], -1).flatten(-2)[..., ::2],
    "expanded": lambda x: x[:1].expand(x.shape),
    "negated": lambda x: torch.view_as_complex(torch.stack([x, -x], -1)).conj().imag,
}


def some_numbers(*shape: int, dtype: Any = np.float32, seed: int = 0) -> Any:
    """Return numbers of many magnitudes, a zero, and values beyond the range of most formats."""
    rng = np.random.default_rng(seed)
    x = np.asarray(rng.standard_normal(shape) * np.exp2(rng.integers(-6, 5, shape)))
    flat = x.reshape(-1)
    flat[:: max(len(flat) // 3, 1)] = 0.0
    return np.asarray(x.astype(dtype))
