"""One time step at a time: y[t], s[t] = layers(x[t], s[t-1]) with everything but the outputs made beforehand."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ... import _core
from ..._backend import BackendError
from ..._rnn import Cell, kind
from .. import rnn
from .._linear import linear
from .._op import contiguous
from ._rnn_layer import State
from ._rnn_stack import CELLS, Layer, check_streams, checked_states, heads_of, layers_of

_GEMM = {torch.float32: _core.gemm_f32, torch.float64: _core.gemm_f64}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "elman_tanh": rnn.elman,
    "elman_relu": partial(rnn.elman, activation="relu"),
    "gru": rnn.gru,
    "lstm": rnn.lstm,
    "slstm": rnn.slstm,
}


class StreamingRNN:
    """y[t], s[t] = module(x[t], s[t-1]), a step for each call, with the bits of one run over the whole sequence.

    For inference: outputs have no gradients, and dropout does not act. A call makes its outputs and states and nothing
    else. It takes the weights as they are when it is made, and again at each :meth:`reset`.

    Parameters
    ----------
    module : LSTM, GRU, RNN or sLSTM
        Of fastiter.torch.nn or torch.nn, in one direction, with any number of layers.
    batch_size : int, optional
        B, for x (B, I) and y (B, H). None: x (I,) and y (H,).
    state : Tensor or tuple of Tensor, optional
        As the module's forward takes it: (layers, B, H), without B where batch_size is None. None: zeros.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        For what is no such module; for two directions; for a state that its forward refuses.
    BackendError
        For parameters that are not on the CPU.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import LSTM, StreamingRNN
    >>> lstm, x = LSTM(5, 8, num_layers=2), torch.randn(10, 5)
    >>> stream = StreamingRNN(lstm)
    >>> steps = [stream(x_t) for x_t in x]
    >>> y, (h, c) = lstm(x)
    >>> torch.stack(steps).equal(y), stream.state[1].equal(c)
    (True, True)
    """

    def __init__(self, module: nn.RNNBase, batch_size: int | None = None, state: Any = None) -> None:
        if not isinstance(module, nn.RNNBase) or module.mode not in CELLS:
            raise TypeError(f"StreamingRNN: module must be an LSTM, GRU, RNN or sLSTM, got {kind(module)}")
        check_streams(module)
        if batch_size is not None and (not isinstance(batch_size, int) or isinstance(batch_size, bool)):
            raise TypeError(f"StreamingRNN: batch_size must be an int or None, got {kind(batch_size)}")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"StreamingRNN: batch_size must be at least 1, got {batch_size}")
        self.module, self.batch_size = module, batch_size
        self.reset(state)

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy as it stands would go on with the memory of this one.
        return type(self), (self.module, self.batch_size, self.state)

    @torch.no_grad()
    def reset(self, state: Any = None) -> None:
        """Begin again from a state, zeros by default, with the weights that the module has now."""
        module = self.module
        cell, rows = CELLS[module.mode], self.batch_size or 1
        layers = layers_of(module, cell)
        weight = layers[0].parameters.w_ih
        if not weight.is_cpu:
            raise BackendError(f"StreamingRNN: module must have its parameters on the CPU, got {weight.device}")
        if weight.dtype not in _GEMM:
            raise TypeError(f"StreamingRNN: module must have float32 or float64 parameters, got {weight.dtype}")
        first = checked_states(module, cell, state, weight, self.batch_size)
        starts = [None] * len(layers) if first is None else zip(*[s.detach().unbind(0) for s in first], strict=True)
        self._layers = [_Layer(cell, heads_of(module), k, rows, s) for k, s in zip(layers, starts, strict=True)]
        self._in = (module.input_size,) if self.batch_size is None else (rows, module.input_size)
        width = module.proj_size or module.hidden_size
        self._out = (width,) if self.batch_size is None else (rows, width)
        self._dtype = weight.dtype

    def __call__(self, x: Tensor) -> Tensor:
        """Output (B, H) of the last layer for one more step with x (B, I), both without B where batch_size is None."""
        if not isinstance(x, Tensor):
            raise TypeError(f"StreamingRNN: x must be a torch.Tensor, got {kind(x)}")
        if x.shape != self._in or x.dtype != self._dtype or not x.is_cpu:
            got = f"{tuple(x.shape)}, {x.dtype} on {x.device}"
            raise ValueError(f"StreamingRNN: x must have shape {self._in}, {self._dtype} on the CPU, got {got}")
        for layer in self._layers:
            x = layer.step(x)
        return x.view(self._out)

    @property
    def state(self) -> Any:
        """The state as the module's forward returns it: a copy, which another stream or forward can go on from."""
        parts = [torch.stack(part) for part in zip(*[layer.state() for layer in self._layers], strict=True)]
        if self.batch_size is None:
            parts = [part.squeeze(1) for part in parts]
        return parts[0] if len(parts) == 1 else tuple(parts)


class _Layer:
    """A layer with its weights as the kernels want them, a place for W x, and its states (B, N, D)."""

    def __init__(self, cell: Cell, heads: int, layer: Layer, rows: int, start: State | None) -> None:
        given = layer.parameters
        self.w_ih, w_hh = contiguous(given.w_ih.detach()), contiguous(given.w_hh.detach())
        b_ih, b_hh = (None if b is None else contiguous(b.detach()) for b in (given.b_ih, given.b_hh))
        self.cell, self.w_hr = cell, None if layer.w_hr is None else contiguous(layer.w_hr.detach())
        gates, (lines, inputs) = cell.gates, self.w_ih.shape
        width = lines // gates // heads
        shape = (gates, heads, width)
        self.first_h = self.to_first = None
        if start is None:
            self.states = [self.w_ih.new_zeros(rows, heads, width) for _ in cell.states]
        elif self.w_hr is None:
            self.states = [s.reshape(rows, heads, width).clone() for s in start]
        else:  # as in forward: h = W_hr u, and W_hh h of the first step is added to its gates
            self.first_h, self.to_first = start[0].clone(), linear(start[0], w_hh).view(rows, 1, *shape)
            c = start[1].reshape(rows, 1, width)
            self.states = [torch.zeros_like(c), c.clone()]
        r = w_hh if self.w_hr is None else linear(w_hh, self.w_hr.t())
        self.r = r.view(*shape, width)
        separate = cell.name == "gru"  # its b_hh stands inside a product
        bias = b_hh if separate or b_ih is None or b_hh is None else b_ih + b_hh
        self.b = None if bias is None else bias.view(shape)
        self.b_ih = b_ih if separate else None
        self.wx = self.w_ih.new_empty(rows, 1, *shape)
        outer = 0 if self.b_ih is None else self.b_ih.data_ptr()
        weights = (self.w_ih.data_ptr(), 1, inputs, outer, self.wx.data_ptr())
        gemm = _GEMM[self.w_ih.dtype]
        self.project = lambda x: gemm(rows, lines, inputs, x, inputs, 1, *weights)

    def step(self, x: Tensor) -> Tensor:
        """Return the output of one more step for x (B, I), or with that many elements."""
        x = x if x.is_contiguous() else x.contiguous()
        self.project(x.data_ptr())
        if self.to_first is not None:
            self.wx += self.to_first
            self.first_h = self.to_first = None
        made = _core.rnn_fwd_tensors(self.cell.layout, self.wx, self.r, self.b, self.states, False, False, False)
        if made is None:  # too large for the short way
            with torch.no_grad():
                h, last = _FUNCTIONS[self.cell.name](self.wx, self.r, self.b, self.states)[:2]
            made = [h, *last]
        self.states = made[1:]
        return made[0] if self.w_hr is None else self._projected(made[0])

    def _projected(self, u: Tensor) -> Tensor:
        with torch.no_grad():
            return linear(u.view(len(self.wx), -1), self.w_hr)  # type: ignore[arg-type]

    def state(self) -> list[Tensor]:
        """(B, H) each."""
        parts = [s.reshape(len(s), math.prod(s.shape[1:])).clone() for s in self.states]
        if self.w_hr is not None:
            parts[0] = self._projected(parts[0]) if self.first_h is None else self.first_h
        return parts
