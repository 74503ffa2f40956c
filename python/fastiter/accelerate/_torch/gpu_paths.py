"""Mixers in transformers before 5.15: their GPU path, with functions for the CPU instead of those of GPU packages.

Such a mixer has a ``slow_forward`` or ``torch_forward`` in torch's operations, and a ``cuda_kernels_forward``, which
calls functions of mamba_ssm and causal_conv1d by global names. Both compute the same. The second path, with these
functions exchanged, replaces the first.
"""

from __future__ import annotations

import inspect
import math
import types
from contextlib import nullcontext
from typing import Any, NamedTuple

from torch import Tensor

from ...ssm._conv_shapes import Activation
from ...ssm._torch.causal_conv import causal_conv1d, causal_conv1d_update
from ...ssm._torch.functional import selective_scan, selective_state_update
from .conv import ACTIVATIONS
from .functions import WithCuda, in_float64_if, is_single_step_with_gradients, on_cpu
from .mamba import mamba2
from .rebind import names_of, parameters_of, rebound

_NO_LIMITS = (0.0, math.inf)
_SLOW, _FAST = ("slow_forward", "torch_forward"), "cuda_kernels_forward"
#: Functions of the packages, and their replacements; the first one that a path calls is reported
_BY = {
    "selective_scan_fn": "ssm.selective_scan",
    "mamba_chunk_scan_combined": "ssm.ssd",
    "causal_conv1d_fn": "ssm.causal_conv1d",
}


class Paths(NamedTuple):
    """The two paths of a mixer: the name of the slow one, both methods, and the name of the replacement."""

    name: str
    slow: Any
    fast: Any
    by: str


def paths_of(methods: dict[str, types.FunctionType]) -> Paths | None:
    """Return the paths of a class with these methods, None if it is not such a mixer."""
    name = next((name for name in _SLOW if name in methods), None)
    if name is None or _FAST not in methods:
        return None
    used = names_of(methods[_FAST])
    by = next((by for function, by in _BY.items() if function in used), None)
    return None if by is None else Paths(name, methods[name], methods[_FAST], by)


def reason_against(paths: Paths) -> str | None:
    """Return why one path cannot replace the other, None if it can; the fast one may have more options."""
    slow, fast = (parameters_of(path)[2:] for path in (paths.slow, paths.fast))
    options = [inspect.signature(paths.fast).parameters[name] for name in fast[len(slow) :]]
    if fast[: len(slow)] == slow and all(p.default is not p.empty for p in options):
        return None
    return f"its {_FAST} takes {', '.join(fast)}, and its {paths.name} {', '.join(slow)}"


def reason_against_module(module: Any) -> str | None:
    """Return why a mixer with two paths takes neither on a CPU, None if it takes the slow one."""
    if getattr(module, "use_fast_kernels", False) is not True:
        return None
    why = "its use_fast_kernels is True, and its forward then raises an error on CPUs"
    return f"{why}; build the model with use_mamba_kernels=False"


def forward_of(paths: Paths) -> Any:
    """Return the replacement for the slow path.

    The original runs for tensors that are not on the CPU, for activations that the convolution does not support, for
    a single step if gradients are enabled, and for one with a cache if step sizes have limits, which the functions for
    steps lack.
    """
    theirs, ours = paths.slow, rebound(paths.fast, _FUNCTIONS)
    names, used = parameters_of(theirs)[1:], names_of(theirs)

    def limits_of(self: Any) -> Any:
        """Return the limits of step sizes in the slow path; in Zamba2 and NemotronH the fast one has others."""
        name = next((name for name in ("time_step_limit", "dt_limit") if name in used), None)  # dt_limit in fla
        if name is not None:
            return tuple(getattr(self, name))
        return (self.time_step_min, math.inf) if "time_step_min" in used else _NO_LIMITS

    def forward(self: Any, *args: Any, **options: Any) -> Any:
        arguments = {**dict(zip(names, args, strict=False)), **options}
        x, cache = arguments[names[0]], arguments.get(names[1])
        is_step, limits = cache is not None and x.shape[1] == 1, limits_of(self)
        not_ours = is_single_step_with_gradients(x) or (is_step and limits != _NO_LIMITS)
        if not_ours or getattr(self, "activation", None) not in ACTIVATIONS or not on_cpu(x):
            return theirs(self, *args, **options)
        return ours(_Evaluated(self, limits), x, **{name: arguments[name] for name in names[1:] if name in arguments})

    return forward


class _Evaluated:
    """A view of a mixer in eval mode: in training mode it would call one fused function for everything.

    That function normalises FalconMamba's step sizes after their projection, while ``slow_forward`` does it before.
    Mixers of fla store functions for convolutions, by default Triton's, which have other arguments.
    """

    training, backend = False, "cuda"

    def __init__(self, mixer: Any, limits: tuple[float, float]) -> None:
        self._mixer, self.time_step_limit = mixer, limits
        self.causal_conv1d_fn, self.causal_conv1d_update = _causal_conv1d_fn, _causal_conv1d_update

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mixer, name)


# ---- Replacements for the functions of mamba_ssm and causal_conv1d ---------------------------------------------------


def _selective_scan_fn(u: Tensor, delta: Tensor, *rest: Tensor | None, **options: Any) -> Any:
    return selective_scan(u, *in_float64_if(u, delta, *rest), **options)


def _selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
) -> Tensor:
    dt, A, B, C, D, z, dt_bias = in_float64_if(x, dt, A, B, C, D, z, dt_bias)
    return selective_state_update(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus)


def _chunk_scan(x: Tensor, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
    """Return the output in the original's form, and the final states, which all callers request."""
    out, last = _COMBINED(x, *arguments, **options)
    return out.to(x.dtype).contiguous(), last


def _on_other_devices(x: Tensor, *_: Any, **options: Any) -> Any:
    raise AssertionError(f"the slow path runs on {x.device}")


_COMBINED = mamba2.chunk_scan(_on_other_devices)


def _causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: Activation | None = None,
    seq_idx: Tensor | None = None,
) -> Any:
    weight, bias = in_float64_if(x, weight, bias)
    return causal_conv1d(x, weight, bias, seq_idx=seq_idx, activation=activation)


def _causal_conv1d_update(
    x: Tensor, conv_state: Tensor, weight: Tensor, bias: Tensor | None = None, activation: Activation | None = None
) -> Tensor:
    weight, bias = in_float64_if(x, weight, bias)
    return causal_conv1d_update(x, conv_state, weight, bias, activation)


_FUNCTIONS: dict[str, Any] = {
    "torch": WithCuda(device=lambda _: nullcontext()),  # FalconH1 makes its tensors' GPU the current one
    "selective_scan_fn": _selective_scan_fn,
    "selective_state_update": _selective_state_update,
    "mamba_chunk_scan_combined": _chunk_scan,
    "causal_conv1d_fn": _causal_conv1d_fn,
    "causal_conv1d_update": _causal_conv1d_update,
    "_lazy_load_causal_conv1d": lambda: (_causal_conv1d_update, _causal_conv1d_fn),
}
