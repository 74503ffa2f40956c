"""The shapes of the arguments of selective scans, for arrays and tensors alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

Shape = tuple[int, ...]
#: Arguments that may be None in every function
_OPTIONAL = ("D", "z", "delta_bias", "dt_bias")


class Sizes(NamedTuple):
    """B rows of D channels and T steps; G groups of channels; N states for each channel."""

    batch: int
    channels: int
    time: int
    groups: int
    states: int


def present_in(arguments: dict[str, Any], *optional: str) -> dict[str, Any]:
    """Remove arguments that are None and optional, by themselves or in this call, and return the others."""
    for name in (*_OPTIONAL, *optional):
        if name in arguments and arguments[name] is None:
            del arguments[name]
    return arguments


def check_shapes(function: str, inputs: Mapping[str, Any], is_complex: bool = False) -> Sizes:
    """Return the sizes if the shapes of the given arrays or tensors, by name, are consistent.

    B and C of complex states have twice the number of steps, as real and imaginary parts alternate.
    """
    u, A = inputs["u"].shape, inputs["A"].shape
    if len(u) != 3:
        raise ValueError(f"{function}: u must have shape (B, D, T), got {tuple(u)}")
    batch, channels, time = u
    for name in ("delta", "z"):
        if name in inputs and inputs[name].shape != u:
            got = tuple(inputs[name].shape)
            raise ValueError(f"{function}: {name} must have shape (B, D, T) = {tuple(u)} like u, got {got}")
    if len(A) != 2 or A[0] != channels or A[1] < 1:
        raise ValueError(f"{function}: A must have shape (D, N) = ({channels}, N) to go with u, got {tuple(A)}")
    of_B, of_C = (
        _groups(function, "B", inputs["B"].shape, u, A, is_complex),
        _groups(function, "C", inputs["C"].shape, u, A, is_complex),
    )
    if of_B and of_C and of_B != of_C:
        raise ValueError(f"{function}: C must have as many groups as B, {of_B}, got {of_C}")
    for name in ("D", "delta_bias"):
        if name in inputs and tuple(inputs[name].shape) != (channels,):
            got = tuple(inputs[name].shape)
            raise ValueError(f"{function}: {name} must have shape (D,) = ({channels},), got {got}")
    return Sizes(batch, channels, time, max(of_B, of_C, 1), A[1])


def _groups(function: str, name: str, x: Shape, u: Shape, A: Shape, is_complex: bool) -> int:
    """Return the number of groups of B or C, 0 if it is fixed."""
    (batch, channels, time), states = u, A[1]
    time, letter = (2 * time, "2T") if is_complex else (time, "T")
    # Ranks are compared first: comparing symbolic sizes of different axes would fix them in an exported program.
    if len(x) == 2 and tuple(x) == (channels, states):
        return 0
    if len(x) == 3 and tuple(x) == (batch, states, time):
        return 1
    if len(x) == 4 and (x[0], *x[2:]) == (batch, states, time) and x[1] > 0 and channels % x[1] == 0:
        return x[1]
    raise ValueError(
        f"{function}: {name} must have shape (B, N, {letter}) = {(batch, states, time)}, (B, G, N, {letter}) with G a "
        f"divisor of D = {channels}, or (D, N) = {(channels, states)}, got {tuple(x)}"
    )


def may_be_complex(name: str, rank: int) -> bool:
    """Return whether an argument of a selective scan is complex if A is; varying B and C are pairs of real numbers."""
    return name in ("A", "state") or (name in ("B", "C") and rank == 2)


def check_state(function: str, shape: Shape, sequences: int, sizes: Sizes, packed: bool) -> None:
    """Check the shape of the initial states."""
    expected = (sequences, sizes.channels, sizes.states)
    if tuple(shape) != expected:
        letter = "S" if packed else "B"
        raise ValueError(f"{function}: state must have shape ({letter}, D, N) = {expected}, got {tuple(shape)}")


class StepSizes(NamedTuple):
    """B rows of H heads of P channels, H None if there is no axis of heads; N states for each channel; G groups."""

    batch: int
    heads: int | None
    channels: int
    states: int
    groups: int


def check_step_shapes(function: str, shapes: Mapping[str, Shape]) -> StepSizes:
    """Return the sizes of one step if the shapes of the given arguments, by name, are consistent."""
    state, x = tuple(shapes["state"]), tuple(shapes["x"])
    if len(x) not in (2, 3):
        raise ValueError(f"{function}: x must have shape (B, D) or (B, H, P), got {x}")
    inner, letters = x[1:], "D" if len(x) == 2 else "H, P"
    if len(state) != len(x) + 1 or state[1:-1] != inner or state[-1] < 1:
        full = f"(rows, {letters}, N) = (rows, {', '.join(map(str, inner))}, N)"
        raise ValueError(f"{function}: state must have shape {full} to go with x, got {state}")
    if "state_batch_indices" not in shapes and state[0] != x[0]:
        raise ValueError(f"{function}: state must have B = {x[0]} rows like x, got shape {state}")
    expected = {"dt": x, "z": x, "A": state[1:], "D": inner, "dt_bias": inner, "state_batch_indices": x[:1]}
    names = {"dt": f"B, {letters}", "z": f"B, {letters}", "A": f"{letters}, N", "state_batch_indices": "B,"}
    for name, shape in expected.items():
        if name in shapes and tuple(shapes[name]) != shape:
            what = names.get(name, letters if len(inner) > 1 else "D,")
            raise ValueError(f"{function}: {name} must have shape ({what}) = {shape}, got {tuple(shapes[name])}")
    heads = inner[0] if len(inner) == 2 else 1
    groups = [_step_groups(function, name, tuple(shapes[name]), x[0], state[-1], heads) for name in ("B", "C")]
    if groups[0] != groups[1]:
        raise ValueError(f"{function}: C must have as many groups as B, {groups[0]}, got {groups[1]}")
    return StepSizes(x[0], inner[0] if len(inner) == 2 else None, inner[-1], state[-1], groups[0])


def _step_groups(function: str, name: str, shape: Shape, batch: int, states: int, heads: int) -> int:
    if shape == (batch, states):
        return 1
    if len(shape) == 3 and (shape[0], shape[2]) == (batch, states) and shape[1] > 0 and heads % shape[1] == 0:
        return shape[1]
    raise ValueError(
        f"{function}: {name} must have shape (B, N) = {(batch, states)}, or (B, G, N) with G a divisor of the number "
        f"of heads, {heads}, got {shape}"
    )
