"""The shapes of the arguments of linear attention, for arrays and tensors alike."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from numbers import Real
from typing import Any, NamedTuple

from .._check import fits_float, type_name

Shape = tuple[int, ...]
#: The largest finite float32 and float64
_LARGEST = (float.fromhex("0x1.fffffep127"), sys.float_info.max)
#: The arguments for a decay, by the numbers of their forms in the kernels: the factor of the state, or its logarithm
DECAY_FORMS = ("decay", "log_decay")


class AttentionSizes(NamedTuple):
    """B rows of T steps; N heads of values, H heads of queries and keys; widths K and V."""

    batch: int
    time: int
    heads: int
    key_heads: int
    keys: int
    values: int

    def states(self, count: int) -> tuple[int, int, int, int]:
        """Return the shape of the states of ``count`` sequences."""
        return count, self.heads, self.keys, self.values


def check_attention_shapes(function: str, shapes: Mapping[str, Shape]) -> AttentionSizes:
    """Return the sizes if the shapes of the given arguments, by name, are consistent."""
    q, k, v = shapes["q"], shapes["k"], shapes["v"]
    if len(q) != 4 or q[2] < 1 or q[3] < 1:
        raise ValueError(f"{function}: q must have shape (B, T, H, K), got {tuple(q)}")
    batch, time, key_heads, keys = q
    if tuple(k) != tuple(q):
        raise ValueError(f"{function}: k must have shape (B, T, H, K) = {tuple(q)} like q, got {tuple(k)}")
    if len(v) != 4 or (v[0], v[1]) != (batch, time) or v[2] < 1 or v[2] % key_heads or v[3] < 1:
        raise ValueError(
            f"{function}: v must have shape (B, T, N, V) = ({batch}, {time}, N, V) with N a multiple of "
            f"H = {key_heads}, got {tuple(v)}"
        )
    heads, values = v[2:]
    sizes = AttentionSizes(batch, time, heads, key_heads, keys, values)
    for name in DECAY_FORMS:
        if name in shapes:
            _check_decay(function, name, tuple(shapes[name]), sizes)
    if "bonus" in shapes and tuple(shapes["bonus"]) != (heads, keys):
        raise ValueError(f"{function}: bonus must have shape (N, K) = {(heads, keys)}, got {tuple(shapes['bonus'])}")
    return sizes


def check_correction_shapes(function: str, shapes: Mapping[str, Shape], sizes: AttentionSizes) -> None:
    """Check the shapes of a and b of :func:`dplr_delta_rule`."""
    expected = (sizes.batch, sizes.time, sizes.heads, sizes.keys)
    for name in ("a", "b"):
        if tuple(shapes[name]) != expected:
            raise ValueError(f"{function}: {name} must have shape (B, T, N, K) = {expected}, got {tuple(shapes[name])}")


def _check_decay(function: str, name: str, shape: Shape, sizes: AttentionSizes) -> None:
    batch, time, heads, _, keys, _ = sizes
    per_head = (batch, time, heads)
    known = {1: (heads,), 3: per_head, 4: (*per_head, keys)}
    if known.get(len(shape)) != shape:
        raise ValueError(
            f"{function}: {name} must have shape (B, T, N) = {per_head}, (B, T, N, K) = {known[4]}, or "
            f"(N,) = {(heads,)}, got {shape}"
        )


def check_attention_state(function: str, shape: Shape, count: int, sizes: AttentionSizes, packed: bool) -> None:
    """Check the shape of the initial states."""
    expected = sizes.states(count)
    if tuple(shape) != expected:
        letter = "S" if packed else "B"
        got = tuple(shape)
        raise ValueError(f"{function}: state must have shape ({letter}, N, K, V) = {expected}, got {got}")


def chosen_decay(function: str, forms: Mapping[str, Any]) -> tuple[Any, int]:
    """Return the decay, None if it is not given, and the number of its form; it must be given in only one."""
    names = [name for name, x in forms.items() if x is not None]
    if len(names) > 1:
        raise ValueError(f"{function}: {names[1]} must be None if {names[0]} is given, got both")
    return (forms[names[0]], DECAY_FORMS.index(names[0])) if names else (None, 0)


def checked_scale(function: str, scale: object, double: bool) -> float:
    """Return the scale of q as a float; it must be finite in the arithmetic: float64 if ``double``, else float32."""
    if not isinstance(scale, Real) or isinstance(scale, bool):
        raise TypeError(f"{function}: scale must be a number, got {type_name(scale)}")
    if not fits_float(scale) or not abs(float(scale)) <= _LARGEST[double]:
        raise ValueError(f"{function}: scale must be finite in float{64 if double else 32}, got {scale}")
    return float(scale)
