"""Checks of the shapes of causal convolutions' arguments, for arrays and tensors alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

Shape = tuple[int, ...]
#: The activation of a causal convolution: SiLU under either of its names
Activation: TypeAlias = Literal["silu", "swish"]


class ConvSizes(NamedTuple):
    """B rows of D channels with T steps, convolved with W taps."""

    batch: int
    channels: int
    time: int
    width: int


def check_activation(function: str, activation: object) -> bool:
    """Check the activation, SiLU or None, and return whether it is SiLU."""
    if activation is not None and not isinstance(activation, str):
        raise TypeError(f"{function}: activation must be None, 'silu' or 'swish', got {type(activation).__name__}")
    if activation not in (None, "silu", "swish"):
        raise ValueError(f"{function}: activation must be None, 'silu' or 'swish', got {activation!r}")
    return activation is not None


def _check_filter(function: str, shapes: Mapping[str, Shape], channels: int) -> int:
    """Return the number of taps."""
    weight = tuple(shapes["weight"])
    if len(weight) != 2 or weight[0] != channels or weight[1] < 1:
        raise ValueError(f"{function}: weight must have shape (D, W) = ({channels}, W) to go with x, got {weight}")
    if "bias" in shapes and tuple(shapes["bias"]) != (channels,):
        raise ValueError(f"{function}: bias must have shape (D,) = ({channels},), got {tuple(shapes['bias'])}")
    return weight[1]


def check_conv_shapes(function: str, shapes: Mapping[str, Shape]) -> ConvSizes:
    """Return the sizes if the shapes of x, weight and bias are consistent."""
    x = tuple(shapes["x"])
    if len(x) != 3:
        raise ValueError(f"{function}: x must have shape (B, D, T), got {x}")
    return ConvSizes(*x, _check_filter(function, shapes, x[1]))


def check_conv_state(function: str, shape: Shape, sequences: int, sizes: ConvSizes, packed: bool) -> None:
    """Check the shape of the inputs before the first steps."""
    expected = (sequences, sizes.channels, sizes.width - 1)
    if tuple(shape) != expected:
        letter = "S" if packed else "B"
        raise ValueError(f"{function}: state must have shape ({letter}, D, W - 1) = {expected}, got {tuple(shape)}")


def check_seq_idx(function: str, shape: Shape, sizes: ConvSizes, others: Mapping[str, bool]) -> None:
    """Check the shape of seq_idx, and that no argument is True in ``others``, which maps names to whether given."""
    if tuple(shape) != (sizes.batch, sizes.time):
        expected = (sizes.batch, sizes.time)
        raise ValueError(f"{function}: seq_idx must have shape (B, T) = {expected}, got {tuple(shape)}")
    for name, applies in others.items():
        if applies:
            without = "False" if name.startswith("return") else "None"
            raise ValueError(f"{function}: {name} must be {without} if seq_idx is given, got both")


def check_label_range(function: str, smallest: int, largest: int) -> None:
    """Check that the values of seq_idx fit in 32 bits."""
    if smallest < -(2**31) or largest >= 2**31:
        got = smallest if smallest < -(2**31) else largest
        raise ValueError(f"{function}: seq_idx must be from -2**31 to 2**31 - 1, got {got}")


def check_update_shapes(function: str, shapes: Mapping[str, Shape]) -> int:
    """Return the number of taps if the shapes of the given arguments of an update are consistent."""
    x, state = tuple(shapes["x"]), tuple(shapes["conv_state"])
    if len(x) not in (2, 3):
        raise ValueError(f"{function}: x must have shape (B, D) or (B, D, L), got {x}")
    width = _check_filter(function, shapes, x[1])
    if len(state) != 3 or state[1] != x[1] or state[2] < width - 1:
        expected = f"(rows, D, N) = (rows, {x[1]}, N) with N >= W - 1 = {width - 1}"
        raise ValueError(f"{function}: conv_state must have shape {expected}, got {state}")
    if "conv_state_indices" not in shapes and state[0] != x[0]:
        raise ValueError(f"{function}: conv_state must have B = {x[0]} rows like x, got shape {state}")
    for name in ("cache_seqlens", "conv_state_indices"):
        if name in shapes and tuple(shapes[name]) != x[:1]:
            raise ValueError(f"{function}: {name} must have shape (B,) = {x[:1]}, got {tuple(shapes[name])}")
    return width


def check_state_len(function: str, state_len: object) -> None:
    """Check the number of inputs to keep."""
    if not isinstance(state_len, int) or isinstance(state_len, bool):
        raise TypeError(f"{function}: state_len must be an int, got {type(state_len).__name__}")
    if state_len < 0:
        raise ValueError(f"{function}: state_len must be at least 0, got {state_len}")
