"""FlashRNN's function on fastiter's kernels, with its signature, layouts, gate orders and options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import has_torch_function_variadic

from ..._backend import BackendError
from ..._torch.ops import (
    CPU_AND_CUDA,
    FLOATS,
    GPU_FLOATS,
    are_ordinary,
    autocast_device,
    autocast_dtype,
    autocast_to,
    check_tensors,
    empty,
    empty_steps,
    unwatched,
)
from ..._torch.overrides import dispatched
from .._cells import FLOAT16_REFUSED
from .flashrnn_config import ANYWHERE, CELL_OF, COUNTS, DTYPES, ON_CPU, ON_GPU, Dtype, FlashRNNConfig, Name, checked
from .functional import FUNCTIONS
from .ops import carried, goes_together
from .run import rounding, together

__all__ = ["FlashRNNConfig", "flashrnn"]


def flashrnn(
    Wx: Tensor,
    R: Tensor,
    b: Tensor,
    states: Tensor | None = None,
    function: Name = "lstm",
    config: FlashRNNConfig | None = None,
    backend: str | None = None,
    dtype: Dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """s[t] = cell(Wx[t] + R h[t-1] + b, s[t-1]), with the arguments and results of FlashRNN's ``flashrnn``.

    Parameters
    ----------
    Wx : Tensor (B, T, G, N, D)
        Pre-activations of the gates: i, f, z, o (lstm, slstm); r, z, n (gru); one (elman).
    R : Tensor (G, N, D, D)
        Recurrent weights of N heads, [gate, head, unit out, unit in]: i, f, z, o; g, r, z (gru); one.
    b : Tensor (G, N, D)
        Bias: i, f, z, o; g, r, z, n (gru, where g is added inside r * (...) and n outside); one.
    states : Tensor (S, B, 1, N, D), optional
        Initial states, h first: h, c (lstm); h, c, n, m (slstm); h. None: config.initial_val, by default 0.
    function : {"lstm", "gru", "elman", "slstm"}
        The cell.
    config : FlashRNNConfig, optional
        Further options, including other layouts. Arguments given with it must agree with it.
    backend : str, optional
        See :class:`FlashRNNConfig`.
    dtype : {"float32", "float64", "bfloat16", "float16"}, optional
        Dtype of the tensors. A config with `dtype` converts them instead, as does autocast. "float16" needs a GPU.

    Returns
    -------
    states_all : Tensor (S, B, T, N, D)
        The states after every step.
    last_states : Tensor (S, B, 1, N, D)
        The states after the last step; passed as `states`, they continue the sequence bit for bit.

    Raises
    ------
    TypeError, ValueError
        For a wrong type or dtype; for a wrong shape or value, or an unsupported option.
    BackendError
        For a backend that does not run on the tensors' device.

    See Also
    --------
    FlashRNNConfig : Further options, including other layouts.
    fastiter.torch.slstm : The cell by this package's names, with lengths and resets.
    fastiter.torch.nn.sLSTM : A layer with this recurrence.

    Notes
    -----
    With bfloat16 inputs, sums and cells are computed in float32. States are stored as in FlashRNN: all of them,
    including c, n and m, are rounded to `dtype_s` (the dtype of Wx by default) after each step, so that the returned
    states are those that the next step reads, and a split sequence is bitwise equal to a whole one. n of the sLSTM
    counts steps, and stops counting at 256 in bfloat16. With ``dtype="bfloat16"``, ``dtype_s="float32"`` keeps c, n and
    m in float32, and a split sequence is also bitwise equal. On a GPU, c, n and m of bfloat16 inputs are rounded only
    in the results.

    References
    ----------
    Poeppel, Beck and Hochreiter, FlashRNN, 2024; docs/rnn/details.md lists the differences.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch import flashrnn
    >>> Wx, R, b = torch.randn(2, 5, 4, 3, 8), torch.randn(4, 3, 8, 8) / 3, torch.zeros(4, 3, 8)
    >>> states, last = flashrnn(Wx, R, b, function="slstm")
    >>> states.shape, last.shape
    (torch.Size([4, 2, 5, 3, 8]), torch.Size([4, 2, 1, 3, 8]))
    """
    if has_torch_function_variadic(Wx, R, b, states):
        result: tuple[Tensor, Tensor] = dispatched(flashrnn, Wx, R, b, states, function, config, backend, dtype)
        return result
    options = checked(config, function, backend, dtype)
    low = autocast_dtype(Wx)
    if low is None:
        return _run(options, Wx, R, b, states)
    casts = config is None or options.enable_automatic_mixed_precision
    inputs = _autocast(options, low, Wx, R, b, states) if casts else (Wx, R, b, states)
    with torch.autocast(autocast_device(Wx), enabled=False):
        return _run(options, *inputs)


def _run(options: FlashRNNConfig, Wx: Tensor, R: Tensor, b: Tensor, states: Tensor | None) -> tuple[Tensor, Tensor]:
    _check_arguments(options, Wx, R, b, states)
    wx, r, bias = (_as(x, order, ours) for x, order, ours in _inputs(options, Wx, R, b))
    dtype, first = _state_dtype(options, wx), _initial(options, wx, states)
    cell = CELL_OF[options.function]
    if cell.separates:
        wx, r, bias = _in_our_order(wx, r, bias)
    if len(cell.states) > 1 and dtype == torch.bfloat16 and not wx.is_cuda:
        result = rounding(FUNCTIONS[options.function], wx, r, bias, first, **_clips(options))
    elif len(cell.states) > 1 and dtype == wx.dtype and goes_together(wx, r, bias, first):
        every, last = together(options.function, wx, r, bias, first, **_clips(options))
        return _as(every, "SBTHD", options.output_shape), _out(options, [x.unsqueeze(1) for x in last], dtype)
    else:
        result = FUNCTIONS[options.function](wx, r, bias, first, return_all_states=True, **_clips(options))
    return _out(options, result[-1], dtype), _out(options, [x.unsqueeze(1) for x in result[1]], dtype)


def _autocast(options: FlashRNNConfig, low: torch.dtype, *tensors: Tensor | None) -> list[Any]:
    """Cast the arguments to the config's `dtype`, by default torch's autocast dtype, as FlashRNN's autocast does."""
    dtype = low if options.dtype is None else DTYPES[options.dtype]
    of_states = dtype if options.dtype_s is None else DTYPES[options.dtype_s]
    return [*(autocast_to(x, dtype) for x in tensors[:3]), autocast_to(tensors[3], of_states)]


def _state_dtype(options: FlashRNNConfig, wx: Tensor) -> torch.dtype:
    return wx.dtype if options.dtype_s is None else DTYPES[options.dtype_s]


def _inputs(options: FlashRNNConfig, Wx: Tensor, R: Tensor, b: Tensor) -> tuple[tuple[Tensor, str, str], ...]:
    if options.enable_automatic_mixed_precision and options.dtype is not None:
        Wx, R, b = (x.to(DTYPES[options.dtype]) for x in (Wx, R, b))
    return (
        (Wx, options.input_shape, "BTGHD"),
        (R, options.recurrent_shape, "GHDP"),
        (b, options.bias_shape, "GHD"),
    )


def _as(x: Tensor, order: str, needed: str) -> Tensor:
    """Permute the axes of x from the layout `given` to the layout `wanted`."""
    return x if order == needed else x.permute([order.index(letter) for letter in needed])


def _initial(options: FlashRNNConfig, wx: Tensor, states: Tensor | None) -> list[Tensor] | None:
    """Return the parts of the initial state, None for zeros."""
    dtype = _state_dtype(options, wx)
    if states is not None:
        parts = list(_as(states.to(dtype), options.output_shape, "TSBHD")[0].unbind(0))
    else:
        values = options.initial_values()
        if not any(values):
            return None
        parts = [wx.new_full((wx.shape[0], *wx.shape[3:]), value, dtype=dtype) for value in values]
    return [parts[0].to(wx.dtype), *(x.to(carried(wx)) for x in parts[1:])]


def _in_our_order(wx: Tensor, r: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Reorder R (g, r, z) and b (g, r, z, n) to r, z, n, the order of wx; the outer bias n is added to wx."""
    plain = unwatched() and are_ordinary((wx, b))
    wx = _Outside.apply(wx, b[3]) if plain else wx + _on_n(b[3])
    return wx, r.roll(-1, 0), b[:3].roll(-1, 0)


def _on_n(b: Tensor) -> Tensor:
    """Return a bias of gate n as a bias of r, z and n."""
    return torch.stack([torch.zeros_like(b), torch.zeros_like(b), b])


class _Outside(torch.autograd.Function):
    """Return wx + b for a bias b of gate n, in reused memory; the gradient of b depends only on that of gate n."""

    @staticmethod
    def forward(ctx: Any, wx: Tensor, b: Tensor) -> Tensor:
        return torch.add(wx, _on_n(b), out=empty_steps(wx, wx.shape))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        return gradient, gradient[:, :, 2].sum((0, 1)) if ctx.needs_input_grad[1] else None


def _clips(options: FlashRNNConfig) -> dict[str, Any]:
    bound = 0.0 if options.gradient_recurrent_cut else options.gradient_recurrent_clipval
    return {"clip_grad": bound, "clip_state": options.forward_clipval}


def _out(options: FlashRNNConfig, parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Return states (B, T, N, D) as one tensor in the config's layout, copied in their memory order."""
    if len(parts) == 1:
        return _as(parts[0].to(dtype).unsqueeze(0), "SBTHD", options.output_shape)
    time_first = parts[0].stride(0) < parts[0].stride(1)
    ordered = [x.transpose(0, 1) for x in parts] if time_first else parts
    together: Tensor = _Stack.apply(dtype, *ordered) if unwatched() else torch.stack([x.to(dtype) for x in ordered])
    return _as(together, "STBHD" if time_first else "SBTHD", options.output_shape)


class _Stack(torch.autograd.Function):
    """torch.stack with conversion to one dtype, in reused memory: new pages would take a third of a short call."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *parts: Tensor) -> Tensor:
        ctx.dtypes = [x.dtype for x in parts]
        together = empty(parts[0], (len(parts), *parts[0].shape), None, dtype)
        for to, x in zip(together, parts, strict=True):
            to.copy_(x)
        return together

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(x.to(dtype) for x, dtype in zip(gradient.unbind(0), ctx.dtypes, strict=True))


def _check_dtypes(options: FlashRNNConfig, tensors: list[tuple[str, Tensor]], on_gpu: bool) -> None:
    """Check that all tensors have the same dtype, unless they are converted, and that states have `dtype_s`."""
    Wx, mixed = tensors[0][1], options.enable_automatic_mixed_precision and options.dtype is not None
    if not on_gpu and (options.dtype == "float16" if mixed else getattr(Wx, "dtype", None) == torch.float16):
        what = "dtype must be" if mixed else "Wx must have dtype"
        raise TypeError(f"flashrnn: {what} {FLOAT16_REFUSED}, got {repr(options.dtype) if mixed else Wx.dtype}")
    dtypes = GPU_FLOATS if on_gpu or mixed else (*FLOATS, torch.bfloat16)
    apart = mixed or options.dtype_s not in (None, options.dtype)
    for same in [[pair] for pair in tensors] if mixed else [tensors[:3], tensors[3:]] if apart else [tensors]:
        if same:
            check_tensors("flashrnn", [name for name, _ in same], [x for _, x in same], dtypes, CPU_AND_CUDA)
    if not mixed and options.dtype is not None and Wx.dtype != DTYPES[options.dtype]:
        raise TypeError(f"flashrnn: dtype must be that of Wx, {Wx.dtype}, got {options.dtype!r}")
    if apart and not mixed and tensors[3:] and tensors[3][1].dtype != _state_dtype(options, Wx):
        raise TypeError(f"flashrnn: states must have dtype {options.dtype_s} like dtype_s, got {tensors[3][1].dtype}")
    if on_gpu and options.dtype_s not in (None, options.dtype):
        raise ValueError(f"flashrnn: dtype_s must be None or {options.dtype!r} on a GPU, got {options.dtype_s!r}")


def _check_arguments(options: FlashRNNConfig, Wx: Tensor, R: Tensor, b: Tensor, states: Tensor | None) -> None:
    on_gpu = isinstance(Wx, Tensor) and Wx.is_cuda
    _check_dtypes(options, [("Wx", Wx), ("R", R), ("b", b), *([] if states is None else [("states", states)])], on_gpu)
    if options.backend in (ON_CPU if on_gpu else ON_GPU):
        right = ", ".join([*ANYWHERE, *(ON_GPU if on_gpu else ON_CPU)])
        raise BackendError(f"flashrnn: backend must be {right} or None on {Wx.device}, got {options.backend!r}")
    counts = COUNTS[options.function]
    shape = _sizes("Wx", Wx, options.input_shape, {"G": counts.gates_w})
    batch, heads, width = (shape[letter] for letter in "BHD")
    for letter, name, size in (("H", "num_heads", heads), ("D", "head_dim", width), ("", "hidden_dim", heads * width)):
        needed = getattr(options, name)
        if needed > 0 and needed != size:
            raise ValueError(f"flashrnn: Wx must have {name} = {needed} {letter}".rstrip() + f", got {size}")
    inside = {"H": heads, "D": width}
    _sizes("R", R, options.recurrent_shape, {"G": counts.gates_r, "P": width, **inside})
    _sizes("b", b, options.bias_shape, {"G": counts.gates_t, **inside})
    if states is not None:
        _sizes("states", states, options.output_shape, {"S": counts.states, "B": batch, "T": 1, **inside})


def _sizes(name: str, x: Tensor, letters: str, known: dict[str, int]) -> dict[str, int]:
    """Return the sizes of the axes by letter, after a check of the known ones."""
    if x.dim() != len(letters) or any(x.shape[letters.index(letter)] != size for letter, size in known.items()):
        sizes = ", ".join(str(known.get(letter, letter)) for letter in letters)
        axes = f"({', '.join(letters)}) = ({sizes})"
        raise ValueError(f"flashrnn: {name} must have shape {axes}, got {tuple(x.shape)}")
    return dict(zip(letters, x.shape, strict=True))
