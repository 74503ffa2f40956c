"""Replacements for functions of mamba_ssm and causal_conv1d, which are GPU kernels and do not run on CPUs.

There is no trial: the interfaces are documented by the packages, and the originals could not be called on a CPU.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from ....ssm._torch.compat import causal_conv1d, mamba_ssm, mamba_ssm_norms
from ..functions import Function, WithCuda, on_cpus
from ..rebind import parameters_of, rebound

_STATES = ("state", "conv_state")  # arguments that are updated in place


def _with_weights_in_float32(ours: Function) -> Function:
    """Return a replacement that accepts float32 weights with float64 signals, as modules convert A and D to float32."""
    names = parameters_of(ours)

    def function(*args: Any, **options: Any) -> Any:
        arguments = dict(zip(names, args, strict=False)) | options
        if any(isinstance(x, Tensor) and x.dtype == torch.float64 for x in arguments.values()):
            arguments = {name: x if name in _STATES else _widened(x) for name, x in arguments.items()}
        return ours(**arguments)

    return function


class _Event:
    """A torch.cuda.Event for the CPU, which executes everything immediately."""

    def __init__(self, enable_timing: bool = False) -> None:
        self._time = 0.0

    def record(self) -> None:
        self._time = perf_counter()

    def elapsed_time(self, end: _Event) -> float:
        """Return the milliseconds between two events."""
        return 1e3 * (end._time - self._time)


def decode(theirs: Any) -> Function:
    """Return decode of mamba_ssm, which generates tokens, without GPU events."""
    without = rebound(theirs, {"torch": WithCuda(Event=_Event, synchronize=lambda: None)})
    return on_cpus(without)(theirs)


def _widened(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.dtype == torch.float32 else x


#: By package: the replacements, with the number of leading parameters on whose order modules rely
_OURS: dict[str, dict[Function, int]] = {
    "mamba_ssm": {
        mamba_ssm.selective_scan_fn: 10,
        mamba_ssm.mamba_inner_fn: 15,
        mamba_ssm.selective_state_update: 10,
        mamba_ssm.mamba_chunk_scan_combined: 6,
        mamba_ssm.mamba_split_conv1d_scan_combined: 7,
        mamba_ssm_norms.layer_norm_fn: 4,
        mamba_ssm_norms.rms_norm_fn: 4,
        mamba_ssm_norms.layernorm_fn: 4,
        mamba_ssm_norms.rmsnorm_fn: 4,
    },
    "causal_conv1d": {
        causal_conv1d.causal_conv1d_fn: 4,
        causal_conv1d.causal_conv1d_update: 5,
        causal_conv1d.causal_conv1d_varlen_states: 3,
    },
}
#: By the original's name: the leading parameters, the replacement, and its name below ``fastiter.torch``
FUNCTIONS: dict[str, tuple[tuple[str, ...], Function, str]] = {
    ours.__name__: (parameters_of(ours)[:count], _with_weights_in_float32(ours), f"compat.{package}.{ours.__name__}")
    for package, counts in _OURS.items()
    for ours, count in counts.items()
}
