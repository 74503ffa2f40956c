"""The recurrent functions on tensors: checks, then the ops, with or without gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import has_torch_function_variadic

from ..._backend import BackendError
from ..._check import check_flag
from ..._sequences import as_parts
from ..._torch.autograd import applied_directly
from ..._torch.distributed.dtensors import CUTS, Axes, is_dtensor, on_shards
from ..._torch.ops import (
    CPU_AND_CUDA,
    GPU_FLOATS,
    autocast_dtype,
    autocast_to,
    check_tensors,
    checked_lengths,
    empty_steps,
    grad_enabled,
    transformed,
    unwatched,
)
from ..._torch.out import check_out, is_written_by_kernels, written
from ..._torch.out import named as named_tensors
from ..._torch.overrides import dispatched, overridden
from ..._torch.sequences import Sequences, checked_sequences
from .._cells import (
    CELLS,
    FLOAT16_REFUSED,
    Cell,
    check_shapes,
    check_state,
    checked_bound,
    checked_checkpoint,
)
from ._gpu import kernels as kernels  # the ops of CUDA tensors
from .autograd import Recurrence, Together, Transformed
from .ops import RnnForward, carried, fits, rnn_fwd, rnn_fwd_together
from .ops import forward as rnn_forward
from .results import RnnResult, RnnStates, States
from .work import PLAIN, Options, checked_batch_sizes, options_of

Integers: TypeAlias = "Tensor | Sequence[int]"
Result: TypeAlias = RnnResult | RnnStates
_DTYPES = (torch.float32, torch.float64, torch.bfloat16)


class Requested(NamedTuple):
    """The options of a public function, unchecked."""

    reverse: bool = False
    lengths: Integers | None = None
    return_all_states: bool = False
    cu_seqlens: Integers | None = None
    reset: Tensor | None = None
    clip_state: float | None = None
    clip_grad: float | None = None
    checkpoint: int | None = None
    out: Tensor | None = None


def rounding(
    public: Callable[..., Any],
    wx: Tensor,
    r: Tensor,
    b: Tensor | None,
    state: Sequence[Tensor] | None,
    *,
    clip_state: float | None = None,
    clip_grad: float | None = None,
) -> Result:
    """Run lstm or slstm on bfloat16 and return all states, each of them rounded to bfloat16 after each step.

    The states other than h are still float32 tensors.
    """
    requested = Requested(return_all_states=True, clip_state=clip_state, clip_grad=clip_grad)
    return run(public, f"{public.__name__}_rounding", wx, r, b, state, requested)


def rounding_products(wx: Tensor, r: Tensor, b: Tensor, state: Sequence[Tensor] | None) -> tuple[Tensor, States]:
    """Run slstm on bfloat16 on the CPU with a float32 b; round all states, and round r h before b is added.

    The states other than h are still float32 tensors. This is the arithmetic of TiRex.
    """
    cell = CELLS["slstm_rounding_products"]
    _check_shapes("slstm", cell, wx.shape, r, b, state)
    h, last, _ = _apply(cell, wx, r, b, state, False, None, None, False)
    return h, last


def together(
    cell: str,
    wx: Tensor,
    r: Tensor,
    b: Tensor,
    state: Sequence[Tensor] | None,
    *,
    clip_state: float | None = None,
    clip_grad: float | None = None,
) -> tuple[Tensor, States]:
    """Run a cell that writes all states to one tensor (S, B, T, N, D), for tensors accepted by `goes_together`."""
    spec = CELLS[cell]
    _check_tensors(cell, spec, wx, r, b, state)
    options, _ = _checked_options(cell, wx, Requested(clip_state=clip_state, clip_grad=clip_grad))
    _check_shapes(cell, spec, wx.shape, r, b, state)
    first = () if state is None else tuple(state)
    if _needs_grad(wx, r, b, first):
        every, *last = Together.apply(spec, options, wx, r, b, *first)
    else:
        every, *last = rnn_fwd_together(spec, wx, r, b, first, False, options)
    return every, tuple(last[: len(spec.states)])


def packed(
    cell: str,
    wx: Tensor,
    batch_sizes: Tensor,
    r: Tensor,
    b: Tensor | None,
    state: Sequence[Tensor] | None,
    *,
    reverse: bool = False,
) -> tuple[Tensor, States]:
    """Run a cell on the data of a PackedSequence: only its valid steps are computed.

    ``wx`` (M, G, N, D) and ``batch_sizes`` (T,) are laid out as in a PackedSequence; h is returned as (M, N, D), the
    final states as (B, N, D) with the rows in packed order. ``cell`` is "lstm", "gru", "elman_tanh", "elman_relu" or
    "slstm".
    """
    spec = CELLS[cell]
    batch, total = checked_batch_sizes(cell, batch_sizes)
    _check_tensors(cell, spec, wx, r, b, state)
    if wx.dim() != 4 or wx.shape[0] != total:
        raise ValueError(f"{cell}: packed wx must have shape (M, G, N, D) with M = {total}, got {tuple(wx.shape)}")
    _check_shapes(cell, spec, (batch, 1, *wx.shape[1:]), r, b, state)
    h, last, _ = _apply(spec, wx, r, b, state, reverse, None, batch_sizes, False)
    return h, last


def _check_tensors(
    function: str, cell: Cell, wx: Tensor, r: Tensor, b: Tensor | None, state: Sequence[Tensor] | None
) -> None:
    if state is not None:
        check_state(function, cell, state)
    bias = () if b is None else (b,)
    names = ("wx", "r", "b") if bias else ("wx", "r")
    states = tuple(state or ())
    dtype, on_gpu = getattr(wx, "dtype", None), isinstance(wx, Tensor) and wx.is_cuda
    if dtype == torch.float16 and not on_gpu:
        raise TypeError(f"{function}: wx must have dtype {FLOAT16_REFUSED}, got {dtype}")
    is_half = dtype in (torch.bfloat16, torch.float16)
    alike, apart = (states[:1], states[1:]) if is_half else (states, ())
    named = (*names, *cell.state_names[: len(alike)])
    check_tensors(function, named, (wx, r, *bias, *alike), GPU_FLOATS if on_gpu else _DTYPES, CPU_AND_CUDA)
    for name, x in zip(cell.state_names[1 : 1 + len(apart)], apart, strict=True):
        if isinstance(x, Tensor) and x.dtype != torch.float32:
            expected = f"dtype torch.float32 to go with {str(dtype).removeprefix('torch.')} wx"
            raise TypeError(f"{function}: {name} must have {expected}, got {x.dtype}")
        check_tensors(function, (name,), (x,), devices=CPU_AND_CUDA)
        if x.device != wx.device:
            raise BackendError(f"{function}: {name} must be on device {wx.device} like wx, got {x.device}")


def _check_shapes(
    function: str,
    cell: Cell,
    wx: tuple[int, ...],
    r: Tensor,
    b: Tensor | None,
    state: Sequence[Tensor] | None,
    sequences: int | None = None,
) -> tuple[int, int, int, int]:
    shapes = None if state is None else [part.shape for part in state]
    return check_shapes(function, cell, wx, r.shape, None if b is None else b.shape, shapes, sequences)


def run(
    public: Callable[..., Any],
    cell_name: str,
    wx: Tensor,
    r: Tensor,
    b: Tensor | None,
    state: Any,
    requested: Requested,
) -> Result:
    """Check the arguments of a public function and run its cell."""
    function, cell, options, lengths = public.__name__, CELLS[cell_name], PLAIN, None
    reverse, user_lengths, return_all_states, cu_seqlens, reset, clip_state, clip_grad, checkpoint, out = requested
    state = as_parts(cell.states, state)
    redefined = state is not None and overridden(state, parts=state)
    if redefined or has_torch_function_variadic(wx, r, b, user_lengths, cu_seqlens, reset, out):
        return dispatched(public, wx, r, b, state, **_by_name(cell, requested))
    if type(wx) is not Tensor and is_dtensor(wx):
        named = {"wx": wx, "r": r, "b": b, "state": state, **_by_name(cell, requested)}
        return on_shards(public, named, _AXES, ("BTND", "BND", "BTND"))
    low = autocast_dtype(wx)
    if low is not None:
        wx, r, b, state = _autocast(low, wx, r, b, state)
    check_flag(function, "reverse", reverse)
    check_flag(function, "return_all_states", return_all_states)
    is_plain = cu_seqlens is None and reset is None and clip_state is None and clip_grad is None and checkpoint is None
    if is_plain and fits(cell, wx, r, b, state):
        if user_lengths is not None:
            lengths = checked_lengths(function, user_lengths, wx.shape[0], wx.shape[1], wx.device)
    else:
        _check_tensors(function, cell, wx, r, b, state)
        if wx.dim() != 5:
            _check_shapes(function, cell, wx.shape, r, b, state)
        options, sequences = _checked_options(function, wx, requested)
        count = None if cu_seqlens is None else sequences.count(1)
        _check_shapes(function, cell, wx.shape, r, b, state, count)
        lengths = sequences.lengths
    call = (wx, r, b, state, reverse, lengths)
    if out is None:
        h, last, states = _apply(cell, *call, None, return_all_states, options)
    else:
        tensors = named_tensors(("wx", "r", "b", *cell.state_names, "reset"), (wx, r, b, *_parts(cell, state), reset))
        check_out(function, out, (*wx.shape[:2], *wx.shape[3:]), tensors, GPU_FLOATS if wx.is_cuda else _DTYPES)
        h, last, states = _apply_into(out, cell, *call, return_all_states, options)
    return RnnStates(h, last, states) if return_all_states else RnnResult(h, last)


def _parts(cell: Cell, state: Sequence[Tensor] | None) -> Sequence[Tensor | None]:
    """Return the parts of a state, each None if it is not given."""
    return (None,) * len(cell.states) if state is None else state


#: The axes of the functions' arguments and results
_AXES: Axes = {"wx": ("BTGND",), "r": ("GNDE",), "b": ("GND",), "state": ("BND",), **CUTS}


def _by_name(cell: Cell, requested: Requested) -> dict[str, Any]:
    """Return the options of the public function by name."""
    options = requested._asdict()
    if cell.function == "elman":
        options["activation"] = cell.name.removeprefix("elman_")
    return options


def _autocast(
    dtype: torch.dtype, wx: Tensor, r: Tensor, b: Tensor | None, state: Sequence[Tensor] | None
) -> tuple[Tensor, Tensor, Tensor | None, Sequence[Tensor] | None]:
    """Cast the arguments to the autocast dtype; if that has 16 bits, the states other than h to float32."""
    if isinstance(state, (tuple, list)):
        rest = torch.float32 if dtype.itemsize == 2 else dtype
        state = tuple([autocast_to(x, rest if k else dtype) for k, x in enumerate(state)])
    return autocast_to(wx, dtype), autocast_to(r, dtype), autocast_to(b, dtype), state


def _checked_options(function: str, wx: Tensor, requested: Requested) -> tuple[Options, Sequences]:
    """Return the options, and the division of steps into sequences."""
    _, lengths, _, cu_seqlens, reset, clip_state, clip_grad, checkpoint, _ = requested
    sequences = checked_sequences(function, wx, reset, lengths, cu_seqlens, "wx")
    every = checked_checkpoint(function, checkpoint)
    if cu_seqlens is not None and every:
        raise ValueError(
            f"{function}: checkpoint must be None if cu_seqlens is given, as chunks of time are those of padded "
            f"rows, got {checkpoint}"
        )
    bound_h, bound_dh = (
        checked_bound(function, name, bound) for name, bound in (("clip_state", clip_state), ("clip_grad", clip_grad))
    )
    return options_of(sequences.cu_seqlens, reset, bound_h, bound_dh, every), sequences


def _apply(
    cell: Cell,
    wx: Tensor,
    r: Tensor,
    b: Tensor | None,
    state: Sequence[Tensor] | None,
    reverse: bool,
    lengths: Tensor | None,
    batch_sizes: Tensor | None,
    all_states: bool,
    options: Options = PLAIN,
) -> tuple[Tensor, States, States]:
    """Return h, the final states, and all states (or only h, if not requested)."""
    first = () if state is None else tuple(state)
    if _needs_grad(wx, r, b, first) or transformed():
        call = (cell, reverse, lengths, batch_sizes, all_states, *options, wx, r, b, *first)
        if unwatched():
            outputs = applied_directly(Recurrence, *call)
        else:
            outputs = (Transformed if transformed() else Recurrence).apply(*call)
    else:
        outputs = rnn_fwd(cell, wx, r, b, first, reverse, lengths, batch_sizes, all_states, options)
    h, count = outputs[0], len(cell.states)
    # Under torch.func, the outputs end with the tensors saved for the backward pass.
    return h, tuple(outputs[1 : 1 + count]), (h, *outputs[1 + count : 2 * count]) if all_states else (h,)


def _apply_into(
    out: Tensor,
    cell: Cell,
    wx: Tensor,
    r: Tensor,
    b: Tensor | None,
    state: Sequence[Tensor] | None,
    reverse: bool,
    lengths: Tensor | None,
    all_states: bool,
    options: Options,
) -> tuple[Tensor, States, States]:
    """Compute the same without gradients, with h written to ``out``."""
    first = () if state is None else tuple(state)
    if not is_written_by_kernels(out, wx, r, b, first, lengths):
        h, last, states = _apply(cell, wx, r, b, state, reverse, lengths, None, all_states, options)
        return out.copy_(h), last, (out, *states[1:])
    others = [empty_steps(wx, out.shape, carried(wx)) for _ in cell.states[1:]] if all_states else []
    call = RnnForward(cell.name, wx, r, b, first, reverse, lengths, None, all_states, False, *options)
    last = tuple(rnn_forward(call, (out, *others))[1 : 1 + len(cell.states)])
    return written(out), last, (out, *others)


def _needs_grad(wx: Tensor, r: Tensor, b: Tensor | None, first: States) -> bool:
    """Return whether to call the autograd function; under forward mode it is called to raise its error."""
    return (grad_enabled() and _any_requires_grad(wx, r, b, first)) or forward_ad._current_level >= 0


def _any_requires_grad(wx: Tensor, r: Tensor, b: Tensor | None, first: States) -> bool:
    if wx.requires_grad or r.requires_grad or (b is not None and b.requires_grad):
        return True
    return any(x.requires_grad for x in first)
